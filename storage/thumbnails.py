"""Finished thumbnails: in memory, and in a bounded directory that all workers of a machine share."""

import asyncio
import os
import time
import zlib
from collections import Counter
from collections.abc import Hashable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

from storage.cache import AnswerCache

_MEMORY: Final = 8 << 20
_CHECK: Final = 4
# A file that is read again is young again, but not at every read.
_REFRESH: Final = 3600.0
# What is left after a sweep, and what one process writes between two sweeps, as parts of the limit.
_KEEP: Final = 7 / 8
_SWEEP: Final = 1 / 16
# One thumbnail may take this part of the store.
_LARGEST: Final = 1 / 64


class ThumbnailStore:
    """A cache of files named by their content's key, least recently used first to go.

    Every file ends with a check sum: nothing is synced to disk, and after a loss of power a file may hold anything.
    Workers delete without telling each other; the directory may exceed its `limit` (bytes; 0 keeps nothing) by what
    they write between two sweeps, a sixteenth each.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._memory = AnswerCache(_MEMORY)
        self._unswept = limit  # the first file of a process finds what earlier ones left
        self._lock = asyncio.Lock()
        self.use: Counter[str] = Counter()

    async def get(self, key: Hashable) -> bytes | None:
        """The thumbnail of exactly this key."""
        held = self._memory.get(key, 0)
        if held is not None:
            self.use["memory"] += 1
            return held[0]
        data = await asyncio.to_thread(self._read, self._path(key)) if self._limit else None
        if data is not None:
            self._memory.put(key, 0, (data,))
        self.use["miss" if data is None else "disk"] += 1
        return data

    async def put(self, key: Hashable, data: bytes) -> None:
        """Keep a thumbnail. A disk that is full or broken is no error: it will be made again."""
        self._memory.put(key, 0, (data,))
        if len(data) > self._limit * _LARGEST:
            return
        with suppress(OSError):
            await asyncio.to_thread(_write, self._path(key), data)
        self._unswept += len(data)
        if self._unswept > self._limit * _SWEEP and not self._lock.locked():
            async with self._lock:
                self._unswept = 0
                await asyncio.to_thread(self.sweep)

    def _path(self, key: Hashable) -> Path:
        name = blake2b(repr(key).encode(), digest_size=20).hexdigest()
        return self._directory / name[:2] / name[2:]

    def _read(self, path: Path) -> bytes | None:
        try:
            data = path.read_bytes()
            if time.time() - path.stat().st_mtime > _REFRESH:
                os.utime(path)
        except OSError:
            return None
        body = data[:-_CHECK]
        if data[-_CHECK:] == zlib.crc32(body).to_bytes(_CHECK, "big"):
            return body
        path.unlink(missing_ok=True)
        return None

    def sweep(self) -> None:
        """Delete the files that were not used for the longest time, down to seven eighths of the limit."""
        found: list[tuple[float, int, Path]] = []
        for path in self._directory.glob("*/*"):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= self._limit:
            return
        for _, size, path in sorted(found):
            if total <= self._limit * _KEEP:
                return
            with suppress(OSError):
                path.unlink()
            total -= size


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        partial.write_bytes(data + zlib.crc32(data).to_bytes(_CHECK, "big"))
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
