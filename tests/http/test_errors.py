"""Refusals: the one error table, what it says, and requests that are wrong before any route is asked."""

import re
import socket

import httpx
import pytest

from api.errors import HTTP_ONLY, TABLE, problem_json, problem_of, row_of
from dicomweb import errors as domain
from tests.files import ct, dataset, encoded
from tests.http.bodies import ROOT, problem, store
from tests.support import ROOT as TREE
from tests.support import RunningServer

CANARY = "Canary^Patient"


def _raw(server: RunningServer, request: bytes, *, end: bool = False) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(15)
        connection.sendall(request)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while b"\r\n\r\n" not in answer and (chunk := connection.recv(65536)):
            answer += chunk
        return answer


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def _classes(base: type[domain.ArchiveError]) -> list[type[domain.ArchiveError]]:
    return [base, *(each for child in base.__subclasses__() for each in _classes(child))]


def test_every_domain_error_has_a_row() -> None:
    public = [cls for cls in _classes(domain.ArchiveError) if cls.__module__ == domain.__name__]
    assert {cls for cls in public if cls is not domain.ArchiveError} == set(TABLE)


def test_documentation_lists_the_table() -> None:
    text = (TREE / "infra" / "docs" / "errors.md").read_text("utf-8")
    rows = {
        (slug, int(status), int(orthanc))
        for slug, status, orthanc in re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (-?\d+) \|", text, re.MULTILINE)
    }
    expected = {(cls.slug, row_of(cls).status, row_of(cls).orthanc) for cls in TABLE}
    expected |= {(slug, row.status, row.orthanc) for slug, row in HTTP_ONLY}
    assert rows == expected


def test_what_is_unexpected_says_nothing_of_itself() -> None:
    body = problem_json(problem_of(ValueError(CANARY, "/etc/secret")), "r-1")
    assert problem_of(ValueError(CANARY)).status == 500
    assert b"Canary" not in body
    assert b"secret" not in body


def test_full_storage_is_507() -> None:
    full = domain.Unavailable("the object store is full")
    full.reason = "full"  # type: ignore[attr-defined]  # set by the object stores
    assert problem_of(full).status == 507
    assert dict(problem_of(domain.Unavailable("down")).headers)[b"retry-after"]


def test_unknown_paths_and_methods(web: httpx.Client) -> None:
    for path in ("/nowhere", f"{ROOT}/nowhere", "/dicom-web", f"{ROOT}/studies/1.2/nowhere"):
        answer = web.get(path)
        assert (answer.status_code, problem(answer)) == (404, "not-found")
    answer = web.put(f"{ROOT}/studies")
    assert (answer.status_code, problem(answer)) == (405, "method-not-allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}
    assert web.request("BREW", "/healthz").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/dicom-web/studies/%3Cscript%3E/metadata",
        "/slides/%3Cscript%3E",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e",
    ],
)
def test_paths_are_not_reflected_and_lead_nowhere_else(web: httpx.Client, path: str) -> None:
    answer = web.get(path)
    assert answer.status_code in {400, 404}
    assert "script" not in answer.text
    assert problem(answer) in {"bad-request", "not-found"}


def test_patient_data_are_not_in_errors(web: httpx.Client) -> None:
    ds = dataset(PatientName=CANARY, PatientID="CANARY-ID")
    store(web, encoded(ds))
    ds.KVP = "80"
    answers = [
        store(web, encoded(ds)),
        store(web, encoded(ds), study="1.2.3"),
        store(web, encoded(ds)[:-3]),
        web.get(f"{ROOT}/studies", params={"PatientName": CANARY, "StudyDate": "x"}),
        web.get(f"{ROOT}/studies", params={CANARY: "1"}),
    ]
    assert all(answer.status_code >= 400 for answer in answers)
    assert not any("anary" in answer.text.lower() for answer in answers)


def test_log_has_no_patient_data(server: RunningServer, web: httpx.Client) -> None:
    store(web, encoded(dataset(PatientName=CANARY)), b"rubbish " + CANARY.encode())
    web.get(f"{ROOT}/studies", params={"PatientName": CANARY})
    assert "Canary" not in server.output()


def test_content_length_and_transfer_encoding(server: RunningServer) -> None:
    """One answer at most, and nothing of the second, smuggled request is executed."""
    smuggled = b"0\r\n\r\nGET /statistics HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST /instances HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = _raw(server, head + smuggled)
    assert _status(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1
    assert b"CountInstances" not in answer


@pytest.mark.parametrize(
    "headers", [b"X-A: b\r\n" * 101, b"X-A: " + b"b" * 40_000 + b"\r\n", b"X-A: " + b"b" * 2_000_000 + b"\r\n"]
)
def test_header_floods(server: RunningServer, headers: bytes) -> None:
    try:
        answer = _raw(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
    except ConnectionError:
        return  # cut while we still sent: as good a refusal
    assert _status(answer) == 431


@pytest.mark.parametrize("headers", [{f"x-{n}": "1" for n in range(31)}, {"x": "a" * 8200}])
def test_header_limits_are_settings(web: httpx.Client, strict: httpx.Client, headers: dict[str, str]) -> None:
    assert web.get("/healthz", headers=headers).status_code == 200
    answer = strict.get("/healthz", headers=headers)
    assert (answer.status_code, problem(answer)) == (431, "headers-too-large")
    said = "at most 30 header fields (max_headers) of 8192 bytes together (max_header_bytes)"
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "setting"),
    [("PatientID=" + "x" * 1500, "max_query_bytes"), ("&".join(["limit=1"] * 31), "max_query_parameters")],
)
def test_query_limits_are_settings(web: httpx.Client, strict: httpx.Client, query: str, setting: str) -> None:
    assert setting not in web.get(f"{ROOT}/studies?{query}").text
    for path in (f"{ROOT}/studies", "/patients", "/healthz"):
        answer = strict.get(f"{path}?{query}")
        assert answer.status_code == 400
        assert f"({setting})" in answer.text


def test_json_limits_are_settings(web: httpx.Client, strict: httpx.Client) -> None:
    body = {"Level": "Study", "Query": {}, "Padding": "x" * 70_000}
    assert web.post("/tools/find", json=body).status_code == 200
    answer = strict.post("/tools/find", json=body)
    assert (answer.status_code, answer.json()["Details"]) == (
        413,
        "the request body is larger than 65536 bytes (max_json)",
    )
    created = strict.post("/tools/create-dicom", json={"Tags": {}, "Content": "x" * 140_000})
    assert created.status_code == 413
    assert "(max_create_json)" in created.json()["Details"]


@pytest.mark.parametrize(
    ("headers", "setting"),
    [({f"x-{n}": "1" for n in range(5)}, "max_part_headers"), ({"x": "a" * 300}, "max_part_header_bytes")],
)
def test_limits_of_part_headers_are_settings(
    web: httpx.Client, strict: httpx.Client, headers: dict[str, str], setting: str
) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    body = f"--b\r\n{head}\r\n".encode() + ct() + b"\r\n--b--\r\n"
    given = {"content-type": 'multipart/related; type="application/dicom"; boundary=b'}
    assert web.post(f"{ROOT}/studies", content=body, headers=given).status_code == 200
    answer = strict.post(f"{ROOT}/studies", content=body, headers=given)
    assert (answer.status_code, problem(answer)) == (413, "too-large")
    assert f"({setting})" in answer.json()["detail"]


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /instances HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nabc",
        b"POST /instances HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /instances HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        b"POST /instances HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdeXX0\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_broken_framing_is_refused(server: RunningServer, web: httpx.Client, request_: bytes) -> None:
    before = web.get("/statistics").json()["CountInstances"]
    try:
        status = _status(_raw(server, request_, end=True))
    except ConnectionError:
        status = 0
    assert status == 0 or 400 <= status < 600
    assert web.get("/statistics").json()["CountInstances"] == before


def test_too_many_parameters(web: httpx.Client) -> None:
    answer = web.get(f"{ROOT}/studies?" + "&".join(["a=1"] * 1500))
    assert (answer.status_code, problem(answer)) == (400, "bad-query")


def test_the_server_still_answers(web: httpx.Client) -> None:
    assert web.get("/readyz").status_code == 200
    assert store(web, ct()).status_code == 200
