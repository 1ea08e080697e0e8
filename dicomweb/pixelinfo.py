"""Pixel data of an instance: what it is and where its frames are (PS3.3 C.7.6.3, PS3.5 8 and A)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pydicom.uid import UID_dictionary

from dicomweb.errors import BadDicom
from dicomweb.frames import Fragments, FrameTable, encapsulated_frames, native_frames
from dicomweb.structure import Buffer

# One stream of many frames: not divisible into frames by its container.
_VIDEO: Final = frozenset(
    f"1.2.840.10008.1.2.4.{arc}{part}" for arc in range(100, 109) for part in ("", ".1")
)
# Classes with an Image Pixel module whose names do not say so: Enhanced US Volume, Parametric Map, Segmentation, RT Dose,
# Ophthalmic OCT B-scan Volume Analysis.
_ALSO_IMAGES: Final = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{arc}" for arc in ("6.2", "30", "66.4", "481.2", "77.1.5.8")
)


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where pixel data was met: `offset` and `length` of its value field in the file, for encapsulated data without the delimiter."""

    tag: int
    vr: str
    offset: int
    length: int
    fragments: Fragments | None


@dataclass(frozen=True, slots=True)
class PixelInfo:
    """The Image Pixel attributes that reading frames needs; 0 or "" where the instance does not say.

    `tag` is "7FE00010" (or 7FE00008, 7FE00009 for floating point); `offset` and `length` are bytes of the value field.
    """

    tag: str
    vr: str
    offset: int
    length: int
    encapsulated: bool
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    planar_configuration: int
    number_of_frames: int
    photometric: str


def describe_pixels(
    buffer: Buffer,
    element: PixelElement,
    integer: Callable[[str], int | None],
    text: Callable[[str], str],
    transfer_syntax: str,
    extended: tuple[bytes, bytes] | None,
    max_frames: int,
) -> tuple[PixelInfo, FrameTable, list[str]]:
    """The description and frame table of `element`; `integer` and `text` give the first value of an attribute of the instance."""
    frames = integer("00280008")
    info = PixelInfo(
        tag=f"{element.tag:08X}",
        vr=element.vr,
        offset=element.offset,
        length=element.length,
        encapsulated=element.fragments is not None,
        rows=integer("00280010") or 0,
        columns=integer("00280011") or 0,
        samples=integer("00280002") or 1,
        bits_allocated={0x7FE00008: 32, 0x7FE00009: 64}.get(element.tag) or integer("00280100") or 0,
        bits_stored=integer("00280101") or 0,
        pixel_representation=integer("00280103") or 0,
        planar_configuration=integer("00280006") or 0,
        number_of_frames=1 if frames is None or frames < 1 else frames,
        photometric=text("00280004"),
    )
    if element.fragments is not None:
        table, warnings = encapsulated_frames(
            buffer, element.fragments, info.number_of_frames, extended, video=transfer_syntax in _VIDEO
        )
    else:
        table, warnings = native_frames(element.offset, element.length, frame_bits(info), info.number_of_frames, max_frames)
    return info, table, warnings


def frame_bits(info: PixelInfo) -> int:
    """Bits of one native frame; 0 when the attributes do not tell. Chroma subsampling counts (PS3.3 C.7.6.3.1.2)."""
    bits = info.rows * info.columns * info.samples * info.bits_allocated
    if info.samples == 3 and info.photometric == "YBR_FULL_422":
        return bits // 3 * 2
    return bits


def refuse_if_cut(sop_class: str, integer: Callable[[str], int | None], has: Callable[[str], bool]) -> str | None:
    """A file that was cut between two elements looks whole, but an image whose pixels are described must have them.

    Raises BadDicom for an image class with Rows, Columns and Bits Allocated that has neither pixel data nor a provider URL
    (PS3.3 C.7.6.3.1, Pixel Data Provider URL); returns a warning for an image class without any description of pixels.
    """
    if not is_image_class(sop_class) or has("00287FE0"):
        return None
    if integer("00280010") and integer("00280011") and integer("00280100"):
        raise BadDicom("pixel data is due but the file ends before it: the file is cut", attribute="PixelData")
    return "an image without pixel data"


@lru_cache(maxsize=1024)
def is_image_class(sop_class: str) -> bool:
    """Whether instances of the storage class carry the Image Pixel module; most registered names end in "Image Storage"."""
    entry = UID_dictionary.get(sop_class)
    return sop_class in _ALSO_IMAGES or (entry is not None and "Image Storage" in entry[0])
