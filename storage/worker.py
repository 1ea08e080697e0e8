"""The background process: sweeps objects that no row needs and numbers the change feed."""

import asyncio
import logging
from datetime import timedelta

from dicomweb.errors import ArchiveError
from storage.archive import Archive

log = logging.getLogger(__name__)

_BATCH = 500
_NUMBERING_SECONDS = 1.0
_SWEEP_SECONDS = 30.0
_SIDE_OBJECT = ".json"


async def number_changes(archive: Archive) -> int:
    """Give all changes that are due their public numbers; how many."""
    total = 0
    while count := await archive.db.fetch_value("number_changes", _BATCH):
        total += count
    return total


async def sweep(archive: Archive) -> int:
    """One round: claim intents whose lease ended, delete objects whose quarantine or grace is over; how many objects.

    Every step may be cut off and repeated: an object is deleted before its row is forgotten, and both are idempotent.
    """
    while await archive.db.fetch_value("sweep_claim", _BATCH) == _BATCH:
        pass
    quarantine = timedelta(seconds=archive.settings.sweep_quarantine_s)
    deleted = 0
    while rows := await archive.db.fetch("sweep_due_intents", quarantine, _BATCH):
        deleted += await _delete(archive, [row["key"] for row in rows], "sweep_forget_intents")
    while rows := await archive.db.fetch("sweep_due_tombs", _BATCH):
        deleted += await _delete(archive, [row["key"] for row in rows], "sweep_forget_tombs")
    return deleted


async def _delete(archive: Archive, keys: list[str], forget: str) -> int:
    for key in keys:
        await archive.objects.delete(key)
        await archive.objects.delete(key + _SIDE_OBJECT)
    await archive.db.execute(forget, keys)
    return len(keys)


async def _every(seconds: float, stop: asyncio.Event, what: str, archive: Archive) -> None:
    step = {"sweep": sweep, "number_changes": number_changes}[what]
    while not stop.is_set():
        try:
            await step(archive)
        except ArchiveError as error:
            log.warning("%s failed: %s", what, error.slug)
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            continue


async def run_worker(archive: Archive, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Any number of workers may run: each step takes its own locks."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_every(_NUMBERING_SECONDS, stop, "number_changes", archive))
        tasks.create_task(_every(_SWEEP_SECONDS, stop, "sweep", archive))
