"""The scanner against pydicom on every file of pydicom's own test data and of pydicom-data."""

import json
import mmap
import warnings
import zlib
from collections import Counter
from pathlib import Path

import data_store
import pydicom.data
import pytest

from dicomweb.errors import ArchiveError, BadDicom
from dicomweb.part10 import Memo, ScanLimits, scan
from tests.unit.annex_f import THRESHOLD, annex_f, plain, pydicom_json, without_uris

ROOTS = (Path(pydicom.data.__file__).parent, Path(data_store.__file__).parent)
FILES = sorted(
    path
    for root in ROOTS
    for path in root.rglob("*")
    if path.is_file() and path.suffix not in {".py", ".pyc", ".json", ".txt", ".md", ".icc", ".gz", ".dump"}
)
LIMITS = ScanLimits(bulk_threshold=THRESHOLD)

# What pydicom reads and we do not store, with the reason. A file that is accepted against this table fails the test
# too.
NO_IDENTITY = "has no SOP Class, SOP Instance, Study or Series Instance UID"
REFUSED = {
    "bad_sequence.dcm": "its SOP Instance UID is a hash, no UID",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "cut inside its fragments",
    "chrJapMulti.dcm": "file meta information and data set name different instances",
    "chrJapMultiExplicitIR6.dcm": "file meta information and data set name different instances",
    "chrKoreanMulti.dcm": "has Rows, Columns and Bits Allocated and no pixel data: cut between two elements",
    "chrSQEncoding.dcm": NO_IDENTITY,
    "chrSQEncoding1.dcm": NO_IDENTITY,
    "fall.dcm": NO_IDENTITY,
    "hotiron.dcm": NO_IDENTITY,
    "hotmetalblue.dcm": NO_IDENTITY,
    "pet.dcm": NO_IDENTITY,
    "pet20step.dcm": NO_IDENTITY,
    "spring.dcm": NO_IDENTITY,
    "summer.dcm": NO_IDENTITY,
    "winter.dcm": "tags are not in ascending order",
    "JPEGLSNearLossless_08.dcm": NO_IDENTITY,
    "JPEGLSNearLossless_16.dcm": NO_IDENTITY,
    "MR_truncated.dcm": "cut inside pixel data",
    "SC_rgb_jls_lossy_line.dcm": NO_IDENTITY,
    "SC_rgb_jls_lossy_sample.dcm": NO_IDENTITY,
    "SC_rgb_jpeg.dcm": "Implicit VR under an explicit transfer syntax",
    "UN_sequence.dcm": NO_IDENTITY,
    "DICOMDIR": NO_IDENTITY,
    "DICOMDIR-bigEnd": NO_IDENTITY,
    "DICOMDIR-empty.dcm": NO_IDENTITY,
    "DICOMDIR-implicit": NO_IDENTITY,
    "DICOMDIR-nooffset": "an item ends past its sequence",
    "DICOMDIR-nopatient": NO_IDENTITY,
    "DICOMDIR-reordered": NO_IDENTITY,
    "empty_charset_LEI.dcm": NO_IDENTITY,
    "meta_missing_tsyntax.dcm": "names no transfer syntax",
    "nested_priv_SQ.dcm": "has an element of group 0001, which PS3.5 7.1 forbids",
    "no_meta_group_length.dcm": NO_IDENTITY,
    "priv_SQ.dcm": NO_IDENTITY,
    "rtplan_truncated.dcm": "cut inside a sequence",
}


# Its Number of Frames is "1A": accepted, but pydicom has no JSON for it.
WITHOUT_REFERENCE = frozenset({"badVR.dcm"})


def reference(data: bytes) -> dict | None:
    try:
        return pydicom_json(data)
    except Exception:  # noqa: BLE001 - whatever pydicom cannot read is no reference
        return None


def test_every_file_gives_the_json_of_pydicom():
    seen: Counter[str] = Counter()
    differences = []
    for path in FILES:
        data = path.read_bytes()
        expected = reference(data)
        try:
            found = scan(data, LIMITS)
        except BadDicom as error:
            if expected is not None and path.name not in REFUSED:
                differences.append(f"{path.name} refused: {error.message}")
            seen["refused" if expected is not None else "refused by both"] += 1
            continue
        if path.name in WITHOUT_REFERENCE:
            continue
        if expected is None or path.name in REFUSED:
            differences.append(f"{path.name} accepted")
            continue
        text = found.metadata.inflate()
        assert (zlib.crc32(text), len(text)) == (found.metadata.crc32, found.metadata.length)
        ours = json.loads(text)
        assert list(ours) == sorted(ours)
        assert plain(annex_f(expected, big_endian=found.fallback == "big endian")) == without_uris(ours), path.name
        seen[found.fallback or "scanned"] += 1
    assert differences == []
    assert set(seen) == {"scanned", "big endian", "refused", "refused by both"}
    assert seen["scanned"] >= 190


def test_a_shared_memo_changes_nothing():
    memo = Memo()
    accepted = []
    for path in FILES:
        data = path.read_bytes()
        if len(data) > 2_000_000:
            continue
        try:
            alone = scan(data, version="v")
        except ArchiveError:
            continue
        accepted.append((data, alone))
    for _ in range(4):
        for data, alone in accepted:
            together = scan(data, version="v", memo=memo)
            assert together.elements == alone.elements
            assert together.metadata.inflate() == alone.metadata.inflate()
            assert (together.metadata.crc32, together.metadata.length) == (alone.metadata.crc32, alone.metadata.length)
            for name in ("frames", "pixel", "bulk", "warnings", "fallback", "sop_instance_uid", "patient_id"):
                assert getattr(together, name) == getattr(alone, name), name


@pytest.mark.parametrize("kind", ["memoryview", "bytearray", "mmap"])
def test_every_kind_of_buffer_gives_the_same(kind, tmp_path):
    for name in (
        "CT_small.dcm",
        "JPEG2000.dcm",
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "image_dfl.dcm",
        "reportsi.dcm",
    ):
        data = Path(pydicom.data.get_testdata_file(name)).read_bytes()
        expected = scan(data)
        if kind == "mmap":
            (tmp_path / name).write_bytes(data)
            with (tmp_path / name).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                assert scan(mapped) == expected
        elif kind == "bytearray":
            assert scan(memoryview(bytearray(data))) == expected
        else:
            memo = Memo()
            for _ in range(4):
                found = scan(memoryview(data), memo=memo)
                assert found.elements == expected.elements
                assert found.metadata.inflate() == expected.metadata.inflate()


def test_the_table_of_refused_files_is_not_longer_than_needed():
    assert set(REFUSED) <= {path.name for path in FILES}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in FILES:
            if path.name in REFUSED:
                with pytest.raises(BadDicom):
                    scan(path.read_bytes())
