"""WADO-RS resources as ZIP files (PS3.18 8.7.3.1)."""

from io import BytesIO
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from tests.files import compressed, ct, new_uid
from tests.http.bodies import ROOT, problem, store

Stored = tuple[str, list[bytes]]


@pytest.fixture
def study(web: httpx.Client) -> Stored:
    """The path of a study of two series of two, and its files."""
    uid, series = new_uid(), [new_uid(), new_uid()]
    files = [
        ct(StudyInstanceUID=uid, SeriesInstanceUID=each, SeriesNumber=s, InstanceNumber=n)
        for s, each in enumerate(series)
        for n in (1, 2)
    ]
    assert store(web, *files).status_code == 200
    return f"{ROOT}/studies/{uid}", files


def members(answer: httpx.Response) -> list[bytes]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    with ZipFile(BytesIO(answer.content)) as opened:
        return [opened.read(name) for name in opened.namelist()]


def test_three_levels_as_stored(web: httpx.Client, study: Stored) -> None:
    path, files = study
    first = dcmread(BytesIO(files[0]))
    series = f"{path}/series/{first.SeriesInstanceUID}"
    one = f"{series}/instances/{first.SOPInstanceUID}"
    for place, expected in ((path, files), (series, files[:2]), (one, files[:1])):
        for accept in ("application/zip", "application/zip; transfer-syntax=*", "image/png, application/zip;q=0.5"):
            answer = web.get(place, headers={"accept": accept})
            assert members(answer) == expected
            assert answer.headers["content-disposition"] == f'attachment; filename="{place.rpartition("/")[2]}.zip"'
        assert members(web.get(f"{place}?accept=application/zip")) == expected
    tag = web.get(path, headers={"accept": "application/zip"}).headers["etag"]
    assert web.get(path, headers={"accept": "application/zip", "if-none-match": tag}).status_code == 304
    part = web.get(path, headers={"accept": "application/zip", "range": "bytes=10-99", "if-range": tag})
    assert (part.status_code, part.content) == (206, web.get(f"{path}?accept=application/zip").content[10:100])


def test_dicom_is_sent_where_it_is_wanted_sooner(web: httpx.Client, study: Stored) -> None:
    for accept in (None, "*/*", 'application/zip;q=0.5, multipart/related; type="application/dicom"'):
        answer = web.get(study[0], headers={} if accept is None else {"accept": accept})
        assert answer.headers["content-type"].startswith("multipart/related")


def test_files_in_a_transfer_syntax(web: httpx.Client, study: Stored) -> None:
    path, files = study
    broken = compressed([b"no image"], JPEGLSLossless, StudyInstanceUID=path.rpartition("/")[2], SeriesNumber=9)
    store(web, broken)
    found = members(web.get(path, headers={"accept": f"application/zip; transfer-syntax={JPEGLSLossless}"}))
    assert [dcmread(BytesIO(each)).file_meta.TransferSyntaxUID for each in found] == [JPEGLSLossless] * 5
    for before, after in zip(files, found, strict=False):
        assert np.array_equal(dcmread(BytesIO(before)).pixel_array, dcmread(BytesIO(after)).pixel_array)
    native = members(web.get(path, headers={"accept": f"application/zip; transfer-syntax={ExplicitVRLittleEndian}"}))
    assert native == [*files, broken]  # what cannot be decoded comes as stored


def test_refusals(web: httpx.Client, study: Stored) -> None:
    path, _ = study
    refused = web.get(path, headers={"accept": "application/zip; transfer-syntax=1.2.3"})
    assert (refused.status_code, problem(refused)) == (406, "not-acceptable")
    assert JPEGLSLossless in refused.json()["detail"]
    other = web.get(path, headers={"accept": "image/png"})
    assert (other.status_code, other.json()["detail"].endswith(", application/zip")) == (406, True)
    for place in (f"{ROOT}/studies/1.2", f"{path}/series/1.2", f"{path}/series/1.2/instances/1.3"):
        gone = web.get(place, headers={"accept": "application/zip"})
        assert (gone.status_code, problem(gone)) == (404, "not-found")
