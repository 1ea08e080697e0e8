"""The files of a converted slide into the archive."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from storage.access import Access
from storage.archive import Archive
from storage.provenance import Provenance

_CHUNK: Final = 1 << 20


async def store_files(archive: Archive, access: Access, files: Sequence[Path]) -> int:
    """Store the instances, the coarsest level first, so that a viewer has something to show; how many were new.

    Repeating it after an interruption stores nothing twice. Raises ArchiveError.
    """
    new = 0
    for path in reversed(files):
        spool = archive.new_spool()
        try:
            with path.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, _CHUNK):
                    await spool.write(chunk)
            stored = await archive.ingest.store(access, await spool.finish(), Provenance(kind="import"))
        finally:
            spool.discard()
        new += stored.status in ("stored", "replaced")
        path.unlink()
    return new
