"""Objects that are durable before a row owns them."""

import asyncio
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


class OwnedObjects:
    """Objects that belong to rows, but to none of an instance: files of jobs, levels of slides."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._lease = timedelta(seconds=settings.intent_lease_s)
        self._grace = timedelta(seconds=settings.tomb_grace_s)

    @asynccontextmanager
    async def stored(
        self, tenant: int, content: bytes | Path, size: int, *, key: str | None = None
    ) -> AsyncIterator[str]:
        """The key of a new, durable object. Within the block a row takes over its intent, or it is given up.

        `key`: one that was never used before, instead of a random one. The file at a path is moved or removed. Raises
        Unavailable.
        """
        intents = Intents(self._settings, self._db, self._objects, tenant, lambda: 1)
        key = key or intents.new_key()
        try:
            await intents.announce(Intent(key, "", b"", size))
            async with renewed(self._lease, lambda: self._db.execute("intent_renew", [key], self._lease)):
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
