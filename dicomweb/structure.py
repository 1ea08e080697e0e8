"""How a data set is built (PS3.5 chapter 7): element headers, what a file may ask for, encapsulated fragments.

Whatever a file claims about sizes is compared with the buffer before anything is allocated.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from struct import Struct
from typing import Final, NamedTuple, NoReturn

from dicomweb.dictionary import LUT_DESCRIPTOR, PIXEL_REPRESENTATION, is_creator, public_vr
from dicomweb.errors import BadDicom, TooLarge
from dicomweb.frames import Fragments
from dicomweb.tags import keyword_of
from dicomweb.values import BINARY_VRS, LONG_VRS, SHORT_VRS

Buffer = bytes | memoryview | mmap

UNDEFINED: Final = 0xFFFFFFFF
SPECIFIC_CHARACTER_SET: Final = 0x00080005
PIXEL_TAGS: Final = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """What a file may ask for.

    `max_inflated` is bytes, `max_inflate_ratio` bytes out for one byte in; bulk values are
    longer than `bulk_threshold` bytes; functional groups and fragments have limits of their own, because slides have
    millions of them.
    """

    max_depth: int = 32
    max_elements: int = 200_000
    max_fg_elements: int = 20_000_000
    bulk_threshold: int = 1024
    max_inflated: int = 4 << 30
    max_inflate_ratio: int = 200
    max_frames: int = 4_000_000


class Coding(NamedTuple):
    """How element headers are written: explicit or implicit VR, byte order."""

    explicit: bool
    big: bool


EXPLICIT_LITTLE: Final = Coding(explicit=True, big=False)
IMPLICIT_LITTLE: Final = Coding(explicit=False, big=False)
EXPLICIT_BIG: Final = Coding(explicit=True, big=True)

_U16, _U32 = Struct("<H").unpack_from, Struct("<I").unpack_from
_B16, _B32 = Struct(">H").unpack_from, Struct(">I").unpack_from

# What the walk has to do with an element beyond rendering its value.
PLAIN, SEQUENCE, BINARY, UNKNOWN, LOOKUP, NOTED, GROUP_LENGTH, PIXELS = range(8)


class Head(NamedTuple):
    """What the bytes of an element's tag and VR mean. `vr` is "" when it has to be looked up."""

    tag: int
    key: str
    member: bytes
    vr: str
    long: bool
    kind: int


def name_of(tag: int) -> str:
    """The keyword, else "(gggg,eeee)"."""
    return keyword_of(f"{tag:08X}") or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def refuse(tag: int, at: int, why: str) -> NoReturn:
    """Raise BadDicom that names the attribute and the byte."""
    name = name_of(tag)
    raise BadDicom(f"{name} at byte {at}: {why}", attribute=name)


_HEADS: Final = 20_000


class Heads:
    """The element headers of one coding, remembered by their bytes (six of tag and VR, four of a tag alone)."""

    __slots__ = ("_big", "_explicit", "known")

    def __init__(self, coding: Coding) -> None:
        self._explicit = coding.explicit
        self._big = coding.big
        self.known: dict[bytes, Head] = {}

    def read(self, raw: bytes, at: int) -> Head:
        """The meaning of header bytes not in `known`; refuses unknown VRs and groups that no data set may have."""
        word = _B16 if self._big else _U16
        group, element = word(raw, 0)[0], word(raw, 2)[0]
        tag = group << 16 | element
        if group < 8 or group == 0xFFFF:
            if group != 4:
                refuse(tag, at, f"group {group:04X} is not allowed in a data set")
        elif group == 0xFFFE:
            refuse(tag, at, "an item or delimiter where an element is due")
        vr = ""
        if self._explicit:
            vr = raw[4:6].decode("latin-1")
            if vr not in SHORT_VRS and vr not in LONG_VRS:
                refuse(tag, at, f"unknown VR {vr!r}" if vr.isalpha() and vr.isascii() else "no VR where one is due")
        head = _head(tag, vr)
        if len(self.known) >= _HEADS:
            self.known.clear()
        self.known[raw] = head
        return head


def _head(tag: int, vr: str) -> Head:
    key = f"{tag:08X}"
    long = vr in LONG_VRS or not vr
    if not vr and not tag & 0x10000:
        known = public_vr(tag)
        vr = known if " or " not in known else ""
    elif not vr and is_creator(tag):
        vr = "LO"
    if tag & 0xFFFF == 0:
        kind = GROUP_LENGTH
    elif vr == "SQ":
        kind = SEQUENCE
    elif tag in PIXEL_TAGS:
        kind = PIXELS
    elif tag in (SPECIFIC_CHARACTER_SET, PIXEL_REPRESENTATION, LUT_DESCRIPTOR) or is_creator(tag):
        kind = NOTED
    elif vr == "":
        kind = LOOKUP
    elif vr == "UN":
        kind = UNKNOWN
    elif vr in BINARY_VRS:
        kind = BINARY
    else:
        kind = PLAIN
    return Head(tag, key, b'"%s":' % key.encode(), vr, long, kind)


_EXPLICIT_HEADS, _IMPLICIT_HEADS, _BIG_HEADS = Heads(EXPLICIT_LITTLE), Heads(IMPLICIT_LITTLE), Heads(EXPLICIT_BIG)


def readers(coding: Coding) -> tuple[Callable[[Buffer, int], tuple[int]], Callable[[Buffer, int], tuple[int]]]:
    """Functions that unpack u16 and u32 at an offset."""
    return (_B16, _B32) if coding.big else (_U16, _U32)


def heads_of(coding: Coding) -> Heads:
    """The shared table of a coding; it depends on nothing but the dictionaries."""
    if coding.big:
        return _BIG_HEADS
    return _EXPLICIT_HEADS if coding.explicit else _IMPLICIT_HEADS


def walk_fragments(buffer: Buffer, pos: int, bound: int, tag: int, limit: int) -> tuple[Fragments, int]:
    """The fragments of the value field at `pos` (PS3.5 A.4), and the offset behind its delimiter.

    Reads the eight bytes of each item header and the Basic Offset Table, no fragment.
    """
    offsets, lengths = array("Q"), array("L")
    table = b""
    base = -1
    pair = Struct("<II").unpack_from
    start = pos
    while True:
        if pos + 8 > bound:
            refuse(tag, start, "fragments without a sequence delimiter: the file is cut")
        item, length = pair(buffer, pos)
        pos += 8
        if item == 0xE000FFFE:
            if length > bound - pos:
                refuse(tag, pos - 8, "a fragment ends past its parent: the file is cut")
            if base < 0:
                table = bytes(buffer[pos : pos + length])
                base = pos + length
            else:
                offsets.append(pos)
                lengths.append(length)
                if len(offsets) > limit:
                    raise TooLarge(f"more than {limit} fragments", attribute=name_of(tag))
            pos += length
        elif item == 0xE0DDFFFE and length == 0:
            return Fragments(max(base, start), offsets, lengths, table), pos
        else:
            refuse(tag, pos - 8, "neither a fragment nor a delimiter")
