"""Tiles of a slide in four ways, on one server: `python -m tests.bench.slide [SECONDS]`.

Rates and waiting times by wrk; processor time of the server's processes for each request, PostgreSQL's apart.
"""

import random
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import httpx
import psutil
from pydicom import dcmread

from dicomweb.uids import orthanc_ids
from tests.support import RunningServer, running_server
from tests.wsi.make_slide import Slide, make_slide

from .get import Sample, wrk

_SIZE = (12_000, 9_000)
_TILE = 256


def ways(made: Slide, version: str) -> dict[str, tuple[str, list[str]]]:
    """Name -> (Accept, paths of the tiles of the finest level in random order)."""
    first = dcmread(BytesIO(made.files[0]), stop_before_pixels=True)
    series = f"/wsi/slides/{made.series}/tiles/0"
    identifier = orthanc_ids(first.PatientID, made.study, made.series, first.SOPInstanceUID).series
    instance = f"/dicom-web/studies/{made.study}/series/{made.series}/instances/{first.SOPInstanceUID}"
    across, down = -(-_SIZE[0] // _TILE), -(-_SIZE[1] // _TILE)
    places = [(x, y) for y in range(down) for x in range(across)]
    random.Random(3).shuffle(places)
    return {
        "WADO-RS frame": ("image/jpeg", [f"{instance}/frames/{y * across + x + 1}" for x, y in places]),
        "tile": ("*/*", [f"{series}/{x}/{y}" for x, y in places]),
        "tile with its version": ("*/*", [f"{series}/{x}/{y}?v={version}" for x, y in places]),
        "tile as Orthanc's": ("*/*", [f"/wsi/tiles/{identifier}/0/{x}/{y}" for x, y in places]),
        "manifest": ("*/*", [f"/wsi/slides/{made.series}"]),
    }


def processor_time(server: RunningServer) -> tuple[float, float]:
    """Seconds spent so far: by the server's processes, and by PostgreSQL's."""
    spent = {True: 0.0, False: 0.0}
    for process in psutil.Process(server.process.pid).children(recursive=True):
        times = process.cpu_times()
        spent["postgres" in process.name()] += times.user + times.system
    return spent[False], spent[True]


def main(seconds: str = "4") -> None:
    made = make_slide(*_SIZE, levels=6)
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        for data in made.files:
            httpx.post(f"{server.url}/instances", content=data, timeout=120).raise_for_status()
        version = httpx.get(f"{server.url}/wsi/slides/{made.series}").json()["version"]
        print(f"{'':24}{'c':>2}{'per s':>10}{'p50 ms':>10}{'p99 ms':>10}{'CPU µs':>10}{'PG µs':>10}{'ratio':>8}")
        for connections in (1, 8):
            reference = 0.0
            for name, (accept, paths) in ways(made, version).items():
                before = processor_time(server)
                got: Sample = wrk(server.port, paths, connections, int(seconds), accept, "identity")
                own, database = (
                    (after - begun) / got.requests * 1e6
                    for after, begun in zip(processor_time(server), before, strict=True)
                )
                reference = reference or got.rate
                figures = f"{got.rate:10.0f}{got.p50:10.3f}{got.p99:10.3f}{own:10.0f}{database:10.0f}"
                print(f"{name:24}{connections:2}{figures}{got.rate / reference:8.2f}")
                if got.errors:
                    raise RuntimeError(f"{got.errors} of {got.requests} answers to {name} failed")


if __name__ == "__main__":
    main(*sys.argv[1:])
