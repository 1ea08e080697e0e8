"""Connections that stay taken from the driver's pool between statements.

Taking one from asyncpg's pool and giving it back costs three times the CPU of a small statement (95 µs and 30 µs, each
in a loop of its own), because the pool wraps each step in a timeout and a shielded task. Here both are a list
operation, and the pool does what it is good at: opening, closing, and mending what a failed or cancelled statement
leaves behind.
"""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg

# InternalClientError: what the driver says when a connection dies between two of its steps.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
# A statement that timed out is cancelled on the server; a server that hangs does not even answer that.
_RELEASE_SECONDS = 5.0
_IDLE_SECONDS = 600.0


class Connections:
    """At most `size` connections in use; the one used last is taken first, so that a quiet archive needs few."""

    def __init__(self, pool: asyncpg.Pool, size: int, timeout: float) -> None:
        """`timeout`: seconds to wait for a free connection, and for a new one."""
        self._pool = pool
        self._timeout = timeout
        self._free = asyncio.Semaphore(size)
        self.in_use = 0
        self._idle: list[tuple[float, Any]] = []  # since when, the oldest first
        self._loop = asyncio.get_running_loop()

    async def take(self) -> Any:
        """A live connection: `give` it back after a success, `drop` it after anything else. Raises DRIVER_ERRORS."""
        if self._free.locked():
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        else:
            await self._free.acquire()
        try:
            await self._release_idle(before=self._loop.time() - _IDLE_SECONDS)
            while self._idle:
                connection = self._idle.pop()[1]
                if _is_alive(connection):
                    self.in_use += 1
                    return connection
                await self._release(connection)
            connection = await self._pool.acquire(timeout=self._timeout)
        except BaseException:
            self._free.release()
            raise
        self.in_use += 1
        return connection

    def give(self, connection: Any) -> None:
        """Give back a connection whose statement succeeded."""
        self._idle.append((self._loop.time(), connection))
        self.in_use -= 1
        self._free.release()

    async def drop(self, connection: Any) -> None:
        """Give back a connection whose statement failed or was cancelled. Never fails itself: the answer is known."""
        try:
            await self._release(connection)
        finally:
            self.in_use -= 1
            self._free.release()

    @property
    def opened(self) -> int:
        """Connections to the server, idle ones included."""
        return self._pool.get_size()

    async def expire(self) -> None:
        """Open new connections from now on: the server is not the one to talk to any more."""
        await self._pool.expire_connections()
        await self._release_idle(before=float("inf"))

    async def close(self) -> None:
        """Close every connection; those in use are waited for briefly."""
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._release_idle(before=float("inf"))
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def _release_idle(self, before: float) -> None:
        while self._idle and self._idle[0][0] < before:
            await self._release(self._idle.pop(0)[1])

    async def _release(self, connection: Any) -> None:
        with suppress(*DRIVER_ERRORS):  # the pool has closed it then, and makes a new one
            await self._pool.release(connection, timeout=_RELEASE_SECONDS)


def _is_alive(connection: Any) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # it broke, and the pool has taken it back by itself
        return False
