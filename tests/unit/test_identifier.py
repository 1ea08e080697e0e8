"""Identifiers read and written, against pydicom."""

import io
import random

import orjson
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian
from pynetdicom.dsutils import decode

from dicomweb.errors import BadQuery
from dicomweb.identifier import IdentifierWriter, keys_of, narrowed, read_identifier
from dicomweb.json_model import dataset_json
from dicomweb.media import EXPLICIT_LE, IMPLICIT_LE
from dicomweb.repertoire import UTF8, repertoire

SYNTAXES = [EXPLICIT_LE, IMPLICIT_LE, str(ExplicitVRBigEndian)]


def example(character_set: str | list[str] = "ISO_IR 192") -> Dataset:
    code, item, ds = Dataset(), Dataset(), Dataset()
    code.CodeValue, code.CodeMeaning = "T-1", "Ärmel"
    item.ScheduledProtocolCodeSequence, item.ScheduledProcedureStepID = Sequence([code]), "STEP"
    ds.SpecificCharacterSet = character_set
    ds.StudyDate, ds.StudyTime = "20240131", "101530.25"
    ds.ModalitiesInStudy = ["CT", "SR"]
    ds.PatientName = "Müller^Änne"
    ds.PatientID = "P-1"
    ds.PatientWeight = 71.123456789
    ds.StudyInstanceUID = "1.2.3.4.5"
    ds.NumberOfStudyRelatedInstances = 12
    ds.Rows = 512
    ds.ImagePositionPatient = [1.5, -2, 1e-7]
    ds.FrameIncrementPointer = [0x00181063, 0x00181065]
    ds.RealWorldValueSlope = 0.25
    ds.StudyDescription = ""
    ds.RequestAttributesSequence = Sequence([item])
    return ds


def encoded(ds: Dataset, syntax: str, *, undefined: bool = False) -> bytes:
    if undefined:
        for element in ds.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = True
    out = io.BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(out, ds, implicit_vr=syntax == IMPLICIT_LE, little_endian=syntax != ExplicitVRBigEndian)
    return out.getvalue()


def decoded(data: bytes, syntax: str) -> Dataset:
    return decode(io.BytesIO(data), syntax == IMPLICIT_LE, syntax != ExplicitVRBigEndian)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_values_are_read_as_text(syntax: str, undefined: bool) -> None:
    ds = example()
    found = read_identifier(encoded(ds, syntax, undefined=undefined), syntax)
    assert found.character_set == b"ISO_IR 192"
    assert found.get("00100010") == "Müller^Änne"
    assert found.get("00080061") == "CT\\SR"
    assert found.get("00280010") == "512"
    assert found.get("00280009") == "00181063\\00181065"
    assert found.get("00081030") == ""
    keys = {key.path: key.texts for key in keys_of(found.elements)}
    assert keys["00400275", "00400008", "00080104"] == ("Ärmel",)
    assert keys["00400275", "00400009"] == ("STEP",)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_written_is_what_pydicom_reads(syntax: str) -> None:
    ds = example()
    members = orjson.loads(dataset_json(ds))
    written = decoded(IdentifierWriter(syntax).write(members, [UTF8]), syntax)
    expected = example()
    expected.PatientWeight = "71.123456789"
    expected.ImagePositionPatient = ["1.5", "-2", "1e-07"]
    assert written == expected


def test_the_character_set_of_the_answer_is_the_first_that_holds_it() -> None:
    members = orjson.loads(dataset_json(example()))
    latin, greek = repertoire(b"ISO_IR 100"), repertoire(b"ISO_IR 126")
    assert latin is not None
    assert greek is not None
    writer = IdentifierWriter(EXPLICIT_LE)
    assert decoded(writer.write(members, [latin, UTF8]), EXPLICIT_LE).PatientName == "Müller^Änne"
    assert decoded(writer.write(members, [latin, UTF8]), EXPLICIT_LE).SpecificCharacterSet == "ISO_IR 100"
    assert decoded(writer.write(members, [greek, UTF8]), EXPLICIT_LE).SpecificCharacterSet == "ISO_IR 192"


def test_a_value_that_does_not_fit_its_vr_is_left_out() -> None:
    members = {
        "00280010": {"vr": "US", "Value": [70_000]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00200010": {"vr": "SH", "Value": ["x" * 70_000]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "http://x"},
    }
    ds = decoded(IdentifierWriter(EXPLICIT_LE).write(members, [UTF8]), EXPLICIT_LE)
    assert (ds.Rows, ds.Modality, ds.StudyID or "", ds.PixelData or b"") == (None, "CT", "", b"")


def test_items_are_narrowed_to_what_was_asked() -> None:
    members = orjson.loads(dataset_json(example()))
    asked, code = Dataset(), Dataset()
    code.CodeMeaning, code.CodingSchemeDesignator = "", ""
    asked.ScheduledProtocolCodeSequence, asked.RequestedProcedureID = Sequence([code]), ""
    question = Dataset()
    question.RequestAttributesSequence = Sequence([asked])
    key = read_identifier(encoded(question, EXPLICIT_LE), EXPLICIT_LE).elements[0]
    item = narrowed(members["00400275"], key.items[0])["Value"][0]
    assert item["00401001"] == {"vr": "SH"}
    assert item["00400008"]["Value"][0] == {
        "00080104": {"vr": "LO", "Value": ["Ärmel"]},
        "00080102": {"vr": "SH"},
    }
    assert set(item) == {"00401001", "00400008"}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_damaged_is_refused_or_read(syntax: str) -> None:
    whole = encoded(example(), syntax, undefined=True)
    picks = random.Random(7)
    for _ in range(3000):
        data = bytearray(whole[: picks.randrange(len(whole) + 1)] if picks.random() < 0.5 else whole)
        for _ in range(picks.randrange(4)):
            if data:
                data[picks.randrange(len(data))] = picks.randrange(256)
        try:
            found = read_identifier(bytes(data), syntax)
            list(keys_of(found.elements))
        except BadQuery:
            pass


def test_depth_and_number_of_elements_have_bounds() -> None:
    deep = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    with pytest.raises(BadQuery, match="levels deep"):
        read_identifier(deep, EXPLICIT_LE)
    with pytest.raises(BadQuery, match="too many elements"):
        read_identifier(b"\x08\x00\x50\x00SH\x00\x00" * 60_000, EXPLICIT_LE)


def test_two_items_are_no_key() -> None:
    ds = Dataset()
    ds.RequestAttributesSequence = Sequence([example(), example()])
    with pytest.raises(BadQuery, match="more than one item"):
        list(keys_of(read_identifier(encoded(ds, EXPLICIT_LE), EXPLICIT_LE).elements))
