"""Where single frames of instances lie, remembered in blocks: viewers ask for neighbours, one request a frame."""

from typing import Final

from dicomweb.errors import NotFound
from dicomweb.frames import RECORD_SIZE, bit_span, is_fragmented, locate
from dicomweb.media import EXPLICIT_BE
from storage.access import Access
from storage.cache import Cache
from storage.db import Database
from storage.derived import is_derived
from storage.retrieve import Instance, Located, RetrieveService

# Records of one block: 24 KB, which the database cuts out of the frame table without reading the rest of it.
_BLOCK: Final = 2048


class FrameBlocks:
    """The frame tables of instances that were located before, in blocks; `limit` bytes of them stay in memory.

    An object is never changed, so a block is true as long as its object's key is asked for.
    """

    def __init__(self, db: Database, retrieve: RetrieveService, limit: int) -> None:
        self._db = db
        self._retrieve = retrieve
        self._blocks: Cache[tuple[str, int], bytes] = Cache(limit, kept=1)

    async def frame(self, access: Access, instance: Instance, frame: int) -> Located:
        """The extents of one frame (from 0). Raises NotFound for one that is not there."""
        access.require("dicom.read")
        if instance.transfer_syntax == EXPLICIT_BE:
            return await self._retrieve.frames(access, instance.study, instance.series, instance.sop, [frame + 1])
        number, place = divmod(frame, _BLOCK)
        key = (instance.key, number)
        block = self._blocks.get(key)
        if block is None:
            block = await self._read(key, instance)
        record = block[RECORD_SIZE * place : RECORD_SIZE * place + RECORD_SIZE]
        if not record:
            raise NotFound("the instance has no such frame")
        overflow = b""
        if is_fragmented(record):
            overflow = await self._db.fetch_value("frame_overflow", instance.tenant, instance.sop, instance.key) or b""
        return Located(instance, (locate(record, overflow),), (bit_span(record),))

    async def _read(self, key: tuple[str, int], instance: Instance) -> bytes:
        size = RECORD_SIZE * _BLOCK
        stretch = size, 1 + key[1] * size
        block: bytes | None
        if is_derived(instance):
            block = await self._db.fetch_value("derived_records", instance.tenant, instance.key, *stretch)
        else:
            block = await self._db.fetch_value("frame_records", instance.tenant, instance.sop, instance.key, *stretch)
        if block is None:
            raise NotFound("the instance was removed or replaced")
        self._blocks.put(key, block, len(block))
        return block
