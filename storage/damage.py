"""Stored files that turn out missing or damaged while they are read: counted, logged, and noted until they are whole.

A note is a row of `user_metadata` below the kinds that clients see: it goes with its resource, and counts only while
the resource still has the object that it names. So an upload that restores a file, another one in its place and a
deletion end it by themselves; `recheck` ends those of objects that came back.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeVar

from dicomweb.errors import ArchiveError, CorruptObject, ObjectMissing
from storage.db import Database
from storage.integrity import Fault, content_fault
from storage.objects import ObjectStore
from storage.side_objects import SIDE

log = logging.getLogger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=ArchiveError)
# Tenant, SOP Instance UID ("" for an attachment), key of the object, slug of the error.
_Place = tuple[int, str, str, str]

FAULTS: Final = (ObjectMissing, CorruptObject)
_QUIET: Final = 60.0  # seconds in which the same fault is counted, and not asked of the database again
_MOST: Final = 10_000  # faults that are remembered at once
_BELIEVED: Final = 1.0  # seconds that the number of notes is believed
_PAGE: Final = 100


class Damage:
    """What was found damaged. A fault is believed when the index still points at the object: it may just be deleted."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.counts: dict[str, int] = {}  # failed reads by the slug of their error, for the metrics
        self._waiting: dict[_Place, int] = {}
        self._noted: dict[_Place, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._some = False
        self._counted = float("-inf")

    async def reading(self, tenant: int, sop: str, key: str, read: Awaitable[T]) -> T:
        """The result of a read of an instance's object, whose fault is noted."""
        try:
            return await read
        except FAULTS as error:
            self.note(tenant, sop, key, error)
            raise

    async def streaming(
        self, tenant: int, sop: str, key: str, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        """The chunks of an object, whose fault is noted."""
        try:
            async with aclosing(chunks) as opened:  # type: ignore[type-var]  # object stores give generators
                async for chunk in opened:
                    yield chunk
        except FAULTS as error:
            self.note(tenant, sop, key, error)
            raise

    def note(self, tenant: int, sop: str, key: str, error: ArchiveError | type[ArchiveError]) -> None:
        """A read failed: what is known of it is written in the background. `sop` is "" for an attachment."""
        place = tenant, sop, key.removesuffix(SIDE), error.slug
        if time.monotonic() - self._noted.get(place, float("-inf")) < _QUIET:
            self._count(error.slug, 1)
        elif place in self._waiting or len(self._waiting) < _MOST:
            self._waiting[place] = self._waiting.get(place, 0) + 1
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(self._write())

    def noted(self, tenant: int, sop: str, key: str, error: E) -> E:
        """The error to raise, noted."""
        self.note(tenant, sop, key, error)
        return error

    def _count(self, slug: str, times: int) -> None:
        self.counts[slug] = self.counts.get(slug, 0) + times

    async def _write(self) -> None:
        while self._waiting:
            place = next(iter(self._waiting))
            try:
                row = await self._db.fetch_row("damage_note", *place)
            except ArchiveError as error:
                self._log(place, not_noted=error.message)
                row = None
            times = self._waiting.pop(place)
            if row is None or not row["still"]:
                continue
            self._count(place[-1], times)
            if len(self._noted) >= _MOST:
                self._noted.clear()
            self._noted[place] = time.monotonic()
            self._some = True
            if row["fresh"]:
                self._log(place)

    def _log(self, place: _Place, **more: str) -> None:
        _, sop, key, slug = place
        log.error(json.dumps({"event": "damaged-object", "reason": slug, "instance": sop, "key": key, **more}))

    async def settled(self) -> None:
        """Wait until everything that was found is written."""
        if self._task is not None:
            await self._task

    async def count(self) -> int:
        """How many resources have a damaged object now, of all tenants. Raises Unavailable."""
        found: int = await self._db.fetch_value("damage_count")
        self._some, self._counted = found > 0, time.monotonic()
        return found

    async def is_noted(self, tenant: int, sop: str, key: str) -> bool:
        """Whether the object of an instance is noted. As long as nothing is, the database is asked once a second."""
        if time.monotonic() - self._counted > _BELIEVED:
            await self.count()
        return self._some and bool(await self._db.fetch_value("damage_noted", tenant, sop, key))

    async def recheck(
        self, objects: ObjectStore, left: Callable[[Any, Fault], None] = lambda _row, _kind: None
    ) -> None:
        """Read what is noted again, and end the notes of what is whole; `left`: row and kind of what is not.

        Costs a request for each, and the whole file of those that are as long as they should be. Raises Unavailable.
        """
        await self._db.execute("damage_forget_gone")
        after: tuple[int, bytes] = (0, b"")
        while page := await self._db.fetch("damage_page", *after, _PAGE):
            after = page[-1]["tenant"], page[-1]["orthanc_id"]
            for row in page:
                try:
                    kind = await content_fault(objects, self._db, row)
                except FAULTS as error:
                    left(row, "missing object" if isinstance(error, ObjectMissing) else "wrong size")
                    continue
                if kind is not None:
                    left(row, kind)
                    continue
                key = row["object_key"]
                await self._db.execute("damage_forget", row["tenant"], row["level"], row["orthanc_id"], key)
                for place in [each for each in self._noted if each[2] == key]:
                    del self._noted[place]
                log.warning(json.dumps({"event": "object-whole-again", "instance": row["sop_uid"], "key": key}))
