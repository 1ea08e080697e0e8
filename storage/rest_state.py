"""What clients of the REST API set while the archive runs: rows, so that all processes say the same."""

from dataclasses import dataclass

from storage.access import Access
from storage.db import Database


@dataclass(frozen=True, slots=True)
class RestMetrics:
    """Counts beside those of resources."""

    last_change: int
    pending: int
    running: int
    success: int
    failed: int


class RestState:
    """Named texts. Methods take the caller's rights."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, access: Access, name: str, default: str) -> str:
        """What was set, or the default."""
        access.require("system.read")
        found: str | None = await self._db.fetch_value("rest_state", access.tenant, name)
        return default if found is None else found

    async def put(self, access: Access, name: str, value: str) -> None:
        """Set it."""
        access.require("system.admin")
        await self._db.execute("rest_state_set", access.tenant, name, value)

    async def count(self, access: Access, name: str) -> int:
        """The next number of a counter, from 1 on; no number is given twice."""
        access.require("dicom.read", "dicom.write")
        found: int = await self._db.fetch_value("rest_state_count", access.tenant, name)
        return found

    async def metrics(self, access: Access) -> RestMetrics:
        """Counts of jobs and changes."""
        access.require("system.read")
        row = await self._db.fetch_row("rest_metrics", access.tenant)
        assert row is not None
        return RestMetrics(**dict(row))

    async def pending_deletions(self, access: Access) -> int:
        """How many objects of deleted or replaced resources are still in the store."""
        access.require("system.read")
        found: int = await self._db.fetch_value("pending_deletions")
        return found
