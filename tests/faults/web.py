"""Requests of the fault tests, and what their answers must look like."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from pydicom.uid import generate_uid

from tests.files import ct

ROOT = "/dicom-web"


def multipart(files: list[bytes]) -> bytes:
    parts = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in files)
    return parts + b"--b--\r\n"


def stow(client: httpx.Client, files: list[bytes]) -> httpx.Response:
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    return client.post(f"{ROOT}/studies", content=multipart(files), headers={"content-type": kind})


def reasons(answer: httpx.Response) -> list[int]:
    """The FailureReason of each instance that was refused, the identified ones first."""
    items = [i for tag in ("00081198", "0008119A") for i in answer.json().get(tag, {}).get("Value", [])]
    return [item["00081197"]["Value"][0] for item in items]


def stored(answer: httpx.Response) -> list[str]:
    """The SOP Instance UIDs that were stored."""
    return [item["00081155"]["Value"][0] for item in answer.json().get("00081199", {}).get("Value", [])]


def large(mebibytes: int, **attributes: Any) -> bytes:
    """A CT of about that size."""
    rows = mebibytes << 9
    return ct(Rows=rows, Columns=1024, PixelData=bytes(rows * 2048), **attributes)


def instance_path(study: str, series: str, sop: str) -> str:
    return f"{ROOT}/studies/{study}/series/{series}/instances/{sop}"


def requests(study: str, series: str, sop: str) -> dict[str, Callable[[httpx.Client], httpx.Response]]:
    """One of each kind, as a function of the client."""
    path = instance_path(study, series, sop)
    other = str(generate_uid())
    return {
        "STOW": lambda c: stow(c, [ct(), ct()]),
        "POST": lambda c: c.post("/instances", content=ct()),
        "search": lambda c: c.get(f"{ROOT}/studies", params={"PatientID": "P-1"}),
        "metadata": lambda c: c.get(f"{ROOT}/studies/{study}/metadata"),
        "frame": lambda c: c.get(f"{path}/frames/1"),
        "instance": lambda c: c.get(path, headers={"accept": "application/dicom"}),
        "delete": lambda c: c.delete(f"{ROOT}/studies/{other}"),
        "statistics": lambda c: c.get("/statistics"),
        "readiness": lambda c: c.get("/readyz"),
    }


def assert_unavailable(answer: httpx.Response, *, status: int = 503) -> None:
    """A problem document, or Orthanc's JSON, or the readiness report."""
    assert answer.status_code == status, answer.text
    kind = answer.headers["content-type"]
    body = answer.json()
    if kind == "application/problem+json":
        assert (body["status"], body["slug"]) == (status, {503: "unavailable", 507: "storage-full"}[status])
        assert status == 507 or "retry-after" in answer.headers
    elif "reasons" in body:
        assert body["reasons"]
    else:
        assert body["HttpStatus"] == status
    assert "Traceback" not in answer.text


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    taken = time.monotonic() - began
    assert taken < seconds, f"{taken:.1f} s instead of {seconds} s"


def eventually(check: Callable[[], bool], seconds: float, what: str, *, every: float = 0.05) -> None:
    """Wait until `check` holds, asking `every` so many seconds."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(every)


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
