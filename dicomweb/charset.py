"""Specific Character Set (PS3.3 C.12.1.1.2, PS3.5 6.1): defined terms -> codecs, text with ISO 2022 extensions.

Codec names come from the tables here and from nowhere else: what a file calls its character set never reaches
`codecs.lookup`. Results equal pydicom's; where bytes do not fit their character set they become U+FFFD and a note.
"""

import re
from functools import lru_cache

from dicomweb.notes import Notes

Codecs = tuple[str, ...]

DEFAULT: Codecs = ("latin-1",)

_SINGLE = {
    "ISO_IR 6": "latin-1",
    "ISO_IR 13": "shift_jis",
    "ISO_IR 100": "latin-1",
    "ISO_IR 101": "iso8859-2",
    "ISO_IR 109": "iso8859-3",
    "ISO_IR 110": "iso8859-4",
    "ISO_IR 126": "iso8859-7",
    "ISO_IR 127": "iso8859-6",
    "ISO_IR 138": "iso8859-8",
    "ISO_IR 144": "iso8859-5",
    "ISO_IR 148": "iso8859-9",
    "ISO_IR 166": "tis-620",
    "ISO_IR 203": "iso8859-15",
    "ISO_IR 192": "utf-8",
    "GB18030": "gb18030",
    "GBK": "gbk",
}
_EXTENDED = {
    "ISO 2022 IR 87": "iso2022_jp",
    "ISO 2022 IR 149": "euc_kr",
    "ISO 2022 IR 159": "iso2022_jp_2",
    "ISO 2022 IR 58": "gb2312",
    "ISO 2022 GBK": "gbk",
    "ISO 2022 58": "gb2312",
}
_TERMS = (
    _SINGLE
    | _EXTENDED
    | {
        f"ISO 2022 IR {term[7:]}": codec
        for term, codec in _SINGLE.items()
        if term.startswith("ISO_IR") and term != "ISO_IR 192"
    }
)
# Names that some writers put in place of the defined term, seen in files.
_ALIASES = {
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "LATIN1": "latin-1",
    "LATIN_1": "latin-1",
    "ISO8859_1": "latin-1",
    "ISO8859-1": "latin-1",
}
# No code extensions beside these (PS3.3 Table C.12-5).
_ALONE = frozenset(("ISO_IR 192", "GBK", "GB18030"))

# PS3.3 Tables C.12-3 and C.12-4: escape sequence -> codec.
_ESCAPES = {
    b"\x1b(B": "latin-1",
    b"\x1b-A": "latin-1",
    b"\x1b)I": "shift_jis",
    b"\x1b(J": "shift_jis",
    b"\x1b-B": "iso8859-2",
    b"\x1b-C": "iso8859-3",
    b"\x1b-D": "iso8859-4",
    b"\x1b-F": "iso8859-7",
    b"\x1b-G": "iso8859-6",
    b"\x1b-H": "iso8859-8",
    b"\x1b-L": "iso8859-5",
    b"\x1b-M": "iso8859-9",
    b"\x1b-T": "tis-620",
    b"\x1b-b": "iso8859-15",
    b"\x1b$B": "iso2022_jp",
    b"\x1b$)C": "euc_kr",
    b"\x1b$(D": "iso2022_jp_2",
    b"\x1b$)A": "gb2312",
}
# These codecs want to see the escape sequence itself.
_STATEFUL = frozenset(("iso2022_jp", "iso2022_jp_2"))
_RUNS = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
# LF, FF, CR and TAB return to the first character set (PS3.5 6.1.2.5.3).
_RESET = re.compile(rb"[\t\n\f\r]")


def codecs_for(value: bytes, notes: Notes) -> Codecs:
    """The codecs of a Specific Character Set value; what is unknown counts as the default repertoire and is noted."""
    codecs, noted = _codecs_for(value) if len(value) <= 256 else _codecs_for.__wrapped__(value)
    for text in noted:
        notes.add(text)
    return codecs


def is_defined(value: bytes) -> bool:
    """Whether every term of a Specific Character Set value is in the tables here."""
    terms = [term.strip() for term in value.decode("latin-1").rstrip(" \0").split("\\")]
    return all(not term or _canonical(term) in _TERMS or term.upper() in _ALIASES for term in terms)


@lru_cache(maxsize=256)
def _codecs_for(value: bytes) -> tuple[Codecs, frozenset[str]]:
    notes = Notes()
    terms = [term.strip() for term in value.decode("latin-1").rstrip(" \0").split("\\")]
    codecs = [_codec(term, notes) for term in terms]
    if len(terms) > 1 and _canonical(terms[0]) in _ALONE:
        notes.add("Specific Character Set: code extensions beside a character set that allows none")
        codecs = codecs[:1]
    rest = [codec for term, codec in zip(terms[1:], codecs[1:], strict=False) if _canonical(term) not in _ALONE]
    return (codecs[0], *rest), frozenset(notes.texts)


def _canonical(term: str) -> str:
    """Common misspellings put right: "ISO IR 100", "ISO-IR-100", "ISO_2022_IR_87"."""
    if term in _TERMS:
        return term
    if re.match(r"ISO.2022.IR.", term):
        return "ISO 2022 IR " + term[12:]
    if re.match(r"ISO.IR", term):
        return "ISO_IR " + term[7:]
    return term


def _codec(term: str, notes: Notes) -> str:
    if not term:
        return "latin-1"
    if codec := _TERMS.get(term):
        return codec
    notes.add("Specific Character Set: a term that is not defined")
    return _TERMS.get(_canonical(term)) or _ALIASES.get(term.upper(), "latin-1")


def decode(raw: bytes, codecs: Codecs, notes: Notes) -> str:
    """`raw` as text. Never fails: bytes outside the character set become U+FFFD and a note."""
    if b"\x1b" not in raw:
        return _plain(raw, codecs[0], notes)
    return "".join([_run(run, codecs, notes) for run in _RUNS.findall(raw)])


def _plain(raw: bytes, codec: str, notes: Notes) -> str:
    try:
        return raw.decode(codec)
    except UnicodeError:
        notes.add("text that does not fit its character set")
        return raw.decode(codec, "replace")


def _run(run: bytes, codecs: Codecs, notes: Notes) -> str:
    """One stretch of text up to the next escape sequence."""
    first = codecs[0]
    if run[:1] != b"\x1b":
        return _plain(run, first, notes)
    size = 4 if run[1:3] in (b"$(", b"$)") else 3
    codec = _ESCAPES.get(run[:size], "")
    if not codec or (codec not in codecs and codec != "latin-1"):
        notes.add("an escape sequence that Specific Character Set does not announce")
        return run.decode(first, "replace")
    try:
        if codec in _STATEFUL:
            return run.decode(codec)
        text = run[size:]
        reset = _RESET.search(text)
        if reset is None:
            return text.decode(codec)
        return text[: reset.start()].decode(codec) + text[reset.start() :].decode(first)
    except UnicodeError:
        notes.add("text that does not fit its character set")
        return run.decode(first, "replace")
