"""What a new instance holds beside its attributes: a picture, a document, or a model to be printed.

A picture is described by its first bytes alone, before any decoder sees it.
"""

import struct
from base64 import b64decode
from dataclasses import dataclass
from typing import Any, Final, Literal

from dicomweb.errors import BadDataUri, BadDicom, BadPixels, BadRequest
from dicomweb.pixels.codestream import StreamSize, jpeg_markers
from dicomweb.pixels.image import ImagePixel

PNG: Final = "image/png"
JPEG: Final = "image/jpeg"

_PNG_HEAD: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
# Colour types (PNG 11.2.2) and their samples without alpha; a palette is one of RGB.
_SAMPLES: Final = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
_BASELINE: Final = 0xC0
_PREFIX: Final = "data:"
_ENDING: Final = ";base64"


@dataclass(frozen=True, slots=True)
class Kind:
    """An encapsulated document: its SOP class and modality, and how its bytes begin (PS3.3 A.45, A.85, A.104)."""

    sop_class: str
    modality: str
    signature: bytes = b""


DOCUMENTS: Final = {
    "application/pdf": Kind("1.2.840.10008.5.1.4.1.1.104.1", "OT", b"%PDF-"),
    "model/stl": Kind("1.2.840.10008.5.1.4.1.1.104.3", "M3D"),
    "model/obj": Kind("1.2.840.10008.5.1.4.1.1.104.4", "M3D"),
    "model/mtl": Kind("1.2.840.10008.5.1.4.1.1.104.5", "M3D"),
}


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one instance's content. `image`: what a picture's pixels are when they are decoded."""

    media_type: str
    data: bytes
    image: ImagePixel | None = None

    @classmethod
    def of(cls, given: Any) -> "Content":
        """From a data URI (RFC 2397).

        Raises BadDataUri for what is none, BadRequest for what is not taken, BadDicom for bytes of another kind.
        """
        if not isinstance(given, str) or not given.startswith(_PREFIX):
            raise BadDataUri("Content is a data URI with base64", attribute="Content")
        head, _, text = given.partition(",")
        media_type = head[len(_PREFIX) :].lower().removesuffix(_ENDING).partition(";")[0]
        if not head.lower().endswith(_ENDING) or media_type not in (PNG, JPEG, *DOCUMENTS):
            known = ", ".join((PNG, JPEG, *DOCUMENTS))
            raise BadRequest(f"Content is a data URI with base64, of {known}", attribute="Content")
        try:
            data = b64decode(text, validate=True)
        except ValueError as wrong:
            raise BadRequest("Content is not base64", attribute="Content") from wrong
        if media_type in DOCUMENTS:
            if not data or not data.startswith(DOCUMENTS[media_type].signature):
                raise BadDicom(f"Content is no {media_type}", attribute="Content")
            return cls(media_type, data)
        try:
            return cls(media_type, data, _image(_jpeg_size(data) if media_type == JPEG else _png_size(data)))
        except BadPixels as error:
            raise BadDicom(f"Content is no picture that can be stored: {error.message}", attribute="Content") from error

    @property
    def decoded_bytes(self) -> int:
        """What the content takes as the value of an attribute."""
        return len(self.data) if self.image is None else self.image.decoded_bytes


def jpeg_photometric(data: bytes) -> Literal["MONOCHROME2", "RGB", "YBR_FULL_422"]:
    """The Photometric Interpretation of a JPEG baseline stream as it is (PS3.5 8.2.1).

    Raises BadDicom for another process, which that transfer syntax does not take.
    """
    markers = jpeg_markers(data)
    if markers.process != _BASELINE:
        raise BadDicom("Encapsulate is for JPEG baseline pictures", attribute="Content")
    if markers.size.samples == 1:
        return "MONOCHROME2"
    plain = markers.adobe is None and not markers.jfif and markers.components == b"RGB"
    return "RGB" if plain or markers.adobe == 0 else "YBR_FULL_422"


def _png_size(data: bytes) -> StreamSize:
    """What the header of a PNG file says (PNG 11.2.2)."""
    if not data.startswith(_PNG_HEAD) or len(data) < 33:
        raise BadPixels("it is no PNG file", attribute="Content")
    columns, rows, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if colour not in _SAMPLES or bits not in (1, 2, 4, 8, 16):
        raise BadPixels("its PNG header is wrong", attribute="Content")
    return StreamSize(rows, columns, _SAMPLES[colour], max(8, bits))


def _jpeg_size(data: bytes) -> StreamSize:
    size = jpeg_markers(data).size
    if size.bits != 8 or size.samples not in (1, 3):
        raise BadPixels("a JPEG picture is grey or RGB, with 8 bits", attribute="Content")
    return size


def _image(size: StreamSize) -> ImagePixel:
    """Pixels of that size without sign, colours interleaved. Raises BadPixels for what is too large."""
    image = ImagePixel(
        rows=size.rows,
        columns=size.columns,
        samples=size.samples,
        bits_allocated=size.bits,
        bits_stored=size.bits,
        signed=False,
        planar=0,
        photometric="MONOCHROME2" if size.samples == 1 else "RGB",
        number_of_frames=1,
    )
    image.check()
    return image
