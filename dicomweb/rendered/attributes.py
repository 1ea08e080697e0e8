"""Attributes as rendering reads them from the DICOM JSON model: lenient numbers, functional groups, binary values."""

import math
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dicomweb.errors import BadPixels

Item = Mapping[str, Any]
# Bulk values by the URI that stands in their place (PS3.18 F.2.2), little endian.
Bulk = Mapping[str, bytes]

_SHARED: Final = "52009229"
_PER_FRAME: Final = "52009230"
# Where binary values that rendering needs may stand: tags of values, and of sequences whose items may hold them.
_VALUES: Final = frozenset(
    (
        "00281201", "00281202", "00281203", "00281221", "00281222", "00281223", "00282000", "00283006", "00420011",
        *(f"60{group:02X}3000" for group in range(0, 32, 2)),
    )
)  # fmt: skip
_SEQUENCES: Final = ("00283000", "00283010", "00480105")
_GROUPS: Final = ("00289132", "00289145")


def items(item: Item, tag: str) -> Sequence[Item]:
    """The items of a sequence; empty ones are left out, and whatever a wrong VR made of the attribute."""
    return [one for one in item.get(tag, {}).get("Value") or () if isinstance(one, dict) and one]


def numbers(item: Item, tag: str) -> list[float]:
    """The finite numbers of an attribute, up to the first that is none: they may be JSON numbers or strings."""
    found: list[float] = []
    for value in item.get(tag, {}).get("Value") or ():
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            break
        if not math.isfinite(number):
            break
        found.append(number)
    return found


def number(item: Item, tag: str) -> float | None:
    """The first number of an attribute."""
    found = numbers(item, tag)
    return found[0] if found else None


def text(item: Item, tag: str) -> str:
    """The values of an attribute as one line; of a person name its first form that there is; "" when there is none."""
    values = item.get(tag, {}).get("Value") or ()
    shown = (_name(value) if isinstance(value, dict) else value for value in values if value is not None)
    return ", ".join(str(value).replace("^", " ").strip() for value in shown)


def _name(value: Mapping[str, Any]) -> str:
    """A person name as it is read: alphabetic, else ideographic, else phonetic (PS3.18 F.2.2)."""
    return next((str(value[form]) for form in ("Alphabetic", "Ideographic", "Phonetic") if value.get(form)), "")


def keyword(item: Item, tag: str) -> str:
    """The first value of a CS attribute in upper case; "" when there is none."""
    values = item.get(tag, {}).get("Value") or ("",)
    return str(values[0] or "").strip().upper()


def macro(dataset: Item, frame: int, tag: str) -> Item | None:
    """The item of a functional group macro for a frame (from 1): of its own group, else of the shared one.

    None when the instance has no such macro (PS3.3 C.7.6.16).
    """
    groups = dataset.get(_PER_FRAME, {}).get("Value") or ()
    own = groups[frame - 1] if frame <= len(groups) else None
    shared = items(dataset, _SHARED)
    for group in (own, *shared[:1]):
        found = items(group, tag) if isinstance(group, dict) else ()
        if found:
            return found[0]
    return None


def binary(element: Mapping[str, Any] | None, bulk: Bulk) -> bytes | None:
    """The bytes of a value, little endian: inline, by reference, or numbers of US or SS as words. None: no value."""
    if not element:
        return None
    if "InlineBinary" in element:
        return b64decode(element["InlineBinary"])
    if "BulkDataURI" in element:
        return bulk.get(element["BulkDataURI"])
    values = element.get("Value")
    if not values:
        return None
    try:
        return b"".join((int(value) & 0xFFFF).to_bytes(2, "little") for value in values)
    except (TypeError, ValueError):
        raise BadPixels("a look-up table holds something else than numbers", attribute="LUTData") from None


def references(dataset: Item, frames: Sequence[int]) -> Iterator[str]:
    """The URIs of the bulk values that rendering these frames may need."""
    yield from _referenced(dataset)
    for tag in _SEQUENCES:
        for item in items(dataset, tag):
            yield from _referenced(item)
    for frame in frames:
        for tag in _GROUPS:
            group = macro(dataset, frame, tag)
            for inner in _SEQUENCES[:2] if group else ():
                for item in items(group or {}, inner):
                    yield from _referenced(item)


def _referenced(item: Item) -> Iterator[str]:
    for tag in _VALUES.intersection(item):
        element = item[tag]
        if "BulkDataURI" in element:
            yield element["BulkDataURI"]
