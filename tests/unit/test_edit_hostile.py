"""Edits of files that are broken or hostile: refused with a reason, in bounded time and memory."""

import warnings
from contextlib import suppress
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dicomweb.edit import Edit, Rules
from dicomweb.edit.rules import Private
from dicomweb.errors import BadDicom, BadRequest, TooLarge
from dicomweb.part10 import ScanLimits
from tests.files import dataset
from tests.unit.edited import assembled, edited, read, rules, written
from tests.unit.encoded import (
    DEFLATED,
    JPEG,
    UNDEFINED,
    dicom_file,
    element,
    fragments,
    item,
    mark,
    sequence,
    text,
)

FOLDER = Path(pydicom.data.get_testdata_file("CT_small.dcm")).parent
POLICY = {"private": Private.REMOVE}


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "JPEG2000.dcm", "test-SR.dcm", "MR_small_implicit.dcm", "image_dfl.dcm"]
)
def test_a_cut_file_is_refused_or_ends_at_an_element(name):
    data = (FOLDER / name).read_bytes()
    asked = rules({"PatientName": "x"}, **POLICY)
    for at in range(140, len(data) - 1, max(1, len(data) // 150)):
        try:
            out = edited(data[:at], asked)
        except (BadDicom, TooLarge):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(out)


@settings(max_examples=200, deadline=None, phases=(Phase.explicit, Phase.generate, Phase.shrink))
@given(
    st.integers(140, 5000),
    st.integers(0, 255),
    st.sampled_from(["test-SR.dcm", "MR_small_implicit.dcm", "CT_small.dcm"]),
)
def test_one_wrong_byte_is_no_other_error(at, value, name):
    data = bytearray((FOLDER / name).read_bytes())
    if at >= len(data):
        return
    data[at] = value
    asked = rules({"PatientName": "x", "ContentSequence[*].ContentSequence[0].TextValue": "y"}, **POLICY)
    with suppress(BadDicom, BadRequest, TooLarge):
        edited(bytes(data), asked)


def nested(depth, *, undefined):
    inner = b""
    for _ in range(depth):
        inner = sequence(0x0040A730, [inner], undefined=undefined, undefined_items=undefined)
    return inner


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("asked", [Rules({}), Rules({}, private=Private.REMOVE)], ids=["skipped", "walked"])
def test_nesting_is_limited(undefined, asked):
    for depth, accepted in ((32, True), (33, False), (300, False)):
        data = dicom_file({0x0040A730: nested(depth, undefined=undefined)})
        if accepted or (not undefined and asked.private is Private.KEEP):  # what is passed over by its length
            assert edited(data, asked)
        else:
            with pytest.raises(BadDicom, match="nested more than 32 deep"):
                edited(data, asked)


def broken():
    name = text(0x00100010, "PN", "x")
    yield "order", name + text(0x00080050, "SH", "x")
    yield "past the end", element(0x00104000, "LT", b"x", length=500)
    yield "no vr", b"\x10\0\x10\0\0\0\0\0"
    yield "item outside", mark(0xE000)
    yield "no delimiter", element(0x00081140, "SQ", b"", length=UNDEFINED) + item(b"")
    yield "item past sequence", element(0x00081140, "SQ", mark(0xE000, 200))
    yield "sequence past item", element(0x00081140, "SQ", item(element(0x00081199, "SQ", b"", length=90)))
    yield "text of undefined length", element(0x00104000, "LT", b"\0" * 8)[:6] + b"\xff\xff"
    yield "fragments without end", element(0x7FE00010, "OB", b"", length=UNDEFINED) + mark(0xE000, 4) + b"abcd"
    yield "fragment too long", element(0x7FE00010, "OB", b"", length=UNDEFINED) + mark(0xE000, 1 << 31)
    yield "half a header", name + b"\x10\0\x20"


@pytest.mark.parametrize("tail", [pytest.param(tail, id=name) for name, tail in broken()])
def test_broken_structure_is_refused(tail):
    data = dicom_file({0x00100010: tail})
    with pytest.raises(BadDicom):
        edited(data, rules({"PatientID": "x"}, remove=["ReferencedImageSequence[0].ReferencedSOPSequence"], **POLICY))


def test_limits():
    data = dicom_file({0x7FE00010: fragments([b"abcd"] * 20)}, syntax=JPEG)
    with pytest.raises(TooLarge, match="fragments"):
        assembled(data, Edit(data, Rules({}), ScanLimits(max_frames=10)))
    data = dicom_file({0x00081140: sequence(0x00081140, [b""] * 50, undefined=True)})
    with pytest.raises(TooLarge, match="elements"):
        assembled(data, Edit(data, Rules({}), ScanLimits(max_fg_elements=20)))
    squeezed = written(dataset(PixelData=bytes(32)), DEFLATED)
    with pytest.raises(TooLarge, match="inflated"):
        Edit(squeezed, Rules({}), ScanLimits(max_inflated=100))
