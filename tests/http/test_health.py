"""Liveness, readiness when a part is missing, and metrics added up over the workers."""

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
from tests.files import compressed, ct
from tests.http.bodies import ROOT, problem, store
from tests.support import RunningServer, anor, running_server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path / "own", workers=1) as server:
        yield server


def _values(text: str, name: str) -> dict[str, float]:
    return {m[1]: float(m[2]) for m in re.finditer(rf"^{name}({{.*?}})? (\S+)$", text, re.MULTILINE)}


def test_alive_and_ready(web: httpx.Client) -> None:
    assert web.get("/healthz").json() == {"status": "ok"}
    assert web.get("/readyz").json()["status"] == "ready"


def test_a_damaged_object_is_told_at_once(own: RunningServer) -> None:
    with httpx.Client(base_url=own.url, timeout=60) as web:
        assert web.get("/readyz").json() == {"status": "ready"}
        file = ct()
        identifier = web.post("/instances", content=file).json()["ID"]
        (path,) = [each for each in (own.data / "objects/1").rglob("*") if each.is_file()]
        path.unlink()
        for _ in range(2):
            assert web.get(f"/instances/{identifier}/file").status_code == 500
        eventually(lambda: web.get("/readyz").json() == {"status": "ready", "damaged_objects": 1}, 10, "the note")
        assert _count(web, "anor_damaged_reads_total", reason="object-missing") == 2
        assert "1 missing or damaged objects" in anor("status", data=str(own.data)).stdout
        assert web.post("/instances", content=file).json()["Status"] == "AlreadyStored"
        assert web.get("/readyz").json() == {"status": "ready"}
        assert web.get(f"/instances/{identifier}/file").content == file


def test_metrics_of_all_workers_together(server: RunningServer, web: httpx.Client) -> None:
    def counted() -> float:
        time.sleep(1.3)  # workers write their counts once a second
        text = web.get("/metrics").text
        return sum(v for k, v in _values(text, "anor_http_requests_total").items() if "/healthz" in k)

    before = counted()
    for _ in range(40):
        httpx.get(f"{server.url}/healthz")  # a connection each, so that both workers answer
    assert counted() - before == 40


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


def _count(web: httpx.Client, name: str, **labels: str) -> float:
    """A counter of one that has just been counted: workers write their counts once a second."""
    time.sleep(1.3)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(v for k, v in _values(web.get("/metrics").text, name).items() if all(each in k for each in wanted))


def test_metrics_of_decoders_and_caches(own: RunningServer) -> None:
    pixels = np.arange(64 * 64, dtype="<u2").reshape(64, 64) % 4096
    stream = bytes(imagecodecs.jpegls_encode(pixels))
    form = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "Rows": 64, "Columns": 64}
    syntax = "1.2.840.10008.1.2.4.80"
    plain = {"accept": "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"}
    with httpx.Client(base_url=own.url, timeout=60) as web:
        good, broken, lying = (
            compressed([stream], syntax, **form),
            compressed([stream[:400] + b"\xff\xd9"], syntax, **form),
            compressed([stream], syntax, **form | {"Rows": 65}),
        )
        paths = []
        for file in (good, broken, lying):
            ds = dcmread(BytesIO(file), stop_before_pixels=True)
            assert store(web, file).status_code in (200, 202)
            paths.append(
                f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
            )
        answers = [web.get(f"{path}/frames/1", headers=plain).status_code for path in (*paths, paths[0])]
        assert answers == [200, 422, 422, 200]
        assert [web.get(f"{paths[0]}/thumbnail").status_code for _ in range(3)] == [200, 200, 200]
        thumbnails = {result: _count(web, "anor_thumbnail_cache_total", result=result) for result in ("miss", "memory")}
        assert thumbnails == {"miss": 1, "memory": 2}
        assert _count(web, "anor_transcode_cache_total", result="hit") == 1
        for outcome, frames in (("decoded", 2), ("failed", 1), ("refused", 1)):
            assert _count(web, "anor_decoder_frames_total", codec="jpeg-ls", outcome=outcome) == frames
        assert _count(web, "anor_decoder_frames_total") == 4
        assert _count(web, "anor_decoder_starts_total") >= 1


def test_metrics_of_database_and_object_store(own: RunningServer) -> None:
    with httpx.Client(base_url=own.url, timeout=60) as web:
        body = ct()
        ds = dcmread(BytesIO(body))
        path = f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
        assert store(web, body).status_code == 200
        assert web.get(path, headers={"accept": "application/dicom"}).content == body
        assert _count(web, "anor_objects_seconds_count", operation="write", outcome="ok") == 1
        assert _count(web, "anor_objects_bytes_total", direction="written") == len(body)
        assert _count(web, "anor_objects_bytes_total", direction="read") >= len(body)
        before = _count(web, "anor_database_seconds_count", outcome="ok")
        assert web.get(f"{ROOT}/studies").status_code == 200
        assert _count(web, "anor_database_seconds_count", outcome="ok") > before
        assert _count(web, "anor_database_connections_in_use") >= 0
        objects = own.data / "objects"
        objects.rename(own.data / "away")
        assert store(web, ct()).status_code == 503
        (own.data / "away").rename(objects)
        assert _count(web, "anor_objects_seconds_count", operation="write", outcome="unavailable") >= 1


def test_metrics_of_what_pydicom_had_to_read(own: RunningServer) -> None:
    with httpx.Client(base_url=own.url, timeout=60) as web:
        assert store(web, ct()).status_code == 200
        assert _count(web, "anor_scan_fallbacks_total") == 0
        big = get_testdata_file("MR_small_bigendian.dcm", read=False)
        assert store(web, Path(str(big)).read_bytes()).status_code in (200, 202)
        assert _count(web, "anor_scan_fallbacks_total", reason="big endian") == 1


def test_metrics_of_processes_without_http(tmp_path: Path) -> None:
    """What comes by DIMSE and what the worker does are on the same page."""
    with (
        running_server(tmp_path / "own", workers=1) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        (tmp_path / "one.dcm").write_bytes(ct())
        call = ["storescu", "-aec", "ANOR", "127.0.0.1", str(server.dimse_port), str(tmp_path / "one.dcm")]
        subprocess.run(call, check=True, timeout=60)
        assert _count(web, "anor_ingest_total", outcome="stored") == 1
        text = web.get("/metrics").text
        assert _values(text, "anor_dimse_requests_total") == {'{operation="C-STORE",status="0000"}': 1}
        assert _values(text, "anor_dimse_associations_total") == {'{outcome="released"}': 1}
        assert _values(text, "anor_dimse_associations_open") == {None: 0}
        assert _values(text, "anor_dimse_received_bytes_total")[None] > len(ct())
        # What is asked of others, by whichever process: here we ask ourselves.
        declared = {"AET": "ANOR", "Host": "127.0.0.1", "Port": server.dimse_port}
        assert web.put("/modalities/self", json=declared).is_success
        assert web.post("/modalities/self/echo", json={}).is_success
        text = web.get("/metrics").text
        assert _values(text, "anor_dimse_scu_requests_total") == {'{operation="C-ECHO",status="0000"}': 1}
        assert _values(text, "anor_dimse_scu_associations_total") == {'{outcome="released",service="echo"}': 1}
        assert _values(text, "anor_dimse_scu_associations_open") == {'{service="echo"}': 0}
        assert _count(web, "anor_dimse_scu_bytes_total", direction="sent") > 100
        assert _count(web, "anor_objects_seconds_count", operation="write", outcome="ok") == 1
        # The DIMSE processes and the worker write what they count as the HTTP worker does.
        children = {str(child.pid) for child in psutil.Process(server.process.pid).children()}
        written = {path.stem for path in (server.data / "metrics" / str(server.process.pid)).glob("*.json")}
        assert written <= children
        assert len(written) == 1 + len(os.sched_getaffinity(0)) + 1


def test_object_store_is_gone(own: RunningServer) -> None:
    with httpx.Client(base_url=own.url) as web:
        assert web.get("/readyz").status_code == 200
        objects = own.data / "objects"
        objects.rename(own.data / "away")
        objects.write_bytes(b"a file where the directory was")
        answer = web.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        assert answer.json()["reasons"]
        refused = store(web, ct(), ct())
        assert (refused.status_code, problem(refused)) == (503, "unavailable")
        assert refused.headers["retry-after"]
        assert web.get("/healthz").status_code == 200
        assert web.get(f"{ROOT}/studies").status_code == 204  # nothing half-written
        objects.unlink()
        (own.data / "away").rename(objects)
        assert web.get("/readyz").status_code == 200
        assert store(web, ct(), ct()).status_code == 200
