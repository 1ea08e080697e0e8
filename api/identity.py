"""Which instance an upload was that could not be stored.

FailedSOPSequence and Orthanc's `AlreadyStored` have to name it, and an error does not carry it.
"""

import asyncio
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from dicomweb.errors import ArchiveError
from dicomweb.part10 import scan
from dicomweb.uids import OrthancIds, orthanc_ids
from storage.spool import Spooled


@dataclass(frozen=True, slots=True)
class Identity:
    """The identifiers of one instance."""

    sop_class: str
    sop_instance: str
    study: str
    series: str
    orthanc: OrthancIds


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


async def identity_of(buffer: bytes | mmap.mmap) -> Identity | None:
    """The identifiers in a file that was refused, or None when it cannot be read. A large file is read in a thread."""
    try:
        found = scan(buffer) if isinstance(buffer, bytes) else await asyncio.to_thread(scan, buffer)
    except ArchiveError:
        return None
    return Identity(
        found.sop_class_uid,
        found.sop_instance_uid,
        found.study_uid,
        found.series_uid,
        orthanc_ids(found.patient_id, found.study_uid, found.series_uid, found.sop_instance_uid),
    )
