"""Microscopy Bulk Simple Annotations (PS3.3 C.37): groups of very many shapes, and those that lie in a rectangle."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import BadDicom
from dicomweb.rendered.attributes import Item, items, keyword, number, numbers, text
from dicomweb.slides.background import cielab_colour
from dicomweb.slides.coordinates import Points, SlideCoordinates

BULK_ANNOTATIONS: Final = "1.2.840.10008.5.1.4.1.1.91.1"
GROUPS: Final = "006A0002"
COORDINATES: Final = ("00660016", "00660022")
INDEX: Final = "00660040"
# Points of a shape whose number does not vary.
_POINTS: Final = {"POINT": 1, "ELLIPSE": 4, "RECTANGLE": 4}
_SHAPES: Final = frozenset((*_POINTS, "POLYLINE", "POLYGON"))
_ROUND: Final = 24  # points that an ellipse is drawn with
# What is smaller on the screen than so many of its pixels is counted in squares instead of drawn.
_SMALLEST: Final = 3
_SQUARE: Final = 6
# Shapes that one answer has; of more, the largest.
MAX_SHAPES: Final = 20_000

Indexes = NDArray[np.int64]
Boxes = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Group:
    """A group of annotations of one kind. `place`: of its item in the sequence; `count`: as its attributes state.

    `planar`: coordinates are places in the matrix of `image` (SOP Instance UID), else millimetres; `flat`: without Z.
    """

    place: int
    number: int
    label: str
    kind: str
    shape: str
    count: int
    colour: str
    planar: bool
    image: str
    flat: bool
    frame_of_reference: str


def read_groups(dataset: Item) -> list[Group]:
    """The groups of an instance that can be drawn."""
    planar = keyword(dataset, "006A0001") != "3D"
    image = text(next(iter(items(dataset, "00081140")), {}), "00081155")
    found = []
    for place, item in enumerate(dataset.get(GROUPS, {}).get("Value") or ()):
        if not isinstance(item, dict) or keyword(item, "00700023") not in _SHAPES:
            continue
        lab = numbers(item, "0062000D")
        found.append(
            Group(
                place,
                int(number(item, "0040A180") or place + 1),
                text(item, "006A0005"),
                text(next(iter(items(item, "006A000A")), {}), "00080104"),
                keyword(item, "00700023"),
                int(number(item, "006A000C") or 0),
                "#{:02x}{:02x}{:02x}".format(*cielab_colour(lab)) if len(lab) == 3 else "",
                planar,
                image,
                planar or number(item, "006A0010") is not None,
                text(dataset, "00200052"),
            )
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """The shapes of a group in places of the slide's finest level.

    `points`: N x 2; shape i has those from `starts[i]` up to `starts[i + 1]`. `boxes`: left, top, right, bottom of
    each.
    """

    shape: str
    points: NDArray[np.float32]
    starts: Indexes
    boxes: Boxes

    @property
    def weight(self) -> int:
        """Bytes in memory."""
        return self.points.nbytes + self.starts.nbytes + self.boxes.nbytes

    @classmethod
    def of(cls, group: Group, flat: NDArray[Any], index: NDArray[np.uint32] | None, placed: "Placement") -> "Shapes":
        """From the coordinates of a group and its index list (from 1, of coordinates and not of points).

        Raises BadDicom where they do not fit together.
        """
        each = 2 if group.flat else 3
        if flat.size == 0 or flat.size % each:
            raise BadDicom("the coordinates of the group are incomplete", attribute="PointCoordinatesData")
        count = flat.size // each
        fixed = _POINTS.get(group.shape)
        if fixed is not None:
            starts = np.arange(0, count + 1, fixed, dtype=np.int64)
        elif index is None or not index.size:
            raise BadDicom("the group has no index of its shapes", attribute="LongPrimitivePointIndexList")
        else:
            first = index.astype(np.int64) - 1
            starts = np.append(first // each, count)
            if first[0] != 0 or (first % each).any() or (np.diff(starts) < 1).any():
                raise BadDicom("the index of the shapes is not in order", attribute="LongPrimitivePointIndexList")
        if starts[-1] != count:
            raise BadDicom("the coordinates of the group are incomplete", attribute="PointCoordinatesData")
        points = placed.pixels(flat.reshape(-1, each).astype(np.float64)).astype(np.float32)
        if not np.isfinite(points).all():
            raise BadDicom("a coordinate is no number", attribute="PointCoordinatesData")
        low = np.minimum.reduceat(points, starts[:-1], axis=0)
        high = np.maximum.reduceat(points, starts[:-1], axis=0)
        return cls(group.shape, points, starts, np.hstack([low, high]))

    def within(self, box: tuple[float, float, float, float], pixel: float) -> dict[str, Any]:
        """What a rectangle (left, top, right, bottom) shows where a pixel of the screen is `pixel` of the finest level.

        Coordinates are whole numbers of `unit` from the rectangle's corner. `lengths`: how many points each shape has;
        `points`: x and y in turns, each point as the step from the one before, with those left out that fall together.
        `squares`: x, y (of the middle) and number of the shapes that are too small to be drawn, by squares of `square`.
        """
        left, top, right, bottom = box
        boxes = self.boxes
        hit = np.flatnonzero(
            (boxes[:, 0] < right) & (boxes[:, 2] >= left) & (boxes[:, 1] < bottom) & (boxes[:, 3] >= top)
        )
        sizes = np.max(boxes[hit, 2:] - boxes[hit, :2], axis=1, initial=0)
        large = sizes >= _SMALLEST * pixel if self.shape != "POINT" else np.zeros(len(hit), bool)
        if np.count_nonzero(large) > MAX_SHAPES:
            least = np.partition(sizes, len(sizes) - MAX_SHAPES)[len(sizes) - MAX_SHAPES]
            large &= sizes > least
        unit = max(pixel / 4, 1 / 16)
        return {
            "unit": unit,
            "square": _SQUARE * pixel,
            **self._drawn(hit[large], (left, top), unit),
            "squares": self._squares(hit[~large], box, unit, _SQUARE * pixel),
        }

    def _drawn(self, chosen: Indexes, origin: tuple[float, float], unit: float) -> dict[str, NDArray[np.int64]]:
        starts = self.starts[chosen]
        lengths = self.starts[chosen + 1] - starts
        if not len(chosen):
            return {"lengths": lengths, "points": lengths}
        firsts = np.cumsum(lengths) - lengths
        points = self.points[np.repeat(starts - firsts, lengths) + np.arange(lengths.sum())]
        if self.shape == "ELLIPSE":
            points = _around(points)
            lengths = np.full(len(chosen), _ROUND)
            firsts = np.cumsum(lengths) - lengths
        places = np.rint((points - origin) / unit).astype(np.int64)
        kept = np.append(True, (places[1:] != places[:-1]).any(axis=1))
        kept[firsts] = True
        places = places[kept]
        steps = np.diff(places, axis=0, prepend=np.zeros((1, 2), np.int64))
        return {"lengths": np.add.reduceat(kept, firsts, dtype=np.int64), "points": np.ascontiguousarray(steps.ravel())}

    def _squares(
        self, chosen: Indexes, box: tuple[float, float, float, float], unit: float, square: float
    ) -> NDArray[np.int64]:
        left, top, right, bottom = box
        middle = (self.boxes[chosen, :2] + self.boxes[chosen, 2:]) / 2
        # Those whose middle lies in another rectangle are counted there.
        inside = (middle >= (left, top)).all(axis=1) & (middle < (right, bottom)).all(axis=1)
        cells = ((middle[inside] - (left, top)) // square).astype(np.int64)
        across = int((right - left) // square) + 1
        keys, counts = np.unique(cells[:, 1] * across + cells[:, 0], return_counts=True)
        columns, rows = keys % across, keys // across
        middles = (np.stack([columns, rows], axis=1) + 0.5) * square / unit
        return np.ascontiguousarray(np.column_stack([np.rint(middles).astype(np.int64), counts]).ravel())


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """How coordinates of a group become places in the finest level: scaled from another one, or out of millimetres."""

    coordinates: SlideCoordinates | None
    scale: tuple[float, float] = (1.0, 1.0)

    def pixels(self, points: Points) -> Points:
        """N x 2 places."""
        if self.coordinates is not None:
            return self.coordinates.to_pixels(points)
        return np.asarray(points * self.scale)


def _around(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ellipses as polygons: their points are the ends of the major and of the minor axis."""
    ends = points.reshape(-1, 4, 1, 2)
    angle = np.linspace(0, 2 * np.pi, _ROUND, endpoint=False)[:, None]
    middle, major, minor = ends.mean(axis=1), ends[:, 1] - ends[:, 0], ends[:, 3] - ends[:, 2]
    return np.asarray(middle + np.cos(angle) * major / 2 + np.sin(angle) * minor / 2, np.float32).reshape(-1, 2)
