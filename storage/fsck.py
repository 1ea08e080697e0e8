"""Compares the index with the object store, while the archive runs or stands still.

Nothing is changed, except that derived levels of slides whose object is not what it was are to be made anew, and that
what is found of instances and attachments is noted (storage/damage.py), as what is whole again is not any more.

The store's listing goes into a temporary table of the database, which then joins it with the rows: memory here stays
at a page, however large the archive. What is stored, deleted or swept during the check differs between listing and
rows for a moment, so each candidate is asked for once more before it counts: a writer announces a key before it puts
the object, and the sweeper forgets a key after it removed the object, so one later look decides.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar

from dicomweb.errors import ArchiveError, CorruptObject, ObjectMissing
from storage.archive import Archive
from storage.damage import FAULTS
from storage.derived import is_levels_key
from storage.embedded import database_url
from storage.integrity import Fault, content_fault
from storage.parallel import side_by_side
from storage.session import Session, open_session
from storage.side_objects import SIDE

T = TypeVar("T")

Kind = Fault | Literal["unexplained object", "wrong counts"]

PAGE: Final = 1000
PARALLEL: Final = 8  # requests to the object store at once
# The sweeper comes by every half minute; what is due for longer shows that none runs.
_PATIENCE: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `uid` is of the instance or the parent, "" for an object without a row."""

    kind: Kind
    key: str
    uid: str
    detail: str = ""


@dataclass(slots=True)
class Report:
    """What was compared (sizes in bytes) and how much of it was wrong; `overdue`: no sweeper seems to run."""

    instances: int = 0
    bytes: int = 0
    objects: int = 0
    object_bytes: int = 0
    waiting: int = 0  # intents and tombs: objects that the sweeper will look after
    overdue: int = 0
    read: int = 0  # objects whose content was verified
    findings: dict[Kind, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


class Check:
    """One run. `found` is called with every finding, `progress` with (step, how many so far)."""

    def __init__(
        self, archive: Archive, found: Callable[[Finding], None], progress: Callable[[str, int], None] | None = None
    ) -> None:
        self._archive = archive
        self._objects = archive.objects
        self._found = found
        self._progress = progress or (lambda _step, _count: None)
        self._report = Report()

    async def run(self, *, deep: bool = False) -> Report:
        """Compare; `deep` also reads every object and metadata and compares the digests. Raises Unavailable.

        Costs one listing, some sequential scans of the index, and with `deep` every byte of the archive.
        """
        async with open_session(database_url(self._archive.settings)) as session:
            await self._list(session)
            await self._total(session)
            await self._rows(session)
            await self._unexplained(session)
            await self._counts(session)
        await self._archive.damage.recheck(self._objects, lambda row, kind: self._noted(row, kind, deep=deep))
        if deep:
            await self._contents()
        await self._archive.damage.settled()
        return self._report

    def _noted(self, row: Any, kind: Kind, *, deep: bool) -> None:
        """What was noted before and is still so; sizes were compared already, contents are if `deep`."""
        if not deep and kind in ("wrong digest", "wrong metadata"):
            self._note(kind, row["object_key"], row["sop_uid"], "(noted before)")

    def _damaged(self, row: Any, error: type[ArchiveError]) -> None:
        """Have it noted, where it is of an instance or an attachment."""
        self._archive.damage.note(row["tenant"], row["sop_uid"], row["object_key"], error)

    def _note(self, kind: Kind, key: str, uid: str, detail: str = "") -> None:
        self._report.findings[kind] = self._report.findings.get(kind, 0) + 1
        self._found(Finding(kind, key, uid, detail))

    async def _list(self, session: Session) -> None:
        await session.execute("fsck_objects")
        page: list[tuple[str, str, bool, int]] = []
        count = 0
        async for info in self._objects.list(""):
            base = info.key.removesuffix(SIDE)
            page.append((info.key, base, base != info.key, info.size))
            if len(page) == PAGE:
                await session.copy("fsck_object", page)
                count += len(page)
                page = []
                self._progress("listing", count)
        await session.copy("fsck_object", page)
        await session.execute("fsck_analyze")

    async def _total(self, session: Session) -> None:
        quarantine = timedelta(seconds=self._archive.settings.sweep_quarantine_s)
        (row,) = await session.fetch("fsck_totals", _PATIENCE, quarantine)
        report = self._report
        report.instances, report.bytes = row["instances"], row["bytes"]
        report.objects, report.object_bytes = row["objects"], row["object_bytes"]
        report.waiting, report.overdue = row["intents"] + row["tombs"], row["overdue"]

    async def _rows(self, session: Session) -> None:
        async for page in _pages(session.cursor("fsck_rows", PAGE)):
            await side_by_side(self._row, page, PARALLEL)

    async def _row(self, row: Any) -> None:
        key = row["object_key"]
        for name, size in ((key, row["size"]), *([(key + SIDE, None)] if row["side"] else [])):
            try:
                held = await self._objects.size(name)
            except ObjectMissing:
                if await self._still(row):
                    self._note("missing object", name, row["sop_uid"], await self._replaced(row))
                    self._damaged(row, ObjectMissing)
                continue
            if size is not None and held != size and await self._still(row):
                again = await self._replaced(row)
                self._note("wrong size", name, row["sop_uid"], f"{held} bytes, {size} in the index {again}".strip())
                self._damaged(row, CorruptObject)

    async def _replaced(self, row: Any) -> str:
        """Have levels of a slide made anew, which can be; says so."""
        if not is_levels_key(row["tenant"], row["object_key"]):
            return ""
        await self._archive.db.execute("derived_lost", row["tenant"], row["sop_uid"], row["object_key"])
        return "(a worker makes these levels anew)"

    async def _still(self, row: Any) -> bool:
        found: bool = await self._archive.db.fetch_value("fsck_still", row["tenant"], row["sop_uid"], row["object_key"])
        return found

    async def _unexplained(self, session: Session) -> None:
        async for page in _pages(session.cursor("fsck_unexplained", PAGE)):
            await side_by_side(self._unexplained_object, page, PARALLEL)

    async def _unexplained_object(self, row: Any) -> None:
        try:
            size = await self._objects.size(row["key"])
        except ObjectMissing:
            return  # swept meanwhile
        self._note("unexplained object", row["key"], "", f"{size} bytes")

    async def _counts(self, session: Session) -> None:
        for row in await session.fetch("fsck_counts"):
            detail = f"{row['level']}: {row['found'] or 0} children, {row['kept']} in the index"
            self._note("wrong counts", "", row["uid"], detail)

    # -- contents

    async def _contents(self) -> None:
        after: tuple[int, str] = (0, "")
        while page := await self._archive.db.fetch("fsck_page", *after, PAGE):
            await side_by_side(self._content, page, PARALLEL)
            after = (page[-1]["tenant"], page[-1]["sop_uid"])
            self._progress("reading", self._report.read)
        key = ""
        while page := await self._archive.db.fetch("fsck_attachments", key, PAGE):
            await side_by_side(self._content, page, PARALLEL)
            key = page[-1]["object_key"]
            self._progress("reading", self._report.read)

    async def _content(self, row: Any) -> None:
        try:
            kind = await content_fault(self._objects, self._archive.db, row)
        except FAULTS:
            return  # counted by its size already, or gone with its row
        if kind is not None and await self._still(row):
            self._note(kind, row["object_key"], row["sop_uid"])
            self._damaged(row, CorruptObject)
        self._report.read += 1


async def _pages(rows: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    page: list[T] = []
    async for row in rows:
        page.append(row)
        if len(page) == PARALLEL * 16:
            yield page
            page = []
    if page:
        yield page
