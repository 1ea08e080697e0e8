"""What the background process does for slides: conversions, exports, and a folder that is watched."""

import asyncio
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from dicomweb.errors import BadQuery
from storage.access import LOCAL, SCOPES, Access
from storage.archive import Archive
from storage.derived import is_derived
from storage.jobs import Claimed, Done, Handler, JobFailed, Progress
from storage.retrieve import Extent
from storage.worker import Step
from wsi.coarse import CoarseLevels
from wsi.convert.options import Options
from wsi.convert.run import ConversionFailed, convert
from wsi.convert.store import store_files
from wsi.convert.unpack import SUFFIXES, is_zip, unpack
from wsi.export import Layout, export
from wsi.resampled import write_levels

DICOMIZE: Final = "dicomize"
DEIDENTIFY: Final = "deidentify"
EXPORT: Final = "export"
LEVELS: Final = "levels"

_SUFFIX: Final = re.compile(r"\.[A-Za-z0-9]{1,8}")
_QUIET_SECONDS: Final = 10.0  # for which a file has not changed before it is taken for complete
_LOOK_SECONDS: Final = 5.0
_MAX_FILES: Final = 100_000
_MRXS, _VMS = ".mrxs", ".vms"
# Beside a VMS file these are parts of the slide.
_PICTURES: Final = frozenset((".jpg", ".jpeg"))
# Of 1, the conversion; what is left is for storing.
_CONVERTED: Final = 0.9


def handlers(archive: Archive) -> Mapping[str, Handler]:
    """The kinds of jobs that are worked on here."""
    return {
        DICOMIZE: partial(run_dicomize, archive),
        DEIDENTIFY: partial(run_deidentify, archive),
        EXPORT: partial(run_export, archive),
        LEVELS: partial(run_levels, archive),
    }


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


async def run_dicomize(archive: Archive, job: Claimed, folder: Path, progress: Progress) -> Done:
    """Convert and store. A job that is repeated makes the same files, so that nothing is stored twice."""
    name = str(job.content["name"])
    options = _options(job)
    if not options.name and not options.deidentify:
        options = replace(options, name=Path(name).stem[:64])
    slide = Path(job.content["path"]) if "path" in job.content else await _fetched(archive, job, name, folder)
    return await _converted(archive, job, slide, folder, options, progress)


def _options(job: Claimed) -> Options:
    """The options of a job, with what makes a repetition of it give the same identifiers."""
    try:
        options = Options.parse(job.content["options"])
    except BadQuery as error:  # of another version of the program
        raise JobFailed(error.message) from error
    return replace(options, seed=job.id, created=job.created_at.isoformat(timespec="seconds"))


async def _converted(
    archive: Archive, job: Claimed, slide: Path, folder: Path, options: Options, progress: Progress
) -> Done:
    try:
        done = await convert(
            archive.settings, slide, folder, options, lambda n, total: progress(_CONVERTED * n / total)
        )
    except ConversionFailed as error:
        raise JobFailed(str(error)) from error
    await store_files(archive, _access(job), done.files)
    return Done({"study": done.study, "series": done.series, "instances": len(done.files)})


def _access(job: Claimed) -> Access:
    return Access(job.tenant, "job", SCOPES)


async def run_deidentify(archive: Archive, job: Claimed, folder: Path, progress: Progress) -> Done:
    """Make a new series of a slide, in a new study, with nothing in it that says whose it is."""
    stored = await archive.slides.slide(_access(job), str(job.content["series"]))
    source = folder / "source"
    source.mkdir()
    for number, instance in enumerate(each for each in stored.instances if not is_derived(each)):
        await _fetch(archive, instance.key, (instance.base, instance.size), source / f"{number:05}.dcm")
    return await _converted(archive, job, source, folder, _options(job), progress)


async def run_export(archive: Archive, job: Claimed, folder: Path, progress: Progress) -> Done:
    """Write a slide to a file, which the job leaves."""
    series, layout = str(job.content["series"]), job.content["layout"]
    name = f"{series}.tiff" if layout == "tiff" else f"{series}.ome.tiff"
    await export(archive, _access(job), series, folder / name, layout, lambda n, total: progress(n / total))
    size = (folder / name).stat().st_size
    return Done({"file": name, "media_type": "image/tiff", "bytes": size}, folder / name)


async def run_levels(archive: Archive, job: Claimed, folder: Path, progress: Progress) -> Done:
    """Make the levels that a slide lacks, as instances of its series."""
    series = str(job.content["series"])
    stored, files = await write_levels(
        archive, _access(job), series, job, folder, lambda done: progress(_CONVERTED * done)
    )
    await store_files(archive, _access(job), files)
    return Done({"study": stored.study, "series": series, "instances": len(files)})


def levels_content(series: str) -> dict[str, Any]:
    """The content of a job that makes levels."""
    return {"series": series}


def deidentify_content(series: str, options: Options) -> dict[str, Any]:
    """The content of a de-identification's job."""
    return {"series": series, "options": options.as_json()}


def export_content(series: str, layout: Layout) -> dict[str, Any]:
    """The content of an export's job."""
    return {"series": series, "layout": layout}


async def _fetched(archive: Archive, job: Claimed, name: str, folder: Path) -> Path:
    """The uploaded file under its suffix, or the slide in it where it is a ZIP file."""
    assert job.object_key is not None
    suffix = Path(name).suffix
    path = folder / f"slide{suffix if _SUFFIX.fullmatch(suffix) else ''}"
    await _fetch(archive, job.object_key, (0, job.object_size), path)
    if not await asyncio.to_thread(is_zip, path):
        return path
    inside = folder / "files"
    inside.mkdir()
    try:
        return await asyncio.to_thread(unpack, path, inside)
    except ConversionFailed as error:
        raise JobFailed(str(error)) from error


async def _fetch(archive: Archive, key: str, extent: Extent, path: Path) -> None:
    """Put an object's bytes under a path: a link where the store has them in a file of their own, else a copy."""
    local = archive.objects.local_path(key)
    if local is not None and await asyncio.to_thread(_linked, local, extent, path):
        return
    with path.open("wb") as file:
        async for chunk in archive.objects.stream(key, *extent):
            await asyncio.to_thread(file.write, chunk)


def _linked(local: Path, extent: Extent, path: Path) -> bool:
    if extent != (0, local.stat().st_size):
        return False
    path.symlink_to(local.absolute())
    return True


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
        pieces = _PICTURES if any(name.lower().endswith(_VMS) for name in names) else frozenset[str]()
        for name in sorted(names):
            path = Path(parent) / name
            if path.suffix.lower() not in SUFFIXES - pieces or name.startswith("."):
                continue
            with suppress(OSError):
                status = [each.stat() for each in (path, *_more_of(path))]
                size, newest = sum(each.st_size for each in status), max(each.st_mtime_ns for each in status)
                if newest < before * 1e9 and size:
                    found[f"{path} {size} {newest}"] = path
            if len(found) >= _MAX_FILES:
                return found
    return found


def _more_of(path: Path) -> list[Path]:
    """What belongs to a slide beside the file that stands for it: the folder of MRXS, the pictures of VMS."""
    suffix = path.suffix.lower()
    if suffix not in (_MRXS, _VMS):
        return []
    folder = path.with_suffix("") if suffix == _MRXS else path.parent
    return [each for each in folder.iterdir() if each.is_file()]
