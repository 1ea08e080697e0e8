"""What a process counts for the metrics, and the file by which the processes of one server are added up.

Counting costs a fraction of a microsecond: plain dictionaries and lists, written once a second into a small file of the
process below the data directory. Labels come from closed sets (route templates, operations, outcomes): never a UID, a
name or an address.
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

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_FLUSH_S: Final = 1.0
_SEPARATOR: Final = "\x1f"

# A name, then labels and their values in turns. A name has always the same labels.
Key = tuple[str, ...]
# The sum of the seconds, then how many were in each of BUCKETS and above.
Spread = list[float]


class Times:
    """How long things took, for each key."""

    __slots__ = ("spreads",)

    def __init__(self) -> None:
        self.spreads: dict[Key, Spread] = {}

    def add(self, key: Key, seconds: float) -> None:
        """Count one that took so long."""
        spread = self.spreads.get(key)
        if spread is None:
            spread = self.spreads[key] = no_spread()
        spread[0] += seconds
        spread[1 + bisect_left(BUCKETS, seconds)] += 1


def no_spread() -> Spread:
    """Nothing counted yet."""
    return [0.0] * (len(BUCKETS) + 2)


class Counts:
    """Totals, times and levels of this process, and those of all processes of its server together."""

    def __init__(
        self,
        directory: Path,
        server: int,
        totals: Callable[[], Mapping[Key, float]],
        times: Callable[[], Mapping[Key, Spread]],
        levels: Callable[[], Mapping[Key, float]] = dict,
    ) -> None:
        """`server`: the process that all processes of one server have in common, as a rule their parent.

        `levels` go up and down, and end with the process.
        """
        self._parent = directory
        self._directory = directory / str(server)
        self._path = self._directory / f"{os.getpid()}.json"
        self._totals = totals
        self._times = times
        self._levels = levels
        self._written = b""
        self._task: asyncio.Task[None] | None = None

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

    def summed(self) -> tuple[dict[Key, float], dict[Key, Spread], dict[Key, float]]:
        """Totals and times of all processes of the server, ended ones as well, and levels of those that run."""
        totals: dict[Key, float] = {}
        times: dict[Key, Spread] = {}
        levels: dict[Key, float] = {}
        for snapshot in self._snapshots():
            for sums, name in ((totals, "totals"), (levels, "levels")):
                for text, value in snapshot[name].items():
                    key = tuple(text.split(_SEPARATOR))
                    sums[key] = sums.get(key, 0.0) + value
            for text, spread in snapshot["times"].items():
                key = tuple(text.split(_SEPARATOR))
                times[key] = [a + b for a, b in zip(times.get(key) or no_spread(), spread, strict=True)]
        return totals, times, levels

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._flush()

    def _flush(self) -> None:
        now = orjson.dumps(self._snapshot())
        if now == self._written:
            return
        temporary = self._path.with_suffix(".tmp")
        with suppress(OSError):  # a read-only data directory costs the sum over processes, nothing else
            temporary.write_bytes(now)
            temporary.replace(self._path)
            self._written = now

    def _snapshot(self) -> dict[str, dict[str, Any]]:
        return {
            "totals": {_SEPARATOR.join(key): value for key, value in self._totals().items()},
            "times": {_SEPARATOR.join(key): spread for key, spread in self._times().items()},
            "levels": {_SEPARATOR.join(key): value for key, value in self._levels().items()},
        }

    def _snapshots(self) -> Iterator[dict[str, dict[str, Any]]]:
        yield self._snapshot()
        for path in self._directory.glob("*.json"):
            if path != self._path:
                with suppress(OSError, orjson.JSONDecodeError):
                    found = orjson.loads(path.read_bytes())
                    yield found if Path(f"/proc/{path.stem}").exists() else found | {"levels": {}}


def _remove_dead(directory: Path) -> None:
    """Remove the files of servers that are gone."""
    for path in directory.iterdir():
        if path.name.isdigit() and not Path(f"/proc/{path.name}").exists():
            shutil.rmtree(path, ignore_errors=True)
