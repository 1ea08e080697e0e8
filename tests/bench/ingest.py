"""Storing, durably on both sides: REST, STOW-RS and C-STORE, each mode with files the archive does not have yet."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.dimse.programs import DCMTK

from . import data, floors, post
from .archives import LOOPBACK, Archive
from .load import by_rest, by_stow
from .manifest import Manifest
from .report import SUBJECT, Figures, Report, metered

_PER_REQUEST = 10
_ASSOCIATION = 200  # files on one storescu command line


@dataclass(frozen=True, slots=True)
class Mode:
    """A way in, and how many connections or associations use it at once."""

    name: str
    connections: int


MODES = (
    Mode(floors.POST, 1),
    Mode(floors.POST, 8),
    Mode(floors.STOW, 1),
    Mode(floors.STOW, 4),
    Mode(floors.STORE, 1),
    Mode(floors.STORE, 4),
)


LABELS = {"ct": floors.CT, "small": floors.SMALL}
RUN = {"ct": 200, "small": 1000}  # files of one run


def run(report: Report, manifest: Manifest, only: Callable[[str], bool], state: str = "") -> None:
    """Measure every mode, with 200 CT or 1,000 tiny files a run; the archives must not hold these data.

    `state`: what the archives hold, for the names of the tests.
    """
    for kind, label in LABELS.items():
        files = manifest.files(kind)
        size = min(RUN[kind], len(files) // (report.repeats * len(MODES)))
        batches = {archive.name: _batches(files, size) for archive in report.archives}
        for mode in MODES:
            test = floors.ingest(label, mode.name) + state
            if only(test):
                report.compare(test, mode.connections, _measurement(mode, batches))


def run_in_full(report: Report, only: Callable[[str], bool], work: Path, share: float) -> None:
    """The same in full archives, with new studies (`share` of a run's files), which are deleted afterwards."""
    if not any(only(floors.ingest(label, mode.name) + floors.FULL) for label in LABELS.values() for mode in MODES):
        return
    folder = work / "new"
    ct, small = (int(share * count) * report.repeats * len(MODES) for count in RUN.values())
    manifest = data.to_store(folder, ct, small)
    try:
        run(report, manifest, only, floors.FULL)
    finally:
        shutil.rmtree(folder)
        for archive in report.archives:
            for study in (*manifest.ct, *manifest.small):
                archive.delete(f"/studies/{study.orthanc_id}")  # 404 where it was not stored


def _batches(files: Sequence[Path], size: int) -> Iterator[list[Path]]:
    """Never the same file twice: what is stored already costs less."""
    for start in range(0, len(files) - size + 1, size):
        yield list(files[start : start + size])


def _measurement(mode: Mode, batches: dict[str, Iterator[list[Path]]]) -> Callable[[Archive], Figures]:
    def measure(archive: Archive) -> Figures:
        files = next(batches[archive.name], None)
        if files is None:
            raise RuntimeError("no files left: fewer repeats, smaller runs or more data")
        size = sum(path.stat().st_size for path in files)
        before = archive.count()
        os.sync()  # what earlier runs left in the page cache is not this run's work
        with metered(archive) as cost:
            seconds = _send(archive, mode, files)
        stored = archive.count() - before
        if archive.name == SUBJECT and stored != len(files):
            raise RuntimeError(f"{stored} of {len(files)} instances stored")
        seconds.sort()
        milliseconds = [value * 1000 for value in seconds] or [0.0]
        return Figures(
            rate=stored / cost.seconds,
            megabytes=size * stored / len(files) / cost.seconds / 1e6,
            p50=milliseconds[len(milliseconds) // 2],
            p99=milliseconds[min(len(milliseconds) - 1, int(len(milliseconds) * 0.99))],
            cpu=cost.cpu * 1000 / len(files),
            generator=cost.generator,
            errors=len(files) - stored,
        )

    return measure


def _send(archive: Archive, mode: Mode, files: Sequence[Path]) -> list[float]:
    """Store the files; seconds per request where the client tells.

    A refusal ends the test for Anor. Orthanc on PostgreSQL refuses some when clients write together: they are missing
    from its count of stored instances, and so from its rate.
    """
    if mode.name == floors.STORE:
        send_dimse(archive, mode.connections, files)
        return []
    if mode.name == floors.STOW:
        jobs = [by_stow(files[start : start + _PER_REQUEST]) for start in range(0, len(files), _PER_REQUEST)]
    else:
        jobs = [by_rest(path) for path in files]
    posted = post.post_all(archive.http, jobs, mode.connections)
    if posted.refused and archive.name == SUBJECT:
        raise RuntimeError(f"{len(posted.refused)} requests refused: {posted.refused[0][:2]}")
    return posted.seconds


def send_dimse(archive: Archive, associations: int, files: Sequence[Path]) -> None:
    """Store files by DCMTK's storescu; with TCP_NODELAY, without which its own delays are measured."""
    where = ["-aec", archive.aet, LOOPBACK, str(archive.dimse)]
    rounds = range(0, len(files), _ASSOCIATION * associations)
    for start in rounds:
        part = files[start : start + _ASSOCIATION * associations]
        clients = [
            subprocess.Popen(
                ["storescu", "--no-halt", *where, *map(str, part[index::associations])],
                env=DCMTK,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for index in range(min(associations, len(part)))
        ]
        ends = [(process.communicate()[1], process.returncode) for process in clients]
        for text, code in ends:
            if code and archive.name == SUBJECT:
                raise RuntimeError(f"storescu ended with {code}: {text[-200:].decode(errors='replace')}")
