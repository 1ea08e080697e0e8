"""Slides that OpenSlide reads and the TIFF reader does not: MRXS, NDPI, SCN, BIF, VMS, Philips and others; decoded."""

from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import openslide
from PIL import Image

from wsi.convert.source import Array, BadSlide, PictureKind, Place, Scan, SourceLevel

_TILE: Final = 512
_PICTURE_MAX: Final = 64 << 20
_NAMES: Final[dict[PictureKind, str]] = {"label": "label", "overview": "macro", "thumbnail": "thumbnail"}
_MAKERS: Final = {"hamamatsu": "Hamamatsu", "mirax": "3DHISTECH", "leica": "Leica", "ventana": "Ventana",
                  "philips": "Philips", "sakura": "Sakura", "trestle": "Trestle", "aperio": "Leica Biosystems",
                  "zeiss": "Zeiss"}  # fmt: skip
# JPEG is what these scanners store; what a slide of JPEG 2000 went through is said wrongly, that it lost, rightly.
_LOSSY: Final = "ISO_10918_1"


class OpenedSlide:
    """A slide through OpenSlide, cut to the part that was scanned."""

    def __init__(self, path: Path) -> None:
        try:
            self._slide = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError) as error:
            raise BadSlide(f"OpenSlide cannot read the file: {error}") from error
        said = self._slide.properties
        self._left, self._top = (_whole(said.get(f"openslide.bounds-{axis}")) for axis in "xy")
        width, height = self._slide.dimensions
        width = _whole(said.get("openslide.bounds-width")) or width - self._left
        height = _whole(said.get("openslide.bounds-height")) or height - self._top
        levels = []
        for factor in self._slide.level_downsamples:
            level = SourceLevel(max(1, int(width / factor)), max(1, int(height / factor)), _TILE, _TILE)
            level.check()
            levels.append(level)
        self.levels = tuple(levels)
        self.pictures = frozenset(kind for kind, name in _NAMES.items() if name in self._slide.associated_images)
        self.scan = self._read_scan()

    def _read_scan(self) -> Scan:
        said = self._slide.properties
        across, down = _number(said.get("openslide.mpp-x")), _number(said.get("openslide.mpp-y"))
        vendor = said.get("openslide.vendor", "")
        colour = said.get("openslide.background-color", "FFFFFF")
        background = tuple(bytes.fromhex(colour)) if len(colour) == 6 else (255, 255, 255)
        return Scan(
            vendor=vendor,
            mpp=(across, down) if across and down else None,
            objective_power=_number(said.get("openslide.objective-power")),
            icc=self._profile(),
            acquired=_time(said.get("mirax.GENERAL.SLIDE_CREATIONDATETIME") or said.get("tiff.DateTime") or ""),
            manufacturer=_MAKERS.get(vendor, vendor),
            serial=(said.get("hamamatsu.NDP.S/N") or said.get("ventana.ScannerSerialNumber") or "")[:64],
            software=(said.get("tiff.Software") or "")[:64],
            lossy=_LOSSY,
            background=(background[0], background[1], background[2]),
        )

    def _profile(self) -> bytes | None:
        profile = self._slide.color_profile
        return bytes(profile.tobytes()) if profile is not None else None

    def tile(self, level: int, place: Place) -> Array:
        """See `Source.tile`; what was not scanned has the background's colour."""
        factor = self._slide.level_downsamples[level]
        corner = (
            self._left + round(place.x * _TILE * factor),
            self._top + round(place.y * _TILE * factor),
        )
        try:
            region = self._slide.read_region(corner, level, (_TILE, _TILE))
        except openslide.OpenSlideError as error:
            raise BadSlide(f"level {level}, tile {place.x},{place.y}: {error}") from error
        plain = Image.new("RGB", region.size, self.scan.background)
        plain.paste(region, mask=region.getchannel("A"))
        return np.asarray(plain)

    def copy(self, level: int, place: Place) -> bytes | None:
        """No level has `copied`."""
        raise NotImplementedError

    def picture(self, kind: PictureKind) -> Array:
        """See `Source.picture`."""
        try:
            image = self._slide.associated_images[_NAMES[kind]]
        except openslide.OpenSlideError as error:
            raise BadSlide(f"the {kind} cannot be decoded: {error}") from error
        if image.width * image.height * 3 > _PICTURE_MAX:
            raise BadSlide(f"the {kind} has {image.width} x {image.height} pixels: more than a small picture")
        return np.asarray(image.convert("RGB"))

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < 1e6 else None


def _time(text: str) -> datetime | None:
    for form in ("%Y:%m:%d %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%Y-%m-%d %H:%M:%S"):
        try:
            return datetime.strptime(text, form)  # noqa: DTZ007 - none is said
        except ValueError:
            continue
    return None
