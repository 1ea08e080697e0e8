"""Native (uncompressed) frames as arrays (PS3.5 8.1, 8.2; PS3.3 C.7.6.3.1.2-3)."""

import numpy as np

from dicomweb.errors import BadPixels
from dicomweb.pixels.image import ImagePixel, Pixels


def native_pixels(image: ImagePixel, data: bytes) -> Pixels:
    """A frame of little endian bytes; nothing is copied where the layout allows it.

    Raises BadPixels when `data` is shorter than the attributes say.
    """
    if image.bits_allocated == 1:
        return Pixels(_unpacked(image, data), image.photometric)
    if image.photometric == "YBR_FULL_422" and image.samples == 3:
        return Pixels(_interleaved_422(image, data), "YBR_FULL")
    need = image.decoded_bytes
    if len(data) < need:
        raise BadPixels(f"the frame has {len(data)} bytes of {need}", attribute="PixelData")
    values = np.frombuffer(data, image.dtype, need // image.dtype.itemsize)
    if image.samples > 1 and image.planar == 1:
        planes = values.reshape(image.samples, image.rows, image.columns)
        return Pixels(np.ascontiguousarray(planes.transpose(1, 2, 0)), image.photometric)
    return Pixels(values.reshape(image.shape), image.photometric)


def _unpacked(image: ImagePixel, data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Single bits, the first in the lowest place (PS3.5 8.1.1), as bytes of 0 and 1."""
    count = image.rows * image.columns * image.samples
    if len(data) * 8 < count:
        raise BadPixels(f"the frame has {len(data)} bytes of {(count + 7) // 8}", attribute="PixelData")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little").reshape(image.shape)


def _interleaved_422(image: ImagePixel, data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Y Y Cb Cr for each two pixels: chroma repeated."""
    if image.bits_allocated != 8 or image.columns % 2 or image.planar:
        raise BadPixels("YBR_FULL_422 has 8 bits, even Columns and no planes", attribute="PhotometricInterpretation")
    need = image.rows * image.columns * 2
    if len(data) < need:
        raise BadPixels(f"the frame has {len(data)} bytes of {need}", attribute="PixelData")
    pairs = np.frombuffer(data, np.uint8, need).reshape(image.rows, image.columns // 2, 4)
    out = np.empty((image.rows, image.columns // 2, 2, 3), np.uint8)
    out[..., 0] = pairs[..., :2]
    out[..., 1:] = pairs[..., None, 2:]
    return out.reshape(image.shape)
