"""Whether the bytes of stored files, attachments and metadata are those that the index tells the digests of."""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator
from typing import Any, Final, Literal

from storage.db import Database
from storage.objects import ObjectStore
from storage.side_objects import SIDE

ContentFault = Literal["wrong digest", "wrong metadata"]
Fault = Literal["missing object", "wrong size"] | ContentFault

_INFLATE_STEP: Final = 1 << 20


async def content_fault(objects: ObjectStore, db: Database, row: Any) -> ContentFault | None:
    """What is wrong with an object, which is read to its end; None where it is what the row says.

    `row`: of an instance as `fsck_page` gives it, or of an attachment, with `md5`. Raises ObjectMissing, CorruptObject,
    Unavailable.
    """
    chunks = objects.stream(row["object_key"], row["object_offset"], row["object_size"])
    if row.get("md5") is not None:
        found = await digested(chunks, hashlib.md5(usedforsecurity=False))
        return None if found == row["md5"] else "wrong digest"
    if await digested(chunks, hashlib.sha256()) != row["file_sha256"]:
        return "wrong digest"
    metadata = await _metadata(objects, db, row)
    if metadata is not None and not await asyncio.to_thread(_is_whole, metadata, row):
        return "wrong metadata"
    return None


async def digested(chunks: AsyncIterator[bytes], digest: "hashlib._Hash") -> bytes:
    """The digest of all chunks, computed off the loop."""
    async for chunk in chunks:
        await asyncio.to_thread(digest.update, chunk)
    return digest.digest()


async def _metadata(objects: ObjectStore, db: Database, row: Any) -> bytes | None:
    if row["side"]:
        return await objects.get(row["object_key"] + SIDE)
    found: bytes | None = await db.fetch_value("fsck_metadata", row["tenant"], row["sop_uid"], row["object_key"])
    return found


def _is_whole(deflated: bytes, row: Any) -> bool:
    """Whether the compressed metadata hold as many bytes, with the CRC-32, as the row says."""
    inflate = zlib.decompressobj(-15)
    crc = length = 0
    rest = deflated
    try:
        while True:
            piece = inflate.decompress(rest, _INFLATE_STEP)
            rest = inflate.unconsumed_tail
            if not piece or length > row["metadata_length"]:
                break
            crc, length = zlib.crc32(piece, crc), length + len(piece)
    except zlib.error:
        return False
    return (crc, length) == (row["metadata_crc"], row["metadata_length"])
