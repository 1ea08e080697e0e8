"""Import of files, folders and ZIP files: found in order, read and stored in parallel, safe to run again."""

import asyncio
import logging
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Final, Literal

from dicomweb.errors import ArchiveError, Unavailable
from dicomweb.meta import is_dicom, is_dicomdir
from storage.access import LOCAL
from storage.archive import Archive
from storage.provenance import Provenance
from storage.spool import Spool
from storage.zip_members import MEMBER_ERRORS, SIGNATURES, Member, ZipLimits, ZipMembers

log = logging.getLogger(__name__)

_CHUNK: Final = 4 << 20
_HEAD: Final = 1024
_MAX_FAILURES: Final = 1000  # described one by one; more are counted
_TRIES: Final = 4
_GIVE_UP_AFTER: Final = 20  # files in a row that the archive could not take although each was tried again
_PROGRESS_SECONDS: Final = 0.1

Outcome = Literal["stored", "identical", "kept", "replaced", "skipped", "dicomdir", "failed"]


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """Where a running import stands; `found` grows until `complete`."""

    found: int
    complete: bool
    done: int
    stored: int
    identical: int
    skipped: int
    failed: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A file (`folder/file`, or `file.zip!member`) that was not imported, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of all files; `skipped` are not DICOM, `dicomdirs` are indexes of media and hold no images."""

    stored: int
    identical: int
    kept: int
    replaced: int
    skipped: int
    dicomdirs: int
    failed: int
    bytes: int
    seconds: float
    failures: tuple[Failure, ...]  # the first thousand
    stopped: str = ""  # why the import ended before its end

    @property
    def exit_code(self) -> int:
        """0 when everything that is DICOM is in the archive now, else 1."""
        return 1 if self.failed or self.stopped else 0


class _Zip:
    """An open ZIP file that closes when its last member was read."""

    def __init__(self, members: ZipMembers) -> None:
        self.members = members
        self._lock = threading.Lock()
        self._users = 1  # the finder

    def take(self) -> None:
        with self._lock:
            self._users += 1

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self.members.close()


@dataclass(frozen=True, slots=True)
class _Found:
    """One candidate: a file, a member of a ZIP file, or something that could not be opened (`problem`)."""

    name: str
    path: Path
    problem: str = ""
    archive: _Zip | None = None
    member: Member | None = None

    def open(self) -> IO[bytes]:
        if self.archive is not None and self.member is not None:
            return self.archive.members.open(self.member)
        return self.path.open("rb", buffering=0)

    def release(self) -> None:
        if self.archive is not None:
            self.archive.give_back()


def _reason(error: BaseException) -> str:
    if isinstance(error, ArchiveError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _walk(folder: Path) -> Iterator[_Found]:
    """Every regular file below, sorted; links to folders are followed once, so loops end."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            yield _Found(str(current), current, _reason(error))
            continue
        folders = []
        for name in names:
            path = current / name
            try:
                mode = path.stat().st_mode
            except OSError as error:
                yield _Found(str(path), path, _reason(error))
                continue
            if stat.S_ISDIR(mode):
                folders.append(path)
            elif stat.S_ISREG(mode):  # never a pipe or a device
                yield from _file(path, named=False)
        waiting.extend(reversed(folders))


def _file(path: Path, *, named: bool) -> Iterator[_Found]:
    """The file itself, or the members of a ZIP file: by its suffix, or by its content where the caller named it."""
    try:
        if named or path.suffix.lower() == ".zip":
            with path.open("rb") as file:
                if file.read(4) in SIGNATURES:
                    yield from _zip(path)
                    return
    except OSError as error:
        yield _Found(str(path), path, _reason(error))
        return
    yield _Found(str(path), path)


def _zip(path: Path) -> Iterator[_Found]:
    try:
        opened = _Zip(ZipMembers(path, ZipLimits()))
    except (ArchiveError, OSError) as error:
        yield _Found(str(path), path, _reason(error))
        return
    try:
        for member in opened.members:
            opened.take()
            yield _Found(f"{path}!{member.name}", path, member.refused, opened, member)
    finally:
        opened.give_back()


def find(paths: Sequence[Path]) -> Iterator[_Found]:
    """All candidates below `paths`, in order. Blocks on the file system; for a thread."""
    for path in paths:
        try:
            is_folder = path.is_dir()
        except OSError as error:
            yield _Found(str(path), path, _reason(error))
            continue
        yield from _walk(path) if is_folder else _file(path, named=True)


def _kind(head: bytes, name: str) -> Literal["dicom", "dicomdir", "zip", "other"]:
    """What a file is, from its first bytes."""
    if not is_dicom(head):
        return "zip" if head[:4] in SIGNATURES and name.lower().endswith(".zip") else "other"
    return "dicomdir" if is_dicomdir(head) else "dicom"


class _Reading:
    """One candidate on its way into a spool; the methods block, for threads."""

    def __init__(self, candidate: _Found, spool: Spool) -> None:
        self.complete = False
        self._candidate = candidate
        self._spool = spool
        self._reader: IO[bytes] | None = None

    def begin(self) -> Literal["dicom", "dicomdir", "zip", "other"]:
        """Open it, see what it is, and read on if it is DICOM."""
        self._reader = self._candidate.open()
        head = self._reader.read(_HEAD)
        kind = _kind(head, self._candidate.name)
        if kind == "dicom":
            self._spool.write_now(head)
            self.fill()
        return kind

    def fill(self) -> None:
        """Read until the end, then it is `complete`, or until the spool has to write to its file first."""
        assert self._reader is not None
        while chunk := self._reader.read(_CHUNK):
            if not self._spool.write_now(chunk):
                return
        self.complete = True

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            with suppress(*MEMBER_ERRORS):
                self._reader.close()


class _Import:
    """One run: a finder, a bounded queue, and `jobs` tasks that read and store."""

    def __init__(self, archive: Archive, progress: Callable[[ImportProgress], None] | None) -> None:
        self._archive = archive
        self._progress = progress
        self._counts: Counter[Outcome] = Counter()
        self._found = 0
        self._complete = False
        self._bytes = 0
        self._failures: list[Failure] = []
        self._unavailable = 0
        self._shown = 0.0
        self.stopped = ""

    async def run(self, paths: Sequence[Path], jobs: int) -> ImportReport:
        started = time.monotonic()
        queue: asyncio.Queue[_Found | None] = asyncio.Queue(maxsize=4 * jobs)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._find(paths, queue, jobs))
            for _ in range(jobs):
                tasks.create_task(self._work(queue))
        self._show(final=True)
        count = self._counts
        return ImportReport(
            stored=count["stored"],
            identical=count["identical"],
            kept=count["kept"],
            replaced=count["replaced"],
            skipped=count["skipped"],
            dicomdirs=count["dicomdir"],
            failed=count["failed"],
            bytes=self._bytes,
            seconds=time.monotonic() - started,
            failures=tuple(self._failures),
            stopped=self.stopped,
        )

    async def _find(self, paths: Sequence[Path], queue: asyncio.Queue[_Found | None], jobs: int) -> None:
        candidates = find(paths)
        while not self.stopped and (batch := await asyncio.to_thread(lambda: list(islice(candidates, 64)))):
            self._found += len(batch)
            for candidate in batch:
                await queue.put(candidate)
        self._complete = True
        for _ in range(jobs):
            await queue.put(None)

    async def _work(self, queue: asyncio.Queue[_Found | None]) -> None:
        while (candidate := await queue.get()) is not None:
            try:
                if not self.stopped:
                    self._count(candidate, *await self._import(candidate))
            finally:
                candidate.release()

    async def _import(self, candidate: _Found) -> tuple[Outcome, str]:
        if candidate.problem:
            return "failed", candidate.problem
        for attempt in range(_TRIES):
            try:
                outcome = await self._store(candidate)
            except Unavailable as error:
                if attempt == _TRIES - 1:
                    self._give_up(error.message)
                    return "failed", error.message
                await asyncio.sleep(0.25 * 4**attempt)
            except (ArchiveError, *MEMBER_ERRORS) as error:
                return "failed", _reason(error)
            except Exception as error:
                log.exception("import of one file failed")
                return "failed", f"internal error ({type(error).__name__})"
            else:
                self._unavailable = 0
                return outcome
        raise AssertionError("unreachable")

    async def _store(self, candidate: _Found) -> tuple[Outcome, str]:
        spool = self._archive.new_spool()
        reading = _Reading(candidate, spool)
        try:
            match await asyncio.to_thread(reading.begin):
                case "other":
                    return "skipped", ""
                case "dicomdir":
                    return "dicomdir", ""
                case "zip":
                    return "failed", "a ZIP file inside a ZIP file is not opened"
                case "dicom":
                    pass
            while not reading.complete:
                await spool.write(b"")
                await asyncio.to_thread(reading.fill)
            stored = await self._archive.ingest.store(LOCAL, await spool.finish(), Provenance(kind="import"))
            self._bytes += spool.size
            return stored.status, ""
        finally:
            spool.discard()
            reading.close()

    def _count(self, candidate: _Found, outcome: Outcome, reason: str) -> None:
        self._counts[outcome] += 1
        if outcome == "failed" and len(self._failures) < _MAX_FAILURES:
            self._failures.append(Failure(candidate.name, reason))
        self._show()

    def _give_up(self, reason: str) -> None:
        self._unavailable += 1
        if self._unavailable >= _GIVE_UP_AFTER:
            self.stopped = f"the archive is not available: {reason}"

    def _show(self, *, final: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or not (final or now - self._shown >= _PROGRESS_SECONDS):
            return
        self._shown = now
        count = self._counts
        self._progress(
            ImportProgress(
                found=self._found,
                complete=self._complete,
                done=count.total(),
                stored=count["stored"] + count["replaced"],
                identical=count["identical"] + count["kept"],
                skipped=count["skipped"] + count["dicomdir"],
                failed=count["failed"],
                bytes=self._bytes,
            )
        )


async def run_import(
    archive: Archive,
    paths: Sequence[Path],
    *,
    jobs: int = 8,
    progress: Callable[[ImportProgress], None] | None = None,
) -> ImportReport:
    """Store every DICOM file below `paths` (files, folders, ZIP files); never raises for what a single file contains.

    `progress` is called on the event loop, ten times a second at most and once at the end. Running it again stores
    nothing twice: what is there already is counted as `identical`. Memory: `jobs` times the spool's limit.
    """
    return await _Import(archive, progress).run(paths, max(1, jobs))
