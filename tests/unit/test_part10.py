"""The scanner: what it yields, what it learns from a series, slides."""

import gc
import io
import json
import random
import struct
import tracemalloc
import zlib

import pytest
from pydicom import dcmread

from dicomweb import functional_groups
from dicomweb.errors import BadDicom, TooLarge
from dicomweb.memo import Piece
from dicomweb.part10 import Memo, ScanLimits, scan
from tests.unit.annex_f import annex_f, plain, pydicom_json
from tests.unit.encoded import (
    BIG_ENDIAN,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    RAW_DATA,
    SERIES,
    SLIDE,
    SOP,
    STUDY,
    dicom_file,
    element,
    file_meta,
    identity,
    image_pixels,
    sequence,
    sparse_slide,
    text,
)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_identity_and_elements(syntax):
    encoding = EXPLICIT if syntax == DEFLATED else syntax
    parts = {
        0x00100020: text(0x00100020, "LO", " PID 1 ", syntax=encoding),
        0x00100010: text(0x00100010, "PN", "A^B", syntax=encoding),
    }
    data = dicom_file(parts, syntax=syntax)
    found = scan(data)
    assert (found.sop_class_uid, found.sop_instance_uid) == (RAW_DATA, SOP)
    assert (found.study_uid, found.series_uid, found.transfer_syntax) == (STUDY, SERIES, syntax)
    assert found.patient_id == " PID 1"
    assert list(found.elements) == ["00080016", "00080018", "00100010", "00100020", "0020000D", "0020000E"]
    assert found.elements["00100010"] == b'"00100010":{"vr":"PN","Value":[{"Alphabetic":"A^B"}]}'
    available = b'"00083002":{"vr":"UI","Value":["%b"]}' % syntax.encode()
    members = [*found.elements.values(), available]
    assert found.metadata.inflate() == b"{" + b",".join(sorted(members)) + b"}"
    assert found.meta_size == len(file_meta(syntax))
    assert (found.frames, found.pixel, found.bulk.to_bytes(), found.warnings) == (None, None, b"", ())
    assert found.deflated == (syntax == DEFLATED)


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        (0x00080016, "SOPClassUID"),
        (0x00080018, "SOPInstanceUID"),
        (0x0020000D, "StudyInstanceUID"),
        (0x0020000E, "SeriesInstanceUID"),
    ],
)
def test_every_identifier_must_be_there_and_valid(tag, name):
    bad = [
        b"",
        text(tag, "UI", ""),
        text(tag, "UI", "../../../../tmp/x"),
        text(tag, "UI", ".."),
        text(tag, "UI", b"1.2\0x"),
    ]
    bad += [
        text(tag, "UI", "1" * 65),
        text(tag, "UI", "A" * 64),
        text(tag, "UI", "1..2"),
        text(tag, "UI", "1.2\\1.3.x"),
    ]
    for encoded in bad[:-1]:
        with pytest.raises(BadDicom) as caught:
            scan(file_meta(sop="") + dicom_file({tag: encoded})[len(file_meta()) :])
        assert caught.value.attribute == name
        assert caught.value.failure_reason == 0xC000


def test_the_data_set_counts_where_the_file_meta_information_names_another_instance():
    blob = element(0x00091001, "OB", bytes(2000))
    body = b"".join([identity()[0x00080016], identity()[0x00080018], blob])
    body += b"".join(part for tag, part in identity().items() if tag > 0x00091001)
    for memo in (Memo(), None):
        found = scan(file_meta(sop="1.2.3") + body, version="v", memo=memo)
        assert found.sop_instance_uid == SOP
        assert found.warnings == ("the file meta information names another SOP Instance UID than the data set",)
        uri = json.loads(found.metadata.inflate())["00091001"]["BulkDataURI"]
        assert uri == f"instances/{SOP}/bulkdata/00091001?v=v"
    found = scan(file_meta(sop_class=CT) + body)
    assert found.warnings == ("the file meta information names another SOP Class UID than the data set",)


def test_a_group_length_that_is_missing_or_wrong_is_tolerated():
    data = dicom_file()
    for changed in (data[:132] + data[144:], data[:140] + struct.pack("<I", 5) + data[144:]):
        found = scan(changed)
        assert found.elements == scan(data).elements
        assert found.warnings == ("the group length of the file meta information is wrong or missing",)
        assert found.meta_size == len(changed) - len(data) + len(file_meta())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a DICOM file"),
        (b"GIF89a" + bytes(200), "not a DICOM file"),
        (bytes(128) + b"DICM", "not a DICOM file"),
        (bytes(128) + b"DICM" + bytes(50), "transfer syntax"),
        (file_meta()[132:] + b"".join(identity().values()), "not a DICOM file"),
        (file_meta("not a uid"), "transfer syntax"),
        (file_meta()[:-20], "the file is cut"),
        (file_meta(), "SOPClassUID is missing"),
        (bytes(128) + b"DICM" + text(0x00020010, "UI", EXPLICIT) + text(0x00020002, "UI", CT), "ascending"),
        (bytes(128) + b"DICM" + element(0x00020001, "ZZ", b""), "unknown VR"),
        (bytes(128) + b"DICM" + element(0x00020001, "OB", b"", length=0xFFFFFFFF), "past the end of the file"),
    ],
)
def test_what_is_no_part_10_file_is_refused_clearly(data, why):
    with pytest.raises(BadDicom, match=why):
        scan(data)


@pytest.mark.parametrize(
    "tag", [0x00000002, 0x00010010, 0x00020010, 0x00030001, 0x00050010, 0x00070010, 0xFFFF0010, 0xFFFEE000]
)
def test_groups_that_no_data_set_may_contain_are_refused(tag):
    for parts in (
        {tag: element(tag, "UL", bytes(4))},
        {0x00081115: sequence(0x00081115, [element(tag, "UL", bytes(4))])},
    ):
        with pytest.raises(BadDicom):
            scan(dicom_file(parts))


def test_tags_must_ascend_at_every_level():
    twice = text(0x00100020, "LO", "A") + text(0x00100020, "LO", "B")
    wrong = text(0x00100020, "LO", "A") + text(0x00100010, "PN", "B")
    for content in (twice, wrong):
        with pytest.raises(BadDicom, match="ascending"):
            scan(dicom_file({0x00100020: content}))
        with pytest.raises(BadDicom, match="ascending"):
            scan(dicom_file({0x00101002: sequence(0x00101002, [content], undefined=True)}))
        memo = Memo()
        for _ in range(3):
            scan(dicom_file({0x00100020: text(0x00100020, "LO", "A")}), memo=memo)
            scan(dicom_file({0x00100020: text(0x00100020, "LO", "B")}), memo=memo)
        with pytest.raises(BadDicom, match="ascending"):
            scan(dicom_file({0x00100020: content}), memo=memo)


def test_trailing_padding_is_part_of_the_data_set_and_other_bytes_are_not():
    padded = dicom_file({0xFFFCFFFC: element(0xFFFCFFFC, "OB", bytes(100))})
    assert scan(padded).sop_instance_uid == SOP
    with pytest.raises(BadDicom, match="padding"):
        scan(dicom_file({0xFFFCFFFC: element(0xFFFCFFFC, "OB", bytes(200_000))}))
    for tail in (b"\0", bytes(7), bytes(8), bytes(200_000), b"\xff" * 12):
        with pytest.raises(BadDicom):
            scan(dicom_file(tail=tail))


def test_an_image_without_its_pixel_data_was_cut():
    described = image_pixels()
    for sop_class in (CT, SLIDE, "1.2.840.10008.5.1.4.1.1.66.4"):
        with pytest.raises(BadDicom, match="the file is cut") as caught:
            scan(dicom_file(described, sop_class=sop_class))
        assert caught.value.attribute == "PixelData"
    provider = {0x00287FE0: text(0x00287FE0, "UR", "http://example.org/jpip")}
    assert scan(dicom_file(described | provider, sop_class=CT)).frames is None
    assert scan(dicom_file(described, sop_class=RAW_DATA)).warnings == ()
    assert scan(dicom_file(sop_class=CT)).warnings == ("an image without pixel data",)


def slice_of(number: int, series: int = 1, **kwargs: str) -> bytes:
    """One of a series: most is the same, some is not."""
    parts = {
        0x00080005: text(0x00080005, "CS", "ISO_IR 100", **kwargs),
        0x00080060: text(0x00080060, "CS", "CT", **kwargs),
        0x00080070: text(0x00080070, "LO", "Müller".encode("latin-1"), **kwargs),
        0x00081115: sequence(0x00081115, [text(0x0020000E, "UI", f"1.2.{series}", **kwargs)], undefined=True, **kwargs),
        0x00090010: text(0x00090010, "LO", "GEMS_IDEN_01", **kwargs),
        0x00091001: element(0x00091001, "UN", b"GE_GENESIS_FF ", **kwargs),
        0x00100010: text(0x00100010, "PN", f"Patient^{series}", **kwargs),
        0x00100020: text(0x00100020, "LO", f"PID{series}", **kwargs),
        0x00104000: text(0x00104000, "LT", random.Random(series).randbytes(1200).hex(), **kwargs),
        0x00180050: text(0x00180050, "DS", "1.5", **kwargs),
        0x00180060: text(0x00180060, "DS", "120", **kwargs),
        0x00200013: text(0x00200013, "IS", str(number), **kwargs),
        0x00200032: text(0x00200032, "DS", f"0\\0\\{number * 1.5}", **kwargs),
        0x00281050: text(0x00281050, "DS", "40\\-600", **kwargs),
        0x00281052: text(0x00281052, "DS", "-1024", **kwargs),
        0x7FE00010: element(0x7FE00010, "OW", bytes(12), **kwargs),
    }
    parts |= image_pixels(2, 3, 1, 16, **kwargs)
    return dicom_file(
        parts, sop_class=CT, sop=f"1.2.3.{series}.{number}", **({"syntax": kwargs["syntax"]} if kwargs else {})
    )


@pytest.mark.parametrize("kwargs", [{}, {"syntax": IMPLICIT}])
def test_a_series_is_scanned_from_what_it_repeats_and_yields_the_same(kwargs):
    memo = Memo()
    for number in range(1, 30):
        for series in (1, 2):
            data = slice_of(number, series, **kwargs)
            found, alone = scan(data, version="v", memo=memo), scan(data, version="v")
            assert found.metadata.inflate() == alone.metadata.inflate()
            assert zlib.crc32(alone.metadata.inflate()) == found.metadata.crc32 == alone.metadata.crc32
            assert found.elements == alone.elements
            assert list(found.elements) == list(alone.elements)
            assert (found.frames, found.pixel, found.bulk) == (alone.frames, alone.pixel, alone.bulk)
    # From the fourth instance on it is put together from pieces: other bytes, the same text.
    assert found.metadata.data != alone.metadata.data
    assert len(found.metadata.data) < 1.3 * len(alone.metadata.data)


def test_numbers_that_were_met_in_an_earlier_series_do_not_keep_a_series_from_being_learnt():
    memo = Memo()
    for series in range(1, 5):
        for number in range(1, 41):
            data = slice_of(number, series)
            found, alone = scan(data, memo=memo), scan(data)
            assert found.metadata.inflate() == alone.metadata.inflate()
            if number > 30:
                assert found.metadata.data != alone.metadata.data
                assert len(found.metadata.data) < 1.3 * len(alone.metadata.data)


def test_what_is_remembered_depends_on_what_it_rests_on():
    memo = Memo()
    kw = {"syntax": IMPLICIT}

    def vr_of(creator: str) -> bytes:
        parts = {
            0x00290010: text(0x00290010, "LO", creator, **kw),
            0x00291008: text(0x00291008, "CS", "IMAGE NUM 4", **kw),
            0x00291009: text(0x00291009, "LO", "20200101", **kw),
        }
        return scan(dicom_file(parts, **kw), memo=memo).elements["00291008"]

    def sign_of(signed: int) -> bytes:
        parts = {
            0x00280103: element(0x00280103, "", struct.pack("<H", signed), **kw),
            0x00280106: element(0x00280106, "", b"\xff\xff", **kw),
            0x00280107: element(0x00280107, "", b"\xfe\xff", **kw),
        }
        return scan(dicom_file(parts, **kw), memo=memo).elements["00280106"]

    def text_in(charset: str) -> bytes:
        parts = {0x00080005: text(0x00080005, "CS", charset), 0x00081030: text(0x00081030, "LO", b"\xc3\xa9")}
        return scan(dicom_file(parts), memo=memo).elements["00081030"]

    for _ in range(5):
        assert b'"CS"' in vr_of("SIEMENS CSA HEADER")
        assert b'"UN"' in vr_of("SOMEBODY ELSE")
        assert b"65535" in sign_of(0)
        assert b"-1" in sign_of(1)
        assert "é".encode() in text_in("ISO_IR 192")
        assert "Ã©".encode() in text_in("ISO_IR 100")
        blob = {0x00091001: element(0x00091001, "OB", bytes(2000)), 0x00091002: element(0x00091002, "OB", bytes(20))}
        for threshold in (10, 1024, 4096):
            found = scan(dicom_file(blob), ScanLimits(bulk_threshold=threshold), memo=memo)
            assert len(found.bulk) == {10: 2, 1024: 1, 4096: 0}[threshold]


def test_limits_hold_for_what_is_remembered():
    items = [text(0x00080100, "SH", f"{number}") for number in range(50)]
    parts = {0x00081115: sequence(0x00081115, items)}
    memo = Memo()
    for _ in range(4):
        scan(dicom_file(parts), memo=memo)
        with pytest.raises(TooLarge):
            scan(dicom_file(parts), ScanLimits(max_elements=100), memo=memo)


def test_a_memo_is_bounded():
    memo = Memo(limit=20_000)
    for number in range(1000):
        scan(slice_of(number), memo=memo)
    for context in memo._contexts.values():
        assert len(context.known) + len(context._old) < 200
    small = Memo()
    for number in range(200):
        scan(dicom_file({0x00080005: text(0x00080005, "CS", f"X{number}")}), memo=small)
    assert len(small._contexts) <= 16


def test_what_a_run_was_compressed_to_is_bounded():
    """Also where instances end earlier and earlier: what comes first is compressed anew, what followed it is not."""

    def pieces() -> int:
        gc.collect()
        return sum(isinstance(one, Piece) for one in gc.get_objects())

    before, memo = pieces(), Memo()
    filler = random.Random(1).randbytes(600).hex()
    for last in range(10, 1, -1):
        for number in range(100, 145):
            parts = {}
            for group in range(0x00110000, 0x00110000 + last * 0x20000, 0x20000):
                different = str(number) * (number - 90 if group == 0x00110000 else 1)
                parts[group | 0x0010] = text(group | 0x0010, "LO", "MAKER")
                parts[group | 0x1001] = text(group | 0x1001, "LT", filler)
                parts[group | 0x1002] = text(group | 0x1002, "LT", f"{different} {last}")
            found = scan(dicom_file(parts, sop_class=RAW_DATA), memo=memo)
    assert found.metadata.inflate() == scan(dicom_file(parts, sop_class=RAW_DATA)).metadata.inflate()
    assert 32 < pieces() - before <= 12 * 32


@pytest.mark.parametrize("before", [0x00080070, 0x00083001])
@pytest.mark.parametrize("behind", [0x00083010, 0x00100020, 0x52009230])
def test_the_metadata_tell_the_transfer_syntax_of_the_file(before, behind):
    """At its place, whatever stands around it: elements, a run of them, functional groups; and whatever a file says."""
    parts = {
        before: sequence(before, []) if before == 0x00083001 else text(before, "LO", "Maker"),
        behind: sequence(behind, [b""]) if behind == 0x52009230 else text(behind, "LO", "Text"),
    }
    memo = Memo()
    for said in (None, "1.2.840.10008.1.2.4.90", None, "1.2.840.10008.1.2.4.90") * 4:
        own = {} if said is None else {0x00083002: text(0x00083002, "UI", said)}
        ours = json.loads(scan(dicom_file(parts | own), memo=memo).metadata.inflate())
        assert ours["00083002"] == {"vr": "UI", "Value": [EXPLICIT]}
        assert list(ours) == sorted(ours)
        assert {f"{before:08X}", f"{behind:08X}"} < set(ours)


@pytest.mark.parametrize("undefined", [False, True])
def test_functional_groups_are_streamed_and_equal_pydicom(undefined):
    data = sparse_slide(400, undefined=undefined)
    found = scan(data)
    assert "52009230" not in found.elements
    assert "52009229" not in found.elements
    ours = json.loads(found.metadata.inflate())
    assert list(ours) == sorted(ours)
    expected = dcmread(io.BytesIO(data)).to_json_dict()
    assert ours["52009230"] == expected["52009230"]
    assert ours["52009229"] == expected["52009229"]
    assert found.frames.count == 400
    assert found.warnings == ()


def test_functional_groups_of_many_shapes_equal_pydicom():
    frames = []
    for number in range(200):
        content = text(0x00209056, "SH", "stack" * (number % 5)) + element(0x00209057, "UL", struct.pack("<I", number))
        private = text(0x00290010, "LO", "SIEMENS CSA HEADER") + element(0x00291008, "UN", b"CS %d  " % (number % 7))
        charset = text(0x00080005, "CS", "ISO_IR 192") if number % 3 else b""
        group = [charset + text(0x00204000, "LT", "é" * (number % 4)), b""][: 1 + number % 2]
        frames.append(
            sequence(0x00209111, [content], undefined=bool(number % 2))
            + (sequence(0x00211140, group) if number % 11 else b"")
            + private
            + element(0x00420011, "OB", bytes(number % 3) * 2)
            + (element(0x00420012, "LO", b"x" * 100) if number % 13 == 0 else b"")
        )
    data = dicom_file({0x00080005: text(0x00080005, "CS", "ISO_IR 100"), 0x52009230: sequence(0x52009230, frames)})
    found = scan(data)
    assert json.loads(found.metadata.inflate()) == plain(annex_f(pydicom_json(data)))


def test_bulk_values_in_functional_groups_are_found():
    frames = [element(0x00091001, "OB", bytes([number]) * 2000) for number in range(20)]
    data = dicom_file({0x52009230: sequence(0x52009230, frames, undefined=True)})
    found = scan(data)
    assert len(found.bulk) == 20
    entry = found.bulk.lookup("52009230/7/00091001")
    assert data[entry.offset : entry.offset + entry.length] == b"\7" * 2000


def test_functional_groups_have_their_own_limit():
    data = sparse_slide(100)
    scan(data, ScanLimits(max_elements=50))
    for limit in (50, 1200):
        with pytest.raises(TooLarge, match=f"more than {limit} elements"):
            scan(data, ScanLimits(max_fg_elements=limit))
    scan(data, ScanLimits(max_fg_elements=1400))


def test_damage_in_a_functional_group_is_found_wherever_it_is(monkeypatch):
    data = bytearray(sparse_slide(50))
    start = bytes(data).rindex(b"\x00\x52\x30\x92")

    def outcome(changed: bytes) -> bytes | str:
        try:
            return scan(changed).metadata.inflate()
        except BadDicom as error:
            return error.message

    damaged = []
    for at in range(start, start + 4000, 7):
        changed = data.copy()
        changed[at] ^= 0x5A
        damaged.append(bytes(changed))
    by_shape = [outcome(changed) for changed in damaged]
    monkeypatch.setattr(functional_groups, "_SHAPES", 0)
    assert by_shape == [outcome(changed) for changed in damaged]
    assert sum(isinstance(one, str) for one in by_shape) > len(by_shape) / 2


def test_a_slide_with_many_frames_needs_little_memory():
    data = sparse_slide(20_000)
    tracemalloc.start()
    try:
        found = scan(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.frames.count == 20_000
    assert peak < 24 << 20
    assert found.metadata.length > 7_000_000


@pytest.mark.full
def test_a_slide_of_180_000_frames():
    data = sparse_slide(180_000)
    tracemalloc.start()
    try:
        found = scan(data)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
    assert found.frames.count == 180_000
    assert found.frames.locate(179_999)[0][1] == 4
