"""The parts of a job that a worker does one after the other, and what became of them."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from storage.db import Database
from storage.jobs import FAILED_SHOWN, FailedItem
from storage.retrieve import Instance, instance_of

_PAGE: Final = 200
_NOTE_SECONDS: Final = 0.5


class JobItems:
    """The open parts of one job. What is noted goes to the database every half second, and with `flush`."""

    def __init__(self, db: Database, tenant: int, job: str) -> None:
        self._db = db
        self._tenant = tenant
        self._job = uuid.UUID(job)
        self._noted: list[tuple[int, int, str]] = []
        self._flushed = monotonic()
        self.total = self.over = self.failed = 0

    async def count(self) -> None:
        """Look how many parts there are, are over, and have failed."""
        row = await self._db.fetch_row("job_items_count", [self._job])
        if row is not None:
            self.total, self.over, self.failed = row["total"], row["over"], row["failed"]

    async def open(self) -> AsyncIterator[tuple[int, str]]:
        """Number and content of each part that is to be done."""
        last = 0
        while rows := await self._db.fetch("job_items_open", self._job, last, _PAGE):
            for row in rows:
                yield row["number"], row["content"]
            last = rows[-1]["number"]

    async def instances(self) -> AsyncGenerator[tuple[int, str, Instance | None], None]:
        """The same for parts that are SOP Instance UIDs; None for an instance that is not stored any more."""
        last = 0
        while rows := await self._db.fetch("job_items_open", self._job, last, _PAGE):
            found = await self._db.fetch("located_instances", self._tenant, [row["content"] for row in rows])
            known = {row["sop_uid"]: instance_of(self._tenant, row["study_uid"], row) for row in found}
            for row in rows:
                yield row["number"], row["content"], known.get(row["content"])
            last = rows[-1]["number"]

    async def kinds(self) -> Sequence[tuple[str, str]]:
        """SOP classes and transfer syntaxes of the instances that are to be done."""
        rows = await self._db.fetch("job_kinds", self._tenant, self._job)
        return [(row["sop_class"], row["transfer_syntax"]) for row in rows]

    async def note(self, number: int, status: int, comment: str = "") -> None:
        """A part is over; `status` 0 means success."""
        self._noted.append((number, status, comment))
        self.over += 1
        self.failed += status != 0
        if monotonic() - self._flushed > _NOTE_SECONDS:
            await self.flush()

    async def flush(self) -> None:
        """Write what was noted."""
        noted, self._noted = self._noted, []
        self._flushed = monotonic()
        if noted:
            numbers, statuses, comments = (list(column) for column in zip(*noted, strict=True))
            await self._db.execute("job_items_note", self._job, numbers, statuses, comments)

    async def failures(self) -> Sequence[FailedItem]:
        """The first parts that have failed."""
        return [FailedItem(**dict(row)) for row in await self._db.fetch("job_items_failed", self._job, FAILED_SHOWN)]

    @property
    def fraction(self) -> float:
        """How much is over, 0 to 1."""
        return self.over / self.total if self.total else 1.0


@asynccontextmanager
async def job_items(db: Database, tenant: int, job: str) -> AsyncIterator[JobItems]:
    """The parts of a job; what was noted of them is kept, however the job ends."""
    items = JobItems(db, tenant, job)
    await items.count()
    try:
        yield items
    finally:
        await asyncio.shield(items.flush())
