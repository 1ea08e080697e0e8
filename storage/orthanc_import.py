"""Migration from another archive that speaks Orthanc's REST API: instances, and what clients added to resources."""

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal

from dicomweb.errors import ArchiveError, BadRequest, Conflict, Unavailable
from dicomweb.tags import Level
from storage.access import LOCAL
from storage.archive import Archive
from storage.db import Record
from storage.importer import Failure, ImportProgress
from storage.modalities import Modality
from storage.orthanc_arrival import provenance
from storage.orthanc_connection import SourceDown, SourceError, SourceFails, SourceGone, SourceRefuses
from storage.orthanc_extras import Extra, Extras
from storage.orthanc_listing import PAGE, changed, listed
from storage.orthanc_source import Found, OrthancSource
from storage.remotes import Declaration, Kind
from storage.resource import spelled
from storage.spool import Spooled

log = logging.getLogger(__name__)

_MAX_FAILURES: Final = 1000  # described one by one; more are counted
_TRIES: Final = 4
_GIVE_UP_AFTER: Final = 20  # resources in a row for which source or archive were not there, each tried again
_PROGRESS_SECONDS: Final = 0.1
_REMOTES: Final[tuple[tuple[Kind, str], ...]] = (("peer", "/peers"), ("dicomweb", "/dicom-web/servers"))
_SECRET: Final = ("HttpHeaders", "CertificateFile", "CertificateKeyFile", "CertificateKeyPassword")
_OTHER_BYTES: Final = "other bytes are stored here under this SOPInstanceUID"

Outcome = Literal["stored", "identical", "verified", "replaced", "gone", "failed"]
_Item = tuple[Found, Record | None, bool]  # the second: an instance's row here; the third: whether to compare it


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What became of the source's instances, how much was copied beside them, and what was not.

    `identical` were here already, `verified` were compared, too; `gone` were deleted at the source meanwhile.
    `problems` counts what failed beside instances: a label, a value, an attachment, a modality.
    """

    instances: Mapping[Outcome, int]
    extras: Mapping[Extra, int]
    problems: int
    bytes: int
    seconds: float
    failures: tuple[Failure, ...]  # the first thousand
    stopped: str = ""  # why the migration ended before its end

    @property
    def exit_code(self) -> int:
        """0 when everything that the source has is here now, else 1."""
        return 1 if self.instances.get("failed") or self.problems or self.stopped else 0


@dataclass(slots=True)
class _Counts:
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    extras: Counter[Extra] = field(default_factory=Counter)
    problems: int = 0
    bytes: int = 0
    total: int = 0
    down: int = 0  # resources in a row that source or archive were not there for
    failures: list[Failure] = field(default_factory=list)


class _Migration:
    """One run: a lister, a bounded queue, and `jobs` tasks that copy."""

    def __init__(
        self,
        archive: Archive,
        source: OrthancSource,
        *,
        verify: bool,
        page: int,
        progress: Callable[[ImportProgress], None] | None,
    ) -> None:
        self._archive = archive
        self._source = source
        self._verify = verify
        self._page = page
        self._progress = progress
        self._count = _Counts()
        self._shown = 0.0
        self._stopped = ""
        self._extras = Extras(archive, source, self._copied, self._failed)

    async def run(
        self,
        jobs: int,
        modality: Callable[[str, Any], Modality],
        remote: Callable[[Kind, str, Any], Declaration],
    ) -> MigrationReport:
        started = time.monotonic()
        queue: asyncio.Queue[_Item] = asyncio.Queue(maxsize=4 * jobs)
        async with asyncio.TaskGroup() as tasks:
            workers = [tasks.create_task(self._work(queue)) for _ in range(jobs)]
            try:
                await self._modalities(modality)
                await self._remotes(remote)
                await self._walk(queue)
            except SourceError as error:
                self._stopped = self._stopped or error.why
            except Unavailable as error:
                self._stopped = self._stopped or f"the archive is not available: {error.message}"
            await queue.join()
            for worker in workers:
                worker.cancel()
        self._show(final=True)
        count = self._count
        return MigrationReport(
            instances=count.outcomes,
            extras=count.extras,
            problems=count.problems,
            bytes=count.bytes,
            seconds=time.monotonic() - started,
            failures=tuple(count.failures),
            stopped=self._stopped,
        )

    async def _walk(self, queue: asyncio.Queue[_Item]) -> None:
        """Instances first, so that their parents are here when it is their turn; then what changed meanwhile."""
        since = await self._source.last_change()
        self._count.total = await self._source.count()
        for level in reversed(Level):
            async for page in listed(self._source, level, self._page):
                await self._enqueue(queue, page, verify=self._verify)
                if self._stopped:
                    return
            await queue.join()
        async for page in changed(self._source, since):
            for level in reversed(Level):
                await self._enqueue(queue, [each for each in page if each.level is level], verify=True)
                await queue.join()
            if self._stopped:
                return

    async def _enqueue(self, queue: asyncio.Queue[_Item], page: Sequence[Found], *, verify: bool) -> None:
        uids = [each.uid for each in page if each.level is Level.INSTANCE]
        rows = await self._archive.db.fetch("instances_known", LOCAL.tenant, uids) if uids else []
        # Orthanc can hold a UID twice, for two patients: the other one is for the ingest to judge.
        known = {spelled(row["orthanc_id"]): row for row in rows}
        for each in page:
            await queue.put((each, known.get(each.id), verify))

    async def _work(self, queue: asyncio.Queue[_Item]) -> None:
        while True:
            found, known, verify = await queue.get()
            try:
                if not self._stopped:
                    await self._copy(found, known, verify=verify)
            finally:
                queue.task_done()

    async def _copy(self, found: Found, known: Record | None, *, verify: bool) -> None:
        if found.level is Level.INSTANCE:
            match await self._tried(found, lambda: self._instance(found, known, verify=verify)):
                case "gone":
                    self._done("gone")
                    return
                case "failed":
                    return
                case "done":
                    pass
        await self._tried(found, lambda: self._extras.copy(found))

    async def _tried(self, found: Found, work: Callable[[], Awaitable[None]]) -> Literal["done", "gone", "failed"]:
        """Do it, again where source or archive are not there for the moment; never raises for one resource."""
        for attempt in range(_TRIES):
            try:
                await work()
            except SourceGone:
                return "gone"
            except SourceRefuses as error:
                self._stopped = error.why
                return "failed"
            except (SourceDown, Unavailable) as error:
                if attempt < _TRIES - 1:
                    await asyncio.sleep(0.25 * 4**attempt)
                    continue
                self._lost(found, str(error))
                if not isinstance(error, SourceFails):
                    self._not_there(str(error))
            except (ArchiveError, SourceError, OSError) as error:
                self._lost(found, str(error))
            except Exception as error:
                log.exception("migration of one resource failed")
                self._lost(found, f"internal error ({type(error).__name__})")
            else:
                self._count.down = 0
                return "done"
            return "failed"
        raise AssertionError("unreachable")

    # -- instances

    async def _instance(self, found: Found, known: Record | None, *, verify: bool) -> None:
        if known is None:
            self._done(await self._store(found, await self._fetch(found)))
        elif verify:
            self._done(await self._verified(found, known))
        else:
            self._done("identical")

    async def _store(self, found: Found, spooled: Spooled) -> Outcome:
        size = spooled.size
        try:
            arrival = await self._source.arrival_of(found)
        except BaseException:
            spooled.release()
            raise
        came = provenance(arrival, self._source.host, datetime.now(UTC))
        try:
            stored = await self._archive.ingest.store(LOCAL, spooled, came)
        except Conflict:
            raise BadRequest(_OTHER_BYTES) from None
        if stored.status == "kept":
            raise BadRequest(_OTHER_BYTES)
        self._count.bytes += size
        return stored.status

    async def _fetch(self, found: Found) -> Spooled:
        spool = self._archive.new_spool()
        async with self._source.content(found) as chunks:
            spooled = await spool.collect(chunks)
        if found.size is not None and spool.size != found.size and not spool.preamble_added:
            spooled.release()
            raise SourceFails(f"{spool.size} bytes came, but the source says that there are {found.size}")
        return spooled

    async def _verified(self, found: Found, known: Record) -> Outcome:
        """Read what is stored and compare it with the source: by MD5, or where that says nothing with the bytes."""
        sha256, md5 = await self._digests(known)
        if sha256 != known["file_sha256"]:
            raise BadRequest("the stored object is damaged here: see `anor fsck --deep`")
        if md5 == (found.md5 or await self._source.md5(found, "dicom")):
            return "verified"
        spooled = await self._fetch(found)
        if spooled.sha256 == sha256:
            spooled.release()
            return "verified"
        # The same image in another transfer syntax, by a rule, is told from another one by the one ingest.
        outcome = await self._store(found, spooled)
        return "verified" if outcome == "identical" else outcome

    async def _digests(self, known: Record) -> tuple[bytes, str]:
        """SHA-256 and MD5 of a stored file."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        place = known["object_key"], known["object_offset"], known["object_size"]
        async for chunk in self._archive.objects.stream(*place):
            await asyncio.to_thread(_update, chunk, (sha256, md5))
        return sha256.digest(), md5.hexdigest()

    # -- modalities

    async def _modalities(self, modality: Callable[[str, Any], Modality]) -> None:
        """Declare those that are not known here by name."""
        known = {each.name for each in await self._archive.modalities.list(LOCAL)}
        for name, told in (await self._source.modalities()).items():
            if name in known:
                continue
            try:
                await self._archive.modalities.put(LOCAL, modality(name, told))
            except ArchiveError as error:
                self._failed(f"/modalities/{name}", error.message)
            else:
                self._copied("modalities")

    # -- other servers

    async def _remotes(self, remote: Callable[[Kind, str, Any], Declaration]) -> None:
        """Declare peers and DICOMweb servers that are not known here by name; passwords are not told by the source."""
        for kind, path in _REMOTES:
            known = {each.name for each in await self._archive.remotes.list(LOCAL, kind)}
            for name, told in (await self._source.remotes(path)).items():
                if name not in known:
                    await self._remote(f"{path}/{name}", told, partial(remote, kind, name))

    async def _remote(self, path: str, told: Any, declared: Callable[[Any], Declaration]) -> None:
        said: Mapping[str, Any] = told if isinstance(told, dict) else {}
        secret = [name for name in _SECRET if said.get(name)]
        secret += ["Password"] if said.get("Username") else []
        given = {name: value for name, value in said.items() if name not in (*_SECRET, "Password")}
        try:
            await self._archive.remotes.put(LOCAL, declared(given))
        except ArchiveError as error:
            self._failed(path, error.message)
            return
        self._copied("remotes")
        if secret:
            self._failed(
                path, f"declared without {', '.join(secret)}, which the source does not tell: declare it again"
            )

    # -- counting

    def _copied(self, extra: Extra) -> None:
        self._count.extras[extra] += 1

    def _done(self, outcome: Outcome) -> None:
        self._count.outcomes[outcome] += 1
        self._show()

    def _lost(self, found: Found, reason: str) -> None:
        if found.level is Level.INSTANCE:
            self._count.outcomes["failed"] += 1
            self._note(found.path, reason)
            self._show()
        else:
            self._failed(found.path, reason)

    def _failed(self, path: str, reason: str) -> None:
        self._count.problems += 1
        self._note(path, reason)

    def _note(self, path: str, reason: str) -> None:
        if len(self._count.failures) < _MAX_FAILURES:
            self._count.failures.append(Failure(path, reason))

    def _not_there(self, reason: str) -> None:
        self._count.down += 1
        if self._count.down >= _GIVE_UP_AFTER:
            self._stopped = reason

    def _show(self, *, final: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or not (final or now - self._shown >= _PROGRESS_SECONDS):
            return
        self._shown = now
        outcomes, done = self._count.outcomes, self._count.outcomes.total()
        self._progress(
            ImportProgress(
                found=max(done, self._count.total),
                complete=True,
                done=done,
                stored=outcomes["stored"] + outcomes["replaced"],
                identical=outcomes["identical"] + outcomes["verified"],
                skipped=outcomes["gone"],
                failed=outcomes["failed"],
                bytes=self._count.bytes,
            )
        )


def _update(chunk: bytes, digests: Sequence["hashlib._Hash"]) -> None:
    for digest in digests:
        digest.update(chunk)


async def run_orthanc_import(
    archive: Archive,
    source: OrthancSource,
    modality: Callable[[str, Any], Modality],
    remote: Callable[[Kind, str, Any], Declaration],
    *,
    jobs: int = 8,
    verify: bool = False,
    page: int = PAGE,
    progress: Callable[[ImportProgress], None] | None = None,
) -> MigrationReport:
    """Copy what a source has: instances, labels, metadata and attachments of clients, protection, other servers.

    `modality` makes one of its name and the source's description, `remote` a peer or DICOMweb server. `verify`:
    instances that are here already are compared. `progress` as in `run_import`. Nothing is copied twice, so that a run
    continues one that ended. What differs from the source is set to the source's value; nothing is deleted here.
    Memory: `jobs` times the spool's limit, and two pages of the source's list. Never raises for what a single resource
    is.
    """
    copy = _Migration(archive, source, verify=verify, page=page, progress=progress)
    return await copy.run(max(1, jobs), modality, remote)
