"""Jobs: claimed once, fenced, repeated after a worker's death, ended for good; and their objects."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dicomweb.errors import Forbidden, Gone, NotFound, ObjectMissing, Unavailable
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.fsck import Check
from storage.job_runner import JobRunner
from storage.jobs import Claimed, Done, Handler, JobFailed, Progress
from storage.settings import Settings
from storage.worker import sweep


@pytest.fixture
async def archive(
    settings: Callable[..., Settings], database_url: str, either_store: dict[str, object]
) -> AsyncIterator[Archive]:
    values = {"tomb_grace_s": 0, "sweep_quarantine_s": 0} | either_store
    opened = await open_archive(settings(database_url=database_url, **values))
    yield opened
    await opened.close()


def runner(archive: Archive, handler: Handler) -> JobRunner:
    return JobRunner(archive, {"test": handler})


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


async def done(job: Claimed, _folder: Path, progress: Progress) -> Done:
    progress(0.5)
    return Done({"was": job.content})


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
    async def fail(_job: Claimed, _folder: Path, _progress: Progress) -> Done:
        raise error

    name = await create(archive)
    await runner(archive, fail).step()
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.error) == (state, said)


async def test_a_dead_workers_job_goes_to_another_and_the_dead_one_is_fenced(archive: Archive) -> None:
    name, begun, go_on = await create(archive), asyncio.Event(), asyncio.Event()

    async def slow(_job: Claimed, _folder: Path, _progress: Progress) -> Done:
        begun.set()
        await go_on.wait()
        return Done({"by": "the first"})

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

    async def slow(_job: Claimed, _folder: Path, _progress: Progress) -> Done:
        begun.set()
        await asyncio.sleep(60)
        return Done({})

    working = asyncio.create_task(runner(archive, slow).run())
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.attempts) == ("retry", 0)
    assert await runner(archive, done).step()


async def test_cancelling(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.job_runner._BEAT", 0.05)
    waiting = await create(archive)
    await archive.jobs.cancel(LOCAL, waiting)
    assert (await archive.jobs.get(LOCAL, waiting)).error == "cancelled"
    running, begun = await create(archive), asyncio.Event()

    async def slow(_job: Claimed, _folder: Path, progress: Progress) -> Done:
        progress(0.25)
        begun.set()
        await asyncio.sleep(60)
        return Done({})

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

    async def read(job: Claimed, _folder: Path, _progress: Progress) -> Done:
        assert job.object_key is not None
        return Done({"bytes": len(await archive.objects.get(job.object_key)), "size": job.object_size})

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


async def leaves(_job: Claimed, folder: Path, _progress: Progress) -> Done:
    (folder / "slide.tiff").write_bytes(b"tiff" * 1000)
    return Done({"file": "slide.tiff"}, folder / "slide.tiff")


async def test_a_file_that_a_job_left(archive: Archive) -> None:
    name, seen = await create(archive), []
    with pytest.raises(NotFound, match="not over"):
        await archive.jobs.file(LOCAL, name)
    await runner(archive, leaves).step()
    assert (await archive.jobs.get(LOCAL, name)).has_file
    assert not list(archive.settings.data.glob("job-*"))
    file = await archive.jobs.file(LOCAL, name)
    assert b"".join([part async for part in archive.jobs.read(file, 2, 6)]) == b"fftiff"
    assert await sweep(archive) == 0
    assert (await Check(archive, seen.append).run()).sound, seen
    await archive.jobs.cancel(LOCAL, name)
    with pytest.raises(Gone):
        await archive.jobs.file(LOCAL, name)
    assert await sweep(archive) == 0  # who reads it now may go on for an hour
    await archive.db.fetch_sql("UPDATE tomb SET not_before = now()")
    assert await sweep(archive) == 1
    with pytest.raises(ObjectMissing):
        await archive.objects.size(file.key)


async def test_a_file_whose_intent_was_swept_is_made_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    put_file = archive.objects.put_file

    async def slow(key: str, path: Path, size: int) -> None:
        await put_file(key, path, size)
        await archive.db.fetch_sql("UPDATE intent SET claimed_at = now()")

    name = await create(archive)
    monkeypatch.setattr(archive.objects, "put_file", slow)
    await runner(archive, leaves).step()
    assert (await archive.jobs.get(LOCAL, name)).state == "retry"
    monkeypatch.undo()
    await archive.db.fetch_sql("UPDATE job SET run_after = now()")
    await runner(archive, leaves).step()
    assert (await archive.jobs.get(LOCAL, name)).has_file


async def test_a_fenced_workers_file_goes(archive: Archive) -> None:
    name = await create(archive)

    async def slow(job: Claimed, folder: Path, progress: Progress) -> Done:
        await archive.db.fetch_sql("UPDATE job SET worker = gen_random_uuid()")
        return await leaves(job, folder, progress)

    await runner(archive, slow).step()
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.has_file) == ("running", False)
    assert await sweep(archive) == 1


async def test_retention(database_url: str, archive: Archive) -> None:
    old, young, once = await create(archive), await create(archive), await create(archive, once="a file")
    for _ in range(3):
        assert await runner(archive, leaves).step()
    waiting = await create(archive)
    assert await archive.jobs.expire() == 0
    await archive.db.fetch_sql(
        "UPDATE job SET finished_at = now() - interval '8 days' WHERE id <> $1::text::uuid", young
    )
    await archive.db.fetch_sql("UPDATE job SET finished_at = NULL WHERE id = $1::text::uuid", waiting)
    assert await archive.jobs.expire() == 1
    with pytest.raises(NotFound):
        await archive.jobs.get(LOCAL, old)
    assert [job.id for job in await archive.jobs.page(LOCAL, 10)] == [waiting, once, young]
    assert await archive.jobs.create(LOCAL, "test", {}, once="a file") is None


async def test_files_that_are_kept(settings: Callable[..., Settings], database_url: str) -> None:
    archive = await open_archive(settings(database_url=database_url, job_file_bytes=9000))
    names = [await create(archive) for _ in range(3)]
    for _ in names:
        await runner(archive, leaves).step()
    await archive.jobs.expire()
    assert [(await archive.jobs.get(LOCAL, name)).has_file for name in names] == [False, True, True]
    with pytest.raises(Gone):
        await archive.jobs.file(LOCAL, names[0])
    await archive.close()


async def test_so_many_may_wait(archive: Archive) -> None:
    for _ in range(2):
        await create(archive, waiting=2)
    with pytest.raises(Unavailable):
        await create(archive, waiting=2)
    await runner(archive, done).step()
    await create(archive, waiting=2)
