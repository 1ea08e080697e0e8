"""Sequences (PS3.5 7.5), walked iteratively: checked, and turned into DICOM JSON on the way.

Nesting costs an entry on a list, never a Python frame.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from dicomweb.charset import Codecs
from dicomweb.dictionary import INHERITED, PIXEL_REPRESENTATION, State
from dicomweb.errors import BadDicom, TooLarge
from dicomweb.functional_groups import Leaf, Shapes
from dicomweb.rendering import Rendering
from dicomweb.structure import (
    BINARY,
    GROUP_LENGTH,
    IMPLICIT_LITTLE,
    NOTED,
    PLAIN,
    SEQUENCE,
    SPECIFIC_CHARACTER_SET,
    UNDEFINED,
    Buffer,
    Coding,
    Head,
    ScanLimits,
    heads_of,
    name_of,
    refuse,
    walk_fragments,
)
from dicomweb.values import BINARY_VRS, render

# Elements up to so many bytes are remembered within a scan.
_SHORT: Final = 64
_KEPT: Final = 20_000
# Parts of text that come together before they are handed on.
_DRAIN: Final = 8192
_CUT: Final = "the file is cut or a length is wrong"


class Scope(NamedTuple):
    """What a sequence takes from the data set around it; `prefix` is the data set's part of bulk data URIs."""

    codecs: Codecs
    state: State
    implicit: bool
    prefix: str = ""
    depth: int = 0


class _Sequence:
    """A sequence whose items are being walked; `end` is -1 up to a delimiter, `bound` where that must have come."""

    __slots__ = ("bound", "codecs", "end", "implicit", "index", "key", "parent", "state", "tag")

    def __init__(self, parent: "_Item | Scope", head: Head, start: int, length: int, bound: int) -> None:
        self.parent = parent
        self.implicit = parent.implicit
        self.codecs = parent.codecs
        self.state: State = parent.state
        self.tag = head.tag
        self.key = head.key
        self.end = -1
        self.bound = bound
        if length != UNDEFINED:
            self.end = self.bound = start + length
            if self.end > bound:
                refuse(head.tag, start, f"the sequence ends past its parent: {_CUT}")
        self.index = -1

    def path(self) -> str:
        """Of the sequence in bulk data URIs."""
        return (self.parent.prefix if isinstance(self.parent, Scope) else self.parent.path()) + self.key


class _Item:
    """An item whose elements are being walked; it waits here while a sequence inside it is walked."""

    __slots__ = ("bound", "codecs", "comma", "depth", "end", "implicit", "index", "last", "sequence", "state")

    def __init__(self, sequence: _Sequence, end: int, bound: int, implicit: bool, depth: int) -> None:
        self.sequence = sequence
        self.index = sequence.index
        self.end = end
        self.bound = bound
        self.implicit: bool = implicit
        self.codecs: Codecs = sequence.codecs
        outer = sequence.state
        signed = outer.get(PIXEL_REPRESENTATION, outer.get(INHERITED)) if outer else None
        self.state: State = {} if signed is None else {INHERITED: signed}
        self.depth = depth
        self.last = -1
        self.comma = b"{"

    def path(self) -> str:
        """What precedes the tags of the item's elements in bulk data URIs."""
        return f"{self.sequence.path()}/{self.index}/"


class Walker(Rendering):
    """Walks the sequences of one buffer; `count` counts elements and items against `max_elements`."""

    def __init__(
        self, buffer: Buffer, limits: ScanLimits, coding: Coding, sop_uid: str, version: str, *, values: bool = True
    ) -> None:
        super().__init__(buffer, limits, coding, sop_uid, version, values=values)
        self.max_elements = limits.max_elements
        self.count = 0
        # Set when a VR in a sequence was taken from the Pixel Representation around it.
        self.inherited = False
        self._pos = 0
        self._leaves: dict[tuple[bool, Codecs], dict[bytes, bytes]] = {}
        # The values of the item of a functional group that is being walked, while a shape may be made of it.
        self._met: list[Leaf] | None = None
        self._began = (0, 0, 0, 0)
        self._item = b"\xff\xfe\xe0\x00" if coding.big else b"\xfe\xff\x00\xe0"
        self._item_end = b"\xff\xfe\xe0\x0d" if coding.big else b"\xfe\xff\x0d\xe0"
        self._sequence_end = b"\xff\xfe\xe0\xdd" if coding.big else b"\xfe\xff\xdd\xe0"

    def sequence(
        self,
        head: Head,
        pos: int,
        length: int,
        bound: int,
        scope: Scope,
        out: list[bytes],
        drain: Callable[[list[bytes]], None] | None = None,
    ) -> int:
        """Walk the sequence whose value field is at `pos`, append its attribute object to `out`; the offset behind it.

        `length` may be UNDEFINED; `bound` is where the parent ends at the latest. `drain` takes the finished text
        whenever a good deal of it has come together; with it, items are expected to be many and alike.
        """
        sequence = _Sequence(scope, head, pos, length, bound)
        item: _Item | None = None
        stack: list[tuple[_Sequence, _Item]] = []
        self._pos = pos
        out.append(b'{"vr":"SQ"')
        shapes = Shapes()
        while True:
            if item is None:
                if drain is not None and not stack:
                    self._known_items(shapes, sequence, out, drain)
                    self._began = (self._pos, len(out) + 1, self.count, len(self.bulk))
                    self._met = []
                item = self._next_item(sequence, out, scope.depth + len(stack) + 1)
                if item is None:
                    out.append(b"]}" if sequence.index >= 0 else b"}")
                    if not stack:
                        self._met = None
                        return self._pos
                    sequence, item = stack.pop()
            inner = self._elements(item, out)
            if inner is None:
                out.append(b"}" if item.comma == b"," else b"{}")
                item = None
            else:
                self._check_depth(inner.tag, item.depth)
                stack.append((sequence, item))
                sequence, item = inner, None
                out.append(b'{"vr":"SQ"')

    def _known_items(
        self, shapes: Shapes, sequence: _Sequence, out: list[bytes], drain: Callable[[list[bytes]], None]
    ) -> None:
        """Learn from the item that was just walked, then take the items after it that have a known shape."""
        origin, out_at, count, bulk = self._began
        if self._met is not None and not self.inherited and bulk == len(self.bulk):
            raw = bytes(self.buffer[origin : self._pos])
            shapes.learn(raw, origin, out, out_at, self._met, self.count - count)
        self._met = None
        pos = self._pos
        while pos != sequence.end:
            if len(out) > _DRAIN:
                drain(out)
            out.append(b"," if sequence.index >= 0 else b',"Value":[')
            found = shapes.read(self.buffer, pos, sequence.bound, out, self.notes)
            if found is None:
                out.pop()
                break
            sequence.index += 1
            pos += found[0]
            self.count += found[1]
            if self.count > self.max_elements:
                self._too_many(sequence.tag)
        self._pos = pos

    def _next_item(self, sequence: _Sequence, out: list[bytes], depth: int) -> _Item | None:
        """The next item of the sequence, None at its end; `_pos` moves past the header or delimiter."""
        pos = self._pos
        if pos == sequence.end:
            return None
        buffer, bound = self.buffer, sequence.bound
        if pos + 8 > bound:
            refuse(sequence.tag, pos, f"the sequence has no end: {_CUT}")
        mark = buffer[pos : pos + 4]
        length: int = self._u32(buffer, pos + 4)[0]
        pos += 8
        self._pos = pos
        if mark != self._item:
            if mark == self._sequence_end and sequence.end < 0 and length == 0:
                return None
            refuse(sequence.tag, pos - 8, "neither an item nor the delimiter of the sequence")
        end = -1
        if length != UNDEFINED:
            end = pos + length
            if end > bound:
                refuse(sequence.tag, pos - 8, f"an item ends past its sequence: {_CUT}")
            bound = end
        sequence.index += 1
        out.append(b"," if sequence.index else b',"Value":[')
        self.count += 1
        if self.count > self.max_elements:
            self._too_many(sequence.tag)
        # Items of an explicit data set may be written without VRs: the content of UN is (PS3.5 6.2.2), and some writers
        # do it elsewhere.
        implicit = sequence.implicit or (
            pos + 6 <= bound
            and not (65 <= buffer[pos + 4] <= 90 and 65 <= buffer[pos + 5] <= 90)
            and not self.coding.big
        )
        return _Item(sequence, end, bound, implicit, depth)

    def _leaves_of(self, item: _Item) -> dict[bytes, bytes]:
        """Raw element -> attribute object, for elements that mean the same wherever they stand."""
        known = self._leaves.setdefault((item.implicit, item.codecs), {})
        if len(known) > _KEPT:
            known.clear()
        return known

    def _too_many(self, tag: int) -> NoReturn:
        setting = "max_elements" if self.max_elements == self.limits.max_elements else "max_fg_elements"
        raise TooLarge(f"more than {self.max_elements} elements ({setting})", attribute=name_of(tag))

    def _check_depth(self, tag: int, depth: int) -> None:
        if depth >= self.limits.max_depth:
            refuse(tag, self._pos, f"nested more than {self.limits.max_depth} deep (max_depth)")

    def _elements(self, item: _Item, out: list[bytes]) -> _Sequence | None:  # noqa: C901, PLR0912, PLR0915 - hot loop
        """Walk the elements of an item: None at its end, or the next sequence in it with `_pos` at its value field."""
        buffer = self.buffer
        pos, bound, last, implicit = self._pos, item.bound, item.last, item.implicit
        heads = heads_of(IMPLICIT_LITTLE if implicit else self.coding)
        known = heads.known
        size = 4 if implicit else 6
        u16, u32 = self._u16, self._u32
        leaves = self._leaves_of(item)
        while pos != item.end:
            if pos + 8 > bound:
                refuse(item.sequence.tag, pos, f"an item has no end: {_CUT}")
            raw = buffer[pos : pos + size]
            head = known.get(raw)
            if head is None:
                if item.end < 0 and raw[:4] == self._item_end and u32(buffer, pos + 4)[0] == 0:
                    pos += 8
                    break
                head = heads.read(bytes(raw), pos)
            tag, key, member, vr, long, kind = head
            if implicit:
                start, length = pos + 8, u32(buffer, pos + 4)[0]
            elif long:
                if pos + 12 > bound:
                    refuse(tag, pos, "an element header is cut")
                start, length = pos + 12, u32(buffer, pos + 8)[0]
            else:
                start, length = pos + 8, u16(buffer, pos + 6)[0]
            if tag <= last:
                refuse(tag, pos, "tags are not in ascending order")
            last = tag
            self.count += 1
            if self.count > self.max_elements:
                self._too_many(tag)
            stop = start + length
            if kind == PLAIN and length <= _SHORT:
                if stop > bound:
                    refuse(tag, pos, f"the value ends past its parent: {_CUT}")
                raw = buffer[pos:stop]
                text = leaves.get(raw)
                if text is None:
                    text = leaves[bytes(raw)] = self.value(key, vr, bytes(buffer[start:stop]), item.codecs)
            elif kind == SEQUENCE or (length == UNDEFINED and vr in {"UN", ""}):
                self._pos, item.last = start, last
                out += (item.comma, member)
                item.comma = b","
                return _Sequence(item, head, start, length, bound)
            elif kind == GROUP_LENGTH and stop <= bound:
                pos = stop
                continue
            else:
                text, stop = self._attribute(item, head, start, length)
                leaves = self._leaves_of(item)
            out += (item.comma, member, text)
            if self._met is not None and kind in {PLAIN, BINARY}:
                self._met.append(Leaf(start, length, key, vr, item.codecs, len(out) - 1))
            item.comma = b","
            pos = stop
        self._pos, item.last = pos, last
        return None

    def _attribute(self, item: _Item, head: Head, start: int, length: int) -> tuple[bytes, int]:
        """The attribute object of an element that is more than a short plain value, and the offset behind it."""
        tag, key, _, vr, _, kind = head
        if length == UNDEFINED:
            if item.implicit or vr not in BINARY_VRS:
                refuse(tag, start, "a value without a length")
            _, stop = walk_fragments(self.buffer, start, item.bound, tag, self.limits.max_frames)
            self.notes.add(f"{name_of(tag)} has a value without a length")
            return self.bulk_value(item.path() + key, vr, start, stop - 8 - start, encapsulated=True), stop
        stop = start + length
        if stop > item.bound:
            refuse(tag, start, f"the value ends past its parent: {_CUT}")
        if not vr or (vr == "UN" and not self.coding.big):
            vr, needs = self.resolved(head, length, item.state, explicit=not item.implicit)
            self.inherited = self.inherited or any(fact == INHERITED for fact, _ in needs)
            if vr == "SQ":
                scope = Scope(item.codecs, item.state, not self.coding.explicit, item.path(), item.depth)
                text = self.opaque_sequence(head, start, length, scope)
                if text is not None:
                    return text, stop
                vr = "UN"
        if self.is_bulk(vr, length):
            return self.bulk_value(item.path() + key, vr, start, length), stop
        raw = bytes(self.buffer[start:stop])
        if kind == NOTED:
            self.take_note(tag, vr, raw, item.codecs, item.state)
            if tag == SPECIFIC_CHARACTER_SET:
                item.codecs = self.charset(raw, start)
        return self.value(key, vr, raw, item.codecs), stop

    def opaque_sequence(self, head: Head, start: int, length: int, scope: Scope) -> bytes | None:
        """The attribute object of a sequence that is encoded as UN or hidden in a private implicit element.

        None when the bytes are no sequence: then they are left as they are, since nothing promised that they could be
        read. Recursive, as deep as nesting is allowed.
        """
        count, bulk, notes, inherited = self.count, len(self.bulk), set(self.notes.texts), self.inherited
        met, self._met = self._met, None
        out: list[bytes] = []
        try:
            self._check_depth(head.tag, scope.depth)
            self.sequence(head, start, length, start + length, scope, out)
        except BadDicom:
            self.count, self.notes.texts, self.inherited = count, notes, inherited
            del self.bulk[bulk:]
            self.notes.add(f"{name_of(head.tag)} is not the sequence that the dictionary says")
            if not self.values:
                raw = bytes(self.buffer[start : start + length])
                self.opaque[scope.prefix + head.key] = render(head.key, "UN", raw, scope.codecs, self.notes)
            return None
        finally:
            self._met = met
        return b"".join(out)
