"""Files that no reader of our own knows, through large-image: the formats of the sources that are installed for it.

`large-image-source-pil` comes along (JPEG 2000, WebP, BMP and others); another one, such as `large-image-source-nd2`,
adds its formats when it is installed beside the program.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi.convert.source import Array, BadSlide, Channel, PictureKind, Place, Scan, SourceLevel

_NAMES: Final[dict[PictureKind, str]] = {"label": "label", "overview": "macro", "thumbnail": "thumbnail"}
_DEPTHS: Final = {"uint8": 8, "uint16": 16}
_COLOUR: Final = (3, 4)
_TILE: Final = 512
_WHOLE: Final = 16_384  # pictures without tiles are decoded whole
_CHANNELS_MAX: Final = 64
_PLANES_MAX: Final = 1000
# What is not said to be lossless may have lost something already.
_LOSSLESS: Final = frozenset((".png", ".bmp", ".gif", ".pnm", ".ppm", ".pgm"))
_LOSSY_METHOD: Final = {".jp2": "ISO_15444_1", ".j2k": "ISO_15444_1", ".jpx": "ISO_15444_1"}


class OtherSlide:
    """The finest level of a tile source of large-image; the conversion makes the coarser ones."""

    def __init__(self, path: Path) -> None:
        import large_image  # noqa: PLC0415 - half a second, which no other file has to pay

        large_image.config.setConfig("cache_backend", "python")  # else it looks for a service
        large_image.config.setConfig("icc_correction", False)  # the profile is stored with the pixels
        large_image.config.setConfig("max_small_image_size", _WHOLE)  # to a side; memory has a limit of its own
        self._numpy = large_image.constants.TILE_FORMAT_NUMPY
        try:
            self._source = large_image.open(str(path))
            said = self._source.getMetadata()
        except large_image.exceptions.TileSourceError as error:
            raise BadSlide("the file is no slide or picture of a format that is known here") from error
        except Exception as error:  # a source may raise what its library does
            raise BadSlide(f"the file cannot be read ({type(error).__name__})") from error
        self.levels = (SourceLevel(said["sizeX"], said["sizeY"], _TILE, _TILE),)
        self.levels[0].check()
        self._stride = said.get("IndexStride", {})
        self.scan = _scan(said, self._source, path)
        held = self._source.getAssociatedImagesList()
        self.pictures = frozenset(kind for kind, name in _NAMES.items() if name in held)

    def tile(self, level: int, place: Place) -> Array:
        """See `Source.tile`."""
        del level
        frame = place.path * self._stride.get("IndexC", 0) + place.plane * self._stride.get("IndexZ", 0)
        corner = {"left": place.x * _TILE, "top": place.y * _TILE, "width": _TILE, "height": _TILE}
        try:
            tile, _ = self._source.getRegion(region=corner, frame=frame, format=self._numpy)
        except Exception as error:  # a source may raise what its library does
            raise BadSlide(f"tile {place.x},{place.y} cannot be decoded ({type(error).__name__})") from error
        return self._plain(np.asarray(tile))

    def _plain(self, tile: Array) -> Array:
        """Without transparency, as samples of the scan, and as large as a tile is."""
        tile = tile[..., :3] if self.scan.samples == 3 else tile[..., 0]
        missing = [(0, _TILE - tile.shape[0]), (0, _TILE - tile.shape[1]), (0, 0)]
        dtype = np.uint8 if self.scan.bits == 8 else np.uint16
        return np.pad(tile.astype(dtype, copy=False), missing[: tile.ndim])

    def copy(self, level: int, place: Place) -> bytes | None:
        """No level has `copied`."""
        raise NotImplementedError

    def picture(self, kind: PictureKind) -> Array:
        """See `Source.picture`."""
        try:
            image, _ = self._source.getAssociatedImage(_NAMES[kind], format=self._numpy)
        except Exception as error:  # a source may raise what its library does
            raise BadSlide(f"the {kind} cannot be decoded ({type(error).__name__})") from error
        return np.asarray(image)[..., :3]

    def close(self) -> None:
        """The source closes its file when nobody holds it."""
        del self._source


def _scan(said: dict[str, Any], source: Any, path: Path) -> Scan:
    """What large-image says of the scan. Raises BadSlide for pixels that are no image of light."""
    kind, bands = str(said.get("dtype")), said.get("bandCount", 3)
    if kind not in _DEPTHS:
        raise BadSlide(f"samples of type {kind} are not converted, only 8 and 16 bits without sign")
    samples = 3 if bands in _COLOUR else 1
    ranges = said.get("IndexRange", {})
    planes, named = ranges.get("IndexZ", 1), list(said.get("channels", ()))
    count = ranges.get("IndexC", 1)
    if not (1 <= count <= _CHANNELS_MAX and 1 <= planes <= _PLANES_MAX):
        raise BadSlide(f"{count} channels and {planes} focal planes: at most {_CHANNELS_MAX} and {_PLANES_MAX}")
    across, down = said.get("mm_x"), said.get("mm_y")
    suffix = path.suffix.lower()
    profiles = source.getICCProfiles(onlyInfo=False) if samples == 3 else None
    return Scan(
        vendor=source.name,
        samples=samples,
        bits=_DEPTHS[kind],
        channels=tuple(Channel(str(named[n])[:64] if n < len(named) else "") for n in range(count)),
        depths=tuple(float(plane) for plane in range(planes)),
        mpp=(across * 1000, down * 1000) if across and down else None,
        objective_power=said.get("magnification"),
        icc=profiles[0] if profiles and isinstance(profiles[0], bytes) else None,
        lossy="" if suffix in _LOSSLESS else _LOSSY_METHOD.get(suffix, "ISO_10918_1"),
    )
