"""Pixels as image files: JPEG, PNG, animated GIF, TIFF."""

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image

from dicomweb.errors import BadPixels, TooLarge
from dicomweb.rendered.attributes import Item, number, numbers

Shown = NDArray[np.uint8]

JPEG: Final = "image/jpeg"
PNG: Final = "image/png"
GIF: Final = "image/gif"
TIFF: Final = "image/tiff"
PAM: Final = "image/x-portable-arbitrarymap"
IMAGE_TYPES: Final = (JPEG, PNG, GIF)

# An animation is held as a whole while it is made.
MAX_GIF_FRAMES: Final = 500
MAX_GIF_PIXELS: Final = 1 << 26
_DEFAULT_FRAME_TIME: Final = 100
# From here on colour is not subsampled.
_FULL_COLOUR: Final = 90
_JPEG_SEGMENT: Final = 65519
# Colour types of PNG by the samples of a pixel.
_PNG_COLOUR: Final = {1: 0, 3: 2, 4: 6}
_MICRONS: Final = 10_000.0  # in a centimetre
_ICC_MARK: Final = b"ICC_PROFILE\0"


def encode_image(shown: Shown, media_type: str, quality: int, profile: bytes | None) -> bytes:
    """One image, (rows, columns) or (rows, columns, 3), with its ICC profile embedded; GIF carries none."""
    shown = np.ascontiguousarray(shown)
    if media_type == PNG:
        return encode_png(shown, profile)
    if media_type == GIF:
        return encode_gif([shown], _DEFAULT_FRAME_TIME)
    if media_type == PAM:
        return encode_pam(shown)
    return encode_jpeg(shown, quality, profile)


def encode_jpeg(shown: Shown, quality: int, profile: bytes | None) -> bytes:
    """Baseline JPEG (JFIF); 512 x 512 shades in 0.6 ms. `quality` is that of PS3.18 8.3.5.1.2."""
    if shown.ndim == 2:
        data: bytes = simplejpeg.encode_jpeg(shown[:, :, None], quality=quality, colorspace="GRAY", fastdct=False)
    else:
        chroma = "444" if quality >= _FULL_COLOUR else "420"
        data = simplejpeg.encode_jpeg(shown, quality=quality, colorspace="RGB", colorsubsampling=chroma, fastdct=False)
    return data if profile is None else with_icc_profile(data, profile)


def with_icc_profile(jpeg: bytes, profile: bytes) -> bytes:
    """A JPEG stream with an ICC profile in its APP2 segments (ICC.1 B.4); the code stream stays as it is."""
    pieces = [profile[at : at + _JPEG_SEGMENT] for at in range(0, len(profile), _JPEG_SEGMENT)]
    if len(pieces) > 255:
        raise BadPixels("the ICC profile is too large for JPEG", attribute="ICCProfile")
    segments = b"".join(
        b"\xff\xe2" + struct.pack(">H", len(piece) + 16) + _ICC_MARK + bytes((place, len(pieces))) + piece
        for place, piece in enumerate(pieces, 1)
    )
    # Behind SOI and the JFIF segment.
    behind = 4 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xe0" else 2
    return jpeg[:behind] + segments + jpeg[behind:]


def encode_png(shown: Shown, profile: bytes | None = None) -> bytes:
    """PNG (RFC 2083) of 8 bits a sample: shades, RGB, or RGB with alpha.

    Every row is filtered by the one above it, which NumPy does as a whole, and deflated at libdeflate's level 1: three
    times faster than what libpng makes of the same, and no larger.
    """
    rows, columns = shown.shape[:2]
    line = shown.reshape(rows, -1)
    data = bytearray(rows * (line.shape[1] + 1))
    filtered = np.frombuffer(data, np.uint8).reshape(rows, -1)
    filtered[:, 0] = 2
    filtered[0, 1:] = line[0]
    np.subtract(line[1:], line[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", columns, rows, 8, _PNG_COLOUR[line.shape[1] // columns], 0, 0, 0)
    chunks = [b"\x89PNG\r\n\x1a\n", *_chunk(b"IHDR", head)]
    if profile is not None:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    chunks += _chunk(b"IDAT", bytes(imagecodecs.deflate_encode(data, level=1)))
    return b"".join((*chunks, *_chunk(b"IEND", b"")))


def encode_pam(values: NDArray[Any]) -> bytes:
    """Netpbm's PAM: 8 or 16 bits a sample, big endian as it asks for; negative numbers are their two's complement."""
    rows, columns = values.shape[:2]
    depth = 1 if values.ndim == 2 else values.shape[2]
    most = 255 if values.dtype.itemsize == 1 else 65535
    kind = "GRAYSCALE" if depth == 1 else "RGB"
    head = f"P7\nWIDTH {columns}\nHEIGHT {rows}\nDEPTH {depth}\nMAXVAL {most}\nTUPLTYPE {kind}\nENDHDR\n"
    return head.encode() + values.astype(values.dtype.newbyteorder(">")).tobytes()


def encode_tiff(shown: Shown, profile: bytes | None, spacing: tuple[float, float] | None) -> bytes:
    """TIFF 6.0, compressed without loss (Deflate). `spacing`: micrometres a pixel, across and down."""
    out = BytesIO()
    said: dict[str, object] = {} if profile is None else {"icc_profile": profile}
    if spacing is not None:
        across, down = (_MICRONS / value for value in spacing)
        said |= {"resolution_unit": "cm", "x_resolution": across, "y_resolution": down}
    Image.fromarray(np.ascontiguousarray(shown)).save(out, "TIFF", compression="tiff_adobe_deflate", **said)
    return out.getvalue()


def _chunk(kind: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def encode_gif(frames: Sequence[Shown], frame_time: float) -> bytes:
    """GIF, repeated for ever; `frame_time` in ms. TooLarge for more than 500 frames or 64 megapixels in all.

    Every frame is kept, equal ones too. GIF counts hundredths of a second: what is rounded is spread over the frames.
    """
    check_animation(len(frames), sum(frame.shape[0] * frame.shape[1] for frame in frames))
    if len(frames) == 1:
        out = BytesIO()
        _indexed(frames[0]).save(out, "GIF")
        return out.getvalue()
    rows, columns = (max(frame.shape[side] for frame in frames) for side in (0, 1))
    pieces = [b"GIF89a", struct.pack("<HHBBB", columns, rows, 0x70, 0, 0), b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"]
    ended, previous = 0, None
    for count, frame in enumerate(frames, 1):
        end = round(count * frame_time / 10)
        corner, changed = _changed(previous, frame)
        image = _indexed(changed)
        pieces += GifImagePlugin.getdata(image, corner, duration=10 * (end - ended), include_color_table=True)
        ended, previous = end, frame
    return b"".join((*pieces, b";"))


def _indexed(shown: Shown) -> Image.Image:
    """Shades keep their exact values; colours are reduced to 256."""
    image = Image.fromarray(np.ascontiguousarray(shown))
    return image.convert("P") if image.mode == "L" else image.quantize(256, Image.Quantize.FASTOCTREE)


def _changed(previous: Shown | None, frame: Shown) -> tuple[tuple[int, int], Shown]:
    """The part of a frame that differs from the one before, at least a pixel of it, and its left and upper corner."""
    if previous is None or previous.shape != frame.shape:
        return (0, 0), frame
    different = previous != frame
    if different.ndim == 3:
        different = different.any(axis=2)
    down, across = np.flatnonzero(different.any(axis=1)), np.flatnonzero(different.any(axis=0))
    if down.size == 0:
        return (0, 0), frame[:1, :1]
    return (int(across[0]), int(down[0])), frame[down[0] : down[-1] + 1, across[0] : across[-1] + 1]


def check_animation(frames: int, pixels: int) -> None:
    """Raise TooLarge for more than an animation may hold."""
    if frames > MAX_GIF_FRAMES:
        raise TooLarge(f"an animation has {MAX_GIF_FRAMES} frames at most, not {frames}: name frames by number")
    if pixels > MAX_GIF_PIXELS:
        raise TooLarge(f"an animation has {MAX_GIF_PIXELS} pixels at most: ask for a smaller viewport")


def frame_time_of(dataset: Item) -> float:
    """Milliseconds that a frame is shown: Frame Time (Vector), else Recommended Display Frame Rate or Cine Rate."""
    times = [*numbers(dataset, "00181063")[:1], *numbers(dataset, "00181065")[1:2]]
    rates = [rate for tag in ("00082144", "00180040") if (rate := number(dataset, tag)) and rate > 0]
    found = next((time for time in times if time > 0), 1000 / rates[0] if rates else _DEFAULT_FRAME_TIME)
    return min(10_000.0, max(20.0, found))
