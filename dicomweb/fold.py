"""Text folded for search: case, accents and width do not count.

What the database compares is folded here, on both sides. Trigrams of the folded text let an inverted index (core GIN
on text[], no extension) answer `*smith*`: a row can match only if it holds every trigram of the pattern's literal runs;
LIKE on the folded text then decides.
"""

import re
import unicodedata
from collections.abc import Iterable

# Marks that search ignores: combining diacritics, Hebrew points, Arabic vowels. The vowel signs of Indic scripts and
# Thai and the Japanese voicing marks are letters to their readers and stay.
_MARKS = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f]"
)
# Letters with strokes and ligatures, which have no decomposition.
_LETTERS = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h", "ŧ": "t", "ŀ": "l"}
)
# Neither PostgreSQL's text (NUL) nor UTF-8 (surrogates) takes all of these; the index has no use for any.
_UNSTORABLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")

_EDGE = "\x02"  # stands for the start and the end of a value; folded text holds no control characters
_LIKE_SPECIAL = re.compile(r"([\\%_])")


def fold(text: str) -> str:
    """`text` in lower case, without accents, compatibility forms and blanks made one. Idempotent; `*` and `?` stay."""
    if text.isascii():
        text = text.lower()
        return " ".join((_UNSTORABLE.sub("", text) if not text.isprintable() else text).split())
    text = _UNSTORABLE.sub("", text)
    for _ in range(4):  # one round nearly always; a few characters fold to what folds again
        before = text
        text = unicodedata.normalize("NFKD", text).casefold()
        text = _MARKS.sub("", unicodedata.normalize("NFKD", text)).translate(_LETTERS)
        # Composed again: one Hangul syllable is one character to `?`.
        text = " ".join(unicodedata.normalize("NFKC", text).split())
        if text == before:
            break
    return text


def fold_name(text: str) -> str:
    """A folded Person Name (PS3.5 6.2.1) without what says nothing: empty trailing components and groups, padding.

    "Doe^John^^^=" and "doe ^ john" are the same name. Works on wildcard patterns as well.
    """
    groups = []
    for group in fold(text).split("="):
        components = "^".join(component.strip() for component in group.split("^"))
        groups.append(components.rstrip("^"))
    return "=".join(groups).rstrip("=")


def wildcard_to_like(pattern: str, folded: bool = False) -> str:
    """A DICOM pattern (`*` any run, `?` one character) as a LIKE pattern, escape backslash; folded first if asked."""
    text = _LIKE_SPECIAL.sub(r"\\\1", fold(pattern) if folded else pattern)
    return re.sub(r"\*+", "%", text).replace("?", "_")


def _runs(text: str, field: str) -> Iterable[str]:
    return (field + text[i : i + 3] for i in range(len(text) - 2))


def trigrams(folded_text: str, field: str = "") -> list[str]:
    """The trigrams of a folded value, sorted, for the index; `field` is a letter that keeps attributes apart."""
    if not folded_text:
        return []
    return sorted(set(_runs(f"{_EDGE}{folded_text}{_EDGE}", field)))


def trigrams_of_pattern(folded_pattern: str, field: str = "") -> list[str]:
    """The trigrams that every matching value holds, sorted. Empty: the pattern is too loose for the index.

    An end of the pattern without wildcard is an end of the value: "smi*" already has the trigram of "starts with sm".
    """
    if not folded_pattern:
        return []
    found: set[str] = set()
    for run in re.split(r"[*?]+", f"{_EDGE}{folded_pattern}{_EDGE}"):
        found.update(_runs(run, field))
    return sorted(found)
