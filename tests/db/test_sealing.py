"""Credentials of remote servers and secrets of jobs: encrypted where there is a key, and of use to nobody else."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dicomweb.errors import PeerFailed
from dicomweb.tags import Level
from storage import modification_jobs
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.job_runner import JobRunner
from storage.jobs import Claimed, Done
from storage.modification_requests import ModificationRequests
from storage.provenance import Provenance
from storage.remotes import Declaration
from storage.sealing import Sealer
from storage.setting_checks import SettingError
from storage.settings import Settings
from tests.files import ct
from tests.remote import Request, scripted

PASSWORD, TOKEN = "s3cr3t-Passw0rd", "t0ken-of-a-bearer"
OLD, NEW = "0f" * 32, "a5" * 32
# An archive over the same database, with these keys in its file.
Open = Callable[..., Awaitable[Archive]]


def keys(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)
    return path


def test_seals() -> None:
    old, new = Sealer.with_keys([b"\x0f" * 32]), Sealer.with_keys([b"\xa5" * 32, b"\x0f" * 32])
    sealed = old.seal(PASSWORD, "row")
    assert PASSWORD not in sealed
    assert old.seal(PASSWORD, "row") != sealed
    assert new.open(sealed, "row") == PASSWORD
    assert (old.is_current(sealed), new.is_current(sealed), new.is_current(PASSWORD)) == (True, False, False)
    for sealer, text, purpose in (
        (old, sealed, "another row"),
        (old, new.seal(PASSWORD, "row"), "row"),
        (Sealer(), sealed, "row"),
        (old, sealed[:-8] + "AAAAAAA=", "row"),
        (old, sealed[:20], "row"),
    ):
        with pytest.raises(PeerFailed) as caught:
            sealer.open(text, purpose)
        assert PASSWORD not in str(caught.value)
    plain = Sealer()
    assert plain.open(plain.seal(PASSWORD, "row"), "row") == PASSWORD
    assert plain.is_current(PASSWORD)
    assert "0f0f" not in repr(old)


def test_key_files(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    path = tmp_path / "keys"
    assert settings(database_url="postgresql://x/y", credentials_key_file=keys(path, OLD)).credentials_key_file == path
    for lines in ((), (OLD[1:],), (OLD, "x"), ("é",), [OLD] * 17):
        with pytest.raises(SettingError, match="credentials_key_file"):
            settings(database_url="postgresql://x/y", credentials_key_file=keys(path, *lines))
    keys(path, OLD).chmod(0o604)
    with pytest.raises(SettingError, match="everybody may read"):
        settings(database_url="postgresql://x/y", credentials_key_file=path)
    with pytest.raises(SettingError, match="credentials_key_file"):
        settings(database_url="postgresql://x/y", credentials_key_file=tmp_path / "nothing")


@pytest.fixture
async def opened(settings: Callable[..., Settings], database_url: str, tmp_path: Path) -> AsyncIterator[Open]:
    made: list[Archive] = []

    async def archive(*lines: str) -> Archive:
        path = keys(tmp_path / os.urandom(4).hex(), *lines) if lines else None
        more = {} if path is None else {"credentials_key_file": path}
        made.append(await open_archive(settings(database_url=database_url, outgoing_networks="127.0.0.0/8", **more)))
        return made[-1]

    yield archive
    for each in made:
        await each.close()


async def texts(archive: Archive) -> str:
    """What a dump of the database would tell of remote servers and jobs."""
    rows = await archive.db.fetch_sql("SELECT r::text FROM remote r UNION ALL SELECT j::text FROM job j")
    return "\n".join(row[0] for row in rows)


async def called(archive: Archive, name: str = "other") -> str:
    async with archive.remotes.caller(LOCAL, "peer", name) as caller:
        answer = await caller.ask("GET", "system", limit=1000)
    return answer.body.decode()


def echo(request: Request) -> None:
    request.answer("200 OK", f"{request.header('authorization')} {request.header('x-token')}".encode())


SAID = f"Basic YTpzM2NyM3QtUGFzc3cwcmQ= {TOKEN}"


async def test_credentials_in_the_database(opened: Open) -> None:
    plain = await opened()
    with scripted(echo) as server:
        declared = Declaration("peer", "other", server.url, "a", PASSWORD, {"X-Token": TOKEN})
        await plain.remotes.put(LOCAL, declared)
        assert PASSWORD in await texts(plain)
        assert await plain.remotes.seal() == 0
        # Whoever gets a key encrypts what is there, and a new key what the old one has encrypted.
        sealing = await opened(OLD)
        assert await called(sealing) == SAID
        assert await sealing.remotes.seal() == 1
        assert await sealing.remotes.seal() == 0
        found = await texts(plain)
        assert not any(secret in found for secret in (PASSWORD, TOKEN))
        turning = await opened(NEW, OLD)
        assert await called(turning) == SAID
        assert await turning.remotes.seal() == 1
        with pytest.raises(PeerFailed, match="credentials_key_file does not have"):
            await called(sealing)
        assert await called(await opened(NEW)) == SAID
        [shown] = await turning.remotes.list(LOCAL, "peer")
        assert (shown.username, shown.has_password, shown.header_names) == ("a", True, ("X-Token",))
        # A row that is sent elsewhere, or another row's secret, is of no use.
        with scripted(echo) as thief:
            await plain.db.fetch_sql("UPDATE remote SET url = $1 RETURNING true", thief.url)
            with pytest.raises(PeerFailed, match="cannot be decrypted"):
                await called(turning)
            assert not thief.requests
        await plain.db.fetch_sql("UPDATE remote SET url = $1, name = 'mine' RETURNING true", server.url)
        with pytest.raises(PeerFailed, match="cannot be decrypted"):
            await called(turning, "mine")


async def test_secrets_of_jobs(opened: Open) -> None:
    archive = await opened(OLD)
    content = {"key": PASSWORD, "headers": {"x-token": TOKEN}, "said": {"a": 1}}
    seen = []

    async def handler(job: Claimed, _folder: Path, _progress: object) -> Done:
        seen.append(job.content)
        return Done({})

    def runner(archive: Archive) -> JobRunner:
        return JobRunner(archive, {"test": handler})

    name = await archive.jobs.create(LOCAL, "test", content)
    assert name is not None
    found = await texts(archive)
    assert not any(secret in found for secret in (PASSWORD, TOKEN))
    assert await runner(await opened(NEW)).step()
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.error_kind, seen) == ("failure", "peer-failed", [])
    await archive.jobs.resubmit(LOCAL, name)
    assert await runner(archive).step()
    assert seen == [content | {"resumed": True}]
    job = await archive.jobs.get(LOCAL, name)
    assert (job.state, job.content) == ("success", {"said": {"a": 1}, "resumed": True})


async def test_the_key_of_a_project(opened: Open) -> None:
    """Nobody can read it while the job waits, and it is nowhere when the job is done."""
    archive = await opened(OLD)
    spool = archive.new_spool()
    await spool.write(ct())
    found = await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
    requests = ModificationRequests(archive.db, archive.archives, archive.rest_state)
    body = {"ProjectKey": f"{PASSWORD} of a project"}
    task = await requests.modify(LOCAL, Level.STUDY, [found.orthanc.study], body, anonymize=True)
    assert PASSWORD in str(task.content)
    content = task.content | {"permissive": False, "principal": "", "remote": ""}
    name = await archive.jobs.create(LOCAL, task.kind, content, items=task.items)
    assert name is not None
    assert PASSWORD not in await texts(archive)
    assert await JobRunner(archive, modification_jobs.handlers(archive)).step()
    assert (await archive.jobs.get(LOCAL, name)).state == "success"
    assert "sealed" not in await texts(archive)
    # Without a key for the database it is forgotten as well.
    plain = await opened()
    name = await plain.jobs.create(LOCAL, task.kind, content, items=task.items)
    assert await JobRunner(plain, modification_jobs.handlers(plain)).step()
    assert PASSWORD not in await texts(plain)
