"""POST /instances, GET /statistics and GET /system as Orthanc's clients use them."""

import gzip
import os

import httpx
import pytest

from dicomweb.uids import orthanc_ids
from tests.files import ct, dataset, encoded


def _upload(web: httpx.Client, content: bytes, **headers: str) -> httpx.Response:
    return web.post("/instances", content=content, headers=headers)


def test_upload(web: httpx.Client) -> None:
    ds = dataset()
    ids = orthanc_ids(ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    answer = _upload(web, encoded(ds))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "ID": ids.instance,
        "Path": f"/instances/{ids.instance}",
        "Status": "Success",
        "ParentPatient": ids.patient,
        "ParentStudy": ids.study,
        "ParentSeries": ids.series,
    }
    assert _upload(web, encoded(ds)).json() == answer.json() | {"Status": "AlreadyStored"}
    ds.KVP = "80"
    assert _upload(web, encoded(ds)).json() == answer.json() | {"Status": "AlreadyStored"}


def test_large_duplicate_is_named_too(web: httpx.Client) -> None:
    """Above the memory of a spool the file has gone by the time it is refused."""
    ds = dataset(Rows=2000, Columns=2500, PixelData=bytes(10_000_000))
    first = _upload(web, encoded(ds))
    ds.KVP = "80"
    assert _upload(web, encoded(ds)).json() == first.json() | {"Status": "AlreadyStored"}


def test_url_with_a_doubled_slash(web: httpx.Client) -> None:
    answer = web.send(web.build_request("POST", f"{web.base_url}//instances", content=ct()))
    assert answer.json()["Status"] == "Success"


def test_chunked_and_gzip(web: httpx.Client) -> None:
    file = ct()
    chunks = (file[start : start + 100] for start in range(0, len(file), 100))
    assert web.post("/instances", content=chunks).json()["Status"] == "Success"
    assert _upload(web, gzip.compress(ct()), **{"Content-Encoding": "gzip"}).json()["Status"] == "Success"


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 400, 15),
        (b"hello", {}, 400, 15),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400, 8),
        (gzip.compress(b"x" * 1000)[:-9], {"Content-Encoding": "gzip"}, 400, 8),
        (gzip.compress(b"x") + b"more", {"Content-Encoding": "gzip"}, 400, 8),
        (b"x", {"Content-Encoding": "br"}, 415, 3000),
        (b"PK\x03\x04" + bytes(100), {}, 415, 3000),
        (b"--b--", {"Content-Type": "multipart/form-data; boundary=b"}, 415, 3000),
    ],
)
def test_what_is_not_taken(web: httpx.Client, content: bytes, headers: dict[str, str], status: int, code: int) -> None:
    answer = _upload(web, content, **headers)
    assert answer.status_code == status
    error = answer.json()
    assert (error["HttpStatus"], error["OrthancStatus"]) == (status, code)
    assert error["Method"] == "POST"
    assert error["Uri"] == "/instances"
    assert error["Message"]
    assert error["Details"]


def test_gzip_bomb(web: httpx.Client) -> None:
    bomb = gzip.compress(bytes(300 << 20), compresslevel=9)
    assert len(bomb) < 1 << 20
    answer = _upload(web, bomb, **{"Content-Encoding": "gzip"})
    assert answer.status_code == 413


def test_limits(strict: httpx.Client) -> None:
    assert _upload(strict, os.urandom(200_000)).status_code == 413
    assert _upload(strict, os.urandom(400_000)).status_code == 413


def test_an_answer_that_leaves_the_body_unread_ends_the_connection(web: httpx.Client) -> None:
    """Or a client sends its next request on a connection that the server is about to close."""
    early = web.post("/instances", content=b"PK\x03\x04" + bytes(2 << 20))
    assert (early.status_code, early.headers["connection"]) == (415, "close")
    assert web.get("/healthz").status_code == 200
    assert web.post("/healthz", content=bytes(1000)).headers["connection"] == "close"
    for whole in (web.post("/instances", content=ct()), web.get("/system"), web.post("/healthz")):
        assert "connection" not in whole.headers


def test_statistics_count(web: httpx.Client) -> None:
    before = web.get("/statistics").json()
    files = [ct(PatientID=f"S-{os.urandom(6).hex()}") for _ in range(2)]
    for file in files:
        _upload(web, file)
    after = web.get("/statistics").json()
    assert after["CountInstances"] - before["CountInstances"] == 2
    assert after["CountPatients"] - before["CountPatients"] == 2
    assert int(after["TotalDiskSize"]) - int(before["TotalDiskSize"]) == sum(map(len, files))
    assert isinstance(after["TotalDiskSizeMB"], int)


def test_system(web: httpx.Client) -> None:
    system = web.get("/system").json()
    assert system["Name"] == "Anor"
    assert system["DicomAet"] == "ANOR"
