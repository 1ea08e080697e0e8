"""The sweeper is interrupted, hindered and raced; the change feed is restored from a dump."""

import asyncio
import secrets
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from dicomweb.errors import Unavailable
from storage.access import LOCAL
from storage.archive import open_archive
from storage.worker import number_changes, run_worker, sweep
from tests.faults.stores import assert_sound, count, objects, store
from tests.files import ct, new_uid


def _block(path: Path) -> None:
    """A directory in the place of an object: it cannot be unlinked."""
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _new_key() -> str:
    return f"1/20260101/{secrets.token_hex(16)}"


async def _entomb(archive, keys: list[str]) -> None:
    await archive.db.fetch_sql(
        "INSERT INTO tomb (key, not_before) SELECT unnest($1::text[]), now() - interval '1 s'", keys
    )


async def test_what_cannot_be_deleted_does_not_keep_the_rest(archive):
    keys = [_new_key() for _ in range(40)]
    for key in keys:
        await archive.objects.put(key, [b"x"], 1)
    stuck = archive.objects.local_path(keys[7])
    _block(stuck)
    await _entomb(archive, [*keys, "../not/a/key"])
    assert await sweep(archive) == 39
    assert {row["key"] for row in await archive.db.fetch_sql("SELECT key FROM tomb")} == {keys[7], "../not/a/key"}
    stuck.rmdir()
    assert await sweep(archive) == 1
    assert await objects(archive) == set()


async def test_a_store_that_deletes_nothing_ends_the_round(archive):
    keys = [_new_key() for _ in range(300)]
    for key in keys:
        _block(archive.objects.local_path(key))
    await _entomb(archive, keys)
    with pytest.raises(Unavailable):
        await sweep(archive)
    assert await count(archive, "tomb") == 300


async def test_sweepers_beside_each_other_do_no_harm(settings, database_url):
    opened = [
        await open_archive(settings(database_url=database_url, tomb_grace_s=0, sweep_quarantine_s=0)) for _ in range(3)
    ]
    try:
        first = opened[0]
        kept = [await store(first, ct()) for _ in range(5)]
        for _ in range(40):
            gone = await store(first, ct())
            await first.lifecycle.delete(LOCAL, gone.study)
        abandoned = [_new_key() for _ in range(40)]
        await first.db.fetch("ingest_intent", 1, timedelta(seconds=-1), abandoned, ["1.2"] * 40, [b""] * 40, [1] * 40)
        for key in abandoned:
            await first.objects.put(key, [b"x"], 1)
        await asyncio.gather(*(sweep(archive) for archive in opened))
        await sweep(first)
        assert len(await objects(first)) == len(kept)
        assert (await count(first, "tomb"), await count(first, "intent")) == (0, 0)
        await assert_sound(first)
    finally:
        for archive in opened:
            await archive.close()


async def test_the_worker_stops_at_once_in_the_middle_of_a_long_round(archive):
    keys = [_new_key() for _ in range(3000)]
    for key in keys:
        _touch(archive.objects.local_path(key))
    await _entomb(archive, keys)
    stop = asyncio.Event()
    worker = asyncio.create_task(run_worker(archive, stop))
    async with asyncio.timeout(20):
        while await count(archive, "tomb") == len(keys):  # noqa: ASYNC110  rows, no event
            await asyncio.sleep(0.01)
    stop.set()
    async with asyncio.timeout(3):
        await worker
    await sweep(archive)
    assert (await count(archive, "tomb"), await objects(archive)) == (0, set())


async def test_changes_restored_into_a_new_cluster_are_numbered(archive):
    """A dump keeps the transaction numbers of the old cluster, which the new one may reach in years."""
    await store(archive, ct())
    await archive.db.fetch_sql("UPDATE change SET xid = (xid::text::bigint + 1000000000)::text::xid8")
    assert await number_changes(archive) == 4
    await store(archive, ct(StudyInstanceUID=new_uid()))
    assert await number_changes(archive) > 0
    assert await count(archive, "change WHERE seq IS NULL") == 0


async def test_a_server_that_became_read_only_is_left_for_the_writable_one(archive, database_url):
    """A failover demotes the primary: its connections stay, and must not be kept."""
    name = database_url.rpartition("/")[2].partition("?")[0]
    await store(archive, ct())
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable, match="no writes"):
            await archive.check()
        with pytest.raises(Unavailable):
            await store(archive, ct())
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        await store(archive, ct())
        await archive.check()
    finally:
        await connection.close()
