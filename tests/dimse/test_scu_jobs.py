"""Jobs that ask other application entities, and workers that die: everything arrives, nothing is done again."""

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicomweb.errors import NotFound
from dimse_bridge.commitment_reports import take_report
from dimse_bridge.scu import Requestor
from dimse_bridge.tasks import COMMIT, GET, MOVE, STORE, as_content, classes_of, handlers, incoming
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.job_items import JobItems
from storage.job_runner import JobRunner
from storage.jobs import Job
from storage.modalities import Modality
from storage.retrieve import Instance
from storage.settings import Settings
from tests import files
from tests.dimse.programs import DCMTK, storescp
from tests.dimse.test_sending import received, stored
from tests.support import free_port, parts_over, running_worker


@pytest.fixture
async def archive(settings: Callable[..., Settings], database_url: str) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(database_url=database_url, dimse_timeout=5, jobs_at_once=2))
    yield opened
    await opened.close()


async def make(archive: Archive, modality: Modality, instances: list[Instance], **more: object) -> str:
    content = {"modality": as_content(modality), "said": {}} | more
    made = await archive.jobs.create(LOCAL, STORE, content, items=[each.sop for each in instances])
    assert made is not None
    return made


async def run(archive: Archive, name: str) -> Job:
    requestor = Requestor(archive)
    try:
        await JobRunner(archive, handlers(requestor)).step()
    finally:
        await requestor.close()
    return await archive.jobs.get(LOCAL, name)


async def test_a_worker_that_is_killed_while_it_sends(archive: Archive, tmp_path: Path) -> None:
    instances = await stored(archive, *(files.ct() for _ in range(60)))
    log = tmp_path / "log"
    with storescp(tmp_path / "peer", "-v", "--sleep-after", "0", log=log) as modality:
        name = await make(archive, modality, instances)
        with running_worker(archive.settings) as first:
            await parts_over(archive, name, 5)
            first.send_signal(signal.SIGKILL)
            first.wait()
        before = len(received(tmp_path / "peer"))
        await archive.db.fetch_sql("UPDATE job SET heartbeat_at = now() - interval '1 hour' WHERE state = 'running'")
        with running_worker(archive.settings):
            job = await asyncio.wait_for(archive.jobs.wait(LOCAL, name), 40)
    assert job.state == "success", job
    assert job.result == {"sent": 60, "failed": 0, "failures": []}
    assert set(received(tmp_path / "peer")) == {each.sop for each in instances}
    said = log.read_text("utf-8", "replace").count("Received Store Request")
    # What was sent in the last half second before the kill was not noted yet, and came again.
    assert 60 <= said <= 60 + before


async def test_jobs_go_on_with_what_is_not_done(archive: Archive, tmp_path: Path) -> None:
    instances = await stored(archive, *(files.ct() for _ in range(4)))
    port = free_port()
    name = await make(archive, Modality("x", "STORESCP", "127.0.0.1", port), instances)
    items = JobItems(archive.db, LOCAL.tenant, name)
    await items.note(1, 0)
    await items.note(2, 0xA700, "full")
    await items.flush()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dimse_bridge.sending._AGAIN_SECONDS", 0.01)
        failed = await run(archive, name)
    assert (failed.state, failed.error_kind) == ("failure", "peer-failed")
    assert await archive.jobs.resubmit(LOCAL, name)
    with storescp(tmp_path / "peer", port=port):
        assert (await run(archive, name)).state == "success"
    assert len(received(tmp_path / "peer")) == 3


async def test_an_instance_that_was_deleted_meanwhile(archive: Archive, tmp_path: Path) -> None:
    instances = await stored(archive, files.ct(), files.ct())
    with storescp(tmp_path / "peer") as modality:
        name = await make(archive, modality, instances, permissive=True)
        await archive.lifecycle.delete(LOCAL, instances[0].study)
        job = await run(archive, name)
    assert job.state == "success"
    assert (job.result["sent"], job.result["failed"]) == (1, 1)
    assert job.result["failures"][0]["status"] == 0x0112


async def test_jobs_beside_each_other(archive: Archive, tmp_path: Path) -> None:
    instances = await stored(archive, *(files.ct() for _ in range(3)))
    requestor = Requestor(archive)
    runner = JobRunner(archive, handlers(requestor), at_once=2)
    working = asyncio.create_task(runner.run())
    try:
        with storescp(tmp_path / "slow", "--sleep-after", "1") as slow, storescp(tmp_path / "fast") as fast:
            long = await make(archive, slow, instances)
            short = await make(archive, fast, instances)
            await archive.jobs.wait(LOCAL, short)
            assert (await archive.jobs.get(LOCAL, long)).state == "running"
            assert (await archive.jobs.wait(LOCAL, long)).state == "success"
    finally:
        working.cancel()
        await asyncio.wait([working])
        await requestor.close()


@contextlib.contextmanager
def dcmqrscp(folder: Path, instances: list[bytes], mover: int) -> Iterator[Modality]:
    """An archive of DCMTK's that knows where MOVER is."""
    (folder / "db").mkdir(parents=True)
    port = free_port()
    (folder / "cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nmover = (MOVER, 127.0.0.1, {mover})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQR {folder}/db RW (200, 1024mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen(
        ["dcmqrscp", "-c", folder / "cfg"],
        env=DCMTK,
        stdin=subprocess.DEVNULL,
    )
    try:
        for number, data in enumerate(instances):
            (folder / f"{number}.dcm").write_bytes(data)
        names = [str(folder / f"{number}.dcm") for number in range(len(instances))]
        deadline = time.monotonic() + 20
        while subprocess.run(["storescu", "-aec", "QR", "127.0.0.1", str(port), *names], check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Modality("qr", "QR", "127.0.0.1", port, local_aet="MOVER")
    finally:
        process.terminate()
        process.wait(10)


def item(study: str) -> list[str]:
    return [json.dumps({"level": "STUDY", "keys": {"StudyInstanceUID": study}})]


async def test_get_and_move_from_dcmqrscp(archive: Archive, tmp_path: Path) -> None:
    study, series = str(generate_uid()), str(generate_uid())
    data = [files.ct(StudyInstanceUID=study, SeriesInstanceUID=series) for _ in range(5)]
    with storescp(tmp_path / "mover") as mover, dcmqrscp(tmp_path / "qr", data, mover.port) as modality:
        requestor = Requestor(archive)
        question = Dataset()
        question.QueryRetrieveLevel = "STUDY"
        question.StudyInstanceUID = study
        question.NumberOfStudyRelatedInstances = ""
        model = "1.2.840.10008.5.1.4.1.2.2.1"
        answers = [each async for each in requestor.find(modality, question, model, limit=10)]
        assert [each.StudyInstanceUID for each in answers] == [study]
        question.QueryRetrieveLevel = "IMAGE"
        question.SeriesInstanceUID = series
        question.SOPInstanceUID = ""
        limited = [each async for each in requestor.find(modality, question, model, limit=2)]
        assert len(limited) == 2
        await requestor.close()
        content = {"modality": as_content(modality), "said": {}}
        got = await archive.jobs.create(LOCAL, GET, content, items=item(study))
        assert got is not None
        job = await run(archive, got)
        assert (job.state, job.result["completed"]) == ("success", 5), job
        [outcome] = await archive.jobs.outcomes(LOCAL, job)
        assert outcome.status == 0
        assert len(json.loads(outcome.comment)["received"]) == 5
        assert len((await archive.retrieve.instances(LOCAL, study))[1]) == 5
        moved = await archive.jobs.create(LOCAL, MOVE, content | {"target": "MOVER"}, items=item(study))
        assert moved is not None
        job = await run(archive, moved)
        assert (job.state, job.result["completed"]) == ("success", 5), job
        assert len(received(tmp_path / "mover")) == 5
        lost = await archive.jobs.create(LOCAL, MOVE, content | {"target": "NOBODY"}, items=item(study))
        assert lost is not None
        job = await run(archive, lost)
        assert (job.state, job.error_kind) == ("failure", "peer-failed")
        assert "0xA801" in (job.error or "")
        # Permissive: what fails does not keep the rest from being done.
        unreachable = content | {"modality": as_content(replace(modality, port=free_port())), "permissive": True}
        for asked, expected in (
            (content | {"target": "NOBODY", "permissive": True}, [0xA801, 0xA801]),
            (unreachable | {"target": "MOVER"}, [0x0110, 0x0110]),
        ):
            made = await archive.jobs.create(LOCAL, MOVE, asked, items=item(study) * 2)
            assert made is not None
            job = await run(archive, made)
            assert job.state == "success"
            assert [each.status for each in await archive.jobs.outcomes(LOCAL, job)] == expected


def test_classes_that_may_come() -> None:
    """Those that the request names come first: there is room for 126 classes in one association."""
    patched = "1.2.840.10008.5.1.4.34.10"
    named = classes_of({"SOPClassesInStudy": f"{patched}\\no class\\"})
    assert named == classes_of({"SOPClassesInStudy": [patched]}) == [patched]
    assert classes_of({}) == []
    proposals = [each.abstract_syntax for each in incoming(named)]
    assert proposals[0] == patched
    assert sorted(proposals[1:]) == sorted(each.abstract_syntax for each in incoming())
    many = [f"1.2.3.{number}" for number in range(200)]
    assert [each.abstract_syntax for each in incoming(many)] == many[:126]


async def test_commitment_is_noted(archive: Archive) -> None:
    uids = [str(generate_uid()) for _ in range(3)]
    transaction = str(generate_uid())
    await archive.asked.add_commitment(
        LOCAL, transaction, "PACS", [("1.2.840.10008.5.1.4.1.1.2", each) for each in uids]
    )
    assert not (await archive.asked.commitment(LOCAL, transaction)).answered
    report = Dataset()
    report.TransactionUID = transaction
    report.ReferencedSOPSequence = [_reference(uids[0]), _reference(uids[1])]
    report.FailedSOPSequence = [_reference(uids[2], 0x0112)]
    for stranger in ("OTHER", ""):
        with pytest.raises(NotFound):
            await take_report(archive, LOCAL.tenant, stranger, report)
    with pytest.raises(NotFound):
        await take_report(archive, 2, "PACS", report)
    await take_report(archive, LOCAL.tenant, "PACS", report)
    found = await archive.asked.commitment(LOCAL, transaction)
    assert found.answered
    assert {uid: reason for _, uid, reason in found.results} == {uids[0]: 0, uids[1]: 0, uids[2]: 0x0112}
    assert await archive.asked.expire() == 0


def _reference(uid: str, reason: int | None = None) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    made.ReferencedSOPInstanceUID = uid
    if reason is not None:
        made.FailureReason = reason
    return made


async def test_commitment_that_nobody_gives(archive: Archive, tmp_path: Path) -> None:
    transaction = str(generate_uid())
    await archive.asked.add_commitment(LOCAL, transaction, "STORESCP", [("1.2.3", "1.2.4")])
    with storescp(tmp_path / "peer") as modality:
        content = {"modality": as_content(modality), "transaction": transaction, "said": {}}
        name = await archive.jobs.create(LOCAL, COMMIT, content)
        assert name is not None
        job = await run(archive, name)
    assert (job.state, job.error_kind) == ("failure", "peer-failed")
