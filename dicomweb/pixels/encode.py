"""Arrays as compressed frames. The codecs release the interpreter lock, so that threads share the work."""

import zlib
from dataclasses import dataclass
from typing import Any, Final, Literal

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.pixels.syntaxes import SYNTAXES, Syntax

Array = NDArray[Any]
Subsampling = Literal["420", "422", "444"]

_DEFLATE_LEVEL: Final = 6


@dataclass(frozen=True, slots=True)
class Quality:
    """How much the lossy syntaxes keep.

    `jpeg`: 1 to 100. `subsampling`: of chroma in JPEG; YBR_FULL_422 is said of all of them. `psnr`: of JPEG 2000, in
    dB. `step`: quantisation step of HTJ2K, as a part of the range. `near`: largest error of JPEG-LS. `distance`: of
    JPEG XL, 1.0 is the smallest that nobody sees.
    """

    jpeg: int = 90
    subsampling: Subsampling = "422"
    psnr: int = 55
    step: float = 0.0005
    near: int = 2
    distance: float = 1.0


DEFAULT_QUALITY: Final = Quality()


def quality_of(jpeg: int | None) -> Quality:
    """The quality for a JPEG quality from 1 to 100 that was asked for."""
    return DEFAULT_QUALITY if jpeg is None else Quality(jpeg=jpeg)


def native_bytes(pixels: Pixels) -> bytes:
    """A frame as Explicit VR Little Endian has it: little endian, samples interleaved."""
    return pixels.array.tobytes()


def packed_bits(pixels: Pixels) -> bytes:
    """A frame of Bits Allocated 1, the first pixel in the lowest bit, the last byte filled with zeros (PS3.5 8.1.1)."""
    return np.packbits(pixels.array.reshape(-1), bitorder="little").tobytes()


class BitString:
    """Native frames one behind the other, of `bits` each: single bits may begin within a byte (PS3.5 8.1.1)."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._rest = np.empty(0, np.uint8)

    def add(self, frame: bytes) -> bytes:
        """The bytes that are complete with this frame, which is padded to whole bytes itself."""
        if self._bits % 8 == 0:
            return frame
        bits = np.unpackbits(np.frombuffer(frame, np.uint8), count=self._bits, bitorder="little")
        joined = np.concatenate((self._rest, bits))
        whole = joined.size // 8 * 8
        self._rest = joined[whole:]
        return np.packbits(joined[:whole], bitorder="little").tobytes()

    def end(self) -> bytes:
        """The last byte, filled with zeros, if it is not complete."""
        return np.packbits(self._rest, bitorder="little").tobytes()


def encode_frame(syntax: str, pixels: Pixels, image: ImagePixel, quality: Quality = DEFAULT_QUALITY) -> bytes:
    """One frame of even length; `syntaxes.can_encode` was asked before. Lossless ones give back every bit."""
    target = SYNTAXES[syntax]
    data = _encoded(target, pixels, image, quality)
    return data + b"\0" if len(data) % 2 else data


def _encoded(target: Syntax, pixels: Pixels, image: ImagePixel, quality: Quality) -> bytes:
    array = np.ascontiguousarray(pixels.array)
    match target.family:
        case "rle":
            return _run_lengths(array, image)
        case "deflate":
            native = packed_bits(pixels) if image.bits_allocated == 1 else native_bytes(pixels)
            packer = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -15)
            return packer.compress(native) + packer.flush()
        case "jpeg":
            return _jpeg(target, array, image, quality)
        case "jpeg2000":
            return _jpeg2000(target, array, pixels.photometric, image, quality)
        case "htj2k":
            # Tile-part lengths (TLM) let a reader find the resolutions: Sup 235 asks for them with RPCL.
            level = None if target.lossless else quality.step
            rgb = pixels.photometric == "RGB"
            return bytes(
                imagecodecs.htj2k_encode(array, level, reversible=target.lossless, rgb=rgb, tlm=True, tilepart=1)
            )
    bits = _precision(array, image)
    if target.family == "jpeg-ls":  # this codec writes whole bytes
        bits = 8 if bits <= 8 else 16
    samples = _unsigned(array, image, bits)
    match target.family:
        case "jpeg-lossless":
            space = "rgb" if image.samples == 3 else None
            return bytes(
                imagecodecs.jpeg8_encode(
                    samples, lossless=True, predictor=1, bitspersample=bits, colorspace=space, outcolorspace=space
                )
            )
        case "jpeg-ls":
            return _without_spiff(
                bytes(imagecodecs.jpegls_encode(samples, level=0 if target.lossless else quality.near))
            )
        case _:
            distance = None if target.lossless else quality.distance
            return bytes(
                imagecodecs.jpegxl_encode(
                    samples,
                    effort=1,
                    distance=distance,
                    lossless=target.lossless,
                    bitspersample=bits,
                    usecontainer=False,
                    numthreads=1,
                )
            )


def recompressed(jpeg: bytes) -> bytes:
    """A JPEG baseline file as JPEG XL that gives the very file back (ISO 18181-2, 9.2)."""
    data = bytes(imagecodecs.jpegxl_encode_jpeg(jpeg, usecontainer=True))
    return data + b"\0" if len(data) % 2 else data


def _precision(array: Array, image: ImagePixel) -> int:
    """Bits Stored; or Bits Allocated for a frame whose unused bits are used (overlays of old, sloppy writers)."""
    if image.bits_stored == image.bits_allocated:
        return image.bits_allocated
    low, high = (
        (-(1 << (image.bits_stored - 1)), (1 << (image.bits_stored - 1)))
        if image.signed
        else (0, 1 << image.bits_stored)
    )
    fits = low <= int(array.min()) and int(array.max()) < high
    return image.bits_stored if fits else image.bits_allocated


def _unsigned(array: Array, image: ImagePixel, bits: int) -> Array:
    """Two's complement of `bits` as unsigned values: most formats know no signs. In bytes where they suffice."""
    plain = array.view(f"<u{array.dtype.itemsize}")
    if image.signed and bits < image.bits_allocated:
        plain = plain & np.array((1 << bits) - 1, plain.dtype)
    return plain.astype(np.uint8) if bits <= 8 else plain


def _run_lengths(array: Array, image: ImagePixel) -> bytes:
    """PS3.5 G: a segment for each byte of each sample, the most significant one first; each row by itself."""
    width = array.dtype.itemsize
    planes = array[np.newaxis] if image.samples == 1 else array.transpose(2, 0, 1)
    segments = []
    for plane in planes:
        by_byte = np.ascontiguousarray(plane).view(np.uint8).reshape(*plane.shape, width)
        for place in reversed(range(width)):
            segment = bytes(imagecodecs.packbits_encode(np.ascontiguousarray(by_byte[:, :, place]), axis=-1))
            segments.append(segment + b"\0" if len(segment) % 2 else segment)
    offsets, at = [], 64
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    head = np.zeros(16, "<u4")
    head[0] = len(segments)
    head[1 : 1 + len(segments)] = offsets
    return head.tobytes() + b"".join(segments)


def _jpeg(target: Syntax, array: Array, image: ImagePixel, quality: Quality) -> bytes:
    if image.bits_allocated == 8:
        if image.samples == 1:
            return _grey_jpeg(array, quality)
        if image.photometric == "YBR_FULL":
            space = "ycbcr"
            return bytes(imagecodecs.jpeg8_encode(array, quality.jpeg, colorspace=space, outcolorspace=space))
        return bytes(simplejpeg.encode_jpeg(array, quality.jpeg, "RGB", quality.subsampling))
    if target.max_bits == 8:  # few bits in wide words
        return _grey_jpeg(array.astype(np.uint8), quality)
    values = np.minimum(array, (1 << 12) - 1)
    return bytes(imagecodecs.jpeg8_encode(values, level=quality.jpeg, bitspersample=12))


def _grey_jpeg(array: Array, quality: Quality) -> bytes:
    return bytes(simplejpeg.encode_jpeg(array[:, :, np.newaxis], quality.jpeg, "GRAY"))


def _jpeg2000(target: Syntax, array: Array, photometric: str, image: ImagePixel, quality: Quality) -> bytes:
    bits = _precision(array, image)
    return bytes(
        imagecodecs.jpeg2k_encode(
            array.astype(f"{array.dtype.kind}1") if bits <= 8 else array,
            level=0 if target.lossless else quality.psnr,
            reversible=target.lossless,
            codecformat="J2K",
            bitspersample=bits,
            mct=photometric == "RGB",
            numthreads=1,
        )
    )


def _without_spiff(data: bytes) -> bytes:
    """The codec puts a SPIFF header (ITU-T T.84 F) before the JPEG-LS stream, which DICOM does not want."""
    start = data.find(b"\xff\xd8\xff\xf7")
    return data[start:] if start > 0 else data
