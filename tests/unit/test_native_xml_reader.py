"""The Native DICOM Model as it is read: what is written comes back, and what is none is refused."""

import time
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_charset_files, get_testdata_file

from dicomweb.errors import BadRequest
from dicomweb.native_xml import native_xml
from dicomweb.native_xml_reader import MAX_DEPTH, read_native_xml

FILES = ("CT_small.dcm", "rtplan.dcm", "test-SR.dcm", "eCT_Supplemental.dcm", "nested_priv_SQ.dcm")
HEAD = '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'


def plain(elements: dict[str, Any]) -> dict[str, Any]:
    """DICOM JSON without the difference between what is absent and empty, and between a number and its text."""
    found = {}
    for tag, element in elements.items():
        values = [_plain(value, element["vr"]) for value in element.get("Value", ())]
        rest = {name: value for name, value in element.items() if name != "Value"}
        found[tag] = rest | ({"Value": values} if any(value is not None for value in values) else {})
    return found


def _plain(value: Any, vr: str) -> Any:
    if vr == "SQ":
        return plain(value)
    if vr == "PN":
        return {name: text.rstrip("^") for name, text in (value or {}).items() if text.rstrip("^")} or None
    try:
        return float(value)
    except (TypeError, ValueError):
        return value or None


@pytest.mark.parametrize("name", [*FILES, "chrFren.dcm", "chrH31.dcm", "chrX1.dcm"])
def test_what_is_written_is_read(name: str) -> None:
    path = get_charset_files(name)[0] if name.startswith("chr") else str(get_testdata_file(name))
    ds = dcmread(Path(path), force=True)
    ds.pop("PixelData", None)
    elements = ds.to_json_dict()
    assert plain(read_native_xml(native_xml(elements))) == plain(elements)


def test_private_blocks_and_gaps() -> None:
    body = (
        HEAD
        + '<DicomAttribute tag="00090001" vr="LO" privateCreator="ACME"><Value number="1">a</Value></DicomAttribute>'
        '<DicomAttribute tag="00090010" vr="LO"><Value number="1">OTHER</Value></DicomAttribute>'
        '<DicomAttribute tag="00080008" vr="CS"><Value number="1">A</Value><Value number="3">C</Value></DicomAttribute>'
        '<DicomAttribute tag="00280010" vr="US"><Value number="1">7</Value></DicomAttribute>'
        '<DicomAttribute tag="00400275" vr="SQ"/></NativeDicomModel>'
    )
    assert read_native_xml(body.encode()) == {
        "00090011": {"vr": "LO", "Value": ["ACME"]},
        "00091101": {"vr": "LO", "Value": ["a"]},
        "00090010": {"vr": "LO", "Value": ["OTHER"]},
        "00080008": {"vr": "CS", "Value": ["A", None, "C"]},
        "00280010": {"vr": "US", "Value": [7]},
        "00400275": {"vr": "SQ"},
    }


def attribute(inner: str, tag: str = "00080008", vr: str = "CS") -> str:
    return f'{HEAD}<DicomAttribute tag="{tag}" vr="{vr}">{inner}</DicomAttribute></NativeDicomModel>'


NESTED = '<DicomAttribute tag="00400275" vr="SQ"><Item number="1">'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no xml",
        "<a/>",
        HEAD,
        HEAD + "<x/></NativeDicomModel>",
        attribute("", tag="x"),
        attribute("", vr=""),
        attribute("<Value>A</Value>"),
        attribute('<Value number="0">A</Value>'),
        attribute('<Value number="999999">A</Value>'),
        attribute('<Item number="1"/>'),
        attribute('<PersonName number="1"/>'),
        attribute('<Value number="1">A</Value>', vr="SQ"),
        attribute('<Value number="1">A</Value>', vr="US"),
        '<!DOCTYPE a [<!ENTITY b "c">]>' + attribute('<Value number="1">&b;</Value>'),
        '<!DOCTYPE a SYSTEM "file:///etc/passwd">' + attribute(""),
        attribute('<Value number="1">&b;</Value>'),
        '<?xml version="1.0" encoding="none"?>' + attribute(""),
        HEAD + NESTED * (MAX_DEPTH + 2) + "</Item></DicomAttribute>" * (MAX_DEPTH + 2) + "</NativeDicomModel>",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        read_native_xml(text.encode())


def test_nesting_without_end_takes_no_time() -> None:
    began = time.monotonic()
    with pytest.raises(BadRequest):
        read_native_xml((HEAD + NESTED * 50_000).encode())
    with pytest.raises(BadRequest):
        read_native_xml((HEAD + NESTED * 50_000 + "</Item></DicomAttribute>" * 50_000 + "</NativeDicomModel>").encode())
    assert time.monotonic() - began < 1
