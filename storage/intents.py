"""Intents: which objects are about to be put. Announced before the put, in groups, and under load ahead of need."""

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from storage.batch import Batcher
from storage.db import Database
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


class Intents:
    """One tenant's intents.

    An announcement also tells whether the very file is stored already, which spares a repeated upload its put. Under
    load of new files that question is not worth a round trip: they take keys from a stock of announced ones, and the
    commit finds the few that are repeated. From the first repeated file until a new one comes, each is asked for again.
    """

    def __init__(self, settings: Settings, db: Database, tenant: int, active: Callable[[], int]) -> None:
        """`active`: how many instances are being stored now."""
        self._db = db
        self._tenant = tenant
        # A reserved key is used at its oldest with the whole lease before it.
        self._lease = timedelta(seconds=settings.intent_lease_s + _RESERVED_SECONDS)
        self._stock: deque[str] = deque()
        self._stock_end = 0.0
        self._ahead = 0
        self._repeats = False
        self._batcher: Batcher[Intent, str | None] = Batcher(
            self._flush, limit=settings.commit_batch, key=lambda i: i.key, expected=active
        )

    def new_key(self) -> str:
        """A random key, never used before, not announced."""
        return f"{self._tenant}/{datetime.now(UTC):%Y%m%d}/{uuid.uuid4().hex}"

    def reserved(self, size: int) -> str | None:
        """An announced key for an instance of `size` bytes that is probably new; None when it must be announced."""
        if self._repeats or size > RESERVED_MAX or not self._in_stock():
            return None
        return self._stock.popleft()

    def _in_stock(self) -> int:
        if time.monotonic() > self._stock_end:
            self._stock.clear()  # the sweeper takes them
            self._ahead = 0
        return len(self._stock)

    def _wanted(self) -> int:
        """How many keys to announce beside those that are needed now."""
        if self._repeats or self._in_stock():
            return 0
        wanted, self._ahead = self._ahead, min(2 * self._ahead + 1, _AHEAD_MAX)
        return wanted

    async def announce(self, intent: Intent) -> str | None:
        """Insert the intent; or, when this very file is stored already, insert nothing and give its object's key."""
        return await self._batcher.submit(intent)

    def repeated(self) -> None:
        """A commit met a file that is stored already: more of them will probably follow."""
        self._repeats = True

    async def _flush(self, items: Sequence[Intent]) -> Sequence[str | None]:
        reserved = [self.new_key() for _ in range(self._wanted())]
        ahead, end = len(reserved), time.monotonic() + _RESERVED_SECONDS
        rows = await self._db.fetch(
            "ingest_intent",
            self._tenant,
            self._lease,
            [i.key for i in items] + reserved,
            [i.sop_uid for i in items] + [""] * ahead,
            [i.sha256 for i in items] + [b""] * ahead,  # no row has an empty digest: never known
            [i.size for i in items] + [0] * ahead,
        )
        if not self._stock:
            self._stock, self._stock_end = deque(reserved), end
        stored: dict[int, str | None] = {row["ordinal"]: row["stored_key"] for row in rows}
        answer = [stored[n] for n in range(1, len(items) + 1)]
        self._repeats = any(answer)
        return answer
