"""Jobs that transfer in buckets: to a peer, from a peer, and what stores what a peer has pushed.

The other side is Anor, or an Orthanc with its transfers accelerator plug-in. A bucket that was sent, or has come, is
noted in the database, so that a worker goes on where another was killed.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from dicomweb.errors import ArchiveError, BadRequest, Conflict, NotFound, PeerFailed, Unavailable
from dicomweb.tags import Level
from dicomweb.transfers import planned, read_members
from storage.access import Access
from storage.archive import Archive
from storage.destinations import Unreached
from storage.gzipped import packed, unpacked
from storage.jobs import Claimed, Done, Handler, Progress
from storage.outbound import Answer, Caller, again, object_in, refusal
from storage.parallel import side_by_side
from storage.provenance import Provenance
from storage.remote_sending import access_of
from storage.resource import Resource
from storage.spool import Spool
from storage.transfers import COMMIT, Bucket, File, Role, Transfer

PULL: Final = "PullTransfer"
PUSH: Final = "PushTransfer"

# A peer that computes digests, or stores what came, says nothing for long.
PATIENCE: Final = 600.0
ANSWER_MAX: Final = 1 << 20
_LOOKUP_MAX: Final = 32 << 20
_AT_ONCE: Final = 4  # buckets on their way to or from one peer, files that are put together
_CHUNK: Final = 256 << 10
_MIB: Final = 1 << 20
_PATH: Final = re.compile(r"/?(transfers/push/[0-9A-Za-z-]{1,64})")
_OK, _NOT_FOUND = 200, 404


def handlers(archive: Archive) -> Mapping[str, Handler]:
    """The kinds of jobs that ask peers."""
    return {PUSH: partial(run_push, archive), PULL: partial(run_pull, archive)}


def commit_handlers(archive: Archive) -> Mapping[str, Handler]:
    """The kind of jobs that peers wait for: those that ask peers must not keep it waiting."""
    return {COMMIT: partial(run_commit, archive)}


class _Lost(Exception):
    """The peer does not know the transfer any more."""


async def ask_json(
    caller: Caller, method: str, path: str, given: Any = None, *, limit: int = ANSWER_MAX
) -> dict[str, Any]:
    """One question to a peer, and its answer, which is a JSON object. Raises PeerFailed."""
    text = b"" if given is None else orjson.dumps(given)

    async def body() -> AsyncIterator[bytes]:
        yield text

    answer = await caller.ask(
        method,
        path,
        headers={"content-type": "application/json"} if text else None,
        content=body() if text else None,
        size=len(text),
        limit=limit,
    )
    return object_in(answer, "the transfers plug-in")


def resources_of(job: Claimed) -> list[Resource]:
    """What a job transfers."""
    return [Resource.of(Level(level), name) for level, name in job.content["resources"]]


# -- to a peer


async def run_push(archive: Archive, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """Push resources to a peer, which stores them all together or not at all."""
    access, remote = access_of(job), job.content["remote"]
    async with (
        archive.remotes.caller(access, "peer", remote) as caller,
        archive.remotes.caller(access, "peer", remote, patience=PATIENCE) as patient,
    ):
        for last in (False, True):
            found = await archive.transfers.get(access, "sent", job.id)
            transfer = found or await _announced(archive, access, job, patient)
            try:
                said = await _push(archive, access, caller, patient, transfer, progress)
            except _Lost:  # it was not heard of for long, or the peer has stored it and forgotten
                await _forget(archive, access, "sent", job.id)
                if last:
                    raise PeerFailed("the peer has given up the transfer", _NOT_FOUND) from None
            except (Unavailable, Unreached):
                raise
            except ArchiveError:
                with suppress(ArchiveError):
                    await caller.ask("DELETE", transfer.path or "", limit=ANSWER_MAX)
                await _forget(archive, access, "sent", job.id)
                raise
            else:
                await _forget(archive, access, "sent", job.id)
                return Done({"said": said})
    raise AssertionError("unreachable")


async def _announced(archive: Archive, access: Access, job: Claimed, caller: Caller) -> Transfer:
    plan = planned(await archive.transfers.members(access, resources_of(job)))
    compression = job.content["compression"]
    said = await again(lambda: ask_json(caller, "POST", "transfers/push", plan.shown(compression)))
    path = said.get("Path")
    found = _PATH.fullmatch(path) if isinstance(path, str) else None
    if found is None:
        raise PeerFailed("the peer did not answer as the transfers plug-in does")
    return await archive.transfers.create(access, "sent", plan, compression, job=job.id, path=found[1])


async def _push(
    archive: Archive, access: Access, caller: Caller, patient: Caller, transfer: Transfer, progress: Progress
) -> dict[str, Any]:
    async def send(bucket: Bucket) -> None:
        await again(lambda: _put(archive, access, caller, transfer, bucket))
        await archive.transfers.sent(transfer, bucket.number)

    await _each_bucket(archive, transfer, send, progress)
    said = _said(transfer, "Uploaded", *await archive.transfers.done(transfer))
    _check(await again(lambda: patient.ask("POST", f"{transfer.path}/commit", limit=ANSWER_MAX)))
    return said


async def _put(archive: Archive, access: Access, caller: Caller, transfer: Transfer, bucket: Bucket) -> None:
    files = await archive.transfers.located(access, bucket.ids)
    chunks = archive.transfers.read(files, bucket.offset, bucket.size)
    async with aclosing(chunks):
        if transfer.compression == "gzip":
            spooled = await _new_spool(archive).collect(packed(chunks))
            body, size = spooled.chunks(_CHUNK), spooled.size
        else:
            spooled, body, size = None, chunks, bucket.size
        try:
            headers = {"content-type": "application/octet-stream"}
            path = f"{transfer.path}/{bucket.number}"
            _check(await caller.ask("PUT", path, headers=headers, content=body, size=size, limit=ANSWER_MAX))
        finally:
            if spooled is not None:
                spooled.release()


def _check(answer: Answer) -> None:
    if answer.status == _NOT_FOUND:
        raise _Lost
    if answer.status != _OK:
        raise refusal(answer.status)


# -- from a peer


async def run_pull(archive: Archive, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """Pull resources of a peer, and store them together."""
    access, remote = access_of(job), job.content["remote"]
    source = Provenance("rest", urlsplit((await archive.remotes.get(access, "peer", remote)).url).hostname or "")
    try:
        async with archive.remotes.caller(access, "peer", remote) as caller:
            transfer = await archive.transfers.get(access, "pulled", job.id)
            if transfer is None:
                async with archive.remotes.caller(access, "peer", remote, patience=PATIENCE) as patient:
                    transfer = await _looked_up(archive, access, job, patient)
            fetch = partial(_fetch, archive, access, caller, transfer)
            await _each_bucket(archive, transfer, fetch, progress)
        said = _said(transfer, "Downloaded", *await archive.transfers.done(transfer))
        await _store(archive, access, transfer, source, progress)
    except (Unavailable, Unreached):
        raise
    except ArchiveError:  # what came is of no use: who tries again asks anew
        await _forget(archive, access, "pulled", job.id)
        raise
    await archive.transfers.finish(job.id)
    return Done({"said": said})


async def _looked_up(archive: Archive, access: Access, job: Claimed, caller: Caller) -> Transfer:
    content = job.content
    wanted = [{"Level": level.capitalize(), "ID": name} for level, name in content["resources"]]
    said = await again(lambda: ask_json(caller, "POST", "transfers/lookup", wanted, limit=_LOOKUP_MAX))
    if content["originator"] and said.get("Originator") != content["originator"]:
        raise PeerFailed("the peer is not the one that asked to be pulled from: see RemoteSelf of its declaration")
    try:
        members = read_members(said.get("Instances"))
    except BadRequest as error:
        raise PeerFailed(f"the peer did not answer as the transfers plug-in does: {error.message}") from error
    return await archive.transfers.create(access, "pulled", planned(members), content["compression"], job=job.id)


async def _fetch(archive: Archive, access: Access, caller: Caller, transfer: Transfer, bucket: Bucket) -> None:
    path = f"transfers/chunks/{'.'.join(bucket.ids)}"
    params = [("offset", str(bucket.offset)), ("size", str(bucket.size)), ("compression", transfer.compression)]
    # Deflated data that cannot be compressed are hardly longer.
    limit = bucket.size + (0 if transfer.compression == "none" else 1024 + bucket.size // 256)

    async def attempt() -> None:
        async with caller.open("GET", path, params=params) as response:
            if response.status_code != _OK:
                raise refusal(response.status_code)
            async with aclosing(caller.chunks(response, limit)) as chunks:
                try:
                    content = unpacked(chunks, bucket.size, gzip=transfer.compression == "gzip")
                    spooled = await _new_spool(archive).collect(content)
                except BadRequest as error:
                    raise PeerFailed(f"what the peer sent is not what was asked for: {error.message}") from error
        await archive.transfers.put(access, "pulled", transfer.id, bucket.number, spooled)

    await again(attempt)


# -- what has come


async def run_commit(archive: Archive, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """Store what a peer has pushed. A job that is repeated begins anew, which changes nothing."""
    access, name = access_of(job), job.content["transfer"]
    transfer = await archive.transfers.get(access, "received", name)
    if transfer is None:
        raise NotFound("the transfer was discarded")
    await _store(archive, access, transfer, Provenance("rest", job.content["source"]), progress)
    await archive.transfers.finish(name)
    return Done({"said": {}})


async def _store(archive: Archive, access: Access, transfer: Transfer, source: Provenance, progress: Progress) -> None:
    """Store all instances of a transfer after every one of them was looked at.

    Raises BadRequest for other bytes than those that were announced, BadDicom for what cannot be stored. An instance
    that is stored with other bytes stays as it is, as with POST /instances.
    """
    steps = 0

    async def check(file: File) -> None:
        spooled = await archive.transfers.assembled(file, archive.new_spool())
        try:
            await archive.ingest.scan(spooled)
        finally:
            spooled.release()

    async def store(file: File) -> None:
        spooled = await archive.transfers.assembled(file, archive.new_spool())
        with suppress(Conflict):
            await archive.ingest.store(access, spooled, source)

    for work in (check, store):
        async for page in archive.transfers.files(transfer.id):
            await side_by_side(work, page, _AT_ONCE)
            steps += len(page)
            progress(0.5 + 0.5 * steps / (2 * transfer.instances))


# -- both


async def _each_bucket(
    archive: Archive, transfer: Transfer, work: Callable[[Bucket], Awaitable[None]], progress: Progress
) -> None:
    async for page in archive.transfers.open(transfer):
        await side_by_side(work, page, _AT_ONCE)
        _, _, size = await archive.transfers.done(transfer)
        progress(0.5 * size / transfer.size)


def _said(transfer: Transfer, direction: str, buckets: int, done: int, size: int) -> dict[str, Any]:
    assert buckets == done
    return {
        "TotalInstances": transfer.instances,
        "TotalSizeMB": round(transfer.size / _MIB),
        f"{direction}SizeMB": round(size / _MIB),
        "CompletedHttpQueries": done,
    }


async def _forget(archive: Archive, access: Access, role: Role, name: str) -> None:
    with suppress(NotFound):
        await archive.transfers.drop(access, role, name)


def _new_spool(archive: Archive) -> Spool:
    """Where a bucket goes."""
    settings = archive.settings
    memory, largest = settings.spool_memory, settings.max_instance
    return Spool(archive.objects.spool_dir, memory_limit=memory, max_size=largest, raw=True)
