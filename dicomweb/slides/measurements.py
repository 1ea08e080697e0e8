"""Measurements on a slide out of a structured report: groups with a region in slide coordinates (PS3.16 TID 1410)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomweb.rendered.attributes import Item, items, keyword, number, numbers, text
from dicomweb.slides.coordinates import Points

COMPREHENSIVE_3D_SR: Final = "1.2.840.10008.5.1.4.1.1.88.34"
# Content trees are deep by nesting, never by this much.
_DEEPEST: Final = 32
_GROUP: Final = ("125007", "DCM")
_TRACKING_IDENTIFIER: Final = ("112039", "DCM")
_FINDING: Final = ("121071", "DCM")
_CONTENT: Final = "0040A730"
_SHAPES: Final = frozenset(("POINT", "MULTIPOINT", "POLYLINE", "POLYGON", "ELLIPSE"))


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """A region with what was measured in it. `points`: N x 3 in mm; `values`: name, number and unit each."""

    name: str
    finding: str
    shape: str
    points: Points
    values: tuple[tuple[str, float, str], ...]


def read_measurements(dataset: Item, frame_of_reference: str) -> Iterator[Measurement]:
    """The measurements of a report in one frame of reference; regions in others are those of other slides."""
    for group in _groups(dataset, 0):
        children = items(group, _CONTENT)
        region = next((child for child in children if _is_region(child, frame_of_reference)), None)
        if region is None:
            continue
        flat = numbers(region, "00700022")
        if not flat or len(flat) % 3:
            continue
        yield Measurement(
            _value(children, _TRACKING_IDENTIFIER),
            _value(children, _FINDING),
            keyword(region, "00700023"),
            np.array(flat).reshape(-1, 3),
            tuple(_numbers(children)),
        )


def _groups(item: Item, depth: int) -> Iterator[Item]:
    for child in items(item, _CONTENT) if depth < _DEEPEST else ():
        if keyword(child, "0040A040") != "CONTAINER":
            continue
        if _code(child, "0040A043")[:2] == _GROUP:
            yield child
        else:
            yield from _groups(child, depth + 1)


def _is_region(item: Item, frame_of_reference: str) -> bool:
    return (
        keyword(item, "0040A040") == "SCOORD3D"
        and keyword(item, "00700023") in _SHAPES
        and text(item, "30060024") == frame_of_reference
    )


def _code(item: Item, tag: str) -> tuple[str, str, str]:
    code: Item = next(iter(items(item, tag)), {})
    return text(code, "00080100"), text(code, "00080102"), text(code, "00080104")


def _value(children: Any, name: tuple[str, str]) -> str:
    """The text or code that a content item with this concept name holds."""
    for child in children:
        if _code(child, "0040A043")[:2] == name:
            return text(child, "0040A160") or _code(child, "0040A168")[2]
    return ""


def _numbers(children: Any) -> Iterator[tuple[str, float, str]]:
    for child in children:
        measured: Item = next(iter(items(child, "0040A300")), {})
        value = number(measured, "0040A30A")
        if keyword(child, "0040A040") == "NUM" and value is not None:
            yield _code(child, "0040A043")[2], value, _code(measured, "004008EA")[0]
