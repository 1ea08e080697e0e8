"""The standard's tables: PS3.15 Table E.1-1, and the attribute types of PS3.3 where an action depends on them.

They are made by infra/scripts/confidentiality_tables.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

import orjson

# Tags whose group is one of many: the first one stands for all (PS3.5 7.6).
_REPEATING: Final = {"50XXXXXX": 0x50000000, "60XX3000": 0x60003000, "60XX4000": 0x60004000}
CONTENT_SEQUENCE: Final = 0x0040A730


def _load(name: str) -> Any:
    return orjson.loads(files(__package__).joinpath(name).read_bytes())


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute: the action code of the Basic Profile, and by option those that override it."""

    basic: str
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ConfidentialityTable:
    """Table E.1-1 in the `edition` of the standard; repeating groups by their first group."""

    edition: str
    rows: Mapping[int, Row]


@lru_cache(maxsize=1)
def confidentiality_table() -> ConfidentialityTable:
    """The table; private attributes are no row of it."""
    found = _load("confidentiality.json")
    rows = {
        _REPEATING[tag] if tag in _REPEATING else int(tag, 16): Row(codes[0], codes[1] if len(codes) > 1 else {})
        for tag, codes in found["attributes"].items()
        if tag != "private"
    }
    return ConfidentialityTable(found["edition"], rows)


@lru_cache(maxsize=1)
def _types() -> Any:
    return _load("attribute_types.json")


@lru_cache(maxsize=64)
def attribute_types(sop_class: str) -> Mapping[tuple[int, ...], str] | None:
    """Path of an attribute (sequences, then itself) -> the strictest type that a module of its IOD gives it.

    None for a SOP class whose IOD is not known: a private or a new one.
    """
    found = _types()
    modules = found["classes"].get(sop_class)
    if modules is None:
        return None
    types: dict[tuple[int, ...], str] = {}
    by_index = list(found["modules"].values())
    for index in modules:
        for key, type_ in by_index[index].items():
            path = tuple(int(tag, 16) for tag in key.split("/"))
            types[path] = min(type_, types.get(path, type_))
    return types


def flat(path: tuple[int, ...]) -> tuple[int, ...]:
    """A path without repetitions of Content Sequence, which holds itself (PS3.3 C.17.3)."""
    return tuple(tag for at, tag in enumerate(path) if not (at and tag == CONTENT_SEQUENCE == path[at - 1]))


@lru_cache(maxsize=1)
def safe_words() -> frozenset[str]:
    """Words of the meanings of PS3.16's codes, and what else protocols are called by."""
    return frozenset(
        word
        for name in ("words.txt", "protocols.txt")
        for word in files(__package__).joinpath(name).read_text().split()
    )
