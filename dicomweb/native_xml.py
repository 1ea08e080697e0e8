"""DICOM JSON as the Native DICOM Model in XML (PS3.19 A.1)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from dicomweb.dictionary import creator_tag, is_creator
from dicomweb.tags import keyword_of

_HEAD: Final = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">'
)
_TAIL: Final = "</NativeDicomModel>\n"
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
# Characters that XML 1.0 does not have (section 2.2).
_NO_CHARACTER: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def native_xml(elements: Mapping[str, Any]) -> bytes:
    """The XML document of a data set; its numbers are text, or as JSON has them. Nested as deep as the data set is."""
    return "".join((_HEAD, *_attributes(elements), _TAIL)).encode()


def _attributes(elements: Mapping[str, Any]) -> Iterator[str]:
    for tag in sorted(elements):
        element = elements[tag]
        yield f'<DicomAttribute {_names(tag, elements)} vr="{element["vr"]}">'
        yield from _content(element)
        yield "</DicomAttribute>"


def _names(tag: str, elements: Mapping[str, Any]) -> str:
    """Tag and keyword; of a private attribute its creator, whose block counts as 00 in the tag."""
    number = int(tag, 16)
    if not number & 0x10000 or is_creator(number):
        keyword = keyword_of(tag)
        return f'tag="{tag}" keyword="{keyword}"' if keyword else f'tag="{tag}"'
    values = elements.get(f"{creator_tag(number):08X}", {}).get("Value")
    if not values or not values[0]:
        return f'tag="{tag}"'
    return f'tag="{tag[:4]}00{tag[6:]}" privateCreator={quoteattr(_clean(values[0]))}'


def _content(element: Mapping[str, Any]) -> Iterator[str]:
    if "BulkDataURI" in element:
        yield f"<BulkData uri={quoteattr(_clean(element['BulkDataURI']))}/>"
    elif "InlineBinary" in element:
        yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    for number, value in enumerate(element.get("Value", ()), 1):
        if element["vr"] == "SQ":
            yield f'<Item number="{number}">'
            yield from _attributes(value or {})
            yield "</Item>"
        elif element["vr"] == "PN":
            if groups := "".join(_groups(value or {})):
                yield f'<PersonName number="{number}">{groups}</PersonName>'
        elif value is not None:
            yield f'<Value number="{number}">{_text(value)}</Value>'


def _groups(name: Mapping[str, str]) -> Iterator[str]:
    for group in _GROUPS:
        parts = zip(_COMPONENTS, name.get(group, "").split("^"), strict=False)
        text = "".join(f"<{part}>{_text(value)}</{part}>" for part, value in parts if value)
        if text:
            yield f"<{group}>{text}</{group}>"


def _text(value: Any) -> str:
    """A value as text; readers of XML make a line feed of each carriage return that is not written so."""
    return escape(_clean(value), {"\r": "&#13;"})


def _clean(value: Any) -> str:
    return _NO_CHARACTER.sub("\ufffd", str(value))
