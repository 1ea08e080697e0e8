"""The connection to PostgreSQL is cut around the one statement that decides: the client is told the truth.

A proxy of ours stands between archive and server and knows when ingest_commit passes.
"""

import asyncio
import time

import asyncpg
import httpx
import pytest

from dicomweb.errors import Conflict, Unavailable
from storage.access import LOCAL
from storage.archive import open_archive
from storage.worker import sweep
from tests.faults.stores import assert_sound, count, objects, store
from tests.files import ct, dataset, encoded, new_uid
from tests.support import running_server

COMMIT = "ingest_commit("


@pytest.mark.parametrize("action", ["cut-before", "cut-after", "cut-answered"])
@pytest.mark.parametrize("together", [1, 20])
async def test_an_answer_lost_at_commit_is_found_out(behind, proxy, action, together):
    await store(behind, ct())  # connections and prepared statements are there
    study, series = new_uid(), new_uid()
    files = [ct(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n) for n in range(together)]
    proxy.arm(COMMIT, action)
    stored = await asyncio.gather(*(store(behind, data) for data in files))
    assert proxy.hits == 1
    assert {each.status for each in stored} == {"stored"}
    assert await count(behind, "instance") == together + 1
    assert await count(behind, "intent") == 0
    assert len(await objects(behind)) == together + 1
    await assert_sound(behind)
    (row,) = await behind.db.fetch_sql("SELECT instance_count FROM study WHERE study_uid = $1", study)
    assert row["instance_count"] == together


@pytest.mark.parametrize("action", ["cut-before", "cut-answered"])
async def test_repeated_loss_at_every_commit_still_ends_well(behind, proxy, action):
    proxy.arm(COMMIT, action, times=3)
    assert (await store(behind, ct())).status == "stored"
    assert proxy.hits == (3 if action == "cut-before" else 1)
    await assert_sound(behind)


async def test_a_database_that_never_takes_the_commit_is_unavailable_and_leaves_an_intent(behind, proxy):
    data = ct()
    proxy.arm(COMMIT, "cut-before", times=1000)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await store(behind, data)
    assert time.monotonic() - began < 5
    proxy.arm(COMMIT, "cut-before", times=0)
    assert (await count(behind, "instance"), await count(behind, "intent")) == (0, 1)
    assert (await assert_sound(behind)).waiting == 1
    assert (await store(behind, data)).status == "stored"  # nothing that failed blocks
    await behind.db.fetch_sql("UPDATE intent SET lease_until = now() - interval '1 s'")
    assert await sweep(behind) == 1
    assert len(await objects(behind)) == 1
    await assert_sound(behind)


@pytest.mark.parametrize(("policy", "status"), [("keep-first", "kept"), ("replace", "replaced")])
async def test_a_lost_answer_about_a_duplicate(settings, proxy, policy, status):
    archive = await open_archive(settings(database_url=proxy.url, duplicates=policy))
    try:
        ds = dataset()
        await store(archive, encoded(ds))
        ds.KVP = "80"
        proxy.arm(COMMIT, "cut-answered", times=1)
        try:
            first = (await store(archive, encoded(ds))).status
        except Unavailable:
            first = "unknown"
        # A replacement is found by its key; of what was not kept there is no trace, so the client has to ask again.
        assert first in {"unknown", "stored", status}
        assert (await store(archive, encoded(ds))).status in {status, "identical"}
        assert await count(archive, "instance") == 1
        await assert_sound(archive)
    finally:
        await archive.close()


async def test_a_lost_answer_about_a_refusal_is_never_a_success(behind, proxy):
    ds = dataset()
    await store(behind, encoded(ds))
    ds.KVP = "80"
    proxy.arm(COMMIT, "cut-answered", times=2)
    with pytest.raises((Unavailable, Conflict)):
        await store(behind, encoded(ds))
    with pytest.raises(Conflict):
        await store(behind, encoded(ds))
    await assert_sound(behind)


async def test_a_hanging_commit_ends_within_the_limit_and_the_repetition_succeeds(settings, proxy):
    archive = await open_archive(settings(database_url=proxy.url, database_timeout=1))
    try:
        data = ct()
        proxy.arm(COMMIT, "mute")
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await store(archive, data)
        assert time.monotonic() - began < 10
        assert (await store(archive, data)).status == "identical"  # it was committed: only nobody could say so
        await assert_sound(archive)
    finally:
        await archive.close()


async def test_a_network_that_hangs_ends_within_the_limit_and_recovers(settings, proxy):
    archive = await open_archive(settings(database_url=proxy.url, database_timeout=1))
    try:
        await store(archive, ct())
        proxy.stall()
        began = time.monotonic()
        outcomes = await asyncio.gather(*(store(archive, ct()) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert time.monotonic() - began < 20
        proxy.flow()
        async with asyncio.timeout(15):
            while True:
                try:
                    await store(archive, ct())
                    break
                except Unavailable:
                    await asyncio.sleep(0.1)
        await assert_sound(archive)
    finally:
        await archive.close()


async def test_a_commit_that_is_late_after_the_sweeper_took_the_intent_is_fenced(behind, proxy):
    data = ct()
    proxy.arm(COMMIT, "hold")
    waiting = asyncio.create_task(store(behind, data))
    await asyncio.to_thread(proxy.reached.wait, 10)
    await behind.db.fetch_sql("UPDATE intent SET lease_until = now() - interval '1 s'")
    assert await sweep(behind) == 1
    proxy.release()
    with pytest.raises(Unavailable):
        await waiting
    assert (await count(behind, "instance"), await count(behind, "intent")) == (0, 0)
    assert await objects(behind) == set()
    assert (await store(behind, data)).status == "stored"
    await assert_sound(behind)


async def test_a_commit_that_arrives_after_it_was_given_up_does_nothing_twice(behind, proxy, database_url):
    """The statement is delayed on the way, the connection lost, the commit asked again; then the first one arrives."""
    data = ct()
    proxy.arm(COMMIT, "hold")
    waiting = asyncio.create_task(store(behind, data))
    await asyncio.to_thread(proxy.reached.wait, 10)
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
    assert (await waiting).status == "stored"
    proxy.release()
    assert await count(behind, "instance") == 1
    await assert_sound(behind)


async def test_deletion_with_a_lost_answer_can_be_repeated(behind, proxy):
    stored = await store(behind, ct())
    proxy.arm("delete_resources(", "cut-answered")
    with pytest.raises(Unavailable):
        await behind.lifecycle.delete(LOCAL, stored.study)
    assert await count(behind, "instance") == 0
    await sweep(behind)
    assert await objects(behind) == set()
    assert (await count(behind, "study"), await count(behind, "patient")) == (0, 0)


async def test_the_client_of_a_server_gets_the_truth(database_url, proxy, tmp_path):
    with running_server(tmp_path / "data", database_url=proxy.url, workers=1) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            for action in ("cut-before", "cut-after", "cut-answered"):
                ds = dataset()
                proxy.arm(COMMIT, action)
                answer = await client.post("/instances", content=encoded(ds))
                assert (answer.status_code, answer.json()["Status"], proxy.hits) == (200, "Success", 1)
                found = await client.get("/dicom-web/instances", params={"SOPInstanceUID": ds.SOPInstanceUID})
                assert len(found.json()) == 1
            proxy.arm(COMMIT, "cut-before", times=1000)
            answer = await client.post("/instances", content=ct())
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
            answer = await client.post(
                "/dicom-web/studies", content=ct(), headers={"content-type": "application/dicom"}
            )
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert answer.json()["slug"] == "unavailable"
            assert "retry-after" in answer.headers
            proxy.arm(COMMIT, "cut-before", times=0)
            assert (await client.get("/statistics")).json()["CountInstances"] == 3
