"""Frames stored in JPEG 2000 and asked for in Explicit VR Little Endian.

More instances than any archive's caches hold: Orthanc keeps 128 MB of transcoded files (MaximumStorageCacheSize), each
HTTP worker of Anor 64 MiB of frames (ANOR_CACHE_BYTES), and a frame has 512 KiB. Each round of the first test asks for
instances that nobody asked for before.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless

from . import data, floors, get, load
from .archives import DICOMWEB, Archive
from .manifest import Manifest
from .report import Figures, Report, metered, say

ACCEPT = 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1'
SERIES = 10
_PER_ROUND = {1: 30, 8: 200}
_HELD = 40  # instances that every cache holds, also that of a worker which sees only some of the requests
_ALIKE = 3  # answers of which every byte is compared


@dataclass(frozen=True, slots=True)
class Stored:
    """The files, the paths of their frames, and the pixels that each path has to answer."""

    files: tuple[Path, ...]
    paths: tuple[str, ...]
    pixels: tuple[bytes, ...]

    def pixels_of(self, position: int) -> bytes:
        """What `paths[position]` has to answer; every series has the same images."""
        return self.pixels[position % len(self.pixels)]


def make(content: Manifest, folder: Path, count: int, series: int) -> Stored:
    """The first `count` CT images as lossless JPEG 2000, in as many series, which have the same images."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files, paths = [], []
    images = [dcmread(path) for path in content.files("ct")[:count]]
    pixels = tuple(bytes(image.PixelData) for image in images)
    for image in images:
        _compress(image)
    for number in range(1, series + 1):
        for place, image in enumerate(images, 1):
            sop = _rename(image, number, place)
            files.append(folder / f"{number}-{place}.dcm")
            image.save_as(files[-1], enforce_file_format=True)
            where = f"studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
            paths.append(f"{DICOMWEB}/{where}/instances/{sop}/frames/1")
    return Stored(tuple(files), tuple(paths), pixels)


def _compress(image: Dataset) -> None:
    values = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
    bits = int(image.BitsStored)
    stream = imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="J2K", bitspersample=bits)
    image.PixelData = encapsulate([bytes(stream)])
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless


def _rename(image: Dataset, series: int, place: int) -> str:
    image.StudyInstanceUID = UID(data.uid("transcode", 1))
    image.SeriesInstanceUID = UID(data.uid("transcode", 1, series))
    image.SOPInstanceUID = UID(data.uid("transcode", 1, series, place))
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.SeriesNumber = series
    return str(image.SOPInstanceUID)


def run(report: Report, stored: Stored, only: Callable[[str], bool], seconds: int) -> None:
    """Store everything in each archive, look at a few answers byte by byte, then measure."""
    size = sum(file.stat().st_size for file in stored.files) / 1e6
    say(f"{len(stored.files)} instances, {size:.0f} MB")
    wrong = {}
    for archive in report.archives:
        load.store(archive, stored.files)
        try:
            _check(archive, stored)
        except (OSError, RuntimeError) as error:
            wrong[archive.name] = f"{type(error).__name__}: {error}"
    if only(floors.J2K_FIRST):
        _first_time(report, stored, wrong)
    for name, paths in ((floors.J2K_AGAIN, stored.paths), (floors.J2K_HELD, stored.paths[:_HELD])):
        if only(name):
            report.compare(name, 8, _again(paths, seconds, wrong))


def _check(archive: Archive, stored: Stored) -> None:
    """Raises RuntimeError when an answer does not hold the pixels as they were before compression."""
    for position in range(_ALIKE):
        body, kind, _ = archive.get(stored.paths[position], ACCEPT)
        if not kind.startswith("multipart/related") or stored.pixels_of(position) not in body:
            raise RuntimeError(f"other pixels than before compression: {stored.paths[position]}")


def _first_time(report: Report, stored: Stored, wrong: dict[str, str]) -> None:
    used = dict.fromkeys((archive.name for archive in report.archives), _ALIKE)

    def measure(archive: Archive, connections: int) -> Figures:
        _refuse(archive, wrong)
        begin = used[archive.name]
        used[archive.name] += _PER_ROUND[connections]
        fresh = stored.paths[begin : used[archive.name]]
        if len(fresh) < _PER_ROUND[connections]:
            raise RuntimeError("no untouched instances left: fewer repeats")
        with metered(archive) as cost:
            got = get.closed_loop(archive.http, fresh, connections, len(fresh), ACCEPT, "identity")
        cpu = cost.cpu * 1000 / len(fresh)
        return Figures(got.rate, got.megabytes, got.p50, got.p99, cpu, cost.generator, got.errors)

    for connections in _PER_ROUND:
        report.compare(floors.J2K_FIRST, connections, lambda archive, count=connections: measure(archive, count))


def _again(paths: Sequence[str], seconds: int, wrong: dict[str, str]) -> Callable[[Archive], Figures]:
    def measure(archive: Archive) -> Figures:
        _refuse(archive, wrong)
        get.closed_loop(archive.http, paths[:_HELD], 8, 2 * _HELD, ACCEPT, "identity")
        with metered(archive) as cost:
            got = get.wrk(archive.http, paths, 8, seconds, ACCEPT, "identity")
        cpu = cost.cpu * 1000 / max(1, got.requests)
        return Figures(got.rate, got.megabytes, got.p50, got.p99, cpu, cost.generator, got.errors)

    return measure


def _refuse(archive: Archive, wrong: dict[str, str]) -> None:
    if archive.name in wrong:
        raise RuntimeError(wrong[archive.name])
