"""What happens to stored resources: deletion (modification and merging come with the Orthanc-style REST API)."""

from collections.abc import Sequence
from datetime import timedelta

from dicomweb.errors import NotFound
from dicomweb.tags import Level
from storage.access import Access
from storage.db import Database
from storage.resource import Resource


class LifecycleService:
    """Deletes resources. Rows go in one transaction, objects later, by the sweeper."""

    def __init__(self, db: Database, grace: timedelta) -> None:
        self._db = db
        self._grace = grace

    async def delete(self, access: Access, study: str, series: str | None = None, sop: str | None = None) -> int:
        """Delete a study, one of its series or one instance, with the parents that become empty; how many instances.

        Raises NotFound when there is nothing of the kind.
        """
        access.require("dicom.delete")
        count: int = await self._db.fetch_value("delete_resources", access.tenant, self._grace, study, series, sop)
        if count == 0:
            raise NotFound("no such study, series or instance")
        return count

    async def remove(self, access: Access, resource: Resource) -> Resource | None:
        """Delete a resource with all that is in it; the nearest one above it that remains. Raises NotFound."""
        access.require("dicom.delete")
        row = await self._db.fetch_row("delete_orthanc", access.tenant, self._grace, resource.level, resource.id)
        if row is None:
            raise NotFound(f"no such {resource.level}")
        return None if row["level"] is None else Resource(Level(row["level"]), row["orthanc_id"])

    async def remove_all(self, access: Access, resources: Sequence[tuple[Level | None, bytes]]) -> int:
        """Delete what has these identifiers, of the named level or of any, in one transaction; how many there were."""
        access.require("dicom.delete")
        levels, identifiers = [level for level, _ in resources], [digest for _, digest in resources]
        count: int = await self._db.fetch_value("delete_all", access.tenant, self._grace, levels, identifiers)
        return count

    async def protected(self, access: Access, patient: bytes) -> bool:
        """Whether a patient is kept when others are recycled. Raises NotFound."""
        access.require("dicom.search", "dicom.read")
        found: bool | None = await self._db.fetch_value("patient_protected", access.tenant, patient)
        if found is None:
            raise NotFound("no such patient")
        return found

    async def protect(self, access: Access, patient: bytes, *, protected: bool) -> None:
        """Keep a patient when others are recycled, or not any more. Raises NotFound."""
        access.require("dicom.write")
        if not await self._db.fetch("patient_protect", access.tenant, patient, protected):
            raise NotFound("no such patient")
