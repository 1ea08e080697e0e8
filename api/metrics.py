"""Counters for Prometheus, added up over all worker processes.

Each worker counts in plain dictionaries (a request costs a fraction of a microsecond) and writes them once a second
into a small file of its own below the data directory; whoever is asked for `/metrics` adds up the files of the
workers of the same parent. Labels come from closed sets: route templates, methods, status codes, outcomes; never a
UID, a name or an address.
"""

import asyncio
import os
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_FLUSH_S: Final = 1.0
_SEPARATOR: Final = "\x1f"
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

# Further counters that services keep: a name, then labels and their values in turns -> total. A name has always the
# same labels.
Counters = Mapping[tuple[str, ...], float]


class _Route:
    """Counts of one (route, method, status)."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_BUCKETS) + 1)
        self.seconds = 0.0


class Metrics:
    """The counters of this process, and the sum over all."""

    def __init__(self, directory: Path, sources: Callable[[], Counters] = dict) -> None:
        self._parent = directory
        self._directory = directory / str(os.getppid())
        self._path = self._directory / f"{os.getpid()}.json"
        self._routes: dict[tuple[str, str, int], _Route] = {}
        self._aborted = 0
        self._sources = sources
        self._dirty = True
        self._task: asyncio.Task[None] | None = None

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one finished request; status 0 means that the answer never began or was cut."""
        key = (route, method, status)
        counts = self._routes.get(key)
        if counts is None:
            counts = self._routes[key] = _Route()
        counts.buckets[bisect_left(_BUCKETS, seconds)] += 1
        counts.seconds += seconds
        self._dirty = True

    def start(self) -> None:
        """Begin to write the file; needs a running loop."""
        with suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_dead(self._parent)
        self._task = asyncio.get_running_loop().create_task(self._flush_forever())

    async def stop(self) -> None:
        """Write a last time."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._flush()

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            if self._dirty:
                self._flush()

    def _flush(self) -> None:
        self._dirty = False
        temporary = self._path.with_suffix(".tmp")
        with suppress(OSError):  # a read-only data directory costs the sum over workers, nothing else
            temporary.write_bytes(orjson.dumps(self._snapshot()))
            temporary.replace(self._path)

    def _snapshot(self) -> dict[str, dict[str, Any]]:
        return {
            "routes": {
                _SEPARATOR.join((route, method, str(status))): [counts.seconds, *counts.buckets]
                for (route, method, status), counts in self._routes.items()
            },
            "counters": {_SEPARATOR.join(key): value for key, value in self._sources().items()},
        }

    def _snapshots(self) -> Iterator[dict[str, dict[str, Any]]]:
        yield self._snapshot()
        for path in self._directory.glob("*.json"):
            if path != self._path:
                with suppress(OSError, orjson.JSONDecodeError):
                    yield orjson.loads(path.read_bytes())

    def expose(self, gauges: Mapping[str, tuple[str, float]]) -> bytes:
        """The text format over all workers; `gauges` (name -> help, value) are read by the caller at this moment."""
        routes: dict[str, list[float]] = {}
        counters: dict[str, float] = {}
        for snapshot in self._snapshots():
            for key, values in snapshot["routes"].items():
                sums = routes.setdefault(key, [0.0] * (len(_BUCKETS) + 2))
                for index, value in enumerate(values):
                    sums[index] += value
            for name, value in snapshot["counters"].items():
                counters[name] = counters.get(name, 0.0) + value
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, file descriptors and CPU of the worker that answers
        registry.register(_Families(routes, counters, gauges))
        return generate_latest(registry)


class _Families:
    """Adapter: sums -> Prometheus families."""

    def __init__(
        self, routes: dict[str, list[float]], counters: dict[str, float], gauges: Mapping[str, tuple[str, float]]
    ) -> None:
        self._routes = routes
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        requests = CounterMetricFamily(
            "anor_http_requests", "HTTP requests by route, method and status.", labels=["route", "method", "code"]
        )
        seconds = HistogramMetricFamily(
            "anor_http_request_seconds", "Time to the end of the answer.", labels=["route", "method"]
        )
        merged: dict[tuple[str, str], list[float]] = {}
        for key, values in sorted(self._routes.items()):
            route, method, code = key.split(_SEPARATOR)
            requests.add_metric([route, method, code], sum(values[1:]))
            sums = merged.setdefault((route, method), [0.0] * len(values))
            merged[route, method] = [a + b for a, b in zip(sums, values, strict=True)]
        for (route, method), values in merged.items():
            total, buckets = 0.0, []
            for bound, count in zip([*map(str, _BUCKETS), "+Inf"], values[1:], strict=True):
                total += count
                buckets.append((bound, total))
            seconds.add_metric([route, method], buckets=buckets, sum_value=values[0])
        yield requests
        yield seconds
        yield from self._others()
        for name, (text, value) in sorted(self._gauges.items()):
            yield GaugeMetricFamily(f"anor_{name}", text, value=value)

    def _others(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        for key, value in sorted(self._counters.items()):
            name, *labels = key.split(_SEPARATOR)
            if name not in families:
                help_text = name.replace("_", " ").capitalize() + "."
                families[name] = CounterMetricFamily(f"anor_{name}", help_text, labels=labels[::2])
            families[name].add_metric(labels[1::2], value)
        yield from families.values()


def _remove_dead(directory: Path) -> None:
    """Remove the files of servers that are gone."""
    for path in directory.iterdir():
        if path.name.isdigit() and not Path(f"/proc/{path.name}").exists():
            shutil.rmtree(path, ignore_errors=True)
