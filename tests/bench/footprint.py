"""What Anor costs: the time to start, the memory it holds when idle, and how it grows under large objects."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import archives, data, floors, get, post, processes
from .archives import DICOMWEB, Archive
from .load import by_stow
from .report import Figures, Report, say

_MEBIBYTE = 2**20
_LARGE = 200  # MiB
_OBJECTS = 3


def run(work: Path, results: Path | None, repeats: int) -> Report:
    """Start over an empty directory, start again over it, then move large objects in and out of the last one."""
    report = Report([], repeats, results)
    home = work / "footprint"
    first: list[float] = []
    for _ in range(repeats):
        with archives.anor(home, fresh=True) as started:
            first.append(started.seconds)
    _value(report, floors.START_FIRST, sorted(first)[repeats // 2])
    warm: list[float] = []
    for _ in range(repeats):
        with archives.anor(home, fresh=False) as started:
            warm.append(started.seconds)
    _value(report, floors.START_WARM, sorted(warm)[repeats // 2])
    with archives.anor(home, fresh=True) as started:
        time.sleep(5)
        idle = processes.memory(started.archive.pids)
        say(f"{idle.processes} processes; {idle.pss / _MEBIBYTE:.0f} MiB when shared pages are divided (PSS)")
        _value(report, floors.IDLE, idle.rss / _MEBIBYTE)
        _large_objects(report, started.archive, work)
    shutil.rmtree(home)
    return report


def _value(report: Report, test: str, value: float) -> None:
    report.add(test, 1, {"anor": Figures(rate=value)})


def _large_objects(report: Report, archive: Archive, work: Path) -> None:
    files = [work / "large" / f"{number}.dcm" for number in range(_OBJECTS)]
    names = [data.large(path, _LARGE, number) for number, path in enumerate(files)]

    def store() -> None:
        for path in files:
            posted = post.post_all(archive.http, [by_stow([path])], 1)
            if posted.refused:
                raise RuntimeError(f"a large object was refused: {posted.refused[0][:2]}")

    def fetch() -> None:
        reader = get.Reader(archive.http)
        for number, name in enumerate(names):
            study, series = data.uid("large", number), data.uid("large", number, 1)
            path = f"{DICOMWEB}/studies/{study}/series/{series}/instances/{name}"
            size = reader.get(path, 'multipart/related; type="application/dicom"')
            if size < files[number].stat().st_size:
                raise RuntimeError(f"{size} bytes of {files[number].stat().st_size} came back")
        reader.close()

    for test, work_on in ((floors.GROWTH_IN, store), (floors.GROWTH_OUT, fetch)):
        with _growth(archive) as grown:
            _timed(work_on, test)
        _value(report, test, grown[0] / _MEBIBYTE)
    shutil.rmtree(work / "large")


def _timed(work: Callable[[], None], what: str) -> None:
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    say(f"{what}: {_OBJECTS} objects of {_LARGE} MiB in {seconds:.1f} s, {_OBJECTS * _LARGE / seconds:.0f} MiB/s")


@contextmanager
def _growth(archive: Archive) -> Iterator[list[int]]:
    """The most that all processes together grew by, in bytes, looked at every 20 ms; PSS: shared pages count once."""
    grown, end = [0], threading.Event()
    before = processes.memory(archive.pids).pss

    def watch() -> None:
        while not end.wait(0.02):
            grown[0] = max(grown[0], processes.memory(archive.pids).pss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        end.set()
        watcher.join()
