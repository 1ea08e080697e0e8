"""Which reader a file gets."""

from pathlib import Path
from typing import Final

import openslide

from wsi.convert.dicom import DicomSource
from wsi.convert.opened import OpenedSlide
from wsi.convert.others import OtherSlide
from wsi.convert.picture import Picture
from wsi.convert.source import BadSlide, Source, is_dicom
from wsi.convert.tiff import open_tiff

# Classic and Big TIFF, in both byte orders.
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Vendors, as OpenSlide names them, whose tiles lie as the TIFF directories say; None is nobody that it knows.
_PLAIN: Final = frozenset((None, "aperio", "generic-tiff"))
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def open_source(path: Path, *, deidentify: bool = False) -> Source:
    """The slide in a file: tiled TIFF as it is, what OpenSlide or large-image know, or a picture. Raises BadSlide.

    DICOM, in a file or in a folder, is taken to be de-identified only.
    """
    try:
        if is_dicom(path):
            if not deidentify:
                raise BadSlide("the slide is DICOM already: import it, or ask for deidentify")
            return DicomSource(path)
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise BadSlide(f"the file cannot be read: {error.strerror}") from error
    # OpenSlide is asked first: TIFF files of some scanners have tiles that overlap, or sizes that only their texts say,
    # and a JPEG file may be a part of a Hamamatsu VMS slide.
    vendor = openslide.OpenSlide.detect_format(path)
    if head.startswith(_TIFF) and vendor in _PLAIN:
        found = open_tiff(path)
        if found is not None:
            return found
    if vendor is not None:
        return OpenedSlide(path)
    if head.startswith((*_TIFF, *_PICTURES)):
        return Picture(path)
    return OtherSlide(path)
