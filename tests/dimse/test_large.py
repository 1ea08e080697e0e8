"""Large objects, and many at a time: through spool files, not through memory."""

import dataclasses
import hashlib
import struct
import threading
import time
from typing import Self

import psutil
import pytest
from pydicom.uid import generate_uid

from tests.dimse import wire
from tests.dimse.conftest import start_bridge
from tests.dimse.peers import encoded, instance
from tests.dimse.wire import SECONDARY_CAPTURE, Wire
from tests.support import free_port

FRAME = 1 << 20


class Peak:
    """The largest resident memory of processes together while the block runs."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.bytes = self._resident()

    def _resident(self) -> int:
        return sum(process.memory_info().rss for process in self._processes)

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, self._resident())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.mark.parametrize("frames", [100, pytest.param(400, marks=[pytest.mark.full, pytest.mark.timeout(300)])])
async def test_large_objects_are_stored_within_bounded_memory(bridge, archive, frames):
    """As many MiB as there are frames."""
    uid = generate_uid()
    header = instance(SOPInstanceUID=uid, SOPClassUID=SECONDARY_CAPTURE, Rows=1024, Columns=1024, NumberOfFrames=frames)
    header.SamplesPerPixel, header.BitsAllocated, header.BitsStored, header.HighBit = 1, 8, 8, 7
    header.PixelRepresentation, header.PhotometricInterpretation = 0, "MONOCHROME2"
    head = encoded(header) + struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", FRAME * frames)
    expected = hashlib.sha256(head)
    begin = time.monotonic()
    with Peak(bridge.processes()) as peak, Wire(bridge.port, 60) as peer:
        assert peer.associate(SECONDARY_CAPTURE) == 2
        peer.data(1, 3, wire.store_rq(SECONDARY_CAPTURE, uid))
        peer.data(1, 0, head)
        for number in range(frames):
            frame = bytes((number % 256,)) * FRAME
            expected.update(frame)
            for at in range(0, FRAME, FRAME // 16):
                peer.data(1, 0, frame[at : at + FRAME // 16])
        peer.data(1, 2, b"")
        assert peer.status() == 0
    assert peak.bytes - peak.before < 64 << 20
    assert time.monotonic() - begin < 0.4 * frames
    row = await archive.db.fetch_sql("SELECT object_key, object_size FROM instance WHERE sop_uid = $1", uid)
    size, skip = row[0]["object_size"], row[0]["object_size"] - len(head) - FRAME * frames
    stored = hashlib.sha256()
    async for chunk in archive.objects.stream(row[0]["object_key"], skip, size - skip):
        stored.update(chunk)
    assert stored.digest() == expected.digest()


def test_64_associations_at_a_time_within_bounded_memory(dimse_settings):
    """Each in the middle of a data set of 3 MB while all others are, and then again."""
    settings = dataclasses.replace(dimse_settings, dimse_port=free_port(), dimse_associations_per_peer=64)
    bridge = start_bridge(settings)
    try:
        peers = []
        for _ in range(64):  # one after the other: only 32 for each process may be connected and ask for nothing yet
            peers.append(Wire(bridge.port, 60))
            assert peers[-1].associate(SECONDARY_CAPTURE) == 2
        counts = [len(process.net_connections()) for process in bridge.processes()]
        assert max(counts) - min(counts) <= 8, counts  # the processes share them
        peaks = []
        for _ in range(2):
            with Peak(bridge.processes()) as peak:
                _store_together(peers, 3)
            peaks.append(peak.bytes)
        # 1 MiB of each data set stays in memory, then come the spool files.
        assert peaks[0] - peak.before < 64 * 6 << 20
        assert peaks[1] < peaks[0] * 1.1 + (16 << 20)
        for peer in peers:
            peer.socket.close()
    finally:
        assert bridge.stop() == 0


def _store_together(peers: list[Wire], megabytes: int) -> None:
    uids = [generate_uid() for _ in peers]
    study, series = generate_uid(), generate_uid()
    heads = []
    for uid in uids:
        header = instance(SOPInstanceUID=uid, SOPClassUID=SECONDARY_CAPTURE, StudyInstanceUID=study)
        header.SeriesInstanceUID = series
        size = megabytes * FRAME
        heads.append(encoded(header) + struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", size))
    for peer, uid, head in zip(peers, uids, heads, strict=True):
        peer.data(1, 3, wire.store_rq(SECONDARY_CAPTURE, uid))
        peer.data(1, 0, head)
    for _ in range(megabytes * 16):
        for peer in peers:
            peer.data(1, 0, bytes(FRAME // 16))
    for peer in peers:
        peer.data(1, 2, b"")
    assert {peer.status() for peer in peers} == {0}
