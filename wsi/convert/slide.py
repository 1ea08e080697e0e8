"""A slide as DICOM files: one for each level, and for label, overview and thumbnail."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

import imagecodecs
import numpy as np
from PIL import Image

from dicomweb.media import EXPLICIT_LE
from dicomweb.pixels.decode import decode_frame
from dicomweb.pixels.encode import Quality, encode_frame, native_bytes
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.pixels.native import native_pixels
from dicomweb.pixels.syntaxes import JPEG_BASELINE, can_encode, encoded_form
from wsi.convert.attributes import SlideAttributes
from wsi.convert.options import SYNTAX_OF, Options
from wsi.convert.parts import divided
from wsi.convert.picture import small_picture
from wsi.convert.plan import PlannedLevel, plan, raw_form
from wsi.convert.source import Array, BadSlide, PictureKind, Place, Scan, Source, SourceLevel, blank
from wsi.convert.writer import InstanceWriter

# Frames in the making, for each thread.
_AHEAD: Final = 4
_PICTURE_QUALITY: Final = 95
_PICTURES: Final[tuple[PictureKind, ...]] = ("label", "overview", "thumbnail")

Progress = Callable[[int, int], None]
Made = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a series, the finest level first."""

    study: str
    series: str
    files: tuple[Path, ...]


def describe(source: Source, options: Options) -> dict[str, object]:
    """What a conversion would write, without writing it. Raises BadSlide."""
    levels = plan(source, options)
    return {
        "vendor": source.scan.vendor,
        "mpp": source.scan.mpp,
        "channels": [channel.name for channel in source.scan.channels],
        "focal_planes": len(source.scan.depths),
        "icc_profile": source.scan.icc is not None,
        "levels": [level.described() for level in levels if level.written],
        "pictures": sorted(_wanted(source, options, levels)),
    }


def _wanted(source: Source, options: Options, levels: list[PlannedLevel]) -> list[PictureKind]:
    """The small pictures to write. Label and overview show who the patient is, but for a part that was chosen."""
    held = source.pictures
    wanted = {
        "label": bool(options.label_file) or (options.label and "label" in held and not options.deidentify),
        "overview": options.overview and "overview" in held and bool(options.overview_part or not options.deidentify),
        "thumbnail": options.thumbnail and "thumbnail" in held and bool(levels),
    }
    return [kind for kind in _PICTURES if wanted[kind]]


class Conversion:
    """One run. `progress` is told how many frames of how many are written."""

    def __init__(self, source: Source, path: Path, out: Path, options: Options, progress: Progress) -> None:
        self._source = source
        self._scan = source.scan
        self._options = options
        self._out = out
        self._levels = plan(source, options)
        self._attributes = SlideAttributes(path, source.scan, source.levels[0], options)
        self._quality = Quality(jpeg=options.quality, subsampling=options.subsampling)
        self._progress = progress
        self._done = 0
        self._total = sum(level.pixel.number_of_frames for level in self._levels)
        self._workers = len(os.sched_getaffinity(0))

    def run(self) -> Written:
        """Write everything. Raises BadSlide, and OSError of the disk."""
        files: list[Path] = []
        before: InstanceWriter | None = None
        with ThreadPoolExecutor(self._workers) as threads:
            try:
                for level in self._levels:
                    writer = self._open(level)
                    try:
                        for frame in _in_order(threads, self._frames(level, before), _AHEAD * self._workers):
                            writer.add(frame)
                            self._done += 1
                            self._progress(self._done, self._total)
                        writer.finish()
                    finally:
                        if before is not None:
                            before.close()
                        before = writer
                    if level.written:
                        files += self._files(writer)
            finally:
                if before is not None:
                    before.close()
        for level in self._levels:
            if not level.written:
                self._path(level).unlink()
        files += [path for kind in _wanted(self._source, self._options, self._levels) for path in self._picture(kind)]
        return Written(self._attributes.study, self._attributes.series, tuple(files))

    def _files(self, writer: InstanceWriter) -> list[Path]:
        """The finished level, as one instance or as several."""
        return divided(writer, self._scan.depths, self._options, lambda: self._progress(self._done, self._total))

    def _path(self, level: PlannedLevel) -> Path:
        return self._out / f"level-{level.number:02}.dcm"

    def _open(self, level: PlannedLevel) -> InstanceWriter:
        dataset = self._attributes.level(level.number, level.shape, level.pixel)
        lossy = () if level.copied else self._lossy_before()
        return InstanceWriter(
            self._path(level), dataset, level.syntax, level.pixel,
            offsets=self._options.offsets, most=level.bytes_most, lossy=lossy,
        )  # fmt: skip

    def _lossy_before(self) -> tuple[tuple[str, float], ...]:
        """What the finest level lost before it came here; all others are made of the same scan."""
        base = self._source.levels[0]
        if not self._scan.lossy or not base.size:
            return ((self._scan.lossy, 1.0),) if self._scan.lossy else ()
        planes = len(self._scan.channels) * len(self._scan.depths)
        pixels = base.width * base.height * self._scan.samples * (self._scan.bits // 8) * planes
        return ((self._scan.lossy, max(1.0, pixels / base.size)),)

    # -- frames

    def _frames(self, level: PlannedLevel, before: InstanceWriter | None) -> Iterator[Made]:
        """What makes each frame, in the order of TILED_FULL (PS3.3 C.7.6.17.3): x, y, focal plane, optical path."""
        shape, scan = level.shape, self._scan
        empty: list[bytes] = []

        def made(place: Place) -> Made:
            if level.copied:
                assert level.source is not None
                source = level.source
                return lambda: self._source.copy(source, place) or self._empty(level, empty)
            return lambda: self._encode(level, self._pixels(level, place, before))

        paths, planes = range(len(scan.channels)), range(len(scan.depths))
        for path, plane, y, x in product(paths, planes, range(shape.rows), range(shape.columns)):
            yield made(Place(x, y, path, plane))

    def _empty(self, level: PlannedLevel, kept: list[bytes]) -> bytes:
        """A frame where the file has no tile, in the colour space of the others."""
        if not kept:
            pixels = blank(level.shape, self._scan)
            form = raw_form(level)
            if level.syntax == JPEG_BASELINE and level.pixel.photometric == "RGB":
                kept.append(_rgb_jpeg(pixels, self._quality))
            else:
                kept.append(encode_frame(level.syntax, Pixels(pixels, form.photometric), form, self._quality))
        return kept[0]

    def _encode(self, level: PlannedLevel, array: Array) -> bytes:
        return _encoded(level.syntax, array, raw_form(level), self._quality)

    def _pixels(self, level: PlannedLevel, place: Place, before: InstanceWriter | None) -> Array:
        """The pixels of a tile; beyond the matrix the background."""
        if level.source is not None:
            array = self._regrouped(level, level.source, place)
            return _bounded(array, level.shape, place, self._scan)
        finer = self._levels[level.number - 1]
        return self._halved(level, finer, place, before)

    def _regrouped(self, level: PlannedLevel, number: int, place: Place) -> Array:
        """A tile from the source's tiles, which may have another size."""
        given = self._source.levels[number]
        wanted = level.shape
        if (given.tile_width, given.tile_height) == (wanted.tile_width, wanted.tile_height):
            return self._source.tile(number, place)
        left, top = place.x * wanted.tile_width, place.y * wanted.tile_height
        out = blank(wanted, self._scan).copy()
        columns = _covering(left, wanted.tile_width, given.tile_width, given.columns)
        rows = _covering(top, wanted.tile_height, given.tile_height, given.rows)
        for y, x in product(rows, columns):
            tile = self._source.tile(number, Place(x, y, place.path, place.plane))
            _paste(out, tile, x * given.tile_width - left, y * given.tile_height - top)
        return out

    def _halved(self, level: PlannedLevel, finer: PlannedLevel, place: Place, before: InstanceWriter | None) -> Array:
        """Each pixel is the mean of 2 x 2 pixels of the level before."""
        parts = [
            [
                self._finer(finer, Place(2 * place.x + dx, 2 * place.y + dy, place.path, place.plane), before)
                for dx in (0, 1)
            ]
            for dy in (0, 1)
        ]
        mosaic = np.concatenate([np.concatenate(row, axis=1) for row in parts], axis=0)
        return _bounded(_mean(mosaic), level.shape, place, self._scan)

    def _finer(self, level: PlannedLevel, place: Place, before: InstanceWriter | None) -> Array:
        """A tile of a level that is being halved; beyond the grid there is background."""
        if place.x >= level.shape.columns or place.y >= level.shape.rows:
            return blank(level.shape, self._scan)
        return self._read_back(level, place, before) if level.source is None else self._pixels(level, place, None)

    def _read_back(self, level: PlannedLevel, place: Place, writer: InstanceWriter | None) -> Array:
        assert writer is not None
        shape = level.shape
        plane = place.path * len(self._scan.depths) + place.plane
        frame = writer.frame((plane * shape.rows + place.y) * shape.columns + place.x)
        if level.syntax == EXPLICIT_LE:
            return native_pixels(level.pixel, frame).array
        return decode_frame(level.syntax, frame, level.pixel).array

    # -- pictures

    def _shown(self, kind: PictureKind) -> tuple[Array, tuple[int, int, int, int] | None]:
        """A small picture; and, of one that was cut, its left and top edge with the size that it had."""
        if kind == "label" and self._options.label_file:
            return small_picture(Path(self._options.label_file)), None
        array = self._source.picture(kind)
        if kind != "overview" or not self._options.overview_part:
            return array, None
        height, width = array.shape[:2]
        left, top, across, down = self._options.overview_part
        x, y = math.ceil(left * width / 100), math.ceil(top * height / 100)
        right, bottom = math.floor((left + across) * width / 100), math.floor((top + down) * height / 100)
        if right <= x or bottom <= y:
            raise BadSlide("nothing is left of the overview: overview_part is less than a pixel")
        return np.ascontiguousarray(array[y:bottom, x:right]), (x, y, width, height)

    def _picture(self, kind: PictureKind) -> list[Path]:
        array, cut = self._shown(kind)
        height, width = array.shape[:2]
        sizes = {(level.shape.width, level.shape.height) for level in self._levels}
        if kind == "thumbnail" and ((width, height) in sizes or not _alike((width, height), self._source.levels[0])):
            return []  # a second image of the size of a level is taken for that level by viewers
        raw = ImagePixel(height, width, 3, 8, 8, False, 0, "RGB", 1)
        wanted = SYNTAX_OF.get(self._options.format, JPEG_BASELINE)
        syntax = wanted if can_encode(raw, EXPLICIT_LE, wanted) else JPEG_BASELINE
        pixel = encoded_form(raw, EXPLICIT_LE, syntax)
        dataset = self._attributes.picture(kind, (width, height), pixel, cut)
        writer = InstanceWriter(
            self._out / f"{kind}.dcm", dataset, syntax, pixel, offsets="basic", most=pixel.decoded_bytes
        )
        try:
            writer.add(_encoded(syntax, array, raw, Quality(jpeg=_PICTURE_QUALITY)))
            writer.finish()
        finally:
            writer.close()
        return [writer.path]


def _encoded(syntax: str, array: Array, raw: ImagePixel, quality: Quality) -> bytes:
    pixels = Pixels(array, raw.photometric)
    return native_bytes(pixels) if syntax == EXPLICIT_LE else encode_frame(syntax, pixels, raw, quality)


def _rgb_jpeg(pixels: Array, quality: Quality) -> bytes:
    """A JPEG stream that holds RGB and says so."""
    return bytes(imagecodecs.jpeg8_encode(pixels, quality.jpeg, colorspace="rgb", outcolorspace="rgb"))


def _in_order(threads: ThreadPoolExecutor, calls: Iterator[Made], ahead: int) -> Iterator[bytes]:
    """The results of calls that run in threads, `ahead` of them at most."""
    waiting: deque[Future[bytes]] = deque()
    try:
        for call in calls:
            waiting.append(threads.submit(call))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _covering(start: int, length: int, tile: int, count: int) -> range:
    """Which of `count` tiles in a row lie on a part of it."""
    return range(start // tile, min(count, -(-(start + length) // tile)))


def _paste(out: Array, tile: Array, left: int, top: int) -> None:
    """Put a tile on a larger array, cut at its edges; left and top may be negative."""
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(out.shape[1], left + tile.shape[1]), min(out.shape[0], top + tile.shape[0])
    if x0 < x1 and y0 < y1:
        out[y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]


def _bounded(array: Array, shape: SourceLevel, place: Place, scan: Scan) -> Array:
    """The tile with what lies beyond the matrix replaced: padding of a source is anything."""
    right, bottom = shape.width - place.x * shape.tile_width, shape.height - place.y * shape.tile_height
    if right >= shape.tile_width and bottom >= shape.tile_height:
        return array
    out = blank(shape, scan)
    out[:bottom, :right] = array[:bottom, :right]
    return out


def _mean(array: Array) -> Array:
    """Half the size: each pixel the rounded mean of 2 x 2."""
    if array.dtype == np.uint8:
        return np.asarray(Image.fromarray(array).reduce(2))
    total = array.astype(np.uint32).reshape(array.shape[0] // 2, 2, array.shape[1] // 2, 2).sum(axis=(1, 3))
    return np.asarray((total + 2) >> 2, array.dtype)


def _alike(size: tuple[int, int], base: SourceLevel) -> bool:
    wanted = base.height * size[0] / base.width
    return abs(size[1] - wanted) <= max(2.0, 0.02 * wanted)
