"""What leaves the archive: metadata, instances, frames and bulk data, located by one statement and read by range."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from dicomweb.bulk import BulkTable
from dicomweb.deflate import DeflatedJson, GzipArray, gzip_array, plain_array
from dicomweb.errors import CorruptObject, NotFound, TooLarge
from dicomweb.frames import RECORD_SIZE, bit_span, is_fragmented, locate, realign
from dicomweb.media import EXPLICIT_BE
from dicomweb.reencode import Inflater, pixel_word, swapped, word_size
from storage.access import Access
from storage.ahead import stored_ahead
from storage.cache import AnswerCache
from storage.damage import Damage
from storage.db import Database
from storage.objects import ObjectStore
from storage.rows import FLAG_DEFLATED
from storage.settings import Settings
from storage.side_objects import stored_metadata

Extent = tuple[int, int]

_VERSION_BYTES = 8
PIXEL_DATA = ("7FE00010", "7FE00008", "7FE00009")
# Metadata of more instances than this is sent as it is read, and not cached.
_METADATA_PAGE = 500
_CURSOR_ROWS = 100
_UNLIMITED = 2**40
# Frames that one read brings into memory.
_WINDOW = 8 << 20


@dataclass(frozen=True, slots=True)
class Instance:
    """Where an instance lies.

    `version` changes with its bytes, `revision` also with what is known of them; offsets of extents count from the
    start of the file, or of the inflated dataset.
    `has_frames`: pixel data in which frames (or one video stream) were found.
    """

    tenant: int
    study: str
    series: str
    sop: str
    sop_class: str
    key: str
    base: int
    size: int
    transfer_syntax: str
    version: str
    revision: int
    meta_size: int
    deflated: bool
    bits_allocated: int | None
    has_frames: bool

    @property
    def state(self) -> tuple[int, str, str, int]:
        """The key of what is kept of it: another one when its bytes were replaced, or were read anew."""
        return self.tenant, self.sop, self.version, self.revision


@dataclass(frozen=True, slots=True)
class Metadata:
    """DICOM JSON of one or many instances: `body` is complete, or `stream` yields it (then the length is not known)."""

    version: int
    body: tuple[bytes, ...] | None
    stream: AsyncIterator[bytes] | None


@dataclass(frozen=True, slots=True)
class Located:
    """Values of one instance: for each the extents whose concatenation it is.

    `bits`: of a frame of packed single bits that does not fill whole bytes, its first bit and number of bits within
    them. `encapsulated`: the bytes are fragment items (PS3.5 A.4), not a plain value. `word`: bytes that are stored in
    reverse order together, 1 for little endian.
    """

    instance: Instance
    extents: tuple[tuple[Extent, ...], ...]
    bits: tuple[tuple[int, int] | None, ...] = ()
    vr: str = ""
    encapsulated: bool = False
    word: int = 1

    def size(self, index: int) -> int:
        """Bytes of a value as it is sent."""
        span = self.bits[index] if self.bits else None
        return (span[1] + 7) // 8 if span else sum(length for _, length in self.extents[index])

    def part(self, start: int, end: int) -> "Located":
        """The values from `start` up to `end`."""
        return replace(self, extents=self.extents[start:end], bits=self.bits[start:end])


class RetrieveService:
    """Reads. Every method takes the caller's rights; what they may not see does not exist (NotFound)."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore, damage: Damage) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._damage = damage
        self._cache = AnswerCache(settings.cache_bytes)

    # -- metadata
    # -----------------------------------------------------------------------------------------------------------------

    async def version(self, access: Access, study: str, series: str | None = None, sop: str | None = None) -> int:
        """The version that a metadata answer would have now: one index lookup. Raises NotFound."""
        access.require("dicom.metadata", "dicom.read")
        level, args = _level(access, study, series, sop)
        version: int | None = await self._db.fetch_value(f"{level}_version", *args)
        if version is None:
            raise NotFound(f"no such {level}")
        return version

    async def metadata(
        self, access: Access, study: str, series: str | None = None, sop: str | None = None, *, gzip: bool
    ) -> Metadata:
        """The DICOM JSON array of a study, series or instance, in reading order; gzip without compressing again.

        Raises NotFound.
        """
        access.require("dicom.metadata")
        level, args = _level(access, study, series, sop)
        key = (*args, gzip)
        if self._cache.holds(key):
            version = await self.version(access, study, series, sop)
            cached = self._cache.get(key, version)
            if cached is not None:
                return Metadata(version, cached, None)
        page = args if sop is not None else (*args, _METADATA_PAGE + 1)
        rows = await self._db.fetch(f"{level}_metadata", *page)
        if not rows:
            self._cache.drop(key)
            raise NotFound(f"no such {level}")
        version = rows[0]["version"]
        if len(rows) > _METADATA_PAGE:
            return Metadata(version, None, self._metadata_stream(access.tenant, level, args, gzip=gzip))
        pieces = [await stored_metadata(self._objects, self._damage, access.tenant, row) for row in rows]
        body = tuple(gzip_array(pieces)) if gzip else (plain_array(pieces),)
        answer = (b"".join(body),)
        self._cache.put(key, version, answer)
        return Metadata(version, answer, None)

    async def each_metadata(
        self, access: Access, study: str, series: str | None = None, sop: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The DICOM JSON of every instance in reading order, one at a time in memory."""
        access.require("dicom.metadata")
        async with aclosing(self._pieces(access.tenant, *_level(access, study, series, sop))) as pieces:
            async for piece in pieces:
                yield piece.inflate()

    async def _pieces(self, tenant: int, level: str, args: tuple[object, ...]) -> AsyncGenerator[DeflatedJson, None]:
        """Many instances: row by row from a cursor, so that only a page of them is in memory."""
        limit = () if level == "instance" else (_UNLIMITED,)
        async with self._db.cursor(self._db.text(f"{level}_metadata"), (*args, *limit), prefetch=_CURSOR_ROWS) as rows:
            async for row in rows:
                yield await stored_metadata(self._objects, self._damage, tenant, row)

    async def _metadata_stream(
        self, tenant: int, level: str, args: tuple[object, ...], *, gzip: bool
    ) -> AsyncIterator[bytes]:
        array = GzipArray()
        separator = b"["
        async with aclosing(self._pieces(tenant, level, args)) as pieces:
            async for piece in pieces:
                if gzip:
                    yield b"".join(array.add(piece))
                else:
                    yield separator + piece.inflate()
                    separator = b","
        yield array.end() if gzip else b"]"

    # -- instances
    # ----------------------------------------------------------------------------------------------------------------

    async def instance(self, access: Access, study: str, series: str | None, sop: str) -> Instance:
        """One instance. Raises NotFound."""
        access.require("dicom.read")
        row = await self._db.fetch_row("instance_location", access.tenant, study, series, sop)
        if row is None:
            raise NotFound("no such instance")
        return instance_of(access.tenant, study, row)

    async def instances(self, access: Access, study: str, series: str | None = None) -> tuple[int, list[Instance]]:
        """The version of a study or series, and its instances in reading order. Raises NotFound."""
        access.require("dicom.read")
        if series is None:
            rows = await self._db.fetch("study_instances", access.tenant, study)
        else:
            rows = await self._db.fetch("series_instances", access.tenant, study, series)
        if not rows:
            raise NotFound("no such series" if series else "no such study")
        return rows[0]["parent_version"], [instance_of(access.tenant, study, row) for row in rows]

    async def part(self, instance: Instance, extent: Extent) -> bytes:
        """A part of the stored Part 10 file, at once; `stream` gives a large one in chunks."""
        return (await self._ranges(instance, (extent,)))[0]

    def file(self, instance: Instance) -> AsyncGenerator[bytes, None]:
        """The stored Part 10 file in bounded chunks."""
        return self.stream(instance, (0, instance.size))

    def files(
        self, instances: Sequence[Instance]
    ) -> AsyncGenerator[tuple[Instance, bytes | AsyncIterator[bytes]], None]:
        """The stored files one after the other; small ones are read ahead, unless they are there without waiting."""
        return stored_ahead(self._objects, self._damage, instances)

    # -- frames and bulk data
    # -----------------------------------------------------------------------------------------------------

    async def frames(self, access: Access, study: str, series: str, sop: str, frames: Sequence[int]) -> Located:
        """The extents of frames (1-based numbers). Raises NotFound, also for a frame number that does not exist."""
        access.require("dicom.read")
        row = await self._db.fetch_row("frame_locations", access.tenant, study, series, sop, [f - 1 for f in frames])
        if row is None:
            raise NotFound("no such instance")
        count = (row["table_size"] or 0) // RECORD_SIZE
        for frame in frames:
            if not 1 <= frame <= count:
                raise NotFound(f"there is no frame {frame}; frames of the instance that can be served: {count}")
        joined = row["records"]
        records = [joined[i : i + RECORD_SIZE] for i in range(0, len(joined), RECORD_SIZE)]
        overflow = b""
        if any(is_fragmented(record) for record in records):
            overflow = await self._db.fetch_value("frame_overflow", access.tenant, sop, row["object_key"]) or b""
        located = Located(
            instance_of(access.tenant, study, row),
            tuple(locate(record, overflow) for record in records),
            tuple(bit_span(record) for record in records),
        )
        return await self._in_words(located) if located.instance.transfer_syntax == EXPLICIT_BE else located

    async def _in_words(self, located: Located) -> Located:
        """Frames of big endian pixel data, read in whole words: 8-bit samples in OW may begin within one."""
        instance = located.instance
        pixel = next(filter(None, map((await self.bulk_table(instance)).lookup, PIXEL_DATA)), None)
        if pixel is None:
            return located
        bits = instance.bits_allocated or 8
        word = pixel_word(pixel.vr, bits)
        if bits != 8 or word == 1:
            return replace(located, word=word)
        extents, spans = [], []
        for ((offset, length),) in located.extents:
            inside = (offset - pixel.offset) % word
            extents.append(((offset - inside, -(-(inside + length) // word) * word),))
            spans.append((8 * inside, 8 * length))
        return replace(located, word=word, extents=tuple(extents), bits=tuple(spans))

    async def frame_count(self, access: Access, instance: Instance) -> int:
        """How many frames can be served."""
        size: int | None = await self._db.fetch_value("frame_table_size", access.tenant, instance.sop, instance.key)
        return (size or 0) // RECORD_SIZE

    async def bulk(self, access: Access, study: str, series: str | None, sop: str, path: str) -> Located:
        """The extents of a bulk value, addressed by tags and item indexes ("00480105/0/00282000"). Raises NotFound."""
        access.require("dicom.read")
        row = await self._db.fetch_row("bulk_location", access.tenant, study, series, sop)
        if row is None:
            raise NotFound("no such instance")
        entry = BulkTable.from_bytes(row["bulk_table"]).lookup(path)
        if entry is None:
            raise NotFound("the instance has no such bulk data")
        instance = instance_of(access.tenant, study, row)
        word = 1
        if instance.transfer_syntax == EXPLICIT_BE:
            word = pixel_word(entry.vr, instance.bits_allocated or 8) if path in PIXEL_DATA else word_size(entry.vr)
        return Located(
            instance, (((entry.offset, entry.length),),), vr=entry.vr, encapsulated=entry.encapsulated, word=word
        )

    async def bulk_table(self, instance: Instance) -> BulkTable:
        """Where the bulk values of an instance lie. Raises NotFound."""
        row = await self._db.fetch_row("bulk_table", instance.key, instance.sop, instance.tenant)
        if row is None:
            raise NotFound("no such instance")
        return BulkTable.from_bytes(row["bulk_table"])

    async def read(self, instance: Instance, extents: Sequence[Extent]) -> bytes:
        """The bytes of extents, concatenated. Raises ObjectMissing, CorruptObject, Unavailable."""
        if instance.deflated:
            return await self._read_inflated(instance, extents)
        found = await self._ranges(instance, extents)
        return found[0] if len(found) == 1 else b"".join(found)

    async def _ranges(self, instance: Instance, extents: Sequence[Extent]) -> list[bytes]:
        """Extents of the stored file, each by itself."""
        read = self._objects.get_ranges(instance.key, [(instance.base + offset, length) for offset, length in extents])
        return await self._damage.reading(instance.tenant, instance.sop, instance.key, read)

    async def read_all(self, located: Located) -> list[bytes]:
        """The values of `located` in little endian, with one coalesced read."""
        instance = located.instance
        if instance.deflated:
            values = [await self._read_inflated(instance, extents) for extents in located.extents]
        elif len(located.extents) == 1:
            values = [await self.read(instance, located.extents[0])]
        else:
            flat = [extent for extents in located.extents for extent in extents]
            pieces = iter(await self._ranges(instance, flat))
            values = [b"".join([next(pieces) for _ in extents]) for extents in located.extents]
        if located.word > 1:
            values = [swapped(value, located.word) if len(value) % located.word == 0 else value for value in values]
        if any(located.bits):
            values = [realign(v, *span) if span else v for v, span in zip(values, located.bits, strict=True)]
        return values

    async def values(self, located: Located) -> AsyncGenerator[bytes, None]:
        """The values of `located` as `read_all` gives them, a window of bounded size in memory."""
        start, count = 0, len(located.extents)
        while start < count:
            end, size = start + 1, located.size(start)
            while end < count and size + located.size(end) <= _WINDOW:
                size += located.size(end)
                end += 1
            for value in await self.read_all(located.part(start, end)):
                yield value
            start = end

    def stream(self, instance: Instance, extent: Extent) -> AsyncGenerator[bytes, None]:
        """An extent of the stored file in bounded chunks, as it is."""
        chunks = self._objects.stream(instance.key, instance.base + extent[0], extent[1])
        return self._damage.streaming(instance.tenant, instance.sop, instance.key, chunks)

    async def _read_inflated(self, instance: Instance, extents: Sequence[Extent]) -> bytes:
        """Extents of a deflated dataset count from the start of the inflated bytes: inflate up to the last one."""
        end = max(offset + length for offset, length in extents)
        if end > self._settings.max_inflated:
            raise TooLarge("the deflated dataset is too large to be read by parts")
        inflater, data = Inflater(), bytearray()
        rest = instance.size - instance.meta_size
        async with aclosing(self.stream(instance, (instance.meta_size, rest))) as chunks:
            async for chunk in chunks:
                for piece in await asyncio.to_thread(inflater.feed, chunk):
                    data += piece
                if len(data) >= end:
                    break
        if len(data) < end:
            error = CorruptObject("the deflated dataset ends early")
            raise self._damage.noted(instance.tenant, instance.sop, instance.key, error)
        return b"".join(bytes(data[offset : offset + length]) for offset, length in extents)


def _level(access: Access, study: str, series: str | None, sop: str | None) -> tuple[str, tuple[object, ...]]:
    if sop is not None:
        return "instance", (access.tenant, study, series, sop)
    if series is not None:
        return "series", (access.tenant, study, series)
    return "study", (access.tenant, study)


def instance_of(tenant: int, study: str, row: Any) -> Instance:
    """The instance that a row of the location statements describes."""
    return Instance(
        tenant=tenant,
        study=study,
        series=row["series_uid"],
        sop=row["sop_uid"],
        sop_class=row["sop_class"],
        key=row["object_key"],
        base=row["object_offset"],
        size=row["object_size"],
        transfer_syntax=row["transfer_syntax"],
        version=row["file_sha256"][:_VERSION_BYTES].hex(),
        revision=row["revision"],
        meta_size=row["meta_size"],
        deflated=bool(row["flags"] & FLAG_DEFLATED),
        bits_allocated=row["bits_allocated"],
        has_frames=row["has_frames"],
    )
