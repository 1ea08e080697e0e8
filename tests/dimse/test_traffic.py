"""What associations count for the metrics: those that others ask for, and our own."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileMetaDataset
from pynetdicom import AE, build_context, evt

from dicomweb.errors import PeerFailed
from dimse_bridge.asking import get_model, move_model, retrieval
from dimse_bridge.contexts import MODALITY_WORKLIST
from dimse_bridge.scu import Requestor
from dimse_bridge.tasks import incoming
from dimse_bridge.traffic import Traffic
from storage.archive import Archive
from storage.counts import Counts, Key
from storage.modalities import Modality
from tests import files
from tests.dimse.peers import instance
from tests.dimse.programs import storescp
from tests.dimse.serving import acceptor
from tests.dimse.test_asking import MODEL, question
from tests.dimse.test_sending import outcomes, stored
from tests.dimse.wire import CT, IMPLICIT_LE, VERIFICATION
from tests.support import free_port


async def test_associations_and_requests_are_counted_by_outcome() -> None:
    traffic = Traffic()

    def ask(port: int) -> None:
        ae = AE(ae_title="SCU")
        ae.add_requested_context(VERIFICATION)
        ae.add_requested_context(CT, IMPLICIT_LE)
        first = ae.associate("127.0.0.1", port, ae_title="ANOR")
        assert first.send_c_echo().Status == 0
        sent = instance()
        sent.file_meta = FileMetaDataset()
        sent.file_meta.TransferSyntaxUID = IMPLICIT_LE
        assert first.send_c_store(sent).Status == 0
        second = ae.associate("127.0.0.1", port, ae_title="ANOR")
        assert traffic.levels() == {("dimse_associations_open",): 2}
        first.release()
        second.abort()
        assert not ae.associate("127.0.0.1", port, ae_title="OTHER").is_established
        left = ae.associate("127.0.0.1", port, ae_title="ANOR")
        assert left.is_established  # until the acceptor stops

    async with acceptor(traffic=traffic) as port:
        await asyncio.to_thread(ask, port)
    totals = traffic.totals()
    assert totals.pop(("dimse_received_bytes",)) > 1000
    assert totals == {
        ("dimse_associations", "outcome", "released"): 1,
        ("dimse_associations", "outcome", "aborted"): 1,
        ("dimse_associations", "outcome", "refused"): 1,
        ("dimse_associations", "outcome", "cut"): 1,
        ("dimse_requests", "operation", "C-ECHO", "status", "0000"): 1,
        ("dimse_requests", "operation", "C-STORE", "status", "0000"): 1,
    }
    assert traffic.levels() == {("dimse_associations_open",): 0}


async def test_levels_end_with_their_process(tmp_path: Path) -> None:
    level: Key = ("dimse_associations_open",)
    counts = Counts(tmp_path, 1, dict, dict, lambda: {level: 2})
    counts.start()
    dead = tmp_path / "1" / "4194305.json"  # above the largest number that a process can have
    dead.write_text('{"totals": {"dimse_received_bytes": 5}, "times": {}, "levels": {"dimse_associations_open": 3}}')
    assert counts.summed() == ({("dimse_received_bytes",): 5}, {}, {level: 2})
    await counts.stop()


@pytest.fixture
def own_settings() -> dict[str, object]:
    return {"dimse_timeout": 2}


@contextlib.contextmanager
def peer(*handlers: tuple[Any, Any]) -> Iterator[Modality]:
    """Who answers queries and retrievals as the handlers do, and knows its own title only."""
    entity = AE(ae_title="PEER")
    entity.require_called_aet = True
    for model in (VERIFICATION, MODEL, MODALITY_WORKLIST, move_model("STUDY"), get_model("STUDY")):
        entity.add_supported_context(model)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    try:
        yield Modality("peer", "PEER", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()


def counted(requestor: Requestor, name: str) -> dict[tuple[str, ...], float]:
    """Counts of a name by the values of their labels."""
    return {key[2::2]: count for key, count in requestor.counters().items() if key[0] == name}


async def test_what_we_send_is_counted(own: Archive, requestor: Requestor, tmp_path: Path) -> None:
    data = [files.ct(), files.ct()]
    instances = await stored(own, *data)
    with storescp(tmp_path / "peer") as modality:
        await requestor.echo(modality)
        assert all(each.sent for each in await outcomes(requestor, modality, instances))
    assert counted(requestor, "dimse_scu_associations") == {("echo", "released"): 1, ("store", "released"): 1}
    assert counted(requestor, "dimse_scu_requests") == {("C-ECHO", "0000"): 1, ("C-STORE", "0000"): 2}
    moved = counted(requestor, "dimse_scu_bytes")
    assert moved["sent",] > sum(map(len, data)) > moved["received",] > 100
    assert requestor.traffic.levels() == {
        ("dimse_scu_associations_open", "service", service): 0 for service in ("echo", "store")
    }


async def test_how_associations_of_ours_end(requestor: Requestor) -> None:
    def echo(event: evt.Event) -> int:
        event.assoc.abort(block=False)
        return 0

    def late(_event: evt.Event) -> Iterator[Any]:
        asked.set()
        hold.wait(20)
        yield 0x0000, None

    asked, hold = threading.Event(), threading.Event()
    with peer((evt.EVT_C_ECHO, echo), (evt.EVT_C_FIND, late)) as modality:
        for called in (modality, replace(modality, aet="OTHER"), replace(modality, port=free_port())):
            with pytest.raises(PeerFailed):
                await requestor.echo(called)
        waiting = asyncio.create_task(anext(requestor.find(modality, question(), MODEL, limit=1)))
        assert await asyncio.to_thread(asked.wait, 10)
        waiting.cancel()
        await asyncio.wait([waiting])
        hold.set()
    assert counted(requestor, "dimse_scu_associations") == {
        ("echo", "aborted"): 1,
        ("echo", "refused"): 1,
        ("echo", "unreachable"): 1,
        ("find", "cut"): 1,
    }
    assert counted(requestor, "dimse_scu_requests")["C-ECHO", "none"] == 1


async def test_queries_and_retrievals_of_ours_are_counted(requestor: Requestor) -> None:
    def find(event: evt.Event) -> Iterator[Any]:
        yield 0xFF00, event.identifier
        yield (0xA700 if event.request.AffectedSOPClassUID == MODALITY_WORKLIST else 0), None

    def move(_event: evt.Event) -> Iterator[Any]:
        yield "127.0.0.1", target.server_address[1], {"contexts": [build_context(CT, IMPLICIT_LE)]}
        yield 3
        for number in range(3):
            sent = instance(InstanceNumber=number)
            sent.file_meta = FileMetaDataset()
            sent.file_meta.TransferSyntaxUID = IMPLICIT_LE
            yield 0xFF00, sent

    def store(event: evt.Event) -> int:
        return 0xA700 if event.dataset.InstanceNumber == 1 else 0

    def get(_event: evt.Event) -> Iterator[Any]:
        yield 0

    receiver = AE(ae_title="TARGET")
    receiver.add_supported_context(CT)
    target = receiver.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    wanted = retrieval("STUDY", {"StudyInstanceUID": "1.2.3"})

    async def take(_path: Path) -> int:
        raise AssertionError("nothing is sent")

    handlers = ((evt.EVT_C_FIND, find), (evt.EVT_C_MOVE, move), (evt.EVT_C_GET, get))
    with peer(*handlers) as modality:
        _ = [each async for each in requestor.find(modality, question(), MODEL, limit=5)]
        with pytest.raises(PeerFailed, match="0xA700"):
            _ = [each async for each in requestor.find(modality, question(), MODALITY_WORKLIST, limit=5)]
        _ = [each async for each in requestor.move(modality, wanted, move_model("STUDY"), "TARGET")]
        _ = [each async for each in requestor.get(modality, wanted, get_model("STUDY"), incoming(), take)]
    target.shutdown()
    assert counted(requestor, "dimse_scu_requests") == {
        ("C-FIND", "0000"): 1,
        ("C-FIND", "A700"): 1,
        ("C-MOVE", "B000"): 1,
        ("C-GET", "0000"): 1,
    }
    assert counted(requestor, "dimse_scu_associations") == {
        ("find", "released"): 1,
        ("worklist", "cut"): 1,
        ("move", "released"): 1,
        ("get", "released"): 1,
    }
    operations = counted(requestor, "dimse_scu_suboperations")
    assert {outcome: operations["C-MOVE", outcome] for outcome in ("completed", "failed", "warning")} == {
        "completed": 2,
        "failed": 1,
        "warning": 0,
    }
