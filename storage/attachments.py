"""Attachments: files that clients keep with resources. Their bytes are objects, streamed in and out."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from dicomweb.errors import NotFound, Unavailable
from dicomweb.orthanc_kinds import ATTACHMENTS, FIRST_USER, Kinds, parse_kinds
from storage.access import Access
from storage.damage import Damage
from storage.db import Database
from storage.integrity import digested
from storage.objects import ObjectStore
from storage.owned_objects import OwnedObjects
from storage.resource import Resource
from storage.revisions import Condition, entity_tag, revision_of
from storage.settings import Settings
from storage.spool import Spooled

_HASH_STEP: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file of a resource: `size` bytes from `offset` of an object. `md5` is None where nobody has asked for it.

    `sop`: of the instance whose stored file it is, else "".
    """

    kind: int
    key: str
    offset: int
    size: int
    revision: int
    md5: bytes | None
    tenant: int
    sop: str = ""

    @property
    def uuid(self) -> str:
        """What Orthanc calls the file by."""
        return file_uuid(self.key)

    @property
    def tag(self) -> str:
        """The entity tag; without a digest the name of the object, which is never used for other bytes."""
        return entity_tag(self.revision, self.md5 or uuid.UUID(self.uuid).bytes)


def file_uuid(key: str) -> str:
    """The UUID of an object, which its key ends with."""
    return str(uuid.UUID(key.rpartition("/")[2]))


class AttachmentService:
    """Attachments of clients. Every method takes the caller's rights; NotFound where there is no such resource."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore, damage: Damage) -> None:
        self._db = db
        self._objects = objects
        self._damage = damage
        self._owned = OwnedObjects(settings, db, objects)
        self._grace = timedelta(seconds=settings.tomb_grace_s)
        self.kinds = Kinds(ATTACHMENTS, parse_kinds(settings.user_attachments))

    async def of(self, access: Access, resource: Resource, kind: int | None = None) -> list[Attachment]:
        """What clients attached to a resource, or the one of that kind."""
        access.require("dicom.read")
        rows = await self._db.fetch("attachments_of", access.tenant, resource.level, resource.id, kind)
        if not rows:
            raise NotFound(f"no such {resource.level}")
        return [
            Attachment(
                row["kind"], row["object_key"], 0, row["object_size"], row["revision"], row["md5"], access.tenant
            )
            for row in rows
            if row["kind"] is not None
        ]

    async def put(self, access: Access, resource: Resource, kind: int, content: Spooled, condition: Condition) -> str:
        """Attach a file; its entity tag. Releases the spool. Raises RevisionConflict, Unavailable."""
        access.require("dicom.write")
        if kind < FIRST_USER:
            raise ValueError("only attachments of clients are written here")
        try:
            md5 = await asyncio.to_thread(_md5, content)
            body = content.data if content.path is None else content.path
            assert body is not None
            async with self._owned.stored(access.tenant, body, content.size) as key:
                target = (access.tenant, resource.level, resource.id, kind)
                demand = (condition.match, condition.required, self._grace)
                row = await self._db.fetch_row("attachment_put", *target, key, content.size, md5, *demand)
                assert row is not None
                if row["outcome"] == "late":
                    raise Unavailable("the attachment was too slow to be stored; send it again")
                return entity_tag(revision_of(row, "attachment"), md5)
        finally:
            content.release()

    async def delete(self, access: Access, resource: Resource, kind: int, condition: Condition) -> None:
        """Remove a file; its object goes after the grace. Raises NotFound, RevisionConflict."""
        access.require("dicom.write")
        key = (access.tenant, resource.level, resource.id, kind)
        demand = (condition.match, condition.required, self._grace)
        revision_of(await self._db.fetch_row("attachment_delete", *key, *demand), "attachment")

    def read(self, attachment: Attachment, offset: int, length: int) -> AsyncIterator[bytes]:
        """A part of a file in bounded chunks."""
        chunks = self._objects.stream(attachment.key, attachment.offset + offset, length)
        return self._damage.streaming(attachment.tenant, attachment.sop, attachment.key, chunks)

    async def digest(self, attachment: Attachment) -> bytes:
        """The MD5 of the stored bytes, read now. Raises ObjectMissing, Unavailable."""
        return await digested(self.read(attachment, 0, attachment.size), hashlib.md5(usedforsecurity=False))


def _md5(content: Spooled) -> bytes:
    md5 = hashlib.md5(usedforsecurity=False)
    buffer = content.buffer()
    with memoryview(buffer) as view:
        for start in range(0, len(view), _HASH_STEP):
            md5.update(view[start : start + _HASH_STEP])
    if not isinstance(buffer, bytes):
        buffer.close()
    return md5.digest()
