"""From a place on a level to a frame: arithmetic for TILED_FULL, sorted places for TILED_SPARSE (PS3.3 C.7.6.17.3).

A map belongs to one level, optical path and focal plane. What it holds grows with the frames there are, never with the
size of the matrix.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A matrix of `width` x `height` pixels, cut into tiles of `columns` x `rows`."""

    width: int
    height: int
    columns: int
    rows: int

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.columns)

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.rows)


@dataclass(frozen=True, slots=True)
class FrameRef:
    """A frame by the place of its instance in the slide, and its number in the instance from 0."""

    instance: int
    frame: int


@dataclass(frozen=True, slots=True)
class Part:
    """Frames `first` to `first + count - 1` of the whole are the frames 0 to `count - 1` of an instance."""

    first: int
    count: int
    instance: int


Placed = tuple[FrameRef, int, int]


class TileMap(Protocol):
    """Where the frames of one level, optical path and focal plane are."""

    @property
    def aligned(self) -> bool:
        """Whether every frame fills a tile of the regular grid: then `at` finds it."""
        ...

    @property
    def weight(self) -> int:
        """Bytes in memory, about."""
        ...

    @property
    def instances(self) -> tuple[int, ...]:
        """The places of the instances in the slide that the frames are of."""
        ...

    def at(self, x: int, y: int) -> FrameRef | None:
        """The frame that is the tile in column `x` and row `y` of the grid."""
        ...

    def within(self, left: int, top: int, right: int, bottom: int) -> list[Placed]:
        """Frames that overlap a rectangle of the matrix, with their left and top edges, in the order of the frames."""
        ...


@dataclass(frozen=True, slots=True)
class FullMap:
    """Frames row by row, from frame `base` of the whole on: the tile in column x and row y is the y * across + x-th."""

    across: int
    down: int
    columns: int
    rows: int
    base: int
    parts: tuple[Part, ...]
    aligned: bool = True
    weight: int = 128

    @property
    def instances(self) -> tuple[int, ...]:
        """See TileMap."""
        return tuple(part.instance for part in self.parts)

    def at(self, x: int, y: int) -> FrameRef | None:
        """See TileMap."""
        index = self.base + y * self.across + x
        for part in self.parts:
            if 0 <= index - part.first < part.count:
                return FrameRef(part.instance, index - part.first)
        return None

    def within(self, left: int, top: int, right: int, bottom: int) -> list[Placed]:
        """See TileMap."""
        found = []
        for y in range(max(0, top // self.rows), min(self.down, -(-bottom // self.rows))):
            for x in range(max(0, left // self.columns), min(self.across, -(-right // self.columns))):
                ref = self.at(x, y)
                if ref is not None:
                    found.append((ref, x * self.columns, y * self.rows))
        return found


class GridMap:
    """Frames that fill tiles of the grid, some of which are empty; of two frames in one tile the first counts."""

    aligned = True

    def __init__(self, across: int, columns: int, rows: int, frames: "Frames") -> None:
        self._across, self._columns, self._rows = across, columns, rows
        keys = frames.top.astype(np.int64) // rows * across + frames.left // columns
        keys, chosen = np.unique(keys, return_index=True)
        # A list of machine integers: bisect on it is ten times faster than NumPy's search for one value.
        self._keys = array("q", keys.tobytes())
        self._order = frames.order[chosen]
        self._instances = frames.instances
        self.instances = frames.used
        self.weight = 16 * len(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def at(self, x: int, y: int) -> FrameRef | None:
        """See TileMap."""
        key = y * self._across + x
        index = bisect_left(self._keys, key)
        if index == len(self._keys) or self._keys[index] != key:
            return None
        return _ref(int(self._order[index]), self._instances)

    def within(self, left: int, top: int, right: int, bottom: int) -> list[Placed]:
        """See TileMap."""
        found = []
        first, last = max(0, left // self._columns), min(self._across, -(-right // self._columns)) - 1
        for y in range(max(0, top // self._rows), -(-bottom // self._rows)):
            start = bisect_left(self._keys, y * self._across + first)
            for index in range(start, len(self._keys)):
                x = self._keys[index] - y * self._across
                if x > last:
                    break
                found.append((_ref(int(self._order[index]), self._instances), x * self._columns, y * self._rows))
        return found


class FreeMap:
    """Frames that lie anywhere, or over each other: later frames cover earlier ones."""

    aligned = False

    def __init__(self, columns: int, rows: int, frames: "Frames") -> None:
        self._columns, self._rows, self._frames = columns, rows, frames
        self.instances = frames.used
        self.weight = 16 * len(frames.order)

    def at(self, x: int, y: int) -> FrameRef | None:  # noqa: ARG002 - no frame is a tile
        """See TileMap."""
        return None

    def within(self, left: int, top: int, right: int, bottom: int) -> list[Placed]:
        """See TileMap."""
        frames = self._frames
        hit = (frames.left < right) & (frames.left > left - self._columns)
        hit &= (frames.top < bottom) & (frames.top > top - self._rows)
        return [
            (_ref(int(frames.order[i]), frames.instances), int(frames.left[i]), int(frames.top[i]))
            for i in np.flatnonzero(hit)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Placed frames of one or many instances: `order` is a number that rises with the order of the frames.

    `instances`: (lowest number, place of the instance in the slide) in ascending order.
    """

    left: NDArray[np.int32]
    top: NDArray[np.int32]
    order: NDArray[np.int32]
    instances: tuple[tuple[int, int], ...]

    @property
    def used(self) -> tuple[int, ...]:
        """The places of the instances that there are frames of, in their order."""
        firsts = np.array([first for first, _ in self.instances])
        groups = np.unique(np.searchsorted(firsts, self.order, "right") - 1)
        return tuple(self.instances[group][1] for group in groups.tolist())


def placed_map(across: int, columns: int, rows: int, frames: Frames) -> "GridMap | FreeMap":
    """The map of sparse frames: of a grid where every frame fits into one and none covers another."""
    if not ((frames.left % columns).any() or (frames.top % rows).any()):
        return GridMap(across, columns, rows, frames)
    return FreeMap(columns, rows, frames)


def _ref(order: int, instances: Sequence[tuple[int, int]]) -> FrameRef:
    for first, instance in reversed(instances):
        if order >= first:
            return FrameRef(instance, order - first)
    raise IndexError(order)
