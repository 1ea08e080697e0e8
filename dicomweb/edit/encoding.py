"""New values as they are written (PS3.5 6.2, 7.1): text, numbers and sequences, in any of the native encodings."""

from dataclasses import dataclass
from struct import Struct, error
from typing import Final

from dicomweb.charset import codecs_for
from dicomweb.errors import BadRequest
from dicomweb.notes import Notes
from dicomweb.reencode import swapped, word_size
from dicomweb.structure import Coding, name_of
from dicomweb.values import LONG_VRS

# VRs whose text is in the character set of the data set.
TEXT_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
UTF_8: Final = b"ISO_IR 192"
_INTEGERS: Final = {"SS": "h", "US": "H", "SL": "i", "UL": "I", "SV": "q", "UV": "Q"}
_FLOATS: Final = {"FL": "f", "FD": "d", "OF": "f", "OD": "d"}
_AMBIGUOUS: Final = {"US or SS": "US", "US or OW": "US", "US or SS or OW": "US", "OB or OW": "OW"}
# Without code extensions only these are written in more than ASCII; what else there is, is read (PS3.3 C.12.1.1.2).
_WRITTEN: Final = frozenset((
    "ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 126", "ISO_IR 127", "ISO_IR 138", "ISO_IR 144",
    "ISO_IR 148", "ISO_IR 166", "ISO_IR 203", "ISO_IR 192", "GB18030", "GBK",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """The value of one attribute, as long as no data set says how it is encoded.

    `vr` may be ambiguous ("US or SS"). One of: `values` (text, also of numbers), `data` (bytes, little endian), `items`
    (of a sequence: attributes in ascending order).
    """

    vr: str
    values: tuple[str, ...] = ()
    data: bytes | None = None
    items: "tuple[tuple[tuple[int, Value], ...], ...] | None" = None


def writing_codec(character_set: bytes) -> str:
    """The codec in which text may be written under a Specific Character Set; "ascii" where no other is sure."""
    first = character_set.decode("latin-1").split("\\")[0].strip(" \0")
    term = f"ISO_IR {first[12:]}" if first.startswith("ISO 2022 IR ") else first
    if term not in _WRITTEN:
        return "ascii"
    return codecs_for(term.encode(), Notes())[0]


def fits(value: Value, codec: str) -> bool:
    """Whether all text of a value, also that inside a sequence, can be written in `codec`."""
    if value.items is not None:
        return all(fits(inner, codec) for item in value.items for _, inner in item)
    if value.vr not in TEXT_VRS:
        return True
    try:
        "\\".join(value.values).encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def definite(value: Value, found: str = "") -> str:
    """The VR in which a value is written where the data set has `found` so far."""
    choices = value.vr.split(" or ")
    if len(choices) == 1:
        return value.vr
    return found if found in choices else _AMBIGUOUS.get(value.vr, choices[0])


def header(tag: int, vr: str, length: int, coding: Coding) -> bytes:
    """The header of an element; BadRequest when its VR has no room for the length."""
    order = ">" if coding.big else "<"
    if not coding.explicit:
        return Struct("<HHI").pack(tag >> 16, tag & 0xFFFF, length)
    if vr in LONG_VRS:
        return Struct(order + "HH2sHI").pack(tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
    if length > 0xFFFF:
        raise BadRequest(f"{name_of(tag)}: {length} bytes are more than {vr} can hold", attribute=name_of(tag))
    return Struct(order + "HH2sH").pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)


def element(tag: int, vr: str, raw: bytes, coding: Coding) -> bytes:
    """An element with the value field `raw`, which is padded to an even length."""
    if len(raw) % 2:
        raw += b"\0" if vr in {"UI", "OB", "UN"} else b" "
    return header(tag, vr, len(raw), coding) + raw


def encode(tag: int, value: Value, coding: Coding, codec: str, found: str = "") -> bytes:
    """The element of a value; BadRequest when it does not fit its VR or the character set."""
    if value.items is not None:
        return _sequence(tag, value, coding, codec)
    vr = definite(value, found)
    try:
        raw = _raw(vr, value, coding, codec)
    except UnicodeEncodeError as wrong:
        raise BadRequest(
            f"{name_of(tag)}: the character set there has no such characters", attribute=name_of(tag)
        ) from wrong
    except (ValueError, error) as wrong:
        raise BadRequest(f"{name_of(tag)}: the value is none of VR {vr}", attribute=name_of(tag)) from wrong
    return element(tag, vr, raw, coding)


def _raw(vr: str, value: Value, coding: Coding, codec: str) -> bytes:
    order = ">" if coding.big else "<"
    if value.data is not None:
        word = word_size(vr) if vr != "UN" else 1
        return swapped(value.data, word) if coding.big and len(value.data) % word == 0 else value.data
    if vr in _INTEGERS:
        numbers = [int(text) for text in value.values]
        return Struct(f"{order}{len(numbers)}{_INTEGERS[vr]}").pack(*numbers)
    if vr in _FLOATS:
        return Struct(f"{order}{len(value.values)}{_FLOATS[vr]}").pack(*map(float, value.values))
    if vr == "AT":
        words = [int(half, 16) for text in value.values for half in (text[:4], text[4:])]
        return Struct(f"{order}{len(words)}H").pack(*words)
    text = "\\".join(value.values)
    if vr in TEXT_VRS or vr == "UN":
        return text.encode("utf-8" if vr == "UN" else codec)
    return text.encode("ascii")


def _sequence(tag: int, value: Value, coding: Coding, codec: str) -> bytes:
    order = ">" if coding.big else "<"
    parts: list[bytes] = []
    for item in value.items or ():
        content = b"".join(encode(inner, each, coding, codec) for inner, each in item)
        parts += (Struct(order + "HHI").pack(0xFFFE, 0xE000, len(content)), content)
    content = b"".join(parts)
    return header(tag, "SQ", len(content), coding) + content
