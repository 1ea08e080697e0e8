"""Transfer syntaxes that pixels can be transcoded to, and what each can carry (PS3.5 8.2, A.4)."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from dicomweb.media import EXPLICIT_LE, NATIVE
from dicomweb.pixels.image import MONOCHROME, ImagePixel

Family = Literal["rle", "deflate", "jpeg", "jpeg-lossless", "jpeg-ls", "jpeg2000", "htj2k", "jpeg-xl"]

# Changes whenever transcoding or rewriting gives other bytes than before: a part of entity tags.
REVISION: Final = 2

RLE: Final = "1.2.840.10008.1.2.5"
DEFLATED_FRAMES: Final = "1.2.840.10008.1.2.8.1"
JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_XL_RECOMPRESSION: Final = "1.2.840.10008.1.2.4.111"
HTJ2K_RPCL: Final = "1.2.840.10008.1.2.4.202"
_JPEG: Final = "1.2.840.10008.1.2.4."


@dataclass(frozen=True, slots=True)
class Syntax:
    """An encapsulated transfer syntax. `method`: Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1)."""

    uid: str
    family: Family
    lossless: bool
    method: str = ""
    max_bits: int = 16


SYNTAXES: Final[dict[str, Syntax]] = {
    syntax.uid: syntax
    for syntax in (
        Syntax(JPEG_BASELINE, "jpeg", lossless=False, method="ISO_10918_1", max_bits=8),
        Syntax(_JPEG + "51", "jpeg", lossless=False, method="ISO_10918_1", max_bits=12),
        Syntax(_JPEG + "57", "jpeg-lossless", lossless=True),
        Syntax(_JPEG + "70", "jpeg-lossless", lossless=True),
        Syntax(_JPEG + "80", "jpeg-ls", lossless=True),
        Syntax(_JPEG + "81", "jpeg-ls", lossless=False, method="ISO_14495_1"),
        Syntax(_JPEG + "90", "jpeg2000", lossless=True),
        Syntax(_JPEG + "91", "jpeg2000", lossless=False, method="ISO_15444_1"),
        Syntax(_JPEG + "110", "jpeg-xl", lossless=True),
        Syntax(JPEG_XL_RECOMPRESSION, "jpeg-xl", lossless=True),
        Syntax(_JPEG + "112", "jpeg-xl", lossless=False, method="ISO_18181_1"),
        Syntax(_JPEG + "201", "htj2k", lossless=True),
        Syntax(HTJ2K_RPCL, "htj2k", lossless=True),
        Syntax(_JPEG + "203", "htj2k", lossless=False, method="ISO_15444_15"),
        Syntax(RLE, "rle", lossless=True, max_bits=32),
        Syntax(DEFLATED_FRAMES, "deflate", lossless=True, max_bits=32),
    )
}

# What carries single bits as such, beside deflated frames (PS3.5 tables 8.2.2-1 and 8.2.4-1). The lossy JPEG 2000
# may by the standard; but a mask with losses is another one.
_SINGLE_BITS: Final = frozenset((RLE, _JPEG + "90"))

# Stored pixels in these may have lost something before they came; nothing can be concluded from others.
LOSSY: Final = frozenset(uid for uid, syntax in SYNTAXES.items() if not syntax.lossless) | {JPEG_XL_RECOMPRESSION}


def can_decode(uid: str) -> bool:
    """Whether stored frames in this transfer syntax can be turned into values."""
    return uid in NATIVE or uid in SYNTAXES


def can_encode(image: ImagePixel, stored: str, target: str) -> bool:
    """Whether frames of this kind, stored in `stored`, can be sent in `target`."""
    if not can_decode(stored):
        return False
    if target == EXPLICIT_LE:
        return True
    if target == JPEG_XL_RECOMPRESSION:  # a JPEG file packed without loss, which it gives back byte by byte
        return stored == JPEG_BASELINE
    syntax = SYNTAXES.get(target)
    if syntax is None:
        return False
    if syntax.family == "deflate":
        return True
    if image.bits_allocated == 1:
        return syntax.uid in _SINGLE_BITS and image.photometric in MONOCHROME
    if image.kind != "integer" or image.samples == 4 or image.bits_allocated not in (8, 16, 32):
        return False
    if syntax.family == "rle":
        return True
    return image.bits_allocated <= 16 and (syntax.lossless or _may_lose(image, syntax))


def _may_lose(image: ImagePixel, syntax: Syntax) -> bool:
    """Whether a lossy codec leaves an image that still means the same."""
    if image.photometric == "PALETTE COLOR":  # a quantised index is another colour
        return False
    if image.signed and syntax.family not in ("jpeg2000", "htj2k"):  # the others take the sign for a bit of the value
        return False
    if image.samples > 1 and (
        image.bits_allocated > 8 or (image.photometric == "YBR_FULL" and syntax.family == "jpeg-xl")
    ):
        return False
    return image.bits_stored <= syntax.max_bits


@lru_cache(maxsize=1024)
def targets(image: ImagePixel, stored: str) -> frozenset[str]:
    """Every transfer syntax that these frames can be transcoded to, the stored one apart."""
    return frozenset(uid for uid in (EXPLICIT_LE, *SYNTAXES) if uid != stored and can_encode(image, stored, uid))


def is_repacked(stored: str, target: str) -> bool:
    """Whether the target holds the stored JPEG stream itself, which is never decoded then (ISO 18181-2, 9.2)."""
    return {stored, target} == {JPEG_BASELINE, JPEG_XL_RECOMPRESSION}


def encoded_form(image: ImagePixel, stored: str, target: str) -> ImagePixel:
    """The Image Pixel attributes of frames that were transcoded from `stored` to `target`."""
    if is_repacked(stored, target):
        return image
    photometric = decoded_photometric(image, stored)
    syntax = SYNTAXES.get(target)
    if syntax is not None and photometric == "RGB":
        if syntax.family in ("jpeg2000", "htj2k"):
            photometric = "YBR_RCT" if syntax.lossless else "YBR_ICT"
        elif syntax.family == "jpeg":
            photometric = "YBR_FULL_422"
    return replace(image, photometric=photometric, planar=0)


def decoded_photometric(image: ImagePixel, stored: str) -> str:
    """The Photometric Interpretation of frames after decoding; see `Pixels`."""
    syntax = SYNTAXES.get(stored)
    if image.samples == 1:
        return image.photometric
    if syntax is None or syntax.family in ("rle", "deflate"):
        return "YBR_FULL" if image.photometric == "YBR_FULL_422" else image.photometric
    if syntax.family == "jpeg" or stored in (JPEG_XL_RECOMPRESSION, _JPEG + "112"):
        return "RGB"
    return "RGB" if image.photometric in ("YBR_RCT", "YBR_ICT", "XYB", "YBR_FULL_422") else image.photometric
