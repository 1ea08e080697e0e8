"""What the background process does for slides: conversions that were asked for, and a folder that is watched."""

import asyncio
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dicomweb.errors import BadQuery
from storage.access import LOCAL, SCOPES, Access
from storage.archive import Archive
from storage.jobs import Claimed, Handler, JobFailed, Progress
from storage.worker import Step
from wsi.coarse import CoarseLevels
from wsi.convert.options import Options
from wsi.convert.run import ConversionFailed, convert
from wsi.convert.store import store_files

DICOMIZE: Final = "dicomize"

# By their names; what they are, the conversion finds out.
SUFFIXES: Final = frozenset(
    (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide", ".tif", ".tiff", ".png", ".jpg", ".jpeg")
)
_SUFFIX: Final = re.compile(r"\.[A-Za-z0-9]{1,8}")
_QUIET_SECONDS: Final = 10.0  # for which a file has not changed before it is taken for complete
_LOOK_SECONDS: Final = 5.0
_MAX_FILES: Final = 100_000
# Of 1, the conversion; what is left is for storing.
_CONVERTED: Final = 0.9


def handlers(archive: Archive) -> Mapping[str, Handler]:
    """The kinds of jobs that are worked on here."""

    async def dicomize(job: Claimed, progress: Progress) -> dict[str, Any]:
        return await run_dicomize(archive, job, progress)

    return {DICOMIZE: dicomize}


def steps(archive: Archive) -> Sequence[Step]:
    """What is to be done again and again."""
    found = [CoarseLevels(archive).step]
    folder = archive.settings.slide_folder
    if folder is not None:
        found.append((_LOOK_SECONDS, "slide_folder", WatchedFolder(archive, folder).step))
    return found


def job_content(name: str, options: Options, *, path: Path | None = None) -> dict[str, Any]:
    """The content of a conversion's job. `name`: of the file, as who sent it knows it."""
    return {"name": name, "options": options.as_json()} | ({} if path is None else {"path": str(path)})


async def run_dicomize(archive: Archive, job: Claimed, progress: Progress) -> dict[str, Any]:
    """Convert and store. A job that is repeated makes the same files, so that nothing is stored twice."""
    name = str(job.content["name"])
    try:
        options = Options.parse(job.content["options"])
    except BadQuery as error:  # of another version of the program
        raise JobFailed(error.message) from error
    options = replace(options, seed=job.id, created=job.created_at.isoformat(timespec="seconds"))
    if not options.name and not options.deidentify:
        options = replace(options, name=Path(name).stem[:64])
    access = Access(job.tenant, "job", SCOPES)
    await asyncio.to_thread(_clear, archive.settings.data, job.id)
    with tempfile.TemporaryDirectory(prefix=f"dicomize-{job.id}-", dir=archive.settings.data) as folder:
        slide = Path(job.content["path"]) if "path" in job.content else await _fetched(archive, job, name, Path(folder))
        try:
            done = await convert(
                archive.settings, slide, Path(folder), options, lambda n, total: progress(_CONVERTED * n / total)
            )
        except ConversionFailed as error:
            raise JobFailed(str(error)) from error
        count = len(done.files)
        await store_files(archive, access, done.files)
    return {"study": done.study, "series": done.series, "instances": count}


def _clear(data: Path, job: str) -> None:
    """Make the data directory, without what a worker left there that died of this job."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in data.glob(f"dicomize-{job}-*"):
        shutil.rmtree(left, ignore_errors=True)


async def _fetched(archive: Archive, job: Claimed, name: str, folder: Path) -> Path:
    """The uploaded file under its suffix: a link where the store has it on this machine, else a copy."""
    assert job.object_key is not None
    suffix = Path(name).suffix
    path = folder / f"slide{suffix if _SUFFIX.fullmatch(suffix) else ''}"
    local = archive.objects.local_path(job.object_key)
    if local is not None:
        path.symlink_to(local.absolute())
        return path
    with path.open("wb") as file:
        async for chunk in archive.objects.stream(job.object_key, 0, job.object_size):
            await asyncio.to_thread(file.write, chunk)
    return path


class WatchedFolder:
    """Makes a job for each slide below a folder, once for each state of the file; files stay where they are."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        self._archive = archive
        self._folder = folder
        self._known: set[str] = set()

    async def step(self) -> int:
        """Look once; how many jobs were made."""
        found = await asyncio.to_thread(_complete, self._folder)
        self._known.intersection_update(found)
        made = 0
        for once, path in found.items():
            if once not in self._known:
                content = job_content(path.name, Options(), path=path)
                made += await self._archive.jobs.create(LOCAL, DICOMIZE, content, once=once) is not None
                self._known.add(once)
        return made


def _complete(folder: Path) -> dict[str, Path]:
    """Files that are not being written any more, by what tells one state of a file from another."""
    found: dict[str, Path] = {}
    before = time.time() - _QUIET_SECONDS
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            if path.suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            with suppress(OSError):
                status = path.stat()
                if status.st_mtime < before and status.st_size:
                    found[f"{path} {status.st_size} {status.st_mtime_ns}"] = path
            if len(found) >= _MAX_FILES:
                return found
    return found
