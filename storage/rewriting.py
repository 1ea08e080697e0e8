"""Stored files under another header: explicit or implicit VR, or the elements before the pixel data alone."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from pydicom import Dataset

from dicomweb.bulk import BulkEntry
from dicomweb.errors import NotFound, TooLarge
from dicomweb.media import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomweb.pixels.header import read_head
from dicomweb.reencode import Inflater, header_as_native, pixel_head, pixel_word, swapped
from storage.retrieve import Instance, RetrieveService

_PIXEL_DATA: Final = "7FE00010"
# The largest header (or instance without native pixel data) that is rewritten in memory.
_HEADER_MAX: Final = 256 << 20
_DEFLATED_PIECE: Final = 1 << 14


async def as_native(
    retrieve: RetrieveService, instance: Instance, target: str = EXPLICIT_LE
) -> AsyncGenerator[bytes, None]:
    """An instance stored without compression, rewritten as explicit or implicit VR, little endian.

    Raises TooLarge where the header, or a deflated instance that is to be implicit, does not belong into memory.
    """
    if instance.deflated:
        pieces = _inflated(retrieve, instance)
        async for piece in pieces if target == EXPLICIT_LE else _at_once(pieces):
            yield piece
        return
    pixel = (await retrieve.bulk_table(instance)).lookup(_PIXEL_DATA)
    header = await retrieve.part(instance, (0, _header_end(instance, pixel)))
    yield await asyncio.to_thread(header_as_native, header, target)
    if pixel is None:
        return
    yield pixel_head(pixel.vr, pixel.length, target)
    big = instance.transfer_syntax == EXPLICIT_BE
    word = pixel_word(pixel.vr, instance.bits_allocated or 8) if big else 1
    async for chunk in retrieve.stream(instance, (pixel.offset, pixel.length)):
        yield swapped(chunk, word)


async def _inflated(retrieve: RetrieveService, instance: Instance) -> AsyncIterator[bytes]:
    meta = instance.meta_size
    yield await asyncio.to_thread(header_as_native, await retrieve.part(instance, (0, meta)), EXPLICIT_LE)
    inflater = Inflater()
    async for chunk in retrieve.stream(instance, (meta, instance.size - meta)):
        for start in range(0, len(chunk), _DEFLATED_PIECE):
            for piece in inflater.feed(chunk[start : start + _DEFLATED_PIECE]):
                yield piece


async def as_implicit(explicit: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """A file in explicit VR, which comes as header, head of the pixel data, and pixel data, in implicit VR."""
    async with aclosing(explicit):
        yield await asyncio.to_thread(header_as_native, await anext(explicit), IMPLICIT_LE)
        head = await anext(explicit)
        yield pixel_head("OW", int.from_bytes(head[8:12], "little"), IMPLICIT_LE)
        async for piece in explicit:
            yield piece


async def _at_once(explicit: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    whole = bytearray()
    async for piece in explicit:
        whole += piece
        if len(whole) > _HEADER_MAX:
            raise TooLarge("the deflated instance is too large to be rewritten")
    yield await asyncio.to_thread(header_as_native, bytes(whole), IMPLICIT_LE)


async def header_of(retrieve: RetrieveService, instance: Instance) -> Dataset:
    """The elements before the pixel data. Raises NotFound without these, TooLarge as `as_native` does."""
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
