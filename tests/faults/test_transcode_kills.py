"""Kill -9 of the worker, and of the database below it, while instances are exchanged for transcoded ones."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.faults.killer import Victim
from tests.files import ct, new_uid
from tests.http.bodies import ROOT, store
from tests.support import anor, end_leases, free_port

JPEG_LS = "1.2.840.10008.1.2.4.80"
RAW = {"accept": "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"}
KINDS = ["job worker", "database backend", "everything", "job worker", "PostgreSQL"]


def patiently(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask until the archive is up again."""
    end = time.monotonic() + 60
    while True:
        with suppress(httpx.TransportError):
            answer = send()
            if answer.status_code == 200:
                return answer
        assert time.monotonic() < end
        time.sleep(0.2)


def kill(victim: Victim, number: int) -> None:
    """Kill one after the other; what a worker that is dead had claimed is free at once."""
    kind = KINDS[number % len(KINDS)]
    if victim.kill(kind) and kind in ("job worker", "everything"):
        end_leases(victim.server)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.full)])
def test_kills_while_objects_are_exchanged_lose_nothing(tmp_path: Path, kills: int) -> None:
    port, dice = free_port(), random.Random(kills)
    victim = Victim(tmp_path, port, transcode="*=JPEGLSLossless", sweep_quarantine_s=1, tomb_grace_s=1, dimse_port=0)
    study, pixels = new_uid(), {}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as web:
        try:
            for number in range(kills):
                for _ in range(12):
                    values = np.random.default_rng(len(pixels)).integers(0, 4096, (64, 64), np.uint16).tobytes()
                    sop = new_uid()
                    file = ct(StudyInstanceUID=study, SOPInstanceUID=sop, Rows=64, Columns=64, PixelData=values)
                    patiently(partial(store, web, file))
                    pixels[sop] = values
                time.sleep(dice.uniform(0, 1.5))
                kill(victim, number)
            end = time.monotonic() + 120
            while True:
                rows = patiently(partial(web.get, f"{ROOT}/studies/{study}/instances?limit=10000")).json()
                syntaxes = {row["00080018"]["Value"][0]: row["00083002"]["Value"][0] for row in rows}
                if set(syntaxes.values()) == {JPEG_LS}:
                    break
                assert time.monotonic() < end, syntaxes
                time.sleep(0.5)
            assert syntaxes.keys() == pixels.keys()
            for row in rows:
                series, sop = row["0020000E"]["Value"][0], row["00080018"]["Value"][0]
                path = f"{ROOT}/studies/{study}/series/{series}/instances/{sop}/frames/1"
                assert web.get(path, headers=RAW).content == pixels[sop]
            sound = anor("fsck", "--deep", data=str(tmp_path))
            assert sound.returncode == 0, sound.stdout
        finally:
            victim.server.stop()
