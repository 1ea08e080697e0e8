"""Everything of a patient, a study or a series as one ZIP file, written while it is read."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from dicomweb.errors import BadPixels, NotAcceptable, NotFound, TooLarge
from dicomweb.folders import file_name, patient_folder, series_folder, study_folder
from dicomweb.pixels.encode import Quality
from dicomweb.uids import parse_orthanc_id
from storage.access import Access
from storage.db import Database
from storage.retrieve import Instance, RetrieveService, instance_of
from storage.transcoding import TranscodeService
from storage.zip_writer import ZipWriter

Level = Literal["patient", "study", "series"]

# What goes out at once, and from where on a checksum is worth a thread.
_CHUNK: Final = 64 << 10
_THREAD_FROM: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Folder:
    """One series of an archive: `path` ends with a slash."""

    study: str
    series: str
    modality: str
    path: str


class ArchiveService:
    """Finds resources by Orthanc's identifiers and packs them. Takes the caller's rights as every service."""

    def __init__(self, db: Database, retrieve: RetrieveService, transcode: TranscodeService) -> None:
        self._db = db
        self._retrieve = retrieve
        self._transcode = transcode

    async def instance(self, access: Access, identifier: str) -> Instance:
        """The instance with that Orthanc identifier. Raises NotFound."""
        access.require("dicom.read")
        row = await self._db.fetch_row("orthanc_instance", access.tenant, parse_orthanc_id(identifier))
        if row is None:
            raise NotFound("no such instance")
        return instance_of(access.tenant, row["study_uid"], row)

    async def instances(self, access: Access, identifiers: Sequence[str], limit: int) -> Sequence[tuple[str, str]]:
        """SOP class and SOP instance of all that resources hold, each once.

        Raises NotFound where one of the identifiers is none, TooLarge where there are more than `limit` instances.
        """
        access.require("dicom.read")
        digests = [parse_orthanc_id(each) for each in identifiers]
        known = {row["orthanc_id"] for row in await self._db.fetch("orthanc_known", access.tenant, digests)}
        if not known.issuperset(digests):
            raise NotFound("one of the resources does not exist")
        rows = await self._db.fetch("orthanc_instances", access.tenant, digests, limit + 1)
        if len(rows) > limit:
            raise TooLarge(f"the resources hold more than {limit} instances")
        return [(row["sop_class"], row["sop_uid"]) for row in rows]

    async def parents(self, access: Access, instances: Sequence[str]) -> Sequence[tuple[str, str, str]]:
        """Study, series and SOP instance of those instances that are stored."""
        access.require("dicom.read", "dicom.delete")
        rows = await self._db.fetch("located_instances", access.tenant, instances)
        return [(row["study_uid"], row["series_uid"], row["sop_uid"]) for row in rows]

    async def folders(self, access: Access, level: Level, identifier: str) -> list[Folder]:
        """The series of a resource with that Orthanc identifier, each with a folder of its own. Raises NotFound."""
        access.require("dicom.read")
        rows = await self._db.fetch("orthanc_series", access.tenant, level, parse_orthanc_id(identifier))
        if not rows:
            raise NotFound(f"no such {level}")
        found, taken = [], _Names()
        for row in rows:
            attributes = orjson.loads(row["of_study"])
            study = taken.path("", patient_folder(attributes), "")
            study = taken.path(study, study_folder(attributes), row["study_uid"])
            path = taken.path(study, series_folder(orjson.loads(row["of_series"])), row["series_uid"])
            found.append(Folder(row["study_uid"], row["series_uid"], row["modality"], path))
        return found

    async def zip(
        self, access: Access, folders: Sequence[Folder], target: str | None, quality: Quality
    ) -> AsyncGenerator[bytes, None]:
        """The ZIP file in chunks. Images that can be sent in the transfer syntax `target` are, all else as stored."""
        writer = ZipWriter()
        for folder in folders:
            try:
                _, instances = await self._retrieve.instances(access, folder.study, folder.series)
            except NotFound:  # deleted since
                continue
            number = 0
            async with aclosing(self._files(access, instances, target, quality)) as files:
                async for size, chunks in files:
                    number += 1
                    writer.begin(folder.path + file_name(folder.modality, number), size)
                    async for chunk in chunks:
                        await _add(writer, chunk)
                        if writer.waiting >= _CHUNK:
                            yield writer.take()
                    writer.end()
        writer.close()
        yield writer.take()

    async def _files(
        self, access: Access, instances: Sequence[Instance], target: str | None, quality: Quality
    ) -> AsyncGenerator[tuple[int | None, AsyncIterator[bytes]], None]:
        """Size, where it is known, and bytes of each file; files that leave as stored are read ahead."""
        if target is None:
            async with aclosing(self._retrieve.files(instances)) as files:
                async for instance, body in files:
                    yield instance.size, _once(body) if isinstance(body, bytes) else body
            return
        for instance in instances:
            chunks = self._transcode.file(access, instance, target, quality)
            try:
                first = await anext(chunks)
            except (NotAcceptable, BadPixels):
                yield instance.size, self._retrieve.file(instance)
            else:
                yield None, _behind(first, chunks)


class _Names:
    """Folders by the resource that they are for: a second resource of the same name gets a number."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str, str], str] = {}
        self._taken: set[str] = set()

    def path(self, parent: str, name: str, uid: str) -> str:
        """The folder `name` within `parent` for the resource `uid`, with a slash at its end."""
        key = parent, name, uid
        if key not in self._of:
            path, count = f"{parent}{name}/", 1
            while path.casefold() in self._taken:
                count += 1
                path = f"{parent}{name}-{count}/"
            self._taken.add(path.casefold())
            self._of[key] = path
        return self._of[key]


async def _add(writer: ZipWriter, chunk: bytes) -> None:
    if len(chunk) < _THREAD_FROM:
        writer.add(chunk)
    else:
        await asyncio.to_thread(writer.add, chunk)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _behind(first: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(chunks):
        yield first
        async for chunk in chunks:
            yield chunk
