"""What associations count for the metrics."""

import asyncio
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pynetdicom import AE

from dimse_bridge.traffic import Traffic
from storage.counts import Counts, Key
from tests.dimse.peers import instance
from tests.dimse.serving import acceptor
from tests.dimse.wire import CT, IMPLICIT_LE, VERIFICATION


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
        assert ae.associate("127.0.0.1", port, ae_title="OTHER").is_rejected
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
