"""Group commits: rows when their objects are durable, and the verdict when an answer is lost."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import orjson

from dicomweb.errors import ArchiveError, Unavailable
from storage.batch import Batcher
from storage.db import ConnectionLost, Database, Record
from storage.intents import Intents
from storage.objects import ObjectStore
from storage.rows import FLAG_DEFLATED, Prepared, Shared, hex_id, metadata_cuts
from storage.settings import Settings

_SHARED_CACHE = 1_024
TRIES = 6  # of one commit
NEW = frozenset(("stored", "astray"))  # outcomes of an instance that was not there
VISIBLE = NEW | {"replaced"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What ingest_commit says of one instance, see functions/ingest.sql; `stored_key`: the object it meets."""

    name: str
    stored_key: str | None = None


class Retry(ArchiveError):
    """The commit must be asked again: its answer was lost before anything happened."""


class Committer:
    """Writes one tenant's index in groups: what waits while a flush runs goes together in the next."""

    def __init__(
        self, settings: Settings, db: Database, objects: ObjectStore, tenant: int, active: Callable[[], int]
    ) -> None:
        """`active`: how many instances are being stored now."""
        self._db = db
        self._tenant = tenant
        self._policy = settings.duplicates
        self._grace = timedelta(seconds=settings.tomb_grace_s)
        self._verdict_s = settings.database_timeout
        self._shared: OrderedDict[str, Shared] = OrderedDict()
        self.intents = Intents(settings, db, objects, tenant, active)
        self._commits = self._batcher(settings, active, "")
        self._overwrites = self._batcher(settings, active, "replace")

    def _batcher(self, settings: Settings, active: Callable[[], int], policy: str) -> Batcher[Prepared, Outcome]:
        return Batcher(
            partial(self._flush_commits, policy=policy),
            limit=settings.commit_batch,
            key=lambda p: p.scan.sop_instance_uid,
            expected=active,
        )

    async def commit(self, prepared: Prepared, *, overwrite: bool = False) -> Outcome:
        """Make a durable object visible; with `overwrite` in the place of another one, whatever the settings say.

        Raises Retry when nothing happened, Unavailable when that is not known.
        """
        try:
            return await (self._overwrites if overwrite else self._commits).submit(prepared)
        except ConnectionLost:
            return await self._verdict(prepared)  # here, so that the groups behind do not wait for it

    async def commit_together(self, items: Sequence[Prepared]) -> Sequence[Outcome]:
        """Make new, durable objects visible, all of them or none: where one is not new, its outcome says what it is.

        Raises as `commit`.
        """
        try:
            return await self._flush_together(items)
        except ConnectionLost:
            # In one transaction, so that the verdict on one is that on all.
            return [await self._verdict(items[0])] * len(items)

    async def restore(self, prepared: Prepared) -> bool:
        """Give an instance whose object was lost the same file again, which is durable under its new key.

        False when the instance is not what it was: deleted, or replaced by other bytes. Raises as `commit`.
        """
        try:
            (outcome,) = await self._flush_commits([prepared], "restore")
        except ConnectionLost:
            outcome = await self._verdict(prepared)
        return outcome.name in VISIBLE

    async def exchange(
        self, prepared: Prepared, stored_key: str, received_dataset: bytes, dataset_sha256: bytes
    ) -> bool:
        """Point the row of an instance at the same image in another transfer syntax, see functions/transcoding.sql.

        False when the instance is not what it was. Raises Unavailable when the outcome is not known.
        """
        scan = prepared.scan
        shared, first = await self._shared_of([prepared])
        if first:  # the series is gone
            return False
        cuts = metadata_cuts(scan.elements)
        done: bool = await self._db.fetch_value(
            "exchange_object",
            self._tenant,
            scan.sop_instance_uid,
            stored_key,
            received_dataset,
            shared[scan.series_uid].id,
            self._grace,
            prepared.key,
            prepared.size,
            scan.transfer_syntax,
            scan.meta_size,
            prepared.file_sha256,
            dataset_sha256,
            shared[scan.series_uid].difference(scan.elements),
            scan.bulk.to_bytes(),
            prepared.frame_records,
            prepared.frame_overflow,
            prepared.metadata_column,
            scan.metadata.crc32,
            scan.metadata.length,
            cuts,
        )
        if not done:
            self.forget(scan.series_uid)
        return done

    async def restate(self, prepared: Prepared, stored_key: str, *, announce: bool) -> bool:
        """Have the row of an instance say what its file says now, see functions/reconstruction.sql.

        False when the instance is not what it was, or its series was said anew. Raises as `exchange`.
        """
        scan = prepared.scan
        shared, first = await self._shared_of([prepared])
        if first:  # the series is gone
            return False
        done: bool = await self._db.fetch_value(
            "restate_instance",
            self._tenant,
            stored_key,
            self._grace,
            announce,
            *(column[0] for column in commit_arguments([prepared], shared)),
        )
        if not done:
            self.forget(scan.series_uid)
        return done

    def forget(self, series_uid: str) -> None:
        """The cache describes another series row than the database."""
        self._shared.pop(series_uid, None)

    async def _flush_commits(self, items: Sequence[Prepared], policy: str = "") -> Sequence[Outcome]:
        shared, first = await self._shared_of(items)
        arguments = commit_arguments(items, shared)
        return await self._committed(items, shared, first, arguments, policy or self._policy, self._db.fetch)

    async def _flush_together(self, items: Sequence[Prepared]) -> Sequence[Outcome]:
        shared, first = await self._shared_of(items)
        arguments = await asyncio.to_thread(commit_arguments, items, shared)  # of thousands
        run = partial(self._db.fetch_if, _all_visible)
        return await self._committed(items, shared, first, arguments, self._policy, run)

    async def _committed(
        self,
        items: Sequence[Prepared],
        shared: Mapping[str, Shared],
        first: Mapping[str, Prepared],
        arguments: Sequence[object],
        policy: str,
        run: Callable[..., Awaitable[Sequence[Record]]],
    ) -> Sequence[Outcome]:
        """What ingest_commit says of each instance. `shared`, `first`: of `_shared_of`; `run`: runs a named query."""
        studies = {p.scan.study_uid: p for p in reversed(items) if p.scan.series_uid in first}
        rows = await run(
            "ingest_commit",
            self._tenant,
            policy,
            self._grace,
            orjson.dumps([studies[uid].described.study_proposal() for uid in sorted(studies)]).decode(),
            orjson.dumps([first[uid].described.series_proposal(shared[uid]) for uid in sorted(first)]).decode(),
            *arguments,
        )
        outcomes = {row["sop_uid"]: Outcome(row["outcome"], row["stored_key"]) for row in rows}
        if any(outcome.name == "fenced" for outcome in outcomes.values()):
            outcomes |= await self._stored_after_all(items, outcomes)
        if any(outcome.name == "identical" for outcome in outcomes.values()):
            self.intents.repeated()
        for item in items:
            if outcomes[item.scan.sop_instance_uid].name in VISIBLE:
                self._remember(item.scan.series_uid, shared[item.scan.series_uid])
        return [outcomes[item.scan.sop_instance_uid] for item in items]

    async def _stored_after_all(self, items: Sequence[Prepared], outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
        """A fenced item may be one whose earlier commit went through after its answer was lost."""
        fenced = [p for p in items if outcomes[p.scan.sop_instance_uid].name == "fenced"]
        stored = await self._stored_keys(fenced)
        return {p.scan.sop_instance_uid: Outcome("stored") for p in fenced if p.key in stored}

    async def _stored_keys(self, items: Sequence[Prepared]) -> set[str]:
        rows = await self._db.fetch(
            "ingest_stored_keys", self._tenant, [p.scan.sop_instance_uid for p in items], [p.key for p in items]
        )
        return {row["object_key"] for row in rows}

    async def _verdict(self, item: Prepared) -> Outcome:
        """The answer to a COMMIT was lost: the intent tells what happened, never a blind retry."""
        end = time.monotonic() + self._verdict_s
        while True:
            try:
                still_open = await self._db.fetch("ingest_open_intents", [item.key])
                if await self._stored_keys([item]):
                    return Outcome("stored")
            except Unavailable:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.2)
            else:
                if still_open:
                    raise Retry("the commit did not happen")
                raise Unavailable("the outcome of the commit is unknown; send the instance again")

    async def _shared_of(self, items: Sequence[Prepared]) -> tuple[dict[str, Shared], dict[str, Prepared]]:
        """The shared attributes per Series UID, and the first instances of series that nobody knows yet."""
        shared: dict[str, Shared] = {}
        missing: dict[str, Prepared] = {}
        for item in items:
            uid = item.scan.series_uid
            known = self._shared.get(uid)
            if known is not None:
                shared[uid] = known
            else:
                missing.setdefault(uid, item)
        if missing:
            for row in await self._db.fetch("shared_of_series", self._tenant, list(missing)):
                shared[row["series_uid"]] = Shared.parse(row["shared_id"], row["shared"])
                self._remember(row["series_uid"], shared[row["series_uid"]])
        first = {uid: item for uid, item in missing.items() if uid not in shared}
        for uid, item in first.items():
            shared[uid] = Shared.of(item.scan.elements)
        return shared, first

    def _remember(self, series_uid: str, shared: Shared) -> None:
        self._shared[series_uid] = shared
        self._shared.move_to_end(series_uid)
        while len(self._shared) > _SHARED_CACHE:
            self._shared.popitem(last=False)


def _all_visible(rows: Sequence[Record]) -> bool:
    return all(row["outcome"] in NEW for row in rows)


def commit_arguments(items: Sequence[Prepared], shared: dict[str, Shared]) -> tuple[list[object], ...]:
    """The instances as columns, in the order of ingest_commit's i_ parameters."""
    s = [p.scan for p in items]
    return (
        [p.key for p in items],
        [x.sop_instance_uid for x in s],
        [x.series_uid for x in s],
        [x.study_uid for x in s],
        [shared[x.series_uid].id for x in s],
        [x.patient_id.replace("\0", "") for x in s],
        [p.size for p in items],
        [x.sop_class_uid for x in s],
        [x.transfer_syntax for x in s],
        [p.instance_number for p in items],
        [p.number_of_frames for p in items],
        [p.rows for p in items],
        [p.columns for p in items],
        [p.bits_allocated for p in items],
        [x.meta_size for x in s],
        [FLAG_DEFLATED if x.deflated else 0 for x in s],
        [bytes.fromhex(hex_id(p.ids.instance)) for p in items],
        [p.file_sha256 for p in items],
        [p.dataset_sha256 for p in items],
        [p.source for p in items],
        [shared[x.series_uid].difference(x.elements) for x in s],
        [x.bulk.to_bytes() for x in s],
        [p.frame_records for p in items],
        [p.frame_overflow for p in items],
        [p.metadata_column for p in items],
        [x.metadata.crc32 for x in s],
        [x.metadata.length for x in s],
        [metadata_cuts(x.elements) for x in s],
    )
