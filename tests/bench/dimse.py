"""C-FIND and C-GET by DCMTK's programs, which ask all archives for the same and count what comes."""

import re
import subprocess
import tempfile
from calendar import monthrange
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.dimse.programs import DCMTK

from . import floors
from .archives import LOOPBACK, Archive
from .manifest import Manifest, Series, Study
from .report import Figures, Report, metered

_SHOWN = ("StudyInstanceUID", "StudyDate", "PatientName", "PatientID", "NumberOfStudyRelatedInstances")
_TIMEOUT = 300


@dataclass(frozen=True, slots=True)
class Query:
    """A query that one association repeats, so often that the start of the program does not count."""

    name: str
    level: str
    keys: tuple[str, ...]
    times: int
    associations: tuple[int, ...] = (1,)


def queries(manifest: Manifest) -> list[Query]:
    """Queries at the levels of studies and of images."""
    study, (ct_study, ct_series) = manifest.small[len(manifest.small) // 2], _series_of(manifest.ct)
    year, month = int(study.date[:4]), int(study.date[4:6])
    dates = f"{study.date[:6]}01-{study.date[:6]}{monthrange(year, month)[1]}"
    images = (f"StudyInstanceUID={ct_study.uid}", f"SeriesInstanceUID={ct_series.uid}", "SOPInstanceUID")
    return [
        Query(floors.FIND_PATIENT, "STUDY", (f"PatientID={study.patient_id}", *_unless("PatientID")), 1000, (1, 4)),
        Query(floors.FIND_DATE, "STUDY", (f"StudyDate={dates}", *_unless("StudyDate")), 400, (1, 4)),
        Query(floors.FIND_IMAGES, "IMAGE", (*images, "InstanceNumber"), 100),
    ]


def run(report: Report, manifest: Manifest, only: Callable[[str], bool]) -> None:
    """Measure every query, and whole series by C-GET."""
    for query in queries(manifest):
        if only(query.name):
            for associations in query.associations:
                report.compare(query.name, associations, _finding(query, associations))
    for name, (study, series) in (
        (floors.GET_SERIES, _series_of(manifest.ct)),
        (floors.GET_SMALL, _series_of(manifest.small)),
    ):
        if only(name):
            report.compare(name, 1, _getting(study, series))


def _series_of(studies: Sequence[Study]) -> tuple[Study, Series]:
    study = studies[len(studies) // 2]
    return study, study.series[0]


def _unless(asked: str) -> tuple[str, ...]:
    return tuple(keyword for keyword in _SHOWN if keyword != asked)


def _finding(query: Query, associations: int) -> Callable[[Archive], Figures]:
    keys = [word for key in (f"QueryRetrieveLevel={query.level}", *query.keys) for word in ("-k", key)]

    def measure(archive: Archive) -> Figures:
        command = ["findscu", "-v", "-S", "-aec", archive.aet, LOOPBACK, str(archive.dimse)]
        with metered(archive) as cost:
            said = _all([*command, "--repeat", str(query.times), *keys], associations)
        answers = sum(len(re.findall(r"Find Response: \d+ \(Pending\)", text)) for text in said)
        done = query.times * associations
        if not answers or answers % done:
            raise RuntimeError(f"{answers} answers to {done} equal queries")
        return Figures(rate=done / cost.seconds, cpu=cost.cpu * 1000 / done, generator=cost.generator)

    return measure


def _getting(study: Study, series: Series) -> Callable[[Archive], Figures]:
    wanted = ("QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study.uid}", f"SeriesInstanceUID={series.uid}")
    keys = [word for key in wanted for word in ("-k", key)]

    def measure(archive: Archive) -> Figures:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            command = ["getscu", "-S", "+B", "-od", folder, "-aec", archive.aet, LOOPBACK, str(archive.dimse), *keys]
            with metered(archive) as cost:
                _all(command, 1)
            files = list(Path(folder).iterdir())
            size = sum(path.stat().st_size for path in files)
        count = len(series.instances)
        if len(files) != count:
            raise RuntimeError(f"{len(files)} of {count} instances came")
        megabytes = size / cost.seconds / 1e6
        return Figures(count / cost.seconds, megabytes, cpu=cost.cpu * 1000 / count, generator=cost.generator)

    return measure


def _all(command: Sequence[str], count: int) -> list[str]:
    """What `count` runs of a program say, side by side; with TCP_NODELAY, without which its own delays are measured."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, str(number)) for number in range(count)]
        running = []
        for path in logs:
            with path.open("wb") as log:
                running.append(subprocess.Popen(command, env=DCMTK, stdout=log, stderr=log))
        codes = [process.wait(_TIMEOUT) for process in running]
        said = [path.read_text(errors="replace") for path in logs]
    for code, text in zip(codes, said, strict=True):
        if code:
            raise RuntimeError(f"{command[0]} ended with {code}: {text[-200:]}")
    return said
