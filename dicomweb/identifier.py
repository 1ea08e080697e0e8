"""Identifiers of DIMSE requests and responses: small data sets, read as text and written from DICOM JSON (PS3.5 7).

A key may hold what its VR does not allow (a range, a wildcard), so that values are read as text and judged later.
"""

import struct
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from dicomweb.charset import Codecs, codecs_for, decode
from dicomweb.dictionary import is_creator, public_vr
from dicomweb.errors import BadQuery
from dicomweb.media import EXPLICIT_BE, IMPLICIT_LE
from dicomweb.notes import Notes
from dicomweb.query import MAX_DEPTH, Key, Path
from dicomweb.repertoire import ASCII, Repertoire
from dicomweb.tags import keyword_of
from dicomweb.values import BINARY_VRS, LONG_VRS, SHORT_VRS

Member = Mapping[str, Any]

MAX_ELEMENTS: Final = 50_000
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARACTER_SET: Final = "00080005"
_LONGEST: Final = 0xFFFE

_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_TEXTS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True, slots=True)
class Element:
    """An attribute: `text` is its value, several with backslashes between them; of a sequence there are `items`.

    Binary numbers and tags are text as well; other binary values are left out.
    """

    tag: str
    vr: str
    text: str = ""
    items: tuple["Items", ...] = ()


Items = tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class Identifier:
    """A data set that came with a request; `character_set` is the value of its Specific Character Set."""

    elements: Items
    character_set: bytes = b""

    def get(self, tag: str) -> str:
        """The text of an attribute without padding, "" where there is none."""
        return next((element.text.strip(" \0") for element in self.elements if element.tag == tag), "")


# ------------------------------------------------------------------------------------------------------- reading


def read_identifier(data: bytes, transfer_syntax: str, *, max_elements: int = MAX_ELEMENTS) -> Identifier:
    """A data set in one of the three encodings without compression. Raises BadQuery where it cannot be understood."""
    return _Reader(data, transfer_syntax, max_elements).read()


class _Reader:
    def __init__(self, data: bytes, transfer_syntax: str, max_elements: int) -> None:
        self._data = data
        self._explicit = transfer_syntax != IMPLICIT_LE
        self._order = ">" if transfer_syntax == EXPLICIT_BE else "<"
        self._head = struct.Struct(self._order + "HHI").unpack_from
        self._pair = struct.Struct(self._order + "HH").unpack_from
        self._u16 = struct.Struct(self._order + "H").unpack_from
        self._u32 = struct.Struct(self._order + "I").unpack_from
        self._left = max_elements
        self._character_set = b""
        self._codecs: Codecs = ("latin-1",)
        self._notes = Notes()

    def read(self) -> Identifier:
        try:
            elements, _ = self._elements(0, len(self._data), 0, explicit=self._explicit)
        except struct.error:
            raise BadQuery("the identifier cannot be decoded: it is cut") from None
        return Identifier(elements, self._character_set)

    def _elements(self, pos: int, end: int, depth: int, *, explicit: bool) -> tuple[Items, int]:
        """The elements up to `end`, or to an item delimiter; and the offset behind them."""
        if depth > MAX_DEPTH:
            raise BadQuery(f"sequences in a query may be at most {MAX_DEPTH} levels deep")
        found: list[Element] = []
        while pos < end:
            group, number = self._pair(self._data, pos)
            tag = group << 16 | number
            if tag == _ITEM_END:
                return tuple(found), pos + 8
            if group == 0xFFFE:
                raise BadQuery("the identifier cannot be decoded: a delimiter where an element is due")
            self._left -= 1
            if self._left < 0:
                raise BadQuery("the identifier has too many elements")
            vr, length, pos = self._header(tag, pos, explicit=explicit)
            if vr == "SQ" or length == _UNDEFINED:
                # An undefined length in UN means that the value is a sequence in Implicit VR (PS3.5 6.2.2).
                items, pos = self._items(pos, length, end, depth, explicit=explicit and vr == "SQ")
                found.append(Element(f"{tag:08X}", "SQ", "", items))
                continue
            if length > end - pos:
                raise BadQuery("the identifier cannot be decoded: a value ends behind the end")
            if number:  # else it is a group length
                found.append(Element(f"{tag:08X}", vr, self._text(tag, vr, self._data[pos : pos + length])))
            pos += length
        return tuple(found), pos

    def _header(self, tag: int, pos: int, *, explicit: bool) -> tuple[str, int, int]:
        """VR, length, and where the value begins."""
        if not explicit:
            vr = "LO" if is_creator(tag) else public_vr(tag)
            return vr[:2], self._u32(self._data, pos + 4)[0], pos + 8
        vr = self._data[pos + 4 : pos + 6].decode("latin-1")
        if vr in SHORT_VRS:
            return vr, self._u16(self._data, pos + 6)[0], pos + 8
        if vr in LONG_VRS:
            return vr, self._u32(self._data, pos + 8)[0], pos + 12
        raise BadQuery("the identifier cannot be decoded: no VR where one is due")

    def _items(self, pos: int, length: int, end: int, depth: int, *, explicit: bool) -> tuple[tuple[Items, ...], int]:
        if length != _UNDEFINED:
            if length > end - pos:
                raise BadQuery("the identifier cannot be decoded: a sequence ends behind the end")
            end = pos + length
        items: list[Items] = []
        while pos < end:
            group, number, size = self._head(self._data, pos)
            pos += 8
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                return tuple(items), pos
            if tag != _ITEM or (size != _UNDEFINED and size > end - pos):
                raise BadQuery("the identifier cannot be decoded: no item where one is due")
            bound = end if size == _UNDEFINED else pos + size
            item, pos = self._elements(pos, bound, depth + 1, explicit=explicit)
            items.append(item)
        return tuple(items), pos

    def _text(self, tag: int, vr: str, raw: bytes) -> str:
        if tag == 0x00080005 and not self._character_set:
            self._character_set = raw.strip(b" \0")
            self._codecs = codecs_for(self._character_set, self._notes)
        if vr in _TEXTS:
            return decode(raw, self._codecs, self._notes)
        if vr in BINARY_VRS:
            return ""
        if vr == "AT":
            words = self._unpacked("H", raw)
            return "\\".join(f"{group:04X}{number:04X}" for group, number in zip(words[::2], words[1::2], strict=False))
        code = _NUMBERS.get(vr)
        return raw.decode("latin-1") if code is None else "\\".join(map(str, self._unpacked(code, raw)))

    def _unpacked(self, code: str, raw: bytes) -> tuple[Any, ...]:
        count = len(raw) // struct.calcsize("=" + code)
        return struct.unpack_from(f"{self._order}{count}{code}", raw)


def keys_of(elements: Iterable[Element], parents: Path = ()) -> Iterator[Key]:
    """The matching keys of an identifier, those in a sequence with their path (PS3.4 C.2.2.2.6).

    A sequence without an item is a key that matches everything. Raises BadQuery for more than one item.
    """
    for element in elements:
        path = (*parents, element.tag)
        name = keyword_of(element.tag) or element.tag
        if element.vr != "SQ":
            yield Key(path, name, (element.text,))
            continue
        if len(element.items) > 1:
            raise BadQuery(f"{name} has more than one item", attribute=name)
        if not any(element.items) and not parents:
            yield Key(path, name, ("",))
        for item in element.items:
            yield from keys_of(item, path)


# ------------------------------------------------------------------------------------------------------- writing


class _Unwritable(Exception):
    """The character set cannot hold a value."""


class IdentifierWriter:
    """Writes attributes of the DICOM JSON model (PS3.18 annex F) in one encoding."""

    def __init__(self, transfer_syntax: str) -> None:
        self._explicit = transfer_syntax != IMPLICIT_LE
        self._order = ">" if transfer_syntax == EXPLICIT_BE else "<"
        self._u16 = struct.Struct(self._order + "H").pack
        self._u32 = struct.Struct(self._order + "I").pack
        self._item = struct.pack(self._order + "HH", 0xFFFE, 0xE000)
        self._heads: dict[tuple[str, str], tuple[bytes, bool]] = {}

    def write(self, members: Mapping[str, Member], character_sets: Iterable[Repertoire]) -> bytes:
        """A data set of `members` by tag, in the first of `character_sets` that holds all of it.

        Specific Character Set says which one it was; the last one has to hold everything.
        """
        for repertoire in character_sets:
            said = repertoire.value.decode("latin-1")
            own: dict[str, Member] = {} if repertoire is ASCII else {_CHARACTER_SET: {"vr": "CS", "Value": [said]}}
            try:
                return self._data_set({**members, **own}, repertoire)
            except _Unwritable:
                continue
        raise ValueError("no character set holds the values")

    def _data_set(self, members: Mapping[str, Member], repertoire: Repertoire) -> bytes:
        return b"".join([self._element(tag, members[tag], repertoire) for tag in sorted(members)])

    def _element(self, tag: str, member: Member, repertoire: Repertoire) -> bytes:
        vr = member["vr"]
        raw = self._items(member, repertoire) if vr == "SQ" else self._value(vr, member, repertoire)
        if len(raw) % 2:
            raw += b"\0" if vr == "UI" or vr in BINARY_VRS else b" "
        head, short = self._heads.get((tag, vr)) or self._head(tag, vr)
        if not short:
            return head + self._u32(len(raw)) + raw
        if len(raw) > _LONGEST:  # cannot be said
            raw = b""
        return head + self._u16(len(raw)) + raw

    def _head(self, tag: str, vr: str) -> tuple[bytes, bool]:
        """What comes before the length of an element, and whether that has 16 bits."""
        head = self._u16(int(tag[:4], 16)) + self._u16(int(tag[4:], 16))
        short = self._explicit and vr not in LONG_VRS
        if self._explicit:
            head += vr.encode() + (b"" if short else b"\0\0")
        self._heads[tag, vr] = head, short
        return head, short

    def _items(self, member: Member, repertoire: Repertoire) -> bytes:
        pieces = []
        for item in member.get("Value", ()):
            data = self._data_set(item or {}, repertoire)
            pieces.append(self._item + self._u32(len(data)) + data)
        return b"".join(pieces)

    def _value(self, vr: str, member: Member, repertoire: Repertoire) -> bytes:
        if vr in BINARY_VRS:
            # Words would have to be turned round, and bulk data are fetched by other means.
            return b"" if self._order == ">" else b64decode(member.get("InlineBinary", ""))
        values = member.get("Value")
        if not values:
            return b""
        if vr in _TEXTS:
            names = vr == "PN"
            text = "\\".join([_name(value) if names else "" if value is None else str(value) for value in values])
            data = repertoire.encode(text)
            if data is None:
                raise _Unwritable
            return data
        if vr == "AT":
            return b"".join(struct.pack(self._order + "HH", int(v[:4], 16), int(v[4:], 16)) for v in values if v)
        code = _NUMBERS.get(vr)
        if code is not None:
            return self._packed(code, values)
        return "\\".join([_plain(vr, value) for value in values]).encode("latin-1", "replace")

    def _packed(self, code: str, values: Iterable[Any]) -> bytes:
        kind = float if code in "fd" else int
        try:
            return b"".join([struct.pack(self._order + code, kind(value)) for value in values if value is not None])
        except (struct.error, ValueError, OverflowError):  # what a data set held that does not fit its VR
            return b""


def _name(value: Any) -> str:
    """A Person Name of the DICOM JSON model as text (PS3.18 F.2.2)."""
    if not value:
        return ""
    return "=".join(value.get(group, "") for group in _GROUPS).rstrip("=")


def _plain(vr: str, value: Any) -> str:
    if value is None:
        return ""
    if vr == "DS" and isinstance(value, float):
        text = repr(value)
        return text if len(text) <= 16 else f"{value:.9g}"  # 16 characters at most, with sign and exponent
    return str(value)


def narrowed(member: Member, asked: Items) -> Member:
    """Of a sequence's items only the attributes that were asked for, empty where they have none of them."""
    items = [
        {
            element.tag: narrowed(item[element.tag], next(iter(element.items), ()))
            if element.items and item.get(element.tag, {}).get("vr") == "SQ"
            else item.get(element.tag, {"vr": element.vr})
            for element in asked
        }
        for item in islice(member.get("Value", ()), MAX_ELEMENTS)
        if item is not None
    ]
    return {"vr": "SQ", "Value": items} if asked else member
