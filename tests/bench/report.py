"""Rows of results: the archives take turns, medians and ratios are formed, printed, and kept as JSON lines."""

import json
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .archives import Archive

SUBJECT = "anor"


@dataclass(frozen=True, slots=True)
class Figures:
    """One run, or the medians of several. Times in ms; `cpu` is the server's per operation, `generator` is in CPUs."""

    rate: float
    megabytes: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    cpu: float = 0.0
    generator: float = 0.0
    errors: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """A test's medians by archive; `failed` says why one has none; `ratios` are Anor's rate over each other's."""

    test: str
    connections: int
    medians: dict[str, Figures]
    failed: dict[str, str]
    ratios: dict[str, float]


@dataclass(slots=True)
class Cost:
    """What a stretch of work took; filled when the `metered` block ends."""

    seconds: float = 0.0
    cpu: float = 0.0
    generator: float = 0.0


def say(line: str = "") -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _own_cpu() -> float:
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


@contextmanager
def metered(archive: Archive) -> Iterator[Cost]:
    """Wall time, the archive's CPU seconds, and the generator's CPU seconds per second."""
    cost = Cost()
    cpu, own, begin = archive.cpu(), _own_cpu(), time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - begin
    cost.generator = (_own_cpu() - own) / cost.seconds
    cost.cpu = archive.cpu() - cpu


class Report:
    """Collects rows; with `path` each is appended to a JSON-lines file as well."""

    def __init__(self, archives: Sequence[Archive], repeats: int, path: Path | None = None) -> None:
        self.archives = archives
        self.repeats = repeats
        self.rows: list[Row] = []
        self._path = path

    def compare(self, test: str, connections: int, measure: Callable[[Archive], Figures]) -> Row:
        """Measure each archive in turn, `repeats` rounds; an archive that fails is a result, the others go on."""
        runs: dict[str, list[Figures]] = {archive.name: [] for archive in self.archives}
        failed: dict[str, str] = {}
        for _ in range(self.repeats):
            for archive in self.archives:
                if archive.name in failed:
                    continue
                try:
                    runs[archive.name].append(measure(archive))
                except (OSError, RuntimeError, ValueError, KeyError) as error:
                    failed[archive.name] = f"{type(error).__name__}: {error}"[:300]
        medians = {name: _median(figures) for name, figures in runs.items() if figures and name not in failed}
        return self.add(test, connections, medians, failed)

    def add(
        self, test: str, connections: int, medians: dict[str, Figures], failed: dict[str, str] | None = None
    ) -> Row:
        """Keep and print a row."""
        own = medians.get(SUBJECT)
        ratios = {
            name: own.rate / figures.rate
            for name, figures in medians.items()
            if own and name != SUBJECT and figures.rate > 0
        }
        row = Row(test, connections, medians, failed or {}, ratios)
        self.rows.append(row)
        self._show(row)
        if self._path:
            record = {**asdict(row), "at": time.strftime("%Y-%m-%dT%H:%M:%S"), "load": os.getloadavg()[0]}
            with self._path.open("a") as out:
                out.write(json.dumps(record) + "\n")
        return row

    @staticmethod
    def _show(row: Row) -> None:
        for name, m in row.medians.items():
            if m == Figures(rate=m.rate):  # one value, whose unit is in the test's name
                say(f"{row.test:50s} {name:7s}{m.rate:10.2f}")
                continue
            say(
                f"{row.test:46s} c{row.connections:<2d} {name:7s}{m.rate:10.1f}/s {m.megabytes:8.1f} MB/s  "
                f"p50 {m.p50:8.2f}  p99 {m.p99:8.2f} ms  cpu {m.cpu:7.3f} ms  gen {m.generator:4.2f}  "
                f"errors {m.errors:.0f}"
            )
        for name, why in row.failed.items():
            say(f"{row.test:46s} c{row.connections:<2d} {name:7s}FAILED {why}")
        if row.ratios:
            ratios = "  ".join(f"{name} {ratio:.2f}x" for name, ratio in row.ratios.items())
            say(f"{row.test:46s} c{row.connections:<2d} ratio  {ratios}")


def _median(runs: Sequence[Figures]) -> Figures:
    return Figures(*(statistics.median(values) for values in zip(*(asdict(run).values() for run in runs), strict=True)))


def machine(work: Path) -> str:
    """One line on what is being measured: processor, memory, kernel, file system, and how busy it is already."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    total = re.search(r"MemTotal: *(\d+)", Path("/proc/meminfo").read_text())
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    where = str(work.resolve())
    inside = [(point, kind) for point, kind in mounts if where.startswith(point.rstrip("/") + "/")]
    _, filesystem = max(inside, key=lambda mount: len(mount[0]), default=("", "unknown"))
    name, gibibytes = (cpu[1] if cpu else platform.machine()), int(total[1]) / 2**20 if total else 0
    return (
        f"{os.cpu_count()} x {name}, {gibibytes:.0f} GiB, {platform.system()} {platform.release()}, {filesystem}; "
        f"load before: {os.getloadavg()[0]:.2f}"
    )


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSON-lines file; of a test that ran more than once the last."""
    rows: dict[tuple[str, int], Row] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        medians = {name: Figures(**figures) for name, figures in record["medians"].items()}
        row = Row(record["test"], record["connections"], medians, record["failed"], record["ratios"])
        rows[row.test, row.connections] = row
    return list(rows.values())
