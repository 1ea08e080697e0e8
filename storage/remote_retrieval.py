"""Jobs that retrieve from DICOMweb servers by WADO-RS (PS3.18 10.4): instances are stored one by one as they come."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from dicomweb.errors import ArchiveError, BadRequest, NotFound, PeerFailed, TooLarge, Unavailable
from dicomweb.media import MediaType, parse_media_type
from dicomweb.multipart import Limits, Parser, PartBegin, PartData, boundary_of
from storage.access import Access
from storage.archive import Archive
from storage.data_set_digest import AS_STORED
from storage.job_items import job_items
from storage.jobs import Claimed, Done, Handler, Progress
from storage.outbound import Caller, again, refusal
from storage.parallel import side_by_side
from storage.provenance import Provenance
from storage.remote_listing import missing
from storage.remote_sending import access_of
from storage.spool import Spool, Spooled

RETRIEVE: Final = "DicomWebWadoRetrieveClient"

_DICOM: Final = "application/dicom"
_MULTIPART: Final = "multipart/related"
_REQUESTS: Final = 4  # at a time, for single instances
_AT_ONCE: Final = 8  # instances that are stored while the next ones come
_MAX_INSTANCES: Final = 1_000_000
_PROCESSING_FAILURE: Final = 0x0110
_OK, _PARTIAL, _NOT_FOUND = 200, 206, 404


def handlers(archive: Archive) -> Mapping[str, Handler]:
    """The kinds of jobs that are worked on here."""
    return {RETRIEVE: partial(run_retrieve, archive)}


async def run_retrieve(archive: Archive, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """Retrieve each resource of the job, and store what comes; what is stored already counts as received."""
    content, access = job.content, access_of(job)
    async with (
        job_items(archive.db, job.tenant, job.id) as items,
        archive.remotes.caller(access, "dicomweb", content["remote"], content.get("headers")) as caller,
    ):
        remote = await archive.remotes.get(access, "dicomweb", content["remote"])
        # A server that does not know `transfer-syntax=*` sends what it likes.
        universal = remote.says("HasWadoRsUniversalTransferSyntax", default=True)
        accept = AS_STORED if universal else f'{_MULTIPART}; type="{_DICOM}"'
        source = Provenance("rest", urlsplit(remote.url).hostname or "")
        params = list(content["arguments"].items())
        async for number, path in items.open():
            taking = _Taking(archive, access, source, permissive=content["permissive"])
            # A worker that was killed, or an attempt that was broken off, has stored what had come by then.
            taking.begun = job.attempts > 1 or "resumed" in content

            async def take(path: str, taking: _Taking = taking) -> None:
                async with caller.open("GET", path, params=params, headers={"accept": accept}) as response:
                    await taking.answer(caller, response)

            async def attempt(path: str = path, taking: _Taking = taking) -> None:
                resumed, taking.begun = taking.begun, True
                taking.received = taking.failed = 0
                rest = await missing(archive.db, job.tenant, caller, path) if resumed and not params else None
                if rest is None:
                    await take(path)
                    return
                wanted, taking.received = rest
                await side_by_side(partial(_one, take), wanted, _REQUESTS)

            await again(attempt)
            await items.note(number, 0, f"{taking.received} {taking.failed}")
            progress(items.fraction)
        await items.flush()
        [row] = await archive.db.fetch("job_items_received", uuid.UUID(job.id))
    said: dict[str, Any] = {"ReceivedInstancesCount": str(row["received"])}
    return Done({"said": said | ({"FailedInstancesCount": row["failed"]} if row["failed"] else {})})


async def _one(take: Callable[[str], Awaitable[None]], path: str) -> None:
    """Retrieve a single instance of those that are missing, unless it was deleted meanwhile."""
    with suppress(NotFound):
        await again(partial(take, path))


class _Taking:
    """Stores what one answer brings."""

    def __init__(self, archive: Archive, access: Access, source: Provenance, *, permissive: bool) -> None:
        self._archive = archive
        self._access = access
        self._source = source
        self._permissive = permissive
        self.received = self.failed = 0
        self.begun = False

    async def answer(self, caller: Caller, response: httpx.Response) -> None:
        """Store all instances of an answer.

        Raises NotFound where the server has no such resource, PeerFailed for an answer that is none or ends early, and
        unless that is permitted for the first instance that cannot be stored; Unavailable where the archive is.
        """
        status = response.status_code
        if status == _NOT_FOUND:
            raise NotFound("the remote server has no such resource")
        if status not in (_OK, _PARTIAL):
            raise refusal(status)
        try:
            media = parse_media_type(response.headers.get("content-type", ""))
            whole = media.essence == _DICOM
            if not whole and media.essence != _MULTIPART:
                raise PeerFailed("the remote server did not answer with DICOM files")
            async with aclosing(caller.chunks(response)) as chunks:
                await (self._file(chunks) if whole else self._parts(chunks, media))
        except (BadRequest, TooLarge) as error:
            raise PeerFailed(f"the answer of the remote server cannot be read: {error.message}") from error

    async def _file(self, chunks: AsyncIterator[bytes]) -> None:
        try:
            await self._store(await self._archive.new_spool().collect(chunks))
        except TooLarge as error:
            self._count_failed(error)

    async def _parts(self, chunks: AsyncIterator[bytes], media: MediaType) -> None:
        parser = Parser(boundary_of(media), Limits(parts=_MAX_INSTANCES))
        free = asyncio.Semaphore(_AT_ONCE)
        spool: Spool | None = None

        async def store(spooled: Spooled) -> None:
            try:
                await self._store(spooled)
            finally:
                free.release()

        try:
            async with asyncio.TaskGroup() as storing:
                async for chunk in chunks:
                    for event in parser.feed(chunk):
                        if isinstance(event, PartBegin):
                            await free.acquire()
                            spool = self._archive.new_spool()
                        elif isinstance(event, PartData) and spool is not None:
                            try:
                                await spool.write(event.data)
                            except TooLarge as error:  # what else comes of it is passed over
                                spool.discard()
                                spool = None
                                free.release()
                                self._count_failed(error)
                        elif spool is not None:
                            storing.create_task(store(await spool.finish()))
                            spool = None
                parser.close()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            if spool is not None:
                spool.discard()

    async def _store(self, spooled: Spooled) -> None:
        try:
            await self._archive.ingest.store(self._access, spooled, self._source)
        except Unavailable:
            raise
        except ArchiveError as error:
            self._count_failed(error)
        else:
            self.received += 1

    def _count_failed(self, error: ArchiveError) -> None:
        """An instance cannot be stored. Raises PeerFailed unless that is permitted."""
        if not self._permissive:
            reason = error.failure_reason or _PROCESSING_FAILURE
            raise PeerFailed(f"an instance that came cannot be stored: {error.message}", reason) from error
        self.failed += 1
