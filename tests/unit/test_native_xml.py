"""The Native DICOM Model, beside what DCMTK writes of the same files."""

import subprocess
from pathlib import Path
from shutil import which
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from pydicom.data import get_charset_files, get_testdata_file

from dicomweb.native_xml import native_xml
from dicomweb.orthanc_tags import parse
from dicomweb.part10 import scan

NAMESPACE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
FILES = ("CT_small.dcm", "rtplan.dcm", "test-SR.dcm", "JPEG2000.dcm", "MR_small.dcm", "chrFren.dcm", "emri_small.dcm")
# Binary values, which DCMTK writes in their own way; group lengths; Available Transfer Syntax UID, which no file has.
_BINARY = frozenset(("OB", "OW", "OF", "OD", "UN"))


def flat(parent: ET.Element, path: str = "") -> dict[str, Any]:
    """Every attribute by its path: VR, keyword, and what is in its values."""
    found: dict[str, Any] = {}
    for attribute in _children(parent):
        at = f"{path}/{attribute.get('tag')}"
        values = [each for each in attribute if each.tag.removeprefix(NAMESPACE) not in {"Item", "BulkData"}]
        found[at] = (
            attribute.get("vr"),
            attribute.get("keyword"),
            [] if attribute.get("vr") in _BINARY else [_text(each) for each in values],
        )
        for item in attribute:
            if item.tag.removeprefix(NAMESPACE) == "Item":
                found |= flat(item, f"{at}/{item.get('number')}")
    return found


def _children(parent: ET.Element) -> list[ET.Element]:
    skipped = ("0000", "FFFC")
    return [
        each for each in parent if not each.get("tag", "").endswith("0000") and each.get("tag", "")[:4] not in skipped
    ]


def _text(value: ET.Element) -> object:
    """Text without padding, or of a person name its parts; a number is one whatever its digits."""
    if len(value):
        return [(part.tag.removeprefix(NAMESPACE), _text(part)) for part in value]
    text = (value.text or "").strip(" \0")
    try:
        return float(f"{float(text):.6g}")
    except ValueError:
        return text


@pytest.mark.parametrize("name", FILES)
def test_as_dcmtk_writes_it(name: str) -> None:
    assert which("dcm2xml"), "install Debian's package dcmtk"
    path = get_charset_files(name)[0] if name.startswith("chr") else str(get_testdata_file(name))
    theirs = subprocess.run(["dcm2xml", "-nat", "+Xn", "+U8", path], capture_output=True, check=True).stdout
    elements = parse(scan(Path(path).read_bytes()).metadata.inflate())
    del elements["00083002"]
    elements.pop("FFFCFFFC", None)
    ours, other = flat(ET.fromstring(native_xml(elements))), flat(ET.fromstring(theirs))
    for each in (ours, other):
        each.pop("/00080005", None)  # each writes UTF-8, and says so in its own way
    assert ours.keys() == other.keys()
    for at, (_, keyword, _) in other.items():
        if keyword is None:  # of retired attributes DCMTK does not give one
            ours[at] = (ours[at][0], None, ours[at][2])
    assert {at: (ours[at], other[at]) for at in ours if ours[at] != other[at]} == {}


def test_what_xml_does_not_have() -> None:
    elements = {
        "00090010": {"vr": "LO", "Value": ['A "creator" & co']},
        "00091001": {"vr": "LT", "Value": ["a\x0b<b>\udc80"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane^^Dr", "Ideographic": "山田^太郎"}, None]},
        "00400275": {"vr": "SQ", "Value": [{}, {"0020000D": {"vr": "UI", "Value": ["1.2", None, "1.3"]}}]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "instances/1.2/bulkdata/7FE00010?v=1&x=2"},
        "00420011": {"vr": "OB", "InlineBinary": "AAE="},
    }
    root = ET.fromstring(native_xml(elements))
    found = {each.get("tag"): each for each in root}
    assert found.keys() == elements.keys() - {"00091001"} | {"00090001"}
    assert found["00090001"].get("privateCreator") == 'A "creator" & co'
    assert found["00090001"][0].text == "a\ufffd<b>\ufffd"
    names = [(each.tag.removeprefix(NAMESPACE), each.text) for each in found["00100010"].iter() if each.text]
    assert names == [
        ("FamilyName", "Doe"), ("GivenName", "Jane"), ("NamePrefix", "Dr"),
        ("FamilyName", "山田"), ("GivenName", "太郎"),
    ]  # fmt: skip
    assert [(each.get("number"), each.text) for each in found["00400275"][1][0]] == [("1", "1.2"), ("3", "1.3")]
    assert found["7FE00010"][0].get("uri") == "instances/1.2/bulkdata/7FE00010?v=1&x=2"
    assert found["00420011"][0].text == "AAE="
