"""Tiled TIFF: Aperio SVS, generic pyramids (BigTIFF too), OME-TIFF. Tiles are read where the directories say.

What the directories say is checked before it is used: sizes, the number of tiles, offsets inside the file.
"""

import os
import re
import struct
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from imagecodecs import DelayedImportError

from dicomweb.errors import BadPixels
from dicomweb.pixels.decode import decode_frame
from dicomweb.pixels.image import ImagePixel
from wsi.convert.jpeg import Jpeg2000Tiles, JpegTiles
from wsi.convert.ome import OmeImage, ome_image
from wsi.convert.source import Array, BadSlide, Copied, PictureKind, Place, Scan, SourceLevel, blank

_JPEG: Final = 7
_JPEG_2000: Final = frozenset((33005, 34712))
_YCBCR_2000: Final = 33003
_GREY, _RGB, _YCBCR = 1, 2, 6
_LOSSY: Final = {_JPEG: "ISO_10918_1", 33003: "ISO_15444_1", 33005: "ISO_15444_1", 34712: "ISO_15444_1"}
_ICC, _TABLES = 34675, 347
# A tile that is larger than its pixels, and something for its head, is none.
_TILE_ROOM: Final = 1 << 16
_PICTURE_MAX: Final = 64 << 20
# Pixel sizes that a microscope has, in µm; others come from scanners of paper.
_MPP_RANGE: Final = (0.02, 20.0)
_UNITS: Final = {2: 25_400.0, 3: 10_000.0}  # ResolutionUnit: inch, centimetre
_ERRORS: Final = (
    tifffile.TiffFileError, DelayedImportError, struct.error, ValueError, IndexError, KeyError, TypeError,
    AttributeError, RuntimeError, NotImplementedError, AssertionError, OverflowError, ZeroDivisionError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Level:
    """`pages` by (path, plane); one that the file lacks is None."""

    level: SourceLevel
    pages: dict[tuple[int, int], Any]
    tiles: JpegTiles | Jpeg2000Tiles | None
    pixel: ImagePixel


class TiffSource:
    """A tiled TIFF file of which every level has tiles that can be decoded."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._fd = self._file.fileno()
        self._length = os.fstat(self._fd).st_size
        try:
            self._open(path)
        except BaseException:
            self._file.close()
            raise

    def _open(self, path: Path) -> None:
        tiff = tifffile.TiffFile(path)
        self._tiff = tiff
        first = tiff.pages.first
        self._aperio = _aperio(first) if tiff.is_svs else {}
        self._ome: OmeImage | None = ome_image(tiff) if tiff.is_ome else None
        groups = self._ome.levels if self._ome else [{(0, 0): page} for page in _pyramid(tiff)]
        self._levels = tuple(self._level(number, pages) for number, pages in enumerate(groups))
        self.levels = tuple(each.level for each in self._levels)
        self._pictures = self._ome.pictures if self._ome else _pictures(tiff) if tiff.is_svs else {}
        self.pictures = frozenset(self._pictures)
        self.scan = self._scan(first, next(iter(groups[0].values())))

    def _level(self, number: int, pages: dict[tuple[int, int], Any]) -> _Level:
        page = next(iter(pages.values()))
        _check(page)
        samples = 1 if page.samplesperpixel == 1 else 3
        pixel = ImagePixel(
            page.tilelength, page.tilewidth, samples, page.bitspersample, page.bitspersample, False, 0,
            "MONOCHROME2" if samples == 1 else "RGB", 1,
        )  # fmt: skip
        level = SourceLevel(page.imagewidth, page.imagelength, page.tilewidth, page.tilelength)
        level.check()
        for each in pages.values():
            if len(each.dataoffsets) < level.columns * level.rows or len(each.databytecounts) < len(each.dataoffsets):
                raise BadSlide(f"level {number} has {level.columns * level.rows} tiles, and fewer offsets")
        tiles, copied = self._copies(page, level, samples)
        size = sum(sum(each.databytecounts) for each in pages.values())
        level = SourceLevel(level.width, level.height, level.tile_width, level.tile_height, copied, size)
        return _Level(level, pages, tiles, pixel)

    def _copies(
        self, page: Any, level: SourceLevel, samples: int
    ) -> tuple[JpegTiles | Jpeg2000Tiles | None, Copied | None]:
        """How the tiles of a level can be copied, judged by the first that there is."""
        if page.bitspersample != 8 or page.samplesperpixel != samples or (samples > 1 and page.planarconfig != 1):
            return None, None
        tiles: JpegTiles | Jpeg2000Tiles
        rgb = int(page.photometric) == _RGB
        if page.compression == _JPEG:
            tiles = JpegTiles(page.jpegtables or b"", level.tile_height, level.tile_width, samples, rgb=rgb)
        elif page.compression in _JPEG_2000:
            tiles = Jpeg2000Tiles(level.tile_height, level.tile_width, samples)
        else:
            return None, None
        data = next((self._read(page, n) for n, size in enumerate(page.databytecounts) if size), b"")
        copied = tiles.copied(data) if data else None
        return (tiles, copied) if copied else (None, None)

    def _scan(self, first: Any, page: Any) -> Scan:
        ome, aperio = self._ome, self._aperio
        said: dict[str, Any] = {
            "samples": 1 if page.samplesperpixel == 1 else 3,
            "bits": page.bitspersample,
            "icc": page.tags[_ICC].value if _ICC in page.tags else None,
            "lossy": _LOSSY.get(int(page.compression), ""),
            "mpp": _resolution(page),
        }
        if ome is not None:
            said |= {"channels": ome.channels, "depths": ome.depths, "objective_power": ome.objective_power}
            return Scan(vendor="ome", **said | {"mpp": ome.mpp or said["mpp"]}, acquired=ome.acquired)
        if aperio:
            mpp, power = _number(aperio.get("MPP")), _number(aperio.get("AppMag"))
            said |= {"mpp": (mpp, mpp) if mpp else None, "objective_power": power}
            return Scan(
                vendor="aperio", **said, acquired=_aperio_time(aperio), manufacturer="Leica Biosystems",
                model="Aperio", serial=aperio.get("ScanScope ID", ""), software=aperio.get("", ""),
            )  # fmt: skip
        return Scan(vendor="tiff", **said, software=str(first.software or "")[:64])

    # -- tiles

    def tile(self, level: int, place: Place) -> Array:
        """See `Source.tile`."""
        held, index, page = self._find(level, place)
        if page is None or not page.databytecounts[index]:
            return blank(held.level, self.scan)
        with _named(level, place):
            if held.tiles is not None and held.level.copied is not None:
                stream = held.tiles.frame(self._read(page, index))
                coded = replace(held.pixel, photometric=held.level.copied.photometric)
                return decode_frame(held.level.copied.syntax, stream, coded).array
            return self._decoded(page, index, held)

    def copy(self, level: int, place: Place) -> bytes | None:
        """See `Source.copy`."""
        held, index, page = self._find(level, place)
        assert held.tiles is not None
        if page is None or not page.databytecounts[index]:
            return None
        with _named(level, place):
            return held.tiles.frame(self._read(page, index))

    def _find(self, level: int, place: Place) -> tuple[_Level, int, Any]:
        held = self._levels[level]
        return held, place.y * held.level.columns + place.x, held.pages.get((place.path, place.plane))

    def _read(self, page: Any, index: int) -> bytes:
        offset, size = int(page.dataoffsets[index]), int(page.databytecounts[index])
        pixels = page.tilewidth * page.tilelength * page.samplesperpixel * max(1, page.bitspersample // 8)
        if size > 2 * pixels + _TILE_ROOM:
            raise BadSlide(f"tile {index} is said to have {size} bytes, its pixels have {pixels}")
        if offset < 8 or offset + size > self._length:
            raise BadSlide(f"tile {index} lies beyond the end of the file, which may be cut")
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise BadSlide(f"tile {index} could not be read")
        return data

    def _decoded(self, page: Any, index: int, held: _Level) -> Array:
        count = len(page.dataoffsets) // page.samplesperpixel
        planes = [index + count * n for n in range(held.pixel.samples)] if page.planarconfig == 2 else [index]
        found = [self._segment(page, number) for number in planes]
        array = found[0] if len(found) == 1 else np.concatenate(found, axis=-1)
        array = array[..., : held.pixel.samples]
        return np.ascontiguousarray(array[..., 0] if held.pixel.samples == 1 else array)

    def _segment(self, page: Any, index: int) -> Array:
        """(tile height, tile width, samples) of one tile or, with separate planes, of one sample of it."""
        decoded, _, _ = page.decode(self._read(page, index), index, jpegtables=page.jpegtables, _fullsize=True)
        if decoded is None or decoded.shape[1:3] != (page.tilelength, page.tilewidth):
            raise BadSlide("the tile cannot be decoded to its size")
        return np.asarray(decoded[0])

    # -- pictures

    def picture(self, kind: PictureKind) -> Array:
        """See `Source.picture`."""
        page = self._pictures[kind]
        if page.imagewidth * page.imagelength * 3 > _PICTURE_MAX or page.imagewidth * page.imagelength == 0:
            raise BadSlide(f"the {kind} has {page.imagewidth} x {page.imagelength} pixels: more than a small picture")
        try:
            array = np.asarray(page.asarray())
        except _ERRORS as error:
            raise BadSlide(f"the {kind} cannot be decoded ({type(error).__name__})") from error
        if array.ndim == 2:
            array = np.repeat(array[..., None], 3, axis=2)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] < 3:
            raise BadSlide(f"the {kind} is no picture of 8-bit colour")
        return np.ascontiguousarray(array[..., :3])

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()
        self._file.close()


class _named:  # noqa: N801 - a context manager reads like a function
    """Errors of one tile say where it is."""

    def __init__(self, level: int, place: Place) -> None:
        self._where = f"level {level}, tile {place.x},{place.y}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadSlide):
            raise BadSlide(f"{self._where}: {error}") from None
        if isinstance(error, BadPixels):
            raise BadSlide(f"{self._where}: {error.message}") from error
        if isinstance(error, _ERRORS):
            raise BadSlide(f"{self._where} cannot be decoded ({type(error).__name__})") from error


def open_tiff(path: Path) -> TiffSource | None:
    """The file as a tiled TIFF; None for one of another layout (strips, overlapping tiles, palettes). Raises BadSlide.

    NDPI, SCN, BIF and Philips files have layouts of their own that OpenSlide knows.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            if tiff.is_ndpi or tiff.is_scn or tiff.is_bif or tiff.is_philips or tiff.is_qpi:
                return None
            page = ome_image(tiff).levels[0][0, 0] if tiff.is_ome else tiff.pages.first
            if not page.is_tiled or not _readable(page):
                return None
        return TiffSource(path)
    except _ERRORS as error:
        raise BadSlide(f"the TIFF directories are damaged ({type(error).__name__})") from error


def _readable(page: Any) -> bool:
    """Whether tiles decode to shades or RGB."""
    compression, photometric = int(page.compression), int(page.photometric)
    coloured = photometric == _YCBCR and compression == _JPEG
    return photometric in (_GREY, _RGB) or coloured or compression in _JPEG_2000 or compression == _YCBCR_2000


def _check(page: Any) -> None:
    if not page.is_tiled or not _readable(page):
        raise BadSlide("a level has no tiles of shades or RGB, unlike the first one")
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise BadSlide("volumes of voxels are no slides")
    kind = page.dtype.kind if page.dtype is not None else ""
    if kind != "u" or page.bitspersample not in (8, 16):
        raise BadSlide(f"samples are {page.dtype or 'of unknown type'}; slides have 8 or 16 bits without a sign")
    if page.samplesperpixel > 1 and page.bitspersample != 8:
        raise BadSlide("colour of more than 8 bits a sample is not stored as a slide")
    if page.samplesperpixel == 2:
        raise BadSlide("two samples a pixel are neither shades nor colour")


def _pyramid(tiff: Any) -> list[Any]:
    """The first tiled page and those of the same shape that are smaller: behind it, or in its SubIFDs."""
    first = tiff.pages.first
    candidates = [*(first.pages or ()), *(tiff.pages[n] for n in range(1, len(tiff.pages)))]
    levels = [first]
    for page in candidates:
        last = levels[-1]
        if not getattr(page, "is_tiled", False) or page.samplesperpixel != first.samplesperpixel:
            continue
        if page.imagewidth < last.imagewidth and _same_shape(page, first) and page.bitspersample == first.bitspersample:
            levels.append(page)
    return levels


def _same_shape(page: Any, first: Any) -> bool:
    wanted = first.imagewidth * page.imagelength / first.imagelength
    return bool(abs(page.imagewidth - wanted) <= max(2.0, 0.01 * wanted))


def _pictures(tiff: Any) -> dict[PictureKind, Any]:
    """Aperio's: a thumbnail behind the base level; label and macro image, named in the second line of the text."""
    found: dict[PictureKind, Any] = {}
    for number in range(1, len(tiff.pages)):
        page = tiff.pages[number]
        if page.is_tiled:
            continue
        said = (page.description or "").lower()
        if page.subfiletype == 1 or "\nlabel " in said:
            found["label"] = page
        elif page.subfiletype == 9 or "\nmacro " in said:
            found["overview"] = page
        elif number == 1:
            found["thumbnail"] = page
    return found


def _aperio(page: Any) -> dict[str, str]:
    """`key = value` behind bars; the text before the first bar, without sizes, under "" (the software)."""
    head, *pairs = (page.description or "").split("|")
    found = {"": re.split(r"[\r\n]", head)[0].strip()[:64]}
    for pair in pairs:
        name, _, value = pair.partition("=")
        found[name.strip()] = value.strip()[:64]
    return found


def _aperio_time(said: dict[str, str]) -> datetime | None:
    for form in ("%m/%d/%y %H:%M:%S", "%m/%d/%Y %H:%M:%S"):
        try:
            return datetime.strptime(f"{said.get('Date')} {said.get('Time')}", form)  # noqa: DTZ007 - none is said
        except ValueError:
            continue
    return None


def _resolution(page: Any) -> tuple[float, float] | None:
    """Micrometres a pixel from XResolution, YResolution and ResolutionUnit, where a microscope could have them."""
    tags = page.tags
    unit = _UNITS.get(int(tags[296].value) if 296 in tags else 2)
    if unit is None or 282 not in tags or 283 not in tags:
        return None
    values = []
    for code in (282, 283):
        up, down = tags[code].value
        if up <= 0 or down <= 0 or not _MPP_RANGE[0] <= unit * down / up <= _MPP_RANGE[1]:
            return None
        values.append(unit * down / up)
    return values[0], values[1]


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < 1e6 else None
