"""Tiles of a whole slide, each archive at its best address, and what the first look at a slide costs."""

import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread

from dicomweb.uids import orthanc_ids
from tests.wsi.make_slide import make_slide

from . import floors, get, load
from .archives import DICOMWEB, Archive
from .report import SUBJECT, Figures, Report, metered, say

_TILE, _GRAIN, _LEVELS = 256, 10, 6
_FRAME = 'multipart/related; type="image/jpeg"; transfer-syntax=1.2.840.10008.1.2.4.50'
_WARM = 200  # tiles that are asked for again and again
_PER_ROUND = {1: 200, 8: 1_000}


@dataclass(frozen=True, slots=True)
class Stored:
    """One slide: its files, and the paths of everything in it for Anor and for Orthanc."""

    files: tuple[Path, ...]
    frames: tuple[str, ...]
    tiles: dict[bool, tuple[str, ...]]
    manifest: dict[bool, str]


@dataclass(frozen=True, slots=True)
class Slides:
    """The slide whose tiles are asked for, and others with as many, each for one cold manifest."""

    tiled: Stored
    cold: tuple[Stored, ...]


def make(folder: Path, width: int, repeats: int) -> Slides:
    """Write the files; a slide is 7/8 as high as it is wide."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cold = tuple(_slide(folder, f"cold{number}", width, 0) for number in range(repeats))
    return Slides(_slide(folder, "tiled", width, _GRAIN), cold)


def _slide(folder: Path, name: str, width: int, grain: int) -> Stored:
    height = width * 7 // 8
    made = make_slide(width, height, levels=_LEVELS, grain=grain, PatientID=name)
    files = tuple(folder / f"{name}-{level}.dcm" for level in range(len(made.files)))
    for file, content in zip(files, made.files, strict=True):
        file.write_bytes(content)
    first = dcmread(BytesIO(made.files[0]), stop_before_pixels=True)
    across, down = -(-width // _TILE), -(-height // _TILE)
    places = [(x, y) for y in range(down) for x in range(across)]
    random.Random(3).shuffle(places)
    instance = f"{DICOMWEB}/studies/{made.study}/series/{made.series}/instances/{first.SOPInstanceUID}"
    peer = orthanc_ids(first.PatientID, made.study, made.series, first.SOPInstanceUID).series
    own = f"/wsi/slides/{made.series}"
    return Stored(
        files,
        tuple(f"{instance}/frames/{y * across + x + 1}" for x, y in places),
        {
            True: tuple(f"{own}/tiles/0/{x}/{y}" for x, y in places),
            False: tuple(f"/wsi/tiles/{peer}/0/{x}/{y}" for x, y in places),
        },
        {True: own, False: f"/wsi/pyramids/{peer}"},
    )


def _own(archive: Archive) -> bool:
    return archive.name == SUBJECT


def run(report: Report, made: Slides, only: Callable[[str], bool], seconds: int) -> None:
    """Store everything in each archive, then measure; what nobody may have asked for before comes first."""
    every = [file for slide in (made.tiled, *made.cold) for file in slide.files]
    say(f"{len(made.tiled.frames)} tiles, {sum(file.stat().st_size for file in every) / 1e6:.0f} MB")
    for archive in report.archives:
        load.store(archive, every)
    if only(floors.SLIDE_MANIFEST):
        _manifests(report, made.cold)
    tiles = {archive.name: _tiles_of(archive, made.tiled) for archive in report.archives}
    if only(floors.SLIDE_FRESH):
        _first_time(report, tiles)
    for connections in (1, 8):
        if only(floors.SLIDE_FRAME):
            report.compare(floors.SLIDE_FRAME, connections, _frames(made.tiled, connections, seconds))
        if only(floors.SLIDE_TILE):
            report.compare(floors.SLIDE_TILE, connections, _tiles(tiles, connections, seconds))


def _tiles_of(archive: Archive, slide: Stored) -> Sequence[str]:
    """Paths as a viewer makes them after it has read the manifest: Anor's carry the version."""
    manifest = json.loads(archive.get(slide.manifest[_own(archive)])[0])
    suffix = f"?v={manifest['version']}" if _own(archive) else ""
    return [path + suffix for path in slide.tiles[_own(archive)]]


def _manifests(report: Report, slides: Sequence[Stored]) -> None:
    left = {archive.name: list(slides) for archive in report.archives}

    def measure(archive: Archive) -> Figures:
        slide = left[archive.name].pop()
        begin = time.perf_counter()
        archive.get(slide.manifest[_own(archive)])
        spent = time.perf_counter() - begin
        return Figures(1 / spent, p50=spent * 1000, p99=spent * 1000)

    report.compare(floors.SLIDE_MANIFEST, 1, measure)


def _first_time(report: Report, tiles: dict[str, Sequence[str]]) -> None:
    used = dict.fromkeys((archive.name for archive in report.archives), 0)

    def measure(archive: Archive, connections: int) -> Figures:
        begin = used[archive.name]
        used[archive.name] += _PER_ROUND[connections]
        fresh = tiles[archive.name][begin : used[archive.name]]
        if len(fresh) < _PER_ROUND[connections]:
            raise RuntimeError("no untouched tiles left: fewer repeats, or a larger slide")
        with metered(archive) as cost:
            got = get.closed_loop(archive.http, fresh, connections, len(fresh), "image/jpeg", "identity")
        return _figures(got, cost.cpu, cost.generator)

    for connections in _PER_ROUND:
        report.compare(floors.SLIDE_FRESH, connections, lambda archive, count=connections: measure(archive, count))


def _frames(slide: Stored, connections: int, seconds: int) -> Callable[[Archive], Figures]:
    return lambda archive: _rate(archive, slide.frames, connections, seconds, _FRAME)


def _tiles(tiles: dict[str, Sequence[str]], connections: int, seconds: int) -> Callable[[Archive], Figures]:
    def measure(archive: Archive) -> Figures:
        paths = tiles[archive.name][-_WARM:]
        get.closed_loop(archive.http, paths, 8, 2 * len(paths), "image/jpeg", "identity")
        return _rate(archive, paths, connections, seconds, "image/jpeg")

    return measure


def _rate(archive: Archive, paths: Sequence[str], connections: int, seconds: int, accept: str) -> Figures:
    with metered(archive) as cost:
        got = get.wrk(archive.http, paths, connections, seconds, accept, "identity")
    return _figures(got, cost.cpu, cost.generator)


def _figures(got: get.Sample, cpu: float, generator: float) -> Figures:
    spent = cpu * 1000 / max(1, got.requests)
    return Figures(got.rate, got.megabytes, got.p50, got.p99, spent, generator, got.errors)
