"""Who works on jobs.

A worker claims a job, says every few seconds that it lives and how far it is, and ends it; all three only where the row
still names it. One that was killed is not heard of any more, and its job goes to another, which begins anew, or goes on
with the parts that are not done: what a job does can be repeated. A job that ended five workers is given up.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal

import orjson

from dicomweb.errors import ArchiveError, Unavailable
from storage.archive import Archive
from storage.jobs import STORAGE_FULL, Claimed, Handler, JobFailed, Postponed, Progress, opened
from storage.owned_objects import OwnedObjects
from storage.workplace import workplace

log = logging.getLogger(__name__)

_BEAT: Final = 5.0
_LOST: Final = timedelta(seconds=30)
_IDLE: Final = 0.25
_ATTEMPTS: Final = 5
_RETRY: Final = timedelta(seconds=15)

# What a beat finds: the job is to be cancelled, to be paused, or belongs to another worker.
_Stop = Literal["cancel", "pause", "lost"]


class JobRunner:
    """Works on jobs of the kinds that have `handlers`, at most `at_once` at a time."""

    def __init__(self, archive: Archive, handlers: Mapping[str, Handler], *, at_once: int = 1) -> None:
        self._data = archive.settings.data
        self._db = archive.db
        self._files = OwnedObjects(archive.settings, archive.db, archive.objects)
        self._handlers = handlers
        self._at_once = at_once
        self._worker = uuid.uuid4()
        self._sealer = archive.sealer
        self._grace = timedelta(seconds=archive.settings.tomb_grace_s)

    async def run(self) -> None:
        """Until it is cancelled; what it works on then goes back to the others."""
        working: set[asyncio.Task[None]] = set()
        try:
            while True:
                job = None
                try:
                    job = await self._claimed()
                except ArchiveError as error:
                    log.warning("jobs cannot be claimed: %s", error.message)
                if job is not None:
                    working.add(asyncio.create_task(self._taken(job)))
                full = len(working) >= self._at_once
                if working and (full or job is None):
                    done, working = await asyncio.wait(
                        working, timeout=None if full else _IDLE, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in done:
                        task.result()
                elif job is None:
                    await asyncio.sleep(_IDLE)
        finally:
            for task in working:
                task.cancel()
            if working:
                await asyncio.wait(working)

    async def step(self) -> bool:
        """Work on the next job, if there is one."""
        job = await self._claimed()
        if job is not None:
            await self._taken(job)
        return job is not None

    async def _claimed(self) -> Claimed | None:
        row = await self._db.fetch_row("job_claim", list(self._handlers), self._worker, _LOST)
        if row is None:
            return None
        said = dict(row)
        return Claimed(
            **said
            | {"id": str(said["id"]), "content": orjson.loads(said["content"]), "object_size": said["object_size"] or 0}
        )

    async def _taken(self, job: Claimed) -> None:
        if job.attempts > _ATTEMPTS:
            await self._end(job, "failure", None, f"given up: {_ATTEMPTS} workers died of it", "failed")
        else:
            await self._work(job)

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
            match await beats:
                case "cancel":
                    await self._end(job, "failure", None, "cancelled", "cancelled")
                case "pause":
                    await self._noted("job_paused", uuid.UUID(job.id), self._worker)
                case "lost":
                    pass
        except JobFailed as error:
            await self._end(job, "failure", None, str(error), "failed")
        except (Postponed, Unavailable) as error:
            await self._again(job, error)
        except ArchiveError as error:
            await self._end(job, "failure", None, error.message, error.slug)
        except Exception as error:
            log.exception("a job failed")
            await self._end(job, "failure", None, f"internal error ({type(error).__name__})", "internal")
        finally:
            beats.cancel()

    async def _again(self, job: Claimed, error: Postponed | Unavailable) -> None:
        if isinstance(error, Postponed):
            await self._release(job, error.after, blameless=True)
        elif error.reason == "full":  # which time alone does not change
            await self._end(job, "failure", None, error.message, STORAGE_FULL)
        elif job.attempts >= _ATTEMPTS:
            await self._end(job, "failure", None, error.message, error.slug)
        else:
            await self._release(job, _RETRY * job.attempts, blameless=False)

    async def _do(self, job: Claimed, progress: Progress) -> None:
        """The work, and its end where that is a good one."""
        async with workplace(self._data, job.id) as folder:
            done = await self._handlers[job.kind](opened(self._sealer, job), folder, progress)
            if done.file is None:
                await self._end(job, "success", done.result, None, None)
                return
            size = done.file.stat().st_size
            async with self._files.stored(job.tenant, done.file, size) as key:
                if await self._end(job, "success", done.result, None, None, key, size) == "late":
                    raise Unavailable("the file that the job made took too long to be stored")

    async def _beat(self, job: Claimed, work: "asyncio.Future[Any]", fraction: Callable[[], float]) -> _Stop:
        """Say that we live, until the job is to be stopped."""
        while True:
            await asyncio.sleep(_BEAT)
            try:
                row = await self._db.fetch_row("job_beat", uuid.UUID(job.id), self._worker, fraction())
            except ArchiveError as error:
                log.warning("a job's progress cannot be noted: %s", error.message)
                continue
            if row is None or row["cancel_requested"] or row["pause_requested"]:
                # Before the work is told, so that it is known whom the cancellation is for.
                asyncio.get_running_loop().call_soon(work.cancel)
                return "lost" if row is None else "cancel" if row["cancel_requested"] else "pause"

    async def _release(self, job: Claimed, after: timedelta, *, blameless: bool) -> None:
        await self._noted("job_release", uuid.UUID(job.id), self._worker, after, int(blameless))

    async def _end(
        self,
        job: Claimed,
        state: str,
        result: dict[str, Any] | None,
        error: str | None,
        kind: str | None,
        key: str | None = None,
        size: int | None = None,
    ) -> str | None:
        text = None if result is None else orjson.dumps(result).decode()
        said = (state, text, error, kind, key, size, self._grace)
        rows = await self._noted("job_end", uuid.UUID(job.id), self._worker, *said)
        return rows[0][0] if rows else None

    async def _noted(self, query: str, *arguments: object) -> Sequence[Any]:
        """Where the database does not take it, the job is lost to another worker, which does it again."""
        try:
            return await self._db.fetch(query, *arguments)
        except ArchiveError as error:
            log.warning("%s of a job could not be noted: %s", query, error.message)
            return ()
