"""From stored values to RGB: palettes, YBR, more than 8 bits (PS3.3 C.7.6.3.1.2, C.7.6.3.1.5, C.7.9.2)."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicomweb.errors import BadPixels
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.rendered.attributes import Bulk, Item, binary, items
from dicomweb.rendered.tables import MAX_ENTRIES, Descriptor, Lut, descriptor_of, looked_up, lut_of

Rgb = NDArray[np.uint8]

# Descriptor, data, segmented data of each channel.
_PALETTE: Final = (
    ("00281101", "00281201", "00281221", "Red"),
    ("00281102", "00281202", "00281222", "Green"),
    ("00281103", "00281203", "00281223", "Blue"),
)


def render_colour(pixels: Pixels, image: ImagePixel, dataset: Item, bulk: Bulk) -> Rgb:
    """(rows, columns, 3) of RGB. Raises BadPixels for a colour space that is none of PS3.3's, or a broken palette."""
    if pixels.photometric == "PALETTE COLOR":
        if image.bits_allocated > 16:
            raise BadPixels("PALETTE COLOR has 8 or 16 bits allocated", attribute="BitsAllocated")
        channels = tuple(_channel(dataset, bulk, signed=image.signed, which=which) for which in _PALETTE)
        table = palette_table(*channels, max(8, image.bits_allocated), image.bits_stored, signed=image.signed)
        return looked_up(table, pixels.array)
    if pixels.photometric not in {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"}:
        raise BadPixels("the colour space is not shown", attribute="PhotometricInterpretation")
    if image.kind != "integer":
        raise BadPixels("colour has integer samples", attribute="PixelData")
    eight = _eight_bits(pixels.array[..., :3], image)
    if pixels.photometric in {"YBR_FULL", "YBR_FULL_422"}:
        return np.asarray(Image.fromarray(eight, "YCbCr").convert("RGB"))
    return eight


def _eight_bits(array: NDArray[Any], image: ImagePixel) -> Rgb:
    """Samples of any depth as 8 bits, contiguous."""
    spare = max(8, image.bits_allocated) - image.bits_stored
    if array.dtype.itemsize == 1 and not spare:
        return np.ascontiguousarray(array.view(np.uint8))
    if array.dtype.itemsize <= 2:
        mask = (1 << image.bits_stored) - 1
        table = np.rint((np.arange(1 << 8 * array.dtype.itemsize) & mask) * (255.0 / mask)).astype(np.uint8)
        return looked_up(table, array)
    unsigned = np.ascontiguousarray(array).view(f"<u{array.dtype.itemsize}")
    return ((unsigned >> max(0, image.bits_stored - 8)) & 255).astype(np.uint8)


@lru_cache(maxsize=32)
def palette_table(red: Lut, green: Lut, blue: Lut, allocated: int, stored: int, *, signed: bool) -> NDArray[np.uint8]:
    """(256 or 65536, 3): the colour of each pattern of bits; what lies past a channel's end has its last entry."""
    patterns = np.arange(1 << allocated, dtype=np.int64)
    values = patterns & ((1 << stored) - 1)
    if signed:
        values -= (values >> (stored - 1)) << stored
    table = np.stack([_channel_bytes(lut, values) for lut in (red, green, blue)], axis=1)
    table.flags.writeable = False
    return table


def _channel_bytes(lut: Lut, values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A channel's values as bytes. Palettes whose 16-bit entries never pass 255 were written by mistake, and are 8."""
    shift = lut.bits - 8 if int(lut.entries().max()) > 255 else 0
    return (lut.at(values) >> shift).astype(np.uint8)


def palette_end(dataset: Item) -> tuple[int, int, int]:
    """The colour that a palette gives to its last entry. Raises BadPixels for one that is broken, or not inline."""
    luts = (_channel(dataset, {}, signed=False, which=which) for which in _PALETTE)
    red, green, blue = (int(_channel_bytes(lut, np.array([MAX_ENTRIES]))[0]) for lut in luts)
    return red, green, blue


def _channel(dataset: Item, bulk: Bulk, *, signed: bool, which: tuple[str, str, str, str]) -> Lut:
    described, plain, segmented, colour = which
    scope = dataset
    if described not in dataset:  # a palette of an optical path (PS3.3 C.8.12.5)
        scope = next((item for item in items(dataset, "00480105") if described in item), dataset)
    descriptor = descriptor_of(scope, described, f"{colour}PaletteColorLookupTableDescriptor", signed=signed)
    if descriptor is None:
        raise BadPixels("PALETTE COLOR without a palette", attribute=f"{colour}PaletteColorLookupTableDescriptor")
    name = f"{colour}PaletteColorLookupTableData"
    if plain in scope:
        return lut_of(descriptor, scope[plain], bulk, name)
    data = binary(scope.get(segmented), bulk)
    if data is None:
        raise BadPixels("PALETTE COLOR without a palette", attribute=name)
    return expand_segments(descriptor, data, f"Segmented{name}")


@lru_cache(maxsize=24)
def expand_segments(descriptor: Descriptor, data: bytes, name: str) -> Lut:
    """A segmented table written out (PS3.3 C.7.9.2): discrete, linear and indirect segments.

    Raises BadPixels for segments that lie, and when they make fewer entries than the descriptor says; never makes more.
    """
    wide = descriptor.bits > 8
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2") if wide else np.frombuffer(data, np.uint8)
    stream: list[int] = words.tolist()
    out: list[int] = []
    wanted = min(descriptor.entries, MAX_ENTRIES)

    def segment(at: int, *, nested: bool) -> int:
        if at + 2 > len(stream):
            raise BadPixels("a segmented palette ends early", attribute=name)
        code, length = stream[at : at + 2]
        if not length:  # nothing would ever be made of it
            raise BadPixels("a segmented palette has an empty segment", attribute=name)
        parse = _SEGMENTS.get(code)
        if parse is not None:
            return at + 2 + parse(stream[at + 2 : at + 2 + length], length, out, name)
        if code != 2 or nested:
            raise BadPixels("a segmented palette has a segment of no known kind", attribute=name)
        low = stream[at + 2 : at + 4 if wide else at + 6]
        if len(low) != (2 if wide else 4):
            raise BadPixels("a segmented palette ends early", attribute=name)
        back = sum(part << ((16 if wide else 8) * place) for place, part in enumerate(low))
        back //= 2 if wide else 1
        for _ in range(length):
            if len(out) >= wanted:
                break
            back = segment(back, nested=True)
        return at + 2 + len(low)

    at = 0
    while len(out) < wanted and at < len(stream):
        at = segment(at, nested=False)
    if len(out) < wanted:
        raise BadPixels(f"a segmented palette makes {len(out)} of {wanted} entries", attribute=name)
    return Lut(descriptor.first, descriptor.bits, np.array(out[:wanted], "<u2").tobytes())


def _discrete(rest: list[int], length: int, out: list[int], name: str) -> int:
    """`length` entries as they are."""
    if len(rest) < length:
        raise BadPixels("a segmented palette ends early", attribute=name)
    out += rest
    return length


def _linear(rest: list[int], length: int, out: list[int], name: str) -> int:
    """`length` entries from the one before, which is not repeated, up to the given one."""
    if not rest or not out:
        raise BadPixels("a linear segment of a palette has no beginning or no end", attribute=name)
    begin, end = out[-1], rest[0]
    out += [round(begin + (end - begin) * step / length) for step in range(1, length + 1)]
    return 1


_SEGMENTS: Final[dict[int, Callable[[list[int], int, list[int], str], int]]] = {0: _discrete, 1: _linear}
