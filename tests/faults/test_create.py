"""Instances that are created together: whatever is killed or cut on the way, all of them are stored, or none."""

import threading
import time
from base64 import b64encode
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicomweb.creation.request import Creation
from dicomweb.errors import Conflict, IdentityMismatch, Unavailable
from storage.access import LOCAL
from storage.archive import Archive
from storage.provenance import Provenance
from tests.faults.killer import Victim
from tests.faults.stores import assert_sound, count, objects
from tests.faults.test_transcode_kills import patiently
from tests.support import anor, free_port

MANY = 150
PDF = f"data:application/pdf;base64,{b64encode(b'%PDF-1.4 of a page').decode()}"
REST = Provenance("rest")


def body(patient: str, number: int) -> dict[str, Any]:
    return {"Tags": {"PatientID": patient}, "Content": [PDF] * number}


async def create(archive: Archive, request: dict[str, Any]) -> int:
    files = archive.creation.files(LOCAL, Creation.parse(request))
    try:
        return len(await archive.ingest.store_together(LOCAL, files, REST))
    finally:
        await files.aclose()


@pytest.mark.parametrize("statement", ["ingest_commit(", "COMMIT;"])
@pytest.mark.parametrize("action", ["cut-before", "cut-after", "cut-answered"])
async def test_an_answer_lost_at_commit_is_found_out(behind, proxy, statement, action):
    assert await create(behind, body("A", 2)) == 2  # connections and prepared statements are there
    proxy.arm(statement, action)
    assert await create(behind, body("B", 20)) == 20
    assert proxy.hits == 1
    with suppress(Unavailable):  # an answer may overtake the cut: the connection looks alive until it is used
        await count(behind, "instance")
    assert (await count(behind, "instance"), await count(behind, "intent")) == (22, 0)
    assert len(await objects(behind)) == 22
    await assert_sound(behind)


async def test_a_commit_that_never_happens_leaves_nothing(behind, proxy):
    proxy.arm("COMMIT;", "cut-before", times=1000)
    with pytest.raises(Unavailable):
        await create(behind, body("A", 20))
    proxy.arm("COMMIT;", "cut-before", times=0)
    assert (await count(behind, "instance"), await count(behind, "study")) == (0, 0)
    await assert_sound(behind)
    assert await create(behind, body("A", 20)) == 20


async def test_one_that_was_swept_keeps_all_from_the_archive(archive, monkeypatch):
    """The lease of one object has ended: the sweeper has it, whatever became of the others."""
    committer = archive.ingest._committer(LOCAL.tenant)
    together = committer.commit_together

    async def swept(items):
        await archive.db.fetch_sql("UPDATE intent SET claimed_at = now() WHERE key = $1", items[3].key)
        return await together(items)

    monkeypatch.setattr(committer, "commit_together", swept)
    with pytest.raises(Unavailable):
        await create(archive, body("A", 5))
    assert (await count(archive, "instance"), await count(archive, "series"), await count(archive, "change")) == (
        0,
        0,
        0,
    )
    monkeypatch.undo()
    assert await create(archive, body("A", 5)) == 5
    await assert_sound(archive)


@pytest.mark.parametrize(("stored", "error"), [("same", Conflict), ("elsewhere", IdentityMismatch), ("", Conflict)])
async def test_one_that_is_not_new_keeps_all_from_the_archive(archive, stored, error):
    """In its series, in another, or twice in the request."""
    given, place = {"SOPInstanceUID": "2.25.77"}, {"StudyInstanceUID": "2.25.7", "SeriesInstanceUID": "2.25.70"}
    tags = {"PatientID": "A"}
    if stored:
        single = Creation.parse({"Tags": tags | place | given, "Content": PDF, "Force": True})
        async for each in archive.creation.files(LOCAL, single):
            await archive.ingest.store(LOCAL, each, REST)
    content = [{"Content": PDF}, {"Content": PDF, "Tags": given}, {"Content": PDF, "Tags": {} if stored else given}]
    with pytest.raises(error):
        await create(archive, {"Tags": tags | (place if stored == "same" else {}), "Content": content, "Force": True})
    assert await count(archive, "instance") == bool(stored)
    await assert_sound(archive)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kind",
    ["HTTP worker", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("everything", "database backend"))],
)
def test_a_kill_at_any_moment_leaves_all_or_nothing(tmp_path: Path, kind: str) -> None:
    """Killed with the first object, in the middle, and when all objects are there; who looks meanwhile sees no part."""
    port = free_port()
    victim = Victim(tmp_path, port, workers=1, dimse_port=0)
    stored, nothing = 0, 0
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as web:
            for turn, moment in enumerate((1, MANY // 2, MANY)):
                before = len(_files(tmp_path))
                answers: list[int] = []
                sender = threading.Thread(target=_send, args=(port, f"P{turn}", answers))
                sender.start()
                end = time.monotonic() + 60
                while len(_files(tmp_path)) - before < moment and sender.is_alive():
                    assert time.monotonic() < end
                victim.kill(kind)
                made = len(_files(tmp_path)) - before
                sender.join(60)
                instances = patiently(partial(web.get, "/statistics")).json()["CountInstances"]
                assert instances in {stored, stored + MANY}
                if answers == [200]:
                    assert instances == stored + MANY
                elif made < MANY and kind != "database backend":
                    assert instances == stored  # no row before the last object
                    nothing += 1
                stored = instances
            again = patiently(partial(web.post, "/tools/create-dicom", json=body("Q", MANY))).json()
            assert len(web.get(again["Path"]).json()["Instances"]) == MANY
            assert web.get("/statistics").json()["CountInstances"] == stored + MANY
    finally:
        victim.server.stop()
    assert nothing or kind == "database backend"
    sound = anor("fsck", "--deep", data=str(tmp_path))
    assert sound.returncode == 0, sound.stdout


def _files(data: Path) -> list[Path]:
    return [path for path in (data / "objects").rglob("*") if path.is_file()]


def _send(port: int, patient: str, answers: list[int]) -> None:
    try:
        url = f"http://127.0.0.1:{port}/tools/create-dicom"
        answers.append(httpx.post(url, json=body(patient, MANY), timeout=60).status_code)
    except httpx.TransportError:
        answers.append(0)
