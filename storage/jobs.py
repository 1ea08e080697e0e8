"""Jobs: work that outlives its request. They are rows, so that any process answers for any of them.

A worker claims a job, says every few seconds that it lives and how far it is, and ends it; all three only where the row
still names it. One that was killed is not heard of any more, and its job goes to another, which begins anew: what a job
does can be repeated. A job that ended five workers is given up.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

from dicomweb.errors import ArchiveError, BadQuery, Gone, NotFound, Unavailable
from storage.access import Access
from storage.db import Database
from storage.objects import ObjectStore
from storage.owned_objects import OwnedObjects
from storage.settings import Settings
from storage.spool import Spooled
from storage.workplace import workplace

log = logging.getLogger(__name__)

_BEAT: Final = 5.0
_LOST: Final = timedelta(seconds=30)
_IDLE: Final = 1.0
_ATTEMPTS: Final = 5
_RETRY: Final = timedelta(seconds=15)
# Seconds that a file which a job left can still be read after it was given up: downloads that have begun.
_FILE_GRACE: Final = timedelta(hours=1)
_BATCH: Final = 500
MAX_PAGE: Final = 1000
STATES: Final = ("pending", "running", "retry", "success", "failure")


class JobFailed(Exception):
    """The job cannot be done; the message is for who asked for it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What there is to say of a job. `progress`: 0 to 1; `has_file`: it left a file that can be fetched."""

    id: str
    kind: str
    state: str
    progress: float
    attempts: int
    result: Any
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    has_file: bool


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file that a job left: where it lies, `size` bytes, and the job's result, which describes it."""

    job: str
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


class JobService:
    """Jobs of the archive, for those who ask for them."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._files = OwnedObjects(settings, db, objects)
        self._grace = timedelta(seconds=settings.tomb_grace_s)

    async def create(
        self,
        access: Access,
        kind: str,
        content: Mapping[str, Any],
        *,
        once: str | None = None,
        waiting: int | None = None,
    ) -> str | None:
        """A new job; None where one was asked for under the name `once` before.

        Raises Unavailable where `waiting` jobs of the kind are not over.
        """
        if waiting is not None and await self._db.fetch_value("job_waiting", access.tenant, kind, waiting) >= waiting:
            raise Unavailable(f"{waiting} jobs of this kind wait already; ask again when some are done")
        found: uuid.UUID | None = await self._create(access, kind, content, None, None, once)
        return None if found is None else str(found)

    async def create_with(self, access: Access, kind: str, content: Mapping[str, Any], spooled: Spooled) -> str:
        """A new job for an upload, which is durable when this returns; releases the spool. Raises Unavailable."""
        upload = spooled.path if spooled.data is None else spooled.data
        assert upload is not None
        try:
            async with self._files.stored(access.tenant, upload, spooled.size) as key:
                found: uuid.UUID | None = await self._create(access, kind, content, key, spooled.size, None)
        finally:
            spooled.release()
        if found is None:
            raise Unavailable("the upload took too long to be stored; send it again")
        return str(found)

    async def _create(
        self, access: Access, kind: str, content: Mapping[str, Any], key: str | None, size: int | None, once: str | None
    ) -> Any:
        text = orjson.dumps(content).decode()
        return await self._db.fetch_value("job_create", access.tenant, kind, text, key, size, once)

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
        return JobFile(str(given), row["result_key"], row["result_size"], orjson.loads(row["result"]))

    def read(self, file: JobFile, offset: int, length: int) -> AsyncIterator[bytes]:
        """A part of a file, in bounded chunks."""
        return self._objects.stream(file.key, offset, length)

    async def cancel(self, access: Access, name: str) -> None:
        """Stop a job: at once where nobody works on it, else within seconds. Of one that is over, remove the file."""
        access.require("jobs.run")
        job = await self.get(access.with_scope("jobs.read"), name)
        given = uuid.UUID(job.id)
        ended = await self._db.fetch_value(
            "job_end", given, None, "failure", None, "cancelled", None, None, self._grace
        )
        if ended != "ended":
            await self._db.execute("job_cancel", access.tenant, given)
            await self._db.execute("job_drop_result", access.tenant, given, _FILE_GRACE)

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
    result = None if said["result"] is None else orjson.loads(said["result"])
    return Job(**said | {"id": str(said["id"]), "result": result})


def _identifier(name: str) -> uuid.UUID:
    try:
        return uuid.UUID(name)
    except ValueError:
        raise NotFound("no such job") from None


class JobRunner:
    """Works on jobs, one at a time. `handlers` by kind."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore, handlers: Mapping[str, Handler]) -> None:
        self._data = settings.data
        self._db = db
        self._files = OwnedObjects(settings, db, objects)
        self._handlers = handlers
        self._worker = uuid.uuid4()
        self._grace = timedelta(seconds=settings.tomb_grace_s)

    async def run(self) -> None:
        """Until it is cancelled; what it works on then goes back to the others."""
        while True:
            try:
                busy = await self.step()
            except ArchiveError as error:
                log.warning("jobs cannot be claimed: %s", error.message)
                busy = False
            if not busy:
                await asyncio.sleep(_IDLE)

    async def step(self) -> bool:
        """Work on the next job, if there is one."""
        row = await self._db.fetch_row("job_claim", list(self._handlers), self._worker, _LOST)
        if row is None:
            return False
        said = dict(row)
        job = Claimed(
            **said
            | {"id": str(said["id"]), "content": orjson.loads(said["content"]), "object_size": said["object_size"] or 0}
        )
        if job.attempts > _ATTEMPTS:
            await self._end(job, "failure", None, f"given up: {_ATTEMPTS} workers died of it")
        else:
            await self._work(job)
        return True

    async def _work(self, job: Claimed) -> None:
        fraction = 0.0

        def progress(value: float) -> None:
            nonlocal fraction
            fraction = value

        work = asyncio.ensure_future(self._do(job, progress))
        beats = asyncio.create_task(self._beat(job, work, lambda: fraction))
        try:
            await work
        except asyncio.CancelledError:
            if not beats.done():  # we are asked to stop, not the job
                beats.cancel()
                work.cancel()
                await asyncio.wait([work])
                await self._release(job, timedelta(0), blameless=True)
                raise
            if await beats:
                await self._end(job, "failure", None, "cancelled")
        except JobFailed as error:
            await self._end(job, "failure", None, str(error))
        except Unavailable as error:
            if job.attempts >= _ATTEMPTS:
                await self._end(job, "failure", None, error.message)
            else:
                await self._release(job, _RETRY * job.attempts, blameless=False)
        except ArchiveError as error:
            await self._end(job, "failure", None, error.message)
        except Exception as error:
            log.exception("a job failed")
            await self._end(job, "failure", None, f"internal error ({type(error).__name__})")
        finally:
            beats.cancel()

    async def _do(self, job: Claimed, progress: Progress) -> None:
        """The work, and its end where that is a good one."""
        async with workplace(self._data, job.id) as folder:
            done = await self._handlers[job.kind](job, folder, progress)
            if done.file is None:
                await self._end(job, "success", done.result, None)
                return
            size = done.file.stat().st_size
            async with self._files.stored(job.tenant, done.file, size) as key:
                if await self._end(job, "success", done.result, None, key, size) == "late":
                    raise Unavailable("the file that the job made took too long to be stored")

    async def _beat(self, job: Claimed, work: "asyncio.Future[Any]", fraction: Callable[[], float]) -> bool:
        """Say that we live, until the job is to be cancelled (True) or belongs to another worker (False)."""
        while True:
            await asyncio.sleep(_BEAT)
            try:
                row = await self._db.fetch_row("job_beat", uuid.UUID(job.id), self._worker, fraction())
            except ArchiveError as error:
                log.warning("a job's progress cannot be noted: %s", error.message)
                continue
            if row is None or row["cancel_requested"]:
                # Before the work is told, so that it is known whom the cancellation is for.
                asyncio.get_running_loop().call_soon(work.cancel)
                return row is not None

    async def _release(self, job: Claimed, after: timedelta, *, blameless: bool) -> None:
        await self._noted("job_release", uuid.UUID(job.id), self._worker, after, int(blameless))

    async def _end(
        self,
        job: Claimed,
        state: str,
        result: dict[str, Any] | None,
        error: str | None,
        key: str | None = None,
        size: int | None = None,
    ) -> str | None:
        text = None if result is None else orjson.dumps(result).decode()
        said = (state, text, error, key, size, self._grace)
        rows = await self._noted("job_end", uuid.UUID(job.id), self._worker, *said)
        return rows[0][0] if rows else None

    async def _noted(self, query: str, *arguments: object) -> Sequence[Any]:
        """Where the database does not take it, the job is lost to another worker, which does it again."""
        try:
            return await self._db.fetch(query, *arguments)
        except ArchiveError as error:
            log.warning("%s of a job could not be noted: %s", query, error.message)
            return ()
