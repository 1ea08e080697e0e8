"""Jobs that write archives and media, which are then kept for whoever asked for them."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from dicomweb.errors import TooLarge
from dicomweb.pixels.encode import Quality
from storage.access import SCOPES, Access
from storage.archive import Archive
from storage.archives import Kind
from storage.directory_files import translated
from storage.job_items import job_items
from storage.jobs import Claimed, Done, Handler, Progress
from storage.zipped import Packing

ARCHIVE: Final = "Archive"
MEDIA: Final = "Media"
KINDS: Final = frozenset((ARCHIVE, MEDIA))

_MIB: Final = 1 << 20


def handlers(archive: Archive) -> Mapping[str, Handler]:
    """The kinds of jobs that are worked on here."""
    return {kind: partial(run, archive) for kind in (ARCHIVE, MEDIA)}


async def content(
    archive: Archive, access: Access, resources: Sequence[str], level: Kind | None, packing: Packing, name: str
) -> dict[str, Any]:
    """The content of a job that writes the archive `name` of resources, all of `level` or of any; they are its parts.

    Raises NotFound, and TooLarge where it is known already that the archive could not be kept for its size.
    """
    measured = await archive.archives.measure(access, await archive.archives.folders(access, resources, level))
    if packing.plain:
        _require_keepable(archive, measured.size)
    said: dict[str, Any] = {
        "InstancesCount": measured.instances,
        "UncompressedSize": str(measured.stored),
        "UncompressedSizeMB": measured.stored // _MIB,
        **_size(0),
    }
    if packing.target is not None:
        said["Transcode"] = packing.target
    return {"level": level, "packing": asdict(packing), "name": name, "said": said}


async def run(archive: Archive, job: Claimed, folder: Path, progress: Progress) -> Done:
    """Write the archive. A job that is repeated begins anew.

    Raises TooLarge where the archive becomes larger than what could be kept, Unavailable where the disk is full.
    """
    said, access = job.content, Access(job.tenant, "job", SCOPES)
    packing = Packing(**said["packing"] | {"quality": Quality(**said["packing"]["quality"])})
    service = archive.archives
    async with job_items(archive.db, job.tenant, job.id) as items:
        resources = [identifier async for _, identifier in items.open()]
    folders = await service.folders(access, resources, said["level"])
    measured = await service.measure(access, folders)
    chunks = (
        service.plain(access, folders, measured, 0, measured.size)
        if packing.plain
        else service.zip(access, folders, packing)
    )
    path, size = folder / "archive", 0
    try:
        with path.open("wb") as file:
            async with aclosing(chunks):
                async for chunk in chunks:
                    size += len(chunk)
                    _require_keepable(archive, size)
                    await asyncio.to_thread(file.write, chunk)
                    progress(min(1.0, size / measured.size))
    except OSError as error:
        raise translated(error, "write the archive") from error
    name = {"file": said["name"], "media_type": "application/zip", "bytes": size}
    return Done(name | {"said": _size(size)}, path)


def _require_keepable(archive: Archive, size: int) -> None:
    if size > archive.settings.job_file_bytes:
        raise TooLarge("the archive is larger than what is kept of jobs (job_file_bytes); ask for it without a job")


def _size(size: int) -> dict[str, Any]:
    return {"ArchiveSize": str(size), "ArchiveSizeMB": size // _MIB}
