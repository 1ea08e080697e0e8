"""POST /instances, GET /statistics and GET /system as Orthanc's clients use them."""

import gzip
import http.client
import io
import os
import socket
import time
import zipfile
from collections.abc import Iterator

import httpx
import pytest
from pydicom.dataset import Dataset

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
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], {"Content-Encoding": "gzip"}, 400, 8),
        (gzip.compress(b"x", mtime=0) + b"more", {"Content-Encoding": "gzip"}, 400, 8),
        (b"x", {"Content-Encoding": "br"}, 415, 3000),
        (b"PK\x03\x04" + bytes(100), {}, 400, 8),
        (b"--b--", {"Content-Type": "multipart/form-data; boundary=b"}, 400, 15),
        (b"--c--", {"Content-Type": "multipart/form-data; boundary=b"}, 400, 8),
        (b"--b--", {"Content-Type": "multipart/related; boundary=b"}, 415, 3000),
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
    early = web.post("/instances", content=_slowly(1 << 20, seconds=4), headers={"Content-Encoding": "br"})
    assert (early.status_code, early.headers["connection"]) == (415, "close")
    asking = {"Content-Encoding": "br", "Expect": "100-continue"}
    assert web.post("/instances", content=bytes(1000), headers=asking).headers["connection"] == "close"
    assert web.get("/healthz").status_code == 200
    for whole in (web.post("/instances", content=ct()), web.get("/system"), web.post("/healthz")):
        assert "connection" not in whole.headers


def _slowly(size: int, *, seconds: float) -> Iterator[bytes]:
    yield bytes(size)
    time.sleep(seconds)
    yield b"end"


@pytest.mark.parametrize("size", [1000, 200_000, 20 << 20])
def test_a_client_that_sends_everything_first_sees_why_it_is_refused(web: httpx.Client, size: int) -> None:
    """And may go on: the connection is whole."""
    head = f"Host: x\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", web.base_url.port or 0), timeout=30) as client:
        for path, status in (("/dicom-web/studies", 415), ("/nothing", 404), ("/healthz", 405)):
            client.sendall(f"POST {path} HTTP/1.1\r\n{head}".encode() + bytes(size))
            answer = http.client.HTTPResponse(client)
            answer.begin()
            answer.read()
            assert (answer.status, answer.headers["connection"]) == (status, None)


def _zip(*members: tuple[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


def _id(ds: Dataset) -> str:
    return orthanc_ids(ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID).instance


@pytest.mark.parametrize("padding", [0, 12_000_000])  # in memory, and in a file
def test_zip(web: httpx.Client, padding: int) -> None:
    """One answer for each instance, in the order of names; what is no DICOM file is passed over."""
    one, two = dataset(), dataset()
    content = _zip(
        ("b/../../two", encoded(two)),
        ("readme.txt", b"hello" + os.urandom(padding)),
        ("a/one.dcm", encoded(one)),
        ("empty", b""),
        ("cut.dcm", encoded(dataset())[:-100]),
    )
    answer = _upload(web, content)
    assert answer.status_code == 200
    first, second, third = answer.json()
    assert (first["ID"], first["Status"]) == (_id(one), "Success")
    assert (second["ID"], second["Status"]) == (_id(two), "Success")
    assert (third["Name"], third["Status"]) == ("cut.dcm", "Failure")
    assert "cut" in third["Details"]
    assert [each["Status"] for each in _upload(web, content).json()] == ["AlreadyStored", "AlreadyStored", "Failure"]
    assert _upload(web, _zip(("readme.txt", b"hello"))).json() == []
    compressed = _upload(web, gzip.compress(content), **{"Content-Encoding": "gzip"})
    assert [each["Status"] for each in compressed.json()] == ["AlreadyStored", "AlreadyStored", "Failure"]


def test_hostile_zips(web: httpx.Client, strict: httpx.Client) -> None:
    bomb = _upload(web, _zip(("bomb.dcm", encoded(dataset()) + bytes(300 << 20)))).json()
    assert [(each["Status"], "inflates more" in each["Details"]) for each in bomb] == [("Failure", True)]
    damaged = bytearray(_zip(("one.dcm", encoded(dataset()))))
    damaged[300:320] = bytes(20)
    assert [each["Status"] for each in _upload(web, bytes(damaged)).json()] == ["Failure"]
    many = _upload(strict, _zip(*((str(number), b"") for number in range(4))))
    assert (many.status_code, "more than 3 members" in many.json()["Details"]) == (413, True)


def test_form(web: httpx.Client) -> None:
    one, two, three = dataset(), dataset(), dataset()
    single = web.post("/instances", files={"f": ("one.dcm", encoded(one))})
    assert (single.status_code, single.json()["ID"], single.json()["Status"]) == (200, _id(one), "Success")
    several = web.post(
        "/instances",
        data={"field": "of the form"},
        files=[("f", ("a", encoded(two))), ("f", ("b.zip", _zip(("c", encoded(three)), ("d", encoded(one)))))],
    )
    assert [each["Status"] for each in several.json()] == ["Success", "Success", "AlreadyStored"]
    assert [each["ID"] for each in several.json()] == [_id(two), _id(three), _id(one)]
    refused = web.post("/instances", files={"f": ("x.txt", b"hello")})
    assert (refused.status_code, refused.json()["OrthancStatus"]) == (400, 15)


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
