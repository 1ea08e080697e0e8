"""New instances that become visible together: objects one after the other, then all rows in one transaction."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final

from dicomweb.errors import ArchiveError, Conflict, IdentityMismatch, TooLarge, Unavailable
from storage.commit import Committer, Retry
from storage.db import Database
from storage.ingest_objects import IngestObjects
from storage.leases import renewed
from storage.rows import Prepared
from storage.settings import Settings
from storage.spool import Spooled

_TRIES: Final = 6
# What the rows of a group hold waits in memory, and goes to the database in one message, which takes less than 1 GiB.
_MAX_ROWS: Final = 256 << 20


class IngestGroup:
    """`items`: the instances whose objects are durable, in their order."""

    def __init__(self, settings: Settings, db: Database, files: IngestObjects, committer: Committer) -> None:
        self._db = db
        self._files = files
        self._committer = committer
        self._lease = timedelta(seconds=settings.intent_lease_s)
        self._grace = timedelta(seconds=settings.tomb_grace_s)
        self._rows = 0
        self._done = False
        self._sops: set[str] = set()
        self.items: list[Prepared] = []

    @asynccontextmanager
    async def gathered(self) -> AsyncIterator[None]:
        """Objects are kept from the sweeper within the block; what was not committed at its end is given up."""
        try:
            async with renewed(self._lease, lambda: self._db.execute("intent_renew", self._keys(), self._lease)):
                yield
        finally:
            # Where the outcome is not known, too: the intents tell whether there is anything to renounce.
            if not self._done:
                with suppress(ArchiveError):
                    await self._db.execute("ingest_renounce", self._keys(), self._grace)

    def _keys(self) -> list[str]:
        return [each.key for each in self.items]

    async def add(self, prepared: Prepared, spooled: Spooled) -> None:
        """Make the object of one more instance durable. Raises Conflict, TooLarge, Unavailable."""
        sop = prepared.scan.sop_instance_uid
        if sop in self._sops:
            raise Conflict("two of the instances have one SOPInstanceUID", attribute="SOPInstanceUID")
        self._rows += prepared.scan.metadata.length
        if self._rows > _MAX_ROWS:
            raise TooLarge(f"the attributes of the instances take more than {_MAX_ROWS} bytes together")
        await self._files.put_beside(self._committer.intents, prepared, spooled)
        self._sops.add(sop)
        self.items.append(prepared)

    async def commit(self) -> None:
        """Make all of them visible. Raises what keeps one of them from it: Conflict, IdentityMismatch, Unavailable."""
        for attempt in range(_TRIES):
            try:
                outcomes = {outcome.name for outcome in await self._committer.commit_together(self.items)}
            except Retry:
                await asyncio.sleep(0.01 * attempt)
                continue
            if outcomes <= {"stored", "astray"}:
                self._done = True
                return
            if "elsewhere" in outcomes:
                raise IdentityMismatch(
                    "a SOPInstanceUID or the SeriesInstanceUID is stored under another series or study",
                    attribute="SeriesInstanceUID",
                )
            if "fenced" in outcomes:
                break
            if "stale" not in outcomes:
                raise Conflict("one of the instances is stored already", attribute="SOPInstanceUID")
            for series in {each.scan.series_uid for each in self.items}:
                self._committer.forget(series)
        raise Unavailable("the instances could not be committed in time; send them again")
