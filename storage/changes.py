"""The change feed as clients read it, what was exported, and when resources settle."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from dicomweb.tags import Level
from storage.access import Access
from storage.db import Database, Record
from storage.resource import Resource
from storage.settings import Settings

KINDS: Final = (
    *(f"New{level}" for level in ("Patient", "Study", "Series", "Instance")),
    *(f"Stable{level}" for level in ("Patient", "Study", "Series")),
    *(f"{what}{level}" for what in ("Modified", "Anonymized") for level in ("Patient", "Study", "Series")),
    "CompletedSeries",
    "UpdatedMetadata",
    "UpdatedAttachment",
)
MAX_PAGE: Final = 10_000
_END: Final = 2**63 - 1
_BATCH: Final = 500
# How long a deletion is kept for readers that have not begun yet.
_KEEP: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry. `seq` is its number: without gaps as they are given, with those of deleted resources gone later."""

    seq: int
    kind: str
    resource: Resource
    at: datetime


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of the feed in its order. `last`: the youngest number that was given to any change."""

    entries: tuple[Change, ...]
    done: bool
    last: int


@dataclass(frozen=True, slots=True)
class Export:
    """Something that was sent to a modality or a peer."""

    seq: int
    resource: Resource
    modality: str
    patient_id: str
    study: str
    series: str
    sop: str
    at: datetime


class ChangeService:
    """The feed of a tenant. Methods take the caller's rights."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._db = db
        self._logs_exports = settings.log_exports

    async def page(
        self, access: Access, *, since: int = 0, to: int | None = None, kinds: Sequence[str] = (), limit: int = 100
    ) -> Changes:
        """Entries behind `since` up to `to`; with `to` alone, the last ones up to there. One statement."""
        access.require("dicom.search")
        backwards = to is not None and since == 0
        wanted = list(kinds) or None
        end = _END if to is None else to
        rows = await self._db.fetch("changes_page", access.tenant, since, end, wanted, backwards, limit + 1)
        last: int = rows[0]["last"]
        entries = [
            Change(row["seq"], row["kind"], Resource(Level(row["level"]), row["orthanc_id"]), row["at"])
            for row in rows
            if row["seq"] is not None
        ]
        done = len(entries) <= limit
        if not done:
            entries = entries[1:] if backwards else entries[:limit]
        return Changes(tuple(entries), done, last)

    async def newest(self, access: Access) -> Changes:
        """The last entry alone."""
        return replace(await self.page(access, to=_END, limit=1), done=True)

    async def clear(self, access: Access) -> None:
        """The feed begins anew; its numbers go on."""
        access.require("dicom.delete")
        await self._db.execute("changes_clear", access.tenant)

    async def exports(self, access: Access, since: int, limit: int) -> tuple[list[Export], bool]:
        """What was sent, behind number `since`; whether that is all."""
        access.require("dicom.search")
        rows = await self._db.fetch("exports_page", access.tenant, since, limit + 1)
        return [_export(row) for row in rows[:limit]], len(rows) <= limit

    async def last_export(self, access: Access) -> list[Export]:
        """What was sent last, if anything was."""
        access.require("dicom.search")
        return [_export(row) for row in await self._db.fetch("exports_last", access.tenant)]

    async def clear_exports(self, access: Access) -> None:
        """Forget what was sent."""
        access.require("dicom.delete")
        await self._db.execute("exports_clear", access.tenant)

    async def log_export(self, access: Access, resource: Resource, modality: str, uids: Sequence[str]) -> None:
        """Remember that a resource was sent, where the settings want that.

        `uids`: its PatientID and the UIDs of its levels, from the study down.
        """
        if not self._logs_exports:
            return
        named = (*uids, "", "", "", "")[:4]
        await self._db.execute("export_log", access.tenant, modality, resource.level, resource.id, *named)


def _export(row: Record) -> Export:
    resource = Resource(Level(row["level"]), row["orthanc_id"])
    uids = (row["patient_id"], row["study_uid"], row["series_uid"], row["sop_uid"])
    return Export(row["seq"], resource, row["modality"], *uids, row["at"])


async def settle(db: Database, age: timedelta) -> int:
    """Announce series, studies and patients to which nothing came for `age`; how many."""
    total = 0
    for level in (Level.SERIES, Level.STUDY, Level.PATIENT):
        while count := await db.fetch_value("settle", level, age, _BATCH):
            total += count
            if count < _BATCH:
                break
    return total


async def forget(db: Database) -> int:
    """Remove entries that nobody is to see any more; how many."""
    total = 0
    while count := await db.fetch_value("changes_forget", _KEEP, _BATCH):
        total += count
    return total
