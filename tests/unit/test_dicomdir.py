"""DICOMDIR: its records against pydicom's reading of them and against those that DCMTK makes."""

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom.fileset
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicomweb.dicomdir import Directory, Entry, record_fields, record_type
from tests.files import dataset, encoded, file_set

UID = "2.25.123456789"


def _entry(ds: Dataset, number: int) -> Entry:
    attributes = {
        tag: member
        for tag, member in ds.to_json_dict().items()
        if (tag,) in record_fields(extended=True) or int(tag[:4], 16) in (0x0008, 0x0010, 0x0020)
    }
    syntax = str(ds.file_meta.TransferSyntaxUID)
    return Entry(("IMAGES", f"IM{number}"), ds.SOPClassUID, ds.SOPInstanceUID, syntax, attributes)


def _medium(folder: Path, datasets: list[Dataset], *, extended: bool = False) -> Path:
    (folder / "IMAGES").mkdir(parents=True)
    directory = Directory(extended=extended)
    for number, ds in enumerate(datasets):
        (folder / "IMAGES" / f"IM{number}").write_bytes(encoded(ds))
        directory.add(_entry(dcmread(folder / "IMAGES" / f"IM{number}"), number))
    (folder / "DICOMDIR").write_bytes(directory.encode(UID))
    return folder / "DICOMDIR"


def _some() -> list[Dataset]:
    first = dataset(
        PatientID="1",
        PatientName="Süß^Jörg=山田^太郎",
        SpecificCharacterSet="ISO_IR 192",
        InstanceNumber=2,
        StudyID="7",
    )
    same = {
        name: first[name].value
        for name in ("PatientID", "PatientName", "StudyInstanceUID", "SpecificCharacterSet", "StudyID")
    }
    return [
        first,
        dataset(**same, SeriesInstanceUID=first.SeriesInstanceUID, InstanceNumber=1),
        dataset(**same, InstanceNumber=1),
        dataset(InstanceNumber=None, StudyDate="", PatientID="2", PatientName="Second^Patient"),
    ]


def test_pydicom_finds_every_file(tmp_path: Path) -> None:
    datasets = _some()
    found = file_set(_medium(tmp_path / "m", datasets))
    assert len(found) == len(datasets)
    assert {each.SOPInstanceUID for each in found} == {ds.SOPInstanceUID for ds in datasets}
    for ds in datasets:
        (one,) = found.find(SOPInstanceUID=ds.SOPInstanceUID)
        assert one.load() == dcmread(io.BytesIO(encoded(ds)))
        assert (one.PatientName, one.StudyInstanceUID) == (ds.PatientName, ds.StudyInstanceUID)


def _records(items: Any) -> Iterator[tuple[Any, ...]]:
    """Each record with how deep it is, as the offsets have it."""
    by_offset = {item.seq_item_tell: item for item in items.DirectoryRecordSequence}

    def walk(offset: int, depth: int) -> Iterator[tuple[Any, ...]]:
        while offset:
            record = by_offset[offset]
            kept = {
                element.keyword: element.value
                for element in record
                if not element.keyword.startswith(("Offset", "RecordInUse", "SpecificCharacterSet"))
            }
            yield depth, kept
            yield from walk(record.OffsetOfReferencedLowerLevelDirectoryEntity, depth + 1)
            offset = record.OffsetOfTheNextDirectoryRecord

    yield from walk(items.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity, 0)


def test_records_are_those_that_dcmtk_makes(tmp_path: Path) -> None:
    plain = {"PatientName": "Doe^Jane", "StudyID": "7", "AccessionNumber": "A1", "SeriesNumber": 3}
    datasets = [dataset(**plain, InstanceNumber=1), dataset(**plain, InstanceNumber=2)]
    ours = dcmread(_medium(tmp_path / "ours", datasets))
    theirs = tmp_path / "theirs"
    shutil.copytree(tmp_path / "ours" / "IMAGES", theirs / "IMAGES")
    subprocess.run(
        ["dcmmkdir", "+r", "+id", str(theirs), "+D", str(theirs / "DICOMDIR"), "-Nxc", "-A", "+I", "IMAGES"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    reference = sorted(_records(dcmread(theirs / "DICOMDIR")), key=str)
    mine = sorted(_records(ours), key=str)
    assert [depth for depth, _ in mine] == [depth for depth, _ in reference]
    for (_, one), (_, other) in zip(mine, reference, strict=True):
        for keyword in other.keys() & one.keys():
            assert one[keyword] == other[keyword], keyword
        assert {k for k in other if other[k]} <= one.keys() | {"PatientBirthDate", "PatientSex", "StudyDescription"}


def test_the_last_record_of_the_root_and_dumps(tmp_path: Path) -> None:
    path = _medium(tmp_path / "m", _some(), extended=True)
    ds = dcmread(path)
    last = ds.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity
    (record,) = [each for each in ds.DirectoryRecordSequence if each.seq_item_tell == last]
    assert (record.DirectoryRecordType, str(record.PatientName)) == ("PATIENT", "Second^Patient")
    assert ds.file_meta.MediaStorageSOPInstanceUID == UID
    assert [each.Rows for each in ds.DirectoryRecordSequence if each.DirectoryRecordType == "IMAGE"] == [4] * 4
    subprocess.run(["dcmdump", str(path)], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("uid", sorted(pydicom.fileset._FOUR_LEVEL_SOP_CLASSES))
def test_record_types_are_those_of_the_standard(uid: str) -> None:
    assert record_type(uid) == pydicom.fileset._FOUR_LEVEL_SOP_CLASSES[pydicom.uid.UID(uid)]


def test_reports_have_their_title(tmp_path: Path) -> None:
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = codes.DCM.ImagingMeasurementReport[:3]
    report = dataset(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33",
        InstanceNumber=1,
        CompletionFlag="COMPLETE",
        VerificationFlag="UNVERIFIED",
        ContentDate="20260131",
        ContentTime="101500",
        ConceptNameCodeSequence=[title],
    )
    (record,) = [
        each
        for each in dcmread(_medium(tmp_path / "m", [report])).DirectoryRecordSequence
        if each.DirectoryRecordType == "SR DOCUMENT"
    ]
    assert record.ConceptNameCodeSequence[0].CodeMeaning == title.CodeMeaning
    assert "VerificationDateTime" not in record
    assert len(file_set(tmp_path / "m" / "DICOMDIR")) == 1


def test_values_that_are_none_and_no_files_at_all() -> None:
    directory = Directory()
    empty = dcmread(io.BytesIO(directory.encode(UID)))
    assert empty.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity == 0
    assert len(empty.DirectoryRecordSequence) == 0
    odd = {"00100020": {"vr": "LO", "Value": ["x"]}, "00200013": {"vr": "IS", "Value": ["not a number"]}}
    directory.add(Entry(("IMAGES", "IM0"), "1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1", odd))
    (*_, image) = dcmread(io.BytesIO(directory.encode(UID))).DirectoryRecordSequence
    assert (image.DirectoryRecordType, image.InstanceNumber) == ("IMAGE", None)
