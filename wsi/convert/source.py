"""What a slide in a vendor's file is to the conversion: levels of tiles, what is known of the scan, and small pictures.

Sources run in the conversion's own process (`wsi.convert.process`): they meet files that nobody has looked at before.
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PictureKind = Literal["label", "overview", "thumbnail"]

MAX_SIDE: Final = (1 << 31) - 1  # DICOM holds the total pixel matrix in 32 bits, readers take them for signed
MAX_TILES: Final = 1 << 24  # of one level: more are no slide of any scanner
MAX_TILE_SIDE: Final = 1 << 13
_MAGIC: Final = b"DICM"
_MAGIC_AT: Final = 128


class BadSlide(Exception):
    """The file cannot be converted; the message says what is wrong with it, and where."""


class Place(NamedTuple):
    """A tile: column and row in the level's grid, optical path, and focal plane, all from 0."""

    x: int
    y: int
    path: int = 0
    plane: int = 0


@dataclass(frozen=True, slots=True)
class Copied:
    """Tiles that can be frames as they are: the transfer syntax and Photometric Interpretation that they have."""

    syntax: str
    photometric: str


@dataclass(frozen=True, slots=True)
class SourceLevel:
    """Sizes in pixels. `size`: bytes of its tiles in the file; 0 where that is not known."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    copied: Copied | None = None
    size: int = 0

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        """Tiles in a column."""
        return -(-self.height // self.tile_height)

    def check(self) -> None:
        """Raise BadSlide for sizes that no slide has: what a lying file would have us do."""
        if not (0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE):
            raise BadSlide(f"a level of {self.width} x {self.height} pixels cannot be stored")
        if not (0 < self.tile_width <= MAX_TILE_SIDE and 0 < self.tile_height <= MAX_TILE_SIDE):
            raise BadSlide(f"tiles of {self.tile_width} x {self.tile_height} pixels: at most {MAX_TILE_SIDE} to a side")
        if self.columns * self.rows > MAX_TILES:
            raise BadSlide(f"a level of {self.columns * self.rows} tiles: at most {MAX_TILES}")


@dataclass(frozen=True, slots=True)
class Channel:
    """An optical path. `wavelength`: of the illumination, in nm; 0 for white light or where it is not known."""

    name: str = ""
    wavelength: float = 0.0


@dataclass(frozen=True, slots=True)
class Scan:
    """What the file says of the scan. `mpp`: micrometres a pixel, across and down; `depths`: focal planes in µm.

    `samples` is 3 (RGB), or 1 for each channel. `lossy`: the Lossy Image Compression Method that the pixels went
    through already, "" for none, or none that is known; `lossless`: it is known that there was none.
    """

    vendor: str
    samples: int = 3
    bits: int = 8
    channels: tuple[Channel, ...] = (Channel(),)
    depths: tuple[float, ...] = (0.0,)
    mpp: tuple[float, float] | None = None
    objective_power: float | None = None
    icc: bytes | None = None
    acquired: datetime | None = None
    manufacturer: str = ""
    model: str = ""
    serial: str = ""
    software: str = ""
    lossy: str = ""
    lossless: bool = False
    background: tuple[int, int, int] = field(default=(255, 255, 255))


class Source(Protocol):
    """An open slide. `tile` and `copy` may be called from several threads at once."""

    @property
    def scan(self) -> Scan:
        """What is known of it."""
        ...

    @property
    def levels(self) -> tuple[SourceLevel, ...]:
        """The finest one first."""
        ...

    @property
    def pictures(self) -> frozenset[PictureKind]:
        """Which small pictures there are."""
        ...

    def tile(self, level: int, place: Place) -> Array:
        """(tile height, tile width) or with 3 samples; what lies beyond the matrix is anything. Raises BadSlide."""
        ...

    def copy(self, level: int, place: Place) -> bytes | None:
        """The code stream of a tile of a level that has `copied`; None where the file has none. Raises BadSlide."""
        ...

    def picture(self, kind: PictureKind) -> Array:
        """One of `pictures`: (rows, columns, 3). Raises BadSlide."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def is_dicom(path: Path) -> bool:
    """Whether it is a folder, or a file that begins as PS3.10 7.1 says."""
    if path.is_dir():
        return True
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC


def blank(level: SourceLevel, scan: Scan) -> Array:
    """A tile where nothing was scanned: the background, or black for shades."""
    dtype = np.uint8 if scan.bits == 8 else np.uint16
    if scan.samples == 1:
        return np.zeros((level.tile_height, level.tile_width), dtype)
    return np.full((level.tile_height, level.tile_width, 3), scan.background, dtype)
