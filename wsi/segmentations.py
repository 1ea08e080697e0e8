"""Segmentations over slides: which lie on a slide, and their tiles in the colours of the segments, with alpha.

Tiles have the places and sizes of the slide's own. A pyramid of segmentations is one overlay; each tile is made of the
level that is just fine enough.
"""

import asyncio
import math
import os
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from dicomweb.errors import BadPixels, NotFound, TooLarge
from dicomweb.rendered.encode import encode_png
from dicomweb.slides.levels import Rung
from dicomweb.slides.overlay import Coloured, covered, label_colours, labelled, lay, scaled
from dicomweb.slides.pyramid import Slide
from dicomweb.slides.segmentation import (
    ALL,
    LABEL_MAP,
    SEGMENTATION,
    Lie,
    Segment,
    Segmentation,
    lie_of,
    read_segmentation,
)
from dicomweb.slides.tilemap import Placed
from storage.access import Access
from storage.archive import Archive
from storage.cache import Cache
from storage.pixels import Image
from storage.retrieve import Instance, Located
from storage.slides import StoredSlide
from storage.study_objects import Found, StudyObject
from wsi.annotations import coordinates_of
from wsi.compose import MAX_STORED
from wsi.tiles import TileService

# Changes whenever the same request gives other bytes than before.
REVISION: Final = 1
# What a tile may be made of, and its memory.
MAX_FRAMES: Final = 1024
_MAX_CANVAS: Final = 1 << 22
_FACTORS: Final = (64, 32, 16, 8, 4, 2)
# The text of the metadata of one segmentation, some 300,000 frames of TILED_SPARSE; read one at a time.
_LONGEST: Final = 256 << 20
_CLASSES: Final = (SEGMENTATION, LABEL_MAP)
# Bytes that an instance takes in memory beside its maps, about.
_FIXED: Final = 64 << 10
# Seconds for which an overlay that was looked up is taken for the current one, by requests that name its version.
_TRUSTED: Final = 1.0
_NONE: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A segmentation on a slide: one level of an overlay."""

    instance: Instance
    segmentation: Segmentation
    lie: Lie


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
class _Part:
    """What a tile shows of a layer: frames within a `box` of its matrix, each side divided by `factor`.

    `left`, `top`, `columns`, `rows`: the part of the tile that the box fills.
    """

    box: tuple[float, float, float, float]
    factor: int
    left: int
    top: int
    columns: int
    rows: int

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


class SegmentationService:
    """Segmentations of slides. Methods take the caller's rights; what they may not see does not exist."""

    def __init__(self, archive: Archive, tiles: TileService) -> None:
        self._archive = archive
        self._tiles = tiles
        limit = archive.settings.slide_cache_bytes
        self._read: Cache[tuple[int, str, str], tuple[Segmentation | None]] = Cache(limit, kept=1)
        self._overlays: Cache[tuple[int, str, str], Overlay] = Cache(limit, kept=1)
        self._reading = asyncio.Lock()
        self._slots = asyncio.Semaphore(2 * len(os.sched_getaffinity(0)))

    # -- what there is

    async def find(self, access: Access, stored: StoredSlide) -> Found:
        """The segmentations of the slide's study, whatever they lie on."""
        return await self._archive.study_objects.find(access, stored.study, _CLASSES, _LONGEST)

    async def listed(self, access: Access, stored: StoredSlide, found: Found) -> dict[str, Any]:
        """Those that lie on the slide, the newest first."""
        listed = []
        for layers in _pyramids(await self._layers(stored, found.objects)):
            version = await self._archive.retrieve.version(access, stored.study, layers[0].instance.series)
            listed.append(_described(_overlay(stored, layers, version)))
        return {"segmentations": listed, "left_out": found.left_out}

    async def overlay(self, access: Access, stored: StoredSlide, sop: str, wanted: str | None) -> Overlay:
        """The overlay whose finest level is an instance. Raises NotFound.

        Nothing can change of the version `wanted`, but that it is gone: whether it is, is looked up once a second.
        """
        access.require("dicom.read")
        key = (access.tenant, stored.series, sop)
        now = asyncio.get_running_loop().time()
        held = self._overlays.get(key)
        if held is not None and wanted == held.name and now - held.checked[0] < _TRUSTED:
            return held
        instance = await self._archive.retrieve.instance(access, stored.study, None, sop)
        version = await self._archive.retrieve.version(access, stored.study, instance.series)
        if held is not None and held.name == _name(stored, version):
            held.checked[0] = now
            return held
        found = await self.find(access, stored)
        of_series = [each for each in found.objects if each.instance.series == instance.series]
        layers = _pyramids(await self._layers(stored, of_series))
        whole = next((each for each in layers if each[0].instance.sop == sop), None)
        if whole is None:
            raise NotFound("the slide has no such segmentation")
        made = _overlay(stored, whole, version)
        made.checked[0] = now
        self._overlays.put(key, made, _FIXED)
        return made

    async def _layers(self, stored: StoredSlide, objects: Sequence[StudyObject]) -> list[Layer]:
        coordinates = coordinates_of(stored)
        images = frozenset(each.sop for each in stored.slide.instances if each.flavor == "VOLUME")
        layers = []
        for each in objects:
            segmentation = await self._segmentation(each)
            lie = segmentation and lie_of(segmentation, stored.slide.base, coordinates, images)
            if segmentation and lie:
                layers.append(Layer(each.instance, segmentation, lie))
        return layers

    async def _segmentation(self, found: StudyObject) -> Segmentation | None:
        key = (found.instance.tenant, found.instance.sop, found.instance.version)
        async with self._reading:
            held = self._read.get(key)
            if held is not None:
                return held[0]
            try:
                metadata = await self._archive.study_objects.metadata(found)
            except NotFound:
                return None
            made = await asyncio.to_thread(lambda: read_segmentation(metadata.inflate(), found.frames))
            self._read.put(key, (made,), _NONE if made is None else _FIXED + made.weight)
            return made

    # -- tiles

    async def tile(
        self, access: Access, overlay: Overlay, place: tuple[int, int, int], shown: Sequence[Segment]
    ) -> bytes:
        """The tile (level, column, row) of the slide as PNG with alpha, made of some segments; later ones cover others.

        `place` lies on the slide. Raises TooLarge, BadPixels for frames that are not what their attributes say.
        """
        access.require("dicom.read")
        slide, (level, x, y) = overlay.stored.slide, place
        rung = slide.rungs[level]
        layer = _layer_for(overlay, slide.base.width / rung.width)
        part = _part(slide, layer, rung, x, y)
        found = [] if part is None else _frames(layer.segmentation, shown, part)
        if part is None or not any(placed for _, placed in found):
            return _empty(rung.rows, rung.columns)
        numbers = ",".join(str(each.number) for each in shown)
        name = f"{overlay.name}-{layer.instance.sop}-{level}-{x}-{y}-{numbers}"

        async def make() -> bytes:
            async with self._slots:
                canvas = np.zeros((*part.size, 4), np.uint8)
                for segment, placed in found:
                    await self._paint(access, canvas, layer, part, segment, placed)
                return await asyncio.to_thread(_finished, canvas, part, rung)

        return await self._tiles.kept(f"{access.tenant} {overlay.stored.series} segments {REVISION} {name}", make)

    async def _paint(
        self,
        access: Access,
        canvas: Coloured,
        layer: Layer,
        part: _Part,
        shown: Sequence[Segment],
        placed: Sequence[Placed],
    ) -> None:
        """Lay the frames of one segment, or those of a label map, on the canvas, a window of them in memory."""
        if not placed:
            return
        segmentation, factor = layer.segmentation, part.factor
        located = [await self._archive.frames.frame(access, layer.instance, ref.frame) for ref, _, _ in placed]
        if any(each.size(0) > MAX_STORED for each in located):
            raise TooLarge(f"a frame of the segmentation has more than {MAX_STORED} bytes")
        whole = Located(
            layer.instance,
            tuple(each.extents[0] for each in located),
            tuple(each.bits[0] if each.bits else None for each in located),
            word=located[0].word,
        )
        image = Image(whole, (), segmentation.tiled.dataset, segmentation.tiled.image)
        table = label_colours(shown) if segmentation.kind == "labelmap" else None
        greatest = segmentation.greatest if segmentation.kind == "fractional" else 1
        corner = part.bounds[:2]
        places = iter(placed)
        async with aclosing(self._archive.retrieve.values(whole)) as values:
            async for value in values:
                _, left, top = next(places)
                array = (await self._archive.pixels.decode(image, value)).array
                if array.ndim != 2:
                    raise BadPixels("a frame of a segmentation has one sample", attribute="SamplesPerPixel")

                def put(array: Any = array, left: int = left, top: int = top) -> None:
                    colour = shown[0].colour
                    piece = (
                        covered(array, greatest, colour, factor) if table is None else labelled(array, table, factor)
                    )
                    lay(canvas, piece, (left - corner[0]) // factor, (top - corner[1]) // factor)

                await asyncio.to_thread(put)


def _overlay(stored: StoredSlide, layers: Sequence[Layer], version: int) -> Overlay:
    return Overlay(stored, tuple(layers), _name(stored, version), [-math.inf])


def _name(stored: StoredSlide, version: int) -> str:
    return f"{stored.name}-{version:x}"


def _pyramids(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Layers of one series and pyramid (PS3.3 C.8.12.4.1.9) together, the finest first."""
    found: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        name = layer.segmentation.pyramid or layer.instance.sop
        found.setdefault((layer.instance.series, name), []).append(layer)
    return [sorted(each, key=lambda layer: layer.lie.across) for each in found.values()]


def _layer_for(overlay: Overlay, downsample: float) -> Layer:
    """The coarsest one that is fine enough, else the finest."""
    fitting = [layer for layer in overlay.layers if layer.lie.across <= downsample * 1.01]
    return fitting[-1] if fitting else overlay.layers[0]


def _part(slide: Slide, layer: Layer, rung: Rung, x: int, y: int) -> _Part | None:
    """What a tile shows of a layer; None where it does not lie. Raises TooLarge."""
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
    aligned = all(each.aligned for each in layer.segmentation.maps.values())
    fitting = (f for f in _FACTORS if min(across, down) >= f and tiled.columns % f + tiled.rows % f == 0)
    part = _Part(box, next(fitting, 1) if aligned else 1, first, upper, last - first, lower - upper)
    if part.size[0] * part.size[1] > _MAX_CANVAS:
        raise TooLarge("the segmentation has too many pixels at this level: ask for a finer one")
    return part


def _filled(start: float, step: float, count: int, side: int) -> tuple[int, int]:
    """The pixels of a tile, from and up to, that a side of the matrix fills: `start` + `step` times a pixel of it."""
    return max(0, round(-start / step)), min(count, round((side - start) / step))


def _frames(
    segmentation: Segmentation, segments: Sequence[Segment], part: _Part
) -> list[tuple[Sequence[Segment], list[Placed]]]:
    """The frames to lay down, by segment. Raises TooLarge."""
    bounds = part.bounds
    if segmentation.kind == "labelmap":
        found = [(segments, segmentation.maps[ALL].within(*bounds) if segments else [])]
    else:
        found = [([each], segmentation.maps[each.number].within(*bounds)) for each in segments]
    if sum(len(placed) for _, placed in found) > MAX_FRAMES:
        raise TooLarge(f"the tile would be made of more than {MAX_FRAMES} frames: ask for a finer level")
    return found


def _coarsest(overlay: Overlay) -> int:
    """The last level all of whose tiles can be made, by the size of a tile alone; the finest at the least."""
    slide = overlay.stored.slide
    for level, rung in enumerate(slide.rungs):
        layer = _layer_for(overlay, slide.base.width / rung.width)
        tiled, maps = layer.segmentation.tiled, layer.segmentation.maps
        try:
            part = _part(slide, layer, rung, rung.across // 2, rung.down // 2)
        except TooLarge:
            return max(0, level - 1)
        if part is None:
            continue
        across = rung.columns * slide.base.width / rung.width / layer.lie.across
        down = rung.rows * slide.base.height / rung.height / layer.lie.down
        tiles = min(tiled.across, across // tiled.columns + 2) * min(tiled.down, down // tiled.rows + 2)
        if min(tiled.frames, tiles * len(maps)) > MAX_FRAMES:
            return max(0, level - 1)
    return len(slide.rungs) - 1


def _finished(canvas: Coloured, part: _Part, rung: Rung) -> bytes:
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
def _empty(rows: int, columns: int) -> bytes:
    return encode_png(np.zeros((rows, columns, 4), np.uint8))


def _described(overlay: Overlay) -> dict[str, Any]:
    finest = overlay.layers[0]
    lie, tiled = finest.lie, finest.segmentation.tiled
    bounds = (lie.left, lie.top, lie.left + lie.across * tiled.width, lie.top + lie.down * tiled.height)
    return {
        "instance": finest.instance.sop,
        "series": finest.instance.series,
        "label": finest.segmentation.label,
        "type": finest.segmentation.kind,
        "version": overlay.name,
        "bounds": [round(each, 2) for each in bounds],
        "coarsest": _coarsest(overlay),
        "segments": [
            {"number": each.number, "label": each.label, "type": each.kind,
             "colour": "#{:02x}{:02x}{:02x}".format(*each.colour)}
            for each in overlay.segments
        ],
    }  # fmt: skip
