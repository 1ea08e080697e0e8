"""Jobs: claimed once, fenced, repeated after a worker's death, ended for good; and their objects."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dicomweb.errors import Forbidden, NotFound, ObjectMissing, Unavailable
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.fsck import Check
from storage.jobs import Claimed, Handler, JobFailed, JobRunner, Progress
from storage.settings import Settings
from storage.worker import sweep


@pytest.fixture
async def archive(settings: Callable[..., Settings], database_url: str) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(database_url=database_url, tomb_grace_s=0, sweep_quarantine_s=0))
    yield opened
    await opened.close()


def runner(archive: Archive, handler: Handler) -> JobRunner:
    return JobRunner(archive.settings, archive.db, {"test": handler})


async def create(archive: Archive, **more: Any) -> str:
    made = await archive.jobs.create(LOCAL, "test", {"n": 1}, **more)
    assert made is not None
    return made


async def uploaded(archive: Archive, data: bytes) -> str:
    spool = archive.new_spool()
    await spool.write(data)
    return await archive.jobs.create_with(LOCAL, "test", {}, await spool.finish())


async def later(archive: Archive) -> None:
    """Every worker was last heard of an hour ago."""
    await archive.db.fetch_sql("UPDATE job SET heartbeat_at = now() - interval '1 hour' WHERE state = 'running'")


async def done(job: Claimed, progress: Progress) -> dict[str, Any]:
    progress(0.5)
    return {"was": job.content}


async def test_a_job_runs_once(archive: Archive) -> None:
    name = await create(archive)
    assert (await archive.jobs.get(LOCAL, name)).state == "pending"
    assert await runner(archive, done).step()
    assert not await runner(archive, done).step()
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.progress, job.result, job.attempts) == ("success", 1.0, {"was": {"n": 1}}, 1)


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (JobFailed("no slide"), "failure", "no slide"),
        (NotFound("gone"), "failure", "gone"),
        (KeyError("patient"), "failure", "internal error (KeyError)"),
        (Unavailable("the store is down"), "retry", None),
    ],
)
async def test_how_jobs_fail(archive: Archive, error: Exception, state: str, said: str | None) -> None:
    async def fail(_job: Claimed, _progress: Progress) -> dict[str, Any]:
        raise error

    name = await create(archive)
    await runner(archive, fail).step()
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.error) == (state, said)


async def test_a_dead_workers_job_goes_to_another_and_the_dead_one_is_fenced(archive: Archive) -> None:
    name, begun, go_on = await create(archive), asyncio.Event(), asyncio.Event()

    async def slow(_job: Claimed, _progress: Progress) -> dict[str, Any]:
        begun.set()
        await go_on.wait()
        return {"by": "the first"}

    first = asyncio.create_task(runner(archive, slow).step())
    await begun.wait()
    assert not await runner(archive, done).step()
    await later(archive)
    assert await runner(archive, done).step()
    go_on.set()
    await first
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.result, job.attempts) == ("success", {"was": {"n": 1}}, 2)


async def test_a_job_that_kills_its_workers_is_given_up(archive: Archive) -> None:
    name = await create(archive)
    for _ in range(5):
        await archive.db.fetch_sql(
            "UPDATE job SET state = 'running', worker = gen_random_uuid(), attempts = attempts + 1"
        )
        await later(archive)
    assert await runner(archive, done).step()
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.error) == ("failure", "given up: 5 workers died of it")


async def test_a_worker_that_stops_gives_its_job_back(archive: Archive) -> None:
    name, begun = await create(archive), asyncio.Event()

    async def slow(_job: Claimed, _progress: Progress) -> dict[str, Any]:
        begun.set()
        await asyncio.sleep(60)
        return {}

    working = asyncio.create_task(runner(archive, slow).run())
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.attempts) == ("retry", 0)
    assert await runner(archive, done).step()


async def test_cancelling(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.jobs._BEAT", 0.05)
    waiting = await create(archive)
    await archive.jobs.cancel(LOCAL, waiting)
    assert (await archive.jobs.get(LOCAL, waiting)).error == "cancelled"
    running, begun = await create(archive), asyncio.Event()

    async def slow(_job: Claimed, progress: Progress) -> dict[str, Any]:
        progress(0.25)
        begun.set()
        await asyncio.sleep(60)
        return {}

    working = asyncio.create_task(runner(archive, slow).step())
    await begun.wait()
    await asyncio.sleep(0.2)
    assert (await archive.jobs.get(LOCAL, running)).progress == 0.25
    await archive.jobs.cancel(LOCAL, running)
    await asyncio.wait_for(working, 5)
    job = await archive.jobs.get(LOCAL, running)
    assert (job.state, job.error) == ("failure", "cancelled")
    await archive.jobs.cancel(LOCAL, running)  # it is over: nothing happens


async def test_an_upload_lives_as_long_as_its_job(archive: Archive) -> None:
    name = await uploaded(archive, b"slide" * 1000)
    (row,) = await archive.db.fetch_sql("SELECT object_key FROM job")
    key, seen = row["object_key"], []
    assert await sweep(archive) == 0
    assert (await Check(archive, seen.append).run()).sound, seen

    async def read(job: Claimed, _progress: Progress) -> dict[str, Any]:
        assert job.object_key is not None
        return {"bytes": len(await archive.objects.get(job.object_key)), "size": job.object_size}

    await runner(archive, read).step()
    assert (await archive.jobs.get(LOCAL, name)).result == {"bytes": 5000, "size": 5000}
    assert await sweep(archive) == 1
    with pytest.raises(ObjectMissing):
        await archive.objects.size(key)


async def test_an_upload_whose_intent_was_swept_makes_no_job(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    put = archive.objects.put

    async def slow(key: str, chunks: Any, size: int) -> None:
        await put(key, chunks, size)
        await archive.db.fetch_sql("UPDATE intent SET claimed_at = now()")

    monkeypatch.setattr(archive.objects, "put", slow)
    with pytest.raises(Unavailable):
        await uploaded(archive, b"x")
    assert await archive.db.fetch_sql("SELECT FROM job") == []


async def test_once(archive: Archive) -> None:
    await create(archive, once="a file")
    assert await archive.jobs.create(LOCAL, "test", {}, once="a file") is None
    assert await archive.jobs.create(LOCAL, "test", {}, once="another") is not None


async def test_who_may(archive: Archive) -> None:
    name = await create(archive)
    nobody = Access(LOCAL.tenant, "nobody", frozenset())
    with pytest.raises(Forbidden):
        await archive.jobs.get(nobody, name)
    with pytest.raises(Forbidden):
        await archive.jobs.cancel(nobody, name)
    with pytest.raises(NotFound):
        await archive.jobs.get(Access(2, "other", frozenset({"jobs.read"})), name)
    with pytest.raises(NotFound):
        await archive.jobs.get(LOCAL, "x")
