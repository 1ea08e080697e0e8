"""Which instance an upload was that could not be stored.

FailedSOPSequence and Orthanc's `AlreadyStored` have to name it, and an error does not carry it.
"""

import asyncio
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dicomweb.part10 import Identifiers, identifiers
from storage.spool import Spooled


@contextmanager
def readable(spooled: Spooled) -> Iterator[bytes | mmap.mmap]:
    """The upload's bytes, readable also after `ingest.store` has moved or removed its file: a map keeps them."""
    buffer = spooled.buffer()
    try:
        yield buffer
    finally:
        if isinstance(buffer, mmap.mmap):
            with suppress(BufferError):  # an error's traceback may still hold a view; the map goes with it
                buffer.close()


async def identity_of(buffer: bytes | mmap.mmap) -> Identifiers:
    """The identifiers in a file that was refused: in a thread, because what was wrong with it may be its size."""
    return await asyncio.to_thread(identifiers, buffer)
