"""Where an instance waits while its bytes arrive: in memory up to a limit, then in a file beside the object store."""

import asyncio
import hashlib
import mmap
import os
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from dicomweb.errors import TooLarge, Unavailable
from storage.directory_files import FULL, spool_file

_WRITE_SIZE = 1 << 20
_INLINE_DIGEST = 64 << 10
# PS3.10 7.1. Clients that send a dataset from memory (dicomweb-client) leave it out; what is stored is a file.
_PREAMBLE = bytes(128) + b"DICM"


def _lacks_preamble(chunk: bytes | memoryview) -> bool:
    """Whether an upload begins with the file meta group itself."""
    return bytes(chunk[:2]) == b"\x02\x00" and bytes(chunk[128:132]) != b"DICM"


@dataclass(frozen=True, slots=True)
class Spooled:
    """A complete upload: exactly one of `data` and `path` is set."""

    size: int
    sha256: bytes
    data: bytes | None
    path: Path | None
    lock: BinaryIO | None = None  # keeps the file: one that nobody locks is left from a process that died

    def buffer(self) -> bytes | mmap.mmap:
        """The contiguous bytes: the data themselves, or a read-only map of the file."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        if self.size == 0:
            return b""
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        mapped.madvise(mmap.MADV_RANDOM)
        return mapped

    async def chunks(self, size: int) -> AsyncIterator[bytes]:
        """The bytes in pieces of `size` at most."""
        if self.path is None:
            assert self.data is not None
            for at in range(0, self.size, size):
                yield self.data[at : at + size]
            return
        with self.path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, size):
                yield chunk

    def release(self) -> None:
        """Remove the file, if there is one and it was not taken over."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        if self.lock is not None:
            self.lock.close()


class Spool:
    """Collects one instance: `write` every chunk, then `finish`, or `discard`. The digest is computed on the way.

    With `eager` each chunk that stays in memory is digested when it comes: for a sender that waits for each answer,
    and is sending meanwhile. Else that is done in a thread at the end. `raw`: any bytes, to which no preamble is added.
    `limit`: the setting that `max_size` comes from, which an error names.
    """

    def __init__(
        self,
        directory: Path,
        *,
        memory_limit: int,
        max_size: int,
        limit: str = "max_instance",
        eager: bool = False,
        raw: bool = False,
    ) -> None:
        self._raw = raw
        self._directory = directory
        self._memory_limit = memory_limit
        self._max_size = max_size
        self._limit = limit
        self._chunks: list[bytes | memoryview] = []
        self._pending = 0
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._sha = hashlib.sha256()
        self._eager = eager
        self._digested = 0  # of the chunks
        self.size = 0
        self.preamble_added = False

    def write_now(self, chunk: bytes | memoryview) -> bool:
        """Take a chunk without waiting; False when `flush` is due (the memory limit is reached). Raises TooLarge."""
        if self.size == 0 and not self._raw and _lacks_preamble(chunk):
            self.write_now(_PREAMBLE)
            self.preamble_added = True
        length = len(chunk)
        if self.size + length > self._max_size:
            what = "file" if self._raw else "instance"
            raise TooLarge(f"the {what} is larger than {self._max_size} bytes ({self._limit})")
        self.size += length
        self._chunks.append(chunk)
        self._pending += length
        if self._eager and self._file is None:
            self._sha.update(chunk)
            self._digested += 1
        return self._pending < (self._memory_limit if self._file is None else _WRITE_SIZE)

    async def write(self, chunk: bytes | memoryview) -> None:
        """Take a chunk; large uploads go to disk in threads. Raises TooLarge, and Unavailable when the disk is full."""
        if not self.write_now(chunk):
            await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._path, self._file = spool_file(self._directory)
            for chunk in self._chunks[self._digested :]:
                self._sha.update(chunk)
            self._digested = 0
            while self._chunks:
                written = os.writev(self._file.fileno(), self._chunks[:512])
                self._drop(written)
        except OSError as error:
            self.discard()
            full: Literal["", "full"] = "full" if error.errno in FULL else ""
            raise Unavailable(f"the spool disk refused the upload ({error.strerror})", reason=full) from error

    def _drop(self, written: int) -> None:
        self._pending -= written
        count = 0
        for chunk in self._chunks:
            if written < len(chunk):
                break
            written -= len(chunk)
            count += 1
        del self._chunks[:count]
        if written:
            self._chunks[0] = memoryview(self._chunks[0])[written:]

    async def finish(self) -> Spooled:
        """No more bytes: the complete upload."""
        path, data, lock = None, None, None
        if self._file is not None:
            await asyncio.to_thread(self._flush)
            path, lock = self._path, self._file
        elif len(self._chunks) == 1 and isinstance(self._chunks[0], bytes):
            data = self._chunks[0]
        else:
            data = b"".join(self._chunks)
        if data is not None and not self._eager:
            # A digest costs as much as everything else together: of large instances it is computed off the loop.
            await asyncio.to_thread(self._sha.update, data) if self.size > _INLINE_DIGEST else self._sha.update(data)
        self._chunks, self._file, self._path = [], None, None
        return Spooled(self.size, self._sha.digest(), data, path, lock)

    async def collect(self, chunks: AsyncIterable[bytes]) -> Spooled:
        """All that comes, and no more: the complete upload. Nothing is left where it breaks off."""
        try:
            async for chunk in chunks:
                await self.write(chunk)
            return await self.finish()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Forget everything; removes the file. Safe to call at any time, also after `finish`."""
        self._chunks, self._pending = [], 0
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._path = None
