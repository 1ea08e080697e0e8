"""Intents: which objects are about to be put. Announced before the put, in groups, and under load ahead of need."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from dicomweb.errors import ArchiveError
from storage.batch import Batcher
from storage.db import Database
from storage.objects import ObjectStore
from storage.settings import Settings

# Instances up to this size are put under a key that was announced before they came.
RESERVED_MAX: Final = 1 << 20
_RESERVED_SECONDS: Final = 60
# Keys announced ahead: none for a lone upload, then twice as many each time that they were used up before their end.
_AHEAD_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Intent:
    """An object that is about to be put."""

    key: str
    sop_uid: str
    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class _Reserved:
    key: str
    end: float  # monotonic seconds


class Intents:
    """One tenant's intents.

    An announcement also tells whether the very file is stored already, which spares a repeated upload its put. Under
    load of new files that question is not worth a round trip: they take keys from a stock of announced ones, whose
    names the store has made, and the commit finds the few that are repeated. From the first repeated file until a new
    one comes, each is asked for again.
    """

    def __init__(
        self, settings: Settings, db: Database, objects: ObjectStore, tenant: int, active: Callable[[], int]
    ) -> None:
        """`active`: how many instances are being stored now."""
        self._db = db
        self._objects = objects
        self._tenant = tenant
        # A reserved key is used at its oldest with the whole lease before it.
        self._lease = timedelta(seconds=settings.intent_lease_s + _RESERVED_SECONDS)
        self._stock: deque[_Reserved] = deque()
        self._stocking: asyncio.Task[None] | None = None
        self._ahead = 0
        self._repeats = False
        self._batcher: Batcher[Intent, str | None] = Batcher(
            self._flush, limit=settings.commit_batch, key=lambda i: i.key, expected=active
        )

    def new_key(self) -> str:
        """A random key, never used before, not announced."""
        return f"{self._tenant}/{datetime.now(UTC):%Y%m%d}/{uuid.uuid4().hex}"

    def reserved(self, size: int) -> str | None:
        """An announced key for an instance of `size` bytes that is probably new; None when it must be announced.

        The store was told of the key: see ObjectStore.make_names.
        """
        if self._repeats or size > RESERVED_MAX:
            return None
        now = time.monotonic()
        while self._stock and self._stock[0].end < now:
            self._stock.popleft()  # the sweeper takes it
            self._ahead = 0
        if self._stocking is None and len(self._stock) <= self._ahead // 4:
            wanted, self._ahead = self._ahead, min(2 * self._ahead + 1, _AHEAD_MAX)
            if wanted:
                self._stocking = asyncio.create_task(self._reserve(wanted))
        return self._stock.popleft().key if self._stock else None

    async def _reserve(self, count: int) -> None:
        end = time.monotonic() + _RESERVED_SECONDS
        keys = [self.new_key() for _ in range(count)]
        try:
            await self._insert([Intent(key, "", b"", 0) for key in keys])  # no row has an empty digest: never known
            await self._objects.make_names(keys)
        except ArchiveError:
            self._ahead = 0  # who needs a key announces it, and hears what is wrong
        else:
            self._stock.extend(_Reserved(key, end) for key in keys)
        finally:
            self._stocking = None

    async def announce(self, intent: Intent) -> str | None:
        """Insert the intent; or, when this very file is stored already, insert nothing and give its object's key."""
        return await self._batcher.submit(intent)

    def repeated(self) -> None:
        """A commit met a file that is stored already: more of them will probably follow."""
        self._repeats = True

    async def _flush(self, items: Sequence[Intent]) -> Sequence[str | None]:
        stored = await self._insert(items)
        self._repeats = any(stored)
        return stored

    async def _insert(self, items: Sequence[Intent]) -> list[str | None]:
        rows = await self._db.fetch(
            "ingest_intent",
            self._tenant,
            self._lease,
            [i.key for i in items],
            [i.sop_uid for i in items],
            [i.sha256 for i in items],
            [i.size for i in items],
        )
        stored: dict[int, str | None] = {row["ordinal"]: row["stored_key"] for row in rows}
        return [stored[n] for n in range(1, len(items) + 1)]
