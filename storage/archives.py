"""Everything of patients, studies and series as one ZIP file, written while it is read: folders, or a medium."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final, Literal

import orjson

from dicomweb.dicomdir import Directory, Entry, record_fields
from dicomweb.errors import BadPixels, NotAcceptable, NotFound, TooLarge
from dicomweb.folders import file_name, patient_folder, series_folder, study_folder
from dicomweb.meta import read_file_meta
from dicomweb.pixels.encode import DEFAULT_QUALITY, Quality
from dicomweb.query import Query
from dicomweb.tags import Level
from dicomweb.uids import parse_orthanc_id
from storage.access import Access
from storage.db import Database
from storage.resource import Resource
from storage.retrieve import Instance, RetrieveService, instance_of
from storage.search import SearchService
from storage.transcoding import TranscodeService
from storage.zip_writer import ZipWriter

Kind = Literal["patient", "study", "series"]

# What goes out at once, and from where on a checksum is worth a thread.
_CHUNK: Final = 64 << 10
_THREAD_FROM: Final = 256 << 10
_META: Final = 4 << 10  # the file meta group is within
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Folder:
    """One series of an archive.

    `path` ends with a slash. `attributes` as DICOM JSON, those of the series and above; `only`: the SOP Instance UIDs
    that were asked for, where that is not the whole series.
    """

    study: str
    series: str
    modality: str
    path: str
    attributes: dict[str, Any]
    only: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Packing:
    """How files are packed: images that can be sent in the transfer syntax `target` are, all else as stored.

    `medium`: with a DICOMDIR and the names that media have (PS3.10 8.2); `extended`: with more in its records.
    """

    target: str | None = None
    quality: Quality = DEFAULT_QUALITY
    medium: bool = False
    extended: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """A stored resource, and its PatientID and UIDs from the study down to itself."""

    resource: Resource
    uids: tuple[str, ...]


class ArchiveService:
    """Finds resources by Orthanc's identifiers and packs them. Takes the caller's rights as every service."""

    def __init__(
        self, db: Database, search: SearchService, retrieve: RetrieveService, transcode: TranscodeService
    ) -> None:
        self._db = db
        self._search = search
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

    async def known(self, access: Access, identifiers: Sequence[str]) -> Sequence[Known]:
        """What the resources with those Orthanc identifiers are; those that do not exist are left out."""
        access.require("dicom.read")
        digests = [parse_orthanc_id(each) for each in identifiers]
        return [
            Known(
                Resource(Level(row["level"].lower()), row["orthanc_id"]),
                tuple(
                    row[name] for name in ("patient_id", "study_uid", "series_uid", "sop_uid") if row[name] is not None
                ),
            )
            for row in await self._db.fetch("orthanc_known", access.tenant, digests)
        ]

    async def parents(self, access: Access, instances: Sequence[str]) -> Sequence[tuple[str, str, str]]:
        """Study, series and SOP instance of those instances that are stored."""
        access.require("dicom.read", "dicom.delete")
        rows = await self._db.fetch("located_instances", access.tenant, instances)
        return [(row["study_uid"], row["series_uid"], row["sop_uid"]) for row in rows]

    async def folders(self, access: Access, identifiers: Sequence[str], level: Kind | None = None) -> list[Folder]:
        """The series of resources with those Orthanc identifiers, each with a folder of its own.

        `level` is what all of them are, None for a mixture. Raises NotFound when one of them is not there.
        """
        access.require("dicom.read")
        wanted = list(dict.fromkeys(parse_orthanc_id(each) for each in identifiers))
        rows = await self._db.fetch("orthanc_series", access.tenant, level or "", wanted)
        if {each for row in rows for each in row["found"]} != set(wanted):
            raise NotFound(f"no such {level or 'resource'}")
        found, taken = [], _Names()
        for row in rows:
            attributes = orjson.loads(row["of_study"])
            study = taken.path("", patient_folder(attributes), "")
            study = taken.path(study, study_folder(attributes), row["study_uid"])
            attributes |= orjson.loads(row["of_series"])
            path = taken.path(study, series_folder(attributes), row["series_uid"])
            only = None if row["only"] is None else frozenset(row["only"])
            found.append(Folder(row["study_uid"], row["series_uid"], row["modality"], path, attributes, only))
        return found

    async def zip(self, access: Access, folders: Sequence[Folder], packing: Packing) -> AsyncGenerator[bytes, None]:
        """The ZIP file in chunks."""
        writer = ZipWriter()
        directory = Directory(extended=packing.extended) if packing.medium else None
        images = count()
        for folder in folders:
            try:
                _, instances = await self._retrieve.instances(access, folder.study, folder.series)
            except NotFound:  # deleted since
                continue
            if folder.only is not None:
                instances = [each for each in instances if each.sop in folder.only]
            described = {} if directory is None else await self._described(access, folder, packing)
            numbers = count(1)
            async with aclosing(self._files(access, instances, packing)) as files:
                async for file in files:
                    file_id = ("IMAGES", f"IM{next(images)}")
                    path = folder.path + file_name(folder.modality, next(numbers))
                    writer.begin(path if directory is None else "/".join(file_id), file.size)
                    head = b""
                    async for chunk in file.chunks:
                        head += chunk[: _META - len(head)]
                        await _add(writer, chunk)
                        if writer.waiting >= _CHUNK:
                            yield writer.take()
                    writer.end()
                    if directory is not None:
                        # What lies there may be a derived instance, in another transfer syntax than the stored one.
                        meta = read_file_meta(head)
                        known = folder.attributes | described.get(file.instance.sop, {})
                        directory.add(Entry(file_id, meta.sop_class, meta.sop_uid, meta.transfer_syntax, known))
        if directory is not None:
            index = directory.encode(f"2.25.{uuid.uuid4().int}")
            writer.begin("DICOMDIR", len(index))
            await _add(writer, index)
            writer.end()
        writer.close()
        yield writer.take()

    async def _described(self, access: Access, folder: Folder, packing: Packing) -> dict[str, dict[str, Any]]:
        """What the records of a DICOMDIR hold of each instance of a series."""
        found: dict[str, dict[str, Any]] = {}
        access = access.with_scope("dicom.search")
        query = Query(
            Level.INSTANCE,
            study=folder.study,
            series=folder.series,
            fields=record_fields(packing.extended),
            limit=_PAGE,
        )
        while True:
            page = await self._search.run(access, query, "")
            for row in page.rows:
                attributes = orjson.loads(row)
                found[attributes["00080018"]["Value"][0]] = attributes
            if not page.more:
                return found
            query = replace(query, offset=query.offset + _PAGE)

    async def _files(
        self, access: Access, instances: Sequence[Instance], packing: Packing
    ) -> AsyncGenerator["_File", None]:
        """The files in turn; those that leave as stored are read ahead."""
        if packing.target is None:
            async with aclosing(self._retrieve.files(instances)) as files:
                async for instance, body in files:
                    yield _File(instance, instance.size, _once(body) if isinstance(body, bytes) else body)
            return
        for instance in instances:
            chunks = self._transcode.file(access, instance, packing.target, packing.quality)
            try:
                first = await anext(chunks)
            except (NotAcceptable, BadPixels):
                yield _File(instance, instance.size, self._retrieve.file(instance))
            else:
                yield _File(instance, None, _behind(first, chunks))


@dataclass(frozen=True, slots=True)
class _File:
    """`size` where it is known before the bytes are."""

    instance: Instance
    size: int | None
    chunks: AsyncIterator[bytes]


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
