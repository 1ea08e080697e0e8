"""The one search language: QIDO-RS parameters and C-FIND identifiers both become a Query (PS3.4 C.2.2.2, PS3.18 8.3.4).

Matches are joined by AND. Matches whose paths share a sequence must hold in the same item of it (PS3.4 C.2.2.2.6). A
match on a multi-valued attribute holds when one of the stored values does. Text is compared as it stands, except that
Person Names are folded on both sides (dicomweb.fold): PS3.4 C.2.2.2.4 leaves their case to the archive.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dicomweb import tags
from dicomweb.errors import BadQuery
from dicomweb.tags import Level
from dicomweb.temporal import period
from dicomweb.uids import is_uid

Kind = Literal["exact", "list", "wildcard", "range", "empty", "universal"]
Path = tuple[str, ...]
# How the case of letters counts: as PS3.4 has it (in person names it does not), never, or always.
Case = Literal["standard", "ignored", "exact"]

MAX_VALUES = 1000
MAX_VALUE_LENGTH = 1024
MAX_KEYS = 100
MAX_FIELDS = 1000
MAX_DEPTH = 8
MAX_OFFSET = 1_000_000

WILDCARD_VRS = frozenset(["AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"])
# Several values in one key: any of them may match. None of these VRs can hold a backslash inside a value.
LIST_VRS = frozenset(
    ["AE", "AS", "AT", "CS", "DS", "FD", "FL", "IS", "LO", "SH", "SL", "SS", "SV", "UI", "UL", "US", "UV"]
)
# Multiple Value Matching (PS3.4 C.2.2.2.8): each of them must match.
EVERY_VALUE_VRS = frozenset(["AE", "AS", "AT", "CS", "LO", "PN", "SH", "UC"])
_COMMA_VRS = frozenset(("UI", "CS"))  # a comma cannot be part of their values
_NEVER_MATCHED = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ"])
_LEADING_BLANKS_COUNT = frozenset(["LT", "ST", "UT"])

FUZZY_UNSUPPORTED = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
EMPTY_VALUE_UNSUPPORTED = (
    "The emptyvaluematching parameter is not supported. Empty Value Matching has not been performed."
)
TIMEZONE_UNSUPPORTED = "Offsets from UTC are not applied. Dates and times are compared as they were stored."


@dataclass(frozen=True, slots=True)
class Match:
    """One condition. `path`: upper-hex tags from the outermost sequence inwards.

    `values` by kind: exact = (value,); list = two or more, any of which may match; wildcard = (pattern,) with `*` and
    `?`; range = (low, high), both inclusive, "" for an open end, compared as bytes (see dicomweb.temporal); empty and
    universal = (). `time`: the tag of the time that follows the date at `path`, when the range is one of both together.
    """

    path: Path
    vr: str
    kind: Kind
    values: tuple[str, ...]
    time: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """What to search for.

    `study` and `series` come from the resource. `matches` holds no universal ones: those are in `fields`.
    `fields` are the attributes to return besides the level's own set, no lower level's among them; every attribute that
    is matched is one of them. `labels`: only what belongs to studies that have all of them. `warnings` are texts for
    Warning headers.
    """

    level: Level
    study: str | None = None
    series: str | None = None
    matches: tuple[Match, ...] = ()
    fields: tuple[Path, ...] = ()
    all_fields: bool = False
    fuzzy: bool = False
    limit: int = 100
    offset: int = 0
    warnings: tuple[str, ...] = ()
    case: Case = "standard"
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Key:
    """A matching key as it came: the attribute, the name that the client gave it, and its raw values (repeats kept)."""

    path: Path
    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """How keys are read. `commas`: a comma separates list values (QIDO-RS); `every_value`: Multiple Value Matching.

    `empty_value`: `""` finds what has no value (PS3.4 C.2.2.2.7). `date_time`: ranges of a date and of the time that
    belongs to it are one range (PS3.4 C.2.2.2.5.3). `strict`: a key that the level cannot be matched by is BadQuery,
    not left out with a warning.
    """

    commas: bool = False
    every_value: bool = False
    empty_value: bool = False
    date_time: bool = False
    strict: bool = False


def parse_path(name: str) -> Path | None:
    """`RequestAttributesSequence.00401001` -> its tags; None when a component is no keyword or tag, or no sequence."""
    components = name.split(".")
    if len(components) > MAX_DEPTH:
        return None
    path = tuple(tag for component in components if component and (tag := tags.tag_named(component)) is not None)
    if len(path) != len(components):
        return None
    # Private sequences are not in the dictionary: UN may be one.
    return path if all(tags.vr_of(tag) in ("SQ", "UN") for tag in path[:-1]) else None


# ------------------------------------------------------------------------------------------------------- values

_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_AGE = re.compile(r"\d{3}[DWMY]", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f\ud800-\udfff]")
_INTEGER_VRS = frozenset(["IS", "SL", "SS", "SV", "UL", "US", "UV"])
_DECIMAL_VRS = frozenset(["DS", "FD", "FL"])


def _canonical(vr: str, value: str) -> str | None:
    """One value in the form in which it is compared; None when the VR does not allow it."""
    if vr == "UI":
        return value if is_uid(value) else None
    if vr in _INTEGER_VRS:
        return str(int(value)) if _INTEGER.fullmatch(value) else None
    if vr in _DECIMAL_VRS:
        return value if len(value) <= 32 and _DECIMAL.fullmatch(value) else None
    if vr == "AT":
        return tags.tag_named(value.strip("()").replace(",", ""))
    if vr == "AS":
        return value if _AGE.fullmatch(value) else None
    if vr == "PN":
        # Trailing empty components and groups say nothing (PS3.5 6.2.1).
        return "=".join(group.rstrip("^ ") for group in value.split("=")).rstrip("=")
    return value


def _clean(key: Key, vr: str) -> list[str]:
    """The raw values without padding; those that match everything are left out."""
    cleaned: list[str] = []
    for text in key.texts:
        if len(text) > MAX_VALUE_LENGTH and vr not in LIST_VRS:
            raise bad_key(key, f"has a value longer than {MAX_VALUE_LENGTH} characters")
        value = text.rstrip("\0 ")
        value = value if vr in _LEADING_BLANKS_COUNT else value.lstrip(" ")
        if _CONTROL.search(value):
            raise bad_key(key, "has a value with control characters")
        if value.strip("* "):
            cleaned.append(value)
    return cleaned


def bad_key(key: Key, problem: str) -> BadQuery:
    """The error about a key: it names the key, never its value."""
    return BadQuery(f"query parameter {key.name} {problem}", attribute=key.name)


def matches_of(key: Key, options: Options = Options()) -> tuple[tuple[Match, ...], bool]:
    """The conditions that a key stands for, and whether it named an offset from UTC.

    One condition; with Multiple Value Matching one for each value. BadQuery names the key, never its value.
    """
    vr = tags.vr_of(key.path[-1])
    texts = _clean(key, vr)
    if not texts:
        return (Match(key.path, vr, "universal", ()),), False
    if options.empty_value and texts == ['""']:
        return (Match(key.path, vr, "empty", ()),), False
    if vr in _NEVER_MATCHED:
        raise bad_key(key, "cannot be matched with a value")
    if vr in ("DA", "TM", "DT"):
        return _temporal(key, vr, texts, options)
    if options.every_value and vr in EVERY_VALUE_VRS and any("\\" in text for text in texts):
        values = _split(key, vr, texts, options)
        if any(_is_pattern(vr, value) for value in values):
            raise bad_key(key, "combines several values with wildcards")
        return tuple(Match(key.path, vr, "exact", (value,)) for value in values), False
    if vr in LIST_VRS:
        values = _split(key, vr, texts, options)
    else:
        if len(texts) > 1:
            raise bad_key(key, "is given more than once")
        values = _canonical_values(key, vr, texts)
    return (_text_match(key, vr, values),), False


def _text_match(key: Key, vr: str, values: tuple[str, ...]) -> Match:
    if not values:  # nothing but separators
        return Match(key.path, vr, "universal", ())
    if len(values) == 1:
        if _is_pattern(vr, values[0]):
            return Match(key.path, vr, "wildcard", (re.sub(r"\*+", "*", values[0]),))
        return Match(key.path, vr, "exact", values)
    if any(_is_pattern(vr, value) for value in values):
        raise bad_key(key, "combines several values with wildcards")
    return Match(key.path, vr, "list", values)


def _is_pattern(vr: str, value: str) -> bool:
    return vr in WILDCARD_VRS and ("*" in value or "?" in value)


def _split(key: Key, vr: str, texts: Sequence[str], options: Options) -> tuple[str, ...]:
    separators = r"[\\,]" if options.commas and vr in _COMMA_VRS else r"\\"
    values = [value.strip("\0 ") for text in texts for value in re.split(separators, text)]
    if len(values) > MAX_VALUES:
        raise bad_key(key, f"lists more than {MAX_VALUES} values")
    return _canonical_values(key, vr, [value for value in values if value])


def _canonical_values(key: Key, vr: str, values: Iterable[str]) -> tuple[str, ...]:
    canonical: dict[str, None] = {}
    for value in values:
        if len(value) > MAX_VALUE_LENGTH:
            raise bad_key(key, f"has a value longer than {MAX_VALUE_LENGTH} characters")
        text = _canonical(vr, value)
        if text is None:
            raise bad_key(key, f"has a value that does not fit its VR, {vr}")
        if text:
            canonical[text] = None
    return tuple(canonical)


def _temporal(key: Key, vr: str, texts: Sequence[str], options: Options) -> tuple[tuple[Match, ...], bool]:
    if len(texts) > 1:
        raise bad_key(key, "is given more than once")
    # From ten on the first day to eight on the last one is a range of times only together with their dates.
    found = period(vr, texts[0], ordered=not options.date_time or vr != "TM")
    if found is None:
        raise bad_key(key, f"is neither a value of VR {vr} nor a range of two in order (a, a-b, a- or -b)")
    if not found.low and not found.high:
        match = Match(key.path, vr, "universal", ())
    elif vr == "DA" and found.low == found.high:
        match = Match(key.path, vr, "exact", (found.low,))
    else:
        match = Match(key.path, vr, "range", (found.low, found.high))
    return (match,), found.offset
