"""The forms of tags in Orthanc's REST API, and the names of metadata."""

import pytest

from dicomweb.orthanc_kinds import METADATA, Kinds, parse_kinds
from dicomweb.orthanc_tags import formatted, main_tags, name_of, parse

TEXT = """{"00080008":{"vr":"CS","Value":["ORIGINAL",null,"AXIAL"]},"00080050":{"vr":"SH"},
"00090010":{"vr":"LO","Value":["GEMS_IDEN_01"]},"00091002":{"vr":"SH","Value":["CT01"]},"000910FF":{"vr":"UN","InlineBinary":"AAA="},
"00100010":{"vr":"PN","Value":[{"Alphabetic":"Doe^Jane","Phonetic":"D"}]},"00280009":{"vr":"AT","Value":["00181063","00181065"]},
"00280030":{"vr":"DS","Value":[0.50,1.000000]},"00189305":{"vr":"FD","Value":[0.1]},"00204000":{"vr":"LT","Value":["%s"]},
"00400275":{"vr":"SQ","Value":[{"00400007":{"vr":"LO","Value":["Knee"]}},{}]},"7FE00010":{"vr":"OW","BulkDataURI":"x"}}"""


def test_three_forms() -> None:
    elements = parse(TEXT % "short")
    short = formatted(elements, "Short")
    assert short == {
        "0008,0008": "ORIGINAL\\\\AXIAL",
        "0008,0050": "",
        "0009,0010": "GEMS_IDEN_01",
        "0009,1002": "CT01",
        "0009,10ff": None,
        "0010,0010": "Doe^Jane==D",
        "0028,0009": "0018,1063\\0018,1065",
        "0028,0030": "0.50\\1.000000",  # the digits that were stored
        "0018,9305": "0.10000000000000001",
        "0020,4000": "short",
        "0040,0275": [{"0040,0007": "Knee"}, {}],
        "7fe0,0010": None,
    }
    full = formatted(elements, "Full")
    assert full["0010,0010"] == {"Name": "PatientName", "Type": "String", "Value": "Doe^Jane==D"}
    assert full["0009,1002"]["PrivateCreator"] == "GEMS_IDEN_01"
    assert full["0040,0275"]["Type"] == "Sequence"
    assert full["7fe0,0010"]["Type"] == "Null"
    assert formatted(elements, "Human")["RequestAttributesSequence"] == [
        {"ScheduledProcedureStepDescription": "Knee"},
        {},
    ]


def test_long_texts() -> None:
    elements = parse(TEXT % ("x" * 257))
    assert formatted(elements, "Full")["0020,4000"] == {"Name": "ImageComments", "Type": "TooLong", "Value": None}
    assert formatted(elements, "Human", keep=("00204000",))["ImageComments"] == "x" * 257
    assert main_tags(elements, ("00204000", "00080050", "00100020"), "Human") == {"AccessionNumber": ""}
    assert main_tags(elements, ("00204000", "00080050"), "Full").keys() == {"0008,0050"}


def test_names() -> None:
    assert name_of("00091001", "GEMS_IDEN_01") == "FullFidelity"
    assert name_of("00090010") == "PrivateCreator"
    assert name_of("00091001", "NOBODY") == name_of("00091001") == "Unknown Tag & Data"


def test_kinds() -> None:
    kinds = Kinds(METADATA, parse_kinds("ward=1024, room=1025"))
    assert [kinds.number(name) for name in ("ward", "LastUpdate", "1030", "70000", "0", "x", "-5")] == [
        1024, 7, 1030, None, None, None, None,
    ]  # fmt: skip
    assert [kinds.name(number) for number in (1025, 7, 2000)] == ["room", "LastUpdate", "2000"]


@pytest.mark.parametrize(
    "text", ["ward", "ward=5", "ward=x", "a=1024,b=1024", "a=1024,a=1025", "LastUpdate=1024", "7=1024"]
)
def test_bad_kinds(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|name|twice"):
        parse_kinds(text)
