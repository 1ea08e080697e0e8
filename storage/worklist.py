"""The worklist: Unified Procedure Steps in PostgreSQL (PS3.4 annex CC). UPS-RS and DIMSE both end here.

The rules are in `dicomweb.ups` and `dicomweb.ups_states`. A change is read, decided and written with "compare and set"
on the step's version: two performers that claim one step at the same time are told apart by the database. Events are
rows of the same transaction.
"""

import asyncio
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import orjson

from dicomweb import ups, ups_states
from dicomweb.errors import Forbidden, Gone, NotFound, Unavailable, WorkitemConflict
from dicomweb.query import Query
from dicomweb.ups_events import FILTERED_WORKLIST, WORKLIST, restarted
from dicomweb.ups_model import Change, Dataset, Step, checked_aet
from dicomweb.ups_query import parse_filter
from storage import worklist_sql
from storage.access import Access
from storage.channels import EventChannels
from storage.db import Database
from storage.search import SearchResult
from storage.settings import Settings
from storage.worklist_sql import GlobalSubscription

MAX_GLOBAL = 200  # per worklist; those with a filter are conditions of the statement that creates a step
_TRIES = 30
_BATCH, _BATCHES = 500, 40  # rows of a statement, statements of a round


@dataclass(frozen=True, slots=True)
class Created:
    """The UID of a new step, and the text of a warning or ""."""

    uid: str
    warning: str


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%d%H%M%S.%f+0000")


def _reports(change: Change) -> tuple[list[int], list[str]]:
    """The events as two arrays: Event Type IDs and contents."""
    return [event.kind for event in change.events], [orjson.dumps(event.content).decode() for event in change.events]


class WorklistService:
    """Creates, finds and changes steps, and keeps who wants to hear of them."""

    def __init__(self, settings: Settings, db: Database, channels: EventChannels) -> None:
        self._settings = settings
        self._db = db
        self._channels = channels

    # ------------------------------------------------------------------------------------------------- steps

    async def create(self, access: Access, dataset: Dataset, uid: str | None = None) -> Created:
        """Add a step in the state SCHEDULED; without a UID anywhere it gets one.

        Raises WorkitemRefused for a dataset that breaks the rules, WorkitemConflict when the UID is taken.
        """
        access.require("worklist.write")
        uid = ups.uid_of(dataset, uid) or f"2.25.{uuid.uuid4().int}"
        change = ups.create(dataset, uid, _now())
        attributes = orjson.dumps(change.step.attributes).decode()
        for attempt in range(_TRIES):
            rows = await self._db.fetch("worklist_globals", access.tenant)
            if not rows:
                await self._db.execute("worklist_begin", access.tenant)
                continue
            filters = [
                GlobalSubscription(row["aet"], row["deletion_lock"], _stored_filter(row["filter"]))
                for row in rows
                if row["aet"] is not None
            ]
            fixed = (access.tenant, rows[0]["generation"], uid, attributes, *_reports(change))
            sql, arguments = worklist_sql.with_filters(self._db.text("workitem_create"), fixed, filters)
            (done,) = await self._db.fetch_sql(sql, *arguments)
            if done["created"]:
                self._channels.wake(access.tenant, done["told"])
                return Created(uid, change.warning)
            if done["current"]:
                raise WorkitemConflict("a workitem with this UID exists", attribute="00080018", failure_reason=0x0111)
            await _pause(attempt)
        raise Unavailable("the worklist has too many new subscriptions")

    async def get(self, access: Access, uid: str) -> bytes:
        """All attributes as one DICOM JSON object, the Transaction UID not among them. NotFound, or Gone."""
        access.require("worklist.read")
        attributes = await self._db.fetch_value("workitem_get", access.tenant, uid)
        if attributes is None:
            raise await self._missing(access, uid)
        text: str = attributes
        return text.encode()

    async def update(self, access: Access, uid: str, dataset: Dataset, transaction_uid: str | None = None) -> str:
        """Replace attributes; the text of a warning or "". Raises WorkitemRefused, WorkitemConflict, NotFound, Gone."""
        access.require("worklist.write")
        change = await self._change(access, uid, lambda step: ups.update(step, dataset, transaction_uid, _now()))
        return change.warning

    async def change_state(self, access: Access, uid: str, request: Dataset) -> str:
        """Claim, complete or cancel; the text of a warning or "". Raises as `update` does."""
        access.require("worklist.write")
        change = await self._change(access, uid, lambda step: ups_states.change_state(step, request, _now()))
        return change.warning

    async def request_cancel(self, access: Access, uid: str, request: Dataset) -> str:
        """Ask for the end of a step that somebody else may perform; the text of a warning or "".

        Raises as `update` does; WorkitemConflict also when nobody would hear of it.
        """
        access.require("worklist.write")
        requester = access.principal.upper()
        change = await self._change(
            access, uid, lambda step: ups_states.request_cancel(step, request, requester, _now())
        )
        return change.warning

    async def search(self, access: Access, query: Query) -> SearchResult:
        """One page of matching steps by one statement, in the order of their scheduled start. Raises BadQuery."""
        access.require("worklist.read")
        sql, arguments = worklist_sql.search(query, access.tenant)
        rows = await self._db.fetch_sql(sql, *arguments)
        more = len(rows) > query.limit
        return SearchResult([row[0].encode() for row in rows[: query.limit]], more)

    async def _change(self, access: Access, uid: str, decide: Callable[[Step], Change]) -> Change:
        for attempt in range(_TRIES):
            row = await self._db.fetch_row("workitem_open", access.tenant, uid)
            if row is None:
                raise await self._missing(access, uid)
            change = decide(Step(uid, orjson.loads(row["attributes"]), row["transaction_uid"]))
            if not change.stored:
                return change
            step = change.step
            attributes = orjson.dumps(step.attributes).decode()
            compared = (access.tenant, uid, row["version"], row["generation"])
            done = await self._db.fetch_row(
                "workitem_change", *compared, step.transaction_uid, attributes, *_reports(change)
            )
            assert done is not None
            if done["changed"]:
                if change.told and not done["told"]:
                    raise ups_states.nobody_listens()
                self._channels.wake(access.tenant, done["told"])
                return change
            await _pause(attempt)
        raise Unavailable("the workitem is being changed by too many at once")

    async def _missing(self, access: Access, uid: str) -> NotFound:
        if await self._db.fetch_value("workitem_gone", access.tenant, uid):
            return Gone("the workitem was removed some time after it was finished")
        return NotFound("there is no such workitem")

    # ----------------------------------------------------------------------------------------- subscriptions

    async def subscribe(
        self, access: Access, uid: str, aet: str, *, deletion_lock: bool, keys: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Let `aet` hear of a step, or of all steps where `uid` is that of the worklist (PS3.4 CC.2.3.3).

        `keys` are the filter of the filtered worklist. Raises BadQuery, NotFound, Gone, and Forbidden
        beyond MAX_GLOBAL.
        """
        access.require("worklist.write")
        checked_aet(aet)
        if uid not in (WORKLIST, FILTERED_WORKLIST):
            if await self._db.fetch_value("workitem_subscribe", access.tenant, uid, aet, deletion_lock) is None:
                raise await self._missing(access, uid)
        else:
            await self._subscribe_all(access, uid == FILTERED_WORKLIST, aet, deletion_lock=deletion_lock, keys=keys)
        self._channels.wake(access.tenant, [aet])

    async def _subscribe_all(
        self, access: Access, filtered: bool, aet: str, *, deletion_lock: bool, keys: Sequence[tuple[str, str]]
    ) -> None:
        query = parse_filter(keys) if filtered else None
        tenant = access.tenant
        if await self._db.fetch_value("worklist_subscriptions", tenant, aet, filtered) >= MAX_GLOBAL:
            raise Forbidden(f"a worklist has at most {MAX_GLOBAL} subscriptions to the whole of it")
        fixed = (tenant, aet, deletion_lock, self._settings.ups_events_max)
        existing = worklist_sql.with_filter(self._db.text("worklist_subscribe_existing"), fixed, query)
        stored = orjson.dumps(list(keys) if filtered else []).decode()
        begin = (self._db.text("worklist_begin"), (tenant,))
        subscribe = (self._db.text("worklist_subscribe"), (tenant, aet, filtered, deletion_lock, stored))
        await self._db.fetch_together([begin, subscribe, existing])

    async def unsubscribe(self, access: Access, uid: str, aet: str) -> None:
        """End a subscription; that of a worklist ends all that the AE has. NotFound when there is none."""
        access.require("worklist.write")
        if uid in (WORKLIST, FILTERED_WORKLIST):
            ended = await self._db.fetch_value("worklist_unsubscribe", access.tenant, aet, uid == FILTERED_WORKLIST)
        else:
            ended = await self._db.fetch_value("workitem_unsubscribe", access.tenant, uid, aet)
        if not ended:
            raise NotFound("there is no such subscription")

    async def suspend(self, access: Access, uid: str, aet: str) -> None:
        """Hear of no steps that are created later. NotFound unless the AE is subscribed to this worklist."""
        access.require("worklist.write")
        if uid not in (WORKLIST, FILTERED_WORKLIST):
            raise NotFound("only the subscription to a worklist can be suspended")
        if not await self._db.fetch_value("worklist_suspend", access.tenant, aet, uid == FILTERED_WORKLIST):
            raise NotFound("there is no such subscription")

    # ---------------------------------------------------------------------------------------------- upkeep

    async def expire(self) -> int:
        """Remove finished steps and events whose time is over; how many steps. For the background process."""
        settings = self._settings
        removed = 0
        retention = timedelta(seconds=settings.ups_retention_s)
        for _ in range(_BATCHES):
            count = await self._db.fetch_value("worklist_expire", retention, _BATCH)
            removed += count
            if count < _BATCH:
                break
        kept = timedelta(seconds=settings.ups_event_retention_s)
        for _ in range(_BATCHES):
            if await self._db.fetch_value("events_expire", kept, _BATCH) < _BATCH:
                break
        await self._db.execute("events_trim", settings.ups_events_max)
        await self._db.execute("subscribers_forget", kept)
        return removed

    async def announce_restart(self) -> None:
        """Tell every subscriber that the archive is back with its lists (PS3.4 CC.2.4.3)."""
        event = restarted()
        await self._db.execute("announce_restart", WORKLIST, event.kind, orjson.dumps(event.content).decode())


@lru_cache(maxsize=4 * MAX_GLOBAL)
def _stored_filter(keys: str) -> Query:
    return parse_filter(orjson.loads(keys))


async def _pause(attempt: int) -> None:
    await asyncio.sleep(random.uniform(0, 0.002 * (attempt + 1)))
