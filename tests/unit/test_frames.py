"""Frame tables against pydicom's `encaps`, and what becomes of tables that lie."""

import io
import json
import struct
import warnings
from itertools import pairwise
from pathlib import Path

import data_store
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import get_expected_length

from dicomweb.errors import ArchiveError, CorruptObject, TooLarge
from dicomweb.frames import RECORD_SIZE, FrameTable, bit_span, is_fragmented, locate, native_frames, realign
from dicomweb.part10 import Scan, ScanLimits, scan
from tests.unit.encoded import JPEG, dicom_file, element, fragments, image_pixels

FILES = sorted(
    path
    for root in (Path(pydicom.data.__file__).parent, Path(data_store.__file__).parent)
    for path in root.rglob("*.dcm")
)


def frame_bytes(data: bytes, found: Scan) -> list[bytes]:
    """Every frame, as a reader of the table gets it."""
    assert found.frames is not None
    frames = []
    for index in range(found.frames.count):
        record = found.frames.to_bytes()[RECORD_SIZE * index : RECORD_SIZE * (index + 1)]
        extents = locate(record, found.frames.overflow)
        assert all(length > 0 and offset + length <= len(data) for offset, length in extents)
        piece = b"".join(data[offset : offset + length] for offset, length in extents)
        span = bit_span(record)
        frames.append(piece if span is None else realign(piece, *span))
    return frames


def pydicom_frames(data: bytes) -> list[bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(io.BytesIO(data))
        if dataset.get("NumberOfFrames") == "1A":  # badVR.dcm: no number, taken for one frame
            dataset.NumberOfFrames = 1
        count = int(dataset.get("NumberOfFrames") or 1)
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            extended = None
            if "ExtendedOffsetTable" in dataset:
                extended = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
            return list(generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=extended))
        pixels = dataset.get("PixelData") or dataset.get("FloatPixelData") or dataset.get("DoubleFloatPixelData")
        if dataset.get("BitsAllocated") == 1:
            bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel
            whole = int.from_bytes(pixels, "little")
            return [
                (whole >> (bits * index) & ((1 << bits) - 1)).to_bytes((bits + 7) // 8, "little")
                for index in range(count)
            ]
        size = get_expected_length(dataset, unit="bytes") // count
        return [pixels[size * index : size * (index + 1)] for index in range(count)]


def test_every_frame_of_every_file_equals_pydicom():
    compared = encapsulated = 0
    for path in FILES:
        data = path.read_bytes()
        try:
            found = scan(data)
        except ArchiveError:
            continue
        if found.frames is None:
            continue
        if found.deflated:
            assert found.pixel is not None
            continue
        expected = pydicom_frames(data)
        assert frame_bytes(data, found) == expected, path.name
        compared += len(expected)
        encapsulated += found.pixel.encapsulated
    assert compared > 300
    assert encapsulated > 50


def test_offsets_of_a_deflated_file_are_those_of_its_inflated_data_set():
    data = Path(pydicom.data.get_testdata_file("image_dfl.dcm")).read_bytes()
    found = scan(data)
    assert found.deflated
    dataset = dcmread(io.BytesIO(data))
    assert found.frames.locate(0) == ((found.pixel.offset, len(dataset.PixelData)),)
    assert found.pixel.offset + found.pixel.length == 262682


def jpeg(index: int, size: int = 20) -> bytes:
    return b"\xff\xd8" + bytes([index]) * (size - 4) + b"\xff\xd9"


def encapsulated(
    frames: list[bytes], count: int, table: bytes = b"", extended: tuple[bytes, bytes] | None = None
) -> bytes:
    parts = image_pixels(frames=count) | {0x7FE00010: fragments(frames, table)}
    if extended:
        parts[0x7FE00001] = element(0x7FE00001, "OV", extended[0])
        parts[0x7FE00002] = element(0x7FE00002, "OV", extended[1])
    return dicom_file(parts, syntax=JPEG)


def basic(*offsets: int) -> bytes:
    return struct.pack(f"<{len(offsets)}I", *offsets)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 15), min_size=1, max_size=4), min_size=1, max_size=8), st.booleans(), st.booleans()
)
def test_generated_fragments_equal_pydicom(sizes, with_table, marked):
    pieces, starts, at = [], [], 0
    for number, frame in enumerate(sizes):
        starts.append(at)
        for index, half in enumerate(frame):
            last = index == len(frame) - 1
            piece = bytes([number]) * (2 * half) + (b"\xff\xd9" if last and marked else b"\0\0")
            pieces.append(piece)
            at += 8 + len(piece)
    data = encapsulated(pieces, len(sizes), basic(*starts) if with_table else b"")
    found = scan(data)
    divisible = with_table or marked or len(sizes) == 1 or len(pieces) == len(sizes)
    if divisible:
        assert frame_bytes(data, found) == pydicom_frames(data)
        assert found.warnings == ()
    else:
        assert found.frames.count == 0
        assert "cannot be divided" in found.warnings[0]


FOUR = [jpeg(index) for index in range(4)]


@pytest.mark.parametrize(
    "table",
    [
        basic(0, 28, 56),
        basic(0, 28, 56, 84, 112),
        basic(0, 28, 56, 1000),
        basic(0, 28, 28, 84),
        basic(0, 56, 28, 84),
        basic(8, 36, 64, 92),
        basic(0, 29, 57, 85),
        basic(0, 0, 0, 0),
        basic(0, 0xFFFFFFFF, 0, 0),
        b"\0" * 15 + b"\1",
        basic(0)[:2] + basic(0),
    ],
)
def test_a_basic_offset_table_that_lies_is_dropped(table):
    data = encapsulated(FOUR, 4, table)
    found = scan(data)
    assert frame_bytes(data, found) == FOUR
    assert found.warnings == ("the Basic Offset Table does not fit the fragments",)


def long(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def test_an_extended_offset_table_is_used_and_may_trim_the_padding():
    data = encapsulated(FOUR, 4, b"", (long(0, 28, 56, 84), long(20, 20, 19, 20)))
    found = scan(data)
    assert frame_bytes(data, found) == [FOUR[0], FOUR[1], FOUR[2][:19], FOUR[3]] == pydicom_frames(data)
    assert found.warnings == ()


def test_lengths_that_count_the_item_header_are_put_right():
    data = encapsulated(FOUR, 4, b"", (long(0, 28, 56, 84), long(28, 28, 28, 28)))
    found = scan(data)
    assert frame_bytes(data, found) == FOUR
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("offsets", "lengths"),
    [
        ((0, 28, 56), (20, 20, 20)),
        ((0, 28, 56, 84), (20, 20, 20)),
        ((0, 28, 56, 2**63), (20, 20, 20, 20)),
        ((0, 28, 56, 84), (20, 20, 20, 200)),
        ((0, 28, 28, 84), (20, 20, 20, 20)),
        ((28, 0, 56, 84), (20, 20, 20, 20)),
        ((4, 32, 60, 88), (20, 20, 20, 20)),
        ((0, 28, 56, 84), (0, 0, 0, 0)),
    ],
)
def test_an_extended_offset_table_that_lies_is_dropped(offsets, lengths):
    data = encapsulated(FOUR, 4, b"", (long(*offsets), long(*lengths)))
    found = scan(data)
    assert frame_bytes(data, found) == FOUR
    assert found.warnings == ("the Extended Offset Table does not fit the fragments",)


def test_both_tables_may_lie():
    data = encapsulated(FOUR, 4, basic(0, 1, 2, 3), (long(9, 9, 9, 9), long(1, 1, 1, 1)))
    found = scan(data)
    assert frame_bytes(data, found) == FOUR
    assert len(found.warnings) == 2


def test_fragments_that_cannot_be_told_apart_are_no_frames():
    for frames, count in (([b"ab"] * 5, 3), ([b"ab"] * 2, 3), ([jpeg(1), jpeg(2), b"tail"], 2), ([], 1), ([], 5)):
        found = scan(encapsulated(frames, count))
        assert found.frames.count == 0
        assert len(found.warnings) == 1


def test_a_video_is_one_stream():
    parts = image_pixels(frames=500) | {0x7FE00010: fragments([b"mpeg", b"more"])}
    data = dicom_file(parts, syntax="1.2.840.10008.1.2.4.102")
    found = scan(data)
    assert frame_bytes(data, found) == [b"mpegmore"]
    assert found.pixel.number_of_frames == 500


def native(pixels: bytes, **attributes: int) -> bytes:
    return dicom_file(image_pixels(**attributes) | {0x7FE00010: element(0x7FE00010, "OB", pixels)})


def test_native_frames_and_what_is_missing_of_them():
    pixels = bytes(range(24))
    data = native(pixels, rows=2, columns=3, frames=4)
    found = scan(data)
    assert frame_bytes(data, found) == [pixels[at : at + 6] for at in range(0, 24, 6)]
    assert found.warnings == ()
    short = native(pixels[:20], rows=2, columns=3, frames=4)
    assert scan(short).frames.count == 3
    assert scan(short).warnings == ("pixel data holds 3 of 4 frames",)
    assert scan(native(pixels, rows=2, columns=3, frames=2)).warnings == ("pixel data is longer than its frames",)
    assert scan(native(b"", rows=2, columns=3)).frames.count == 0
    assert scan(native(pixels, rows=0, columns=3)).warnings == ("the size of a frame is not known",)


def test_chroma_subsampled_native_frames_are_two_thirds():
    parts = image_pixels(rows=2, columns=2, frames=2, samples=3)
    parts[0x00280004] = element(0x00280004, "CS", b"YBR_FULL_422")
    pixels = bytes(range(16))
    data = dicom_file(parts | {0x7FE00010: element(0x7FE00010, "OB", pixels)})
    assert frame_bytes(data, scan(data)) == [pixels[:8], pixels[8:]]


def test_float_pixel_data_has_frames():
    parts = image_pixels(rows=1, columns=2, frames=2)
    del parts[0x00280100]
    for tag, vr, size in ((0x7FE00008, "OF", 8), (0x7FE00009, "OD", 16)):
        data = dicom_file(parts | {tag: element(tag, vr, bytes(range(2 * size)))})
        found = scan(data)
        assert [len(frame) for frame in frame_bytes(data, found)] == [size, size]
        assert (found.pixel.tag, found.pixel.vr) == (f"{tag:08X}", vr)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.binary(min_size=80, max_size=80))
def test_packed_bits_are_realigned(bits, count, pixels):
    table, _ = native_frames(0, len(pixels), bits, count, 1000)
    whole = int.from_bytes(pixels, "little")
    assert table.count == min(count, 640 // bits)
    for index in range(table.count):
        ((offset, length),) = table.locate(index)
        piece = pixels[offset : offset + length]
        span = bit_span(table.record(index))
        found = piece if span is None else realign(piece, *span)
        expected = whole >> (bits * index) & ((1 << bits) - 1)
        if span is None and bits % 8:
            assert table.count == 1  # one frame starts on a byte; what is behind it is padding
            found = realign(piece, 0, bits)
        assert int.from_bytes(found, "little") == expected


def test_a_frame_beyond_four_gigabytes_has_several_extents():
    table, warnings = native_frames(1000, 3 * 2**33, 8 * 2**33, 3, 10)
    assert warnings == []
    extents = table.locate(1)
    assert sum(length for _, length in extents) == 2**33
    assert extents[0][0] == 1000 + 2**33
    assert all(first[0] + first[1] == second[0] for first, second in pairwise(extents))


def test_frames_are_limited():
    with pytest.raises(TooLarge):
        scan(native(bytes(1000), rows=1, columns=1, frames=1000), ScanLimits(max_frames=999))
    with pytest.raises(TooLarge):
        scan(encapsulated([b"ab"] * 11, 11), ScanLimits(max_frames=10))
    found = scan(native(bytes(6), rows=1, columns=1, frames=2**31 - 1))
    assert found.frames.count == 6


def test_damaged_tables_are_noticed():
    with pytest.raises(CorruptObject):
        FrameTable.from_bytes(b"123")
    with pytest.raises(CorruptObject):
        locate(b"", b"")
    fragmented = scan(encapsulated([b"ab", b"cd"], 1)).frames
    assert is_fragmented(fragmented.record(0))
    assert not is_fragmented(scan(encapsulated([b"ab"], 1)).frames.record(0))
    assert fragmented.locate(0) == FrameTable.from_bytes(fragmented.to_bytes(), fragmented.overflow).locate(0)
    with pytest.raises(CorruptObject):
        locate(fragmented.record(0), fragmented.overflow[:-1])


def test_fragment_bodies_are_not_read():
    class Watched(bytes):
        read = 0

        def __getitem__(self, key):
            piece = bytes.__getitem__(self, key)
            Watched.read += len(piece) if isinstance(key, slice) else 1
            return piece

    body = b"x" * 1_000_000
    data = Watched(encapsulated([body] * 8, 8))
    found = scan(data)
    assert found.frames.count == 8
    assert Watched.read < 20_000


def test_pixel_attributes_are_described():
    data = native(bytes(12), rows=2, columns=3, frames=2)
    pixel = scan(data).pixel
    described = json.loads(
        json.dumps([pixel.rows, pixel.columns, pixel.samples, pixel.bits_allocated, pixel.photometric])
    )
    assert described == [2, 3, 1, 8, "MONOCHROME2"]
    assert data[pixel.offset : pixel.offset + pixel.length] == bytes(12)
