"""The one way into the archive (STOW, REST, C-STORE, import): scan, intent, object, fenced commit, acknowledgement."""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import orjson

from dicomweb.errors import ArchiveError, Conflict, IdentityMismatch, ObjectMissing, TooLarge, Unavailable
from dicomweb.memo import Memo
from dicomweb.part10 import Scan, scan
from dicomweb.structure import ScanLimits
from dicomweb.uids import OrthancIds
from storage.access import Access
from storage.batch import Batcher
from storage.db import ConnectionLost, Database
from storage.objects import ObjectStore
from storage.rows import FLAG_DEFLATED, Prepared, Shared, hex_id
from storage.settings import Settings
from storage.spool import Spooled

log = logging.getLogger(__name__)

Status = Literal["stored", "identical", "kept", "replaced"]

# Headers of ordinary images are scanned where they arrive; what is larger goes to a thread, so that no request holds
# the loop.
_QUICK_ELEMENTS = 2_000
_QUICK_INFLATED = 1 << 20
_SHARED_CACHE = 1_024
_COMMIT_TRIES = 6
_VERDICT_SECONDS = 30.0
_VERSION_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an instance came: protocol, and the peer's address and AE title where there are any."""

    kind: Literal["stow", "rest", "dimse", "import"]
    remote: str = ""
    aet: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """An acknowledged instance: its bytes and its row are durable."""

    status: Status
    sop_class: str
    sop_instance: str
    study: str
    series: str
    orthanc: OrthancIds
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Intent:
    key: str
    sop_uid: str
    sha256: bytes
    size: int


class _Retry(ArchiveError):
    """The commit must be asked again: its answer was lost before anything happened."""


class IngestCounters:
    """Totals of this process, read by the metrics."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.fallbacks: dict[str, int] = {}
        self.bytes = 0

    def count(self, outcome: str, size: int) -> None:
        """One finished attempt."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.bytes += size


class IngestService:
    """Stores instances. Nothing is acknowledged before its row is committed; nothing that failed blocks a retry."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._limits = ScanLimits(
            max_depth=settings.max_depth,
            max_elements=settings.max_elements,
            max_fg_elements=settings.max_fg_elements,
            bulk_threshold=settings.bulk_threshold,
            max_inflated=settings.max_inflated,
            max_inflate_ratio=settings.max_inflate_ratio,
        )
        self._quick_limits = replace(
            self._limits,
            max_elements=min(_QUICK_ELEMENTS, self._limits.max_elements),
            max_fg_elements=min(_QUICK_ELEMENTS, self._limits.max_fg_elements),
            max_inflated=min(_QUICK_INFLATED, self._limits.max_inflated),
        )
        self._memo = Memo()
        self._lease = timedelta(seconds=settings.intent_lease_s)
        self._grace = timedelta(seconds=settings.tomb_grace_s)
        self._shared: OrderedDict[tuple[int, str], Shared] = OrderedDict()
        self._intents: dict[int, Batcher[_Intent, str | None]] = {}
        self._commits: dict[int, Batcher[Prepared, str]] = {}
        self.counters = IngestCounters()

    async def store(
        self, access: Access, spooled: Spooled, source: Provenance, *, expect_study: str | None = None
    ) -> Stored:
        """Store one complete upload and release its spool.

        Raises BadDicom and TooLarge for what cannot be stored, IdentityMismatch when the study is not `expect_study` or
        the UIDs are stored under other parents, Conflict for other bytes under a stored SOP UID (policy `reject`),
        Unavailable when a retry may succeed.
        """
        access.require("dicom.write")
        try:
            stored = await self._store(access, spooled, source, expect_study)
        except ArchiveError as error:
            self.counters.count(error.slug, 0)
            raise
        finally:
            spooled.release()
        self.counters.count(stored.status, spooled.size)
        return stored

    async def _store(self, access: Access, spooled: Spooled, source: Provenance, expect_study: str | None) -> Stored:
        found = await self._scan(spooled)
        if expect_study is not None and found.study_uid != expect_study:
            raise IdentityMismatch(
                "StudyInstanceUID differs from the study in the request", attribute="StudyInstanceUID"
            )
        prepared = Prepared.of(
            found,
            key=f"{access.tenant}/{datetime.now(UTC):%Y%m%d}/{uuid.uuid4().hex}",
            size=spooled.size,
            sha256=spooled.sha256,
            dataset_sha256=spooled.dataset_sha256,
            source=orjson.dumps(
                {"kind": source.kind, "remote": source.remote, "aet": source.aet, "principal": access.principal}
            ).decode(),
            inline_max=self._settings.metadata_inline_max,
        )
        intent = _Intent(prepared.key, found.sop_instance_uid, spooled.sha256, spooled.size)
        stored_key = await self._intent_batcher(access.tenant).submit(intent)
        if stored_key is not None:
            status = await self._identical(access, prepared, spooled, stored_key)
        else:
            await self._put(prepared, spooled)
            status = await self._commit(access, prepared)
        return Stored(
            status,
            found.sop_class_uid,
            found.sop_instance_uid,
            found.study_uid,
            found.series_uid,
            prepared.ids,
            found.warnings,
        )

    async def _scan(self, spooled: Spooled) -> Scan:
        version = spooled.sha256.hex()[:_VERSION_LENGTH]
        buffer = spooled.buffer()
        try:
            if spooled.path is None:
                with suppress(TooLarge):
                    return self._scanned(scan(buffer, self._quick_limits, version=version, memo=self._memo))
            return self._scanned(await asyncio.to_thread(scan, buffer, self._limits, version=version, memo=self._memo))
        finally:
            if not isinstance(buffer, bytes):
                with suppress(BufferError):  # an error's traceback may still hold a view; the map goes with it
                    buffer.close()

    def _scanned(self, result: Scan) -> Scan:
        if result.fallback:
            self.counters.fallbacks[result.fallback] = self.counters.fallbacks.get(result.fallback, 0) + 1
        return result

    # -- objects
    # ------------------------------------------------------------------------------------------------------------------

    async def _put(self, prepared: Prepared, spooled: Spooled) -> None:
        """Make the object durable. On failure the intent is given up; only the sweeper ever deletes."""
        try:
            # No PUT may outlive the lease and its quarantine; half of the lease leaves room for the commit.
            async with asyncio.timeout(self._settings.intent_lease_s / 2):
                if spooled.data is not None:
                    await self._objects.put(prepared.key, [spooled.data], spooled.size)
                else:
                    assert spooled.path is not None
                    await self._objects.put_file(prepared.key, spooled.path, spooled.size)
                if not prepared.metadata_inline:
                    side = prepared.scan.metadata.data
                    await self._objects.put(prepared.key + ".json", [side], len(side))
        except BaseException as error:
            with suppress(ArchiveError):
                await self._db.execute("ingest_renounce", [prepared.key], self._grace)
            if isinstance(error, TimeoutError):
                raise Unavailable("the object store did not take the object in time") from error
            raise

    async def _identical(self, access: Access, prepared: Prepared, spooled: Spooled, stored_key: str) -> Status:
        """The same file is stored already: success, unless its object was lost, which these bytes then repair."""
        try:
            if await self._objects.size(stored_key) == spooled.size:
                return "identical"
        except ObjectMissing:
            pass
        log.error("a stored object was missing and is being restored from a repeated upload")
        tenant = access.tenant
        args = (prepared.scan.sop_instance_uid, spooled.sha256, stored_key, prepared.key)
        # An empty digest matches no row, so that the key is announced although the file is known.
        await self._db.fetch("ingest_intent", tenant, self._lease, [prepared.key], [args[0]], [b""], [spooled.size])
        await self._put(prepared, spooled)
        if not await self._db.fetch_value("ingest_adopt", tenant, *args):
            raise Unavailable("the instance changed while its lost object was being restored; send it again")
        return "identical"

    # -- intents and commits
    # ------------------------------------------------------------------------------------------------------

    def _intent_batcher(self, tenant: int) -> Batcher[_Intent, str | None]:
        if tenant not in self._intents:

            async def flush(items: Sequence[_Intent]) -> Sequence[str | None]:
                rows = await self._db.fetch(
                    "ingest_intent",
                    tenant,
                    self._lease,
                    [i.key for i in items],
                    [i.sop_uid for i in items],
                    [i.sha256 for i in items],
                    [i.size for i in items],
                )
                answer: list[str | None] = [None] * len(items)
                for row in rows:
                    answer[row["ordinal"] - 1] = row["stored_key"]
                return answer

            self._intents[tenant] = Batcher(flush, limit=self._settings.commit_batch, key=lambda i: i.key)
        return self._intents[tenant]

    async def _commit(self, access: Access, prepared: Prepared) -> Status:
        batcher = self._commit_batcher(access.tenant)
        outcome = "stale"
        for attempt in range(_COMMIT_TRIES):
            try:
                outcome = await batcher.submit(prepared)
            except _Retry:
                await asyncio.sleep(0.01 * attempt)
                continue
            if outcome != "stale":
                break
            self._shared.pop((access.tenant, prepared.scan.series_uid), None)
        match outcome:
            case "stored" | "identical" | "kept" | "replaced":
                return outcome
            case "duplicate":
                raise Conflict("other bytes are stored under this SOPInstanceUID", attribute="SOPInstanceUID")
            case "elsewhere":
                raise IdentityMismatch(
                    "the SOPInstanceUID or SeriesInstanceUID is stored under another series or study",
                    attribute="SeriesInstanceUID",
                )
            case _:
                raise Unavailable("the instance could not be committed in time; send it again")

    def _commit_batcher(self, tenant: int) -> Batcher[Prepared, str]:
        if tenant not in self._commits:

            async def flush(items: Sequence[Prepared]) -> Sequence[str | BaseException]:
                return await self._flush_commit(tenant, items)

            self._commits[tenant] = Batcher(
                flush, limit=self._settings.commit_batch, key=lambda p: p.scan.sop_instance_uid
            )
        return self._commits[tenant]

    async def _flush_commit(self, tenant: int, items: Sequence[Prepared]) -> Sequence[str | BaseException]:
        shared, first = await self._shared_of(tenant, items)
        studies = {p.scan.study_uid: p for p in reversed(items) if p.scan.series_uid in first}
        arguments = commit_arguments(items, shared)
        try:
            rows = await self._db.fetch(
                "ingest_commit",
                tenant,
                self._settings.duplicates,
                self._grace,
                orjson.dumps([studies[uid].study_proposal() for uid in sorted(studies)]).decode(),
                orjson.dumps([first[uid].series_proposal(shared[uid]) for uid in sorted(first)]).decode(),
                *arguments,
            )
        except ConnectionLost:
            return await self._verdict(tenant, items)
        outcomes = {row["sop_uid"]: row["outcome"] for row in rows}
        if "fenced" in outcomes.values():
            outcomes |= await self._stored_after_all(tenant, items, outcomes)
        for item in items:
            if outcomes[item.scan.sop_instance_uid] in ("stored", "replaced"):
                self._remember(tenant, item.scan.series_uid, shared[item.scan.series_uid])
        return [outcomes[item.scan.sop_instance_uid] for item in items]

    async def _stored_after_all(
        self, tenant: int, items: Sequence[Prepared], outcomes: dict[str, str]
    ) -> dict[str, str]:
        """A fenced item may be one whose earlier commit went through after its answer was lost."""
        fenced = [p for p in items if outcomes[p.scan.sop_instance_uid] == "fenced"]
        stored = await self._stored_keys(tenant, fenced)
        return {p.scan.sop_instance_uid: "stored" for p in fenced if p.key in stored}

    async def _stored_keys(self, tenant: int, items: Sequence[Prepared]) -> set[str]:
        rows = await self._db.fetch(
            "ingest_stored_keys", tenant, [p.scan.sop_instance_uid for p in items], [p.key for p in items]
        )
        return {row["object_key"] for row in rows}

    async def _verdict(self, tenant: int, items: Sequence[Prepared]) -> Sequence[str | BaseException]:
        """The answer to a COMMIT was lost: the intents tell what happened, never a blind retry."""
        end = time.monotonic() + _VERDICT_SECONDS
        while True:
            try:
                still_open = {row["key"] for row in await self._db.fetch("ingest_open_intents", [p.key for p in items])}
                stored = await self._stored_keys(tenant, items)
            except Unavailable:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.2)
            else:
                return _answers(items, stored, still_open)

    async def _shared_of(self, tenant: int, items: Sequence[Prepared]) -> tuple[dict[str, Shared], dict[str, Prepared]]:
        """The shared attributes per Series UID, and the first instances of series that nobody knows yet."""
        shared: dict[str, Shared] = {}
        missing: dict[str, Prepared] = {}
        for item in items:
            uid = item.scan.series_uid
            known = self._shared.get((tenant, uid))
            if known is not None:
                shared[uid] = known
            else:
                missing.setdefault(uid, item)
        if missing:
            for row in await self._db.fetch("shared_of_series", tenant, list(missing)):
                shared[row["series_uid"]] = Shared.parse(row["shared_id"], row["shared"])
                self._remember(tenant, row["series_uid"], shared[row["series_uid"]])
        first = {uid: item for uid, item in missing.items() if uid not in shared}
        for uid, item in first.items():
            shared[uid] = Shared.of(item.scan.elements)
        return shared, first

    def _remember(self, tenant: int, series_uid: str, shared: Shared) -> None:
        self._shared[(tenant, series_uid)] = shared
        self._shared.move_to_end((tenant, series_uid))
        while len(self._shared) > _SHARED_CACHE:
            self._shared.popitem(last=False)


def _answers(items: Sequence[Prepared], stored: set[str], still_open: set[str]) -> list[str | BaseException]:
    answers: list[str | BaseException] = []
    for item in items:
        if item.key in stored:
            answers.append("stored")
        elif item.key in still_open:
            answers.append(_Retry("the commit did not happen"))
        else:
            answers.append(Unavailable("the outcome of the commit is unknown; send the instance again"))
    return answers


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
        [x.frames.records if x.frames is not None and x.frames.count else None for x in s],
        [x.frames.overflow if x.frames is not None and x.frames.overflow else None for x in s],
        [p.scan.metadata.data if p.metadata_inline else None for p in items],
        [x.metadata.crc32 for x in s],
        [x.metadata.length for x in s],
    )
