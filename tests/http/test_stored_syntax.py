"""Rules for the stored transfer syntax, in a server that runs: what clients notice of it, and what they do not."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.files import ct
from tests.http.bodies import ROOT, store
from tests.support import RunningServer, anor, running_server

EXPLICIT_LE = "1.2.840.10008.1.2.1"
HTJ2K = "1.2.840.10008.1.2.4.202"
RULES = "CT,MR,CR,DX=HTJ2KLosslessRPCL"
RAW = {"accept": f"application/octet-stream; transfer-syntax={EXPLICIT_LE}"}


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("ruled")
    with running_server(data) as before, httpx.Client(base_url=before.url, timeout=60) as client:
        assert store(client, ct(PatientID="BEFORE")).status_code == 200
    with running_server(data, transcode=RULES) as server:
        yield server


@pytest.fixture
def web(ruled: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=ruled.url, timeout=60) as client:
        yield client


def instance(web: httpx.Client, patient: str) -> tuple[str, dict]:
    """The path of a patient's only instance, and what QIDO-RS says of it."""
    (found,) = web.get(f"{ROOT}/instances?PatientID={patient}&includefield=all").json()
    study, series, sop = (found[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    return f"{ROOT}/studies/{study}/series/{series}/instances/{sop}", found


def becomes(web: httpx.Client, patient: str, syntax: str) -> str:
    end = time.monotonic() + 30
    while True:
        path, found = instance(web, patient)
        if found["00083002"]["Value"] == [syntax]:
            return path
        assert time.monotonic() < end, found["00083002"]
        time.sleep(0.1)


def test_clients_see_the_same_image_in_another_transfer_syntax(web: httpx.Client) -> None:
    pixels = np.add.outer(np.arange(512), np.arange(512)).astype("<u2")
    file = ct(PatientID="RULED", Rows=512, Columns=512, PixelData=pixels.tobytes())
    assert store(web, file).status_code == 200
    path = becomes(web, "RULED", HTJ2K)
    assert web.get(f"{path}/frames/1", headers=RAW).content == pixels.tobytes()
    part = web.get(f"{path}/frames/1", headers={"accept": "image/jphc", "range": "bytes=0-999"})
    assert (part.status_code, part.headers["content-type"]) == (206, f"image/jphc; transfer-syntax={HTJ2K}")
    (metadata,) = web.get(f"{path}/metadata").json()
    assert metadata["00280010"]["Value"] == [512]
    again = store(web, file)
    assert (again.status_code, "00081198" in again.json()) == (200, False)
    assert instance(web, "RULED")[1]["00083002"]["Value"] == [HTJ2K]


def test_what_was_there_before_is_transcoded_when_asked(ruled: RunningServer, web: httpx.Client) -> None:
    assert instance(web, "BEFORE")[1]["00083002"]["Value"] == [EXPLICIT_LE]
    refused = anor("transcode", data=str(ruled.data))
    assert (refused.returncode, "there are no rules" in refused.stderr) == (1, True)
    asked = anor("transcode", data=str(ruled.data), transcode=RULES)
    assert asked.returncode == 0, asked.stderr
    becomes(web, "BEFORE", HTJ2K)
    said = anor("status", data=str(ruled.data)).stdout
    assert "0 could not be" in said


def test_rules_that_are_none_are_refused_at_the_start(tmp_path: Path) -> None:
    said = anor("serve", data=str(tmp_path), transcode="CT=JPEGBaseline8Bit")
    assert said.returncode != 0
    assert "transcode" in said.stderr
    assert "HTJ2KLosslessRPCL" in said.stderr
