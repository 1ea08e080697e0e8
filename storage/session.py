"""A database connection of its own for one long task: no limit of time, and temporary tables that last."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from storage.connections import DRIVER_ERRORS
from storage.db import Record, named_queries, translated

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Record]


class Session:
    """Runs named SQL on one connection, one statement at a time. Errors leave `open_session` translated."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._queries = named_queries()

    async def execute(self, name: str, *args: object) -> None:
        """Run a statement for its effect."""
        await self._connection.execute(self._queries[name], *args)

    async def fetch(self, name: str, *args: object) -> list[Record]:
        """All rows of a statement."""
        return await self._connection.fetch(self._queries[name], *args)

    async def copy(self, table: str, rows: Iterable[Sequence[object]]) -> None:
        """Append rows to a table of this session."""
        await self._connection.copy_records_to_table(table, records=rows)

    async def cursor(self, name: str, prefetch: int) -> AsyncIterator[Record]:
        """Stream a large result, `prefetch` rows at a time."""
        async with self._connection.transaction(readonly=True):
            async for row in self._connection.cursor(self._queries[name], prefetch=prefetch):
                yield row


@asynccontextmanager
async def open_session(url: str) -> AsyncIterator[Session]:
    """Connect directly, not through a pool (nor a pooler in transaction mode). Raises Unavailable, at any time."""
    try:
        connection = await asyncpg.connect(
            url, timeout=10, statement_cache_size=0, server_settings={"application_name": "anor maintenance"}
        )
        try:
            # What the role or database sets for ordinary work must not end a long comparison.
            await connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
            yield Session(connection)
        finally:
            await connection.close(timeout=10)
    except DRIVER_ERRORS as error:
        raise translated(error) from error
