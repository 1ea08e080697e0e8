"""Kill -9 while everything starts: on an empty directory, on one with data, in the middle of initdb and migrations."""

import random
import secrets
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.faults.killer import kill_all
from tests.faults.web import stow
from tests.files import ct
from tests.support import running_server, start_server


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.full, pytest.mark.timeout(400)])])
def test_a_start_that_is_killed_anywhere_can_be_repeated(tmp_path: Path, kills: int) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    data = tmp_path / "data"
    for _ in range(kills):
        server = start_server(data, wait=False, workers=1)
        time.sleep(dice.uniform(0.2, 2.5))
        kill_all(psutil.Process(server.process.pid))
        server.process.wait(30)
    with running_server(data, workers=1) as server, httpx.Client(base_url=server.url, timeout=60) as web:
        assert stow(web, [ct()]).status_code == 200
        assert web.get("/statistics").json()["CountInstances"] == 1
