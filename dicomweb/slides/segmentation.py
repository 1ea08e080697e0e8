"""Tiled segmentations of slides (PS3.3 A.51, C.8.20): their segments, where the frames of each lie, and on what."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Final, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from dicomweb.rendered.attributes import Item, items, keyword, number, numbers, text
from dicomweb.slides.background import Rgb, cielab_colour
from dicomweb.slides.coordinates import SlideCoordinates
from dicomweb.slides.places import Ints, read_places, read_segments, split_metadata
from dicomweb.slides.tiled import MATRIX_COLUMNS, NotTiled, Tiled
from dicomweb.slides.tilemap import Frames, FullMap, Grid, Part, TileMap, placed_map

Kind = Literal["binary", "fractional", "labelmap"]

SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP: Final = "1.2.840.10008.5.1.4.1.1.66.7"
# The frames of a label map show all segments.
ALL: Final = 0
_KINDS: Final[Mapping[str, Kind]] = {"BINARY": "binary", "FRACTIONAL": "fractional", "LABELMAP": "labelmap"}
# Segments that do not say their colour.
_PALETTE: Final[tuple[Rgb, ...]] = (
    (0, 194, 168), (255, 93, 93), (93, 139, 255), (255, 181, 46), (196, 107, 255), (143, 209, 79),
    (255, 122, 198), (64, 224, 255), (190, 140, 90), (230, 230, 60),
)  # fmt: skip
# Segments that are shown, the first ones.
_MAX_SEGMENTS: Final = 1024
# Colours that are nearer to each other than this are taken for one.
_ALIKE: Final = 90.0
# Axes that differ by more than this part of the matrix are turned against each other.
_TURNED: Final = 0.005
# The part by which a pixel may seem smaller than it is before its matrix is taken for one that stands on the glass.
_STANDING: Final = 0.02
# Of the places of a frame, with its segment.
_PLACE_BYTES: Final = 16
# Matrices whose proportions differ by more than this show something else.
_PROPORTIONS: Final = 0.03


@dataclass(frozen=True, slots=True)
class Segment:
    """An item of the Segment Sequence; `kind`: the meaning of its Segmented Property Type."""

    number: int
    label: str
    kind: str
    colour: Rgb


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """A tiled segmentation. `maps`: the frames of each segment by its number, of a label map those of `ALL`.

    `greatest`: the stored value of a fractional one that means 1. `pyramid`: Pyramid UID or "". `images`: the SOP
    Instance UIDs that it refers to. A part of a concatenation has no maps, but `shown`, the segment of each frame where
    frames say so: see `joined`.
    """

    tiled: Tiled
    kind: Kind
    greatest: int
    label: str
    pyramid: str
    segments: tuple[Segment, ...]
    images: frozenset[str]
    maps: Mapping[int, TileMap]
    shown: Ints | None = None

    @property
    def weight(self) -> int:
        """Bytes in memory of the maps and places, about."""
        held = 0 if self.tiled.places is None else _PLACE_BYTES * len(self.tiled.places.left)
        return held + sum(each.weight for each in self.maps.values())


def read_segmentation(metadata: bytes, frames: int) -> Segmentation | None:
    """From the DICOM JSON of an instance, and how many frames can be served. None for what lies on no slide.

    Linear in the text; per-frame groups are not parsed.
    """
    header, where = split_metadata(metadata)
    dataset: dict[str, Any] = orjson.loads(header)
    kind = _KINDS.get(keyword(dataset, "00620001"))
    if MATRIX_COLUMNS not in dataset or kind is None:
        return None
    count = int(number(dataset, "00280008") or 0)
    places = read_places(metadata, where, count) if where[1] else None
    try:
        tiled = Tiled.of(dataset, places, per_frame=where[1] > 0, frames=min(frames, count))
    except NotTiled:
        return None
    image = tiled.image
    if image.samples != 1 or image.kind != "integer" or image.bits_allocated > 16:
        return None
    segments = tuple(_segments(dataset, kind))
    shown = read_segments(metadata, where, count)
    found = Segmentation(
        tiled,
        kind,
        max(1, int(number(dataset, "0062000E") or 255)),
        text(dataset, "0008103E") or text(dataset, "00700081") or text(dataset, "00700080"),
        text(dataset, "00080019"),
        segments,
        frozenset(_images(dataset)),
        {},
        shown,
    )
    return found if tiled.concatenation else joined([found])


def joined(parts: Sequence[Segmentation]) -> Segmentation:
    """The segmentation of these parts of a concatenation (PS3.3 C.7.6.16.1), in their order; the first is the sample.

    The frames of the maps are those of the instance at the same place. What lies in parts that are missing is empty.
    """
    sample = parts[0]
    tiled = replace(sample.tiled, frames=sum(each.tiled.frames for each in parts))
    numbers = [ALL] if sample.kind == "labelmap" else [each.number for each in sample.segments]
    maps = _full_maps(parts, numbers) if tiled.places is None else _sparse_maps(parts, numbers)
    return replace(sample, tiled=tiled, maps=dict(maps), shown=None)


def of_one_whole(one: Segmentation, other: Segmentation) -> bool:
    """Whether the frames of two parts have the same form, and lie on the same matrix."""
    return _form(one) == _form(other)


def _form(part: Segmentation) -> tuple[Any, ...]:
    tiled, image = part.tiled, part.tiled.image
    matrix = tiled.width, tiled.height, tiled.columns, tiled.rows, tiled.places is None
    return matrix, part.kind, part.segments, image.bits_allocated, image.bits_stored, image.photometric


def _segments(dataset: Item, kind: Kind) -> Iterator[Segment]:
    padding = number(dataset, "00280120")
    found = items(dataset, "00620002")[:_MAX_SEGMENTS]
    own = [_colour(item) for item in found]
    free = cycle([each for each in _PALETTE if not any(one and _alike(each, one) for one in own)] or _PALETTE)
    for item, colour in zip(found, own, strict=True):
        label_number = int(number(item, "00620004") or 0)
        if not 0 < label_number < 1 << 16 or (kind == "labelmap" and label_number == padding):
            continue  # the background
        kind_of = text(next(iter(items(item, "0062000F")), {}), "00080104")
        yield Segment(label_number, text(item, "00620005"), kind_of, colour or next(free))


def _colour(item: Item) -> Rgb | None:
    """Recommended Display CIELab Value."""
    lab = numbers(item, "0062000D")
    return cielab_colour(lab) if len(lab) == 3 else None


def _alike(one: Rgb, other: Rgb) -> bool:
    return math.dist(one, other) < _ALIKE


def _images(dataset: Item) -> Iterator[str]:
    for series in items(dataset, "00081115"):
        yield from (text(item, "00081155") for item in items(series, "0008114A"))
    yield from (text(item, "00081155") for item in items(dataset, "00082112"))


def _full_maps(parts: Sequence[Segmentation], segments: Sequence[int]) -> Iterator[tuple[int, TileMap]]:
    """TILED_FULL: the frames of one segment after those of the other (PS3.3 C.7.6.17.3)."""
    tiled = parts[0].tiled
    plane = tiled.across * tiled.down * len(tiled.planes)
    following, have = [], 0
    for place, part in enumerate(parts):
        first = have if part.tiled.first is None else part.tiled.first
        following.append(Part(first, part.tiled.frames, place))
        have = first + part.tiled.frames
    for place, segment in enumerate(segments):
        whole = tuple(following)
        yield segment, FullMap(tiled.across, tiled.down, tiled.columns, tiled.rows, place * plane, whole)


def _sparse_maps(parts: Sequence[Segmentation], segments: Sequence[int]) -> Iterator[tuple[int, TileMap]]:
    tiled = parts[0].tiled
    placed = [_placed(part) for part in parts]
    left, top, shown = (np.concatenate(column) for column in zip(*placed, strict=True))
    starts = np.cumsum([0, *(len(each[0]) for each in placed[:-1])]).tolist()
    firsts = tuple(zip(starts, range(len(parts)), strict=True))
    inside = (left >= 0) & (top >= 0) & (left < tiled.width) & (top < tiled.height)
    for segment in segments:
        chosen = np.flatnonzero(inside if segment == ALL else inside & (shown == segment)).astype(np.int32)
        frames = Frames(left[chosen], top[chosen], chosen, firsts)
        yield segment, placed_map(tiled.across, tiled.columns, tiled.rows, frames)


def _placed(part: Segmentation) -> tuple[Ints, Ints, Ints]:
    """The left and top edges of the frames that can be served, and their segments."""
    places, count = part.tiled.places, part.tiled.frames
    assert places is not None
    shared = next(iter(items(part.tiled.dataset, "52009229")), {})
    common = int(number(next(iter(items(shared, "0062000A")), {}), "0062000B") or 0)
    shown = np.full(len(places.left), common, np.int32) if part.shown is None else part.shown
    return places.left[:count], places.top[:count], shown[:count]


@dataclass(frozen=True, slots=True)
class Lie:
    """Where a matrix lies on a slide, in pixels of its finest level.

    A step along a row of the matrix is (`across`, `slant_down`) there, one along a column (`slant_across`, `down`).
    """

    left: float
    top: float
    across: float
    down: float
    slant_across: float = 0.0
    slant_down: float = 0.0

    @property
    def straight(self) -> bool:
        """Whether it is neither turned nor flipped: its rows are rows of the slide, from left to right."""
        return not (self.slant_across or self.slant_down) and self.across > 0 and self.down > 0

    @property
    def side(self) -> float:
        """The side of a pixel, as if it were square."""
        return math.sqrt(abs(self.across * self.down - self.slant_across * self.slant_down))

    @property
    def _axes(self) -> NDArray[np.float64]:
        return np.array([[self.across, self.slant_down], [self.slant_across, self.down]])

    def on_slide(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """N x 2 places of the matrix as places on the slide."""
        return np.asarray(places @ self._axes + (self.left, self.top))

    def on_matrix(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `on_slide`."""
        return np.asarray((places - (self.left, self.top)) @ np.linalg.inv(self._axes))

    def bounds(self, width: float, height: float) -> tuple[float, float, float, float]:
        """What a matrix of that size takes of the slide: left, top, right, bottom."""
        return _around(self.on_slide(_corners(0.0, 0.0, width, height)))

    def box(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        """The part of the matrix within which a rectangle of the slide lies: left, top, right, bottom."""
        return _around(self.on_matrix(_corners(left, top, width, height)))


def _corners(left: float, top: float, width: float, height: float) -> NDArray[np.float64]:
    right, bottom = left + width, top + height
    return np.array([[left, top], [right, top], [left, bottom], [right, bottom]])


def _around(points: NDArray[np.float64]) -> tuple[float, float, float, float]:
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def lie_of(
    segmentation: Segmentation, slide: Grid, coordinates: SlideCoordinates | None, images: frozenset[str]
) -> Lie | None:
    """Where a segmentation lies on a slide with these instances; None for one that lies on another, or not flat.

    By the slide coordinates of both where they share a frame of reference; else one that refers to the slide's images
    covers all of it.
    """
    tiled = segmentation.tiled
    whole = Lie(0.0, 0.0, slide.width / tiled.width, slide.height / tiled.height)
    placed = _coordinates(tiled)
    if coordinates is None or placed is None or placed.frame_of_reference != coordinates.frame_of_reference:
        other = coordinates is not None and tiled.frame_of_reference not in {"", coordinates.frame_of_reference}
        alike = abs(whole.across / whole.down - 1) <= _PROPORTIONS
        return whole if alike and not other and not images.isdisjoint(segmentation.images) else None
    width, height = float(tiled.width), float(tiled.height)
    corners = coordinates.to_pixels(placed.to_mm(np.array([[0.0, 0.0], [width, 0.0], [0.0, height]])))
    (left, top), (right, right_top), (left_bottom, bottom) = corners.tolist()
    lie = Lie(
        left, top, (right - left) / width, (bottom - top) / height,
        (left_bottom - left) / height, (right_top - top) / width,
    )  # fmt: skip
    # What is smaller on the slide than its pixels measure stands out of the glass.
    flat = placed.pixel_area / coordinates.pixel_area
    if abs(lie.side**2 / flat - 1) > _STANDING:
        return None
    straight = abs(right_top - top) <= _TURNED * abs(right - left) and abs(left_bottom - left) <= _TURNED * abs(
        bottom - top
    )
    if not straight or lie.across <= 0 or lie.down <= 0:
        return lie
    # Levels of a pyramid often name one origin, though the middle of their first pixels is not at one place.
    near = max(abs(left), abs(right - slide.width)) <= lie.across, max(abs(top), abs(bottom - slide.height)) <= lie.down
    return whole if all(near) else Lie(left, top, lie.across, lie.down)


def _coordinates(tiled: Tiled) -> SlideCoordinates | None:
    return None if tiled.spacing is None else SlideCoordinates.of(tiled.dataset, tiled.spacing[::-1])
