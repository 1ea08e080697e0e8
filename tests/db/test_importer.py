import io
import os
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from storage.archive import Archive, open_archive
from storage.importer import run_import

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture
async def archive(database_url, settings) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(spool_memory=1 << 20))
    yield opened
    await opened.close()


def dicom(**attributes: object) -> bytes:
    """A small complete DICOM file."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def counts(report) -> tuple[int, int, int, int]:
    return report.stored, report.identical, report.skipped, report.failed


async def instances(archive) -> int:
    return (await archive.db.fetch_sql("SELECT count(*) AS n FROM instance"))[0]["n"]


def reasons(report) -> dict[str, str]:
    return {Path(failure.path).name: failure.reason for failure in report.failures}


@pytest.fixture
def folder(tmp_path) -> Path:
    """What is imported; the archive's own data lie beside it."""
    made = tmp_path / "in"
    made.mkdir()
    return made


async def test_a_folder_twice(archive, folder):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.dcm").write_bytes(dicom())
    (folder / "deep" / "no-suffix").write_bytes(dicom())
    (folder / "deep" / "er" / "b.dcm").write_bytes(dicom())
    (folder / "notes.txt").write_text("no image")
    (folder / "empty").touch()
    seen = []
    report = await run_import(archive, [folder], progress=seen.append)
    assert counts(report) == (3, 0, 2, 0)
    assert report.exit_code == 0
    assert await instances(archive) == 3
    assert seen[-1].complete
    assert (seen[-1].found, seen[-1].done, seen[-1].stored, seen[-1].skipped) == (5, 5, 3, 2)
    again = await run_import(archive, [folder])
    assert counts(again) == (0, 3, 2, 0)
    assert again.exit_code == 0


async def test_what_cannot_be_stored_is_named_and_the_rest_is_stored(archive, folder):
    good = dicom()
    (folder / "good.dcm").write_bytes(good)
    (folder / "cut.dcm").write_bytes(dicom(PatientComments="x" * 100)[:-20])
    (folder / "no-study.dcm").write_bytes(dicom(StudyInstanceUID=""))
    other = pydicom.dcmread(io.BytesIO(good))
    other.PatientComments = "changed"
    other.save_as(folder / "twice.dcm")
    (folder / "broken-link").symlink_to(folder / "nowhere")
    report = await run_import(archive, [folder], jobs=1)
    assert counts(report) == (1, 0, 0, 4)
    assert report.exit_code == 1
    found = reasons(report)
    assert "No such file" in found["broken-link"]
    assert "StudyInstanceUID" in found["no-study.dcm"]
    assert "SeriesInstanceUID" in found["cut.dcm"]
    assert "SOPInstanceUID" in found["twice.dcm"]


async def test_files_and_missing_paths(archive, folder):
    (folder / "a.dcm").write_bytes(dicom())
    report = await run_import(archive, [folder / "a.dcm", folder / "missing"])
    assert counts(report) == (1, 0, 0, 1)
    assert "No such file" in reasons(report)["missing"]


async def test_links_in_circles_pipes_and_dicomdirs(archive, folder):
    (folder / "a.dcm").write_bytes(dicom())
    (folder / "self").symlink_to(folder)
    (folder / "up").symlink_to(folder.parent / "outside")
    outside = folder.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "back").symlink_to(folder)
    (outside / "deep" / "b.dcm").write_bytes(dicom())
    (folder / "linked").symlink_to(outside / "deep")
    os.mkfifo(folder / "pipe")
    (folder / "index").write_bytes(Path(get_testdata_file("DICOMDIR")).read_bytes())  # noqa: ASYNC240
    report = await run_import(archive, [folder])
    assert counts(report) == (2, 0, 0, 0)
    assert report.dicomdirs == 1


async def test_a_large_file_goes_through_a_spool_file(archive, folder):
    pixels = os.urandom(1 << 20) * 5
    file = dicom(
        Rows=1024,
        Columns=1024,
        NumberOfFrames=5,
        SamplesPerPixel=1,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PhotometricInterpretation="MONOCHROME2",
        PixelData=pixels,
    )
    (folder / "large.dcm").write_bytes(file)
    report = await run_import(archive, [folder / "large.dcm"])
    assert counts(report) == (1, 0, 0, 0), report.failures
    row = (await archive.db.fetch_sql("SELECT object_key FROM instance"))[0]
    assert await archive.objects.get(row["object_key"]) == file
    assert (folder / "large.dcm").exists()  # the user's file is copied, never moved
    assert report.bytes == len(file)


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


async def test_zip_files(archive, folder):
    same = dicom()
    first = zipped(folder / "a.zip", {"x/1.dcm": dicom(), "x/2": same, "readme.txt": b"hello", "x/": b""})
    second = zipped(folder / "b.bin", {"../../../../etc/3.dcm": dicom(), "/abs/4.dcm": same}, zipfile.ZIP_STORED)
    report = await run_import(archive, [first, second], jobs=2)
    assert (report.stored, report.identical) in ((3, 1), (4, 0))  # both may be on their way at the same time
    assert (report.skipped, report.failed) == (1, 0)
    assert await instances(archive) == 3
    again = await run_import(archive, [folder])  # b.bin is a ZIP by its content only when it is named
    assert counts(again) == (0, 2, 2, 0)


async def test_zip_files_that_lie(archive, folder):
    inner = zipped(folder / "inner.zip", {"a.dcm": dicom()}).read_bytes()
    (folder / "inner.zip").unlink()
    good = dicom()
    zipped(folder / "nested.zip", {"inner.zip": inner, "good.dcm": good})
    (folder / "damaged.zip").write_bytes(inner[:-30])
    flipped = bytearray(zipped(folder / "crc.zip", {"a.dcm": dicom()}, zipfile.ZIP_STORED).read_bytes())
    flipped[400] ^= 1
    (folder / "crc.zip").write_bytes(flipped)
    encrypted = bytearray(zipped(folder / "locked.zip", {"a.dcm": dicom()}).read_bytes())
    encrypted[encrypted.rindex(b"PK\x01\x02") + 8] |= 1
    (folder / "locked.zip").write_bytes(encrypted)
    zipped(folder / "bomb.zip", {"zeros.dcm": bytes(128) + b"DICM" + bytes(32 << 20)})
    report = await run_import(archive, [folder], jobs=1)
    found = {failure.path.rsplit("/", 1)[1]: failure.reason for failure in report.failures}
    assert counts(report)[0] == 1
    assert "inside a ZIP" in found["nested.zip!inner.zip"]
    assert "damaged" in found["damaged.zip"]
    assert "CRC" in found["crc.zip!a.dcm"]
    assert "encrypted" in found["locked.zip!a.dcm"]
    assert "inflates" in found["bomb.zip!zeros.dcm"]
    assert len(found) == 5


async def test_a_zip_member_that_is_longer_than_declared_is_cut_there(archive, folder):
    data = dicom()
    path = zipped(folder / "short.zip", {"a.dcm": data})
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02") + 24
    raw[at : at + 4] = struct.pack("<I", len(data) - 50)
    path.write_bytes(raw)
    report = await run_import(archive, [path])
    assert report.failed == 1
    assert await instances(archive) == 0


async def test_a_zip_directory_beyond_all_bounds(archive, folder):
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFF0, 0, 0)
    (folder / "huge.zip").write_bytes(b"PK\x03\x04" + bytes(100) + end)
    large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**7, 10**7, 1 << 40, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 104, 1)
    (folder / "huge64.zip").write_bytes(b"PK\x03\x04" + bytes(100) + large + locator + end)
    report = await run_import(archive, [folder])
    assert "directory" in reasons(report)["huge.zip"]
    assert "directory" in reasons(report)["huge64.zip"]


async def test_pydicoms_own_files(archive):
    report = await run_import(archive, [TEST_FILES])
    assert report.stored > 60
    assert report.dicomdirs >= 4
    known = (
        "is missing",
        "stored under this SOPInstanceUID",
        "stored under another",
        "at byte",
        "transfer syntax",
        "Transfer Syntax",
        "UID",
    )
    for failure in report.failures:
        assert any(text in failure.reason for text in known), failure
    again = await run_import(archive, [TEST_FILES])
    assert again.stored == 0
    assert again.identical >= report.stored
    assert again.failed == report.failed
    assert zlib.crc32(repr(sorted(reasons(again))).encode()) == zlib.crc32(repr(sorted(reasons(report))).encode())
