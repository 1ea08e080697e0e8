"""Reading: searches, metadata, frames, instances, whole series; the same URLs and Accept headers for all archives."""

import datetime as dt
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import answers, floors, get
from .archives import DICOMWEB, Archive
from .manifest import Instance, Manifest, Series, Study
from .report import Figures, Report, metered

JSON = "application/dicom+json"
OCTETS = 'multipart/related; type="application/octet-stream"'
JPEG = 'multipart/related; type="image/jpeg"; transfer-syntax=1.2.840.10008.1.2.4.50'
DICOM = 'multipart/related; type="application/dicom"'

_SLOW = 0.2  # seconds: above it wrk's run would end in the middle of answers
_SLOW_BUDGET = 8.0  # seconds for such a measurement


@dataclass(frozen=True, slots=True)
class ReadTest:
    """GETs of `paths` in turn. `bulk`: answers so large that the generator must receive them in large pieces."""

    name: str
    paths: tuple[str, ...]
    accept: str
    connections: tuple[int, ...]
    encoding: str = "identity"
    bulk: bool = False


def study_path(study: Study) -> str:
    """The study's DICOMweb resource."""
    return f"{DICOMWEB}/studies/{study.uid}"


def series_path(study: Study, series: Series) -> str:
    """The series' DICOMweb resource."""
    return f"{study_path(study)}/series/{series.uid}"


def instance_path(study: Study, series: Series, instance: Instance) -> str:
    """The instance's DICOMweb resource."""
    return f"{series_path(study, series)}/instances/{instance.uid}"


def full_tests(manifest: Manifest) -> list[ReadTest]:
    """Every read test on a full archive, except the first touch of metadata."""
    rng = random.Random(5)
    some = rng.choices(manifest.small, k=400)
    ct_series = [series_path(study, series) for study in manifest.ct for series in study.series]
    of_small = tuple(series_path(study, study.series[0]) + "/instances?includefield=all" for study in some[:100])
    families = sorted({study.patient_name.partition("^")[0] for study in manifest.small})[:5]
    pages = range(0, max(1, len(manifest.ct) + len(manifest.small) - 100), 50)
    searches = (
        (floors.BY_PATIENT, tuple(f"{DICOMWEB}/studies?PatientID={study.patient_id}" for study in some)),
        (floors.BY_DATE, tuple(f"{DICOMWEB}/studies?StudyDate={days}&limit=100" for days in _quarters(manifest.small))),
        (floors.BY_NAME, tuple(f"{DICOMWEB}/studies?PatientName={family}*&limit=100" for family in families)),
        (floors.PAGE, tuple(f"{DICOMWEB}/studies?limit=100&offset={offset}" for offset in pages)),
        (floors.SERIES_OF, tuple(study_path(study) + "/series" for study in some)),
        (floors.ALL_FIELDS, of_small),
    )
    instances = _ct_instances(manifest, rng)
    return [
        *(ReadTest(name, paths, JSON, (1, 8)) for name, paths in searches),
        ReadTest(floors.WARM, tuple(path + "/metadata" for path in ct_series), JSON, (1, 8)),
        ReadTest(floors.GZIP, tuple(path + "/metadata" for path in ct_series), JSON, (1, 8), encoding="gzip"),
        ReadTest("metadata of a study", tuple(study_path(study) + "/metadata" for study in manifest.ct), JSON, (1,)),
        ReadTest(floors.ONE, tuple(path + "/metadata" for path in instances), JSON, (1, 8)),
        *frame_tests(manifest, rng, (1, 8, 32)),
        ReadTest("instance 525 KB", instances, DICOM, (1, 8)),
        ReadTest(floors.RENDERED_JPEG, tuple(path + "/rendered" for path in instances), "image/jpeg", (1, 8)),
        ReadTest(floors.RENDERED_PNG, tuple(path + "/rendered" for path in instances), "image/png", (1, 8)),
        ReadTest(floors.SERIES_BYTES, tuple(ct_series), DICOM, (1, 4), bulk=True),
    ]


def frame_tests(
    manifest: Manifest, rng: random.Random, connections: tuple[int, ...], suffix: str = ""
) -> list[ReadTest]:
    """Single frames: of CT instances, and of the two multi-frame objects in random order."""
    made = [
        ReadTest(
            floors.FRAME_CT + suffix, tuple(p + "/frames/1" for p in _ct_instances(manifest, rng)), OCTETS, connections
        )
    ]
    for study in manifest.multiframe:
        for series in study.series:
            for instance in series.instances:
                raw = instance.transfer_syntax == "1.2.840.10008.1.2.1"
                numbers = rng.sample(range(1, instance.frames + 1), instance.frames)
                paths = tuple(f"{instance_path(study, series, instance)}/frames/{number}" for number in numbers)
                name = floors.FRAME_RGB if raw else floors.FRAME_JPEG
                made.append(ReadTest(name + suffix, paths, OCTETS if raw else JPEG, connections))
    return made


def _ct_instances(manifest: Manifest, rng: random.Random) -> tuple[str, ...]:
    every = [
        instance_path(study, series, instance)
        for study in manifest.ct
        for series in study.series
        for instance in series.instances
    ]
    return tuple(rng.choices(every, k=1000))


def _quarters(studies: Sequence[Study]) -> list[str]:
    """Ranges of 90 days that begin at a tenth, two tenths, … of the study dates."""
    dates = sorted(study.date for study in studies)
    begins = [dt.date.fromisoformat(dates[len(dates) * tenth // 10]) for tenth in range(1, 9)]
    return [f"{day:%Y%m%d}-{day + dt.timedelta(days=90):%Y%m%d}" for day in begins]


def run(report: Report, chosen: Sequence[ReadTest], only: Callable[[str], bool], seconds: int) -> None:
    """Check that all archives give the same answers, then measure."""
    for test in chosen:
        if only(test.name):
            wrong = answers.disagreements(report.archives, test.paths, test.accept, test.encoding)
            for connections in test.connections:
                report.compare(test.name, connections, _measurement(test, connections, seconds, wrong))


def _measurement(test: ReadTest, connections: int, seconds: int, wrong: dict[str, str]) -> Callable[[Archive], Figures]:
    def measure(archive: Archive) -> Figures:
        if archive.name in wrong:
            raise RuntimeError(wrong[archive.name])
        # the first answer after a change of archive pays for cold caches; it also tells how slow this one is
        once = get.closed_loop(archive.http, test.paths[-1:], 1, 1, test.accept, test.encoding).p50 / 1000
        with metered(archive) as cost:
            if test.bulk or once > _SLOW:
                count = max(connections, min(20 * seconds, int(_SLOW_BUDGET / once)))
                got = get.closed_loop(archive.http, test.paths, connections, count, test.accept, test.encoding)
            else:
                got = get.wrk(archive.http, test.paths, connections, seconds, test.accept, test.encoding)
        cpu = cost.cpu * 1000 / max(1, got.requests)
        return Figures(got.rate, got.megabytes, got.p50, got.p99, cpu, cost.generator, got.errors)

    return measure


def first_touch(report: Report, manifest: Manifest, each: int = 4) -> None:
    """Metadata of CT series that nobody asked for since the archive was filled, one after the other.

    Orthanc keeps what it computed for a series as an attachment, which is deleted first, so that a filled archive can
    be measured again; Anor computes at ingest, and every round takes other series than its process may remember.
    """
    all_series = [(study, series) for study in manifest.ct for series in study.series]
    used = dict.fromkeys((archive.name for archive in report.archives), 0)

    def measure(archive: Archive) -> Figures:
        begin = used[archive.name]
        used[archive.name] += each
        part = all_series[begin : begin + each]
        if len(part) < each:
            raise RuntimeError("no untouched series left: fewer repeats")
        if archive.name != "anor":
            for study, series in part:
                answers.forget_metadata(archive, study, series)
        paths = [series_path(study, series) + "/metadata" for study, series in part]
        with metered(archive) as cost:
            got = get.closed_loop(archive.http, paths, 1, each, JSON, "identity")
        return Figures(got.rate, got.megabytes, got.p50, got.p99, cost.cpu * 1000 / each, cost.generator, got.errors)

    report.compare(floors.FIRST, 1, measure)
