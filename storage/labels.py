"""Labels of resources: short words that clients put on them and search by."""

import re
from typing import Final

from dicomweb.errors import BadQuery, NotFound
from storage.access import Access
from storage.db import Database
from storage.resource import Resource

_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_MOST: Final = 100_000


def checked_label(text: str) -> str:
    """`text` if it may be a label, else BadQuery."""
    if not _LABEL.fullmatch(text):
        raise BadQuery("a label has 1 to 64 characters: letters, digits, - and _", attribute="label")
    return text


class LabelService:
    """Labels. Every method takes the caller's rights; NotFound where there is no such resource."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of(self, access: Access, resource: Resource) -> list[str]:
        """The labels of a resource, sorted."""
        access.require("dicom.search", "dicom.read")
        found: list[str] | None = await self._db.fetch_value("labels_of", access.tenant, resource.level, resource.id)
        if found is None:
            raise NotFound(f"no such {resource.level}")
        return found

    async def every(self, access: Access) -> list[str]:
        """Every label that some resource has, sorted."""
        access.require("dicom.search", "dicom.read")
        return [row["label"] for row in await self._db.fetch("labels_all", access.tenant, _MOST)]

    async def put(self, access: Access, resource: Resource, label: str) -> None:
        """Add a label; nothing changes where the resource has it. Raises BadQuery for what is no label."""
        access.require("dicom.write")
        if not await self._db.fetch_value(
            "label_put", access.tenant, resource.level, resource.id, checked_label(label)
        ):
            raise NotFound(f"no such {resource.level}")

    async def delete(self, access: Access, resource: Resource, label: str) -> None:
        """Take a label away; nothing changes where the resource does not have it."""
        access.require("dicom.write")
        checked_label(label)
        if not await self._db.fetch_value("resource_exists", access.tenant, resource.level, resource.id):
            raise NotFound(f"no such {resource.level}")
        await self._db.execute("label_delete", access.tenant, resource.level, resource.id, label)
