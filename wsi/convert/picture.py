"""Pictures without tiles: PNG, JPEG, TIFF in strips. They are decoded whole, so that their size has a limit."""

import warnings
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsi.convert.source import Array, BadSlide, PictureKind, Place, Scan, SourceLevel

MAX_PIXELS: Final = 256 << 20
_SMALL: Final = 20 << 20
_TILE: Final = 512
_FORMATS: Final = ("PNG", "JPEG", "TIFF")
_SHADES: Final = frozenset(("1", "L", "LA"))
_LOSSY: Final = {"JPEG": "ISO_10918_1"}


class Picture:
    """One level, in memory."""

    def __init__(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with Image.open(path, formats=_FORMATS) as image:
                    if image.width * image.height > MAX_PIXELS:
                        raise BadSlide(
                            f"a picture of {image.width} x {image.height} pixels without tiles: at most {MAX_PIXELS}; "
                            "make a tiled TIFF of it first"
                        )
                    deep = image.mode.startswith("I;16")
                    self._array = np.asarray(
                        image if deep else image.convert("L" if image.mode in _SHADES else "RGB")
                    ).astype("<u2" if deep else np.uint8, copy=False)
                    icc, kind = image.info.get("icc_profile"), image.format or ""
            except UnidentifiedImageError:
                raise BadSlide("the file is no slide or picture of a format that is known here") from None
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise BadSlide(f"the picture cannot be decoded: {error}") from error
        height, width = self._array.shape[:2]
        colour = self._array.ndim == 3
        self.levels = (SourceLevel(width, height, _TILE, _TILE, size=path.stat().st_size),)
        self.levels[0].check()
        self.pictures: frozenset[PictureKind] = frozenset()
        self.scan = Scan(
            vendor=kind.lower(),
            samples=3 if colour else 1,
            bits=8 * self._array.dtype.itemsize,
            icc=icc if colour else None,
            lossy=_LOSSY.get(kind, ""),
        )

    def tile(self, level: int, place: Place) -> Array:
        """See `Source.tile`."""
        del level
        part = self._array[place.y * _TILE : (place.y + 1) * _TILE, place.x * _TILE : (place.x + 1) * _TILE]
        missing = [(0, _TILE - part.shape[0]), (0, _TILE - part.shape[1])]
        fill = 255 if part.ndim == 3 else 0
        return np.pad(part, [*missing, (0, 0)][: part.ndim], constant_values=fill)

    def copy(self, level: int, place: Place) -> bytes | None:
        """No level has `copied`."""
        raise NotImplementedError

    def picture(self, kind: PictureKind) -> Array:
        """There are no pictures beside it."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


def small_picture(path: Path) -> Array:
    """A small picture in a file, (rows, columns, 3). Raises BadSlide."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _SMALL:
                raise BadSlide(f"{path.name} has {image.width} x {image.height} pixels: more than a small picture")
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise BadSlide(f"{path.name} is no picture (PNG, JPEG or TIFF)") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSlide(f"{path.name} cannot be read: {error}") from error
