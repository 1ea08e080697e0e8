"""Colour images as 8-bit RGB: palettes, YBR, deep colour, ICC profiles (PS3.3 C.7.6.3.1.2, C.7.6.3.1.5-6, C.11.15)."""

from functools import cache
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import BadPixels
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.rendered.attributes import Bulk, Item, binary, items, numbers

Rgb = NDArray[np.uint8]

_DESCRIPTORS: Final = ("00281101", "00281102", "00281103")
_DATA: Final = ("00281201", "00281202", "00281203")
_SEGMENTS: Final = ("00281221", "00281222", "00281223")
_MAX_ENTRIES: Final = 1 << 16
_MAX_PROFILE: Final = 4 << 20


def palette_rgb(dataset: Item, image: ImagePixel, stored: Pixels, bulk: Bulk) -> Rgb:
    """(rows, columns, 3). Values before and behind the palette take its ends."""
    channels, first = [], 0
    for descriptor, data, segments in zip(_DESCRIPTORS, _DATA, _SEGMENTS, strict=True):
        channel, first = _channel(dataset, descriptor, data, segments, bulk, signed=image.signed)
        channels.append(channel)
    if len({len(channel) for channel in channels}) != 1:
        raise BadPixels(
            "the palettes of the three colours differ in length", attribute="RedPaletteColorLookupTableData"
        )
    palette: Rgb = np.stack(channels, -1)
    index = np.clip(stored.array.astype(np.int64) - first, 0, len(palette) - 1)
    return np.asarray(palette[index])


def _channel(
    dataset: Item, descriptor_tag: str, data_tag: str, segments_tag: str, bulk: Bulk, *, signed: bool
) -> tuple[NDArray[np.uint8], int]:
    descriptor = [int(value) for value in numbers(dataset, descriptor_tag)]
    if len(descriptor) != 3:
        raise BadPixels("a palette has a descriptor of three values", attribute=descriptor_tag)
    count, first, bits = descriptor
    count = (count & 0xFFFF) or _MAX_ENTRIES
    first &= 0xFFFF
    if signed and first >= 1 << 15:
        first -= 1 << 16
    segments = binary(dataset, segments_tag, bulk)
    data = binary(dataset, data_tag, bulk)
    values: NDArray[Any]
    if segments is not None:
        values = _expanded(segments, 8 if bits == 8 else 16, count)
    elif data is None:
        raise BadPixels("the instance has no palette", attribute=data_tag)
    else:
        wide = np.frombuffer(data[: len(data) // 2 * 2], "<u2")
        # Eight bits an entry may be packed two in a word, or have a word each.
        values = wide if len(wide) >= count else np.frombuffer(data, np.uint8)
        if values.dtype == np.uint8:
            bits = 8
    if len(values) < count:
        raise BadPixels(f"the palette has {len(values)} entries of {count}", attribute=data_tag)
    values = values[:count]
    # Writers that say 16 and mean 8 are known by their values.
    return (values >> 8 if bits == 16 and values.max(initial=0) > 255 else values).astype(np.uint8), first


def _expanded(data: bytes, bits: int, count: int) -> NDArray[np.uint16]:
    """Segmented palettes (PS3.3 C.7.9.2): discrete, linear and indirect segments."""
    source = np.frombuffer(data[: len(data) // 2 * 2], "<u2") if bits == 16 else np.frombuffer(data, np.uint8)
    stream = [int(value) for value in source]
    out: list[int] = []
    at = 0
    while at + 1 < len(stream) and len(out) < count:
        at = _segment(stream, at, out)
    return np.array(out[:count], np.uint16)


def _segment(stream: list[int], at: int, out: list[int]) -> int:
    """Append one segment to `out`; the place behind it."""
    kind, length = stream[at], stream[at + 1]
    if kind == 0:
        out.extend(stream[at + 2 : at + 2 + length])
        return at + 2 + length
    if kind == 1 and at + 2 < len(stream) and out:
        begin, end = out[-1], stream[at + 2]
        out.extend(round(begin + (end - begin) * step / length) for step in range(1, length + 1))
        return at + 3
    if kind == 2 and at + 3 < len(stream):
        place = stream[at + 2] | stream[at + 3] << 16
        for _ in range(length):
            if not 0 <= place < at or stream[place] == 2 or len(out) > _MAX_ENTRIES:
                raise BadPixels(
                    "an indirect palette segment points at none", attribute="RedPaletteColorLookupTableData"
                )
            place = _segment(stream, place, out)
        return at + 4
    raise BadPixels("a palette segment is of no known type", attribute="SegmentedRedPaletteColorLookupTableData")


def to_rgb(image: ImagePixel, stored: Pixels) -> Rgb:
    """(rows, columns, 3) of 8 bits, from RGB or YBR_FULL of any depth."""
    array = stored.array[:, :, :3]
    if array.dtype.itemsize > 1:
        array = (array >> max(0, image.bits_stored - 8)).astype(np.uint8)
    elif array.dtype.kind == "i":
        array = array.view(np.uint8)
    if stored.photometric == "RGB":
        return np.ascontiguousarray(array)
    if stored.photometric != "YBR_FULL":
        raise BadPixels(
            "colours of this Photometric Interpretation cannot be shown", attribute="PhotometricInterpretation"
        )
    y, cb, cr = (array[:, :, n].astype(np.float32) for n in range(3))
    cb -= 128
    cr -= 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    out: Rgb = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return out


def profile_of(dataset: Item, bulk: Bulk) -> bytes | None:
    """The ICC profile of the image, or of its first optical path (PS3.3 C.11.15, C.8.12.5)."""
    for source in (dataset, *items(dataset, "00480105")[:1]):
        data = binary(source, "00282000", bulk)
        if data and len(data) <= _MAX_PROFILE:
            return data
    return None


def converted(rgb: Rgb, profile: bytes | None, target: str) -> tuple[Rgb, bytes]:
    """Colours of `profile` (sRGB without one) in the space `target`, and the profile to embed. Raises BadPixels."""
    wanted = _profile(target)
    if profile is None and target == "srgb":
        return rgb, wanted
    try:
        source = profile if profile is not None else _profile("srgb")
        moved = imagecodecs.cms_transform(rgb, source, wanted, colorspace="rgb", outcolorspace="rgb")
    except (RuntimeError, ValueError) as error:
        raise BadPixels("the ICC profile of the image cannot be applied", attribute="ICCProfile") from error
    return np.asarray(moved, np.uint8), wanted


@cache
def _profile(name: str) -> bytes:
    if name == "rommrgb":  # ISO 22028-2: its primaries, D50, gamma 1.8
        primaries = [0.7347, 0.2653, 1.0, 0.1596, 0.8404, 1.0, 0.0366, 0.0001, 1.0]
        return bytes(imagecodecs.cms_profile("rgb", whitepoint=[0.3457, 0.3585, 1.0], primaries=primaries, gamma=1.8))
    return bytes(imagecodecs.cms_profile(name))
