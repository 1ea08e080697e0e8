"""Modality performed procedure steps in PostgreSQL (PS3.4 annex F).

The scheduled steps that one belongs to follow its status in the same statement.
"""

import asyncio
import random
import uuid
from collections.abc import Sequence
from datetime import timedelta

import orjson

from dicomweb import performed_steps
from dicomweb.errors import NotFound, Unavailable, WorkitemConflict
from dicomweb.performed_steps import COMPLETED, DISCONTINUED, IN_PROGRESS, STATUS, Request
from dicomweb.query import Query
from dicomweb.uids import is_uid
from dicomweb.ups_model import SOP_INSTANCE, Dataset, text
from dicomweb.worklist_model import DUPLICATE_INSTANCE, NO_SUCH_INSTANCE, refusal
from storage import modality_worklist_sql
from storage.access import Access
from storage.db import Database
from storage.search import SearchResult
from storage.settings import Settings

NOTIFICATION = "MppsNotification"  # the kind of the jobs that tell declared application entities
# Event Type IDs by the status that a step got; "": it has changed, and is in the same (PS3.4 table F.9.2-1).
EVENTS = {IN_PROGRESS: 1, COMPLETED: 2, DISCONTINUED: 3, "": 4}
DELETED = 5  # the Event Type ID for a step that is not kept any longer
_TRIES = 30
_BATCH, _BATCHES = 500, 40


def _columns(requests: Sequence[Request]) -> tuple[list[str], list[str], list[str]]:
    return [r.study for r in requests], [r.step_id for r in requests], [r.accession for r in requests]


class PerformedStepService:
    """Creates, changes and reads performed steps.

    For a caller with labels there are those steps that have all of them. What they add gets them, and moves only such
    scheduled steps on.
    """

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings = settings
        self._db = db

    async def create(self, access: Access, dataset: Dataset, uid: str = "") -> str:
        """Add an instance and return its UID, a new one where none is given; scheduled steps become STARTED.

        Raises WorkitemRefused, and WorkitemConflict when there is such an instance.
        """
        access.require("worklist.write")
        if uid and not is_uid(uid):
            raise refusal(SOP_INSTANCE, "is not a UID")
        uid = uid or f"2.25.{uuid.uuid4().int}"
        attributes = performed_steps.create(dataset, uid)
        requests = _columns(performed_steps.requests_of(attributes))
        stored = orjson.dumps(attributes).decode()
        told = EVENTS[IN_PROGRESS]
        done = await self._db.fetch_row("performed_create", access.tenant, uid, stored, *requests, told, access.labels)
        assert done is not None
        if not done["created"]:
            message = "a performed procedure step with this UID exists"
            raise WorkitemConflict(message, attribute=SOP_INSTANCE, failure_reason=DUPLICATE_INSTANCE)
        return uid

    async def get(self, access: Access, uid: str) -> Dataset:
        """All attributes. Raises NotFound."""
        access.require("worklist.read")
        row = await self._db.fetch_row("performed_get", access.tenant, uid.replace("\0", ""), access.labels)
        if row is None:
            raise _missing()
        found: Dataset = orjson.loads(row["attributes"])
        return found

    async def update(self, access: Access, uid: str, changes: Dataset) -> None:
        """Replace attributes; the scheduled steps become what the performed one becomes.

        Raises WorkitemRefused, WorkitemConflict and NotFound.
        """
        access.require("worklist.write")
        for attempt in range(_TRIES):
            row = await self._db.fetch_row("performed_get", access.tenant, uid.replace("\0", ""), access.labels)
            if row is None:
                raise _missing()
            before = orjson.loads(row["attributes"])
            after = performed_steps.update(before, changes)
            follows = performed_steps.scheduled_status(text(before, STATUS), text(after, STATUS))
            requests = _columns(performed_steps.requests_of(after))
            compared = (access.tenant, uid, row["version"], orjson.dumps(after).decode())
            done = await self._db.fetch_row("performed_change", *compared, follows, *requests, EVENTS[follows])
            assert done is not None
            if done["changed"]:
                return
            await asyncio.sleep(random.uniform(0, 0.002 * (attempt + 1)))
        raise Unavailable("the performed procedure step is being changed by too many at once")

    async def search(self, access: Access, query: Query) -> SearchResult:
        """One page of matching steps as DICOM JSON, the newest first. Raises BadQuery."""
        access.require("worklist.read")
        sql, arguments = modality_worklist_sql.performed(query, access)
        rows = await self._db.fetch_sql(sql, *arguments)
        return SearchResult([row[0].encode() for row in rows[: query.limit]], len(rows) > query.limit)

    async def expire(self) -> int:
        """Remove steps whose time is over; how many. Subscribers are told. For the background process."""
        kept = timedelta(seconds=self._settings.mpps_retention_s)
        removed = 0
        for _ in range(_BATCHES):
            count: int = await self._db.fetch_value("performed_expire", kept, _BATCH, DELETED)
            removed += count
            if count < _BATCH:
                break
        return removed


def _missing() -> NotFound:
    return NotFound("there is no such performed procedure step", failure_reason=NO_SUCH_INSTANCE)
