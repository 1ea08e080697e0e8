"""The structure of a data set (PS3.5 chapter 7) and its sequences, walked once: checked, and turned into DICOM JSON on the way.

The walk is iterative: nesting costs an entry on a list, never a Python frame. Every length must end inside what encloses it, tags must
ascend, delimiters must match, and whatever a file claims about sizes is compared with the buffer before anything is allocated.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from struct import Struct
from typing import Final, NamedTuple, NoReturn

from dicomweb.bulk import BulkEntry, bulk_uri
from dicomweb.charset import Codecs, codecs_for
from dicomweb.dictionary import INHERITED, LUT_DESCRIPTOR, PIXEL_REPRESENTATION, State, is_creator, public_vr, resolve
from dicomweb.errors import BadDicom, TooLarge
from dicomweb.frames import Fragments
from dicomweb.tags import keyword_of
from dicomweb.values import BINARY_VRS, LONG_VRS, SHORT_VRS, TEXT_BULK, bulk_reference, render, text_value

Buffer = bytes | memoryview | mmap

UNDEFINED: Final = 0xFFFFFFFF
SPECIFIC_CHARACTER_SET: Final = 0x00080005
PIXEL_TAGS: Final = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """What a file may ask for. `max_inflated` is bytes, `max_inflate_ratio` bytes out for one byte in; bulk values are longer than
    `bulk_threshold` bytes; functional groups and fragments have limits of their own, because slides have millions of them."""

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


class Heads:
    """The element headers of one coding, remembered by their bytes (six of tag and VR, four of a tag alone)."""

    __slots__ = ("_big", "_explicit", "known")

    def __init__(self, coding: Coding) -> None:
        self._explicit = coding.explicit
        self._big = coding.big
        self.known: dict[bytes, Head] = {}

    def read(self, raw: bytes, at: int) -> Head:
        """The meaning of header bytes that are not in `known`; refuses unknown VRs and groups that no data set may contain."""
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
        if len(self.known) < 50_000:
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
    if tag in PIXEL_TAGS:
        kind = PIXELS
    elif tag & 0xFFFF == 0:
        kind = GROUP_LENGTH
    elif tag in (SPECIFIC_CHARACTER_SET, PIXEL_REPRESENTATION, LUT_DESCRIPTOR) or is_creator(tag):
        kind = NOTED
    elif vr == "":
        kind = LOOKUP
    elif vr == "SQ":
        kind = SEQUENCE
    elif vr == "UN":
        kind = UNKNOWN
    elif vr in BINARY_VRS:
        kind = BINARY
    else:
        kind = PLAIN
    return Head(tag, key, b'"%s":' % key.encode(), vr, long, kind)


_EXPLICIT_HEADS, _IMPLICIT_HEADS, _BIG_HEADS = Heads(EXPLICIT_LITTLE), Heads(IMPLICIT_LITTLE), Heads(EXPLICIT_BIG)


def heads_of(coding: Coding) -> Heads:
    """The shared table of a coding; it depends on nothing but the dictionaries."""
    if coding.big:
        return _BIG_HEADS
    return _EXPLICIT_HEADS if coding.explicit else _IMPLICIT_HEADS


def walk_fragments(buffer: Buffer, pos: int, bound: int, tag: int, limit: int) -> tuple[Fragments, int]:
    """The fragments of an undefined-length value field that starts at `pos` (PS3.5 A.4), and the offset behind its delimiter.

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


class _Sequence:
    """A sequence whose items are being walked."""

    __slots__ = ("bound", "codecs", "end", "implicit", "index", "path", "state", "tag")

    def __init__(self, path: str, tag: int, end: int, bound: int, implicit: bool, codecs: Codecs, state: State) -> None:
        self.path = path
        self.tag = tag
        self.end = end  # -1: up to the delimiter
        self.bound = bound
        self.implicit = implicit
        self.codecs = codecs
        self.state = state
        self.index = -1


class _Item:
    """An item whose elements are being walked; it waits here while a sequence inside it is walked."""

    __slots__ = ("bound", "codecs", "comma", "end", "implicit", "last", "path", "state", "tag")

    def __init__(self, parent: _Sequence, end: int, bound: int, implicit: bool, state: State) -> None:
        self.path = f"{parent.path}/{parent.index}/"
        self.tag = parent.tag
        self.end = end
        self.bound = bound
        self.implicit = implicit
        self.codecs = parent.codecs
        self.state = state
        self.last = -1
        self.comma = b"{"


class Walker:
    """Walks sequences of one buffer. Without `values` it checks the structure and collects bulk values, and makes no JSON of them."""

    def __init__(
        self, buffer: Buffer, limits: ScanLimits, coding: Coding, sop_uid: str, version: str, *, values: bool = True
    ) -> None:
        self.buffer = buffer
        self.limits = limits
        self.coding = coding
        self.sop_uid = sop_uid
        self.version = version
        self.values = values
        self.max_elements = limits.max_elements
        self.count = 0
        self.pos = 0
        self.bulk: list[BulkEntry] = []
        self.notes: set[str] = set()
        # Set when a VR in a sequence was taken from the Pixel Representation around it.
        self.inherited = False
        self.leaves: dict[tuple[bool, Codecs], dict[bytes, bytes]] = {}
        self._item = b"\xff\xfe\xe0\x00" if coding.big else b"\xfe\xff\x00\xe0"
        self._item_end = b"\xff\xfe\xe0\x0d" if coding.big else b"\xfe\xff\x0d\xe0"
        self._sequence_end = b"\xff\xfe\xe0\xdd" if coding.big else b"\xfe\xff\xdd\xe0"
        self._u16, self._u32 = (_B16, _B32) if coding.big else (_U16, _U32)

    def bulk_member(self, path: str, vr: str, offset: int, length: int, *, encapsulated: bool = False) -> bytes:
        """Note a bulk value; its attribute object."""
        self.bulk.append(BulkEntry(path, offset, length, vr, encapsulated))
        return bulk_reference(vr, bulk_uri(self.sop_uid, path, self.version))

    def sequence(
        self,
        pos: int,
        length: int,
        bound: int,
        path: str,
        codecs: Codecs,
        state: State,
        out: list[bytes],
        *,
        implicit: bool,
        depth: int = 1,
        drain: Callable[[list[bytes]], None] | None = None,
    ) -> int:
        """Walk the sequence whose value field starts at `pos` and append its attribute object to `out`; the offset behind it.

        `length` may be UNDEFINED; `bound` is where the parent ends at the latest; `path` names the sequence in bulk data URIs;
        `state` is the parent's. `drain` takes the finished text whenever a good deal of it has come together.
        """
        tag = int(path[-8:], 16)
        if length != UNDEFINED and length > bound - pos:
            refuse(tag, pos, "the sequence ends past its parent: the file is cut or a length is wrong")
        end = -1 if length == UNDEFINED else pos + length
        sequence = _Sequence(path, tag, end, bound if end < 0 else end, implicit, codecs, state)
        item: _Item | None = None
        stack: list[tuple[_Sequence, _Item]] = []
        self.pos = pos
        out.append(b'{"vr":"SQ"')
        while True:
            if item is None:
                item = self._next_item(sequence, out)
                if item is None:
                    out.append(b"]}" if sequence.index >= 0 else b"}")
                    if not stack:
                        return self.pos
                    sequence, item = stack.pop()
                elif drain is not None and not stack and len(out) > 8192:
                    drain(out)
            inner = self._elements(item, out, depth + len(stack))
            if inner is None:
                out.append(b"}" if item.comma == b"," else b"{}")
                item = None
            else:
                if depth + len(stack) >= self.limits.max_depth:
                    refuse(inner.tag, self.pos, f"nested more than {self.limits.max_depth} deep")
                stack.append((sequence, item))
                sequence, item = inner, None
                out.append(b'{"vr":"SQ"')

    def _next_item(self, sequence: _Sequence, out: list[bytes]) -> _Item | None:
        """The next item of the sequence, None at its end; `self.pos` moves past the header or delimiter."""
        pos = self.pos
        if pos == sequence.end:
            return None
        if pos + 8 > sequence.bound:
            refuse(sequence.tag, pos, "the sequence has no end: the file is cut or a length is wrong")
        mark = self.buffer[pos : pos + 4]
        length: int = self._u32(self.buffer, pos + 4)[0]
        pos += 8
        self.pos = pos
        if mark != self._item:
            if mark == self._sequence_end and sequence.end < 0 and length == 0:
                return None
            refuse(sequence.tag, pos - 8, "neither an item nor the delimiter of the sequence")
        if length == UNDEFINED:
            end, bound = -1, sequence.bound
        else:
            end = bound = pos + length
            if bound > sequence.bound:
                refuse(sequence.tag, pos - 8, "an item ends past its sequence")
        sequence.index += 1
        out.append(b"," if sequence.index else b',"Value":[')
        self.count += 1
        if self.count > self.max_elements:
            self._too_many(sequence.tag)
        state = sequence.state
        signed = state.get(PIXEL_REPRESENTATION, state.get(INHERITED)) if state else None
        implicit = sequence.implicit or self._looks_implicit(pos, bound)
        return _Item(sequence, end, bound, implicit, {} if signed is None else {INHERITED: signed})

    def _looks_implicit(self, pos: int, bound: int) -> bool:
        """Whether an item of an explicit data set is written without VRs, as the content of UN is (PS3.5 6.2.2) and some writers do."""
        first = bytes(self.buffer[pos + 4 : min(pos + 6, bound)])
        return len(first) == 2 and not (first.isalpha() and first.isupper() and first.isascii()) and not self.coding.big

    def _too_many(self, tag: int) -> NoReturn:
        raise TooLarge(f"more than {self.max_elements} elements", attribute=name_of(tag))

    def _leaves_of(self, implicit: bool, codecs: Codecs) -> dict[bytes, bytes]:
        """Raw element -> JSON member, for elements that mean the same wherever they stand."""
        known = self.leaves.get((implicit, codecs))
        if known is None:
            known = self.leaves[implicit, codecs] = {}
        elif len(known) > 20_000:
            known.clear()
        return known

    def _elements(self, item: _Item, out: list[bytes], depth: int) -> _Sequence | None:
        """Walk the elements of an item: None at its end, or the next sequence in it, `self.pos` being at its value field."""
        buffer = self.buffer
        pos, bound, last = self.pos, item.bound, item.last
        implicit = item.implicit
        heads = heads_of(IMPLICIT_LITTLE if implicit else self.coding)
        known = heads.known
        size = 4 if implicit else 6
        u16, u32 = self._u16, self._u32
        leaves = self._leaves_of(implicit, item.codecs)
        while pos != item.end:
            if pos + 8 > bound:
                refuse(item.tag, pos, "an item has no end: the file is cut or a length is wrong")
            raw_head = bytes(buffer[pos : pos + size])
            head = known.get(raw_head)
            if head is None:
                if item.end < 0 and raw_head[:4] == self._item_end and u32(buffer, pos + 4)[0] == 0:
                    pos += 8
                    break
                head = heads.read(raw_head, pos)
            tag, key, member, vr, long, kind = head
            if implicit:
                start = pos + 8
                length = u32(buffer, pos + 4)[0]
            elif long:
                if pos + 12 > bound:
                    refuse(tag, pos, "an element header is cut")
                start = pos + 12
                length = u32(buffer, pos + 8)[0]
            else:
                start = pos + 8
                length = u16(buffer, pos + 6)[0]
            if tag <= last:
                refuse(tag, pos, "tags are not in ascending order")
            last = tag
            self.count += 1
            if self.count > self.max_elements:
                self._too_many(tag)
            stop = start + length
            if kind == PLAIN and length <= 64:
                if stop > bound:
                    refuse(tag, pos, "the value ends past its parent: the file is cut or a length is wrong")
                raw = bytes(buffer[pos:stop])
                text = leaves.get(raw)
                if text is None:
                    noted = len(self.notes)
                    text = member + render(key, vr, raw[start - pos :], item.codecs, self.notes) if self.values else b""
                    if noted == len(self.notes):
                        leaves[raw] = text
                out.append(item.comma)
                out.append(text)
                item.comma = b","
                pos = stop
                continue
            if kind == SEQUENCE or (length == UNDEFINED and vr in ("UN", "")):
                self.pos, item.last = start, last
                out.append(item.comma)
                out.append(member)
                item.comma = b","
                return self._inner(item, tag, key, start, length)
            if length == UNDEFINED:
                if implicit or vr not in BINARY_VRS:
                    refuse(tag, pos, "a value without a length")
                _, stop = walk_fragments(buffer, start, bound, tag, self.limits.max_frames)
                self.notes.add(f"{name_of(tag)} has a value without a length")
                text = self.bulk_member(item.path + key, vr, start, stop - 8 - start, encapsulated=True)
            elif stop > bound:
                refuse(tag, pos, "the value ends past its parent: the file is cut or a length is wrong")
            elif kind == GROUP_LENGTH:
                pos = stop
                continue
            else:
                text = self._value(item, head, start, length, depth)
                leaves = self._leaves_of(implicit, item.codecs)
            out.append(item.comma)
            out.append(member)
            out.append(text)
            item.comma = b","
            pos = stop
        self.pos, item.last = pos, last
        return None

    def _inner(self, item: _Item, tag: int, key: str, start: int, length: int) -> _Sequence:
        if length == UNDEFINED:
            end, bound = -1, item.bound
        else:
            end = bound = start + length
            if bound > item.bound:
                refuse(tag, start, "the sequence ends past its parent: the file is cut or a length is wrong")
        return _Sequence(item.path + key, tag, end, bound, item.implicit, item.codecs, item.state)

    def _value(self, item: _Item, head: Head, start: int, length: int, depth: int) -> bytes:
        """The attribute object of an element of defined length that is more than a short plain value."""
        tag, key, _, vr, _, kind = head
        if vr == "" or (vr == "UN" and not self.coding.big):
            resolved = resolve(tag, length, item.state, explicit=not item.implicit)
            vr = resolved.vr
            self.inherited = self.inherited or any(key == INHERITED for key, _ in resolved.needs)
            if vr == "SQ":
                text = self.opaque_sequence(start, length, item.path + key, item.codecs, item.state, depth)
                if text is not None:
                    return text
                vr = "UN"
        if length > (self.limits.bulk_threshold if vr in BINARY_VRS else TEXT_BULK - 1):
            return self.bulk_member(item.path + key, vr, start, length)
        raw = bytes(self.buffer[start : start + length])
        if kind == NOTED:
            self.take_note(tag, vr, raw, item.codecs, item.state)
            if tag == SPECIFIC_CHARACTER_SET:
                item.codecs = codecs_for(raw, self.notes)
        return render(key, vr, raw, item.codecs, self.notes) if self.values else b""

    def opaque_sequence(
        self, start: int, length: int, path: str, codecs: Codecs, state: State, depth: int
    ) -> bytes | None:
        """The attribute object of a sequence that is encoded as UN or hidden in a private implicit element.

        None when the bytes are no sequence: then they are left as they are, since nothing promised that they could be read.
        """
        saved = self.count, len(self.bulk), set(self.notes), self.inherited
        out: list[bytes] = []
        try:
            if depth >= self.limits.max_depth:
                refuse(int(path[-8:], 16), start, f"nested more than {self.limits.max_depth} deep")
            bound = start + length
            self.sequence(start, length, bound, path, codecs, state, out, implicit=not self.coding.explicit, depth=depth + 1)
        except BadDicom:
            self.count, kept, self.notes, self.inherited = saved
            del self.bulk[kept:]
            self.notes.add(f"{name_of(int(path[-8:], 16))} is not the sequence that the dictionary says")
            return None
        return b"".join(out)

    def take_note(self, tag: int, vr: str, raw: bytes, codecs: Codecs, state: State) -> None:
        """Remember a value that decides VRs further down in the same data set."""
        if is_creator(tag):
            if vr == "LO":
                state[tag] = text_value(raw, codecs, self.notes)
        elif tag in (PIXEL_REPRESENTATION, LUT_DESCRIPTOR) and len(raw) >= 2:
            state[tag] = self._u16(raw, 0)[0]
