"""Coarse levels of slides that a worker made: who makes them, where they lie, and when they count."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Final

from dicomweb.slides.derived import REVISION, derived_syntax, plan, with_derived
from dicomweb.slides.pyramid import Slide
from storage.db import Database
from storage.objects import ObjectStore
from storage.owned_objects import OwnedObjects
from storage.retrieve import Instance
from storage.settings import Settings
from storage.spool import Spooled

LEASE: Final = timedelta(seconds=30)
_PREFIX: Final = "levels"
# A fingerprint begins with this, so that what an older version made can be told from the row alone.
_MAKER: Final = bytes((REVISION,))
_DIGEST: Final = 20


@dataclass(frozen=True, slots=True)
class Due:
    """A slide that this worker looks at; `tries` counts this time too."""

    tenant: int
    series: str
    since: datetime
    tries: int


def fingerprint(instances: Sequence[Instance]) -> bytes:
    """Of the tiled instances of a slide, and of what makes levels: those made of others, or otherwise, do not count."""
    digest = blake2b(digest_size=_DIGEST)
    for instance in instances:
        digest.update(f" {instance.sop} {instance.version}".encode())
    return _MAKER + digest.digest()


def is_derived(instance: Instance) -> bool:
    """Whether this is the object of levels that were made, and not that of an instance."""
    return is_levels_key(instance.tenant, instance.key)


def is_levels_key(tenant: int, key: str) -> bool:
    """Whether an object of this key holds levels that were made."""
    return key.startswith(f"{tenant}/{_PREFIX}/")


def with_object(
    slide: Slide, instances: tuple[Instance, ...], key: str, size: int, name: bytes
) -> tuple[Slide, tuple[Instance, ...]]:
    """A slide with its levels that were made and lie in the object `key`; `name`: its fingerprint."""
    whole, sources = with_derived(slide, plan(slide))
    made = (
        replace(
            instances[source],
            key=key,
            base=0,
            size=size,
            transfer_syntax=derived_syntax(tiled.image),
            version=name.hex(),
            meta_size=0,
            deflated=False,
            bits_allocated=tiled.image.bits_allocated,
        )
        for source, tiled in zip(sources, whole.instances[len(instances) :], strict=True)
    )
    return whole, (*instances, *made)


class DerivedLevels:
    """What a worker does with slides that wait for it. Any number of workers may run: a slide is claimed by one."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore) -> None:
        self._db = db
        self._owned = OwnedObjects(settings, db, objects)
        self._worker = uuid.uuid4()
        self._after = timedelta(seconds=settings.derive_levels_after_s)
        self._grace = timedelta(seconds=settings.tomb_grace_s)

    async def make_anew(self) -> None:
        """Have slides looked at whose levels another version of the maker made: those do not count any more."""
        await self._db.execute("derived_by_others", _MAKER, len(_MAKER) + _DIGEST)

    async def claim(self) -> Due | None:
        """The next slide that has been left alone for long enough."""
        row = await self._db.fetch_row("derived_claim", self._worker, LEASE, self._after)
        return None if row is None else Due(*row)

    async def renew(self, due: Due) -> None:
        """This worker is still at it."""
        await self._db.execute("derived_renew", due.tenant, due.series, self._worker, LEASE)

    async def keep(self, due: Due) -> None:
        """What is there is right."""
        await self._db.execute("derived_keep", due.tenant, due.series, self._worker, due.since)

    async def pause(self, due: Due) -> None:
        """A service is down: the slide's turn comes again when the lease ends."""
        await self._db.execute("derived_pause", due.tenant, due.series, self._worker)

    async def drop(self, due: Due) -> None:
        """There is nothing to be made; what was made before goes."""
        await self._derive(due, None, None, None, None)

    async def publish(self, due: Due, name: bytes, spooled: Spooled, table: bytes) -> bool:
        """Store levels that were made, and have them counted from now on. Releases the spool.

        `name`: the fingerprint of what they were made of; `table`: the records of the tiles. False where the series
        was deleted, or another worker took over. Raises Unavailable.
        """
        content = spooled.path if spooled.data is None else spooled.data
        assert content is not None
        key = f"{due.tenant}/{_PREFIX}/{uuid.uuid4().hex}"
        try:
            async with self._owned.stored(due.tenant, content, spooled.size, key=key):
                return await self._derive(due, name, key, spooled.size, table)
        finally:
            spooled.release()

    async def _derive(
        self, due: Due, name: bytes | None, key: str | None, size: int | None, table: bytes | None
    ) -> bool:
        what = due.tenant, due.series, self._worker, due.since, self._grace
        done: bool = await self._db.fetch_value("derive", *what, name, key, size, table)
        return done
