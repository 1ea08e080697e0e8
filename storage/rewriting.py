"""Stored files under another header: as Explicit VR Little Endian, or the elements before the pixel data alone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from pydicom import Dataset

from dicomweb.bulk import BulkEntry
from dicomweb.errors import NotFound, TooLarge
from dicomweb.media import EXPLICIT_BE, IMPLICIT_LE
from dicomweb.pixels.header import read_head
from dicomweb.reencode import Inflater, header_as_explicit, pixel_head, pixel_word, swapped
from storage.retrieve import Instance, RetrieveService

_PIXEL_DATA: Final = "7FE00010"
# The largest header (or instance without native pixel data) that is rewritten in memory.
_HEADER_MAX: Final = 256 << 20
_DEFLATED_PIECE: Final = 1 << 14


async def as_explicit(retrieve: RetrieveService, instance: Instance) -> AsyncIterator[bytes]:
    """An instance stored as Implicit VR, big endian or deflated, rewritten as Explicit VR Little Endian.

    Raises TooLarge where the header does not belong into memory.
    """
    if instance.deflated:
        async for piece in _inflated(retrieve, instance):
            yield piece
        return
    pixel = (await retrieve.bulk_table(instance)).lookup(_PIXEL_DATA)
    header = await retrieve.part(instance, (0, _header_end(instance, pixel)))
    yield await asyncio.to_thread(header_as_explicit, header)
    if pixel is None:
        return
    yield pixel_head(pixel.vr, pixel.length)
    big = instance.transfer_syntax == EXPLICIT_BE
    word = pixel_word(pixel.vr, instance.bits_allocated or 8) if big else 1
    async for chunk in retrieve.stream(instance, (pixel.offset, pixel.length)):
        yield swapped(chunk, word)


async def _inflated(retrieve: RetrieveService, instance: Instance) -> AsyncIterator[bytes]:
    meta = instance.meta_size
    yield await asyncio.to_thread(header_as_explicit, await retrieve.part(instance, (0, meta)))
    inflater = Inflater()
    async for chunk in retrieve.stream(instance, (meta, instance.size - meta)):
        for start in range(0, len(chunk), _DEFLATED_PIECE):
            for piece in inflater.feed(chunk[start : start + _DEFLATED_PIECE]):
                yield piece


async def header_of(retrieve: RetrieveService, instance: Instance) -> Dataset:
    """The elements before the pixel data. Raises NotFound without these, TooLarge as `as_explicit` does."""
    pixel = (await retrieve.bulk_table(instance)).lookup(_PIXEL_DATA)
    if pixel is None:
        raise NotFound("the instance has no pixel data")
    end = _header_end(instance, pixel)
    meta = await retrieve.part(instance, (0, instance.meta_size))
    start = 0 if instance.deflated else instance.meta_size
    dataset = await retrieve.read(instance, [(start, end - start)])
    return await asyncio.to_thread(read_head, meta, dataset, instance.transfer_syntax)


def _header_end(instance: Instance, pixel: BulkEntry | None) -> int:
    """Where tag, VR and length of the pixel data begin (PS3.5 7.1), or the end of an instance without."""
    element_head = 8 if instance.transfer_syntax == IMPLICIT_LE else 12
    end = instance.size if pixel is None else pixel.offset - element_head
    if end > _HEADER_MAX:
        raise TooLarge("the instance is too large to be rewritten, without its pixel data even")
    return end
