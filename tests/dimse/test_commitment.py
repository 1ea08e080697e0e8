"""Storage commitment with us as the SCP: what is promised, where it is said, how often it is tried."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_ACTION

from dimse_bridge import commitment as module
from dimse_bridge.contexts import COMMITMENT
from dimse_bridge.scu import COMMITMENT_INSTANCE, Requestor
from storage.access import LOCAL
from storage.archive import Archive
from storage.commitment import KIND, MAX_INSTANCES
from storage.job_runner import JobRunner
from storage.jobs import Claimed, Job, JobFailed, Postponed
from storage.modalities import Modality
from tests.dimse.conftest import Bridge
from tests.dimse.in_memory import exchange, stored
from tests.dimse.peers import encoded, instance
from tests.dimse.wire import CT, EXPLICIT_LE, Wire, associate_rq, command, us
from tests.files import ct, dataset, new_uid
from tests.files import encoded as file_of
from tests.support import free_port

SR = "1.2.840.10008.5.1.4.1.1.88.11"


def asking(transaction: str, *references: tuple[str, str]) -> Dataset:
    asked, items = Dataset(), []
    asked.TransactionUID = transaction
    for sop_class, sop in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop
        items.append(item)
    asked.ReferencedSOPSequence = Sequence(items)
    return asked


class Receiver:
    """Takes reports, on whatever association they come."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.reports: list[tuple[int, Dataset]] = []
        self.came = threading.Event()

    def take(self, event: evt.Event) -> tuple[int, None]:
        self.reports.append((event.request.EventTypeID, event.event_information))
        self.came.set()
        return self.status, None

    @contextlib.contextmanager
    def listening(self, aet: str, port: int) -> Iterator[None]:
        ae = AE(ae_title=aet)
        ae.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
        server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.take)])
        try:
            yield
        finally:
            server.shutdown()


def uids(sequence: Sequence) -> list[str]:
    return [str(item.ReferencedSOPInstanceUID) for item in sequence]


@pytest.fixture
async def modality(archive: Archive) -> AsyncIterator[Modality]:
    aet = f"CT{new_uid()[-10:]}"
    declared = Modality(aet.lower(), aet, "127.0.0.1", free_port(), allow=frozenset({"store", "commitment"}))
    await archive.modalities.put(LOCAL, declared)
    yield declared
    await archive.modalities.delete(LOCAL, declared.name)


async def test_what_is_committed_and_what_is_not(archive: Archive) -> None:
    there, report, cut, gone = (dataset() for _ in range(4))
    await stored(archive, *map(file_of, (there, report, cut, gone)))
    for ds, damage in ((cut, b"less"), (gone, None)):
        located = await archive.retrieve.instance(LOCAL, ds.StudyInstanceUID, None, ds.SOPInstanceUID)
        await archive.objects.delete(located.key)
        if damage is not None:
            await archive.objects.put(located.key, [damage], len(damage))
    never = new_uid()
    asked = [
        (CT, there.SOPInstanceUID), (SR, report.SOPInstanceUID), (CT, cut.SOPInstanceUID), (CT, gone.SOPInstanceUID),
        (CT, never),
    ]  # fmt: skip
    answers = await archive.commitment.check(LOCAL, asked)
    assert [answer.reason for answer in answers] == [0, 0x0119, 0x0110, 0x0110, 0x0112]
    assert [(answer.sop_class, answer.sop) for answer in answers] == asked
    assert [answer.reason for answer in await archive.commitment.check(replace(LOCAL, tenant=2), asked[:1])] == [0x0112]


async def jobs(archive: Archive, transaction: str) -> list[Job]:
    return [job for job in await archive.jobs.page(LOCAL, 50, kind=KIND) if job.content["transaction"] == transaction]


@pytest.mark.parametrize("stays", [True, False])
async def test_a_modality_sends_and_asks(bridge: Bridge, archive: Archive, modality: Modality, stays: bool) -> None:
    """The report comes over the association that stays open, or over one of ours."""
    sent, other, receiver = instance(), new_uid(), Receiver()
    ae = AE(ae_title=modality.aet)
    ae.add_requested_context(CT)
    ae.add_requested_context(COMMITMENT)
    handlers = [(evt.EVT_N_EVENT_REPORT, receiver.take)]
    with receiver.listening(modality.aet, modality.port):
        made = ae.associate("127.0.0.1", bridge.port, ae_title="ANOR", evt_handlers=handlers)
        assert made.is_established
        sent.file_meta = FileMetaDataset()
        sent.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        assert made.send_c_store(sent).Status == 0
        transaction = new_uid()
        asked = asking(transaction, (CT, sent.SOPInstanceUID), (CT, other))
        status, _ = made.send_n_action(asked, 1, COMMITMENT, COMMITMENT_INSTANCE)
        assert status.Status == 0
        if not stays:
            made.release()
            requestor = Requestor(archive)
            runner = JobRunner(archive, module.handlers(requestor))
            for _ in range(200):
                if await runner.step():
                    break
                await asyncio.sleep(0.1)
            await requestor.close()
        assert await asyncio.to_thread(receiver.came.wait, 10)
        if stays:
            for _ in range(200):
                if [job.state for job in await jobs(archive, transaction)] == ["success"]:
                    break
                await asyncio.sleep(0.1)
            made.release()
    [(event, report)] = receiver.reports
    assert event == 2
    assert report.TransactionUID == transaction
    assert report.RetrieveAETitle == "ANOR"
    assert uids(report.ReferencedSOPSequence) == [sent.SOPInstanceUID]
    assert [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in report.FailedSOPSequence] == [(other, 0x0112)]
    [job] = await jobs(archive, transaction)
    assert (job.state, job.result) == ("success", {"committed": 1, "failed": 1})
    request = N_ACTION()
    request.ActionTypeID, request.RequestedSOPInstanceUID = 1, COMMITMENT_INSTANCE
    again = exchange(archive, request, COMMITMENT, encoded(asked))
    await module.action(again)
    assert again.statuses == [0x0131]


async def refused(archive: Archive, asked: bytes, action: int = 1, on: str = COMMITMENT_INSTANCE) -> Any:
    request = N_ACTION()
    request.ActionTypeID, request.RequestedSOPInstanceUID = action, on
    made = exchange(archive, request, COMMITMENT, asked)
    await module.action(made)
    return made.statuses


async def test_requests_that_make_no_sense(archive: Archive) -> None:
    good = encoded(asking(new_uid(), (CT, new_uid())))
    assert await refused(archive, good, action=2) == [0x0123]
    assert await refused(archive, good, on="1.2.3") == [0x0112]
    for bad in (
        encoded(asking("", (CT, new_uid()))),
        encoded(asking(new_uid())),
        encoded(asking(new_uid(), ("", new_uid()))),
        b"",
        b"\xff" * 100,
    ):
        with pytest.raises(module.BadRequest):
            await refused(archive, bad)
    many = [(CT, f"1.2.3.{number}") for number in range(MAX_INSTANCES + 1)]
    with pytest.raises(module.TooLarge):
        await refused(archive, encoded(asking(new_uid(), *many)))


async def claimed(archive: Archive, modality: Modality, age: timedelta, aet: str = "") -> Claimed:
    content = {"transaction": new_uid(), "aet": aet or modality.aet, "called": "ANOR"}
    sop = new_uid()
    name = await archive.commitment.begin(LOCAL, content["transaction"], content, [(CT, sop)], timedelta(days=1))
    return Claimed(str(name), 1, KIND, content, None, 0, 1, datetime.now(UTC) - age)


async def test_a_report_that_nobody_takes_is_tried_for_a_day(archive: Archive, modality: Modality) -> None:
    requestor = Requestor(archive)
    for age, after in ((1, 15), (600, 300), (80_000, 3600)):
        job = await claimed(archive, modality, timedelta(seconds=age))
        with pytest.raises(Postponed) as caught:
            await module.run_report(requestor, job, Path(), print)
        assert abs(caught.value.after.total_seconds() - after) < 5
    with pytest.raises(JobFailed, match="within a day"):
        await module.run_report(requestor, await claimed(archive, modality, timedelta(days=2)), Path(), print)
    receiver = Receiver(status=0x0110)
    with receiver.listening(modality.aet, modality.port), pytest.raises(Postponed):
        await module.run_report(requestor, await claimed(archive, modality, timedelta(0)), Path(), print)
    with pytest.raises(Postponed):
        await module.run_report(requestor, await claimed(archive, modality, timedelta(0), "NOBODY"), Path(), print)
    receiver = Receiver()
    with receiver.listening(modality.aet, modality.port):
        done = await module.run_report(requestor, await claimed(archive, modality, timedelta(0)), Path(), print)
    assert done.result == {"committed": 0, "failed": 1}
    assert receiver.reports[0][0] == 2
    await requestor.close()


async def test_old_transactions_are_forgotten(archive: Archive, modality: Modality) -> None:
    transaction = new_uid()
    asked = {"aet": modality.aet, "called": "ANOR"}

    async def begin() -> Any:
        return await archive.commitment.begin(LOCAL, transaction, asked, [(CT, new_uid())], timedelta(days=1))

    job = await begin()
    assert await begin() is None
    await archive.commitment.answered(job, [])
    service = archive.commitment
    await service.expire()
    assert await begin() is None
    changed = replace(archive.settings, job_retention_s=0)
    await type(service)(changed, archive.db, archive.objects, archive.jobs, archive.damage).expire()
    assert await begin() is not None


async def test_a_long_request_and_its_report(archive: Archive) -> None:
    many = [(CT, f"1.2.3.{number}") for number in range(MAX_INSTANCES)]
    transaction = new_uid()
    data = encoded(asking(transaction, *many))
    found, references = module.requested(data, "1.2.840.10008.1.2.1")
    assert (found, references) == (transaction, many)
    await stored(archive, ct())
    event, report = module.report(
        transaction, "ANOR", await archive.commitment.check(LOCAL, references), "1.2.840.10008.1.2"
    )
    assert event == 2
    assert len(report) > 10_000 * 60


def test_too_much_at_once_is_told_so(bridge: Bridge, modality: Modality) -> None:
    item = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"
    head = b"\x08\x00\x99\x11SQ\x00\x00\xff\xff\xff\xff"
    request = command(
        t0003=COMMITMENT.encode(), t0100=us(0x130), t0110=us(1), t0800=us(1), t1001=COMMITMENT_INSTANCE.encode(),
        t1008=us(1),
    )  # fmt: skip
    with Wire(bridge.port) as peer:
        peer.send(associate_rq({1: (COMMITMENT, [EXPLICIT_LE])}, calling=modality.aet))
        assert peer.receive()[0] == 2
        for _ in range(2):  # and once more on the same association
            peer.message(1, request, head + item * 1_000_000)
            assert peer.status() == 0x0213
