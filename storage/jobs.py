"""Jobs: work that outlives its request. They are rows, so that any process answers for any of them.

A worker claims a job, says every few seconds that it lives and how far it is, and ends it; all three only where the row
still names it. One that was killed is not heard of any more, and its job goes to another, which begins anew: what a job
does can be repeated. A job that ended five workers is given up.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from dicomweb.errors import ArchiveError, NotFound, Unavailable
from storage.access import Access
from storage.db import Database
from storage.intents import Intent, Intents
from storage.objects import ObjectStore
from storage.settings import Settings
from storage.spool import Spooled

log = logging.getLogger(__name__)

_BEAT: Final = 5.0
_LOST: Final = timedelta(seconds=30)
_IDLE: Final = 1.0
_ATTEMPTS: Final = 5
_RETRY: Final = timedelta(seconds=15)
_SLOWEST_PUT: Final = 2_000_000  # bytes per second, beside what the lease gives to each object


class JobFailed(Exception):
    """The job cannot be done; the message is for who asked for it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What there is to say of a job. `progress`: 0 to 1."""

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
Handler = Callable[[Claimed, Progress], Awaitable[dict[str, Any]]]


class JobService:
    """Jobs of the archive, for those who ask for them."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._grace = timedelta(seconds=settings.tomb_grace_s)

    async def create(
        self, access: Access, kind: str, content: Mapping[str, Any], *, once: str | None = None
    ) -> str | None:
        """A new job; None where one was asked for under the name `once` before."""
        found: uuid.UUID | None = await self._create(access, kind, content, None, None, once)
        return None if found is None else str(found)

    async def create_with(self, access: Access, kind: str, content: Mapping[str, Any], spooled: Spooled) -> str:
        """A new job for an upload, which is durable when this returns; releases the spool. Raises Unavailable."""
        intents = Intents(self._settings, self._db, access.tenant, lambda: 1)
        key = intents.new_key()
        try:
            await intents.announce(Intent(key, "", b"", spooled.size))
            # No PUT may outlive the lease (see ingest_intent).
            async with asyncio.timeout(self._settings.intent_lease_s / 2 + spooled.size / _SLOWEST_PUT):
                if spooled.data is not None:
                    await self._objects.put(key, [spooled.data], spooled.size)
                else:
                    assert spooled.path is not None
                    await self._objects.put_file(key, spooled.path, spooled.size)
            found: uuid.UUID | None = await self._create(access, kind, content, key, spooled.size, None)
        except BaseException as error:
            with suppress(ArchiveError):  # where the job was made after all, the intent is gone, and this does nothing
                await self._db.execute("ingest_renounce", [key], self._grace)
            if isinstance(error, TimeoutError):
                raise Unavailable("the object store did not take the upload in time") from error
            raise
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
        said = dict(row)
        result = None if said["result"] is None else orjson.loads(said["result"])
        return Job(**said | {"id": str(said["id"]), "result": result})

    async def cancel(self, access: Access, name: str) -> None:
        """Stop a job: at once where nobody works on it, else within seconds. One that is over stays as it is."""
        access.require("jobs.run")
        job = await self.get(access.with_scope("jobs.read"), name)
        given = uuid.UUID(job.id)
        if not await self._db.fetch_value("job_end", given, None, "failure", None, "cancelled", self._grace):
            await self._db.execute("job_cancel", access.tenant, given)


def _identifier(name: str) -> uuid.UUID:
    try:
        return uuid.UUID(name)
    except ValueError:
        raise NotFound("no such job") from None


class JobRunner:
    """Works on jobs, one at a time. `handlers` by kind."""

    def __init__(self, settings: Settings, db: Database, handlers: Mapping[str, Handler]) -> None:
        self._db = db
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

        work = asyncio.ensure_future(self._handlers[job.kind](job, progress))
        beats = asyncio.create_task(self._beat(job, work, lambda: fraction))
        try:
            result = await work
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
        else:
            await self._end(job, "success", result, None)
        finally:
            beats.cancel()

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

    async def _end(self, job: Claimed, state: str, result: dict[str, Any] | None, error: str | None) -> None:
        text = None if result is None else orjson.dumps(result).decode()
        await self._noted("job_end", uuid.UUID(job.id), self._worker, state, text, error, self._grace)

    async def _noted(self, query: str, *arguments: object) -> None:
        """Where the database does not take it, the job is lost to another worker, which does it again."""
        try:
            await self._db.fetch(query, *arguments)
        except ArchiveError as error:
            log.warning("%s of a job could not be noted: %s", query, error.message)
