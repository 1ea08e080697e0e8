"""Liveness, readiness when a part is missing, and metrics added up over the workers."""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import psutil
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from tests.faults.web import eventually
from tests.files import compressed, ct, new_uid
from tests.http.bodies import ROOT, problem, store
from tests.support import RunningServer, anor, running_server

SECONDS = 20.0  # in which every process has told its counts: they do so once a second


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that other files do not use. Tests of this one share it, so each counts what was added."""
    with running_server(tmp_path_factory.mktemp("own"), workers=1) as server:
        yield server


@pytest.fixture
def alone(own: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.url, timeout=60) as client:
        yield client


def _values(text: str, name: str) -> dict[str | None, float]:
    return {m[1]: float(m[2]) for m in re.finditer(rf"^{name}({{.*?}})? (\S+)$", text, re.MULTILINE)}


def _sum(text: str, name: str, **labels: str) -> float:
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(v for k, v in _values(text, name).items() if all(each in str(k) for each in wanted))


class Growth:
    """What was counted since this was made."""

    def __init__(self, web: httpx.Client) -> None:
        self._web = web
        self._before = web.get("/metrics").text

    def of(self, name: str, **labels: str) -> float:
        return _sum(self._web.get("/metrics").text, name, **labels) - _sum(self._before, name, **labels)

    def becomes(self, expected: float, name: str, **labels: str) -> None:
        """Wait until all processes have told: it is that, and no more."""
        end = time.monotonic() + SECONDS
        while (found := self.of(name, **labels)) < expected and time.monotonic() < end:
            time.sleep(0.05)
        assert found == expected, (name, labels)


def test_alive_and_ready(web: httpx.Client) -> None:
    assert web.get("/healthz").json() == {"status": "ok"}
    assert web.get("/readyz").json()["status"] == "ready"


def test_a_damaged_object_is_told_at_once(own: RunningServer) -> None:
    with httpx.Client(base_url=own.url, timeout=60) as web:
        assert web.get("/readyz").json() == {"status": "ready"}
        file = ct()
        identifier = web.post("/instances", content=file).json()["ID"]
        objects = (own.data / "objects/1").rglob("*")
        (path,) = [each for each in objects if each.is_file() and each.read_bytes() == file]
        growth = Growth(web)
        path.unlink()
        for _ in range(2):
            assert web.get(f"/instances/{identifier}/file").status_code == 500
        eventually(lambda: web.get("/readyz").json() == {"status": "ready", "damaged_objects": 1}, 10, "the note")
        growth.becomes(2, "anor_damaged_reads_total", reason="object-missing")
        assert "1 missing or damaged objects" in anor("status", data=str(own.data)).stdout
        assert web.post("/instances", content=file).json()["Status"] == "AlreadyStored"
        assert web.get("/readyz").json() == {"status": "ready"}
        assert web.get(f"/instances/{identifier}/file").content == file


def test_metrics_of_all_workers_together(server: RunningServer, web: httpx.Client) -> None:
    def counted() -> float:
        return _sum(web.get("/metrics").text, "anor_http_requests_total", route="/healthz")

    before, now = -1.0, counted()
    while before != now:  # what other tests asked may not have been told yet
        time.sleep(1.3)
        before, now = now, counted()
    growth = Growth(web)
    for _ in range(40):
        httpx.get(f"{server.url}/healthz")  # a connection each, so that both workers answer
    growth.becomes(40, "anor_http_requests_total", route="/healthz")


def test_metrics_name_no_one(web: httpx.Client) -> None:
    store(web, ct(PatientName="Canary^Metrics"), b"rubbish")
    web.get(f"{ROOT}/studies/1.2.3.4.5/metadata")
    answer = web.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "1.2.3.4.5" not in answer.text
    assert "Canary" not in answer.text
    requests = _values(answer.text, "anor_http_requests_total")
    assert any("{root}/studies/{study}/metadata" in key and 'code="404"' in key for key in requests)
    assert _values(answer.text, "anor_ingest_total")
    buckets = [
        v for k, v in _values(answer.text, "anor_http_request_seconds_bucket").items() if '"{root}/studies"' in k
    ]
    assert buckets


def test_metrics_of_decoders_and_caches(alone: httpx.Client) -> None:
    pixels = np.arange(64 * 64, dtype="<u2").reshape(64, 64) % 4096
    stream = bytes(imagecodecs.jpegls_encode(pixels))
    form = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "Rows": 64, "Columns": 64}
    syntax = "1.2.840.10008.1.2.4.80"
    plain = {"accept": "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"}
    growth = Growth(alone)
    good, broken, lying = (
        compressed([stream], syntax, **form),
        compressed([stream[:400] + b"\xff\xd9"], syntax, **form),
        compressed([stream], syntax, **form | {"Rows": 65}),
    )
    paths = []
    for file in (good, broken, lying):
        assert store(alone, file).status_code in (200, 202)
        paths.append(_path(file))
    answers = [alone.get(f"{path}/frames/1", headers=plain).status_code for path in (*paths, paths[0])]
    assert answers == [200, 422, 422, 200]
    assert [alone.get(f"{paths[0]}/thumbnail").status_code for _ in range(3)] == [200, 200, 200]
    for result, count in (("miss", 1), ("memory", 2)):
        growth.becomes(count, "anor_thumbnail_cache_total", result=result)
    growth.becomes(1, "anor_transcode_cache_total", result="hit")
    for outcome, frames in (("decoded", 2), ("failed", 1), ("refused", 1)):
        growth.becomes(frames, "anor_decoder_frames_total", codec="jpeg-ls", outcome=outcome)
    growth.becomes(4, "anor_decoder_frames_total")
    assert _sum(alone.get("/metrics").text, "anor_decoder_starts_total") >= 1


def test_metrics_of_database_and_object_store(own: RunningServer, alone: httpx.Client) -> None:
    growth = Growth(alone)
    body = ct()
    assert store(alone, body).status_code == 200
    assert alone.get(_path(body), headers={"accept": "application/dicom"}).content == body
    growth.becomes(1, "anor_objects_seconds_count", operation="write", outcome="ok")
    growth.becomes(len(body), "anor_objects_bytes_total", direction="written")
    assert growth.of("anor_objects_bytes_total", direction="read") >= len(body)
    before = growth.of("anor_database_seconds_count", outcome="ok")
    assert alone.get(f"{ROOT}/studies").status_code == 200
    assert growth.of("anor_database_seconds_count", outcome="ok") > before
    assert _sum(alone.get("/metrics").text, "anor_database_connections_in_use") >= 0
    with _gone(own):
        assert store(alone, ct()).status_code == 503
    assert growth.of("anor_objects_seconds_count", operation="write", outcome="unavailable") >= 1


def test_metrics_of_what_pydicom_had_to_read(alone: httpx.Client) -> None:
    growth = Growth(alone)
    assert store(alone, ct()).status_code == 200
    assert growth.of("anor_scan_fallbacks_total") == 0
    big = get_testdata_file("MR_small_bigendian.dcm", read=False)
    assert store(alone, Path(str(big)).read_bytes()).status_code in (200, 202)
    growth.becomes(1, "anor_scan_fallbacks_total", reason="big endian")


def test_metrics_of_processes_without_http(own: RunningServer, alone: httpx.Client, tmp_path: Path) -> None:
    """What comes by DIMSE and what the worker does are on the same page."""
    growth = Growth(alone)
    (tmp_path / "one.dcm").write_bytes(ct())
    call = ["storescu", "-aec", "ANOR", "127.0.0.1", str(own.dimse_port), str(tmp_path / "one.dcm")]
    subprocess.run(call, check=True, timeout=60)
    growth.becomes(1, "anor_ingest_total", outcome="stored")
    growth.becomes(1, "anor_objects_seconds_count", operation="write", outcome="ok")
    growth.becomes(1, "anor_dimse_associations_total", outcome="released")
    text = alone.get("/metrics").text
    assert _values(text, "anor_dimse_requests_total") == {'{operation="C-STORE",status="0000"}': 1}
    assert _values(text, "anor_dimse_associations_total") == {'{outcome="released"}': 1}
    assert _values(text, "anor_dimse_associations_open") == {None: 0}
    assert _values(text, "anor_dimse_received_bytes_total")[None] > len(ct())
    # What is asked of others, by whichever process: here we ask ourselves.
    declared = {"AET": "ANOR", "Host": "127.0.0.1", "Port": own.dimse_port}
    assert alone.put("/modalities/self", json=declared).is_success
    assert alone.post("/modalities/self/echo", json={}).is_success
    growth.becomes(1, "anor_dimse_scu_associations_total", outcome="released")
    text = alone.get("/metrics").text
    assert _values(text, "anor_dimse_scu_requests_total") == {'{operation="C-ECHO",status="0000"}': 1}
    assert _values(text, "anor_dimse_scu_associations_total") == {'{outcome="released",service="echo"}': 1}
    assert _values(text, "anor_dimse_scu_associations_open") == {'{service="echo"}': 0}
    assert growth.of("anor_dimse_scu_bytes_total", direction="sent") > 100
    # The DIMSE processes and the worker write what they count as the HTTP worker does.
    children = {str(child.pid) for child in psutil.Process(own.process.pid).children()}
    end = time.monotonic() + SECONDS
    while len(written := _writers(own)) < 1 + len(os.sched_getaffinity(0)) + 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert written <= children
    assert len(written) == 1 + len(os.sched_getaffinity(0)) + 1


def _writers(server: RunningServer) -> set[str]:
    return {path.stem for path in (server.data / "metrics" / str(server.process.pid)).glob("*.json")}


def _path(file: bytes) -> str:
    ds = dcmread(BytesIO(file), stop_before_pixels=True)
    return f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


@contextlib.contextmanager
def _gone(server: RunningServer) -> Iterator[Path]:
    """The place where the objects were."""
    objects = server.data / "objects"
    objects.rename(server.data / "away")
    try:
        yield objects
    finally:
        (server.data / "away").rename(objects)


def test_object_store_is_gone(own: RunningServer, alone: httpx.Client) -> None:
    assert alone.get("/readyz").status_code == 200
    study = new_uid()
    files = [ct(StudyInstanceUID=study) for _ in range(2)]
    with _gone(own) as objects:
        objects.write_bytes(b"a file where the directory was")
        try:
            answer = alone.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["status"] == "unavailable"
            assert answer.json()["reasons"]
            refused = store(alone, *files)
            assert (refused.status_code, problem(refused)) == (503, "unavailable")
            assert refused.headers["retry-after"]
            assert alone.get("/healthz").status_code == 200
            found = alone.get(f"{ROOT}/studies", params={"StudyInstanceUID": study})
            assert found.status_code == 204  # nothing half-written
        finally:
            objects.unlink()
    assert alone.get("/readyz").status_code == 200
    assert store(alone, *files).status_code == 200
