"""Parts of stored files by Orthanc's paths: elements as they were written, the header, pixel data by fragments."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from struct import unpack
from typing import Final

from dicomweb.bulk import BulkEntry, BulkTable
from dicomweb.content import content, header_elements, read
from dicomweb.errors import NotFound, TooLarge
from dicomweb.media import DEFLATED_LE, EXPLICIT_LE
from dicomweb.orthanc_tags import Elements
from storage.access import Access
from storage.retrieve import PIXEL_DATA, Extent, Instance, RetrieveService

# What is read of a file to find an element that has no place of its own in the index.
_LARGEST_HEAD: Final = 64 << 20
_LARGEST_META: Final = 1 << 20
_ITEM_HEAD: Final = 8


@dataclass(frozen=True, slots=True)
class Bytes:
    """A value that lies in one piece: `extent` of the file."""

    instance: Instance
    extent: Extent


class ContentService:
    """Reads parts of files. Instances were found with the caller's rights."""

    def __init__(self, retrieve: RetrieveService) -> None:
        self._retrieve = retrieve

    async def at(self, access: Access, instance: Instance, path: Sequence[str]) -> list[str] | bytes | Bytes:
        """What lies at a path of tags and item numbers, see `dicomweb.content`. Raises NotFound, TooLarge."""
        access.require("dicom.read")
        table = await self._retrieve.bulk_table(instance)
        pixels = next(filter(None, map(table.lookup, PIXEL_DATA)), None)
        if path and pixels is not None and path[0] == pixels.path:
            return await self._pixels(access, instance, pixels, path[1:])
        entry = table.lookup("/".join(path))
        if entry is not None and not instance.deflated:
            return Bytes(instance, (entry.offset, entry.length))
        head = await self._head(instance, table)
        syntax = EXPLICIT_LE if instance.transfer_syntax == DEFLATED_LE else instance.transfer_syntax
        found = await asyncio.to_thread(lambda: content(read(head, syntax), path))
        if not path and pixels is not None and isinstance(found, list):
            found.append(f"{pixels.path[:4]}-{pixels.path[4:]}".lower())
        return found

    async def header(self, access: Access, instance: Instance) -> Elements:
        """The file meta information as DICOM JSON."""
        access.require("dicom.read")
        if instance.meta_size > _LARGEST_META:
            raise TooLarge("the file meta information is too large")
        head = await self._retrieve.part(instance, (0, instance.meta_size))
        return await asyncio.to_thread(header_elements, head)

    def stream(self, found: Bytes) -> AsyncIterator[bytes]:
        """The bytes of a value in bounded chunks."""
        return self._retrieve.stream(found.instance, found.extent)

    async def _head(self, instance: Instance, table: BulkTable) -> bytes:
        """The data set up to the pixel data."""
        ends = [entry.offset for entry in map(table.lookup, PIXEL_DATA) if entry is not None]
        start = 0 if instance.deflated else instance.meta_size
        if instance.deflated and not ends:
            raise TooLarge("a deflated data set without pixel data is served as a whole only")
        end = min(ends, default=instance.size)
        if end - start > _LARGEST_HEAD:
            raise TooLarge(f"what is before the pixel data takes more than {_LARGEST_HEAD} bytes")
        return await self._retrieve.read(instance, [(start, end - start)])

    async def _pixels(
        self, access: Access, instance: Instance, entry: BulkEntry, path: Sequence[str]
    ) -> list[str] | bytes | Bytes:
        """Native pixel data are one piece; encapsulated ones their offset table (0) and fragments (from 1 on)."""
        if not entry.encapsulated:
            if not path:
                return ["0"]
            if list(path) != ["0"]:
                raise NotFound("the pixel data have no such part")
            if instance.deflated:
                return await self._retrieve.read(instance, [(entry.offset, entry.length)])
            return Bytes(instance, (entry.offset, entry.length))
        fragments = await self._fragments(access, instance)
        if not path:
            return [str(number) for number in range(len(fragments) + 1)]
        number = int(path[0]) if len(path) == 1 and path[0].isdecimal() and len(path[0]) < 10 else -1
        if number == 0:
            head = await self._retrieve.part(instance, (entry.offset, _ITEM_HEAD))
            return Bytes(instance, (entry.offset + _ITEM_HEAD, unpack("<4xI", head)[0]))
        if not 0 < number <= len(fragments):
            raise NotFound("the pixel data have no such part")
        return Bytes(instance, fragments[number - 1])

    async def _fragments(self, access: Access, instance: Instance) -> list[Extent]:
        count = await self._retrieve.frame_count(access, instance)
        place = instance.study, instance.series, instance.sop
        located = await self._retrieve.frames(access, *place, range(1, count + 1))
        return [extent for extents in located.extents for extent in extents]
