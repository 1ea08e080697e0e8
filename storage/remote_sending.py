"""Jobs that send stored instances to other servers: to Orthanc's peers one by one, to DICOMweb servers in batches.

Each instance is a part of the job, so that a worker goes on where another was killed. Files are streamed from the
object store; what is made on the way (transcoded, compressed) is spooled, so that its length is known.
"""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

from dicomweb.errors import ArchiveError, BadDicom, BadPixels, BadRequest, NotAcceptable, PeerFailed, Unavailable
from dicomweb.multipart import Writer, content_length
from dicomweb.store_answer import read_answer
from storage.access import SCOPES, Access
from storage.archive import Archive
from storage.data_set_digest import AS_STORED, DataSetDigest, digest_of_answer
from storage.gzipped import packed
from storage.job_items import JobItems, job_items
from storage.jobs import Claimed, Done, Handler, Progress
from storage.outbound import Answer, Caller, again, object_in, refusal
from storage.parallel import side_by_side
from storage.retrieve import Instance
from storage.spool import Spool, Spooled

PEER_STORE: Final = "OrthancPeerStore"
STOW: Final = "DicomWebStowClient"

_MIB: Final = 1 << 20
_CHUNK: Final = 256 << 10
_PAGE: Final = 80  # parts of a job that are looked at together
_AT_ONCE: Final = 4  # uploads to one peer, requests to one DICOMweb server
_BATCH_FILES: Final = 20
_BATCH_BYTES: Final = 32 * _MIB
_ANSWER_MAX: Final = 8 * _MIB

_GONE: Final = 404
_PROCESSING_FAILURE: Final = 0x0110
_OK: Final = 200
# Something is wrong with what was sent, as opposed to who is asked, or who asks.
_CONTENT: Final = frozenset((400, 406, 409, 411, 413, 415, 422, 500, 507))
# Duplicate SOP instance, and what Azure's archive says instead.
_THERE: Final = frozenset((0x0111, 45070))
_STORED: Final = frozenset((200, 202, 409))
_TAKEN: Final = frozenset(("Success", "AlreadyStored"))


def handlers(archive: Archive) -> Mapping[str, Handler]:
    """The kinds of jobs that are worked on here."""
    return {PEER_STORE: partial(run_peer_store, archive), STOW: partial(run_stow, archive)}


class _Refused(Exception):
    """One instance was not taken, with a status and words."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__()
        self.status = status
        self.comment = comment


def access_of(job: Claimed) -> Access:
    """The rights of a job."""
    return Access(job.tenant, "job", SCOPES)


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    instance: Instance


class _Parts:
    """The parts of one job, and what becomes of them."""

    def __init__(self, items: JobItems, progress: Progress, *, permissive: bool) -> None:
        self._items = items
        self._progress = progress
        self._permissive = permissive

    async def sent(self, number: int, size: int) -> None:
        """One was taken; `size` bytes were sent."""
        await self._items.note(number, 0, str(size))
        self._progress(self._items.fraction)

    async def failed(self, number: int, status: int, comment: str) -> None:
        """One was not. Raises PeerFailed unless that is permitted."""
        await self._items.note(number, status, comment)
        self._progress(self._items.fraction)
        if not self._permissive:
            raise PeerFailed(f"an instance could not be sent: {comment}", status)

    async def keep(self) -> None:
        """Have what is noted survive this worker."""
        await self._items.flush()

    async def pages(self) -> AsyncIterator[list[_Part]]:
        """Those that are to be done; what is not stored any more has failed."""
        page: list[_Part] = []
        async for number, _, instance in self._items.instances():
            if instance is None:
                await self.failed(number, _GONE, "the instance is not stored any more")
                continue
            page.append(_Part(number, instance))
            if len(page) == _PAGE:
                yield page
                page = []
        if page:
            yield page


async def _bytes_sent(archive: Archive, job: Claimed, items: JobItems) -> int:
    await items.flush()
    total: int = await archive.db.fetch_value("job_items_sum", uuid.UUID(job.id))
    return total


# -- Orthanc's peers


async def run_peer_store(archive: Archive, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """POST each instance to `/instances` of a peer."""
    content = job.content
    async with (
        job_items(archive.db, job.tenant, job.id) as items,
        archive.remotes.caller(access_of(job), "peer", content["remote"]) as caller,
    ):
        parts = _Parts(items, progress, permissive=content["permissive"])
        upload = _Upload(archive, access_of(job), caller, content.get("transcode"), compress=content["compress"])

        async def one(part: _Part) -> None:
            try:
                size = await upload.send(part.instance)
            except _Refused as refused:
                await parts.failed(part.number, refused.status, refused.comment)
            except (PeerFailed, BadRequest, Unavailable):
                raise
            except ArchiveError as error:  # what is stored here cannot be read
                await parts.failed(part.number, _PROCESSING_FAILURE, error.message)
            else:
                await parts.sent(part.number, size)

        async for page in parts.pages():
            await side_by_side(one, page, _AT_ONCE)
        size = await _bytes_sent(archive, job, items)
    return Done({"said": {"Size": str(size), "SizeMB": size // _MIB}})


class _Upload:
    """Sends single files to a peer."""

    def __init__(self, archive: Archive, access: Access, caller: Caller, target: str | None, *, compress: bool) -> None:
        self._archive = archive
        self._access = access
        self._caller = caller
        self._target = target
        self._headers = {"content-type": "application/dicom"}
        self._compress = compress
        if compress:
            self._headers["content-encoding"] = "gzip"

    async def send(self, instance: Instance) -> int:
        """How many bytes were sent. Raises _Refused, PeerFailed, and what reading raises."""
        if not self._compress and self._target in (None, instance.transfer_syntax):
            return await self._tried(lambda: self._archive.retrieve.file(instance), instance.size)
        spooled = await self._spooled(instance)
        try:
            return await self._tried(lambda: spooled.chunks(_CHUNK), spooled.size)
        finally:
            spooled.release()

    async def _tried(self, body: Callable[[], AsyncIterator[bytes]], size: int) -> int:
        async def attempt() -> int:
            answer = await self._caller.ask(
                "POST", "instances", headers=self._headers, content=body(), size=size, limit=_ANSWER_MAX
            )
            _check_upload(answer)
            return size

        return await again(attempt)

    async def _spooled(self, instance: Instance) -> Spooled:
        settings = self._archive.settings
        spool = Spool(
            self._archive.objects.spool_dir,
            memory_limit=settings.spool_memory,
            max_size=settings.max_instance,
            raw=True,
        )
        async with aclosing(self._file(instance)) as chunks:
            return await spool.collect(packed(chunks) if self._compress else chunks)

    async def _file(self, instance: Instance) -> AsyncGenerator[bytes, None]:
        """In the transfer syntax that was asked for, or as it is stored where that is not possible."""
        begun = False
        if self._target is not None:
            try:
                async for chunk in self._archive.transcode.file(self._access, instance, self._target):
                    begun = True
                    yield chunk
            except (NotAcceptable, BadPixels):
                if begun:
                    raise
            if begun:
                return
        async for chunk in self._archive.retrieve.file(instance):
            yield chunk


def _check_upload(answer: Answer) -> None:
    """Raise unless a peer has taken an upload."""
    if answer.status in _CONTENT:
        raise _Refused(answer.status, f"the peer answered {answer.status}")
    status = object_in(answer, "an Orthanc").get("Status")
    if not isinstance(status, str):
        raise PeerFailed("the peer did not answer as an Orthanc does")
    if status not in _TAKEN:
        raise _Refused(_PROCESSING_FAILURE, "the peer did not store it")


# -- DICOMweb servers


async def run_stow(archive: Archive, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """Send instances by STOW-RS (PS3.18 10.5), some in each request."""
    content = job.content
    async with (
        job_items(archive.db, job.tenant, job.id) as items,
        archive.remotes.caller(access_of(job), "dicomweb", content["remote"], content.get("headers")) as caller,
    ):
        parts = _Parts(items, progress, permissive=content["permissive"])
        async for page in parts.pages():
            await side_by_side(lambda batch: _stow(archive, caller, batch, parts), _batches(page), _AT_ONCE)
        size = await _bytes_sent(archive, job, items)
    return Done({"said": {"NetworkSizeMB": str(size // _MIB)}})


def _batches(parts: Sequence[_Part]) -> list[list[_Part]]:
    made: list[list[_Part]] = []
    size = 0
    for part in parts:
        if not made or len(made[-1]) == _BATCH_FILES or size + part.instance.size > _BATCH_BYTES:
            made.append([])
            size = 0
        made[-1].append(part)
        size += part.instance.size
    return made


async def _stow(archive: Archive, caller: Caller, batch: list[_Part], parts: _Parts) -> None:
    """Send some in one request, and one by one where that is refused as a whole."""
    store = _Store(archive, caller, batch)
    try:
        answer = await again(store.attempt)
    except (PeerFailed, BadRequest, Unavailable):
        raise
    except ArchiveError as error:  # one of them cannot be read
        broken = store.reading
        await parts.failed(broken.number, _PROCESSING_FAILURE, error.message)
        if rest := [part for part in batch if part is not broken]:
            await _stow(archive, caller, rest, parts)
        return
    said = read_answer(answer.body) if answer.status in _STORED else None
    if (said is None or (said.silent and answer.status != _OK)) and len(batch) > 1:
        for part in batch:
            await _stow(archive, caller, [part], parts)
        return
    # What was taken first, so that the job knows it when the first failure ends it.
    refused: list[tuple[_Part, int, str]] = []
    for part in batch:
        uid = part.instance.sop
        if said is None:
            refused.append((part, answer.status, f"the server answered {answer.status}"))
        elif (failure := said.failed.get(uid)) is not None:
            if failure.reason in _THERE and await _is_held(archive, caller, part.instance):
                await parts.sent(part.number, part.instance.size)
                continue
            reason = failure.reason or _PROCESSING_FAILURE
            # Without the server's own words: it knows our credentials, and may repeat them.
            refused.append((part, reason, f"failure reason {reason:04X}"))
        elif uid in said.stored or (said.silent and answer.status == _OK):
            await parts.sent(part.number, part.instance.size)
        else:
            refused.append((part, _PROCESSING_FAILURE, "the server's answer does not mention it"))
    for part, status, comment in refused:
        await parts.failed(part.number, status, comment)
    await parts.keep()


async def _is_held(archive: Archive, caller: Caller, instance: Instance) -> bool:
    """Whether a server that says so has this very data set: one that a worker had sent before it was killed."""
    path = f"studies/{instance.study}/series/{instance.series}/instances/{instance.sop}"
    ours = DataSetDigest()
    try:
        async with caller.open("GET", path, headers={"accept": AS_STORED}) as response:
            if response.status_code != _OK:
                return False
            chunks = _up_to(instance.size + _MIB, caller.chunks(response))
            theirs = await digest_of_answer(response.headers.get("content-type", ""), chunks)
        async for chunk in archive.retrieve.file(instance):
            ours.feed(chunk)
        return theirs == ours.finish()
    except (BadDicom, BadRequest):  # no multipart message, no DICOM file
        return False


async def _up_to(limit: int, chunks: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """The beginning of a body: what is longer than `limit` bytes is not what we have."""
    seen = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            seen += len(chunk)
            if seen > limit:
                return
            yield chunk


class _Store:
    """One Store transaction; `reading` is the part whose file is being read."""

    def __init__(self, archive: Archive, caller: Caller, parts: Sequence[_Part]) -> None:
        self._archive = archive
        self._caller = caller
        self._parts = parts
        self.reading = parts[0]

    async def attempt(self) -> Answer:
        """Send it. Raises PeerFailed, and what reading raises."""
        boundary = uuid4().hex
        fields = {"Content-Type": "application/dicom"}
        size = content_length(boundary, [(fields, part.instance.size) for part in self._parts])
        headers = {
            "content-type": Writer(boundary).content_type("application/dicom"),
            "accept": "application/dicom+json",
        }
        answer = await self._caller.ask(
            "POST", "studies", headers=headers, content=self._body(boundary, fields), size=size, limit=_ANSWER_MAX
        )
        if answer.status not in _STORED and answer.status not in _CONTENT:
            raise refusal(answer.status)
        return answer

    async def _body(self, boundary: str, fields: Mapping[str, str]) -> AsyncIterator[bytes]:
        writer = Writer(boundary)
        async with aclosing(self._archive.retrieve.files([part.instance for part in self._parts])) as files:
            for part in self._parts:
                self.reading = part
                _, body = await anext(files)
                head = writer.part_head(fields)
                if isinstance(body, bytes):
                    yield head + body
                    continue
                yield head
                async for chunk in body:
                    yield chunk
        yield writer.tail()
