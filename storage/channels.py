"""Event channels: what waits for a subscriber, given to the one connection on which it listens.

The events are rows, so that it does not matter which process made them or holds the connection. Each process that has
connections asks for all of them together a few times a second; events of its own wake it at once. No connection of the
database is held for it, and nothing depends on LISTEN, which a pooler would not carry.

An event is deleted only when its connection is still open some time after it was sent. What a connection that broke
had been sent shortly before comes again on the next one: at least once, in order.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import orjson

from dicomweb.errors import Unavailable
from dicomweb.ups_model import Event, checked_aet
from storage.access import Access
from storage.db import Database, Record

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
SETTLE_SECONDS = 2.0
MAX_CHANNELS = 1000  # per process
_RETRY_SECONDS = 1.0
_BATCH = 100
_IN_FLIGHT = 1000  # events that were sent and may have to be sent again, per channel


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event on its way to a subscriber; `id` rises, and is the same when the event comes again."""

    id: int
    uid: str
    event: Event


class Channel:
    """One connection of one subscriber; iterate over `events` and close it when the connection ends."""

    def __init__(self, db: Database, tenant: int, aet: str) -> None:
        self._db = db
        self.tenant = tenant
        self.aet = aet
        self.owner = uuid.uuid4()
        self.woken = asyncio.Event()
        self.sent: dict[int, float] = {}  # events not yet settled, by the time they were sent

    async def events(self) -> AsyncIterator[Waiting]:
        """What waits and what comes; ends when a newer connection listens for the same AE.

        An event counts as sent when the next one is asked for. While the database is down it waits.
        """
        while True:
            self.woken.clear()
            rows = await self._next()
            if not rows:
                return
            for row in rows:
                if row["id"] is not None:
                    yield Waiting(row["id"], row["uid"], Event(row["kind"], orjson.loads(row["content"])))
                    self.sent[row["id"]] = asyncio.get_running_loop().time()
            if len(rows) < _BATCH:
                await self._quiet()

    async def _next(self) -> list[Record]:
        """Settle what was sent long enough ago, and read what comes next; no row: the channel has a new owner."""
        while True:
            try:
                await self._settle()
                room = min(_BATCH, _IN_FLIGHT - len(self.sent))
                if room > 0:
                    sent = list(self.sent)
                    return await self._db.fetch("channel_events", self.tenant, self.aet, self.owner, sent, room)
            except Unavailable as error:
                log.warning("an event channel waits: %s", error.message)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _settle(self) -> None:
        before = asyncio.get_running_loop().time() - SETTLE_SECONDS
        due = [each for each, sent in self.sent.items() if sent < before]
        if due:
            await self._db.execute("channel_settle", self.tenant, self.aet, due)
            for each in due:
                del self.sent[each]

    async def _quiet(self) -> None:
        """Wait until there is something new, or something to settle."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS if self.sent else None):
                await self.woken.wait()


class EventChannels:
    """The open channels of this process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._open: set[Channel] = set()
        self._poller: asyncio.Task[None] | None = None

    def wake(self, tenant: int, aets: Iterable[str]) -> None:
        """There is something new for these subscribers."""
        if self._open:
            wanted = set(aets)
            for channel in self._open:
                if channel.tenant == tenant and channel.aet in wanted:
                    channel.woken.set()

    @asynccontextmanager
    async def open(self, access: Access, aet: str) -> AsyncIterator[Channel]:
        """Listen for `aet`, instead of whoever did before. Raises BadRequest, and Unavailable while the database is."""
        access.require("worklist.read")
        channel = Channel(self._db, access.tenant, checked_aet(aet))
        if len(self._open) >= MAX_CHANNELS:
            raise Unavailable(f"this process has {MAX_CHANNELS} event channels already")
        self._open.add(channel)
        try:
            await self._db.execute("channel_open", channel.tenant, aet, channel.owner)
            if self._poller is None:
                self._poller = asyncio.create_task(self._poll())
            yield channel
        finally:
            self._open.discard(channel)
            with suppress(Unavailable):
                await self._db.execute("channel_close", channel.tenant, aet, channel.owner)

    async def close(self) -> None:
        """Stop asking the database."""
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller

    async def _poll(self) -> None:
        while self._open:
            channels = [channel for channel in self._open if not channel.woken.is_set()]
            tenants, aets = [each.tenant for each in channels], [each.aet for each in channels]
            owners = [each.owner for each in channels]
            sent = [max(each.sent, default=0) for each in channels]
            try:
                rows = await self._db.fetch("channels_due", tenants, aets, owners, sent) if channels else []
            except Unavailable as error:
                log.warning("event channels cannot be read: %s", error.message)
                rows = []
            for row in rows:
                channels[row["n"] - 1].woken.set()
            await asyncio.sleep(POLL_SECONDS)
        self._poller = None
