"""What happens to stored resources: deletion (modification and merging come with the Orthanc-style REST API)."""

from datetime import timedelta

from dicomweb.errors import NotFound
from storage.access import Access
from storage.db import Database


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
