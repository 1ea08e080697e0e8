"""What a compressed frame says of itself in its first bytes, read before any decoder sees it.

A decoder allocates what the code stream claims: 150 bytes of JPEG 2000 can ask for gigabytes. So the claim is compared
with Rows, Columns and Samples per Pixel first.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from dicomweb.errors import BadPixels
from dicomweb.pixels.image import ImagePixel
from dicomweb.pixels.syntaxes import SYNTAXES

_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_JXL_SIGNATURE = b"\x00\x00\x00\x0cJXL "
_MAX_MARKERS = 1000
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
# Start of frame markers (ITU-T T.81 table B.1; C4, C8 and CC are others), and JPEG-LS (T.87).
_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
# Their decoders fill up what is missing with grey. The end marker may be followed by padding.
_ENDED = frozenset({"jpeg", "jpeg-lossless", "jpeg-ls", "htj2k"})
_TAIL = 64
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True, slots=True)
class StreamSize:
    """`bits`: precision of a sample, 0 where the stream does not say. `signed`: JPEG 2000 alone knows."""

    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool = False


@dataclass(frozen=True, slots=True)
class JpegMarkers:
    """What tells the colour space of a JPEG stream. `adobe`: the transform of APP14, or None without it.

    `process`: the second byte of its start of frame marker, 0xC0 for baseline; `end`: the offset behind that segment.
    """

    size: StreamSize
    adobe: int | None
    jfif: bool
    components: bytes
    process: int
    end: int


def check_stream(syntax: str, data: bytes, image: ImagePixel) -> StreamSize | None:
    """Compare a compressed frame with the attributes. None: the format has no header (RLE, deflate).

    Raises BadPixels for a stream of another format or size.
    """
    family = SYNTAXES[syntax].family
    if family == "rle":
        _check_run_lengths(data, image)
    if family in ("rle", "deflate"):
        return None
    if family == "jpeg-xl":
        size = jpeg_xl_size(data)
    elif family in ("jpeg2000", "htj2k"):
        size = jpeg2000_size(data)
    else:
        size = jpeg_markers(data).size
    if (size.rows, size.columns) != (image.rows, image.columns):
        raise BadPixels(
            f"the code stream has {size.rows} x {size.columns} pixels, Rows and Columns say "
            f"{image.rows} x {image.columns}",
            attribute="PixelData",
        )
    if family in _ENDED and b"\xff\xd9" not in data[-_TAIL:]:
        raise BadPixels("the code stream is cut: it has no end marker", attribute="PixelData")
    if size.samples and size.samples != image.samples:
        raise BadPixels(
            f"the code stream has {size.samples} components of {image.samples}", attribute="SamplesPerPixel"
        )
    if size.bits > max(8, image.bits_allocated):
        raise BadPixels(
            f"the code stream has {size.bits} bits a sample of {image.bits_allocated}", attribute="BitsAllocated"
        )
    return size


def jpeg_markers(data: bytes) -> JpegMarkers:
    """Walk the marker segments up to the start of frame (ITU-T T.81 B.2)."""
    if data[:2] != b"\xff\xd8":
        raise BadPixels("the frame is no JPEG stream", attribute="PixelData")
    at, adobe, jfif = 2, None, False
    for _ in range(_MAX_MARKERS):
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # fill bytes and markers without a segment
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker in _SOF and len(body) >= 6:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", body)
            names = body[6 : 6 + 3 * samples : 3]
            return JpegMarkers(StreamSize(rows, columns, samples, bits), adobe, jfif, names, marker, at + 2 + length)
        if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == 0xE0 and body[:4] == b"JFIF":
            jfif = True
        at += 2 + length
    raise BadPixels("the JPEG stream has no start of frame", attribute="PixelData")


def with_adobe_marker(data: bytes) -> bytes:
    """A JPEG stream of RGB that says so: 16 bytes of APP14 behind SOI, transform 0; the code stream stays as it is.

    Without it decoders take three components for YCbCr (T.872 6.5.3).
    """
    return data if jpeg_markers(data).adobe == 0 else data[:2] + _ADOBE_RGB + data[2:]


def jpeg2000_size(data: bytes) -> StreamSize:
    """The SIZ marker segment (ITU-T T.800 A.5.1), of a raw code stream or inside a JP2 file."""
    at = _in_boxes(data, {b"jp2c": 0}) if data[:8] == _JP2_SIGNATURE else 0
    if data[at : at + 4] != b"\xff\x4f\xff\x51" or len(data) < at + 43:
        raise BadPixels("the frame is no JPEG 2000 code stream", attribute="PixelData")
    width, height, x, y = struct.unpack_from(">4I", data, at + 8)
    samples, depth = struct.unpack_from(">HB", data, at + 40)
    if x >= width or y >= height:
        raise BadPixels("the JPEG 2000 code stream has no area", attribute="PixelData")
    return StreamSize(height - y, width - x, samples, (depth & 0x7F) + 1, signed=bool(depth & 0x80))


def _in_boxes(data: bytes, heads: dict[bytes, int]) -> int:
    """Where the code stream begins in a file of boxes (ITU-T T.800 I.4); `heads`: bytes before it in its boxes."""
    at = 0
    for _ in range(_MAX_MARKERS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind in heads:
            return at + head + heads[kind]
        if length < head:
            break
        at += length
    raise BadPixels("the frame's file holds no code stream", attribute="PixelData")


def jpeg_xl_size(data: bytes) -> StreamSize:
    """SizeHeader and BitDepth of a code stream (ISO 18181-1, D.2 and D.3), bare or in a `jxlc` or `jxlp` box."""
    at = _in_boxes(data, {b"jxlc": 0, b"jxlp": 4}) if data[:8] == _JXL_SIGNATURE else 0
    if data[at : at + 2] != b"\xff\x0a":
        raise BadPixels("the frame is no JPEG XL code stream", attribute="PixelData")
    bits = int.from_bytes(data[at + 2 : at + 18], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def length(small: int) -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    rows = length(small)
    ratio = take(3)
    columns = length(small) if ratio == 0 else _RATIOS[ratio](rows)
    return StreamSize(rows, columns, 0, _jpeg_xl_bits(take))


def _jpeg_xl_bits(take: Callable[[int], int]) -> int:
    """ImageMetadata up to BitDepth; 0 for floating point, and where intrinsic size, preview or animation stand before.

    `take`: the next so many bits.
    """
    if take(1):  # all_default
        return 8
    if take(1):  # extra_fields
        take(3)  # orientation
        if take(3):
            return 0
    if take(1):  # float_sample
        return 0
    depth = take(2)
    return (8, 10, 12)[depth] if depth < 3 else take(6) + 1


_RATIOS = {
    1: lambda rows: rows,
    2: lambda rows: rows * 12 // 10,
    3: lambda rows: rows * 4 // 3,
    4: lambda rows: rows * 3 // 2,
    5: lambda rows: rows * 16 // 9,
    6: lambda rows: rows * 5 // 4,
    7: lambda rows: rows * 2,
}


def _check_run_lengths(data: bytes, image: ImagePixel) -> None:
    """The RLE header (PS3.5 G.5): as many segments as the image has byte planes, in order, inside the frame."""
    if len(data) < 64:
        raise BadPixels("the RLE frame has no header", attribute="PixelData")
    count, *offsets = struct.unpack_from("<16I", data)
    need = image.samples * max(1, image.bits_allocated // 8)
    if count != need:
        raise BadPixels(f"the RLE frame has {count} segments of {need}", attribute="PixelData")
    used = offsets[:count]
    if used[0] != 64 or any(b <= a for a, b in pairwise(used)) or used[-1] >= len(data):
        raise BadPixels("the segments of the RLE frame lie outside it", attribute="PixelData")
