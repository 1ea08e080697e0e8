"""What the gateway has received and the archive has not: a queue on disk, oldest first, bounded in files and bytes.

Memory holds one segment of it (see `disk`), the instances that are on their way, and at most `PUT_OFF` that wait for
another attempt; how many wait on disk does not matter. Everything here runs on the event loop but the work on files.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from dicomweb.errors import Unavailable
from dimse_bridge.gateway.disk import SEGMENT_SIZE, Amount, SpoolFiles, Waiting
from storage.directory_files import FULL
from storage.spool import Spool, Spooled

PUT_OFF: Final = 10_000


@dataclass(slots=True)
class _Segment:
    """The one that is written to, or was until now."""

    id: int
    given: int = 0  # numbers
    publishing: int = 0
    touched: bool = False  # some of it was taken, so that it cannot be listed any more
    fresh: deque[Waiting] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class State:
    """What the spool holds; `oldest` is when the oldest waiting instance was received, in seconds since 1970."""

    waiting: Amount
    dead: Amount
    put_off: int
    oldest: float | None


class GatewaySpool:
    """Takes instances in and hands them out, each until it is `done` or `rejected`."""

    def __init__(self, root: Path, *, max_files: int, max_bytes: int, revive: bool = False) -> None:
        """Open the directory, which blocks; `revive`: what was set aside is to be sent again. Raises Unavailable."""
        self._disk = SpoolFiles(root)
        self.revived = self._disk.revive() if revive else 0
        self._waiting, self._dead = self._disk.measure()
        self._max_files, self._max_bytes = max_files, max_bytes
        self._arriving = 0  # bytes
        self._unread = deque(self._disk.segments())
        self._loaded: deque[Waiting] = deque()
        self._back: deque[Waiting] = deque()
        self._put_off: list[tuple[float, tuple[int, int], Waiting]] = []
        self._out: dict[tuple[int, int], Waiting] = {}
        self._live = self._new_segment()
        self._closing: dict[int, _Segment] = {}  # full ones with publications that have not ended
        self._full: set[int] = set()  # directories that may have become empty while they were written to
        self._publications: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()

    # -- in

    def arriving(self, *, memory_limit: int, max_size: int, eager: bool = False) -> "Arriving":
        """Where the bytes of one incoming instance go; the arguments are those of Spool."""
        return Arriving(self, self._disk.new, memory_limit=memory_limit, max_size=max_size, eager=eager)

    def admit(self, size: int) -> None:
        """Count bytes that arrive. Raises Unavailable when they have no room, which a sender sees as 0xA700."""
        self._require_room(self._arriving + size)
        self._arriving += size

    def dismiss(self, size: int) -> None:
        """What arrived is complete or will not be."""
        self._arriving -= size

    def _require_room(self, size: int) -> None:
        if self._waiting.files + self._dead.files >= self._max_files:
            raise Unavailable("the gateway's spool has all the files it may have", reason="full")
        if self._waiting.bytes + self._dead.bytes + size > self._max_bytes:
            raise Unavailable("the gateway's spool has all the bytes it may have", reason="full")

    async def keep(self, spooled: Spooled) -> Waiting:
        """Take a complete upload over; it is durable on return. Raises Unavailable when there is no room."""
        self._require_room(spooled.size)
        segment = self._live
        if segment.given == SEGMENT_SIZE:
            segment = self._roll_over()
        item = Waiting(segment.id, segment.given, spooled.size, spooled.sha256)
        segment.given += 1
        segment.publishing += 1
        self._waiting = _plus(self._waiting, item, 1)
        publication = asyncio.ensure_future(self._publish(spooled, item, segment))
        self._publications.add(publication)
        publication.add_done_callback(self._publications.discard)
        try:
            await asyncio.shield(publication)  # what the disk has is counted, whoever gave up waiting
        except OSError as error:
            why: Literal["", "full"] = "full" if error.errno in FULL else ""
            raise Unavailable(f"the gateway's disk refused the instance ({error.strerror})", reason=why) from error
        return item

    async def _publish(self, spooled: Spooled, item: Waiting, segment: _Segment) -> None:
        try:
            await asyncio.to_thread(self._disk.publish, spooled, item)
        except BaseException:
            self._waiting = _plus(self._waiting, item, -1)
            raise
        else:
            if segment is self._live:
                segment.fresh.append(item)
            elif segment.touched:
                self._loaded.append(item)
        finally:
            segment.publishing -= 1
            if segment is not self._live and not segment.publishing:
                self._closing.pop(segment.id, None)
            self._changed.set()

    def _new_segment(self) -> _Segment:
        last = self._unread[-1] if self._unread else 0
        return _Segment(max(last + 1, time.time_ns() // 1_000_000))

    def _roll_over(self) -> _Segment:
        full = self._live
        if full.touched:
            self._loaded.extend(full.fresh)
        else:
            self._unread.append(full.id)
        if full.publishing:
            self._closing[full.id] = full
        self._full.add(full.id)
        self._live = _Segment(max(full.id + 1, time.time_ns() // 1_000_000))
        return self._live

    # -- out

    async def take(self, max_files: int, max_bytes: int) -> list[Waiting]:
        """Wait for the next instances: oldest first, at least one, no more bytes unless it is one alone.

        An instance that was put off comes alone, when its time has come.
        """
        while True:
            self._changed.clear()
            async with self._reading:
                batch = await self._next(max_files, max_bytes)
            if batch:
                self._out.update((item.order, item) for item in batch)
                self._changed.set()  # there may be more, for others who wait
                return batch
            due = self._put_off[0][0] - time.monotonic() if self._put_off else None
            try:
                async with asyncio.timeout(due):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _next(self, max_files: int, max_bytes: int) -> list[Waiting]:
        if self._put_off and self._put_off[0][0] <= time.monotonic():
            return [heapq.heappop(self._put_off)[2]]
        if len(self._put_off) >= PUT_OFF:
            return []
        batch: list[Waiting] = []
        size = 0
        while len(batch) < max_files:
            source = await self._source()
            if not source or (batch and size + source[0].size > max_bytes):
                break
            size += source[0].size
            batch.append(source.popleft())
        return batch

    async def _source(self) -> deque[Waiting]:
        """Where the oldest instance that waits is, loaded from disk if it has to be; an empty one if there is none."""
        while not (self._back or self._loaded) and self._unread and self._unread[0] not in self._closing:
            segment = self._unread.popleft()
            self._loaded.extend(await asyncio.to_thread(self._disk.entries, segment))
            if not self._loaded:
                await asyncio.to_thread(self._disk.remove_segment, segment)
        if self._back or self._loaded:
            return self._back or self._loaded
        if not self._unread and self._live.fresh:
            self._live.touched = True
            return self._live.fresh
        return deque()

    def give_back(self, items: Iterable[Waiting]) -> None:
        """Those that are neither done, rejected nor put off are to be sent again, before all others."""
        for item in sorted(items, key=lambda each: each.order, reverse=True):
            if self._out.pop(item.order, None) is not None:
                self._back.appendleft(item)
        self._changed.set()

    def put_off(self, item: Waiting, seconds: float) -> None:
        """Unless it is done or rejected, it is to be sent again, alone and not before `seconds` have passed."""
        if self._out.pop(item.order, None) is None:
            return
        heapq.heappush(self._put_off, (time.monotonic() + seconds, item.order, item))
        self._changed.set()

    async def done(self, items: Iterable[Waiting]) -> None:
        """The archive has them."""
        items = list(items)
        await asyncio.to_thread(self._remove, items)
        for item in items:
            del self._out[item.order]
            self._waiting = _plus(self._waiting, item, -1)

    async def reject(self, item: Waiting, why: dict[str, object]) -> None:
        """It is not to be sent again; it is kept with the reason, and takes room until someone has looked after it."""
        await asyncio.to_thread(self._disk.bury, item, why)
        del self._out[item.order]
        self._waiting, self._dead = _plus(self._waiting, item, -1), _plus(self._dead, item, 1)

    def _remove(self, items: list[Waiting]) -> None:
        for item in items:
            self._disk.remove(item)
        full, self._full = self._full, set()
        for segment in full.union(item.segment for item in items):
            # Of the one that is written to, the directory stays: somebody may be about to put a file there.
            if segment != self._live.id and segment not in self._closing:
                self._disk.remove_segment(segment)

    # -- looking

    def path(self, item: Waiting) -> Path:
        """Where its file is."""
        return self._disk.path(item)

    @property
    def scratch(self) -> Path:
        """A directory for what need not outlive the process."""
        return self._disk.new

    async def state(self) -> State:
        """Counts, and the age of the oldest."""
        known = [*self._out.values(), *(entry[2] for entry in self._put_off)]
        for queue in (self._back, self._loaded, self._live.fresh):
            known += list(queue)[:1]
        oldest = min(known, key=lambda item: item.order, default=None)
        received = None if oldest is None else await asyncio.to_thread(self._disk.received, oldest)
        if received is None and self._unread:
            received = self._unread[0] / 1000
        return State(self._waiting, self._dead, len(self._put_off), received)

    def close(self) -> None:
        """Let go of the directory; nothing is lost by not calling it."""
        self._disk.close()


class Arriving(Spool):
    """An instance on its way in, whose bytes count while they arrive."""

    def __init__(self, spool: GatewaySpool, directory: Path, *, memory_limit: int, max_size: int, eager: bool) -> None:
        super().__init__(directory, memory_limit=memory_limit, max_size=max_size, eager=eager)
        self._spool = spool
        self._counted = 0

    def write_now(self, chunk: bytes | memoryview) -> bool:
        """Take a chunk; raises Unavailable when the spool has no room for it, TooLarge as every spool."""
        length = len(chunk)
        self._spool.admit(length)
        self._counted += length
        return super().write_now(chunk)

    async def finish(self) -> Spooled:
        """The complete upload, to be given to `GatewaySpool.keep`."""
        try:
            return await super().finish()
        finally:
            self._uncount()

    def discard(self) -> None:
        """Forget the bytes."""
        super().discard()
        self._uncount()

    def _uncount(self) -> None:
        self._spool.dismiss(self._counted)
        self._counted = 0


def _plus(amount: Amount, item: Waiting, count: int) -> Amount:
    return Amount(amount.files + count, amount.bytes + count * item.size)
