"""New instances that become visible together: objects one after the other, then all rows in one transaction."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from dicomweb.errors import Conflict, IdentityMismatch, TooLarge, Unavailable
from storage.commit import NEW, TRIES, Committer, Retry
from storage.ingest_objects import IngestObjects
from storage.rows import Prepared
from storage.spool import Spooled

# What the rows of a group hold waits in memory, and goes to the database in one message, which takes less than 1 GiB.
_MAX_ROWS: Final = 256 << 20


class IngestGroup:
    """`items`: the instances whose objects are durable, in their order."""

    def __init__(self, files: IngestObjects, committer: Committer) -> None:
        self._files = files
        self._committer = committer
        self._rows = 0
        self._done = False
        self._sops: set[str] = set()
        self.items: list[Prepared] = []

    @asynccontextmanager
    async def gathered(self) -> AsyncIterator[None]:
        """Objects are kept from the sweeper within the block; what was not committed at its end is given up."""
        try:
            async with self._files.kept(self.items):
                yield
        finally:
            # Where the outcome is not known, too: the intents tell whether there is anything to renounce.
            if not self._done:
                await self._files.renounce(*self.items)

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
        for attempt in range(TRIES):
            try:
                outcomes = {outcome.name for outcome in await self._committer.commit_together(self.items)}
            except Retry:
                await asyncio.sleep(0.01 * attempt)
                continue
            if outcomes <= NEW:
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
