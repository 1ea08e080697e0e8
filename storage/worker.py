"""The background process.

It sweeps objects that no row needs, numbers the change feed, announces what has settled, recycles patients beyond the
limits, analyses tables being filled, removes workitems, worklist items, jobs and transfers whose time is over, keeps
instances in the transfer syntaxes that the rules ask for, looks at damaged objects again, and works on jobs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial

from dicomweb.errors import ArchiveError, Unavailable
from storage.archive import Archive
from storage.changes import forget, settle
from storage.job_runner import JobRunner
from storage.jobs import Handler
from storage.parallel import side_by_side
from storage.quota import recycle
from storage.side_objects import SIDE
from storage.stored_syntax import StoredSyntax

log = logging.getLogger(__name__)

_BATCH = 500
_NUMBERING_SECONDS = 1.0
_SETTLE_SECONDS = 1.0
_ANALYZE_SECONDS = 2.0
_YOUNG_ROWS = 100_000  # larger tables are autovacuum's
_SWEEP_SECONDS = 30.0
_EXPIRE_SECONDS = 30.0
_SEAL_SECONDS = 600.0
_RECHECK_SECONDS = 3600.0
_TRANSCODE_SECONDS = 1.0
_AT_ONCE = 16  # deletions; each waits for a disk or a service most of the time
_MAX_FAILED = 64

# Seconds between two rounds, a name for the log, and what is done in a round.
Step = tuple[float, str, Callable[[], Awaitable[object]]]
# Handlers of jobs by kind, and how many of their jobs are worked on at the same time.
Lane = tuple[Mapping[str, Handler], int]


async def number_changes(archive: Archive) -> int:
    """Give all changes that are due their public numbers; how many."""
    total = 0
    while count := await archive.db.fetch_value("number_changes", _BATCH):
        total += count
    return total


async def analyze_young(archive: Archive) -> int:
    """Gather statistics of tables that doubled, as long as they are small; how many tables."""
    count: int = await archive.db.fetch_value("analyze_young", _YOUNG_ROWS)
    return count


async def sweep(archive: Archive) -> int:
    """One round: claim intents whose lease ended, delete objects whose quarantine or grace is over; how many objects.

    Every step may be cut off and repeated: an object is deleted before its row is forgotten, and both are idempotent.
    An object that cannot be deleted does not keep the others: it is passed over in this round. Raises Unavailable
    when the database is, or the store takes no deletions at all.
    """
    while await archive.db.fetch_value("sweep_claim", _BATCH) == _BATCH:
        pass
    quarantine = timedelta(seconds=archive.settings.sweep_quarantine_s)
    failed: list[str] = []
    deleted = 0
    while rows := await archive.db.fetch("sweep_due_intents", quarantine, failed, _BATCH):
        deleted += await _delete(archive, [row["key"] for row in rows], "sweep_forget_intents", failed)
    while rows := await archive.db.fetch("sweep_due_tombs", failed, _BATCH):
        deleted += await _delete(archive, [row["key"] for row in rows], "sweep_forget_tombs", failed)
    return deleted


async def _delete(archive: Archive, keys: Sequence[str], forget: str, failed: list[str]) -> int:
    """Delete objects, some at once, and forget those that are gone; the others are added to `failed`."""
    gone: list[str] = []

    async def delete(key: str) -> None:
        try:
            await archive.objects.delete(key)
            await archive.objects.delete(key + SIDE)
        except (ArchiveError, ValueError) as error:  # ValueError: not a key that this program has made
            failed.append(key)
            if len(failed) >= _MAX_FAILED:
                raise Unavailable("the object store does not delete") from error
        else:
            gone.append(key)

    try:
        await side_by_side(delete, keys, _AT_ONCE)
    finally:
        if gone:
            await archive.db.execute(forget, gone)
    return len(gone)


async def _every(seconds: float, what: str, step: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await step()
        except ArchiveError as error:
            log.warning("%s failed: %s", what, error.message)
        await asyncio.sleep(seconds)


async def run_worker(
    archive: Archive, stop: asyncio.Event, lanes: Sequence[Lane] = (), more: Sequence[Step] = ()
) -> None:
    """Run until `stop` is set. Any number of workers may run: each step takes its own locks.

    `lanes`: jobs that do not wait for those of other lanes; `more`: steps that other parts of the program want to be
    taken.
    """
    try:
        await archive.worklist.announce_restart()
    except ArchiveError as error:
        log.warning("announce_restart failed: %s", error.message)
    steps: list[Step] = [
        (_NUMBERING_SECONDS, "number_changes", partial(number_changes, archive)),
        (_SETTLE_SECONDS, "settle", partial(settle, archive.db, timedelta(seconds=archive.settings.stable_age_s))),
        (_SETTLE_SECONDS, "recycle", partial(recycle, archive.db, archive.settings)),
        (_EXPIRE_SECONDS, "forget_changes", partial(forget, archive.db)),
        (_ANALYZE_SECONDS, "analyze_young", partial(analyze_young, archive)),
        (_SWEEP_SECONDS, "sweep", partial(sweep, archive)),
        (_EXPIRE_SECONDS, "expire_workitems", archive.worklist.expire),
        (_EXPIRE_SECONDS, "expire_modality_worklist", archive.modality_worklist.expire),
        (_EXPIRE_SECONDS, "expire_performed_steps", archive.performed_steps.expire),
        (_EXPIRE_SECONDS, "expire_jobs", archive.jobs.expire),
        (_EXPIRE_SECONDS, "expire_archives", archive.archives.expire),
        (_EXPIRE_SECONDS, "expire_commitments", archive.asked.expire),
        (_EXPIRE_SECONDS, "expire_transactions", archive.commitment.expire),
        (_EXPIRE_SECONDS, "expire_transfers", archive.transfers.expire),
        (_SEAL_SECONDS, "seal_credentials", archive.remotes.seal),
        (_SEAL_SECONDS, "seal_users", archive.modalities.seal),
        (_TRANSCODE_SECONDS, "transcode", StoredSyntax(archive).step),
        (_RECHECK_SECONDS, "recheck_damaged", partial(archive.damage.recheck, archive.objects)),
        *more,
    ]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_every(*step)) for step in steps]
        for handlers, at_once in lanes:
            runner = JobRunner(archive, handlers, at_once=at_once)
            running.append(tasks.create_task(runner.run()))
        await stop.wait()
        for task in running:
            task.cancel()
