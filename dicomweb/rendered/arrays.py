"""Decoded frames as they are, for programs: arrays of NumPy, text for Matlab, images that keep the numbers."""

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import BadPixels
from dicomweb.pixels.image import MONOCHROME
from dicomweb.rendered.encode import JPEG, PAM, encode_jpeg, encode_pam, encode_png
from dicomweb.rendered.grayscale import Grayscale
from dicomweb.rendered.image import Source, whole
from dicomweb.rendered.parameters import Rendering

Kind = Literal["preview", "uint8", "uint16", "int16"]

_RANGE: Final = {"uint8": (0, 255), "uint16": (0, 65535), "int16": (-32768, 32767)}


def stored_values(source: Source) -> NDArray[Any]:
    """What the pixels of a frame say, before any rescaling: (rows, columns) or RGB as (rows, columns, 3)."""
    if source.pixels.photometric not in MONOCHROME:
        return whole(source, Rendering())[0]
    return _gray(source).values(source.pixels.array)


def rescaled_values(source: Source) -> NDArray[Any]:
    """Grayscale in the unit of the modality, 32-bit floating point; colour as `stored_values`."""
    if source.pixels.photometric not in MONOCHROME:
        return stored_values(source)
    gray = _gray(source)
    return gray.outputs(gray.values(source.pixels.array)).astype("<f4")


def _gray(source: Source) -> Grayscale:
    return Grayscale.of(source.dataset, source.number, source.image, source.bulk, None)


def as_array(source: Source, *, rescale: bool) -> NDArray[Any]:
    """A frame as (rows, columns, channels)."""
    values = rescaled_values(source) if rescale else stored_values(source)
    return values if values.ndim == 3 else values[:, :, None]


def image_file(source: Source, kind: Kind, media_type: str, quality: int) -> bytes:
    """A frame as PNG, JPEG (8 bits only) or PAM. `preview`: from the least value, black, to the greatest, white.

    The others clip. Raises BadPixels for colour, and 16 bits in JPEG.
    """
    values = stored_values(source)
    if values.ndim == 3:
        if kind != "preview":
            raise BadPixels("only shades are clipped", attribute="PhotometricInterpretation")
        shown = values
    elif kind == "preview":
        shown = stretched(values, inverse=source.pixels.photometric == "MONOCHROME1")
    else:
        shown = clipped(values, kind)
    if media_type == PAM:
        return encode_pam(shown)
    if shown.dtype == np.uint8:
        return encode_jpeg(np.ascontiguousarray(shown), quality, None) if media_type == JPEG else encode_png(shown)
    if media_type == JPEG:
        raise BadPixels("JPEG has 8 bits", attribute="Accept")
    return encode_png16(shown)


def stretched(values: NDArray[Any], *, inverse: bool) -> NDArray[np.uint8]:
    """Shades from the least value to the greatest; all black where they are the same."""
    reals = np.nan_to_num(values.astype(np.float64))
    low, high = float(reals.min()), float(reals.max())
    shades = (reals - low) * (255.0 / (high - low)) if high > low else np.zeros_like(reals)
    out: NDArray[np.uint8] = np.rint(255.0 - shades if inverse else shades).astype(np.uint8)
    return out


def clipped(values: NDArray[Any], kind: Kind) -> NDArray[Any]:
    """Values within the range of a type; what lies outside becomes its end."""
    least, greatest = _RANGE[kind]
    found: NDArray[Any] = np.clip(values, least, greatest).astype(kind)
    return found


def encode_png16(values: NDArray[Any]) -> bytes:
    """PNG of 16 bits a pixel; negative numbers are their two's complement, as PNG has none."""
    rows, columns = values.shape[:2]
    lines = np.zeros((rows, 1 + 2 * columns), np.uint8)
    lines[:, 1:] = np.ascontiguousarray(values.view(np.uint16).astype(">u2")).view(np.uint8).reshape(rows, -1)
    head = struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 1)
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def numpy_head(dtype: np.dtype[Any], shape: Sequence[int]) -> bytes:
    """What stands before the values in a .npy file."""
    out = BytesIO()
    kind = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": tuple(shape)})
    return out.getvalue()


def numpy_file(array: NDArray[Any]) -> bytes:
    """A .npy file."""
    return numpy_head(array.dtype, array.shape) + array.tobytes()


def numpy_archive(array: NDArray[Any]) -> bytes:
    """A compressed .npz file with the one array `arr_0`."""
    out = BytesIO()
    np.savez_compressed(out, array)
    return out.getvalue()


def matlab_text(values: NDArray[Any]) -> bytes:
    """An expression that Matlab and Octave evaluate to the frame."""
    if values.ndim == 3:
        rows, columns, channels = values.shape
        text = " ".join(map(str, values.reshape(-1).tolist()))
        shape = f"[ {channels} {columns} {rows} ]"
        return f"double(permute(reshape([ {text} ], {shape}), [ 3 2 1 ]))".encode()
    lines = " ; ".join(" ".join(map(str, line)) for line in values.tolist())
    return f"double([ {lines} ])".encode()
