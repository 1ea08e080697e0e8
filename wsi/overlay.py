"""The geometry of overlays: which layer of a segmentation a tile of the slide shows, which part of it, which frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from dicomweb.errors import TooLarge
from dicomweb.rendered.encode import encode_png
from dicomweb.slides.levels import Rung
from dicomweb.slides.overlay import Coloured, scaled, turned
from dicomweb.slides.pyramid import Slide
from dicomweb.slides.segmentation import ALL, Lie, Segment, Segmentation
from dicomweb.slides.tilemap import Placed
from storage.retrieve import Instance
from storage.slides import StoredSlide

# What a tile may be made of, and its memory.
MAX_FRAMES: Final = 1024
_MAX_CANVAS: Final = 1 << 22
# Places of frames that are looked into for one tile.
_MAX_CELLS: Final = 64 * MAX_FRAMES
_FACTORS: Final = (64, 32, 16, 8, 4, 2)
# Pixels of a canvas for one of a tile, from which on they are mixed.
_SMOOTH: Final = 1.05


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A segmentation on a slide: one level of an overlay. `instances`: one, or the parts of a concatenation."""

    instances: tuple[Instance, ...]
    segmentation: Segmentation
    lie: Lie

    @property
    def instance(self) -> Instance:
        """The one that it is named by."""
        return self.instances[0]


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """What is shown as one: `layers` from the finest. `name` is the version as URLs carry it.

    `checked` holds when it was last known to be the current one, by the clock of the event loop.
    """

    stored: StoredSlide
    layers: tuple[Layer, ...]
    name: str
    checked: list[float]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those of the finest level."""
        return self.layers[0].segmentation.segments


@dataclass(frozen=True, slots=True)
class Part:
    """What a tile shows of a layer: frames within a `box` of its matrix, each side divided by `factor`.

    `left`, `top`, `columns`, `rows`: the part of the tile that the box fills. `affine`: of a layer that is turned or
    flipped, from places of the tile to those of the canvas, see `turned`; the box may then fill less of the tile.
    """

    box: tuple[float, float, float, float]
    factor: int
    left: int
    top: int
    columns: int
    rows: int
    affine: tuple[float, float, float, float, float, float] | None = None

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """The box in whole pixels that can be divided."""
        factor = self.factor
        left, top = (math.floor(edge / factor) * factor for edge in self.box[:2])
        right, bottom = (math.ceil(edge / factor - 1e-9) * factor for edge in self.box[2:])
        return left, top, right, bottom

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        left, top, right, bottom = self.bounds
        return (bottom - top) // self.factor, (right - left) // self.factor


def layer_for(overlay: Overlay, downsample: float) -> Layer:
    """The coarsest one that is fine enough, else the finest."""
    fitting = [layer for layer in overlay.layers if layer.lie.side <= downsample * 1.01]
    return fitting[-1] if fitting else overlay.layers[0]


def part_of(slide: Slide, layer: Layer, rung: Rung, x: int, y: int) -> Part | None:
    """What a tile shows of a layer; None where it does not lie. Raises TooLarge."""
    part = _straight(slide, layer, rung, x, y) if layer.lie.straight else _turned(slide, layer, rung, x, y)
    if part is not None and part.size[0] * part.size[1] > _MAX_CANVAS:
        raise TooLarge("the segmentation has too many pixels at this level: ask for a finer one")
    return part


def _straight(slide: Slide, layer: Layer, rung: Rung, x: int, y: int) -> Part | None:
    tiled, lie = layer.segmentation.tiled, layer.lie
    # Pixels of the layer for one of the tile.
    across, down = slide.base.width / rung.width / lie.across, slide.base.height / rung.height / lie.down
    left, top = x * rung.columns * across - lie.left / lie.across, y * rung.rows * down - lie.top / lie.down
    first, last = _filled(left, across, rung.columns, tiled.width)
    upper, lower = _filled(top, down, rung.rows, tiled.height)
    if first >= last or upper >= lower:
        return None
    box = (
        max(0.0, left + first * across), max(0.0, top + upper * down),
        min(float(tiled.width), left + last * across), min(float(tiled.height), top + lower * down),
    )  # fmt: skip
    factor = _factor(layer.segmentation, min(across, down))
    return Part(box, factor, first, upper, last - first, lower - upper)


def _turned(slide: Slide, layer: Layer, rung: Rung, x: int, y: int) -> Part | None:
    tiled, lie = layer.segmentation.tiled, layer.lie
    across, down = slide.base.width / rung.width, slide.base.height / rung.height
    left, top = x * rung.columns * across, y * rung.rows * down
    around = lie.box(left, top, rung.columns * across, rung.rows * down)
    # A pixel more, for what lies between the middles of two.
    box = (
        max(0.0, around[0] - 1), max(0.0, around[1] - 1),
        min(float(tiled.width), around[2] + 1), min(float(tiled.height), around[3] + 1),
    )  # fmt: skip
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    part = Part(box, _factor(layer.segmentation, min(across, down) / lie.side), 0, 0, rung.columns, rung.rows)
    corners = np.array([[left, top], [left + across, top], [left, top + down]])
    start, right, below = (lie.on_matrix(corners) - part.bounds[:2]) / part.factor
    a, d = (right - start).tolist()
    b, e = (below - start).tolist()
    c, f = start.tolist()
    return replace(part, affine=(a, b, c, d, e, f))


def _factor(segmentation: Segmentation, most: float) -> int:
    """How much smaller frames may be made: whole pixels to each side."""
    tiled = segmentation.tiled
    if not all(each.aligned for each in segmentation.maps.values()):
        return 1
    return next((f for f in _FACTORS if most * (1 + 1e-9) >= f and tiled.columns % f + tiled.rows % f == 0), 1)


def _filled(start: float, step: float, count: int, side: int) -> tuple[int, int]:
    """The pixels of a tile, from and up to, that a side of the matrix fills: `start` + `step` times a pixel of it."""
    return max(0, round(-start / step)), min(count, round((side - start) / step))


def frames_of(
    segmentation: Segmentation, segments: Sequence[Segment], part: Part
) -> list[tuple[Sequence[Segment], list[Placed]]]:
    """The frames to lay down, by segment. Raises TooLarge."""
    bounds, tiled = part.bounds, segmentation.tiled
    cells = (-(-bounds[2] // tiled.columns) - bounds[0] // tiled.columns) * (
        -(-bounds[3] // tiled.rows) - bounds[1] // tiled.rows
    )
    kinds: list[tuple[Sequence[Segment], int]] = [([each], each.number) for each in segments]
    if segmentation.kind == "labelmap":
        kinds = [(segments, ALL)] if segments else []
    # Looking into empty places takes time as well.
    most = MAX_FRAMES if tiled.places is None else _MAX_CELLS
    too_many = TooLarge(f"the tile would be made of more than {MAX_FRAMES} frames: ask for a finer level")
    if tiled.frames > MAX_FRAMES and cells * len(kinds) > most:
        raise too_many
    found, count = [], 0
    for shown, number in kinds:
        placed = segmentation.maps[number].within(*bounds)
        found.append((shown, placed))
        count += len(placed)
        if count > MAX_FRAMES:
            raise too_many
    return found


def coarsest_of(overlay: Overlay) -> int:
    """The last level all of whose tiles can be made, by the size of a tile alone; the finest at the least."""
    slide = overlay.stored.slide
    for level, rung in enumerate(slide.rungs):
        layer = layer_for(overlay, slide.base.width / rung.width)
        tiled, maps = layer.segmentation.tiled, layer.segmentation.maps
        try:
            part = part_of(slide, layer, rung, rung.across // 2, rung.down // 2)
        except TooLarge:
            return max(0, level - 1)
        if part is None:
            continue
        scale = slide.base.width / rung.width, slide.base.height / rung.height
        left, top, right, bottom = layer.lie.box(0.0, 0.0, rung.columns * scale[0], rung.rows * scale[1])
        across, down = right - left, bottom - top
        tiles = min(tiled.across, across // tiled.columns + 2) * min(tiled.down, down // tiled.rows + 2)
        if min(tiled.frames, tiles * len(maps)) > MAX_FRAMES:
            return max(0, level - 1)
    return len(slide.rungs) - 1


def finished(canvas: Coloured, part: Part, rung: Rung) -> bytes:
    """The tile of a canvas that shows a part, as PNG."""
    if part.affine is not None:
        a, b, _, d, e, _ = part.affine
        return encode_png(turned(canvas, part.affine, (rung.columns, rung.rows), smooth=abs(a * e - b * d) > _SMOOTH))
    left, top, _, _ = part.bounds
    rows, columns = canvas.shape[:2]
    edges = zip(part.box, (left, top, left, top), (columns, rows, columns, rows), strict=True)
    box = tuple(min(float(most), (edge - start) / part.factor) for edge, start, most in edges)
    smooth = box[2] - box[0] > part.columns
    shown = np.zeros((rung.rows, rung.columns, 4), np.uint8)
    piece = scaled(canvas, (box[0], box[1], box[2], box[3]), (part.columns, part.rows), smooth=smooth)
    shown[part.top : part.top + part.rows, part.left : part.left + part.columns] = piece
    return encode_png(shown)


@lru_cache(maxsize=64)
def empty_tile(rows: int, columns: int) -> bytes:
    """A PNG of nothing."""
    return encode_png(np.zeros((rows, columns, 4), np.uint8))
