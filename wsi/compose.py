"""Pictures of any part of a slide at any size, put together from frames of the level that is just fine enough.

JPEG frames are decoded at a half, a quarter or an eighth of their size where that is enough; all others as a whole.
Everything is decoded in the sandboxed processes.
"""

import asyncio
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from dicomweb.errors import BadPixels, CorruptObject, NotFound, ObjectMissing, TooLarge, Unavailable
from dicomweb.pixels.image import MONOCHROME, ImagePixel, Pixels
from dicomweb.rendered.encode import TIFF, encode_image, encode_tiff
from dicomweb.rendered.grayscale import Grayscale
from dicomweb.rendered.image import Source, picture
from dicomweb.rendered.parameters import DEFAULT_QUALITY, Profile, Rendering
from dicomweb.rendered.profiles import profile_of, standard_profile
from dicomweb.slides.channels import full_range
from dicomweb.slides.jpeg import JPEG_SYNTAXES, real_size
from dicomweb.slides.pyramid import Slide
from dicomweb.slides.tilemap import FrameRef, Placed, TileMap
from storage.access import Access
from storage.archive import Archive
from storage.derived import is_derived
from storage.pixels import Image
from storage.retrieve import Located
from storage.slides import StoredSlide
from wsi.blending import window_between
from wsi.dialects import Asked

Shown = NDArray[np.uint8]

# What one picture may be made of: four megapixels from a level four times as fine, in tiles of 256; and its memory.
MAX_FRAMES: Final = 1280
MAX_CANVAS: Final = 1 << 25
# Bytes of a stored frame.
MAX_STORED: Final = 64 << 20
# Pixels from which on frames and canvases wait for their turn.
_LARGE: Final = 1 << 22
_LARGE_AT_ONCE: Final = 2
# Bytes of pixels that become a picture in a fraction of a millisecond: a tile of 256 x 256 in colour.
_QUICK: Final = 192 << 10
_FACTORS: Final = (8, 4, 2)
# Pixels of a level for one of a picture, from which on a broken frame is no reason to refuse the picture.
_OVERVIEW: Final = 2
_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class View:
    """A part of a stored level, in its pixels, and the size (`columns` x `rows`) of the picture to make of it.

    The part lies within the level. `path` and `depth`: Optical Path Identifier, and Z offset of the focal plane in µm.
    `wanted`: window and colour profile.
    """

    level: int
    path: str
    depth: float
    left: float
    top: float
    width: float
    height: float
    columns: int
    rows: int
    wanted: Rendering


def map_of(slide: Slide, level: int, path: str, depth: float) -> TileMap:
    """The map of a level. Raises NotFound for an optical path that the level does not have."""
    found = slide.levels[level].map_of(path, depth)
    if found is None:
        raise NotFound("this level has no such optical path")
    return found


def level_for(slide: Slide, scale: float) -> int:
    """The coarsest level that is fine enough for `scale` pixels of a picture for each of the finest level."""
    width = slide.base.width * scale * 0.99
    return max((i for i, level in enumerate(slide.levels) if level.width >= width), default=0)


async def read_frame(archive: Archive, located: Located) -> bytes:
    """The bytes of a frame of a slide. Raises TooLarge for one that is no tile by any measure.

    Raises Unavailable for one of a level that was made and is lost: from now on it does not count, and is made anew.
    """
    if located.size(0) > MAX_STORED:
        raise TooLarge(f"a frame of the slide has more than {MAX_STORED} bytes")
    try:
        (value,) = await archive.retrieve.read_all(located)
    except (ObjectMissing, CorruptObject):
        if not is_derived(located.instance):
            raise
        await archive.slides.lost(located.instance)
        raise Unavailable("a coarse level of the slide was lost, and is made anew") from None
    return value


class Composer:
    """Decodes frames and puts them together. CPU time is spent in threads and decoder processes."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._slots = asyncio.Semaphore(2 * len(os.sched_getaffinity(0)))
        # Of large canvases and of large frames a process holds few at a time in memory.
        self._canvases = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._frames = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def frame(
        self, access: Access, stored: StoredSlide, ref: FrameRef, wanted: Rendering, factor: int = 1
    ) -> Shown:
        """One frame as shades or RGB, (rows, columns) or (rows, columns, 3), each side divided by `factor`."""
        image = stored.slide.instances[ref.instance].image
        async with self._frames if image.rows * image.columns > _LARGE else nullcontext():
            return await self._frame(access, stored, ref, wanted, factor)

    async def _frame(self, access: Access, stored: StoredSlide, ref: FrameRef, wanted: Rendering, factor: int) -> Shown:
        image, pixels, left = await self._decoded(access, stored, ref, factor)
        shown = await self._picture(access, image, pixels, wanted)
        tiled = stored.slide.instances[ref.instance]
        if (image.pixel.rows, image.pixel.columns) != (tiled.rows, tiled.columns):
            shown = padded(shown, (tiled.rows, tiled.columns), stored.slide.background)
        return reduced(shown, left)

    async def values(self, access: Access, stored: StoredSlide, ref: FrameRef, factor: int) -> NDArray[Any]:
        """One frame of shades as they are stored, (rows, columns) of integers, each side divided by `factor`.

        A frame that is smaller than Rows and Columns is so here, too.
        """
        image, pixels, left = await self._decoded(access, stored, ref, factor)
        return averaged(stored_values(pixels.array, image.pixel), left)

    async def _decoded(
        self, access: Access, stored: StoredSlide, ref: FrameRef, factor: int
    ) -> tuple[Image, Pixels, int]:
        """A frame, in its real size or reduced; and the factor by which it has to be reduced further."""
        tiled, instance = stored.slide.instances[ref.instance], stored.instances[ref.instance]
        located = await self._archive.frames.frame(access, instance, ref.frame)
        value = await read_frame(self._archive, located)
        image = Image(located, (ref.frame + 1,), tiled.dataset, tiled.image)
        jpeg = instance.transfer_syntax in JPEG_SYNTAXES and tiled.image.bits_allocated == 8
        size = real_size(value, tiled.image) if jpeg else (tiled.rows, tiled.columns)
        cut = size != (tiled.rows, tiled.columns)
        if cut:
            image = replace(image, pixel=replace(tiled.image, rows=size[0], columns=size[1]))
        if jpeg and factor > 1 and not cut:
            return image, await self._archive.decoders.reduce(value, tiled.image, factor), 1
        return image, await self._archive.pixels.decode(image, value), factor

    async def profile(self, access: Access, stored: StoredSlide, level: int, wanted: Profile) -> bytes | None:
        """The ICC profile to embed into pictures of a level: its own, or the one that was asked for; of colour only."""
        place = stored.slide.levels[level].sample
        tiled = stored.slide.instances[place]
        if wanted == "no" or tiled.image.photometric in MONOCHROME:
            return None
        if wanted != "yes":
            return standard_profile(wanted)
        image = Image(Located(stored.instances[place], ()), (), tiled.dataset, tiled.image)
        bulk = await self._archive.rendering.referenced(access, image)
        return profile_of(tiled.dataset, bulk) or standard_profile("srgb")

    async def _picture(self, access: Access, image: Image, pixels: Pixels, wanted: Rendering) -> Shown:
        bulk = await self._archive.rendering.referenced(access, image)
        source = Source(pixels, image.pixel, image.dataset, image.frames[0], bulk)
        if pixels.array.nbytes <= _QUICK and wanted.iccprofile in {"no", "yes"}:
            return _shown(source, wanted)  # a thread costs more
        async with self._slots:
            return await asyncio.to_thread(_shown, source, wanted)

    async def view(self, access: Access, stored: StoredSlide, view: View, limit: int = MAX_FRAMES) -> Shown:
        """The picture of a view, (rows, columns) or (rows, columns, 3), made of `limit` frames at most.

        Raises NotFound for an optical path that the level does not have, TooLarge for a view of too many frames.
        """
        slide, level = stored.slide, stored.slide.levels[view.level]
        tile_map = map_of(slide, view.level, view.path, view.depth)
        left, top = max(0, math.floor(view.left)), max(0, math.floor(view.top))
        right = min(level.width, math.ceil(view.left + view.width))
        bottom = min(level.height, math.ceil(view.top + view.height))
        factor = _factor(view, level.columns, level.rows) if tile_map.aligned else 1
        left, top = left // factor * factor, top // factor * factor
        right, bottom = left + max(factor, right - left), top + max(factor, bottom - top)
        placed = _placed(tile_map, (left, top, right, bottom), (level.columns, level.rows), limit)
        height, width = -(-(bottom - top) // factor), -(-(right - left) // factor)
        if width * height > MAX_CANVAS:
            raise TooLarge("the region has too many pixels at this level: ask for a smaller one")
        image = slide.instances[level.sample].image
        ends = min(view.left + view.width, level.width), min(view.top + view.height, level.height)
        edges = ((view.left, left), (view.top, top), (ends[0], left), (ends[1], top))
        box = tuple((value - edge) / factor for value, edge in edges)
        async with self._canvases if width * height > _LARGE else nullcontext():
            canvas = blank((height, width), slide.background, gray=image.photometric in MONOCHROME)
            await self._paste(access, stored, canvas, placed, (left, top), factor, view)
            async with self._slots:
                return await asyncio.to_thread(scaled, canvas, box, (view.columns, view.rows))

    async def _paste(
        self,
        access: Access,
        stored: StoredSlide,
        canvas: Shown,
        placed: Sequence[Placed],
        origin: tuple[int, int],
        factor: int,
        view: View,
    ) -> None:
        """Decode some frames at once, and put them down in their order: later ones cover earlier ones.

        `origin`: left and top edge of the canvas on the level, of which it is 1 / `factor`. Of a view that is far
        smaller than its frames one that is broken stays blank, as in the levels that are made: the rest is served.
        """
        left, top = origin
        slots = asyncio.Semaphore(_AT_ONCE)

        async def decoded(ref: FrameRef) -> Shown | None:
            await slots.acquire()
            try:
                return await self.frame(access, stored, ref, view.wanted, factor)
            except (BadPixels, CorruptObject):
                if view.width < _OVERVIEW * view.columns:
                    raise
                return None

        tasks = [asyncio.create_task(decoded(ref)) for ref, _, _ in placed]
        try:
            for task, (_, frame_left, frame_top) in zip(tasks, placed, strict=True):
                shown = await task
                if shown is not None:
                    put(canvas, shown, (frame_left - left) // factor, (frame_top - top) // factor)
                slots.release()  # only now: what is decoded ahead waits in memory
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _placed(tile_map: TileMap, box: tuple[int, int, int, int], tile: tuple[int, int], limit: int) -> list[Placed]:
    left, top, right, bottom = box
    if tile_map.aligned:
        count = (-(-right // tile[0]) - left // tile[0]) * (-(-bottom // tile[1]) - top // tile[1])
        _check_count(count, limit)
    found = tile_map.within(*box)
    _check_count(len(found), limit)
    return found


def _check_count(count: int, limit: int) -> None:
    if count > limit:
        raise TooLarge(
            f"the picture would be made of {count} frames, and of {limit} at most: "
            "ask for a smaller region, or a larger picture of it where coarser levels are stored"
        )


def _factor(view: View, columns: int, rows: int) -> int:
    """How much smaller frames may be decoded: still as large as the picture, and whole pixels to each side."""
    ratio = min(view.width / view.columns, view.height / view.rows) + 1e-6
    fitting = (factor for factor in _FACTORS if ratio >= factor and columns % factor + rows % factor == 0)
    return next(fitting, 1)


def _shown(source: Source, wanted: Rendering) -> Shown:
    """The picture of a frame; of more than 8 bits without a window the whole range, so that all tiles are alike."""
    image = source.image
    if image.photometric in MONOCHROME and wanted.window is None and image.kind == "integer":
        gray = Grayscale.of(source.dataset, source.number, image, source.bulk, None)
        wanted = wanted if gray.voi is not None else replace(wanted, window=window_between(*full_range(image, gray)))
    return picture(source, wanted)[0]


def scaled(canvas: Shown, box: tuple[float, ...], size: tuple[int, int]) -> Shown:
    """The part of a picture between left, top, right and bottom, as a picture of `size` (columns, rows)."""
    left, top, right, bottom = box
    same = right - left == size[0] and bottom - top == size[1]
    if same and left == int(left) and top == int(top):
        return canvas[int(top) : int(bottom), int(left) : int(right)]
    right, bottom = min(right, canvas.shape[1]), min(bottom, canvas.shape[0])
    image = Pillow.fromarray(canvas).resize(size, Pillow.Resampling.BICUBIC, box=(left, top, right, bottom))
    return np.asarray(image)


def finished(shown: Shown, asked: Asked, profile: bytes | None, spacing: tuple[float, float] | None) -> bytes:
    """Mirrored, turned, reduced to shades, and encoded: in this order (IIIF Image API 3.0, 4).

    `spacing`: micrometres a pixel, which TIFF tells.
    """
    if asked.mirrored:
        shown = np.fliplr(shown)
    shown = np.rot90(shown, -asked.rotation // 90)
    if asked.quality != "color" and shown.ndim == 3:
        shown, profile = np.asarray(Pillow.fromarray(np.ascontiguousarray(shown)).convert("L")), None
    if asked.quality == "bitonal":
        shown = np.where(shown < 128, 0, 255).astype(np.uint8)
    if asked.media_type == TIFF:
        return encode_tiff(shown, profile, spacing)
    return encode_image(shown, asked.media_type, DEFAULT_QUALITY, profile)


def blank(shape: tuple[int, int], colour: tuple[int, int, int], *, gray: bool) -> Shown:
    """A picture of (rows, columns) in one colour, or in its shade."""
    if gray:
        return np.full(shape, round(sum(colour) / 3), np.uint8)
    return np.full((*shape, 3), colour, np.uint8)


def padded(shown: Shown, shape: tuple[int, int], colour: tuple[int, int, int]) -> Shown:
    """A picture in the upper left corner of a larger one of (rows, columns)."""
    canvas = blank(shape, colour, gray=shown.ndim == 2)
    put(canvas, shown, 0, 0)
    return canvas


def put(canvas: Shown, piece: Shown, left: int, top: int) -> None:
    """Copy a picture into another one, as far as it lies within."""
    rows, columns = canvas.shape[:2]
    part = piece[max(0, -top) : max(0, rows - top), max(0, -left) : max(0, columns - left)]
    left, top = max(0, left), max(0, top)
    if canvas.ndim == 3 and part.ndim == 2:
        part = part[..., None]
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part


def reduced(shown: Shown, factor: int) -> Shown:
    """The means of squares of `factor` x `factor` pixels."""
    return shown if factor == 1 else np.asarray(Pillow.fromarray(shown).reduce(factor))


def stored_values(patterns: NDArray[Any], image: ImagePixel) -> NDArray[Any]:
    """The integers that pixels hold: bits above Bits Stored are no part of them, the sign is extended."""
    width = patterns.dtype.itemsize
    values: NDArray[Any] = patterns.view(f"<{'i' if image.signed else 'u'}{width}")
    spare = 8 * width - image.bits_stored
    return (values << spare) >> spare if spare else values


def averaged(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """The means of squares of `factor` x `factor` pixels of any type; at the far edges of what there is of a square."""
    if factor == 1:
        return values
    if values.dtype == np.uint8:
        return np.asarray(Pillow.fromarray(values).reduce(factor))
    rows, columns = values.shape[:2]
    padding = [(0, -rows % factor), (0, -columns % factor)]
    whole = np.pad(values, padding, mode="edge").astype(np.float64)
    squares = whole.reshape(whole.shape[0] // factor, factor, whole.shape[1] // factor, factor)
    means: NDArray[Any] = np.rint(squares.mean(axis=(1, 3))).astype(values.dtype)
    return means
