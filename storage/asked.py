"""What other application entities were asked and have answered: queries, and requests for storage commitment.

Both are rows: the process that is asked about them, or that the answer reaches, need not be the one that asked.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson

from dicomweb.errors import BadRequest, NotFound
from dicomweb.uids import is_uid
from storage.access import Access
from storage.db import Database
from storage.settings import Settings

MAX_INSTANCES: Final = 100_000


@dataclass(frozen=True, slots=True)
class AskedQuery:
    """A query: whom, with what, and how many answers there are. `identifier` in Explicit VR Little Endian."""

    id: str
    modality: str
    content: dict[str, Any]
    identifier: bytes
    answers: int


@dataclass(frozen=True, slots=True)
class AskedCommitment:
    """A request for storage commitment (PS3.4 J.3): `results` are SOP class, SOP instance and failure reason.

    The reason is 0 for an instance that is committed, None for one of which nothing was said.
    """

    transaction: str
    remote_aet: str
    answered: bool
    results: tuple[tuple[str, str, int | None], ...]


class AskedService:
    """Keeps queries with their answers, and requests for commitment, for a while."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._db = db
        self._kept = settings.dimse_queries
        self._retention = timedelta(seconds=settings.job_retention_s)

    # -- queries

    async def add_query(
        self, access: Access, modality: str, content: Mapping[str, Any], identifier: bytes, answers: Sequence[bytes]
    ) -> str:
        """Keep a query; its identifier."""
        access.require("dimse.run")
        text = orjson.dumps(content).decode()
        made = await self._db.fetch_value(
            "asked_query_put", access.tenant, modality, text, identifier, answers, self._kept
        )
        return str(made)

    async def queries(self, access: Access) -> Sequence[str]:
        """Identifiers of all queries, the oldest first."""
        access.require("dimse.read")
        return [str(row["id"]) for row in await self._db.fetch("asked_queries", access.tenant)]

    async def query(self, access: Access, name: str) -> AskedQuery:
        """One query. Raises NotFound."""
        access.require("dimse.read")
        row = await self._db.fetch_row("asked_query_get", access.tenant, _identifier(name))
        if row is None:
            raise NotFound("no such query")
        return AskedQuery(name, row["modality"], orjson.loads(row["content"]), row["identifier"], row["answers"])

    async def answers(self, access: Access, name: str) -> Sequence[bytes]:
        """All answers to a query."""
        access.require("dimse.read")
        rows = await self._db.fetch("asked_answers", access.tenant, _identifier(name), 0, None)
        return [row["content"] for row in rows]

    async def answer(self, access: Access, name: str, number: int) -> bytes:
        """One answer, counted from 0. Raises NotFound."""
        access.require("dimse.read")
        if not 0 <= number < 1 << 31:
            raise NotFound("no such answer")
        rows = await self._db.fetch("asked_answers", access.tenant, _identifier(name), number, 1)
        if not rows:
            raise NotFound("no such answer")
        content: bytes = rows[0]["content"]
        return content

    async def delete_query(self, access: Access, name: str) -> None:
        """Forget a query. Raises NotFound."""
        access.require("dimse.run")
        if await self._db.fetch_value("asked_query_delete", access.tenant, _identifier(name)) is None:
            raise NotFound("no such query")

    # -- storage commitment

    async def add_commitment(
        self, access: Access, transaction: str, remote_aet: str, instances: Sequence[tuple[str, str]]
    ) -> None:
        """Expect an answer about instances (SOP class, SOP instance). Raises BadRequest."""
        access.require("dimse.run")
        if not 1 <= len(instances) <= MAX_INSTANCES:
            raise BadRequest(f"commitment is asked for 1 to {MAX_INSTANCES} instances at a time")
        classes, uids = [each[0] for each in instances], [each[1] for each in instances]
        await self._db.execute("asked_commitment_put", access.tenant, transaction, remote_aet, uids, classes)

    async def commitment_items(self, access: Access, transaction: str) -> Sequence[tuple[str, str]]:
        """SOP class and SOP instance of what a commitment is asked for."""
        rows = await self._db.fetch("asked_commitment_items", access.tenant, transaction)
        return [(row["sop_class"], row["sop_uid"]) for row in rows]

    async def report(self, tenant: int, transaction: str, remote_aet: str | None, reasons: Mapping[str, int]) -> None:
        """An answer: SOP instances with their failure reason, 0 for those that are committed.

        `remote_aet`: who answers, None where that is known to be who was asked. Raises NotFound for a transaction that
        nobody began with that application entity.
        """
        if not is_uid(transaction):
            raise NotFound("no such transaction")
        uids, values = list(reasons), list(reasons.values())
        if not await self._db.fetch("asked_commitment_report", tenant, transaction, remote_aet, uids, values):
            raise NotFound("no such transaction")

    async def commitment(self, access: Access, transaction: str) -> AskedCommitment:
        """What is known of a request for commitment. Raises NotFound."""
        access.require("dimse.read")
        row = await self._db.fetch_row("asked_commitment_get", access.tenant, transaction.replace("\0", ""))
        if row is None:
            raise NotFound("no such transaction")
        results = await self._db.fetch("asked_commitment_results", transaction)
        return AskedCommitment(
            transaction,
            row["remote_aet"],
            row["answered"],
            tuple((each["sop_class"], each["sop_uid"], each["reason"]) for each in results),
        )

    async def expire(self) -> int:
        """Forget old requests for commitment; how many. For the background process."""
        count: int = await self._db.fetch_value("asked_commitment_expire", self._retention)
        return count


def _identifier(name: str) -> uuid.UUID:
    try:
        return uuid.UUID(name)
    except ValueError:
        raise NotFound("no such query") from None
