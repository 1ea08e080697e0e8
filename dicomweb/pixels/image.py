"""The Image Pixel module of an instance, and decoded frames (PS3.3 C.7.6.3, C.7.6.24, PS3.5 8.1)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import BadPixels

Kind = Literal["integer", "float", "double"]

MONOCHROME: Final = frozenset(("MONOCHROME1", "MONOCHROME2"))
# More is no image of any device, and what would be allocated for it is an attack.
MAX_FRAME_BYTES: Final = 1 << 30
_SAMPLE_BITS: Final = frozenset((1, 8, 16, 32, 64))
# Whatever `int` takes of what a sender may write: neither two signs nor superscript digits nor thousands of them.
_WHOLE: Final = re.compile(r"[+-]?\d{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImagePixel:
    """What the attributes say. `kind`: integers, or Float or Double Float Pixel Data (PS3.3 C.7.6.24)."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar: int
    photometric: str
    number_of_frames: int
    kind: Kind = "integer"

    @classmethod
    def of(cls, dataset: Mapping[str, Any]) -> "ImagePixel":
        """From the DICOM JSON of an instance. Raises BadPixels for what describes no image."""
        kind: Kind = "integer"
        if "7FE00010" not in dataset:
            kind = "float" if "7FE00008" in dataset else "double" if "7FE00009" in dataset else "integer"
            if kind == "integer":
                raise BadPixels("the instance has no pixel data", attribute="PixelData")
        allocated = {"float": 32, "double": 64}.get(kind) or _integer(dataset, "00280100", "BitsAllocated", 0)
        stored = _integer(dataset, "00280101", "BitsStored", allocated) if kind == "integer" else allocated
        image = cls(
            rows=_integer(dataset, "00280010", "Rows", 0),
            columns=_integer(dataset, "00280011", "Columns", 0),
            samples=_integer(dataset, "00280002", "SamplesPerPixel", 1),
            bits_allocated=allocated,
            bits_stored=stored,
            signed=kind == "integer" and _integer(dataset, "00280103", "PixelRepresentation", 0) == 1,
            planar=_integer(dataset, "00280006", "PlanarConfiguration", 0),
            photometric=str(first(dataset, "00280004") or "MONOCHROME2").strip(),
            number_of_frames=max(1, _integer(dataset, "00280008", "NumberOfFrames", 1)),
            kind=kind,
        )
        image.check()
        return image

    def check(self) -> None:
        """Raises BadPixels when the attributes contradict each other or describe a frame above 1 GiB."""
        if not (0 < self.rows < 1 << 16 and 0 < self.columns < 1 << 16):
            raise BadPixels("Rows and Columns are 1 to 65535", attribute="Rows")
        if self.samples not in (1, 3, 4):
            raise BadPixels("Samples per Pixel is 1 or 3", attribute="SamplesPerPixel")
        if self.bits_allocated not in _SAMPLE_BITS:
            raise BadPixels("Bits Allocated is 1, 8, 16, 32 or 64", attribute="BitsAllocated")
        if not 0 < self.bits_stored <= self.bits_allocated:
            raise BadPixels("Bits Stored is 1 to Bits Allocated", attribute="BitsStored")
        if self.samples == 1 and self.photometric not in MONOCHROME | {"PALETTE COLOR"}:
            raise BadPixels(
                "one sample per pixel is MONOCHROME1, MONOCHROME2 or PALETTE COLOR",
                attribute="PhotometricInterpretation",
            )
        if self.samples > 1 and (self.photometric in MONOCHROME or self.photometric == "PALETTE COLOR"):
            raise BadPixels(
                "this Photometric Interpretation has one sample per pixel", attribute="PhotometricInterpretation"
            )
        if self.decoded_bytes > MAX_FRAME_BYTES:
            raise BadPixels("a frame would take more than 1 GiB", attribute="Rows")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of one sample in memory, little endian; single bits are unpacked to bytes."""
        if self.kind != "integer":
            return np.dtype("<f4" if self.kind == "float" else "<f8")
        return np.dtype(f"<{'i' if self.signed else 'u'}{max(1, self.bits_allocated // 8)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (rows, columns, samples)."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def decoded_bytes(self) -> int:
        """What one decoded frame takes in memory."""
        return self.rows * self.columns * self.samples * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """One decoded frame.

    `array`: (rows, columns) or (rows, columns, samples), samples interleaved, of `ImagePixel.dtype`: the stored values,
    in which bits above Bits Stored are neither cleared nor filled with the sign. `photometric` is that of the array:
    decoding turns YBR_FULL_422, YBR_RCT, YBR_ICT and JPEG's YBR_FULL into RGB, and leaves native and RLE YBR_FULL.
    """

    array: NDArray[Any]
    photometric: str


def first(dataset: Mapping[str, Any], tag: str) -> Any:
    """The first value of an attribute of DICOM JSON (PS3.18 F.2); None when it is absent or empty."""
    values = dataset.get(tag, {}).get("Value")
    return values[0] if values else None


def _integer(dataset: Mapping[str, Any], tag: str, name: str, default: int) -> int:
    value = first(dataset, tag)
    if value is None:
        return default
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = int(value)
    if not isinstance(value, int):
        raise BadPixels(f"{name} is no integer", attribute=name)
    return value
