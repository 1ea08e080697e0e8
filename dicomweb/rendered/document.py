"""Encapsulated documents (PS3.3 C.24.2): the media types under which they may leave as what they are."""

from typing import Final

from dicomweb.errors import NotAcceptable
from dicomweb.media import parse_media_type
from dicomweb.rendered.attributes import Item, number, text

PDF: Final = "application/pdf"
# A browser that is led here runs nothing of these; whatever else a stranger stored could be a page of ours to it.
DOCUMENT_TYPES: Final = frozenset(
    (PDF, "text/xml", "application/xml", "model/stl", "model/obj", "model/mtl", "model/x.stl-binary")
)


def document_type(dataset: Item) -> str:
    """MIME Type of Encapsulated Document, which must be of the list. Raises NotAcceptable for another one."""
    given = text(dataset, "00420012")
    kind = parse_media_type(given).essence if "/" in given else ""
    if kind not in DOCUMENT_TYPES:
        raise NotAcceptable("documents of this type are not rendered: retrieve the instance or its bulk data")
    return kind


def document_length(dataset: Item, stored: int) -> int:
    """Bytes of the document without the padding of its value: Encapsulated Document Length, where it says so."""
    given = number(dataset, "00420015")
    return int(given) if given is not None and stored - 1 <= given <= stored else stored
