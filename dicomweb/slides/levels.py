"""Levels of a slide: those that are stored, and those that are made of them where the steps are too wide."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicomweb.slides.tilemap import Grid, TileMap

# Optical Path Identifier, and Z offset of the focal plane in µm.
Key = tuple[str, float]

# A level that is not stored is made of the next finer one, at a quarter of its size: of sixteen frames a tile.
FACTOR: Final = 4
# A step up to here needs nothing in between; viewers scale.
_WIDEST: Final = 4.5
# An image of this size needs no coarser one.
_APEX: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Level(Grid):
    """A stored level: the total pixel matrix, the frames' size, and a map for each (path, Z offset).

    `spacing` between rows and columns in mm. `sample`: the place of one of its instances in the slide. `derived`: the
    level was made of the next finer one, see derived.py; `sample` is then an instance of the stored one.
    """

    spacing: tuple[float, float] | None
    maps: Mapping[Key, TileMap]
    sample: int
    derived: bool = False

    def map_of(self, path: str, depth: float) -> TileMap | None:
        """The map of an optical path at the focal plane that is nearest to `depth`; None without the path."""
        exact = self.maps.get((path, depth))
        if exact is not None:
            return exact
        near = min((key for key in self.maps if key[0] == path), key=lambda key: abs(key[1] - depth), default=None)
        return None if near is None else self.maps[near]


@dataclass(frozen=True, slots=True)
class Rung(Grid):
    """A level as clients see it: `level` stored, or 1 / `factor` of it. Tiles are `columns` x `rows` at all edges."""

    level: int
    factor: int


def ladder(levels: tuple[Level, ...]) -> tuple[Rung, ...]:
    """From the finest level to the coarsest."""
    rungs = []
    for index, level in enumerate(levels):
        rungs.append(Rung(level.width, level.height, level.columns, level.rows, index, 1))
        if lacks_coarser(level.width, level.height, levels[index + 1] if index + 1 < len(levels) else None):
            width, height = -(-level.width // FACTOR), -(-level.height // FACTOR)
            rungs.append(Rung(width, height, level.columns, level.rows, index, FACTOR))
    return tuple(rungs)


def lacks_coarser(width: int, height: int, coarser: Level | None) -> bool:
    """Whether the step from a level of this size to the next one (None: there is none) is too wide."""
    return max(width, height) > _APEX if coarser is None else width > _WIDEST * coarser.width
