"""Segmentations over slides: which lie on a slide, and their tiles in the colours of the segments, with alpha.

Tiles have the places and sizes of the slide's own. A pyramid of segmentations is one overlay; each tile is made of the
level that is just fine enough.
"""

import asyncio
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, nullcontext
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import BadPixels, NotFound, TooLarge
from dicomweb.slides.overlay import Coloured, covered, label_colours, labelled, lay
from dicomweb.slides.segmentation import (
    LABEL_MAP,
    SEGMENTATION,
    Segment,
    Segmentation,
    joined,
    lie_of,
    of_one_whole,
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
from wsi.overlay import Layer, Overlay, Part, coarsest_of, empty_tile, finished, frames_of, layer_for, part_of
from wsi.tiles import TileService

# Changes whenever the same request gives other bytes than before.
REVISION: Final = 1
# Frames that are decoded at once, and pixels from which on it is one.
_AT_ONCE: Final = 4
_LARGE: Final = 1 << 22
# The text of the metadata of one segmentation, some 300,000 frames of TILED_SPARSE; read one at a time.
_LONGEST: Final = 256 << 20
_CLASSES: Final = (SEGMENTATION, LABEL_MAP)
# Bytes that an instance takes in memory beside its maps, about; and one that lies on no slide.
_FIXED: Final = 64 << 10
_NONE: Final = 512
# Seconds for which an overlay that was looked up is taken for the current one, by requests that name its version.
_TRUSTED: Final = 1.0
Brush = Callable[[NDArray[Any]], Coloured]


class SegmentationService:
    """Segmentations of slides. Methods take the caller's rights; what they may not see does not exist."""

    def __init__(self, archive: Archive, tiles: TileService) -> None:
        self._archive = archive
        self._tiles = tiles
        limit = archive.settings.slide_cache_bytes
        self._read: Cache[tuple[int, str, str], tuple[Segmentation | None]] = Cache(limit, kept=1)
        self._overlays: Cache[tuple[int, str, str], Overlay] = Cache(limit, kept=1)
        self._reading = asyncio.Lock()
        # Of large frames a process holds one at a time in memory.
        self._large = asyncio.Semaphore(1)
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
        if held is not None and held.stored is not stored:
            held = None
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
        read = [(each.instance, await self._segmentation(each)) for each in objects]
        layers = []
        for instances, segmentation in _wholes([(instance, found) for instance, found in read if found is not None]):
            lie = lie_of(segmentation, stored.slide.base, coordinates, images)
            if lie:
                layers.append(Layer(instances, segmentation, lie))
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
        layer = layer_for(overlay, slide.base.width / rung.width)
        part = part_of(slide, layer, rung, x, y)
        found = [] if part is None else await asyncio.to_thread(frames_of, layer.segmentation, shown, part)
        if part is None or not any(placed for _, placed in found):
            return empty_tile(rung.rows, rung.columns)
        numbers = ",".join(str(each.number) for each in shown)
        name = f"{overlay.name}-{layer.instance.sop}-{level}-{x}-{y}-{numbers}"

        async def make() -> bytes:
            async with self._slots:
                canvas = np.zeros((*part.size, 4), np.uint8)
                for segment, placed in found:
                    await self._paint(access, canvas, layer, part, segment, placed)
                return await asyncio.to_thread(finished, canvas, part, rung)

        return await self._tiles.kept(f"{access.tenant} {overlay.stored.series} segments {REVISION} {name}", make)

    async def _paint(
        self,
        access: Access,
        canvas: Coloured,
        layer: Layer,
        part: Part,
        shown: Sequence[Segment],
        placed: Sequence[Placed],
    ) -> None:
        """Lay the frames of one segment, or those of a label map, on the canvas."""
        brush = _brush(layer.segmentation, shown, part.factor)
        for place, some in groupby(placed, lambda each: each[0].instance):
            await self._paint_of(access, canvas, layer, part, brush, layer.instances[place], list(some))

    async def _paint_of(
        self,
        access: Access,
        canvas: Coloured,
        layer: Layer,
        part: Part,
        brush: Brush,
        instance: Instance,
        placed: Sequence[Placed],
    ) -> None:
        """Lay frames of one instance on the canvas, a window of them in memory."""
        tiled = layer.segmentation.tiled
        located = [await self._archive.frames.frame(access, instance, ref.frame) for ref, _, _ in placed]
        if any(each.size(0) > MAX_STORED for each in located):
            raise TooLarge(f"a frame of the segmentation has more than {MAX_STORED} bytes")
        whole = Located(
            instance,
            tuple(each.extents[0] for each in located),
            tuple(each.bits[0] if each.bits else None for each in located),
            word=located[0].word,
        )
        image = Image(whole, (), tiled.dataset, tiled.image)
        corners = [(x, y) for _, x, y in placed]
        large = tiled.rows * tiled.columns > _LARGE
        at_once = 1 if large else _AT_ONCE
        done, waiting = 0, list[bytes]()
        async with aclosing(self._archive.retrieve.values(whole)) as values:
            async for value in values:
                waiting.append(value)
                if len(waiting) < at_once and done + len(waiting) < len(corners):
                    continue
                async with self._large if large else nullcontext():
                    pixels = await asyncio.gather(*(self._archive.pixels.decode(image, each) for each in waiting))
                    arrays = [each.array for each in pixels]
                    await asyncio.to_thread(_lay, canvas, arrays, corners[done : done + len(arrays)], part, brush)
                done += len(arrays)
                waiting.clear()


def _overlay(stored: StoredSlide, layers: Sequence[Layer], version: int) -> Overlay:
    return Overlay(stored, tuple(layers), _name(stored, version), [-math.inf])


def _name(stored: StoredSlide, version: int) -> str:
    return f"{stored.name}-{version:x}"


def _wholes(
    found: Sequence[tuple[Instance, Segmentation]],
) -> Iterator[tuple[tuple[Instance, ...], Segmentation]]:
    """Segmentations with their instances. Parts of concatenations are put together, but for those of another form."""
    parts: dict[tuple[str, str], list[tuple[Instance, Segmentation]]] = {}
    for instance, each in found:
        name = each.tiled.concatenation or instance.sop
        parts.setdefault((instance.series, name), []).append((instance, each))
    for some in parts.values():
        if not some[0][1].tiled.concatenation:
            yield (some[0][0],), some[0][1]
            continue
        ordered = sorted(some, key=lambda each: (each[1].tiled.part, each[1].tiled.first or 0))
        alike = [each for each in ordered if of_one_whole(ordered[0][1], each[1])]
        yield tuple(instance for instance, _ in alike), joined([each for _, each in alike])


def _pyramids(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Layers of one series and pyramid (PS3.3 C.8.12.4.1.9) together, the finest first."""
    found: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        name = layer.segmentation.pyramid or layer.instance.sop
        found.setdefault((layer.instance.series, name), []).append(layer)
    return [sorted(each, key=lambda layer: layer.lie.side) for each in found.values()]


def _described(overlay: Overlay) -> dict[str, Any]:
    finest = overlay.layers[0]
    tiled = finest.segmentation.tiled
    bounds = finest.lie.bounds(tiled.width, tiled.height)
    return {
        "instance": finest.instance.sop,
        "series": finest.instance.series,
        "label": finest.segmentation.label,
        "type": finest.segmentation.kind,
        "version": overlay.name,
        "bounds": [round(each, 2) for each in bounds],
        "coarsest": coarsest_of(overlay),
        "segments": [
            {"number": each.number, "label": each.label, "type": each.kind,
             "colour": "#{:02x}{:02x}{:02x}".format(*each.colour)}
            for each in overlay.segments
        ],
    }  # fmt: skip


def _brush(segmentation: Segmentation, shown: Sequence[Segment], factor: int) -> Brush:
    """What makes colours of a frame, each side divided by `factor`."""
    if segmentation.kind == "labelmap":
        table = label_colours(shown)
        return lambda values: labelled(values, table, factor)
    greatest = segmentation.greatest if segmentation.kind == "fractional" else 1
    return lambda values: covered(values, greatest, shown[0].colour, factor)


def _lay(
    canvas: Coloured, arrays: Sequence[NDArray[Any]], corners: Sequence[tuple[int, int]], part: Part, brush: Brush
) -> None:
    """Lay what a part shows of some frames, whose left and top edges are `corners`, on its canvas."""
    left, top, right, bottom = part.bounds
    for array, (x, y) in zip(arrays, corners, strict=True):
        if array.ndim != 2:
            raise BadPixels("a frame of a segmentation has one sample", attribute="SamplesPerPixel")
        seen = array[max(0, top - y) : bottom - y, max(0, left - x) : right - x]
        if seen.size:
            lay(canvas, brush(seen), (max(x, left) - left) // part.factor, (max(y, top) - top) // part.factor)
