"""Jobs: work that outlives its request. They are rows, so that any process answers for any of them."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

from dicomweb.errors import BadQuery, Gone, NotFound, Unavailable
from storage.access import Access
from storage.db import Database
from storage.job_watch import JobWatch
from storage.objects import ObjectStore
from storage.owned_objects import OwnedObjects
from storage.sealing import Sealer
from storage.settings import Settings
from storage.spool import Spooled

# Seconds that a file which a job left can still be read after it was given up: downloads that have begun.
_FILE_GRACE: Final = timedelta(hours=1)
_BATCH: Final = 500
MAX_PAGE: Final = 1000
FAILED_SHOWN: Final = 1000
OUTCOMES_SHOWN: Final = 1000
# How a job ended that found no room for what it made; it can be submitted again.
STORAGE_FULL: Final = "storage-full"
STATES: Final = ("pending", "running", "retry", "paused", "success", "failure")


# Members of a job's content that nobody may read: the key of pseudonyms would trace them back, headers may log in. They
# are forgotten when the job has succeeded.
_SECRET: Final = ("key", "headers")


class JobFailed(Exception):
    """The job cannot be done; the message is for who asked for it."""


class Postponed(Exception):
    """The job is to be begun anew after some time, as often as it says so."""

    def __init__(self, after: timedelta) -> None:
        super().__init__()
        self.after = after


@dataclass(frozen=True, slots=True)
class Job:
    """What there is to say of a job.

    `progress`: 0 to 1; `error_kind`: the slug of the error that ended it, STORAGE_FULL, "cancelled" or "failed";
    `has_file`: it left a file that can be fetched.
    """

    id: str
    kind: str
    state: str
    progress: float
    attempts: int
    priority: int
    content: dict[str, Any]
    result: Any
    error: str | None
    error_kind: str | None
    user_data: Any
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    has_file: bool


@dataclass(frozen=True, slots=True)
class Items:
    """The parts of a job: how many, how many are over, and how many of these have failed."""

    total: int
    over: int
    failed: int


@dataclass(frozen=True, slots=True)
class FailedItem:
    """A part that could not be done, and why."""

    content: str
    status: int
    comment: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a part of a job: `status` 0 for success, None while it is to be done."""

    status: int | None
    comment: str


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file that a job left: where it lies, `size` bytes, and the job's result, which describes it."""

    job: str
    kind: str
    key: str
    size: int
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """How a job ended well: what to tell, and a file of its folder that is kept for whoever asked."""

    result: dict[str, Any]
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that this process works on. `object_key`: what was uploaded for it, `object_size` bytes."""

    id: str
    tenant: int
    kind: str
    content: dict[str, Any]
    object_key: str | None
    object_size: int
    attempts: int
    created_at: datetime


Progress = Callable[[float], None]
# The folder is the job's own, and goes with it.
Handler = Callable[[Claimed, Path, Progress], Awaitable[Done]]


def sealed(sealer: Sealer, tenant: int, kind: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a job as it is stored: with its secrets in the member `sealed`, where there is a key for that."""
    secret = {name: content[name] for name in _SECRET if content.get(name)}
    if not secret or not sealer:
        return content
    text = sealer.seal(orjson.dumps(secret).decode(), f"{tenant}/job/{kind}")
    return {name: value for name, value in content.items() if name not in secret} | {"sealed": text}


def opened(sealer: Sealer, job: Claimed) -> Claimed:
    """A job with its secrets. Raises PeerFailed where no key opens them."""
    content = dict(job.content)
    if (text := content.pop("sealed", None)) is None:
        return job
    return replace(job, content=content | orjson.loads(sealer.open(text, f"{job.tenant}/job/{job.kind}")))


class JobService:
    """Jobs of the archive, for those who ask for them."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore, sealer: Sealer) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._files = OwnedObjects(settings, db, objects)
        self._grace = timedelta(seconds=settings.tomb_grace_s)
        self._watch = JobWatch(db)
        self._sealer = sealer

    async def create(
        self,
        access: Access,
        kind: str,
        content: Mapping[str, Any],
        *,
        once: str | None = None,
        waiting: int | None = None,
        priority: int = 0,
        user_data: Any = None,
        items: Sequence[str] = (),
    ) -> str | None:
        """A new job; None where one was asked for under the name `once` before.

        `items`: its parts, in order; those that one worker has done, the next does not do again. Raises Unavailable
        where `waiting` jobs of the kind are not over.
        """
        if waiting is not None:
            await self.require_room(access, kind, waiting)
        more = (priority, None if user_data is None else orjson.dumps(user_data).decode(), items)
        found: uuid.UUID | None = await self._create(access, kind, content, None, None, once, *more)
        return None if found is None else str(found)

    async def require_room(self, access: Access, kind: str, waiting: int) -> None:
        """Raise Unavailable where `waiting` jobs of the kind are not over."""
        if await self._db.fetch_value("job_waiting", access.tenant, kind, waiting) >= waiting:
            raise Unavailable(f"{waiting} jobs of this kind wait already; ask again when some are done")

    async def create_with(self, access: Access, kind: str, content: Mapping[str, Any], spooled: Spooled) -> str:
        """A new job for an upload, which is durable when this returns; releases the spool. Raises Unavailable."""
        upload = spooled.path if spooled.data is None else spooled.data
        assert upload is not None
        try:
            async with self._files.stored(access.tenant, upload, spooled.size) as key:
                found: uuid.UUID | None = await self._create(
                    access, kind, content, key, spooled.size, None, 0, None, ()
                )
        finally:
            spooled.release()
        if found is None:
            raise Unavailable("the upload took too long to be stored; send it again")
        return str(found)

    async def _create(self, access: Access, kind: str, content: Mapping[str, Any], *more: Any) -> Any:
        text = orjson.dumps(sealed(self._sealer, access.tenant, kind, content)).decode()
        return await self._db.fetch_value("job_create", access.tenant, kind, text, *more)

    async def get(self, access: Access, name: str) -> Job:
        """A job by its identifier. Raises NotFound."""
        access.require("jobs.read")
        row = await self._db.fetch_row("job_get", access.tenant, _identifier(name))
        if row is None:
            raise NotFound("no such job")
        return _job(row)

    async def page(
        self, access: Access, limit: int, *, after: str | None = None, state: str | None = None, kind: str | None = None
    ) -> list[Job]:
        """Jobs, the youngest first, from the one behind the job `after` on. Raises BadQuery."""
        access.require("jobs.read")
        if not 1 <= limit <= MAX_PAGE:
            raise BadQuery(f"limit is 1 to {MAX_PAGE}", attribute="limit")
        if state is not None and state not in STATES:
            raise BadQuery(f"state is one of {', '.join(STATES)}", attribute="state")
        try:
            behind = None if after is None else uuid.UUID(after)
        except ValueError:
            raise BadQuery("after is the identifier of a job", attribute="after") from None
        return [_job(row) for row in await self._db.fetch("job_list", access.tenant, behind, state, kind, limit)]

    async def file(self, access: Access, name: str) -> JobFile:
        """The file that a job left. Raises NotFound, and Gone where it was removed."""
        access.require("dicom.read")
        given = _identifier(name)
        row = await self._db.fetch_row("job_file", access.tenant, given)
        if row is None:
            raise NotFound("no such job")
        if row["result_size"] is None:
            over = row["state"] in ("success", "failure")
            raise NotFound("the job has left no file" if over else "the job is not over")
        if row["result_key"] is None:
            raise Gone("the file that the job left was removed")
        return JobFile(str(given), row["kind"], row["result_key"], row["result_size"], orjson.loads(row["result"]))

    def read(self, file: JobFile, offset: int, length: int) -> AsyncIterator[bytes]:
        """A part of a file, in bounded chunks."""
        return self._objects.stream(file.key, offset, length)

    async def cancel(self, access: Access, name: str) -> None:
        """Stop a job: at once where nobody works on it, else within seconds. Of one that is over, remove the file."""
        access.require("jobs.run")
        job = await self.get(access.with_scope("jobs.read"), name)
        given = uuid.UUID(job.id)
        ended = await self._db.fetch_value(
            "job_end", given, None, "failure", None, "cancelled", "cancelled", None, None, self._grace
        )
        if ended != "ended":
            await self._db.execute("job_cancel", access.tenant, given)
            await self._db.execute("job_drop_result", access.tenant, given, _FILE_GRACE)

    async def pause(self, access: Access, name: str) -> bool:
        """Let a job wait until it is resumed; whether it was not over."""
        access.require("jobs.run")
        return bool(await self._db.fetch_value("job_pause", access.tenant, _identifier(name)))

    async def resume(self, access: Access, name: str) -> bool:
        """Go on with a job; whether it was paused."""
        access.require("jobs.run")
        return bool(await self._db.fetch_value("job_resume", access.tenant, _identifier(name)))

    async def resubmit(self, access: Access, name: str) -> bool:
        """Try again what has failed of a job; whether it had failed."""
        access.require("jobs.run")
        return bool(await self._db.fetch_value("job_resubmit", access.tenant, _identifier(name)))

    async def delete(self, access: Access, name: str) -> bool:
        """Forget a job; whether it was over."""
        access.require("jobs.run")
        return bool(await self._db.fetch_value("job_delete", access.tenant, _identifier(name), _FILE_GRACE))

    async def wait(self, access: Access, name: str) -> Job:
        """A job when it is over; it goes on where the caller does not wait any more. Raises NotFound, Unavailable."""
        job = await self.get(access, name)
        if job.finished_at is None:
            await self._watch.over(uuid.UUID(job.id))
        return await self.get(access, name)

    async def items(self, access: Access, jobs: Sequence[Job]) -> dict[str, Items]:
        """How far the parts of jobs are; of jobs without parts nothing."""
        access.require("jobs.read")
        rows = await self._db.fetch("job_items_count", [uuid.UUID(job.id) for job in jobs])
        return {str(row["job"]): Items(row["total"], row["over"], row["failed"]) for row in rows}

    async def failures(self, access: Access, job: Job) -> list[FailedItem]:
        """The first parts of a job that have failed."""
        access.require("jobs.read")
        rows = await self._db.fetch("job_items_failed", uuid.UUID(job.id), FAILED_SHOWN)
        return [FailedItem(**dict(row)) for row in rows]

    async def outcomes(self, access: Access, job: Job) -> list[Outcome]:
        """What became of the parts of a job in their order, of the first ones where there are very many."""
        access.require("jobs.read")
        rows = await self._db.fetch("job_items_outcomes", uuid.UUID(job.id), OUTCOMES_SHOWN)
        return [Outcome(row["status"], row["comment"]) for row in rows]

    async def close(self) -> None:
        """Stop watching jobs; who waits for one is cancelled."""
        await self._watch.close()

    async def expire(self) -> int:
        """Forget finished jobs whose time is over, and files beyond what may be kept; how many jobs.

        For the background process.
        """
        keep, total = timedelta(seconds=self._settings.job_retention_s), 0
        while count := await self._db.fetch_value("job_expire", keep, _FILE_GRACE, _BATCH):
            total += count
        await self._db.fetch_value("job_drop_results", self._settings.job_file_bytes, _FILE_GRACE)
        return total


def _job(row: Any) -> Job:
    said = dict(row)
    for name in ("content", "result", "user_data"):
        said[name] = None if said[name] is None else orjson.loads(said[name])
    return Job(**said | {"id": str(said["id"])})


def _identifier(name: str) -> uuid.UUID:
    try:
        return uuid.UUID(name)
    except ValueError:
        raise NotFound("no such job") from None
