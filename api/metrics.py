"""What Prometheus reads: the counts of all processes of this server together (`storage.counts`), in its text format."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from storage.counts import BUCKETS, Counts, Key, Spread, Times, no_spread

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_REQUEST: Final = "http_request_seconds"
_BOUNDS: Final = (*map(str, BUCKETS), "+Inf")
_TEXTS: Final = {
    _REQUEST: "Time to the end of the answer.",
    "database_seconds": "Time of statements, with the wait for a connection.",
    "objects_seconds": "Time of requests to the object store, with their repetitions.",
}


class Metrics:
    """Counts HTTP requests, and tells what all processes of this server counted."""

    def __init__(
        self,
        directory: Path,
        server: int,
        totals: Callable[[], Mapping[Key, float]] = dict,
        times: Callable[[], Mapping[Key, Spread]] = dict,
        levels: Callable[[], Mapping[Key, float]] = dict,
    ) -> None:
        """As for Counts."""
        self._requests = Times()
        self._counts = Counts(directory, server, totals, lambda: {**times(), **self._requests.spreads}, levels)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one finished request; status 0 means that the answer never began or was cut."""
        self._requests.add((_REQUEST, "route", route, "method", method, "code", str(status)), seconds)

    def start(self) -> None:
        """Begin to write what is counted; needs a running loop."""
        self._counts.start()

    async def stop(self) -> None:
        """Write a last time."""
        await self._counts.stop()

    def expose(self, gauges: Mapping[str, tuple[str, float]]) -> bytes:
        """The text format; `gauges` (name -> help, value) are read by the caller at this moment."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, file descriptors and CPU of the process that answers
        registry.register(_Families(*self._counts.summed(), gauges))
        return generate_latest(registry)


class _Families:
    """Adapter: sums -> Prometheus families."""

    def __init__(
        self,
        totals: dict[Key, float],
        times: dict[Key, Spread],
        levels: dict[Key, float],
        gauges: Mapping[str, tuple[str, float]],
    ) -> None:
        self._totals = totals
        self._times = times
        self._levels = levels
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        yield from self._requests()
        yield from self._spreads({key: spread for key, spread in self._times.items() if key[0] != _REQUEST})
        yield from self._simple(CounterMetricFamily, self._totals)
        yield from self._simple(GaugeMetricFamily, self._levels)
        for name, (text, value) in sorted(self._gauges.items()):
            yield GaugeMetricFamily(f"anor_{name}", text, value=value)

    def _requests(self) -> Iterator[Metric]:
        """By status as numbers only: times of each status would be most of the page."""
        requests = CounterMetricFamily(
            "anor_http_requests", "HTTP requests by route, method and status.", labels=["route", "method", "code"]
        )
        merged: dict[Key, Spread] = {}
        for key, spread in sorted(self._times.items()):
            if key[0] == _REQUEST:
                requests.add_metric(key[2::2], sum(spread[1:]))
                sums = merged.get(key[:5]) or no_spread()
                merged[key[:5]] = [a + b for a, b in zip(sums, spread, strict=True)]
        yield requests
        yield from self._spreads(merged)

    def _spreads(self, times: Mapping[Key, Spread]) -> Iterator[Metric]:
        families: dict[str, HistogramMetricFamily] = {}
        for key, spread in sorted(times.items()):
            name, *labels = key
            if name not in families:
                families[name] = HistogramMetricFamily(f"anor_{name}", _TEXTS[name], labels=labels[::2])
            total, buckets = 0.0, []
            for bound, count in zip(_BOUNDS, spread[1:], strict=True):
                total += count
                buckets.append((bound, total))
            families[name].add_metric(labels[1::2], buckets=buckets, sum_value=spread[0])
        yield from families.values()

    def _simple(
        self, kind: type[CounterMetricFamily] | type[GaugeMetricFamily], values: Mapping[Key, float]
    ) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for key, value in sorted(values.items()):
            name, *labels = key
            if name not in families:
                help_text = name.replace("_", " ").capitalize() + "."
                families[name] = kind(f"anor_{name}", help_text, labels=labels[::2])
            families[name].add_metric(labels[1::2], value)
        yield from families.values()
