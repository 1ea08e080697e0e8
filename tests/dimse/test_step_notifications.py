"""MPPS Notification: who is told of performed procedure steps, and when not any more."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from pynetdicom import AE, evt

from dimse_bridge.contexts import MPPS_NOTIFICATION
from dimse_bridge.scu import Requestor
from dimse_bridge.step_notifications import handlers
from storage.access import LOCAL
from storage.archive import Archive
from storage.job_runner import JobRunner
from storage.modalities import Modality
from storage.performed_steps import NOTIFICATION
from tests.files import new_uid
from tests.modality_worklist import dataset, finished, performed
from tests.support import free_port

Event = tuple[str, int, bool]


class Listener:
    """A department system that wants to hear: SOP instance, event type, and whether there was any information."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def take(self, event: evt.Event) -> tuple[int, None]:
        request = event.request
        assert request.AffectedSOPClassUID == MPPS_NOTIFICATION
        information = request.EventInformation
        told = bool(information is not None and information.getvalue())
        self.heard.append((str(request.AffectedSOPInstanceUID), request.EventTypeID, told))
        return 0, None

    @contextlib.contextmanager
    def listening(self, modality: Modality) -> Iterator[None]:
        ae = AE(ae_title=modality.aet)
        ae.add_supported_context(MPPS_NOTIFICATION, scu_role=True, scp_role=True)
        address, taken = ("127.0.0.1", modality.port), [(evt.EVT_N_EVENT_REPORT, self.take)]
        server = ae.start_server(address, block=False, evt_handlers=taken)
        try:
            yield
        finally:
            server.shutdown()


@pytest.fixture
async def subscriber(archive: Archive) -> AsyncIterator[Modality]:
    declared = Modality("ris", "RIS", "127.0.0.1", free_port(), notify_mpps=True)
    await archive.modalities.put(LOCAL, declared)
    await archive.modalities.put(LOCAL, Modality("deaf", "DEAF", "127.0.0.1", free_port()))
    yield declared
    for name in ("ris", "deaf"):
        await archive.modalities.delete(LOCAL, name)


@pytest.fixture
async def runner(archive: Archive) -> AsyncIterator[JobRunner]:
    requestor = Requestor(archive)
    yield JobRunner(archive, handlers(requestor))
    await requestor.close()


async def test_a_step_is_told_from_its_beginning_to_its_end(
    archive: Archive, subscriber: Modality, runner: JobRunner
) -> None:
    listener, steps = Listener(), archive.performed_steps
    first, second = new_uid(), new_uid()
    with listener.listening(subscriber):
        await steps.create(LOCAL, performed(), first)
        while await runner.step():
            pass
        await steps.update(LOCAL, first, dataset(CommentsOnThePerformedProcedureStep="late"))
        while await runner.step():
            pass
        await steps.update(LOCAL, first, finished())
        await steps.create(LOCAL, performed(), second)
        await steps.update(LOCAL, second, finished("DISCONTINUED"))
        while await runner.step():
            pass
    assert listener.heard == [(first, 1, False), (first, 4, False), (first, 2, False), (second, 3, False)]
    jobs = await archive.jobs.page(LOCAL, 100, kind=NOTIFICATION)
    assert {job.content["modality"] for job in jobs} == {"ris"}
    # The beginning of the second one was overtaken by its end.
    overtaken = [job.content["event"] for job in jobs if not job.result["sent"]]
    assert overtaken == [1]


async def test_a_step_that_is_kept_no_longer_is_told_of(
    archive: Archive, subscriber: Modality, runner: JobRunner
) -> None:
    uid, listener, steps = new_uid(), Listener(), archive.performed_steps
    await steps.create(LOCAL, performed(), uid)
    await archive.db.fetch_sql("UPDATE performed_step SET changed_at = now() - interval '99 years' WHERE uid = $1", uid)
    assert await steps.expire() == 1
    with listener.listening(subscriber):
        while await runner.step():
            pass
    assert listener.heard == [(uid, 5, False)]  # not any more that it had begun


async def test_who_does_not_listen_is_told_later(archive: Archive, subscriber: Modality, runner: JobRunner) -> None:
    uid, listener = new_uid(), Listener()
    await archive.performed_steps.create(LOCAL, performed(), uid)
    assert await runner.step()
    [job] = [job for job in await archive.jobs.page(LOCAL, 100, kind=NOTIFICATION) if job.content["uid"] == uid]
    assert job.state == "retry"
    await archive.db.fetch_sql("UPDATE job SET run_after = now() WHERE id = $1", job.id)
    with listener.listening(subscriber):
        assert await runner.step()
    assert listener.heard == [(uid, 1, False)]


async def test_who_wants_to_hear_no_more_does_not(archive: Archive, subscriber: Modality, runner: JobRunner) -> None:
    uid, listener = new_uid(), Listener()
    await archive.performed_steps.create(LOCAL, performed(), uid)
    await archive.modalities.put(LOCAL, replace(subscriber, notify_mpps=False))
    with listener.listening(subscriber):
        assert await runner.step()
        await archive.performed_steps.update(LOCAL, uid, finished())
        assert not await runner.step()
    assert listener.heard == []
