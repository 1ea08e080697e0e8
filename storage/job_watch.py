"""Waiting for jobs: all that wait in a process ask the database together."""

import asyncio
import logging
import uuid
from contextlib import suppress
from typing import Final

from dicomweb.errors import ArchiveError, Unavailable
from storage.db import Database

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.1
_MAX_WAITING: Final = 1000


class JobWatch:
    """Looks at the jobs that somebody waits for, a few times a second, with one statement."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: dict[uuid.UUID, list[asyncio.Future[None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def over(self, job: uuid.UUID) -> None:
        """Return when the job is over, or gone. Raises Unavailable where too many wait."""
        if sum(map(len, self._waiting.values())) >= _MAX_WAITING:
            raise Unavailable(f"{_MAX_WAITING} requests wait for jobs already")
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job, []).append(future)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            await future
        finally:
            waiting = self._waiting.get(job, [])
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._waiting.pop(job, None)

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    async def _look(self) -> None:
        while self._waiting:
            try:
                over = [row["id"] for row in await self._db.fetch("jobs_over", list(self._waiting))]
            except ArchiveError as error:
                log.warning("jobs cannot be looked at: %s", error.message)
                over = []
            for job in over:
                for future in self._waiting.pop(job, []):
                    if not future.done():
                        future.set_result(None)
            await asyncio.sleep(_LOOK_SECONDS)
