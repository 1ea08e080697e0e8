"""Orthanc's files and archives, with and without transcoding."""

import hashlib
import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from dicomweb.uids import OrthancIds, orthanc_ids
from tests.files import ct, dataset, encoded, file_set


def _ids(ds: Dataset) -> OrthancIds:
    return orthanc_ids(ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)


def _image(**attributes: object) -> Dataset:
    values = np.arange(64 * 48, dtype="<u2").reshape(64, 48)
    return dataset(Rows=64, Columns=48, PixelData=values.tobytes(), **attributes)


def _stored(web: httpx.Client, *datasets: Dataset) -> list[bytes]:
    files = [encoded(ds) for ds in datasets]
    for file in files:
        assert web.post("/instances", content=file).json()["Status"] == "Success"
    return files


def _opened(answer: httpx.Response) -> zipfile.ZipFile:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    found = zipfile.ZipFile(io.BytesIO(answer.content))
    assert found.testzip() is None
    return found


def test_a_file_as_stored(web: httpx.Client) -> None:
    ds = _image()
    (file,) = _stored(web, ds)
    answer = web.get(f"/instances/{_ids(ds).instance}/file")
    assert answer.content == file
    assert answer.headers["content-type"].startswith("application/dicom")
    assert answer.headers["content-disposition"] == f'attachment; filename="{ds.SOPInstanceUID}.dcm"'
    again = web.get(f"/instances/{_ids(ds).instance}/file", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    part = web.get(f"/instances/{_ids(ds).instance}/file", headers={"range": "bytes=128-131"})
    assert (part.status_code, part.content) == (206, b"DICM")


@pytest.mark.parametrize("target", [ExplicitVRLittleEndian, JPEGLSLossless, RLELossless])
def test_a_transcoded_file(web: httpx.Client, target: str) -> None:
    ds = _image()
    _stored(web, ds)
    answer = web.get(f"/instances/{_ids(ds).instance}/file", params={"transcode": target})
    found = dcmread(io.BytesIO(answer.content))
    assert found.file_meta.TransferSyntaxUID == target
    assert np.array_equal(found.pixel_array, ds.pixel_array)


def test_lossy_quality(web: httpx.Client) -> None:
    rng = np.random.default_rng(7)
    values = rng.integers(0, 255, (128, 128), dtype="u1")
    ds = dataset(
        Rows=128,
        Columns=128,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=values.tobytes(),
    )
    _stored(web, ds)
    url = f"/instances/{_ids(ds).instance}/file"
    small, large = (
        web.get(url, params={"transcode": JPEGBaseline8Bit, "lossy-quality": quality}) for quality in ("20", "95")
    )
    assert len(small.content) < len(large.content) / 2
    assert small.headers["etag"] != large.headers["etag"]
    uids = {dcmread(io.BytesIO(each.content)).SOPInstanceUID for each in (small, large)}
    assert len(uids | {ds.SOPInstanceUID}) == 3
    for wrong in ("0", "101", "-1", "high", "9" * 5000):
        refused = web.get(url, params={"transcode": JPEGBaseline8Bit, "lossy-quality": wrong})
        assert refused.status_code in (400, 414, 431), wrong


def test_what_is_not_there_or_not_possible(web: httpx.Client) -> None:
    ds = _image()
    _stored(web, ds)
    for missing in ("nothing", "0" * 40, "-".join(["01234567"] * 5), _ids(ds).study):
        answer = web.get(f"/instances/{missing}/file")
        assert (answer.status_code, answer.json()["OrthancStatus"]) == (404, 17)
        assert web.get(f"/series/{missing}/archive").status_code == 404
    url = f"/instances/{_ids(ds).instance}/file"
    assert web.get(url, params={"transcode": "1.2.3"}).status_code == 400
    refused = web.get(url, params={"transcode": JPEGBaseline8Bit})  # 16 bits
    assert refused.status_code == 406
    assert JPEGLSLossless in refused.text


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("my study.zip", 'attachment; filename="my study.zip"'),
        ('a"\r\nX-Evil: 1', 'attachment; filename="a X-Evil 1"'),
        ("../../x.zip", 'attachment; filename="x.zip"'),
        ("Müller.zip", "attachment; filename=\"M_ller.zip\"; filename*=UTF-8''M%C3%BCller.zip"),
    ],
)
def test_the_name_of_a_download(web: httpx.Client, asked: str, given: str) -> None:
    ds = _image()
    _stored(web, ds)
    answer = web.get(f"/studies/{_ids(ds).study}/archive", params={"filename": asked})
    assert answer.headers["content-disposition"] == given
    assert "x-evil" not in answer.headers


def test_archives_of_three_levels(web: httpx.Client) -> None:
    patient, study, other = f"P-{generate_uid()[-12:]}", generate_uid(), generate_uid()
    series = [generate_uid(), generate_uid()]
    name = {"PatientID": patient, "PatientName": "DOE^JANE", "StudyDescription": "Head"}
    datasets = [
        _image(**name, StudyInstanceUID=study, SeriesInstanceUID=uid, InstanceNumber=number, SeriesNumber=1)
        for uid in series
        for number in (1, 2)
    ]
    datasets.append(_image(**name, StudyInstanceUID=other))
    files = _stored(web, *datasets)
    ids = _ids(datasets[0])
    of_series = _opened(web.get(f"/series/{ids.series}/archive"))
    assert [of_series.read(each) for each in of_series.namelist()] == files[:2]
    of_study = _opened(web.get(f"/studies/{ids.study}/archive"))
    assert [of_study.read(each) for each in of_study.namelist()] == files[:4]
    folders = [each.rpartition("/")[0] for each in of_study.namelist()]
    assert folders[0] != folders[2]  # two series of one name
    assert folders[2] == f"{folders[0]}-2"
    assert of_study.namelist()[0].startswith(f"{patient} - DOE JANE/")
    of_patient = _opened(web.get(f"/patients/{ids.patient}/archive"))
    digests = {hashlib.sha256(of_patient.read(each)).digest() for each in of_patient.namelist()}
    assert digests == {hashlib.sha256(file).digest() for file in files}


def test_a_transcoded_archive_keeps_what_cannot_be_transcoded(web: httpx.Client) -> None:
    study = generate_uid()
    image = _image(StudyInstanceUID=study)
    report = dataset(StudyInstanceUID=study, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        if keyword in report:
            delattr(report, keyword)
    files = _stored(web, image, report)
    answer = web.get(f"/studies/{_ids(image).study}/archive", params={"transcode": JPEGLSLossless})
    members = [_opened(answer).read(each) for each in _opened(answer).namelist()]
    found = {dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID for data in members}
    assert found == {JPEGLSLossless, ExplicitVRLittleEndian}
    assert files[1] in members
    (pixels,) = [dcmread(io.BytesIO(d)).pixel_array for d in members if d != files[1]]
    assert np.array_equal(pixels, image.pixel_array)
    # A stored member whose size comes behind its bytes could not be read from a stream.
    assert {each.compress_type for each in _opened(answer).infolist()} == {zipfile.ZIP_DEFLATED}


def test_a_medium(web: httpx.Client, tmp_path: Path) -> None:
    one, two = _image(InstanceNumber=1, StudyID="S", PatientID="medium"), _image(InstanceNumber=2)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        setattr(two, keyword, one[keyword].value)
    files = _stored(web, one, two)
    opened = _opened(web.get(f"/studies/{_ids(one).study}/media"))
    assert sorted(opened.namelist()) == ["DICOMDIR", "IMAGES/IM0", "IMAGES/IM1"]
    assert {opened.read(name) for name in opened.namelist() if name != "DICOMDIR"} == set(files)
    opened.extractall(tmp_path)
    medium = file_set(tmp_path / "DICOMDIR")
    assert {each.SOPInstanceUID for each in medium} == {one.SOPInstanceUID, two.SOPInstanceUID}
    assert {each.InstanceNumber for each in medium} == {1, 2}
    assert {str(each.PatientName) for each in medium} == {str(one.PatientName)}


def test_a_medium_names_what_was_derived(web: httpx.Client, tmp_path: Path) -> None:
    values = np.zeros((64, 64), dtype="u1")
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    ds = dataset(Rows=64, Columns=64, PixelData=values.tobytes(), InstanceNumber=1, **eight)
    _stored(web, ds)
    url = f"/series/{_ids(ds).series}/media?extended&transcode={JPEGBaseline8Bit}"
    _opened(web.get(url)).extractall(tmp_path)
    (found,) = file_set(tmp_path / "DICOMDIR")
    loaded = dcmread(tmp_path / "IMAGES" / "IM0")
    assert found.SOPInstanceUID == loaded.SOPInstanceUID != ds.SOPInstanceUID
    (*_, record) = dcmread(tmp_path / "DICOMDIR").DirectoryRecordSequence
    assert record.ReferencedTransferSyntaxUIDInFile == loaded.file_meta.TransferSyntaxUID == JPEGBaseline8Bit


def test_archives_of_several_resources(web: httpx.Client) -> None:
    one, two, three = _image(PatientID="one"), _image(), _image(PatientID="three")
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(two, keyword, one[keyword].value)
    files = _stored(web, one, two, three)
    several = f"{_ids(two).instance},{_ids(three).patient},{_ids(two).instance}"
    opened = _opened(web.get("/tools/create-archive", params={"resources": several}))
    assert {opened.read(name) for name in opened.namelist()} == set(files[1:])
    whole = f"{_ids(two).instance},{_ids(one).series}"
    opened = _opened(web.get("/tools/create-archive", params={"resources": whole, "filename": "x.zip"}))
    assert {opened.read(name) for name in opened.namelist()} == set(files[:2])
    for name in ("create-media", "create-media-extended"):
        assert "DICOMDIR" in _opened(web.get(f"/tools/{name}", params={"resources": whole})).namelist()
    missing = web.get("/tools/create-archive", params={"resources": f"{whole},{'-'.join(['01234567'] * 5)}"})
    assert missing.status_code == 404
    assert web.get("/tools/create-archive").status_code == 400
    assert web.get("/tools/create-archive", params={"resources": ",".join(["x"] * 1001)}).status_code == 400


def test_file_as_dicom_json(web: httpx.Client) -> None:
    stored = web.post("/instances", content=ct(PatientID="J-1")).json()
    answer = web.get(f"{stored['Path']}/file", headers={"Accept": "application/dicom+json"})
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.json()["00100020"] == {"vr": "LO", "Value": ["J-1"]}


def test_file_as_xml(web: httpx.Client) -> None:
    file = ct(PatientName="Doe^Jane")
    stored = web.post("/instances", content=file).json()
    answers = [
        web.get(f"{stored['Path']}/file", headers={"Accept": "application/dicom+xml"}),
        web.get(f"{stored['Path']}/file?accept=application/dicom%2Bxml"),
    ]
    for answer in answers:
        assert answer.headers["content-type"] == "application/dicom+xml"
        found = {each.get("keyword"): "".join(each.itertext()) for each in ET.fromstring(answer.content)}
        assert (found["PatientName"], found["SOPInstanceUID"]) == ("DoeJane", dcmread(io.BytesIO(file)).SOPInstanceUID)
        assert "AvailableTransferSyntaxUID" not in found
