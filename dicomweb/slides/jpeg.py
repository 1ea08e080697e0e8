"""JPEG frames that leave as they are stored: only those that every browser shows as their attributes say."""

from functools import lru_cache
from typing import Final

from dicomweb.errors import BadPixels
from dicomweb.pixels.codestream import jpeg_markers, with_adobe_marker
from dicomweb.pixels.image import ImagePixel
from dicomweb.pixels.syntaxes import JPEG_BASELINE

# Extended sequential coding (process 4) of 8 bits differs in nothing that a decoder of browsers would not take.
JPEG_SYNTAXES: Final = frozenset((JPEG_BASELINE, "1.2.840.10008.1.2.4.51"))
_SHOWN: Final = frozenset(("MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422"))
# Baseline, extended sequential and progressive: what browsers decode.
_PROCESSES: Final = frozenset((0xC0, 0xC1, 0xC2))
_HEADS: Final = 8
_TAIL: Final = 64
_END: Final = b"\xff\xd9"


class JpegFrames:
    """The frames of images with the same attributes.

    Encoders write the same segments in front of every frame, so that a head that was looked at once is only compared.
    """

    def __init__(self, image: ImagePixel) -> None:
        self._image = image
        self._heads: list[tuple[bytes, bool]] = []

    def sent(self, data: bytes) -> bytes | None:
        """The frame as image/jpeg; None when it must be decoded: of another size than Rows and Columns, or inverse.

        Raises BadPixels for what is no JPEG stream, or is cut.
        """
        bare = next((bare for head, bare in self._heads if data.startswith(head)), None)
        if bare is None:
            bare = self._look(data)
        if bare is None:
            return None
        if _END not in data[-_TAIL:]:
            raise BadPixels("the code stream is cut: it has no end marker", attribute="PixelData")
        return with_adobe_marker(data) if bare else data

    def _look(self, data: bytes) -> bool | None:
        """Whether the frame holds RGB and does not say so; None when it has to be decoded."""
        image, markers = self._image, jpeg_markers(data)
        size = markers.size
        if (size.rows, size.columns, size.samples, size.bits) != (image.rows, image.columns, image.samples, 8):
            return None
        if image.photometric not in _SHOWN or markers.process not in _PROCESSES:
            return None
        says = markers.adobe is not None or markers.jfif or markers.components == b"RGB"
        bare = image.samples == 3 and image.photometric == "RGB" and not says
        self._heads.append((data[: markers.end], bare))
        del self._heads[:-_HEADS]
        return bare


@lru_cache(maxsize=1024)
def jpeg_frames(image: ImagePixel) -> JpegFrames:
    """The frames of images with these attributes."""
    return JpegFrames(image)


def real_size(data: bytes, image: ImagePixel) -> tuple[int, int]:
    """(rows, columns) of a JPEG frame, which some writers of slides cut at the edges of the matrix.

    Raises BadPixels for a frame that is larger than Rows and Columns say.
    """
    size = jpeg_markers(data).size
    if not (0 < size.rows <= image.rows and 0 < size.columns <= image.columns):
        raise BadPixels(
            f"the frame has {size.rows} x {size.columns} pixels, Rows and Columns say {image.rows} x {image.columns}",
            attribute="PixelData",
        )
    return size.rows, size.columns
