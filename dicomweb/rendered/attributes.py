"""Attributes of one frame: its functional groups before those of all frames, and those before the data set's top."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import BadPixels

Item = Mapping[str, Any]
# What BulkDataURIs stand for, by the URI.
Bulk = Mapping[str, bytes]

_SHARED: Final = "52009229"
_PER_FRAME: Final = "52009230"
# Look-up tables, palettes, profiles and overlays: the values that rendering reads and that may be bulk data.
_LOOKUP: Final = frozenset(
    (
        *("00283000", "00283010", "20500010", "00289132", "00289145", "00283006", "00282000", "00480105"),
        *(f"0028{row}{colour}" for row in ("120", "122") for colour in "123"),
    )
)
_MAX_DEPTH: Final = 6


def frame_groups(dataset: Item, frame: int) -> Iterator[Item]:
    """The functional group items that hold for a frame (1-based), the frame's own first (PS3.3 C.7.6.16.1)."""
    per_frame = dataset.get(_PER_FRAME, {}).get("Value") or []
    if 0 < frame <= len(per_frame):
        yield per_frame[frame - 1]
    shared = dataset.get(_SHARED, {}).get("Value") or []
    if shared:
        yield shared[0]


def macro(dataset: Item, frame: int, sequence: str) -> Item:
    """The first item of a functional group sequence of a frame; the data set itself where there is none."""
    for group in frame_groups(dataset, frame):
        items = group.get(sequence, {}).get("Value")
        if items:
            found: Item = items[0]
            return found
    return dataset


def numbers(item: Item, tag: str) -> list[float]:
    """The values of a numeric attribute; text of DS and IS is read too."""
    found = []
    for value in item.get(tag, {}).get("Value") or ():
        try:
            found.append(float(value))
        except (TypeError, ValueError):
            raise BadPixels("a number of the display pipeline is none", attribute=tag) from None
    return found


def number(item: Item, tag: str) -> float | None:
    """The first value of a numeric attribute."""
    found = numbers(item, tag)
    return found[0] if found else None


def text(item: Item, tag: str) -> str:
    """The first value of a text attribute; a person's name in its first representation."""
    values = item.get(tag, {}).get("Value")
    value = values[0] if values else ""
    if isinstance(value, Mapping):
        value = value.get("Alphabetic", "")
    return str(value)


def items(item: Item, tag: str) -> list[Item]:
    """The items of a sequence."""
    return [each for each in item.get(tag, {}).get("Value") or () if isinstance(each, Mapping)]


def binary(item: Item, tag: str, bulk: Bulk) -> bytes | None:
    """The bytes of a binary attribute, in little endian; None where it is absent."""
    element = item.get(tag)
    if not element:
        return None
    if "InlineBinary" in element:
        return base64.b64decode(element["InlineBinary"])
    if "BulkDataURI" in element:
        if element["BulkDataURI"] not in bulk:
            raise BadPixels("a value of the display pipeline cannot be read", attribute=tag)
        return bulk[element["BulkDataURI"]]
    values = element.get("Value")
    if not values:
        return None
    return np.asarray(values, np.int64).astype("<u2").tobytes()


def words(item: Item, tag: str, bulk: Bulk) -> NDArray[np.uint16] | None:
    """A look-up table's data as 16-bit words."""
    data = binary(item, tag, bulk)
    if data is None:
        return None
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2")


def references(dataset: Item, frame: int) -> list[str]:
    """The BulkDataURIs that rendering a frame needs."""
    found: list[str] = []
    for source in (dataset, *frame_groups(dataset, frame)):
        for tag, element in source.items():
            if tag in _LOOKUP or (tag.startswith("60") and tag.endswith("3000")):
                found.extend(_uris(element, _MAX_DEPTH))
    return found


def _uris(element: Item, depth: int) -> Iterator[str]:
    if "BulkDataURI" in element:
        yield element["BulkDataURI"]
    if depth and element.get("vr") == "SQ":
        for item in element.get("Value") or ():
            for inner in item.values():
                yield from _uris(inner, depth - 1)
