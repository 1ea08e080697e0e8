"""Kill -9 of everything that can be killed while clients store, repeat, contradict, delete and read.

Nothing that was acknowledged is lost or altered, no row is without its object, a store that failed can be repeated at
once, the counts of the parents are exact, and after a sweep no object is left that no row needs.
"""

import os
import secrets
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from storage.archive import Archive, open_archive
from storage.directory_files import remove_stale
from storage.settings import load_settings
from storage.worker import number_changes, sweep
from tests.faults.clients import PATIENCE, Client, Race, Shared
from tests.faults.killer import Victim
from tests.faults.stores import assert_sound, count, objects
from tests.rgw import Rgw
from tests.support import free_port

# Longer than a PUT may take (half a lease), as the graces must be.
GRACES = {"intent_lease_s": 20, "sweep_quarantine_s": 12, "tomb_grace_s": 12}


async def test_kills_during_ingest_lose_nothing(tmp_path):
    await crash_run(
        tmp_path, clients=5, seconds=10, pause=(0.8, 2.0), first=["HTTP worker", "PostgreSQL", "everything"]
    )


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_three_minutes_of_kills_lose_nothing(tmp_path):
    tally = await crash_run(tmp_path, clients=6, seconds=180, pause=(0.3, 1.5), first=[], least=60)
    assert tally["acknowledged"] > 1000


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_kills_with_objects_on_s3_lose_nothing(tmp_path, rgw):
    """The gateway is killed too; requests on their way to it may have been carried out or not."""
    where = rgw.settings(rgw.new_bucket(), "crash") | {"s3_read_timeout": 3, "s3_connect_timeout": 1, "s3_retries": 1}
    await crash_run(tmp_path, clients=5, seconds=60, pause=(0.5, 2.0), first=[], least=15, rgw=rgw, where=where)


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_kills_while_instances_are_replaced_lose_nothing(tmp_path):
    await crash_run(
        tmp_path, clients=5, seconds=40, pause=(0.5, 2.0), first=[], least=10, where={"duplicates": "replace"}
    )


async def crash_run(
    tmp_path: Path,
    *,
    clients: int,
    seconds: float,
    pause: tuple[float, float],
    first: list[str],
    least: int = 3,
    rgw: Rgw | None = None,
    where: dict[str, object] | None = None,
) -> Counter[str]:
    seed = int(os.environ.get("ANOR_TEST_SEED", secrets.randbelow(10**6)))
    print(f"seed {seed} (ANOR_TEST_SEED)")
    random = Random(seed)
    dimse_port = free_port()
    where = where or {}
    settings = {"dimse_port": dimse_port, "workers": 2, "spool_memory": 65536, **GRACES, **where}
    victim = Victim(tmp_path / "data", free_port(), rgw, **settings)
    shared = Shared(victim.server.port, dimse_port, seed, replaces=where.get("duplicates") == "replace")
    workers = [Client(shared, number, seed) for number in range(clients)]
    try:
        for worker in workers:
            worker.thread.start()
        _kill_for(victim, random, seconds, pause, first, least)
    finally:
        shared.stop.set()
        for worker in workers:
            worker.thread.join(2 * PATIENCE)
    assert not any(worker.thread.is_alive() for worker in workers)
    try:
        present = _verify_by_http(shared, workers)
    finally:
        workers[0].close()
    assert victim.server.stop() == 0, victim.server.output()[-4000:]
    print(f"kills {dict(victim.kills)}; {dict(shared.tally)}; slowest retry {shared.slowest_retry:.1f} s")
    assert not shared.violations, "\n".join([f"{len(shared.violations)} broken promises:", *shared.violations[:20]])
    assert sum(victim.kills.values()) >= least
    assert shared.tally["acknowledged"] > 30
    await _verify_the_store(tmp_path / "data", where, present)
    return shared.tally


def _kill_for(victim: Victim, random: Random, seconds: float, pause, first: list[str], least: int) -> None:
    end = time.monotonic() + seconds
    killed = 0
    while time.monotonic() < end or killed < least:
        time.sleep(random.uniform(*pause))
        if killed < len(first):
            while not victim.kill(first[killed]):
                time.sleep(0.1)
        else:
            victim.kill_one(random)
        killed += 1
    time.sleep(0.5)


def _verify_by_http(shared: Shared, clients: list[Client]) -> int:
    """Every promise once more, now that nothing is killed any more; how many instances there must be."""
    reader = clients[0]
    end = time.monotonic() + PATIENCE
    present = 0
    for item in [item for client in clients for item in client.items]:
        before = shared.tally["read"]
        while shared.tally["read"] == before and time.monotonic() < end:
            reader.read(item)
        assert shared.tally["read"] > before, "the server does not answer after the last kill"
        present += item.possible != {None}
    for race in shared.races:
        if race.sent:
            present += _verify_race(shared, reader, race)
    return present


def _verify_race(shared: Shared, reader: Client, race: Race) -> bool:
    if shared.replaces:
        race.won.clear()
    if len(race.won) > 1:
        shared.violation(f"{len(race.won)} clients were told that their bytes are stored under one UID")
    race.item.possible = {min(race.won)} if race.won else {None, *race.sent}
    reader.read(race.item)
    return race.item.possible != {None}


async def _verify_the_store(data: Path, where: dict[str, object], present: int) -> None:
    """Index against objects, with the database started for us alone."""
    from storage.embedded import database

    graces = GRACES | {"sweep_quarantine_s": 0, "tomb_grace_s": 0}
    settings = load_settings({"data": data, "workers": 1} | graces | where, {}, None)[0]
    with database(settings):
        archive = await open_archive(settings)
        try:
            report = await assert_sound(archive)
            print(f"{report.instances} instances, {report.objects} objects, {report.waiting} to be swept")
            assert report.instances == present
            await _let_time_pass(archive)
            await sweep(archive)
            keys = {row["object_key"] for row in await archive.db.fetch_sql("SELECT object_key FROM instance")}
            assert await objects(archive) == keys
            assert (await count(archive, "intent"), await count(archive, "tomb")) == (0, 0)
            # Uploads went when the store was opened; what a kill left before it was an upload goes when it is stale.
            assert all(path.name.startswith("new-") for path in archive.objects.spool_dir.iterdir())
            remove_stale(str(archive.objects.spool_dir), age=0)
            assert list(archive.objects.spool_dir.iterdir()) == []
            await number_changes(archive)
            assert await count(archive, "change WHERE seq IS NULL") == 0
            await assert_sound(archive)
        finally:
            await archive.close()


async def _let_time_pass(archive: Archive) -> None:
    """All writers are dead: their leases and graces may end now."""
    await archive.db.fetch_sql("UPDATE intent SET lease_until = now() - interval '1 s'")
    await archive.db.fetch_sql("UPDATE tomb SET not_before = now() - interval '1 s'")
