"""Kill -9 of the worker, and of the database below it, while coarse levels are made."""

import random
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.faults.killer import Victim
from tests.faults.test_transcode_kills import kill, patiently
from tests.http.bodies import store
from tests.support import anor, free_port
from tests.wsi.make_slide import make_slide


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.full)])
def test_kills_while_levels_are_made_leave_nothing_half(tmp_path: Path, kills: int) -> None:
    port, dice = free_port(), random.Random(kills)
    victim = Victim(tmp_path, port, derive_levels_after_s=1, sweep_quarantine_s=1, tomb_grace_s=1, dimse_port=0)
    slides = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as web:
        try:
            for number in range(kills):
                slides.append(made := make_slide(3000, 2000, levels=1))
                patiently(partial(store, web, *made.files))
                time.sleep(dice.uniform(1, 8))
                kill(victim, number)
            end = time.monotonic() + 180
            for made in slides:
                while True:
                    levels = patiently(partial(web.get, f"/wsi/slides/{made.series}")).json()["levels"]
                    if [level["derived"] for level in levels] == [False, True]:
                        break
                    assert time.monotonic() < end, levels
                    time.sleep(0.5)
                last = levels[-1]
                for x in range(last["columns"]):
                    for y in range(last["rows"]):
                        # The first statement on a connection that was cut is a 503.
                        patiently(partial(web.get, f"/wsi/slides/{made.series}/tiles/1/{x}/{y}"))
            sound = anor("fsck", "--deep", data=str(tmp_path))
            assert sound.returncode == 0, sound.stdout
        finally:
            victim.server.stop()
