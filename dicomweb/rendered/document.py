"""Encapsulated documents (PS3.3 C.24.2): the media types under which they may leave as what they are."""

from typing import Final

from dicomweb.errors import BadRequest, NotFound
from dicomweb.media import parse_media_type
from dicomweb.rendered.attributes import Item, number, text

PDF: Final = "application/pdf"
# A browser that is led here runs nothing of these; whatever else a stranger stored could be a page of ours to it.
DOCUMENT_TYPES: Final = frozenset(
    (PDF, "text/xml", "application/xml", "model/stl", "model/obj", "model/mtl", "model/x.stl-binary")
)


def document_type(dataset: Item, sop_class: str) -> str:
    """MIME Type of Encapsulated Document, else the type that the class is for; it must be of the list.

    Raises NotFound for another one: whatever is accepted, there is no rendered form.
    """
    stated = text(dataset, "00420012")
    if not stated and (known := documents_of_class(sop_class)):
        return known[0]
    try:
        kind = parse_media_type(stated).essence
    except BadRequest:
        kind = ""
    if kind not in DOCUMENT_TYPES:
        raise NotFound("documents of this type are not rendered: retrieve the instance or its bulk data")
    return kind


def document_length(dataset: Item, stored: int) -> int:
    """Bytes of the document without the padding of its value: Encapsulated Document Length, where it says so."""
    given = number(dataset, "00420015")
    return int(given) if given is not None and stored - 1 <= given <= stored else stored


def documents_of_class(sop_class: str) -> tuple[str, ...]:
    """The media type that an Encapsulated Document Storage class is for (PS3.4 B.5); nothing for other classes."""
    return _OF_CLASS.get(sop_class, ())


_OF_CLASS: Final = {
    f"1.2.840.10008.5.1.4.1.1.104.{arc}": (media_type,)
    for arc, media_type in enumerate((PDF, "text/xml", "model/stl", "model/obj", "model/mtl"), 1)
}
