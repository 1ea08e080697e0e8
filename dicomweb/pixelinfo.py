"""Pixel data of an instance: what it is and where its frames are (PS3.3 C.7.6.3, PS3.5 8 and A)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pydicom._uid_dict import UID_dictionary

from dicomweb.errors import BadDicom
from dicomweb.frames import Fragments, FrameTable, encapsulated_frames, native_frames
from dicomweb.structure import Buffer
from dicomweb.values import first_integer, first_text

# One stream of many frames: not divisible into frames by its container.
_VIDEO: Final = frozenset(f"1.2.840.10008.1.2.4.{arc}{part}" for arc in range(100, 109) for part in ("", ".1"))
# Classes with an Image Pixel module whose names do not say so: Enhanced US Volume, Parametric Map, Segmentation, RT
# Dose, Ophthalmic OCT B-scan Volume Analysis.
_ALSO_IMAGES: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.{arc}" for arc in ("6.2", "30", "66.4", "481.2", "77.1.5.8"))


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where pixel data was met: `offset` and `length` of its value field, without the delimiter of fragments."""

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


_INTEGERS: Final = (
    "00280010", "00280011", "00280002", "00280100", "00280101", "00280103", "00280006", "00280008",
)  # fmt: skip
_PHOTOMETRIC: Final = "00280004"


def describe_pixels(
    buffer: Buffer,
    element: PixelElement,
    elements: Mapping[str, bytes],
    transfer_syntax: str,
    offset_tables: Mapping[int, bytes],
    max_frames: int,
) -> tuple[PixelInfo, FrameTable, list[str]]:
    """The description and frame table of `element`, and warnings.

    `elements` are the JSON members of the instance by tag, `offset_tables` the Extended Offset Table and its lengths.
    """
    rows, columns, samples, allocated, bits_stored, signed, planar, frames = (
        first_integer(elements.get(key)) or 0 for key in _INTEGERS
    )
    info = PixelInfo(
        tag=f"{element.tag:08X}",
        vr=element.vr,
        offset=element.offset,
        length=element.length,
        encapsulated=element.fragments is not None,
        rows=rows,
        columns=columns,
        samples=samples or 1,
        bits_allocated={0x7FE00008: 32, 0x7FE00009: 64}.get(element.tag, allocated),
        bits_stored=bits_stored,
        pixel_representation=signed,
        planar_configuration=planar,
        number_of_frames=max(1, frames),
        photometric=first_text(elements.get(_PHOTOMETRIC)),
    )
    if element.fragments is not None:
        video = transfer_syntax in _VIDEO
        extended = (offset_tables[0x7FE00001], offset_tables[0x7FE00002]) if len(offset_tables) == 2 else None
        table, warnings = encapsulated_frames(buffer, element.fragments, info.number_of_frames, extended, video=video)
    else:
        table, warnings = native_frames(
            element.offset, element.length, frame_bits(info), info.number_of_frames, max_frames
        )
    return info, table, warnings


def frame_bits(info: PixelInfo) -> int:
    """Bits of one native frame; 0 when the attributes do not tell. Chroma subsampling counts (PS3.3 C.7.6.3.1.2)."""
    bits = info.rows * info.columns * info.samples * info.bits_allocated
    if info.samples == 3 and info.photometric == "YBR_FULL_422":
        return bits // 3 * 2
    return bits


def refuse_if_cut(sop_class: str, elements: Mapping[str, bytes]) -> str | None:
    """A file that was cut between two elements looks whole, but an image whose pixels are described must have them.

    Raises BadDicom for an image class with Rows, Columns and Bits Allocated that has neither pixel data nor a provider
    URL (PS3.3 C.7.6.3.1, Pixel Data Provider URL); returns a warning for an image class without any description of
    pixels.
    """
    if not is_image_class(sop_class) or "00287FE0" in elements:
        return None
    if all(first_integer(elements.get(key)) for key in ("00280010", "00280011", "00280100")):
        raise BadDicom("pixel data is due but the file ends before it: the file is cut", attribute="PixelData")
    return "an image without pixel data"


@lru_cache(maxsize=1024)
def is_image_class(sop_class: str) -> bool:
    """Whether instances of the class carry the Image Pixel module; most registered names end in "Image Storage"."""
    entry = UID_dictionary.get(sop_class)
    return sop_class in _ALSO_IMAGES or (entry is not None and "Image Storage" in entry[0])
