"""Answers of QIDO-RS as Orthanc's DICOMweb client gives them; the expected ones are those of the plug-in itself."""

from typing import Any

import pytest

from dicomweb.errors import BadRequest
from dicomweb.orthanc_answers import simplified


def test_values_are_text() -> None:
    dataset: dict[str, Any] = {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 100"]},
        "00080050": {"vr": "SH"},
        "00080061": {"vr": "CS", "Value": ["CT", "SR"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        "00100020": {"vr": "LO", "Value": [None, "x"]},
        "00201208": {"vr": "IS", "Value": [3]},
        "00400275": {"vr": "SQ", "Value": [{"00400007": {"vr": "LO", "Value": ["x"]}}]},
        "00091001": {"vr": "OB", "BulkDataURI": "x"},
        "0020000d": {"vr": "UI", "Value": ["1.2"]},
    }
    [made] = simplified([dataset])
    assert made["00080005"] == {
        "Element": 5, "Group": 8, "Name": "SpecificCharacterSet", "Value": "ISO_IR 100", "vr": "CS",
    }  # fmt: skip
    assert made["00080050"] == {"Element": 80, "Group": 8, "Name": "AccessionNumber", "vr": "SH"}
    values = {tag: element.get("Value") for tag, element in made.items()}
    assert values == {
        "00080005": "ISO_IR 100", "00080050": None, "00080061": "CT\\SR", "00100010": "Doe^Jane", "00100020": "\\x",
        "00201208": "3", "00400275": None, "00091001": None, "0020000D": "1.2",
    }  # fmt: skip
    assert made["00091001"]["Name"] == "Unknown"
    assert simplified([]) == []


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "answer",
    [
        {}, None, "x", [1], [{"x": {}}], [{"00100010": 1}], [{"0010": {}}],
        *([{tag: {"vr": "LO"}}] for tag in ("-0000010", "+0100010", "0x100010", "0010_010", " 0100010", "0010001٠")),
        [{"00100020": {"vr": "LO", "Value": [["x"]]}}], [{"00100020": {"vr": "LO", "Value": [nested(2000)]}}],
        [{"00100020": {"vr": nested(2000)}}], [{"00100020": {"vr": 1}}],
    ],
)  # fmt: skip
def test_what_is_no_answer(answer: object) -> None:
    with pytest.raises(BadRequest):
        simplified(answer)


def test_names_of_other_kinds() -> None:
    [made] = simplified([{"00100010": {"vr": "PN", "Value": [{"Ideographic": "王"}, {}, {"Alphabetic": 7}]}}])
    assert made["00100010"]["Value"] == "王\\\\"
