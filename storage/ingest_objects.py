"""Objects of instances that are being stored: made durable under their intents, given up, looked after."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from typing import Final

from dicomweb.errors import ArchiveError, ObjectMissing, Unavailable
from storage.access import Access
from storage.damage import Damage
from storage.db import Database
from storage.integrity import digested
from storage.intents import Intent, Intents
from storage.leases import renewed
from storage.objects import ObjectStore
from storage.rows import Prepared
from storage.settings import Settings
from storage.side_objects import SIDE
from storage.spool import Spooled

_SLOWEST_PUT: Final = 2_000_000  # bytes per second, beside what the lease gives to each object


class IngestObjects:
    """The objects that ingest makes. None is deleted here: what has no row when its intent ends, the sweeper takes."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore, damage: Damage) -> None:
        self._db = db
        self._objects = objects
        self._damage = damage
        self._lease = settings.intent_lease_s
        self._grace = timedelta(seconds=settings.tomb_grace_s)

    async def put(self, prepared: Prepared, spooled: Spooled, *, named: bool = False) -> None:
        """Make an object that was announced durable; one that could not be made is given up. Raises Unavailable.

        `named`: see ObjectStore.
        """
        try:
            # No PUT may outlive the lease (see ingest_intent); half of it leaves room for the commit.
            async with asyncio.timeout(self._lease / 2 + spooled.size / _SLOWEST_PUT):
                if spooled.data is not None:
                    await self._objects.put(prepared.key, [spooled.data], spooled.size, named=named)
                else:
                    assert spooled.path is not None
                    await self._objects.put_file(prepared.key, spooled.path, spooled.size)
                if not prepared.metadata_inline:
                    side = prepared.scan.metadata.data
                    await self._objects.put(prepared.key + SIDE, [side], len(side))
        except BaseException as error:
            await self.renounce(prepared)
            if isinstance(error, TimeoutError):
                raise Unavailable("the object store did not take the object in time") from error
            raise

    async def put_beside(self, intents: Intents, prepared: Prepared, spooled: Spooled) -> None:
        """Announce and put another object of an instance that is stored."""
        # An empty digest matches no row, so that the key is announced although the file may be known.
        await intents.announce(Intent(prepared.key, prepared.scan.sop_instance_uid, b"", spooled.size))
        await self.put(prepared, spooled)

    async def renounce(self, *prepared: Prepared) -> None:
        """Give objects up that were announced; the sweeper finds them where this fails."""
        with suppress(ArchiveError):
            await self._db.execute("ingest_renounce", [each.key for each in prepared], self._grace)

    def kept(self, prepared: Sequence[Prepared]) -> AbstractAsyncContextManager[None]:
        """Within the block the sweeper leaves announced objects alone; more of them may be added to the list."""
        lease = timedelta(seconds=self._lease)
        return renewed(lease, lambda: self._db.execute("intent_renew", [each.key for each in prepared], lease))

    async def is_there(self, access: Access, prepared: Prepared, stored_key: str) -> bool:
        """Whether the object is as long as what was sent, or, being in another transfer syntax, as its row says.

        One that was found damaged is not there.
        """
        try:
            found = await self._objects.size(stored_key)
            if not prepared.metadata_inline:
                await self._objects.size(stored_key + SIDE)
        except ObjectMissing:
            return False
        if await self._damage.is_noted(access.tenant, prepared.scan.sop_instance_uid, stored_key):
            return False
        if found == prepared.size:
            return True
        row = await self._db.fetch_row("instance_to_compare", access.tenant, prepared.scan.sop_instance_uid)
        if row is None or row["object_key"] != stored_key:
            raise Unavailable("the instance changed meanwhile; send it again")
        return bool(found == row["object_offset"] + row["object_size"])

    async def digest(self, key: str, offset: int, length: int) -> bytes:
        """The SHA-256 of a part of an object."""
        return await digested(self._objects.stream(key, offset, length), hashlib.sha256())
