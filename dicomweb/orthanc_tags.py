"""DICOM JSON in the three forms of Orthanc's REST API, where every value is text.

Full: `{"0010,0010": {"Name", "Type", "Value"}}`, Short: `{"0010,0010": value}`, Human: `{"PatientName": value}`.
Several values are joined by a backslash, sequences are lists, binary values and long texts are null.

Numbers keep the digits that they were stored with: `parse` leaves them as text.
"""

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Final, Literal

from pydicom.datadict import private_dictionary_description

from dicomweb.dictionary import is_creator
from dicomweb.tags import Level, keyword_of

Format = Literal["Full", "Short", "Human"]
Elements = Mapping[str, Any]

# Longer texts are left out unless they are asked for.
MAX_TEXT: Final = 256
_ODD: Final = frozenset("13579BDF")
_FLOATS: Final = frozenset(("FD", "FL"))
# Of others a single text is what is shown.
_CONVERTED: Final = _FLOATS | {"AT", "SQ"}
_UNKNOWN: Final = "Unknown Tag & Data"
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def _tags(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# What a resource is described by without being asked, as in Orthanc 1.12.5.
MAIN_TAGS: Final[Mapping[Level, tuple[str, ...]]] = {
    Level.PATIENT: _tags("00100010 00100020 00100030 00100040 00101000"),
    Level.STUDY: _tags(
        """
        00080020 00080030 00080050 00080080 00080090 00080201 00081030 0020000D 00200010 00321032 00321060
        """
    ),
    Level.SERIES: _tags(
        """
        00080021 00080031 00080060 00080070 00080201 00081010 0008103E 00081070 00180010 00180015 00180024 00181030
        00181090 00181400 0020000E 00200011 00200037 00200105 00201002 00400244 00400245 00400254 00400275 00540081
        00540101 00541000
        """
    ),
    Level.INSTANCE: _tags(
        """
        00080012 00080013 00080018 00200012 00200013 00200032 00200037 00200100 00204000 00280008 00541330
        """
    ),
}


def parse(text: str | bytes) -> dict[str, Any]:
    """A DICOM JSON object, its numbers as the text that they were."""
    found: dict[str, Any] = json.loads(text, parse_float=str, parse_int=str)
    return found


@lru_cache(maxsize=8192)
def spelled_tag(tag: str) -> str:
    """`0010,0010` for `00100010`."""
    return f"{tag[:4]},{tag[4:]}".lower()


@lru_cache(maxsize=8192)
def name_of(tag: str, creator: str = "") -> str:
    """The keyword; of a private element what its dictionary calls it, in one word."""
    number = int(tag, 16)
    if not number & 0x10000:
        return keyword_of(tag) or _UNKNOWN
    if is_creator(number):
        return "PrivateCreator"
    try:
        described = private_dictionary_description(number, creator) if creator else ""
    except KeyError:
        described = ""
    words = "".join(c if c.isalnum() else " " for c in described).split()
    return "".join(word[:1].upper() + word[1:] for word in words) or _UNKNOWN


def text_of(element: Mapping[str, Any]) -> str | None:
    """The values of an element as one text; None for binary ones."""
    values = element.get("Value")
    if not values:
        return None if "BulkDataURI" in element or "InlineBinary" in element else ""
    vr = element["vr"]
    if vr == "AT":
        return "\\".join(map(spelled_tag, values))
    if vr in _FLOATS:
        return "\\".join(f"{float(value):.17g}" for value in values)
    if len(values) == 1 and type(values[0]) is str:
        return str(values[0])
    return "\\".join([value if type(value) is str else _text(value) for value in values])


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        if len(value) == 1 and "Alphabetic" in value:  # as names are, but for few
            return str(value["Alphabetic"]).rstrip("=")
        return "=".join(value.get(group, "") for group in _GROUPS).rstrip("=")
    return str(value)


def formatted(
    elements: Elements, form: Format, *, keep: Collection[str] = (), max_text: int = MAX_TEXT
) -> dict[str, Any]:
    """A data set, its tags in ascending order, in one of the forms.

    `keep`: tags whose text may be longer than `max_text` characters. Takes about a microsecond an element.
    """
    answer: dict[str, Any] = {}
    creators: dict[str, str] = {}  # of private blocks, by group and block
    full, human = form == "Full", form == "Human"
    for tag, element in elements.items():
        creator = ""
        if tag[3] in _ODD:
            creator = _creator(creators, tag, element)
        spelled, name = _named(tag, creator)
        if element["vr"] == "SQ":
            items = element.get("Value") or ()
            kind = "Sequence"
            value: Any = [formatted(item or {}, form, keep=keep, max_text=max_text) for item in items]
        else:
            value = text_of(element)
            kind = "String"
            if value is None:
                kind = "Null"
            elif len(value) > max_text and tag not in keep:
                kind, value = "TooLong", None
        if full:
            entry = answer[spelled] = {"Name": name, "Type": kind, "Value": value}
            if creator:
                entry["PrivateCreator"] = creator
        else:
            answer[name if human else spelled] = value
    return answer


@lru_cache(maxsize=16384)
def _named(tag: str, creator: str) -> tuple[str, str]:
    return spelled_tag(tag), name_of(tag, creator)


def _creator(creators: dict[str, str], tag: str, element: Mapping[str, Any]) -> str:
    """The creator of a private element; one that is a creator itself (PS3.5 7.8.1) is remembered, and has none."""
    if tag[4:6] == "00":
        values = element.get("Value") or ("",)
        creators[tag[:4] + tag[6:]] = str(values[0] or "")
        return ""
    return creators.get(tag[:6], "")


@lru_cache(maxsize=512)
def _with_names(tags: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((tag, keyword_of(tag) or spelled_tag(tag)) for tag in tags)


def main_tags(elements: Elements, tags: tuple[str, ...], form: Format, max_text: int = MAX_TEXT) -> dict[str, Any]:
    """Those of `tags` that the elements have, but for longer texts."""
    found: dict[str, Any] = {}
    for tag, name in _with_names(tags):
        element = elements.get(tag)
        if element is None:
            continue
        if form == "Human" and (vr := element["vr"]) != "SQ":
            values = element.get("Value")
            text: str | None
            if values and len(values) == 1 and type(values[0]) is str and vr not in _CONVERTED:
                text = values[0]
            else:
                text = text_of(element)
            if text is not None and len(text) <= max_text:
                found[name] = text
            continue
        shown = formatted({tag: element}, form, max_text=max_text).items()
        found |= {name: value for name, value in shown if (value["Value"] if form == "Full" else value) is not None}
    return found


def requested_tags(elements: Elements, tags: tuple[str, ...], form: Format, max_text: int = MAX_TEXT) -> dict[str, Any]:
    """The same of tags that a client asked for: those that the elements do not have are null."""
    absent: dict[str, Any] = {
        human if form == "Human" else spelled_tag(tag): {"Name": human, "Type": "Null", "Value": None}
        if form == "Full"
        else None
        for tag, human in _with_names(tags)
    }
    return absent | main_tags(elements, tags, form, max_text)
