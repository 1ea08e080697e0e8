"""Objects as files of one directory, durable before `put` returns.

Layout: the key `1/20260131/3fa9…` is the file `1/20260131/3/3fa9…`. Sixteen directories a day keep each small (ext4
without large_dir holds about ten million names), and writers wait less for each other's directory lock.
`.spool/` holds uploads; no key starts with a dot.

Any number of processes may use the directory at once: names are random, a link never replaces, and nothing is kept in
memory but which directories exist.
"""

import asyncio
import contextlib
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeVar

from dicomweb.errors import CorruptObject, ObjectMissing, Unavailable
from storage.directory_files import (
    FULL,
    Place,
    adopt_file,
    can_be_unnamed,
    fill_object,
    guarded,
    identity,
    make_directory,
    make_empty,
    remove_stale,
    sync_directory,
    translated,
    unlink_quietly,
    write_object,
)
from storage.file_reads import open_cached, read_cached, read_exactly
from storage.object_counts import ObjectCounts, Operation
from storage.objects import STREAM_CHUNK, Chunk, ObjectInfo, Range, check_key, check_prefix, check_range

T = TypeVar("T")
Listing = tuple[list[str], list[ObjectInfo]]

SPOOL: Final = ".spool"
# More than this is read in a thread even when cached: 0.1-0.2 ms of copying is enough for the event loop.
INLINE_MAX: Final = 1 << 20
WRITERS: Final = 16  # threads mostly wait in fsync; more of them give the journal more to commit at once
READERS: Final = 16
STALE_SECONDS: Final = 86_400
# Objects up to this size get a second chance on a full disk, after a pause (seconds) in which a larger one has failed.
SMALL: Final = 1 << 20
FULL_PAUSE: Final = 0.1
CHECK_SECONDS: Final = 10.0
KNOWN_MAX: Final = 100_000


class DirectoryStore:
    """The ObjectStore of one machine (or of a shared POSIX file system with hard links)."""

    def __init__(self, root: Path, *, unnamed: bool | None = None) -> None:
        """`unnamed`: write to files without a name (O_TMPFILE); by default wherever the file system has them."""
        self.counts = ObjectCounts()
        self._root = str(root.absolute())
        self._spool = Path(self._root, SPOOL)
        self._known: set[str] = set()
        self._known_lock = threading.Lock()
        self._writers = ThreadPoolExecutor(WRITERS, "objects-write")
        self._readers = ThreadPoolExecutor(READERS, "objects-read")
        try:
            make_directory(str(self._spool), "/")
            self._identity = identity(self._root)
            self._place = Place(str(self._spool), can_be_unnamed(self._root) if unnamed is None else unnamed)
            remove_stale(str(self._spool), STALE_SECONDS)
        except OSError as error:
            raise translated(error, "open") from error

    @property
    def spool_dir(self) -> Path:
        """A directory of the same file system: `put_file` of a file in it copies nothing."""
        return self._spool

    # ------------------------------------------------------------------------------------------------ writing

    async def make_names(self, keys: Sequence[str]) -> None:
        """See ObjectStore. Empty files, and one fsync for each directory instead of one for each object."""
        paths = [self._path(key) for key in keys]
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writers, guarded, lambda: self._make_empty(paths), "write")

    def _make_empty(self, paths: Sequence[str]) -> None:
        directories = {os.path.dirname(path) for path in paths}  # noqa: PTH120
        for directory in directories:
            if directory not in self._known:
                self._make(directory)
        for path in paths:
            make_empty(path)
        for directory in directories:
            sync_directory(directory)

    async def put(self, key: str, chunks: Sequence[Chunk], size: int, *, named: bool = False) -> None:
        """See ObjectStore. Costs one thread hop, one write and (ext4) one journal commit shared with other writers."""
        path = self._path(key)
        write = fill_object if named else write_object
        await self._write(path, lambda: write(self._place, path, chunks, size), size)

    async def put_file(self, key: str, path: Path, size: int) -> None:
        """See ObjectStore. A file of another file system is copied."""
        final = self._path(key)
        await self._write(final, lambda: adopt_file(self._place, final, str(path), size), size)

    async def _write(self, path: str, work: Callable[[], None], size: int) -> None:
        write = self._write_if_it_fits if size <= SMALL else self._write_in_directory
        future: Future[None] = self._writers.submit(guarded, lambda: write(path, work), "write")
        try:
            with self.counts.request("write"):
                await asyncio.wrap_future(future)
            self.counts.written += size
        except asyncio.CancelledError:
            # The thread cannot be stopped. Nobody will ever commit this key, so what it wrote goes when it ends.
            if not future.cancelled():
                future.add_done_callback(lambda done: self._forget(done, path))
            raise

    def _write_if_it_fits(self, path: str, work: Callable[[], None]) -> None:
        """Write; once more when the disk is full: a large neighbour that does not fit may have filled it meanwhile."""
        try:
            self._write_in_directory(path, work)
        except OSError as error:
            if error.errno not in FULL:
                raise
            time.sleep(FULL_PAUSE)
            self._write_in_directory(path, work)

    def _write_in_directory(self, path: str, work: Callable[[], None]) -> None:
        directory = os.path.dirname(path)  # noqa: PTH120
        known = directory in self._known
        if not known:
            self._make(directory)
        try:
            work()
        except FileNotFoundError:
            if not known:
                raise
            self._make(directory)  # somebody tidied an empty directory away
            work()

    def _forget(self, done: "Future[None]", path: str) -> None:
        if not done.cancelled() and done.exception() is None:
            unlink_quietly(path)

    def _make(self, directory: str) -> None:
        self._require_root()
        make_directory(directory, self._root)
        with self._known_lock:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known.add(directory)

    async def delete(self, key: str) -> None:
        """See ObjectStore. Durable: a file that came back after a power cut would belong to nobody."""
        path = self._path(key)
        await self._in(self._writers, lambda: self._delete(path), "delete")

    def _delete(self, path: str) -> None:
        try:
            os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            self._require_root()
            return
        sync_directory(os.path.dirname(path))  # noqa: PTH120

    # ------------------------------------------------------------------------------------------------ reading

    async def get(self, key: str) -> bytes:
        """See ObjectStore."""
        path = self._path(key)
        found = await self._in(self._readers, lambda: self._get(path), "read")
        self.counts.read += len(found)
        return found

    def _get(self, path: str) -> bytes:
        fd = self._open(path)
        try:
            return read_exactly(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ObjectStore. One open, one read; no thread when the page cache has the bytes."""
        return (await self.get_ranges(key, ((offset, length),)))[0]

    async def get_ranges(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """See ObjectStore. One open for all; each range is one read: cheaper than cutting pieces from a copy."""
        path = self._path(key)
        for offset, length in ranges:
            check_range(offset, length)
        total = sum(length for _, length in ranges)
        found = self._cached(path, ranges) if total <= INLINE_MAX else None
        if found is None:
            found = await self._in(self._readers, lambda: self._read(path, ranges), "read")
        self.counts.read += total
        return found

    def get_cached(self, key: str, offset: int, length: int) -> bytes | None:
        """See ObjectStore. Up to 1 MiB from the page cache."""
        check_range(offset, length)
        if length > INLINE_MAX:
            return None
        found = self._cached(self._path(key), ((offset, length),))
        if found is None:
            return None
        self.counts.read += length
        return found[0]

    def _cached(self, path: str, ranges: Sequence[Range]) -> list[bytes] | None:
        try:
            fd = open_cached(path)
        except FileNotFoundError:
            return None  # the thread says what is missing: the object, or the whole directory
        if fd is None:
            return None
        try:
            found = []
            for offset, length in ranges:
                data = read_cached(fd, length, offset)
                if data is None:
                    return None
                found.append(data)
            return found
        finally:
            os.close(fd)

    def _read(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        fd = self._open(path)
        try:
            return [_checked(read_exactly(fd, length, offset), length, offset) for offset, length in ranges]
        finally:
            os.close(fd)

    async def stream(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """See ObjectStore. The file stays open in between: a delete meanwhile does not disturb."""
        path = self._path(key)
        check_range(offset, length)
        fd = self._open_if_cached(path)
        if fd is None:
            fd = await self._in(self._readers, lambda: self._open(path), "read")
        opened = fd
        try:
            while length > 0:
                want, position = min(length, STREAM_CHUNK), offset
                data = read_cached(opened, want, position)
                if data is None:
                    data = await self._in(self._readers, lambda: read_exactly(opened, want, position), "read")  # noqa: B023  awaited in place
                    _checked(data, want, position)
                offset += want
                length -= want
                self.counts.read += want
                yield data
        finally:
            os.close(opened)

    def _open_if_cached(self, path: str) -> int | None:
        try:
            return open_cached(path)
        except FileNotFoundError:
            return None

    async def size(self, key: str) -> int:
        """See ObjectStore."""
        path = self._path(key)
        return await self._in(self._readers, lambda: self._stat(path).st_size, "read", "size")

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See ObjectStore. One directory in memory at a time."""
        pending = [check_prefix(prefix).rstrip("/")]
        while pending:
            below = pending.pop()
            directories, found = await self._in(self._readers, lambda: self._scan(below), "list")  # noqa: B023  awaited in place
            pending.extend(sorted(directories, reverse=True))
            for info in found:
                yield info

    def _scan(self, below: str) -> Listing:
        directories: list[str] = []
        found: list[ObjectInfo] = []
        try:
            entries = os.scandir(os.path.join(self._root, below))  # noqa: PTH118
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            return directories, found
        parent = below.rpartition("/")[0]
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    directories.append(f"{below}/{entry.name}" if below else entry.name)
                    continue
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    held = entry.stat(follow_symlinks=False)
                    key = f"{parent}/{entry.name}" if parent else entry.name
                    found.append(ObjectInfo(key, held.st_size, datetime.fromtimestamp(held.st_mtime, UTC)))
        return directories, found

    def local_path(self, key: str) -> Path | None:
        """See ObjectStore. The file may be missing; nothing is checked."""
        return Path(self._path(key))

    # ----------------------------------------------------------------------------------------------- plumbing

    async def check(self) -> None:
        """See ObjectStore."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._in(self._writers, self._probe, "write", "probe")
        except TimeoutError:
            raise Unavailable(f"the object store did not write a probe within {CHECK_SECONDS:.0f} s") from None

    def _probe(self) -> None:
        self._require_root()
        name = self._spool / f"probe-{secrets.token_hex(8)}"
        try:
            name.write_bytes(b"probe")
            if name.read_bytes() != b"probe":
                raise Unavailable("the object store returns other bytes than it was given")
        finally:
            name.unlink(missing_ok=True)

    async def close(self) -> None:
        """See ObjectStore."""
        await asyncio.to_thread(self._writers.shutdown)
        await asyncio.to_thread(self._readers.shutdown)

    def _path(self, key: str) -> str:
        head, _, name = check_key(key).rpartition("/")
        return f"{self._root}/{head}/{name[0]}/{name}" if head else f"{self._root}/{name[0]}/{name}"

    def _open(self, path: str) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            raise ObjectMissing("the object store does not have the object") from None

    def _stat(self, path: str) -> os.stat_result:
        try:
            return os.stat(path)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            raise ObjectMissing("the object store does not have the object") from None

    def _require_root(self) -> None:
        """An unmounted volume must not look like an archive without objects, nor be written beside."""
        try:
            same = identity(self._root) == self._identity
        except OSError:
            same = False
        if not same:
            raise Unavailable("the object store's directory is gone or was replaced (unmounted?)")

    async def _in(
        self,
        pool: ThreadPoolExecutor,
        work: Callable[[], T],
        doing: Literal["write", "read", "delete", "list"],
        operation: Operation | None = None,
    ) -> T:
        """Run `work` in a thread: one request of the store."""
        with self.counts.request(operation or doing):
            return await asyncio.get_running_loop().run_in_executor(pool, guarded, work, doing)


def _checked(data: bytes, length: int, offset: int) -> bytes:
    """Return `data`, or raise CorruptObject when the file ended before `length` bytes."""
    if len(data) != length:
        raise CorruptObject(f"the object ends {length - len(data)} bytes before the end of bytes {offset}+{length}")
    return data
