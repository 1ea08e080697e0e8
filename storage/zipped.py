"""Series as one ZIP file, written while they are read: as they are stored, from any byte on; or packed otherwise."""

import asyncio
import uuid
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from itertools import count
from typing import Any, Final

import orjson

from dicomweb.dicomdir import Directory, Entry, record_fields
from dicomweb.errors import ArchiveError, NotFound, Unavailable
from dicomweb.folders import file_moment, file_name
from dicomweb.meta import read_file_meta
from dicomweb.pixels.encode import DEFAULT_QUALITY, Quality
from dicomweb.query import Query
from dicomweb.tags import Level
from dicomweb.zip_stream import Moment, ZipStream
from storage.access import Access
from storage.db import Database
from storage.retrieve import Instance, RetrieveService
from storage.search import SearchService
from storage.transcoding import TranscodeService

# What goes out at once, and from where on a checksum is worth a thread.
_CHUNK: Final = 64 << 10
_THREAD_FROM: Final = 256 << 10
_META: Final = 4 << 10  # the file meta group is within
_PAGE: Final = 1000
_SERIES_AT_ONCE: Final = 200
_LAYOUT: Final = b"1"  # of the file, for its entity tag
# Checksums that are kept for a download that goes on, and for how long.
_NOTED_AT_ONCE: Final = 1000
_KEPT: Final = timedelta(days=7)


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

    def name(self, number: int) -> str:
        """The path of the `number`-th file (from 0)."""
        return self.path + file_name(self.modality, number + 1)

    @property
    def moment(self) -> Moment:
        """Date and time of its files."""
        return file_moment(self.attributes)


@dataclass(frozen=True, slots=True)
class Packing:
    """How files are packed: images that can be sent in the transfer syntax `target` are, all else as stored.

    `medium`: with a DICOMDIR and the names that media have (PS3.10 8.2); `extended`: with more in its records.
    """

    target: str | None = None
    quality: Quality = DEFAULT_QUALITY
    medium: bool = False
    extended: bool = False

    @property
    def plain(self) -> bool:
        """Whether files go into folders as they are stored, so that the whole is known beforehand."""
        return self.target is None and not self.medium


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of an archive before it is read: its files, their bytes as stored, and those of the ZIP file.

    `size` and `tag`, a name for exactly these bytes, hold for files as stored. `digests` tell what each folder has.
    """

    instances: int
    stored: int
    size: int
    tag: str
    digests: tuple[bytes, ...]


class ZippedSeries:
    """Writes ZIP files. Nothing but the chunk at hand and the directory is in memory."""

    def __init__(
        self, db: Database, search: SearchService, retrieve: RetrieveService, transcode: TranscodeService
    ) -> None:
        self._db = db
        self._search = search
        self._retrieve = retrieve
        self._transcode = transcode

    async def measure(self, access: Access, folders: Sequence[Folder]) -> Measured:
        """Look how many files there are, and what their archive will be."""
        access.require("dicom.read")
        stream, digests, stored = ZipStream(measured=True), [], 0
        whole = sha256(_LAYOUT)
        for first in range(0, len(folders), _SERIES_AT_ONCE):
            part = folders[first : first + _SERIES_AT_ONCE]
            some = [sop for each in part for sop in each.only or ()]
            series, partly = [each.series for each in part], [each.only is not None for each in part]
            rows = await self._db.fetch("archive_files", access.tenant, series, partly, some)
            found = await asyncio.to_thread(_laid_out, stream, whole, part, rows)
            digests += [digest for digest, _ in found]
            stored += sum(size for _, size in found)
        return Measured(stream.members, stored, stream.total, f'"{whole.hexdigest()[:40]}"', tuple(digests))

    async def plain(
        self, access: Access, folders: Sequence[Folder], measured: Measured, start: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of the file from `start` up to `end`, as they are stored.

        Members before `start` are not read, but for their checksums, which the directory needs; those that an earlier
        download has found out are known. Raises Unavailable where a folder does not have what was measured.
        """
        stream, noted = ZipStream(), _Checksums(self._db)
        passed: list[tuple[Folder, bytes, int]] = []

        def ready() -> bytes:
            at = stream.position - stream.waiting
            return stream.take()[max(0, start - at) : max(0, end - at)]

        try:
            for folder, digest in zip(folders, measured.digests, strict=True):
                instances = await self._same(access, folder, digest)
                first = _passed(stream, folder, instances, start)
                passed.append((folder, digest, first))
                async with aclosing(self._retrieve.files(instances[first:])) as files:
                    number = first
                    async for instance, body in files:
                        stream.begin(folder.name(number), instance.size, folder.moment)
                        async for chunk in _once(body) if isinstance(body, bytes) else body:
                            await _add(stream, chunk)
                            if stream.waiting >= _CHUNK or stream.position >= end:
                                yield ready()
                            if stream.position >= end:
                                return
                        await noted.add(instance, stream.end())
                        number += 1
            yield ready()
            if stream.position < end:
                await self._settle(access, stream, passed, noted)
                at = stream.position
                stream.close()
                yield stream.take()[max(0, start - at) : end - at]
                if start == 0:  # else the next part asks for them again
                    noted.forget()
        finally:
            await asyncio.shield(noted.save())

    async def _same(self, access: Access, folder: Folder, digest: bytes) -> list[Instance]:
        """The instances of a folder. Raises Unavailable where they are not those that were measured."""
        instances = await self._instances(access, folder)
        if _digest((each.sop, bytes.fromhex(each.version), each.size) for each in instances) != digest:
            raise Unavailable("the resources changed while they were read; ask again")
        return instances

    async def _settle(
        self,
        access: Access,
        stream: ZipStream,
        passed: Sequence[tuple[Folder, bytes, int]],
        noted: "_Checksums",
    ) -> None:
        """Tell the directory the checksums of members that were passed over, which are the first ones."""
        number = 0
        for folder, digest, some in passed:
            if not some:
                continue
            instances = (await self._same(access, folder, digest))[:some]
            known = await noted.known(instances)
            missing = [each for each in instances if each not in known]
            async with aclosing(self._retrieve.files(missing)) as files:
                async for instance, body in files:
                    crc = 0
                    async for chunk in _once(body) if isinstance(body, bytes) else body:
                        crc = await asyncio.to_thread(zlib.crc32, chunk, crc)
                    known[instance] = crc
                    await noted.add(instance, crc)
            for each in instances:
                stream.set_crc(number, known[each])
                number += 1

    async def _instances(self, access: Access, folder: Folder) -> list[Instance]:
        try:
            _, instances = await self._retrieve.instances(access, folder.study, folder.series)
        except NotFound:  # deleted since
            return []
        return [each for each in instances if folder.only is None or each.sop in folder.only]

    async def packed(self, access: Access, folders: Sequence[Folder], packing: Packing) -> AsyncGenerator[bytes, None]:
        """The whole file, transcoded or as a medium."""
        stream = ZipStream()
        directory = Directory(extended=packing.extended) if packing.medium else None
        images = count()
        for folder in folders:
            instances = await self._instances(access, folder)
            described = {} if directory is None else await self._described(access, folder, packing)
            numbers = count()
            async with aclosing(self._files(access, instances, packing)) as files:
                async for file in files:
                    file_id = ("IMAGES", f"IM{next(images)}")
                    path = folder.name(next(numbers)) if directory is None else "/".join(file_id)
                    stream.begin(path, file.size, folder.moment)
                    head = b""
                    async for chunk in file.chunks:
                        head += chunk[: _META - len(head)]
                        await _add(stream, chunk)
                        if stream.waiting >= _CHUNK:
                            yield stream.take()
                    stream.end()
                    if directory is not None:
                        # What lies there may be a derived instance, in another transfer syntax than the stored one.
                        meta = read_file_meta(head)
                        known = folder.attributes | described.get(file.instance.sop, {})
                        directory.add(Entry(file_id, meta.sop_class, meta.sop_uid, meta.transfer_syntax, known))
        if directory is not None:
            index = directory.encode(f"2.25.{uuid.uuid4().int}")
            stream.begin("DICOMDIR", len(index))
            await _add(stream, index)
            stream.end()
        stream.close()
        yield stream.take()

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
        """The files in turn, the next ones read or transcoded ahead."""
        if packing.target is None:
            async with aclosing(self._retrieve.files(instances)) as files:
                async for instance, body in files:
                    yield _File(instance, instance.size, _once(body) if isinstance(body, bytes) else body)
            return
        made = (self._transcode.file(access, each, packing.target, packing.quality) for each in instances)
        async with aclosing(self._transcode.ahead(made)) as ahead:
            for instance in instances:
                begun = await anext(ahead)
                if begun.fault is None:
                    yield _File(instance, None, begun.chunks())
                else:
                    yield _File(instance, instance.size, self._retrieve.file(instance))

    async def forget(self) -> None:
        """Forget checksums that no download asks for any more. For the background process."""
        await self._db.execute("file_crc_forget", _KEPT)


class _Checksums:
    """CRC-32 of stored files, kept in the database for the download that goes on where this one breaks off."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._found: list[tuple[str, int, int]] = []

    async def add(self, instance: Instance, crc: int) -> None:
        self._found.append((instance.key, instance.base, crc))
        if len(self._found) >= _NOTED_AT_ONCE:
            await self.save()

    async def known(self, instances: Sequence[Instance]) -> dict[Instance, int]:
        rows = await self._db.fetch("file_crc_known", [each.key for each in instances])
        of = {(row["object_key"], row["object_offset"]): row["crc"] for row in rows}
        return {each: of[each.key, each.base] for each in instances if (each.key, each.base) in of}

    def forget(self) -> None:
        self._found.clear()

    async def save(self) -> None:
        found, self._found = self._found, []
        if found:
            with suppress(ArchiveError):  # then they are found out again
                await self._db.execute("file_crc_note", *(list(column) for column in zip(*found, strict=True)))


@dataclass(frozen=True, slots=True)
class _File:
    """`size` where it is known before the bytes are."""

    instance: Instance
    size: int | None
    chunks: AsyncIterator[bytes]


def _laid_out(stream: ZipStream, whole: Any, folders: Sequence[Folder], rows: Sequence[Any]) -> list[tuple[bytes, int]]:
    """Lay out the files of folders in `stream`, and name them in the hash `whole`; digest and bytes of each folder."""
    of, found = {row["number"]: row for row in rows}, []
    for number, folder in enumerate(folders, 1):
        row = of.get(number)
        files = () if row is None else tuple(zip(row["sops"], row["versions"], row["sizes"], strict=True))
        digest, moment = _digest(files), folder.moment
        whole.update(f"{folder.path}\0{folder.modality}\0{moment}".encode() + digest)
        for index, (_, _, size) in enumerate(files):
            stream.skip(folder.name(index), size, moment)
        found.append((digest, sum(size for _, _, size in files)))
    return found


def _digest(files: Iterable[tuple[str, bytes, int]]) -> bytes:
    """Of SOP Instance UIDs, versions and sizes."""
    digest = sha256()
    for sop, version, size in files:
        digest.update(b"%b %b %d\n" % (sop.encode(), version, size))
    return digest.digest()


def _passed(stream: ZipStream, folder: Folder, instances: Sequence[Instance], start: int) -> int:
    """Pass over the files that end before `start`; how many."""
    moment = folder.moment
    for number, instance in enumerate(instances):
        name = folder.name(number)
        if stream.position + stream.room(name, instance.size) > start:
            return number
        stream.skip(name, instance.size, moment)
    return len(instances)


async def _add(stream: ZipStream, chunk: bytes) -> None:
    if len(chunk) < _THREAD_FROM:
        stream.add(chunk)
    else:
        await asyncio.to_thread(stream.add, chunk)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
