"""gzip on the way to and from other servers, in bounded chunks."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from dicomweb.errors import BadRequest

_LEVEL: Final = 1  # lines are faster than processors
_INFLATE_STEP: Final = 1 << 18


async def packed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Chunks as gzip."""
    packer = zlib.compressobj(_LEVEL, wbits=31)
    async for chunk in chunks:
        yield await asyncio.to_thread(packer.compress, chunk)
    yield packer.flush()


async def unpacked(chunks: AsyncIterator[bytes], size: int, *, gzip: bool) -> AsyncGenerator[bytes, None]:
    """The `size` bytes of a bucket that comes as `chunks`, or as gzip. Raises BadRequest for anything else."""
    inflate = zlib.decompressobj(wbits=31)
    pieces = _inflated(chunks, inflate) if gzip else chunks
    seen = 0
    async for piece in pieces:
        seen += len(piece)
        if seen > size:
            raise BadRequest(f"the bucket is longer than the {size} bytes that were announced")
        if piece:
            yield piece
    if seen < size:
        raise BadRequest(f"the bucket has {seen} bytes, {size} were announced")
    if gzip and not inflate.eof:
        raise BadRequest("the gzip data of the bucket end early")


async def _inflated(chunks: AsyncIterator[bytes], inflate: Any) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        rest, more = chunk, True
        while more:
            if inflate.eof:
                raise BadRequest("bytes follow the gzip data of the bucket")
            try:
                piece = await asyncio.to_thread(inflate.decompress, rest, _INFLATE_STEP)
            except zlib.error:
                raise BadRequest("the bucket is not valid gzip") from None
            yield piece
            rest = inflate.unused_data or inflate.unconsumed_tail
            more = bool(rest) or (len(piece) == _INFLATE_STEP and not inflate.eof)
