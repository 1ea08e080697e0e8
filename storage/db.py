"""PostgreSQL: the pool, named SQL, and the one place where driver errors become ArchiveError."""

import asyncio
import functools
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from dicomweb.errors import ArchiveError, Unavailable
from storage.connections import DRIVER_ERRORS, Connections
from storage.counts import Times

log = logging.getLogger(__name__)

SQL_ROOT = Path(__file__).parent / "sql"
_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)

# Deadlock and serialization failure: the transaction did not happen, so it may simply be run again.
_RETRYABLE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_MAX_TRIES = 5
_DONE, _FAILED = ("database_seconds", "outcome", "ok"), ("database_seconds", "outcome", "failed")

Record = asyncpg.Record
T = TypeVar("T")


@functools.cache
def named_queries() -> dict[str, str]:
    """Every statement of sql/queries/*.sql by the name on its `-- name:` line."""
    queries: dict[str, str] = {}
    for path in sorted((SQL_ROOT / "queries").glob("*.sql")):
        parts = _NAME.split(path.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in queries:
                raise ValueError(f"the query {name} is defined twice")
            queries[name] = text.strip().rstrip(";")
    return queries


class ConnectionLost(Unavailable):
    """The connection broke while a statement ran: whether it was committed is unknown."""


def translated(error: Exception) -> ArchiveError:
    """Our error for a driver's."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return Unavailable("the database did not answer in time")
    if isinstance(error, asyncpg.DiskFullError):
        return Unavailable("the database's disk is full", reason="full")
    if isinstance(error, asyncpg.PostgresError) and not isinstance(
        error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
    ):
        # The server's text may hold values of patient data: only the SQLSTATE leaves this module.
        log.error("database error %s", error.sqlstate)
        return Unavailable(f"the database refused the statement (SQLSTATE {error.sqlstate})")
    return ConnectionLost("the database is not reachable")


async def _keep_as_it_is(_connection: Any) -> None:
    """Nothing to undo: no statement of ours leaves a setting, a lock or a listener behind.

    The driver's own reset would cost a round trip for every statement. (An open transaction it ends nevertheless.)
    """


class Database:
    """A pool of connections.

    All statements are autocommit and survive a pooler in transaction mode (with statement_cache=0).
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._queries = named_queries()
        self.times = Times()
        self.statements = 0  # how many statements ran: tests count them per endpoint

    @classmethod
    async def open(cls, dsn: str, *, size: int = 8, statement_cache: int = 1024, limit: float = 30.0) -> "Database":
        """Connect; `limit` seconds for each later statement.

        A server that is down is no error yet: a process that starts meanwhile answers Unavailable instead of leaving
        its clients to wait, and works as soon as the server does.
        """
        pool = await asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=size,
            timeout=10,
            command_timeout=limit,
            statement_cache_size=statement_cache,
            max_inactive_connection_lifetime=600,
            reset=_keep_as_it_is,
            server_settings={"application_name": "anor", "idle_in_transaction_session_timeout": "30s", "jit": "off"}
            if statement_cache
            else None,
        )
        database = cls(Connections(pool, size, limit))
        with suppress(Unavailable):  # the first statement will say so
            await database.fetch("ready")
        return database

    async def close(self) -> None:
        """Close every connection; those in use are waited for briefly."""
        await self._connections.close()

    @property
    def connections_in_use(self) -> int:
        """How many statements and transactions run at this moment."""
        return self._connections.in_use

    async def _run(self, call: Callable[[Any], Awaitable[T]]) -> T:
        for attempt in range(_MAX_TRIES):
            try:
                return await self._once(call)
            except _RETRYABLE as error:
                if attempt == _MAX_TRIES - 1:
                    raise translated(error) from error
                await asyncio.sleep(0.005 * 2**attempt)
            except asyncpg.ReadOnlySQLTransactionError as error:
                # The server was demoted: with several hosts in the URL, new connections reach its successor.
                await self._connections.expire()
                raise translated(error) from error
            except DRIVER_ERRORS as error:
                raise translated(error) from error
        raise AssertionError("unreachable")

    async def _once(self, call: Callable[[Any], Awaitable[T]]) -> T:
        begin, key = time.perf_counter(), _FAILED
        try:
            connection = await self._taken()
            try:
                self.statements += 1
                result = await call(connection)
            except BaseException:
                await self._connections.drop(connection)
                raise
            self._connections.give(connection)
            key = _DONE
        finally:
            self.times.add(key, time.perf_counter() - begin)
        return result

    async def _taken(self) -> Any:
        """A connection from the pool. Without one nothing ran, so that the error is never a ConnectionLost."""
        try:
            return await self._connections.take()
        except DRIVER_ERRORS as error:
            found = translated(error)
            raise Unavailable(found.message) if isinstance(found, ConnectionLost) else found from error

    def text(self, name: str) -> str:
        """The statement of that name."""
        return self._queries[name]

    async def fetch(self, name: str, *args: object) -> list[Record]:
        """All rows of a named statement."""
        return await self.fetch_sql(self._queries[name], *args)

    async def fetch_sql(self, sql: str, *args: object) -> list[Record]:
        """All rows of a statement that was compiled elsewhere (search.py)."""
        rows: list[Record] = await self._run(lambda c: c.fetch(sql, *args))
        return rows

    async def fetch_row(self, name: str, *args: object) -> Record | None:
        """The first row, or None."""
        sql = self._queries[name]
        row: Record | None = await self._run(lambda c: c.fetchrow(sql, *args))
        return row

    async def fetch_value(self, name: str, *args: object) -> Any:
        """The first column of the first row, or None."""
        row = await self.fetch_row(name, *args)
        return None if row is None else row[0]

    async def execute(self, name: str, *args: object) -> None:
        """Run a statement for its effect."""
        sql = self._queries[name]
        await self._run(lambda c: c.execute(sql, *args))

    async def fetch_if(self, keep: Callable[[Sequence[Record]], bool], name: str, *args: object) -> list[Record]:
        """All rows of a named statement, whose effect is undone where `keep` does not take them."""
        sql = self._queries[name]

        async def run(connection: Any) -> list[Record]:
            transaction = connection.transaction()
            await transaction.start()
            rows: list[Record] = await connection.fetch(sql, *args)  # where it fails, the connection is given up
            await (transaction.commit() if keep(rows) else transaction.rollback())
            return rows

        return await self._run(run)

    async def fetch_together(self, steps: Sequence[tuple[str, Sequence[object]]]) -> list[Record]:
        """Run several statements (text, arguments) in one transaction; the rows of the last.

        Each sees what was committed before it began, which may be more than the one before it saw.
        """

        async def run(connection: Any) -> list[Record]:
            rows: list[Record] = []
            async with connection.transaction():
                for sql, args in steps:
                    rows = await connection.fetch(sql, *args)
            return rows

        return await self._run(run)

    @asynccontextmanager
    async def cursor(self, sql: str, args: Sequence[object], prefetch: int) -> AsyncIterator[AsyncIterator[Record]]:
        """Stream a large result in one read-only transaction, `prefetch` rows at a time."""
        async with self._reading() as connection:
            yield connection.cursor(sql, *args, prefetch=prefetch).__aiter__()

    async def pages(self, sql: str, args: Sequence[object], rows: int) -> AsyncGenerator[list[Record], None]:
        """A large result in one read-only transaction, `rows` at a time."""
        async with self._reading() as connection:
            cursor = await connection.cursor(sql, *args)
            while page := await cursor.fetch(rows):
                yield page
                if len(page) < rows:
                    break

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Any]:
        """A connection within a read-only transaction; it is not used again where that breaks off."""
        try:
            connection = await self._connections.take()
            try:
                async with connection.transaction(readonly=True):
                    self.statements += 1
                    yield connection
            except BaseException:
                await self._connections.drop(connection)
                raise
            self._connections.give(connection)
        except DRIVER_ERRORS as error:
            raise translated(error) from error
