"""Value fields -> attribute objects of the DICOM JSON model (PS3.18 Annex F), little endian.

`render` gives the same JSON value as pydicom, apart from what the annex asks for and pydicom does not do: empty values
among several are null (F.2.5), empty PN component groups are left out (F.2.2), an empty sequence has no "Value"
(F.2.5), numbers that JSON cannot hold are strings (F.2.3: IS, DS, SV, UV beyond 2^53; NaN and infinities), and NUL
characters, which no DICOM character repertoire contains and PostgreSQL's jsonb cannot store, are dropped from text.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isfinite, isnan
from struct import Struct
from typing import Any, Final

import orjson

from dicomweb.charset import Codecs, decode
from dicomweb.notes import Notes

SHORT_VRS: Final = frozenset("AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())  # noqa: SIM905
LONG_VRS: Final = frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # noqa: SIM905
BINARY_VRS: Final = frozenset("OB OD OF OL OV OW UN".split())  # noqa: SIM905
# Value fields from here on are bulk data whatever their VR: nobody searches them, and parsing five million numbers is
# an attack.
TEXT_BULK: Final = 65536

_dumps = orjson.dumps
_SAFE_INTEGER = 2**53 - 1
# A decimal or integer string that is a JSON number as it stands (RFC 8259 6), short enough for any double.
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,16})?(?:[eE][+-]?[0-9]{1,2})?")
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,14}")
_LOOSE_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_LUT_DESCRIPTORS: Final = frozenset(("00281101", "00281102", "00281103", "00283002"))

Convert = Callable[[bytes], bytes]
Decode = Callable[[bytes, Codecs, Notes], bytes]


def _string(text: str) -> str:
    return text.replace("\0", "") if "\0" in text else text


def _strings(values: Sequence[str]) -> bytes:
    """The JSON array of text values, or b"" when the attribute is empty."""
    if len(values) == 1:
        return b"[" + _dumps(_string(values[0])) + b"]" if values[0].strip("\0") else b""
    return _dumps([_string(value) or None for value in values])


def _application_entity(raw: bytes) -> bytes:
    return _strings([value.strip(" \0") for value in raw.decode("latin-1").split("\\")])


def _default_repertoire(raw: bytes) -> bytes:
    return _strings(raw.decode("latin-1").rstrip(" \0").split("\\"))


def _uid(raw: bytes) -> bytes:
    return _strings([value.strip() for value in raw.decode("latin-1").rstrip(" \0").split("\\")])


def _uri(raw: bytes) -> bytes:
    return _strings([raw.decode("latin-1").rstrip(" \0")])


def _decoded(raw: bytes, codecs: Codecs, notes: Notes) -> str:
    # All these codecs keep ASCII as it is; only ISO 2022 gives ESC a meaning.
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    return decode(raw, codecs, notes)


def _text(raw: bytes, codecs: Codecs, notes: Notes) -> bytes:
    return _strings([value.rstrip(" \0") for value in _decoded(raw, codecs, notes).split("\\")])


def _single_text(raw: bytes, codecs: Codecs, notes: Notes) -> bytes:
    return _strings([_decoded(raw, codecs, notes).rstrip(" \0")])


_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def _person_name(raw: bytes, codecs: Codecs, notes: Notes) -> bytes:
    names = []
    for value in _decoded(raw.rstrip(b" \0"), codecs, notes).split("\\"):
        groups = {name: text for name, text in zip(_GROUPS, map(_string, value.split("=")), strict=False) if text}
        names.append(groups or None)
    return b"" if names == [None] else _dumps(names)


def _number_text(raw: bytes, *, integral: bool) -> bytes:
    """A DS or IS value that is not written as JSON writes numbers: a number if that is exact, else a string."""
    text = raw.decode("latin-1").strip(" \0")
    if not text:
        return b"null"
    if _LOOSE_NUMBER.fullmatch(text):
        number = float(text)
        if isfinite(number) and number.is_integer() and abs(number) <= _SAFE_INTEGER:
            return b"%d" % int(number)
        if isfinite(number) and not (integral and number.is_integer()):
            return _dumps(number)
    return _dumps(_string(text))


def _decimal(raw: bytes) -> bytes:
    if not (raw := raw.strip(b" \0")):
        return b""
    matches = _NUMBER.fullmatch
    values = [value.strip() for value in raw.split(b"\\")]
    return (
        b"[" + b",".join([value if matches(value) else _number_text(value, integral=False) for value in values]) + b"]"
    )


def _integer(raw: bytes) -> bytes:
    if not (raw := raw.strip(b" \0")):
        return b""
    matches = _INTEGER.fullmatch
    values = [value.strip() for value in raw.split(b"\\")]
    return (
        b"[" + b",".join([value if matches(value) else _number_text(value, integral=True) for value in values]) + b"]"
    )


def text_value(raw: bytes, codecs: Codecs, notes: Notes) -> str:
    """The one value of a text element without its padding; "" when it has several."""
    text = _decoded(raw, codecs, notes).rstrip(" \0")
    return "" if "\\" in text else text


class WrongLength(ValueError):
    """A binary value field that is no multiple of its VR's size."""


def _tag_list(raw: bytes) -> bytes:
    if len(raw) % 4:
        raise WrongLength
    words = Struct(f"<{len(raw) // 2}H").unpack(raw)
    return _dumps([f"{group:04X}{element:04X}" for group, element in zip(words[::2], words[1::2], strict=True)])


def _integers(code: str, size: int) -> Convert:
    one = Struct("<" + code).unpack

    def render_integers(raw: bytes) -> bytes:
        if len(raw) == size:
            return b"[%d]" % one(raw)[0]
        if len(raw) % size:
            raise WrongLength
        return _dumps(Struct(f"<{len(raw) // size}{code}").unpack(raw))

    return render_integers


def _long_integers(code: str) -> Convert:
    def render_long_integers(raw: bytes) -> bytes:
        if len(raw) % 8:
            raise WrongLength
        values = Struct(f"<{len(raw) // 8}{code}").unpack(raw)
        return _dumps([value if -_SAFE_INTEGER <= value <= _SAFE_INTEGER else str(value) for value in values])

    return render_long_integers


def number_json(value: float) -> float | str:
    """A float as JSON can hold it; NaN and infinities as the strings that DICOMweb implementations agree on."""
    if isfinite(value):
        return value
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _floats(code: str, size: int) -> Convert:
    def render_floats(raw: bytes) -> bytes:
        if len(raw) % size:
            raise WrongLength
        values = Struct(f"<{len(raw) // size}{code}").unpack(raw)
        if all(map(isfinite, values)):
            return _dumps(values)
        return _dumps([number_json(value) for value in values])

    return render_floats


# VRs whose values are what their bytes say.
_CONVERT: Final[dict[str, Convert]] = {
    "AE": _application_entity,
    "AS": _default_repertoire,
    "AT": _tag_list,
    "CS": _default_repertoire,
    "DA": _default_repertoire,
    "DS": _decimal,
    "DT": _default_repertoire,
    "FD": _floats("d", 8),
    "FL": _floats("f", 4),
    "IS": _integer,
    "SL": _integers("i", 4),
    "SS": _integers("h", 2),
    "SV": _long_integers("q"),
    "TM": _default_repertoire,
    "UI": _uid,
    "UL": _integers("I", 4),
    "UR": _uri,
    "US": _integers("H", 2),
    "UV": _long_integers("Q"),
}
# VRs in the character set of the data set.
_DECODE: Final[dict[str, Decode]] = {
    "LO": _text,
    "LT": _single_text,
    "PN": _person_name,
    "SH": _text,
    "ST": _single_text,
    "UC": _text,
    "UT": _single_text,
}
_OPEN: Final = {vr: b'{"vr":"%s","Value":' % vr.encode() for vr in (*_CONVERT, *_DECODE)}
_EMPTY: Final = {vr: b'{"vr":"%s"}' % vr.encode() for vr in SHORT_VRS | LONG_VRS}
_BINARY: Final = {vr: b'{"vr":"%s","InlineBinary":"' % vr.encode() for vr in BINARY_VRS}


def render(key: str, vr: str, raw: bytes, codecs: Codecs, notes: Notes) -> bytes:
    """The attribute object of one value field that is no sequence: `{"vr":"US","Value":[512]}`.

    `key` is the tag ("00280010"); what had to be replaced on the way is added to `notes`. Never fails: a binary number
    field of a length that its VR does not allow is shown as UN.
    """
    if not raw:
        return _EMPTY[vr]
    if decode_text := _DECODE.get(vr):
        value = decode_text(raw, codecs, notes)
    elif convert := _CONVERT.get(vr):
        try:
            value = convert(raw)
        except WrongLength:
            notes.add(f"({key[:4]},{key[4:]}) has a length that its VR {vr} does not allow")
            return _BINARY["UN"] + b64encode(raw) + b'"}'
    else:
        return _BINARY[vr] + b64encode(raw) + b'"}'
    if not value:
        return _EMPTY[vr]
    if vr == "SS" and key in _LUT_DESCRIPTORS and value.startswith(b"[-"):
        # The first value counts entries and is unsigned in every encoding (PS3.3 C.11.1.1.1).
        values = orjson.loads(value)
        values[0] += 65536
        value = _dumps(values)
    return _OPEN[vr] + value + b"}"


def bulk_reference(vr: str, uri: str) -> bytes:
    """The attribute object of a value that is fetched separately (PS3.18 F.2.6)."""
    return b'{"vr":"%s","BulkDataURI":%s}' % (vr.encode(), _dumps(uri))


def first_value(member: bytes) -> Any:
    """The first value of a JSON member (`"00100020":{...}`), None when there is none. Not to be changed."""
    return _remembered(member) if len(member) <= _SHORT else _first(member)


def _first(member: bytes) -> Any:
    (attribute,) = orjson.loads(b"{" + member + b"}").values()
    values = attribute.get("Value")
    return values[0] if values else None


_SHORT: Final = 256  # bytes of a member that is worth its place
_remembered = lru_cache(maxsize=8192)(_first)


def first_text(member: bytes | None) -> str:
    """The first value of a JSON member (`"00100020":{...}`) that holds text, "" when there is none."""
    value = first_value(member) if member else None
    return value if isinstance(value, str) else ""


def first_integer(member: bytes | None) -> int | None:
    """The first value of a JSON member that holds numbers, None when there is none."""
    value = first_value(member) if member else None
    return int(value) if isinstance(value, (int, float)) else None
