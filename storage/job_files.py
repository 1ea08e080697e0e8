"""Files of jobs: objects that are durable before a row owns them, and folders in which a job works."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from dicomweb.errors import ArchiveError, Unavailable
from storage.db import Database
from storage.intents import Intent, Intents
from storage.leases import renewed
from storage.objects import ObjectStore
from storage.settings import Settings

_SLOWEST_PUT: Final = 2_000_000  # bytes per second, beside what the lease gives to each object


class JobFiles:
    """Objects that belong to rows of the table `job`."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._lease = timedelta(seconds=settings.intent_lease_s)
        self._grace = timedelta(seconds=settings.tomb_grace_s)

    @asynccontextmanager
    async def stored(self, tenant: int, content: bytes | Path, size: int) -> AsyncIterator[str]:
        """The key of a new, durable object. Within the block a row takes over its intent, or it is given up.

        The file at a path is moved or removed. Raises Unavailable.
        """
        intents = Intents(self._settings, self._db, tenant, lambda: 1)
        key = intents.new_key()
        try:
            await intents.announce(Intent(key, "", b"", size))
            async with renewed(self._lease, lambda: self._db.execute("intent_renew", key, self._lease)):
                await self._put(key, content, size)
                yield key
        finally:
            with suppress(ArchiveError):  # where a row has it, the intent is gone, and this does nothing
                await self._db.execute("ingest_renounce", [key], self._grace)

    async def _put(self, key: str, content: bytes | Path, size: int) -> None:
        try:
            async with asyncio.timeout(self._settings.intent_lease_s / 2 + size / _SLOWEST_PUT):
                if isinstance(content, bytes):
                    await self._objects.put(key, [content], size)
                else:
                    await self._objects.put_file(key, content, size)
        except TimeoutError as error:
            raise Unavailable("the object store did not take the file in time") from error


@asynccontextmanager
async def workplace(data: Path, job: str) -> AsyncIterator[Path]:
    """An empty folder for a job, below the data directory; what a worker that died of the job left there is removed."""
    made = await asyncio.to_thread(_made, data, job)
    try:
        yield made
    finally:
        await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)


def _made(data: Path, job: str) -> Path:
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in data.glob(f"job-{job}-*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"job-{job}-", dir=data))
