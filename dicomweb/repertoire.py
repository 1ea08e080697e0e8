"""Text written in a Specific Character Set (PS3.5 6.1.2, PS3.3 C.12.1.1.2): what `charset` reads.

With one term its repertoire has to hold everything. With several, escape sequences switch between them (ISO 2022), and
the first is active again before each delimiter.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from dicomweb.charset import Codecs, codecs_for, decode
from dicomweb.notes import Notes

Half = Literal["G0", "G1"]

# How each codec is designated, and to which half of the code table (PS3.3 tables C.12-3 and C.12-4).
_DESIGNATION: Final[dict[str, tuple[Half, bytes]]] = {
    "latin-1": ("G1", b"\x1b-A"),
    "iso8859-2": ("G1", b"\x1b-B"),
    "iso8859-3": ("G1", b"\x1b-C"),
    "iso8859-4": ("G1", b"\x1b-D"),
    "iso8859-5": ("G1", b"\x1b-L"),
    "iso8859-6": ("G1", b"\x1b-G"),
    "iso8859-7": ("G1", b"\x1b-F"),
    "iso8859-8": ("G1", b"\x1b-H"),
    "iso8859-9": ("G1", b"\x1b-M"),
    "iso8859-15": ("G1", b"\x1b-b"),
    "tis-620": ("G1", b"\x1b-T"),
    "shift_jis": ("G1", b"\x1b)I"),
    "euc_kr": ("G1", b"\x1b$)C"),
    "gb2312": ("G1", b"\x1b$)A"),
    "iso2022_jp": ("G0", b"\x1b$B"),
    "iso2022_jp_2": ("G0", b"\x1b$(D"),
}
_TWO_BYTES: Final = frozenset(("euc_kr", "gb2312", "iso2022_jp", "iso2022_jp_2"))
_WHOLE: Final = frozenset(("utf-8", "gb18030", "gbk"))
_DEFAULT: Final = frozenset((b"", b"ISO_IR 6", b"ISO 2022 IR 6"))
_ASCII: Final = b"\x1b(B"
_ROMAJI: Final = b"\x1b(J"  # the same for our purposes, where JIS X 0201 is the first one
_DELIMITERS: Final = frozenset("\\^=\t\n\f\r")


@dataclass(frozen=True, slots=True)
class Repertoire:
    """A Specific Character Set to write in. `value`: the attribute's own value, b"" for the default repertoire.

    `codecs` are those to write with, `readers` those that `charset` reads with, which is more forgiving.
    """

    value: bytes
    codecs: Codecs
    readers: Codecs

    def encode(self, text: str) -> bytes | None:
        """`text` in this character set; None when it cannot hold it."""
        if text.isascii():
            return text.encode("ascii") if "\x1b" not in text else None
        if not self.value or "\x1b" in text:
            return None
        data = self._encoded(text)
        # What is written has to be what is read: the codecs know characters that the DICOM repertoires do not.
        notes = Notes()
        return data if data is not None and decode(data, self.readers, notes) == text and not notes.count else None

    def _encoded(self, text: str) -> bytes | None:
        first = self.codecs[0]
        if len(self.codecs) > 1:
            return self._switching(text)
        if first in _WHOLE:
            try:
                return text.encode(first)
            except UnicodeError:
                return None
        pieces = [_character(character, first) for character in text]
        return None if None in pieces else b"".join(piece for piece in pieces if piece is not None)

    def _switching(self, text: str) -> bytes | None:
        out, back = bytearray(), _ROMAJI if self.codecs[0] == "shift_jis" else _ASCII
        upper, lower = self.codecs[0], ""  # what the halves G1 and G0 mean now; "" is ASCII
        for character in text:
            if character.isascii():
                if lower:
                    out += back
                    lower = ""
                if character in _DELIMITERS:
                    upper = self.codecs[0] if upper == self.codecs[0] else ""  # said again before it is used again
                out += character.encode("ascii")
                continue
            current = lower or upper
            choices = (current, *self.codecs) if current else self.codecs
            found = next(((c, data) for c in choices if (data := _character(character, c)) is not None), None)
            if found is None:
                return None
            codec, data = found
            half, designation = _DESIGNATION[codec]
            if half == "G1" and lower:
                out += back
                lower = ""
            if codec != (lower if half == "G0" else upper):
                out += designation
            if half == "G0":
                lower = codec
            else:
                upper = codec
            out += data
        return bytes(out + back) if lower else bytes(out)


def _character(character: str, codec: str) -> bytes | None:
    """One character in its half of the code table, without the designation; None where the codec lacks it."""
    if character.isascii():
        return character.encode("ascii")
    if codec not in _DESIGNATION:
        return None
    try:
        data = character.encode(codec)
    except UnicodeError:
        return None
    half, designation = _DESIGNATION[codec]
    if half == "G0":
        data = data[len(designation) :][:2] if data.startswith(designation) else b""
    return data if len(data) == (2 if codec in _TWO_BYTES else 1) else None


UTF8: Final = Repertoire(b"ISO_IR 192", ("utf-8",), ("utf-8",))
ASCII: Final = Repertoire(b"", ("ascii",), ("latin-1",))


@lru_cache(maxsize=256)
def repertoire(value: bytes) -> Repertoire | None:
    """The character set of a Specific Character Set value; None when one of its terms is not defined.

    ISO_IR 6, which may not be named, and an absent value are the default repertoire.
    """
    plain = value.strip(b" \0")
    if plain in _DEFAULT:
        return ASCII
    notes = Notes()
    codecs = codecs_for(plain, notes)
    if notes.count:
        return None
    if codecs == ("utf-8",):
        return UTF8
    terms = [term.strip() for term in plain.split(b"\\")]
    writers = ["ascii" if term in _DEFAULT else codec for term, codec in zip(terms, codecs, strict=False)]
    return Repertoire(plain, tuple(writers), codecs)


def answers_in(value: bytes) -> tuple[Repertoire, ...]:
    """What an answer is written in when a Specific Character Set was asked for: the first that holds all of it."""
    asked = repertoire(value)
    return (UTF8,) if asked is None or asked is UTF8 else (asked, UTF8)


def is_writable(value: bytes) -> bool:
    """Whether a Specific Character Set can be written in: each of its terms is defined."""
    return repertoire(value) is not None
