"""The modality worklist in PostgreSQL (PS3.4 annex K): DIMSE, MWL-RS and Orthanc's routes all end here."""

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import orjson

from dicomweb import scheduled_steps
from dicomweb.errors import BadRequest, NotFound, Unavailable
from dicomweb.query import Query
from dicomweb.ups_model import Dataset
from storage import modality_worklist_sql
from storage.access import Access
from storage.db import Database, Record
from storage.labels import checked_label
from storage.search import SearchResult
from storage.settings import Settings

MAX_LABELS = 64
_TRIES = 30
_PAGE = 100  # items that a streamed search reads at a time
_BATCH, _BATCHES = 500, 40  # rows of a statement, statements of a round


@dataclass(frozen=True, slots=True)
class WorklistItem:
    """A stored item: its identifier in URLs, when it was added, its attributes as one DICOM JSON object, its labels."""

    id: str
    created_at: datetime
    attributes: bytes
    labels: tuple[str, ...] = ()


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def _key(text: str) -> uuid.UUID:
    """The identifier as the database has it; NotFound when it is none."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise _missing() from None


def _missing() -> NotFound:
    return NotFound("there is no such worklist item")


def _labels(access: Access, given: Sequence[str]) -> list[str]:
    """The labels of an item: those that are given for it, and those of who adds it. Raises BadRequest."""
    found = sorted({*map(checked_label, given), *access.labels})
    if len(found) > MAX_LABELS:
        raise BadRequest(f"a worklist item has at most {MAX_LABELS} labels", attribute="Labels")
    return found


class ModalityWorklistService:
    """Adds, finds, changes and removes scheduled procedure steps.

    For a caller with labels there are those items that have all of them, and what they add gets them.
    """

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings = settings
        self._db = db

    async def create(self, access: Access, dataset: Dataset, *, labels: Sequence[str] = (), force: bool = False) -> str:
        """Add an item and return its identifier. One without a StudyInstanceUID gets one.

        Raises WorkitemRefused, and BadRequest for what is no label. `force` takes an item without the attributes that a
        search needs most.
        """
        access.require("worklist.write")
        item = scheduled_steps.item(dataset, study=_new_uid(), force=force)
        key = uuid.uuid4()
        attributes = orjson.dumps(item.attributes).decode()
        columns = (list(item.stations), item.name_fold, _labels(access, labels))
        await self._db.execute("scheduled_create", access.tenant, key, attributes, *columns)
        return str(key)

    async def get(self, access: Access, item_id: str) -> WorklistItem:
        """One item. Raises NotFound."""
        access.require("worklist.read")
        row = await self._db.fetch_row("scheduled_get", access.tenant, _key(item_id), access.labels)
        if row is None:
            raise _missing()
        return WorklistItem(item_id, row["created_at"], row["attributes"].encode(), tuple(row["labels"]))

    async def replace(
        self,
        access: Access,
        item_id: str,
        dataset: Dataset,
        *,
        labels: Sequence[str] | None = None,
        force: bool = False,
    ) -> None:
        """Put a data set in the place of another. Study and status stay where the new one has none.

        Labels stay where they are None. Raises WorkitemRefused, BadRequest for what is no label, and NotFound.
        """
        access.require("worklist.write")
        key = _key(item_id)
        for attempt in range(_TRIES):
            row = await self._db.fetch_row("scheduled_get", access.tenant, key, access.labels)
            if row is None:
                raise _missing()
            before = orjson.loads(row["attributes"])
            item = scheduled_steps.item(dataset, before=before, study=_new_uid(), force=force)
            attributes = orjson.dumps(item.attributes).decode()
            kept = row["labels"] if labels is None else _labels(access, labels)
            changed = (attributes, list(item.stations), item.name_fold, kept)
            if await self._db.fetch_value("scheduled_replace", access.tenant, key, row["version"], *changed):
                return
            await asyncio.sleep(random.uniform(0, 0.002 * (attempt + 1)))
        raise Unavailable("the worklist item is being changed by too many at once")

    async def delete(self, access: Access, item_id: str) -> None:
        """Remove an item. Raises NotFound."""
        access.require("worklist.write")
        if not await self._db.fetch_value("scheduled_delete", access.tenant, _key(item_id), access.labels):
            raise _missing()

    async def search(self, access: Access, query: Query, base: str) -> SearchResult:
        """One page of matching items as DICOM JSON with the attributes that PS3.4 K.6-1 returns and those asked for.

        `base`: the URL of the collection. Raises BadQuery.
        """
        access.require("worklist.read")
        tags = None if query.all_fields else scheduled_steps.RETURNED.union(path[0] for path in query.fields)
        finished = self._settings.mwl_show_finished
        statement = modality_worklist_sql.scheduled(query, access, finished=finished, tags=tags, base=base)
        rows = await self._rows(statement)
        return SearchResult([row["row"].encode() for row in rows[: query.limit]], len(rows) > query.limit)

    async def items(
        self, access: Access, query: Query, *, finished: bool | None = None
    ) -> AsyncGenerator[WorklistItem | None, None]:
        """Matching items one after the other; None at the end when the limit left some out.

        Memory is bounded by a page. `finished`: whether finished ones are among them, None: as the setting says. Raises
        BadQuery.
        """
        access.require("worklist.read")
        shown = self._settings.mwl_show_finished if finished is None else finished
        end = query.offset + query.limit
        for offset in range(query.offset, end, _PAGE):
            page = replace(query, offset=offset, limit=min(_PAGE, end - offset))
            rows = await self._rows(modality_worklist_sql.scheduled(page, access, finished=shown))
            for row in rows[: page.limit]:
                yield WorklistItem(str(row["id"]), row["created_at"], row["row"].encode(), tuple(row["labels"]))
            if len(rows) <= page.limit:
                return
        yield None

    async def _rows(self, statement: tuple[str, list[object]]) -> list[Record]:
        sql, arguments = statement
        return await self._db.fetch_sql(sql, *arguments)

    async def expire(self) -> int:
        """Remove items whose time is over; how many. For the background process."""
        settings = self._settings
        kept = (timedelta(seconds=settings.mwl_retention_s), timedelta(seconds=settings.mwl_overdue_s))
        removed = 0
        for _ in range(_BATCHES):
            count: int = await self._db.fetch_value("scheduled_expire", *kept, _BATCH)
            removed += count
            if count < _BATCH:
                break
        return removed
