"""Sequences (PS3.5 7.5), walked iteratively: checked, and turned into DICOM JSON on the way.

Nesting costs an entry on a list, never a Python frame.
"""

from collections.abc import Callable
from typing import Final, NoReturn, cast

from dicomweb.bulk import BulkEntry, bulk_uri
from dicomweb.charset import Codecs, codecs_for
from dicomweb.dictionary import INHERITED, LUT_DESCRIPTOR, PIXEL_REPRESENTATION, State, is_creator, resolve
from dicomweb.errors import BadDicom, TooLarge
from dicomweb.functional_groups import Leaf, Shapes
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
    readers,
    refuse,
    walk_fragments,
)
from dicomweb.values import BINARY_VRS, TEXT_BULK, bulk_reference, render, text_value

# Elements up to so many bytes are remembered within a scan.
_SHORT: Final = 64
_KEPT: Final = 20_000
# Parts of text that come together before they are handed on.
_DRAIN: Final = 8192
_CUT: Final = "the file is cut or a length is wrong"


class _Sequence:
    """A sequence whose items are being walked."""

    __slots__ = ("bound", "codecs", "end", "implicit", "index", "key", "parent", "state", "tag")

    def __init__(
        self, parent: "_Item | str", head: Head, end: int, bound: int, implicit: bool, codecs: Codecs, state: State
    ) -> None:
        self.parent = parent
        self.tag = head.tag
        self.key = head.key
        self.end = end  # -1: up to the delimiter
        self.bound = bound
        self.implicit = implicit
        self.codecs = codecs
        self.state = state
        self.index = -1

    def path(self) -> str:
        """Of the sequence in bulk data URIs."""
        return (self.parent if isinstance(self.parent, str) else self.parent.path()) + self.key


class _Item:
    """An item whose elements are being walked; it waits here while a sequence inside it is walked."""

    __slots__ = ("bound", "codecs", "comma", "end", "implicit", "index", "last", "sequence", "state")

    def __init__(self, sequence: _Sequence, end: int, bound: int, implicit: bool, state: State) -> None:
        self.sequence = sequence
        self.index = sequence.index
        self.end = end
        self.bound = bound
        self.implicit = implicit
        self.codecs = sequence.codecs
        self.state = state
        self.last = -1
        self.comma = b"{"

    def path(self) -> str:
        """What precedes the tags of the item's elements in bulk data URIs."""
        return f"{self.sequence.path()}/{self.index}/"


class Walker:
    """Walks sequences of one buffer. Without `values` it checks the structure and collects bulk values, and makes no JSON of them."""

    def __init__(
        self, buffer: Buffer, limits: ScanLimits, coding: Coding, sop_uid: str, version: str, *, values: bool = True
    ) -> None:
        # Slices of a mapping are bytes and those of a memoryview compare and hash like them.
        self.buffer = cast(bytes, buffer)
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
        self._leaves: dict[tuple[bool, Codecs], dict[bytes, bytes]] = {}
        # The values of the item of a functional group that is being walked, while a shape may be made of it.
        self._met: list[Leaf] | None = None
        self._began = (0, 0, 0, 0)
        self._item = b"\xff\xfe\xe0\x00" if coding.big else b"\xfe\xff\x00\xe0"
        self._item_end = b"\xff\xfe\xe0\x0d" if coding.big else b"\xfe\xff\x0d\xe0"
        self._sequence_end = b"\xff\xfe\xe0\xdd" if coding.big else b"\xfe\xff\xdd\xe0"
        self._u16, self._u32 = readers(coding)

    def bulk_member(self, path: str, vr: str, offset: int, length: int, *, encapsulated: bool = False) -> bytes:
        """Note a bulk value; its attribute object."""
        if not self.sop_uid:
            refuse(int(path[-8:], 16), offset, "a bulk value before the SOP Instance UID")
        self.bulk.append(BulkEntry(path, offset, length, vr, encapsulated))
        return bulk_reference(vr, bulk_uri(self.sop_uid, path, self.version))

    def sequence(
        self,
        pos: int,
        length: int,
        bound: int,
        head: Head,
        codecs: Codecs,
        state: State,
        out: list[bytes],
        *,
        implicit: bool,
        prefix: str = "",
        depth: int = 1,
        drain: Callable[[list[bytes]], None] | None = None,
    ) -> int:
        """Walk the sequence whose value field starts at `pos` and append its attribute object to `out`; the offset behind it.

        `length` may be UNDEFINED; `bound` is where the parent ends at the latest; `prefix` is the parent's part of bulk data URIs and
        `state` what the parent knows. `drain` takes the finished text whenever a good deal of it has come together.
        """
        if length != UNDEFINED and length > bound - pos:
            refuse(head.tag, pos, f"the sequence ends past its parent: {_CUT}")
        end = -1 if length == UNDEFINED else pos + length
        sequence = _Sequence(prefix, head, end, bound if end < 0 else end, implicit, codecs, state)
        item: _Item | None = None
        stack: list[tuple[_Sequence, _Item]] = []
        self.pos = pos
        out.append(b'{"vr":"SQ"')
        shapes = Shapes()
        while True:
            if item is None:
                if drain is not None and not stack:
                    self._known_items(shapes, sequence, out, drain)
                    self._began = (self.pos, len(out) + 1, self.count, len(self.bulk))
                    self._met = []
                item = self._next_item(sequence, out)
                if item is None:
                    out.append(b"]}" if sequence.index >= 0 else b"}")
                    if not stack:
                        self._met = None
                        return self.pos
                    sequence, item = stack.pop()
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

    def _known_items(
        self, shapes: Shapes, sequence: _Sequence, out: list[bytes], drain: Callable[[list[bytes]], None]
    ) -> None:
        """Learn from the item that was just walked, then take the items after it that have a known shape."""
        if self._met is not None and not self.inherited:
            origin, out_at, count, bulk = self._began
            if bulk == len(self.bulk):
                raw = self.buffer[origin : self.pos]
                shapes.learn(bytes(raw), origin, out, out_at, self._met, self.count - count)
        self._met = None
        pos, bound, end = self.pos, sequence.bound, sequence.end
        while pos != end:
            if len(out) > _DRAIN:
                drain(out)
            out.append(b"," if sequence.index >= 0 else b',"Value":[')
            found = shapes.read(self.buffer, pos, bound, out, self.notes)
            if found is None:
                out.pop()
                break
            sequence.index += 1
            pos += found[0]
            self.count += found[1]
            if self.count > self.max_elements:
                self._too_many(sequence.tag)
        self.pos = pos

    def _next_item(self, sequence: _Sequence, out: list[bytes]) -> _Item | None:
        """The next item of the sequence, None at its end; `self.pos` moves past the header or delimiter."""
        pos = self.pos
        if pos == sequence.end:
            return None
        buffer = self.buffer
        bound = sequence.bound
        if pos + 8 > bound:
            refuse(sequence.tag, pos, f"the sequence has no end: {_CUT}")
        mark = buffer[pos : pos + 4]
        length: int = self._u32(buffer, pos + 4)[0]
        pos += 8
        self.pos = pos
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
        state = sequence.state
        signed = state.get(PIXEL_REPRESENTATION, state.get(INHERITED)) if state else None
        # Items of an explicit data set may be written without VRs: the content of UN is (PS3.5 6.2.2), and some writers do it elsewhere.
        implicit = sequence.implicit or (
            pos + 6 <= bound
            and not (65 <= buffer[pos + 4] <= 90 and 65 <= buffer[pos + 5] <= 90)
            and not self.coding.big
        )
        return _Item(sequence, end, bound, implicit, {} if signed is None else {INHERITED: signed})

    def _leaves_of(self, implicit: bool, codecs: Codecs) -> dict[bytes, bytes]:
        """Raw element -> JSON member, for elements that mean the same wherever they stand."""
        known = self._leaves.get((implicit, codecs))
        if known is None:
            known = self._leaves[implicit, codecs] = {}
        elif len(known) > _KEPT:
            known.clear()
        return known

    def _too_many(self, tag: int) -> NoReturn:
        raise TooLarge(f"more than {self.max_elements} elements", attribute=name_of(tag))

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
                refuse(item.sequence.tag, pos, f"an item has no end: {_CUT}")
            raw_head = buffer[pos : pos + size]
            head = known.get(raw_head)
            if head is None:
                if item.end < 0 and raw_head[:4] == self._item_end and u32(buffer, pos + 4)[0] == 0:
                    pos += 8
                    break
                head = heads.read(bytes(raw_head), pos)
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
            if kind == PLAIN and length <= _SHORT:
                if stop > bound:
                    refuse(tag, pos, f"the value ends past its parent: {_CUT}")
                out.append(item.comma)
                out.append(member)
                item.comma = b","
                if self._met is not None:
                    self._met.append(Leaf(start, length, key, vr, item.codecs, len(out)))
                raw = buffer[pos:stop]
                text = leaves.get(raw)
                if text is None:
                    text = self._leaf(head, start, stop, item.codecs)
                    leaves[bytes(raw)] = text
                out.append(text)
                pos = stop
                continue
            if kind == SEQUENCE or (length == UNDEFINED and vr in ("UN", "")):
                self.pos, item.last = start, last
                out.append(item.comma)
                out.append(member)
                item.comma = b","
                return self._inner(item, head, start, length)
            if length == UNDEFINED:
                if implicit or vr not in BINARY_VRS:
                    refuse(tag, pos, "a value without a length")
                _, stop = walk_fragments(buffer, start, bound, tag, self.limits.max_frames)
                self.notes.add(f"{name_of(tag)} has a value without a length")
                text = self.bulk_member(item.path() + key, vr, start, stop - 8 - start, encapsulated=True)
            elif stop > bound:
                refuse(tag, pos, f"the value ends past its parent: {_CUT}")
            elif kind == GROUP_LENGTH:
                pos = stop
                continue
            else:
                text = self._value(item, head, start, length, depth)
                leaves = self._leaves_of(implicit, item.codecs)
            out.append(item.comma)
            out.append(member)
            if self._met is not None and (kind == PLAIN or kind == BINARY):
                self._met.append(Leaf(start, length, key, vr, item.codecs, len(out)))
            out.append(text)
            item.comma = b","
            pos = stop
        self.pos, item.last = pos, last
        return None

    def _leaf(self, head: Head, start: int, stop: int, codecs: Codecs) -> bytes:
        if not self.values:
            return b""
        return render(head.key, head.vr, bytes(self.buffer[start:stop]), codecs, self.notes)

    def _inner(self, item: _Item, head: Head, start: int, length: int) -> _Sequence:
        end, bound = -1, item.bound
        if length != UNDEFINED:
            end = start + length
            if end > bound:
                refuse(head.tag, start, f"the sequence ends past its parent: {_CUT}")
            bound = end
        return _Sequence(item, head, end, bound, item.implicit, item.codecs, item.state)

    def _value(self, item: _Item, head: Head, start: int, length: int, depth: int) -> bytes:
        """The attribute object of an element of defined length that is more than a short plain value."""
        tag, key, _, vr, _, kind = head
        if vr == "" or (vr == "UN" and not self.coding.big):
            resolved = resolve(tag, length, item.state, explicit=not item.implicit)
            vr = resolved.vr
            self.inherited = self.inherited or any(key == INHERITED for key, _ in resolved.needs)
            if vr == "SQ":
                text = self.opaque_sequence(start, length, head, item.codecs, item.state, item.path(), depth)
                if text is not None:
                    return text
                vr = "UN"
        if length > (self.limits.bulk_threshold if vr in BINARY_VRS else TEXT_BULK - 1):
            return self.bulk_member(item.path() + key, vr, start, length)
        raw = bytes(self.buffer[start : start + length])
        if kind == NOTED:
            self.take_note(tag, vr, raw, item.codecs, item.state)
            if tag == SPECIFIC_CHARACTER_SET:
                item.codecs = codecs_for(raw, self.notes)
        return render(key, vr, raw, item.codecs, self.notes) if self.values else b""

    def opaque_sequence(
        self, start: int, length: int, head: Head, codecs: Codecs, state: State, prefix: str = "", depth: int = 0
    ) -> bytes | None:
        """The attribute object of a sequence that is encoded as UN or hidden in a private implicit element.

        None when the bytes are no sequence: then they are left as they are, since nothing promised that they could be read.
        """
        saved = self.count, len(self.bulk), set(self.notes), self.inherited
        met, self._met = self._met, None
        out: list[bytes] = []
        try:
            if depth >= self.limits.max_depth:
                refuse(head.tag, start, f"nested more than {self.limits.max_depth} deep")
            implicit = not self.coding.explicit
            bound = start + length
            self.sequence(
                start, length, bound, head, codecs, state, out, implicit=implicit, prefix=prefix, depth=depth + 1
            )
        except BadDicom:
            self.count, kept, self.notes, self.inherited = saved
            del self.bulk[kept:]
            self.notes.add(f"{name_of(head.tag)} is not the sequence that the dictionary says")
            return None
        finally:
            self._met = met
        return b"".join(out)

    def take_note(self, tag: int, vr: str, raw: bytes, codecs: Codecs, state: State) -> None:
        """Remember a value that decides VRs further down in the same data set."""
        if is_creator(tag):
            if vr == "LO":
                state[tag] = text_value(raw, codecs, self.notes)
        elif tag in (PIXEL_REPRESENTATION, LUT_DESCRIPTOR) and len(raw) >= 2:
            state[tag] = self._u16(raw, 0)[0]
