"""Past values that nobody looks into: fragments and sequences of undefined length (PS3.5 7.5, A.4), iteratively."""

from struct import Struct
from typing import Final

from dicomweb.errors import TooLarge
from dicomweb.structure import (
    IMPLICIT_LITTLE,
    PIXELS,
    UNDEFINED,
    Buffer,
    Coding,
    ScanLimits,
    heads_of,
    name_of,
    readers,
    refuse,
)
from dicomweb.values import BINARY_VRS

_PAIR: Final = Struct("<II").unpack_from
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
CUT: Final = "the file is cut or a length is wrong"


def has_fragments(vr: str, kind: int) -> bool:
    """Whether a value without a length consists of fragments; otherwise it is a sequence."""
    return kind == PIXELS or (vr in BINARY_VRS and vr != "UN")


def skip_fragments(buffer: Buffer, pos: int, bound: int, tag: int, limit: int) -> int:
    """The offset behind the fragments at `pos`. Reads their headers only, keeps nothing."""
    start, count = pos, 0
    while True:
        if pos + 8 > bound:
            refuse(tag, start, "fragments without a sequence delimiter: the file is cut")
        mark, length = _PAIR(buffer, pos)
        pos += 8
        if mark == 0xE000FFFE:
            pos += length
            count += 1
            if pos > bound:
                refuse(tag, pos - length - 8, "a fragment ends past its parent: the file is cut")
            if count > limit:
                raise TooLarge(f"more than {limit} fragments", attribute=name_of(tag))
        elif mark == 0xE0DDFFFE and length == 0:
            return pos
        else:
            refuse(tag, pos - 8, "neither a fragment nor a delimiter")


def is_implicit(buffer: Buffer, pos: int, bound: int, around: Coding) -> bool:
    """Whether the item at `pos` has no VRs: those of an implicit data set, and some in explicit ones (PS3.5 6.2.2)."""
    if not around.explicit or around.big:
        return not around.explicit
    if pos + 6 > bound:
        return False
    return not (65 <= buffer[pos + 4] <= 90 and 65 <= buffer[pos + 5] <= 90)


def skip_sequence(
    buffer: Buffer, pos: int, bound: int, coding: Coding, tag: int, depth: int, limits: ScanLimits
) -> int:
    """The offset behind the delimiter of the sequence of undefined length at `pos`, which is nested `depth` deep."""
    u16, u32 = readers(coding)
    # (coding, whether an item is open): what is open around `pos`, all of undefined length within `bound`.
    open_: list[tuple[Coding, bool]] = [(coding, False)]
    count = 0
    while open_:
        if pos + 8 > bound:
            refuse(tag, pos, f"the sequence has no end: {CUT}")
        count += 1
        if count > limits.max_fg_elements:
            raise TooLarge(f"more than {limits.max_fg_elements} elements", attribute=name_of(tag))
        around, in_item = open_[-1]
        if u16(buffer, pos)[0] != 0xFFFE:
            if not in_item:
                refuse(tag, pos, "neither an item nor the delimiter of the sequence")
            pos, inner = _skip_element(buffer, pos, bound, around, limits)
            if inner is not None:
                open_.append((inner, False))
                if depth + len(open_) // 2 >= limits.max_depth:
                    refuse(tag, pos, f"nested more than {limits.max_depth} deep")
        else:
            number, length = u16(buffer, pos + 2)[0], u32(buffer, pos + 4)[0]
            pos += 8
            if length == 0 and number == (_ITEM_END if in_item else _SEQUENCE_END):
                open_.pop()
            elif in_item or number != _ITEM:
                refuse(tag, pos - 8, "an item or delimiter where none is due")
            elif length == UNDEFINED:
                open_.append((IMPLICIT_LITTLE if is_implicit(buffer, pos, bound, around) else around, True))
            else:
                pos += length
        if pos > bound:
            refuse(tag, pos, f"a value ends past its parent: {CUT}")
    return pos


def _skip_element(
    buffer: Buffer, pos: int, bound: int, coding: Coding, limits: ScanLimits
) -> tuple[int, Coding | None]:
    """The offset behind an element, or of the first item of a sequence of undefined length and the coding in it."""
    heads, raw = heads_of(coding), bytes(buffer[pos : pos + (6 if coding.explicit else 4)])
    head = heads.known.get(raw) or heads.read(raw, pos)
    start, length = value_of(buffer, pos, coding, long=head.long)
    if length != UNDEFINED:
        return start + length, None
    if has_fragments(head.vr, head.kind):
        return skip_fragments(buffer, start, bound, head.tag, limits.max_frames), None
    return start, coding if head.vr == "SQ" else IMPLICIT_LITTLE


def value_of(buffer: Buffer, pos: int, coding: Coding, *, long: bool) -> tuple[int, int]:
    """Where the value of the element at `pos` is, and its length; eight bytes are there."""
    u16, u32 = readers(coding)
    if not coding.explicit:
        return pos + 8, u32(buffer, pos + 4)[0]
    if not long:
        return pos + 8, u16(buffer, pos + 6)[0]
    if pos + 12 > len(buffer):
        refuse(0, pos, "an element header is cut: the file is cut")
    return pos + 12, u32(buffer, pos + 8)[0]
