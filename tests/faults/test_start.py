"""Kill -9 while everything starts: on an empty directory, on one with data, in the middle of initdb and migrations."""

import random
import secrets
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.faults.killer import kill_all
from tests.faults.web import eventually, stow
from tests.files import ct
from tests.support import ROOT, anor, clean_environment, running_server, start_server


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=[pytest.mark.full, pytest.mark.timeout(400)])])
def test_a_start_that_is_killed_anywhere_can_be_repeated(tmp_path: Path, kills: int) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    data = tmp_path / "data"
    for _ in range(kills):
        server = start_server(data, wait=False, workers=1, fresh=True)
        time.sleep(dice.uniform(0.2, 2.5))
        kill_all(psutil.Process(server.process.pid))
        server.process.wait(30)
    with running_server(data, workers=1, fresh=True) as server, httpx.Client(base_url=server.url, timeout=60) as web:
        assert stow(web, [ct()]).status_code == 200
        assert web.get("/statistics").json()["CountInstances"] == 1


@pytest.mark.full
def test_an_import_that_is_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    folder, data = tmp_path / "folder", tmp_path / "data"
    folder.mkdir()
    for n in range(300):
        (folder / f"{n}.dcm").write_bytes(ct(InstanceNumber=n, StudyInstanceUID=f"1.2.3.{n % 7}"))
    with running_server(data, workers=1) as server, httpx.Client(base_url=server.url, timeout=60) as web:
        command = [sys.executable, "-m", "api.cli", "import", "--quiet", str(folder)]
        environment = clean_environment(PYTHONPATH=str(ROOT), ANOR_DATA=str(data))
        killed = 0
        for least in (1, 100):
            with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as importing:
                eventually(lambda least=least: _instances(web) >= least, 60, "some are imported")
                importing.kill()
                killed += importing.wait() == -9
        assert killed
        done = anor("import", "--quiet", str(folder), data=str(data))
        assert done.returncode == 0, done.stdout + done.stderr
        assert _instances(web) == 300
        checked = anor("fsck", "--deep", data=str(data))
        assert checked.returncode == 0, checked.stdout


def _instances(web: httpx.Client) -> int:
    return int(web.get("/statistics").json()["CountInstances"])
