"""Files for C-STORE that are read and transcoded ahead, by jobs and by C-MOVE."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt

from dicomweb.media import EXPLICIT_LE, IMPLICIT_LE
from dimse_bridge.outgoing import Preparation
from dimse_bridge.scu import Requestor
from dimse_bridge.sending import Outcome
from storage.access import LOCAL
from storage.archive import Archive
from storage.modalities import Modality
from tests import files
from tests.dimse.conftest import Bridge
from tests.dimse.in_memory import stored as stored_in
from tests.dimse.test_retrieve import move
from tests.dimse.test_sending import contents, outcomes, stored
from tests.dimse.wire import CT
from tests.support import free_port


@contextlib.contextmanager
def receiving(modality: Modality, store: Callable[[evt.Event], int], syntax: str) -> Iterator[None]:
    """A peer that takes CT images in one transfer syntax."""
    entity = AE(ae_title=modality.aet)
    entity.add_supported_context(CT, syntax)
    address, handlers = ("127.0.0.1", modality.port), [(evt.EVT_C_STORE, store)]
    server = entity.start_server(address, block=False, evt_handlers=handlers)
    try:
        yield
    finally:
        server.shutdown()


def copies(archive: Archive) -> list[Path]:
    return list(archive.objects.spool_dir.glob("send-*"))


async def test_the_next_one_is_made_while_one_is_on_the_wire(own: Archive, requestor: Requestor) -> None:
    """In another transfer syntax, so that each is a file of its own; nothing is left of them."""
    instances = await stored(own, *(files.ct(InstanceNumber=number) for number in range(1, 5)))
    beside: list[int] = []
    came: list[pydicom.Dataset] = []

    def store(event: evt.Event) -> int:
        wanted = 2 if len(came) < 3 else 1  # behind the last one there is none
        deadline = time.monotonic() + 20
        while len(copies(own)) != wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        beside.append(len(copies(own)))
        came.append(event.dataset)
        return 0xA700 if len(came) == 2 else 0

    modality = Modality("peer", "PEER", "127.0.0.1", free_port(), timeout=30)
    with receiving(modality, store, IMPLICIT_LE):
        found = await outcomes(requestor, modality, instances)
    assert [each.status for each in found] == [0, 0xA700, 0, 0]
    assert beside == [2, 2, 2, 1]
    assert [each.InstanceNumber for each in came] == [1, 2, 3, 4]
    assert [each.SOPInstanceUID for each in came] == [each.sop for each in instances]
    assert copies(own) == []


async def test_one_that_cannot_be_made_fails_in_its_turn(own: Archive, requestor: Requestor) -> None:
    """Those before and behind it are sent."""
    broken = files.compressed([b"\xff\xd8\xff\xd9no picture"])
    instances = await stored(own, files.ct(), broken, files.ct())
    came: list[str] = []

    def store(event: evt.Event) -> int:
        came.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    modality = Modality("peer", "PEER", "127.0.0.1", free_port())
    with receiving(modality, store, IMPLICIT_LE):
        found: list[Outcome] = await outcomes(requestor, modality, instances)
    failed = [each for each in found if not each.sent]
    assert [each.instance.sop for each in failed] == [instances[1].sop]
    assert failed[0].status == 0x0110
    assert sorted(came) == sorted(each.instance.sop for each in found if each.sent)
    assert len(came) == 2
    assert copies(own) == []


async def test_what_is_made_ahead_has_a_bound(own: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dimse_bridge.outgoing._AHEAD", 100_000)
    [instance] = await stored(own, contents(get_testdata_file("color3d_jpeg_baseline.dcm")))  # 120 frames
    preparation = Preparation(own, LOCAL, instance, [EXPLICIT_LE])
    deadline = time.monotonic() + 30
    while not (made := copies(own)) or made[0].stat().st_size < 100_000:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    frame = 480 * 640 * 3
    assert made[0].stat().st_size < 100_000 + 2 * frame
    ready = await preparation.ready()
    whole = pydicom.dcmread(ready.path)
    assert len(whole.PixelData) == 120 * frame
    await ready.close()
    dropped = Preparation(own, LOCAL, instance, [EXPLICIT_LE])
    while not copies(own):
        assert time.monotonic() < deadline + 30
        await asyncio.sleep(0.01)
    await dropped.drop()
    assert copies(own) == []


async def test_what_was_made_ahead_has_failed_too_when_the_destination_is_gone(
    bridge: Bridge, archive: Archive, workstation: Modality
) -> None:
    """Each of those that did not arrive is named once in the list of a C-MOVE."""
    study = files.new_uid()
    made = [files.dataset(StudyInstanceUID=study, InstanceNumber=number) for number in range(1, 7)]
    await stored_in(archive, *map(files.encoded, made))
    came: list[str] = []

    def store(event: evt.Event) -> int:
        came.append(str(event.request.AffectedSOPInstanceUID))
        if len(came) > 1:
            event.assoc.abort(block=False)  # and so does each association that follows
        return 0

    with receiving(workstation, store, IMPLICIT_LE):
        final = (await move(bridge, workstation, workstation.aet, study))[-1]
    assert final.Status == 0xB000
    counts = (final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations)
    assert counts == (1, 5)
    failed = list(final.failed.FailedSOPInstanceUIDList)
    assert sorted(failed) == sorted({each.SOPInstanceUID for each in made} - {came[0]})
