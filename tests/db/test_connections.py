"""Connections kept between statements: how many, what becomes of broken ones, and that none is lost."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from dicomweb.errors import Unavailable
from storage import connections
from storage.db import Database

SLOW = "SELECT pg_sleep(20)"
WHO = "SELECT pg_backend_pid() AS pid"


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=2, limit=1.0)
    yield database
    await database.close()


async def _backend(db: Database) -> int:
    return int((await db.fetch_sql(WHO))[0]["pid"])


async def test_one_statement_after_another_needs_one_connection(db: Database) -> None:
    assert len({await _backend(db) for _ in range(5)}) == 1
    assert (db._connections.opened, db._connections.in_use) == (1, 0)


async def test_more_statements_than_connections_wait_for_their_turn(db: Database) -> None:
    found = await asyncio.gather(*(_backend(db) for _ in range(20)))
    assert len(set(found)) == 2
    assert db._connections.in_use == 0


async def test_who_waits_too_long_for_a_connection_is_told(db: Database) -> None:
    busy = [asyncio.create_task(db.fetch_sql("SELECT pg_sleep(0.9)")) for _ in range(2)]
    await asyncio.sleep(0.1)
    db._connections._timeout = 0.2
    with pytest.raises(Unavailable, match="in time"):
        await _backend(db)
    await asyncio.gather(*busy)
    assert await _backend(db)


@pytest.mark.parametrize("how", ["cancelled", "timeout", "error"])
async def test_a_statement_that_failed_costs_no_connection(db: Database, how: str) -> None:
    for _ in range(4):
        if how == "cancelled":
            task = asyncio.create_task(db.fetch_sql(SLOW))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with pytest.raises(Unavailable):
                await db.fetch_sql(SLOW if how == "timeout" else "SELECT 1 / 0")
    assert await _backend(db)
    assert db._connections.in_use == 0
    assert db._connections.opened <= 2


async def test_a_connection_that_broke_while_idle_is_replaced(db: Database, database_url: str) -> None:
    first = await _backend(db)
    other = await asyncpg.connect(database_url)
    await other.execute("SELECT pg_terminate_backend($1, 5000)", first)
    await other.close()
    await asyncio.sleep(0.1)
    assert await _backend(db) != first


async def test_connections_that_nobody_needs_are_closed(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.gather(*(db.fetch_sql("SELECT pg_sleep(0.1)") for _ in range(2)))
    assert db._connections.opened == 2
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.0)
    await asyncio.sleep(0.01)
    await _backend(db)
    assert len(db._connections._idle) == 1


async def test_closed_means_closed(db: Database) -> None:
    await _backend(db)
    await db.close()
    assert db._connections.opened == 0
    with pytest.raises(Unavailable):
        await _backend(db)
