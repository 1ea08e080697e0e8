"""One large object: through a spool file, not through memory."""

import hashlib
import struct
import threading
import time
from typing import Self

import psutil
from pydicom.uid import generate_uid

from tests.dimse import wire
from tests.dimse.peers import encoded, instance
from tests.dimse.wire import SECONDARY_CAPTURE, Wire

FRAME = 1 << 20
FRAMES = 100


class Peak:
    """The largest resident memory of a process while the block runs."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.bytes = self._process.memory_info().rss

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, self._process.memory_info().rss)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


async def test_100_mb_are_stored_within_bounded_memory(bridge, archive):
    uid = generate_uid()
    header = instance(SOPInstanceUID=uid, SOPClassUID=SECONDARY_CAPTURE, Rows=1024, Columns=1024, NumberOfFrames=FRAMES)
    header.SamplesPerPixel, header.BitsAllocated, header.BitsStored, header.HighBit = 1, 8, 8, 7
    header.PixelRepresentation, header.PhotometricInterpretation = 0, "MONOCHROME2"
    head = encoded(header) + struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", FRAME * FRAMES)
    expected = hashlib.sha256(head)
    begin = time.monotonic()
    with Peak(bridge.process.pid) as peak, Wire(bridge.port, 60) as peer:
        assert peer.associate(SECONDARY_CAPTURE) == 2
        peer.data(1, 3, wire.store_rq(SECONDARY_CAPTURE, uid))
        peer.data(1, 0, head)
        for number in range(FRAMES):
            frame = bytes((number,)) * FRAME
            expected.update(frame)
            for at in range(0, FRAME, FRAME // 16):
                peer.data(1, 0, frame[at : at + FRAME // 16])
        peer.data(1, 2, b"")
        assert peer.status() == 0
    assert peak.bytes - peak.before < 64 << 20
    assert time.monotonic() - begin < 40
    row = await archive.db.fetch_sql("SELECT object_key, object_size FROM instance WHERE sop_uid = $1", uid)
    size, skip = row[0]["object_size"], row[0]["object_size"] - len(head) - FRAME * FRAMES
    stored = hashlib.sha256()
    async for chunk in archive.objects.stream(row[0]["object_key"], skip, size - skip):
        stored.update(chunk)
    assert stored.digest() == expected.digest()
