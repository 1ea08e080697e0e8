"""The one way into the archive (STOW, REST, C-STORE, import): scan, intent, object, fenced commit, acknowledgement."""

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from dicomweb.errors import (
    ArchiveError,
    Conflict,
    CorruptObject,
    IdentityMismatch,
    TooLarge,
    Unavailable,
)
from dicomweb.memo import Memo
from dicomweb.part10 import Scan, scan
from dicomweb.structure import ScanLimits
from dicomweb.uids import OrthancIds
from storage.access import Access
from storage.commit import TRIES, VISIBLE, Committer, Retry
from storage.damage import Damage
from storage.db import Database
from storage.ingest_group import IngestGroup
from storage.ingest_objects import IngestObjects
from storage.intents import Intent
from storage.objects import ObjectStore
from storage.provenance import Provenance
from storage.quota import Quota
from storage.retrieve import Instance
from storage.rows import Prepared
from storage.settings import Settings
from storage.slides import SlideIndex
from storage.spool import Spooled

log = logging.getLogger(__name__)

Status = Literal["stored", "identical", "kept", "replaced"]
_Outcome = Status | Literal["astray"]

# Headers of ordinary images are scanned where they arrive; what is larger goes to a thread, so that no request holds
# the loop.
_QUICK_ELEMENTS = 2_000
_QUICK_INFLATED = 1 << 20
_VERSION_LENGTH = 16


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
    other_patient: bool = False  # than that of its study, under which it is found


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

    def __init__(
        self, settings: Settings, db: Database, objects: ObjectStore, slides: SlideIndex, damage: Damage
    ) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._files = IngestObjects(settings, db, objects, damage)
        self._slides = slides
        self._damage = damage
        self.limits = ScanLimits(
            max_depth=settings.max_depth,
            max_elements=settings.max_elements,
            max_fg_elements=settings.max_fg_elements,
            bulk_threshold=settings.bulk_threshold,
            max_inflated=settings.max_inflated,
            max_inflate_ratio=settings.max_inflate_ratio,
        )
        self._quick_limits = replace(
            self.limits,
            max_elements=min(_QUICK_ELEMENTS, self.limits.max_elements),
            max_fg_elements=min(_QUICK_ELEMENTS, self.limits.max_fg_elements),
            max_inflated=min(_QUICK_INFLATED, self.limits.max_inflated),
        )
        self._memo = Memo()
        self._quota = Quota(settings, db)
        self._committers: dict[int, Committer] = {}
        self._active = 0
        self.counters = IngestCounters()

    async def store(
        self,
        access: Access,
        spooled: Spooled,
        source: Provenance,
        *,
        expect_study: str | None = None,
        overwrite: bool = False,
    ) -> Stored:
        """Store one complete upload and release its spool; with `overwrite` in the place of other bytes.

        Raises BadDicom and TooLarge for what cannot be stored, IdentityMismatch when the study is not `expect_study` or
        the UIDs are stored under other parents, Conflict for other bytes under a stored SOP UID (policy `reject`),
        Unavailable when a retry may succeed.
        """
        access.require("dicom.write")
        self._active += 1
        try:
            stored = await self._store(access, spooled, source, expect_study, overwrite=overwrite)
        except ArchiveError as error:
            self.counters.count(error.slug, 0)
            raise
        finally:
            self._active -= 1
            spooled.release()
        self.counters.count(stored.status, spooled.size)
        return stored

    async def _store(
        self, access: Access, spooled: Spooled, source: Provenance, expect_study: str | None, *, overwrite: bool
    ) -> Stored:
        found = await self.scan(spooled)
        if expect_study is not None and found.study_uid != expect_study:
            raise IdentityMismatch(
                "StudyInstanceUID differs from the study in the request", attribute="StudyInstanceUID"
            )
        await self._quota.admit(access.tenant, spooled.size, found.patient_id)
        intents = self._committer(access.tenant).intents
        reserved = intents.reserved(spooled.size) if spooled.data is not None else None
        key = reserved or intents.new_key()
        prepared = self._prepared(found, spooled, key, source.text(access.principal))
        status = await self._write(access, prepared, spooled, reserved=reserved is not None, overwrite=overwrite)
        if access.labels:  # before it is acknowledged: whoever hears nothing sends again, and labels again
            await self._db.execute("study_label", access.tenant, found.study_uid, access.labels)
        return Stored(
            "stored" if status == "astray" else status,
            found.sop_class_uid,
            found.sop_instance_uid,
            found.study_uid,
            found.series_uid,
            prepared.ids,
            found.warnings,
            status == "astray",
        )

    def _prepared(self, found: Scan, spooled: Spooled, key: str, source: str) -> Prepared:
        inline_max = self._settings.metadata_inline_max
        return Prepared.of(
            found, key=key, size=spooled.size, sha256=spooled.sha256, source=source, inline_max=inline_max
        )

    async def _write(
        self, access: Access, prepared: Prepared, spooled: Spooled, *, reserved: bool, overwrite: bool
    ) -> _Outcome:
        """The object, then its row; neither when this very file is stored already, which turns out before or after."""
        if not reserved:
            intent = Intent(prepared.key, prepared.scan.sop_instance_uid, spooled.sha256, spooled.size)
            stored_key = await self._committer(access.tenant).intents.announce(intent)
            if stored_key is not None:
                return await self._identical(access, prepared, spooled, stored_key)
        await self._files.put(prepared, spooled, named=reserved)
        status, stored_key = await self._commit(access, prepared, overwrite=overwrite)
        if status == "identical" and stored_key is not None:
            return await self._identical(access, prepared, spooled, stored_key)
        if status in VISIBLE:
            await self._describe(access, prepared)
        return status

    async def _describe(self, access: Access, prepared: Prepared) -> None:
        """Describe a tiled image, which is stored by now; where that fails, it is done at the first use."""
        with suppress(ArchiveError):
            await self._slides.describe(access.tenant, prepared.scan, prepared.key, prepared.file_sha256)

    async def scan(self, spooled: Spooled) -> Scan:
        """What a complete upload is. Raises BadDicom, TooLarge."""
        version = spooled.sha256.hex()[:_VERSION_LENGTH]
        buffer = spooled.buffer()
        try:
            if spooled.path is None:
                with suppress(TooLarge):
                    return self._scanned(scan(buffer, self._quick_limits, version=version, memo=self._memo))
            return self._scanned(await asyncio.to_thread(scan, buffer, self.limits, version=version, memo=self._memo))
        finally:
            if not isinstance(buffer, bytes):
                with suppress(BufferError):  # an error's traceback may still hold a view; the map goes with it
                    buffer.close()

    def _scanned(self, result: Scan) -> Scan:
        if result.fallback:
            self.counters.fallbacks[result.fallback] = self.counters.fallbacks.get(result.fallback, 0) + 1
        return result

    async def _identical(self, access: Access, prepared: Prepared, spooled: Spooled, stored_key: str) -> Status:
        """The same file is stored already: success, unless its object is lost or damaged, which these bytes repair."""
        if await self._files.is_there(access, prepared, stored_key):
            return "identical"
        log.error("a stored object was missing or damaged and is being restored from a repeated upload")
        committer = self._committer(access.tenant)
        again = replace(prepared, key=committer.intents.new_key())
        await self._files.put_beside(committer.intents, again, spooled)
        try:
            restored = await committer.restore(again)
        except Retry:
            restored = False
        if not restored:
            committer.forget(prepared.scan.series_uid)
            raise Unavailable("the instance changed while its lost object was being restored; send it again")
        return "identical"

    async def exchange(
        self,
        access: Access,
        spooled: Spooled,
        stored: Instance,
        received_dataset: bytes,
        verify: Callable[[Prepared], Awaitable[None]],
    ) -> bool:
        """Store the image of `stored` in another transfer syntax in its place; its old object goes after the grace.

        `received_dataset` is the digest of the old one's dataset. `verify` is awaited when the new object is durable,
        and raises where it does not hold the same image. False where the instance changed meanwhile. Releases the
        spool. Raises BadDicom for a file that would not be stored, Unavailable when a retry may succeed.
        """
        access.require("dicom.write")
        committer = self._committer(access.tenant)
        try:
            prepared = self._prepared(await self.scan(spooled), spooled, committer.intents.new_key(), "")
            await self._files.put_beside(committer.intents, prepared, spooled)
        finally:
            spooled.release()
        done = False
        try:
            async with self._files.kept([prepared]):
                await verify(prepared)
                start = prepared.scan.meta_size
                digest = await self._files.digest(prepared.key, start, prepared.size - start)
            done = await committer.exchange(prepared, stored.key, received_dataset, digest)
            if done:
                await self._describe(access, prepared)
        finally:
            # Where the outcome is not known, too: the intent tells whether there is anything to renounce.
            if not done:
                await self._files.renounce(prepared)
        return done

    async def restate(self, access: Access, spooled: Spooled, stored: Instance, *, announce: bool) -> bool:
        """Have the row of an instance say what a scan of its file, which is in the spool, says now; releases the spool.

        `announce`: to the readers of the change feed, as if it had been replaced. False where the instance changed
        meanwhile. Raises CorruptObject for a file that is not what was stored, and what storing it would raise.
        """
        access.require("dicom.write")
        committer = self._committer(access.tenant)
        try:
            prepared = self._prepared(await self.scan(spooled), spooled, stored.key, "")
            row = await self._db.fetch_row("instance_to_restate", access.tenant, stored.sop, stored.key)
            if row is None:
                return False
            if row["file_sha256"] != spooled.sha256:
                error = CorruptObject("the object is not what was stored")
                raise self._damage.noted(access.tenant, stored.sop, stored.key, error)
            # Metadata beside an object never change: others take a copy of the object.
            now = prepared.scan.metadata
            same = (row["metadata_crc"], row["metadata_length"]) == (now.crc32, now.length)
            if prepared.metadata_inline == row["side"] or (row["side"] and not same):
                prepared = replace(prepared, key=committer.intents.new_key())
                await self._files.put_beside(committer.intents, prepared, spooled)
        finally:
            spooled.release()
        done = False
        try:
            done = await committer.restate(prepared, stored.key, announce=announce)
            if done:
                await self._describe(access, prepared)
        finally:
            if not done and prepared.key != stored.key:
                await self._files.renounce(prepared)
        return done

    async def store_together(
        self, access: Access, files: AsyncIterable[Spooled], source: Provenance
    ) -> Sequence[OrthancIds]:
        """Store new instances that are one thing: in the end all of them are there, or none. Releases their spools.

        They are at least one, of one patient. Objects first, then all rows in one transaction. Raises as `store`;
        Conflict where one of them is stored already.
        """
        access.require("dicom.write")
        committer, size = self._committer(access.tenant), 0
        group = IngestGroup(self._files, committer)
        async with group.gathered():
            async for spooled in files:
                try:
                    key, text = committer.intents.new_key(), source.text(access.principal)
                    await group.add(self._prepared(await self.scan(spooled), spooled, key, text), spooled)
                    size += spooled.size
                finally:
                    spooled.release()
            await self._quota.admit(access.tenant, size, group.items[0].scan.patient_id)
            await group.commit()
        for prepared in group.items:
            self.counters.count("stored", prepared.size)
            await self._describe(access, prepared)
        for study in {prepared.scan.study_uid for prepared in group.items} if access.labels else ():
            await self._db.execute("study_label", access.tenant, study, access.labels)
        return [prepared.ids for prepared in group.items]

    # -- commits ---------------------------------------------------------------------------------------------------

    def _committer(self, tenant: int) -> Committer:
        if tenant not in self._committers:
            self._committers[tenant] = Committer(self._settings, self._db, self._objects, tenant, lambda: self._active)
        return self._committers[tenant]

    async def _commit(self, access: Access, prepared: Prepared, *, overwrite: bool) -> tuple[_Outcome, str | None]:
        committer = self._committer(access.tenant)
        for attempt in range(TRIES):
            try:
                outcome = await committer.commit(prepared, overwrite=overwrite)
            except Retry:
                await asyncio.sleep(0.01 * attempt)
                continue
            match outcome.name:
                case "stored" | "astray" | "identical" | "kept" | "replaced":
                    return outcome.name, outcome.stored_key
                case "stale":
                    committer.forget(prepared.scan.series_uid)
                case "compare":
                    prepared = await self._compared(access, prepared)
                case "duplicate":
                    raise Conflict("other bytes are stored under this SOPInstanceUID", attribute="SOPInstanceUID")
                case "elsewhere":
                    raise IdentityMismatch(
                        "the SOPInstanceUID or SeriesInstanceUID is stored under another series or study",
                        attribute="SeriesInstanceUID",
                    )
                case _:
                    break
        raise Unavailable("the instance could not be committed in time; send it again")

    async def _compared(self, access: Access, prepared: Prepared) -> Prepared:
        """Both datasets' digests, so that the same image under other file meta is known as the same (C-STORE again)."""
        row = await self._db.fetch_row("instance_to_compare", access.tenant, prepared.scan.sop_instance_uid)
        if row is not None and row["dataset_sha256"] is None:
            key = row["object_key"]
            start = row["object_offset"] + row["meta_size"]
            digest = await self._files.digest(key, start, row["object_size"] - row["meta_size"])
            sop = prepared.scan.sop_instance_uid
            await self._db.execute("set_dataset_digest", access.tenant, sop, key, digest)
        start = prepared.scan.meta_size
        return replace(prepared, dataset_sha256=await self._files.digest(prepared.key, start, prepared.size - start))
