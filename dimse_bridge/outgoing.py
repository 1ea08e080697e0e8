"""Instances as files that a C-STORE can be sent from, the next one made while the one before it is on the wire."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from dicomweb.errors import ArchiveError
from dimse_bridge.logs import log_crash
from dimse_bridge.store import file_meta
from storage.access import Access
from storage.archive import Archive
from storage.retrieve import Instance

# What is made of the next file before its turn comes: what does not fit waits.
_AHEAD: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A Part 10 file: the stored one itself, or a `copy`."""

    path: Path
    copy: IO[bytes] | None = None

    async def close(self) -> None:
        """Remove the copy."""
        if self.copy is not None:
            await asyncio.to_thread(self.copy.close)


class Preparation:
    """An instance that is made ready for a peer, from now on, in one of the transfer syntaxes `accepted`."""

    def __init__(self, archive: Archive, access: Access, instance: Instance, accepted: Collection[str]) -> None:
        self._archive, self._access = archive, access
        self.instance, self.accepted = instance, accepted
        self._turn = asyncio.Event()
        self._task = asyncio.create_task(self._made())

    async def ready(self) -> Outgoing:
        """The whole file, whose turn it is; close it. Raises as `DataSetService.open`."""
        self._turn.set()
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            await self.drop()
            raise

    async def drop(self) -> None:
        """Nobody wants it any more."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._task.cancelled():
            return
        error = self._task.exception()
        if error is None:
            await self._task.result().close()
        elif not isinstance(error, ArchiveError):
            log_crash("send-failed", error)

    async def _made(self) -> Outgoing:
        archive, instance = self._archive, self.instance
        # A deflated data set may be odd in a file, and may not be odd in a message (PS3.5 A.5, PS3.8 annex E.2).
        odd = (instance.size - instance.meta_size) % 2 == 1
        stored = instance.transfer_syntax in self.accepted and not odd
        local = archive.objects.local_path(instance.key) if stored else None
        if local is not None and await asyncio.to_thread(_is_all, local, instance):
            return Outgoing(local)
        target, data = await archive.data_sets.open(self._access, instance, self.accepted)
        head = file_meta(instance.sop_class, instance.sop, target, "")
        archive.objects.spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        copy = tempfile.NamedTemporaryFile(dir=archive.objects.spool_dir, prefix="send-")  # noqa: SIM115 - closed with Outgoing
        try:
            await asyncio.to_thread(copy.write, head)
            async with aclosing(_pieces(data)) as pieces:
                size = 0
                async for piece in pieces:
                    await asyncio.to_thread(copy.write, piece)
                    size += len(piece)
                    if size > _AHEAD:
                        await self._turn.wait()
            await asyncio.to_thread(copy.flush)
        except BaseException:
            copy.close()
            raise
        return Outgoing(Path(copy.name), copy)


async def _pieces(data: bytes | AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    if isinstance(data, bytes):
        yield data
        return
    async with aclosing(data):
        async for piece in data:
            yield piece


def _is_all(path: Path, instance: Instance) -> bool:
    """Whether the file is the instance; then the kernel begins to read it, where it is not in its cache."""
    if instance.base != 0:
        return False
    try:
        with path.open("rb", buffering=0) as file:
            found = os.fstat(file.fileno()).st_size == instance.size
            if found:
                os.posix_fadvise(file.fileno(), 0, min(instance.size, _AHEAD), os.POSIX_FADV_WILLNEED)
    except OSError:
        return False
    return found
