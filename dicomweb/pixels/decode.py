"""Compressed frames as arrays. Runs in a sandboxed process only: code streams were written by strangers."""

import zlib
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dicomweb.errors import BadPixels
from dicomweb.pixels.codestream import StreamSize, check_stream, jpeg_markers, with_adobe_marker
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.pixels.native import native_pixels
from dicomweb.pixels.syntaxes import JPEG_BASELINE, SYNTAXES, decoded_photometric

Array = NDArray[Any]


def decode_frame(syntax: str, data: bytes, image: ImagePixel, threads: int = 1) -> Pixels:
    """One frame of an encapsulated transfer syntax. Raises BadPixels for a stream that is not what `image` says.

    JPEG 2000 and JPEG XL share the work among `threads`: sooner done, for a tenth more processor time.
    """
    size = check_stream(syntax, data, image)
    family = SYNTAXES[syntax].family
    if family == "deflate":
        return native_pixels(image, _inflated(data, image))
    try:
        if family == "rle":
            array = _run_lengths(data, image)
        elif family == "jpeg":
            array = _jpeg(data, image)
        elif family == "jpeg-lossless":
            array = _jpeg_lossless(data)
        elif family == "jpeg-ls":
            array = imagecodecs.jpegls_decode(data)
        elif family == "jpeg2000":
            array = imagecodecs.jpeg2k_decode(data, planar=False, numthreads=threads)
        elif family == "htj2k":
            array = imagecodecs.htj2k_decode(data, planar=False)
        else:
            array = imagecodecs.jpegxl_decode(data, numthreads=threads)
    except (RuntimeError, ValueError) as error:  # imagecodecs' errors are RuntimeErrors
        raise BadPixels(f"the {family} stream cannot be decoded", attribute="PixelData") from error
    return Pixels(_as_stored(array, size, image), decoded_photometric(image, syntax))


def reduced_jpeg(data: bytes, image: ImagePixel, factor: int) -> Pixels:
    """A JPEG frame of 8-bit samples at 1 / `factor` (2, 4 or 8) of its size: only the low frequencies are decoded.

    A quarter of the size takes a third of the time. Raises BadPixels, also unless `factor` divides both sides.
    """
    rows, columns = image.rows // factor, image.columns // factor
    check_stream(JPEG_BASELINE, data, image)
    if image.samples > 1 and _holds_rgb(data, image):
        data = with_adobe_marker(data)
    space = "GRAY" if image.samples == 1 else "RGB"
    try:
        array = simplejpeg.decode_jpeg(data, colorspace=space, min_height=rows, min_width=columns, strict=False)
    except ValueError as error:
        raise BadPixels("the jpeg stream cannot be decoded", attribute="PixelData") from error
    if array.shape[:2] != (rows, columns):
        raise BadPixels("the frame cannot be reduced as it is decoded", attribute="PixelData")
    shape = (rows, columns, *image.shape[2:])
    return Pixels(np.asarray(array).reshape(shape), decoded_photometric(image, JPEG_BASELINE))


def _inflated(data: bytes, image: ImagePixel) -> bytes:
    """Deflated Image Frame Compression (PS3.5 A.4.13): the native frame, deflated."""
    need = (image.rows * image.columns * image.samples * image.bits_allocated + 7) // 8
    try:
        return zlib.decompressobj(-15).decompress(data, need + 1)
    except zlib.error as error:
        raise BadPixels("the deflated frame cannot be inflated", attribute="PixelData") from error


def _run_lengths(data: bytes, image: ImagePixel) -> Array:
    """PS3.5 G: one segment for each byte of each sample; the codec gives the samples plane by plane."""
    values = np.frombuffer(imagecodecs.dicomrle_decode(data, image.dtype), image.dtype)
    need = image.rows * image.columns * image.samples
    if values.size < need:
        raise BadPixels(f"the RLE frame has {values.size} samples of {need}", attribute="PixelData")
    if image.samples == 1:
        return values[:need].reshape(image.shape)
    planes = values[:need].reshape(image.samples, image.rows, image.columns)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _jpeg(data: bytes, image: ImagePixel) -> Array:
    """The DCT processes. Colour comes out as RGB, whatever the stream holds."""
    if image.samples == 1:
        return np.asarray(imagecodecs.jpeg8_decode(data))
    colorspace = "rgb" if _holds_rgb(data, image) else "ycbcr"
    return np.asarray(imagecodecs.jpeg8_decode(data, colorspace=colorspace, outcolorspace="rgb"))


def _holds_rgb(data: bytes, image: ImagePixel) -> bool:
    """What the stream says itself comes first; many instances name the colour space that they had before."""
    markers = jpeg_markers(data)
    if markers.adobe is not None:
        return markers.adobe == 0
    if markers.jfif:
        return False
    return markers.components == b"RGB" or image.photometric == "RGB"


def _jpeg_lossless(data: bytes) -> Array:
    """Process 14. Samples stay as they are: colour is what the attributes say."""
    space = "rgb" if jpeg_markers(data).size.samples == 3 else None
    try:
        return np.asarray(imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace=space))
    except (RuntimeError, ValueError):
        return np.asarray(imagecodecs.jpegsof3_decode(data))  # writers that libjpeg refuses: odd tables, no end marker


def _as_stored(array: Array, size: StreamSize | None, image: ImagePixel) -> Array:
    """The decoder's array in the shape and type of the attributes."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.shape != image.shape:
        raise BadPixels("the decoded frame has another shape than the attributes say", attribute="PixelData")
    wanted = image.dtype
    if array.dtype.kind not in "iu" or array.dtype.itemsize > wanted.itemsize:
        raise BadPixels("the decoded samples do not fit into Bits Allocated", attribute="BitsAllocated")
    if array.dtype == wanted:
        return array
    if image.signed and array.dtype.kind == "u":  # two's complement in a format that knows no signs
        bits = size.bits if size is not None and size.bits else image.bits_stored
        return _sign_extended(array, bits, wanted)
    return array.astype(wanted)


def _sign_extended(array: Array, bits: int, wanted: np.dtype[Any]) -> Array:
    unused = wanted.itemsize * 8 - bits
    return (array.astype(f"<u{wanted.itemsize}") << unused).view(wanted) >> unused
