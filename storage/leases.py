"""Leases in the database, renewed for as long as the work takes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from dicomweb.errors import ArchiveError


@asynccontextmanager
async def renewed(lease: timedelta, renew: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Call `renew` three times in each lease; a call that fails is followed by the next one."""

    async def go_on() -> None:
        while True:
            await asyncio.sleep(lease.total_seconds() / 3)
            with suppress(ArchiveError):
                await renew()

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
