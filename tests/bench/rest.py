"""Orthanc's own REST API: descriptions, tags, search, archives, deletion; the same requests to all archives."""

import http.client
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dicomweb.uids import orthanc_ids

from . import data, floors, get, load, post
from .archives import LOOPBACK, Archive
from .manifest import Manifest, Study
from .report import Figures, Report, metered

_STUDIES = 500
_INSTANCES = 500
_TO_DELETE = 2_000
_SEARCHES = 20
_JSON = "application/json"


def run(report: Report, manifest: Manifest, only: Callable[[str], bool], work: Path, seconds: int) -> None:
    """Measure everything; the studies that are deleted are made and stored before."""
    some = random.Random(5).choices(manifest.small, k=400)
    studies = tuple(f"/studies/{study.orthanc_id}" for study in some)
    tags = tuple(
        f"/instances/{orthanc_ids(study.patient_id, study.uid, series.uid, series.instances[0].uid).instance}/tags"
        for study in some
        for series in study.series[:1]
    )
    for name, paths in ((floors.REST_STUDY, studies), (floors.REST_TAGS, tags)):
        for connections in (1, 8):
            if only(name):
                report.compare(name, connections, _getting(paths, connections, seconds))
    if only(floors.REST_FIND):
        report.compare(floors.REST_FIND, 1, _finding)
    archive = f"/tools/create-archive?resources={','.join(study.orthanc_id for study in _enough(manifest.ct))}"
    if only(floors.REST_ZIP):
        report.compare(floors.REST_ZIP, 1, lambda server: _archive(server, archive))
    if only(floors.REST_ZIP_FIRST):
        report.compare(floors.REST_ZIP_FIRST, 1, lambda server: _first_byte(server, archive))
    if only(floors.REST_DELETE):
        _deleting(report, work)


def _enough(studies: Sequence[Study]) -> list[Study]:
    """So many studies that they hold what an archive is made of."""
    found: list[Study] = []
    for study in studies:
        if sum(len(list(each.instances())) for each in found) >= _INSTANCES:
            break
        found.append(study)
    return found


def _getting(paths: tuple[str, ...], connections: int, seconds: int) -> Callable[[Archive], Figures]:
    def measure(archive: Archive) -> Figures:
        get.closed_loop(archive.http, paths[-1:], 1, 1, _JSON, "identity")
        with metered(archive) as cost:
            got = get.wrk(archive.http, paths, connections, seconds, _JSON, "identity")
        cpu = cost.cpu * 1000 / max(1, got.requests)
        return Figures(got.rate, got.megabytes, got.p50, got.p99, cpu, cost.generator, got.errors)

    return measure


def _finding(archive: Archive) -> Figures:
    body = json.dumps({"Level": "Study", "Query": {}, "Expand": True, "Limit": _STUDIES, "Since": 0}).encode()
    head = f"POST /tools/find HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    jobs = [post.Job(lambda: [head, body])] * _SEARCHES
    with metered(archive) as cost:
        done = post.post_all(archive.http, jobs, 1)
    spent = sorted(done.seconds)
    p50, p99 = (spent[int(len(spent) * part)] * 1000 for part in (0.5, 0.99))
    errors = float(len(done.refused))
    return Figures(_SEARCHES / cost.seconds, 0.0, p50, p99, cost.cpu * 1000 / _SEARCHES, cost.generator, errors)


def _archive(archive: Archive, path: str) -> Figures:
    with metered(archive) as cost:
        got = get.closed_loop(archive.http, (path,), 1, 1, "*/*", "identity")
    return Figures(got.rate, got.megabytes, got.p50, got.p99, cost.cpu * 1000, cost.generator, 0.0)


def _first_byte(archive: Archive, path: str) -> Figures:
    """Times until the first byte of the ZIP file; the connection is cut then."""
    spent = []
    with metered(archive) as cost:
        for _ in range(5):
            connection = http.client.HTTPConnection(LOOPBACK, archive.http, timeout=300)
            begin = time.perf_counter()
            connection.request("GET", path)
            if not connection.getresponse().read(1):
                raise RuntimeError("an empty archive")
            spent.append(time.perf_counter() - begin)
            connection.close()
    spent.sort()
    return Figures(1 / spent[2], 0.0, spent[2] * 1000, spent[-1] * 1000, cost.cpu * 200, cost.generator)


def _deleting(report: Report, work: Path) -> None:
    folder = work / "deleted"
    studies = data.to_delete(folder, report.repeats, _TO_DELETE)
    files = [folder / instance.path for study in studies for instance in study.instances()]
    for archive in report.archives:
        load.store(archive, files)
    shutil.rmtree(folder)
    left = {archive.name: list(studies) for archive in report.archives}

    def measure(archive: Archive) -> Figures:
        with metered(archive) as cost:
            status = archive.delete(f"/studies/{left[archive.name].pop().orthanc_id}")
        if status != http.client.OK:
            raise RuntimeError(f"{status} for a deletion")
        spent = cost.seconds * 1000
        return Figures(1 / cost.seconds, 0.0, spent, spent, cost.cpu * 1000, cost.generator)

    report.compare(floors.REST_DELETE, 1, measure)
