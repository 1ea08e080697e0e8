"""Limits of what is stored: patients that changed longest ago make room, or nothing more is taken."""

import asyncio
from datetime import timedelta
from typing import Final

from dicomweb.errors import Unavailable
from storage.access import DEFAULT_TENANT
from storage.db import Database
from storage.settings import Settings

# How long totals are believed. Between two looks a process counts what it stores itself; others do the same.
_FRESH: Final = 1.0
_BATCH: Final = 100


class Quota:
    """The limits as ingest sees them; without limits, or when the worker makes room, everything is taken."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._db = db
        self._bytes = settings.maximum_storage_size
        self._patients = settings.maximum_patient_count
        self._rejects = settings.maximum_storage_mode == "reject" and bool(self._bytes or self._patients)
        self._used: dict[int, tuple[float, int, int]] = {}  # when it was looked up, bytes, patients

    async def admit(self, tenant: int, size: int, patient_id: str) -> None:
        """Raises Unavailable (`full`) where `size` bytes, or another patient, are too much."""
        if not self._rejects:
            return
        at, used, patients = await self._totals(tenant)
        if self._bytes and used + size > self._bytes:
            raise Unavailable("the storage has reached maximum_storage_size", reason="full")
        if self._patients and not await self._db.fetch_value("quota_patient", tenant, patient_id):
            self._used.pop(tenant, None)  # one patient more decides: what others stored meanwhile counts
            at, used, patients = await self._totals(tenant)
            if patients >= self._patients:
                raise Unavailable("the storage has reached maximum_patient_count", reason="full")
        self._used[tenant] = (at, used + size, patients)

    async def _totals(self, tenant: int) -> tuple[float, int, int]:
        now = asyncio.get_running_loop().time()
        found = self._used.get(tenant)
        if found is None or now - found[0] > _FRESH:
            row = await self._db.fetch_row("quota_totals", tenant)
            assert row is not None
            found = self._used[tenant] = (now, row["bytes"], row["patients"])
        return found


async def recycle(db: Database, settings: Settings) -> int:
    """Delete patients, those that changed longest ago first, until the limits are kept; how many.

    Protected patients stay, and so does the one that changed last: it may be arriving.
    """
    if settings.maximum_storage_mode != "recycle" or not (
        settings.maximum_storage_size or settings.maximum_patient_count
    ):
        return 0
    limits = (settings.maximum_storage_size or None, settings.maximum_patient_count or None)
    grace = timedelta(seconds=settings.tomb_grace_s)
    total = 0
    while rows := await db.fetch("recycle_candidates", DEFAULT_TENANT, *limits, _BATCH):
        gone = [await db.fetch_value("recycle", DEFAULT_TENANT, grace, row["orthanc_id"]) for row in rows]
        total += sum(gone)
        if not any(gone):
            break
    return total
