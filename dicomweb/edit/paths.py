"""Paths of attributes: a tag, behind the sequences around it: `ReferencedSeriesSequence[0].StudyInstanceUID`."""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydicom.datadict import tag_for_keyword

from dicomweb.errors import BadRequest

_HEX: Final = re.compile(r"\(?([0-9A-Fa-f]{4})[,-]?([0-9A-Fa-f]{4})\)?", re.ASCII)
_STEP: Final = re.compile(r"([^\[\].]+)\[([0-9]{1,9}|\*)\]", re.ASCII)
_MAX_STEPS: Final = 32


@dataclass(frozen=True, slots=True)
class Step:
    """A sequence and one of its items, counted from 0; None for all of them."""

    tag: int
    index: int | None


class Path(NamedTuple):
    """An attribute of the data set, or (`steps`) of items of its sequences."""

    steps: tuple[Step, ...]
    tag: int


def parse_tag(name: str) -> int:
    """A keyword, `0010,0010`, `0010-0010`, `(0010,0010)` or `00100010` as a number; BadRequest for anything else."""
    if match := _HEX.fullmatch(name.strip()):
        tag = int(match[1] + match[2], 16)
        if tag >> 16 < 8 or tag >> 16 in (0xFFFE, 0xFFFF) or not tag & 0xFFFF:
            raise BadRequest("a tag that no data set may have", attribute=name[:64])
        return tag
    found = tag_for_keyword(name) if name else None
    if found is None or found >> 16 < 8:
        raise BadRequest("not the name of an attribute", attribute=name[:64])
    return int(found)


def parse_path(text: str) -> Path:
    """A path as `dcmodify` writes it: sequences with `[index]` or `[*]`, separated by dots; BadRequest when it is none.

    A range of tags in parentheses has its comma, so that dots only ever separate.
    """
    *before, last = text.split(".")
    if len(before) > _MAX_STEPS:
        raise BadRequest(f"a path of more than {_MAX_STEPS} sequences", attribute=text[:64])
    steps = []
    for part in before:
        match = _STEP.fullmatch(part)
        if match is None:
            raise BadRequest("a sequence in a path needs the index of its item, or [*]", attribute=text[:64])
        steps.append(Step(parse_tag(match[1]), None if match[2] == "*" else int(match[2])))
    return Path(tuple(steps), parse_tag(last))
