"""Edits of stored instances: read as a stream, changed on the way into a spool, stored by the one ingest service."""

import asyncio
import mmap
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomweb.edit import Edit, Extent, Rules
from dicomweb.meta import read_file_meta
from dicomweb.structure import Buffer
from storage.access import Access
from storage.ingest import IngestService, Stored
from storage.modification_plan import Plan
from storage.objects import ObjectStore
from storage.provenance import Provenance
from storage.retrieve import Instance, RetrieveService
from storage.settings import Settings
from storage.spool import Spool, Spooled
from storage.transcoding import TranscodeService

# What is no longer is read at once; of longer ones the file is mapped.
_WHOLE: Final = 4 << 20
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked for a modification: the provenance of what it makes."""

    principal: str
    remote: str


class ModificationService:
    """Edits instances, whatever their size, in a few MiB. Takes the caller's rights as every service."""

    def __init__(
        self,
        settings: Settings,
        objects: ObjectStore,
        retrieve: RetrieveService,
        transcode: TranscodeService,
        ingest: IngestService,
    ) -> None:
        self._settings = settings
        self._objects = objects
        self._retrieve = retrieve
        self._transcode = transcode
        self._ingest = ingest

    async def edited(self, access: Access, instance: Instance, plan: Plan) -> Spooled:
        """The edited file, which the caller releases.

        Raises BadDicom for a file that is broken, BadRequest for a new value that it cannot hold, and what transcoding
        raises.
        """
        access.require("dicom.read")
        async with self._source(access, instance, plan) as buffer:
            with plan.rules_for(read_file_meta(buffer).sop_uid, instance.sop) as rules:
                pieces = self._pieces(buffer, rules)
                if len(buffer) > _WHOLE:
                    return await self._collected(_each(pieces))
                return await self._collected(_ready(await asyncio.to_thread(list, pieces)))

    async def store(self, access: Access, instance: Instance, plan: Plan, asker: Asker) -> Stored:
        """Store the edited instance, in the old one's place where the plan says so. Raises as `edited`."""
        spooled = await self.edited(access, instance, plan)
        source = Provenance("rest", asker.remote)
        return await self._ingest.store(access, spooled, source, overwrite=plan.in_place)

    def _pieces(self, buffer: Buffer, rules: Rules) -> Iterator[bytes]:
        """The new file in bounded pieces; untouched extents are read where they lie."""
        for segment in Edit(buffer, rules, self._ingest.limits):
            if isinstance(segment, Extent):
                end = segment.offset + segment.length
                for at in range(segment.offset, end, _CHUNK):
                    yield bytes(buffer[at : min(at + _CHUNK, end)])
            else:
                yield segment

    @asynccontextmanager
    async def _source(self, access: Access, instance: Instance, plan: Plan) -> AsyncIterator[Buffer]:
        """The file to be edited: as stored, or in the transfer syntax that is asked for."""
        if plan.transcode and plan.transcode != instance.transfer_syntax:
            chunks: AsyncIterator[bytes] = self._transcode.file(access, instance, plan.transcode, plan.quality)
        elif instance.size <= _WHOLE:
            yield await self._retrieve.part(instance, (0, instance.size))
            return
        elif (path := self._objects.local_path(instance.key)) is not None:
            await self._retrieve.part(instance, (instance.size - 1, 1))  # raises where it is missing or short
            with _mapped(path) as mapped:
                yield memoryview(mapped)[instance.base : instance.base + instance.size]
            return
        else:
            chunks = self._retrieve.file(instance)
        spooled = await self._collected(chunks)
        try:
            if spooled.path is None:
                yield spooled.buffer()
            else:
                with _mapped(spooled.path) as mapped:
                    yield mapped
        finally:
            spooled.release()

    async def _collected(self, chunks: AsyncIterator[bytes]) -> Spooled:
        settings = self._settings
        spool = Spool(self._objects.spool_dir, memory_limit=settings.spool_memory, max_size=settings.max_instance)
        return await spool.collect(chunks)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file as memory, to be read."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    try:
        yield mapped
    finally:
        with suppress(BufferError):  # views on it are left, or an error's traceback holds one: the map goes with them
            mapped.close()


async def _ready(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _each(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, made in threads."""
    while batch := await asyncio.to_thread(_batch, pieces):
        for piece in batch:
            yield piece


def _batch(pieces: Iterator[bytes]) -> list[bytes]:
    """The next pieces, about a chunk of them; none at the end."""
    found, size = [], 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            break
    return found
