"""Metadata that clients keep with resources: small texts by number."""

from dataclasses import dataclass
from typing import Final

from dicomweb.errors import BadRequest, NotFound, TooLarge
from dicomweb.orthanc_kinds import FIRST_USER, METADATA, ORIGINS, Kinds, parse_kinds
from dicomweb.uids import is_orthanc_id
from storage.access import Access
from storage.db import Database
from storage.resource import Resource
from storage.revisions import Condition, entity_tag, revision_of, text_md5
from storage.settings import Settings

MAX_VALUE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One metadata of a resource; `tag` is its entity tag."""

    kind: int
    value: str
    tag: str


class MetadataService:
    """User metadata. Every method takes the caller's rights; NotFound where there is no such resource."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._db = db
        self.kinds = Kinds(METADATA, parse_kinds(settings.user_metadata))

    async def of(self, access: Access, resource: Resource, kind: int | None = None) -> list[Entry]:
        """What is noted of a resource, or the one of that kind; those of the archive that are computed are not here."""
        access.require("dicom.search", "dicom.read")
        rows = await self._db.fetch("metadata_of", access.tenant, resource.level, resource.id, kind)
        if not rows:
            raise NotFound(f"no such {resource.level}")
        return [
            Entry(row["kind"], row["value"], entity_tag(row["revision"], text_md5(row["value"])))
            for row in rows
            if row["kind"] is not None
        ]

    async def put(self, access: Access, resource: Resource, kind: int, value: bytes, condition: Condition) -> str:
        """Set one; its entity tag. Raises RevisionConflict, and BadRequest for what is no text."""
        access.require("dicom.write")
        _check_user(kind)
        if len(value) > MAX_VALUE:
            raise TooLarge(f"metadata may have {MAX_VALUE} bytes")
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise BadRequest("metadata are text in UTF-8") from None
        if "\0" in text:
            raise BadRequest("metadata are text without NUL")
        key = (access.tenant, resource.level, resource.id, kind)
        row = await self._db.fetch_row("metadata_put", *key, text, condition.match, condition.required)
        return entity_tag(revision_of(row, "metadata"), text_md5(text))

    async def put_origin(self, access: Access, resource: Resource, kind: int, origin: str) -> None:
        """Note what resource of another archive, by its identifier, this one was modified or anonymized from there.

        `kind`: MODIFIED_FROM or ANONYMIZED_FROM. Raises NotFound, and BadRequest for what is no identifier.
        """
        access.require("dicom.write")
        if kind not in ORIGINS.values() or not is_orthanc_id(origin):
            raise BadRequest("what a resource was made from is named by its identifier")
        key = (access.tenant, resource.level, resource.id, kind)
        revision_of(await self._db.fetch_row("metadata_put", *key, origin, None, False), "metadata")

    async def delete(self, access: Access, resource: Resource, kind: int, condition: Condition) -> None:
        """Remove one. Raises NotFound, RevisionConflict."""
        access.require("dicom.write")
        _check_user(kind)
        key = (access.tenant, resource.level, resource.id, kind)
        revision_of(await self._db.fetch_row("metadata_delete", *key, condition.match, condition.required), "metadata")


def _check_user(kind: int) -> None:
    if kind < FIRST_USER:
        raise ValueError("only metadata of clients are written here")
