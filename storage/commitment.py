"""Storage commitment as others ask us for it (PS3.4 annex J): what is asked, and what can be promised."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import orjson

from dicomweb.errors import ArchiveError, CorruptObject, NotFound, ObjectMissing, TooLarge, TransactionInUse
from storage.access import Access
from storage.damage import Damage
from storage.db import Database
from storage.jobs import JobService
from storage.objects import ObjectStore
from storage.parallel import side_by_side
from storage.settings import Settings

KIND: Final = "StorageCommitmentScp"
MAX_INSTANCES: Final = 10_000
_MAX_WAITING: Final = 1000
_PAGE: Final = 1000
_AT_ONCE: Final = 16
# When the worker ends a request by web should this process die before it is answered.
_AFTER: Final = timedelta(hours=1)

# Failure Reasons (PS3.3 C.14.1.1).
COMMITTED: Final = 0
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119

# SOP class and SOP instance.
Reference = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of one instance: `reason` is COMMITTED or why it is not."""

    sop_class: str
    sop: str
    reason: int


class CommitmentService:
    """Keeps requests for commitment until they are answered; any process may look and answer."""

    def __init__(
        self, settings: Settings, db: Database, objects: ObjectStore, jobs: JobService, damage: Damage
    ) -> None:
        self._db = db
        self._objects = objects
        self._jobs = jobs
        self._damage = damage
        self._retention = timedelta(seconds=settings.job_retention_s)

    async def begin(
        self,
        access: Access,
        transaction: str,
        asked: dict[str, object],
        references: Sequence[Reference],
        after: timedelta,
    ) -> uuid.UUID | None:
        """A durable request, which the worker answers after `after`; None for a transaction UID that is known.

        `asked`: by whom, for the report. Raises TooLarge for more than MAX_INSTANCES, Unavailable where too many
        requests wait.
        """
        if len(references) > MAX_INSTANCES:
            raise TooLarge(f"commitment is asked for more than {MAX_INSTANCES} instances")
        await self._jobs.require_room(access, KIND, _MAX_WAITING)
        content = orjson.dumps({"transaction": transaction, **asked}).decode()
        items = [f"{sop_class} {sop}" for sop_class, sop in references]
        found: uuid.UUID | None = await self._db.fetch_value(
            "commitment_begin", access.tenant, content, transaction, after, items
        )
        return found

    async def references(self, job: uuid.UUID) -> list[Reference]:
        """What a request is about, in its order."""
        rows = await self._db.fetch("commitment_items", job)
        pairs = (row["content"].split(" ", 1) for row in rows)
        return [(sop_class, sop) for sop_class, sop in pairs]

    async def check(self, access: Access, references: Sequence[Reference]) -> list[Answer]:
        """An answer for each: committed when the index and the object store have it, with its size.

        What does not exist for who asks is not stored. Nothing is decoded. Raises Unavailable where that cannot be
        found out now.
        """
        answers: list[Answer] = []
        for start in range(0, len(references), _PAGE):
            answers += await self._check(access, references[start : start + _PAGE])
        return answers

    async def _check(self, access: Access, references: Sequence[Reference]) -> list[Answer]:
        rows = await self._db.fetch("commitment_located", access.tenant, [sop for _, sop in references], access.labels)
        known = {row["sop_uid"]: row for row in rows}
        damaged: set[str] = set()

        async def look(sop: str) -> None:
            row = known[sop]
            fault: type[ArchiveError] | None = None
            try:
                if await self._objects.size(row["object_key"]) < row["object_offset"] + row["object_size"]:
                    fault = CorruptObject
            except ObjectMissing:
                fault = ObjectMissing
            if fault is not None:
                damaged.add(sop)
                self._damage.note(access.tenant, sop, row["object_key"], fault)

        await side_by_side(look, sorted(known), _AT_ONCE)

        def reason(sop_class: str, sop: str) -> int:
            if sop not in known:
                return NO_SUCH_INSTANCE
            if known[sop]["sop_class"] != sop_class:
                return CLASS_INSTANCE_CONFLICT
            return PROCESSING_FAILURE if sop in damaged else COMMITTED

        return [Answer(sop_class, sop, reason(sop_class, sop)) for sop_class, sop in references]

    async def commit(self, access: Access, transaction: str, references: Sequence[Reference]) -> list[Answer]:
        """Answer a request at once, and keep it for `result`. Raises TransactionInUse, TooLarge, Unavailable."""
        access.require("dicom.read")
        job = await self.begin(access, transaction, {"aet": "", "called": ""}, references, _AFTER)
        if job is None:
            raise TransactionInUse("storage commitment was asked for under this Transaction UID before")
        answers = await self.check(access, references)
        await self.answered(job, answers)
        return answers

    async def result(self, access: Access, transaction: str) -> list[Answer]:
        """What can be said now of an earlier request, by web or DIMSE. Raises NotFound, Unavailable."""
        access.require("dicom.read")
        job = await self._db.fetch_value("commitment_of", access.tenant, transaction)
        if job is None:
            raise NotFound("no request for storage commitment has this Transaction UID")
        return await self.check(access, await self.references(job))

    async def hand_over(self, job: uuid.UUID) -> None:
        """Leave the answer to the worker, at once."""
        await self._db.execute("commitment_hand_over", job)

    async def answered(self, job: uuid.UUID, answers: Sequence[Answer]) -> None:
        """The report was taken by who asked: nothing is left to be done."""
        text = orjson.dumps(summary(answers)).decode()
        await self._db.fetch("job_end", job, None, "success", text, None, None, None, None, timedelta(0))

    async def expire(self) -> None:
        """Forget transactions that ended long ago. For the background process. Raises Unavailable."""
        await self._db.execute("commitment_expire", self._retention)


def summary(answers: Sequence[Answer]) -> dict[str, int]:
    """How many are committed and how many not: the result of the job."""
    committed = sum(answer.reason == COMMITTED for answer in answers)
    return {"committed": committed, "failed": len(answers) - committed}
