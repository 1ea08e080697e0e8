"""The edit of one file: a walk over its elements that notes what changes, and hands out the rest as it is.

A sequence whose content changes keeps its form: a defined length is put right, an undefined one stays. Only where more
changes are waiting than should be held does a sequence of defined length get a delimiter instead, which means the
same (PS3.5 7.5.2). Nesting costs an entry on a list, never a Python frame.
"""

import zlib
from collections.abc import Iterator
from struct import Struct
from typing import Final

from dicomweb.deflate import inflate_dataset
from dicomweb.dictionary import PIXEL_REPRESENTATION, Unsure, is_creator, resolve
from dicomweb.edit.changes import Changes
from dicomweb.edit.containers import Container, DataSet, Sequence
from dicomweb.edit.encoding import Value
from dicomweb.edit.file_meta import file_meta
from dicomweb.edit.rules import REMOVE, Action, Decision, Rule, Rules
from dicomweb.edit.skipping import CUT, has_fragments, is_implicit, skip_fragments, skip_sequence
from dicomweb.edit.splices import Extent, Segment, Splices
from dicomweb.edit.subject import CHARACTER_SET, SOP_CLASS, Subject, read_subject
from dicomweb.errors import TooLarge
from dicomweb.meta import read_file_meta
from dicomweb.structure import (
    IMPLICIT_LITTLE,
    SEQUENCE,
    UNDEFINED,
    Buffer,
    ScanLimits,
    heads_of,
    name_of,
    readers,
    refuse,
)

# Changes that wait for the length of the sequence around them, at most.
_WAITING: Final = 4096
_NO_TAG: Final = 1 << 32
_REMOVE: Final = Action.REMOVE
_CHUNK: Final = 1 << 20
_LIMITS: Final = ScanLimits()
# Values that are looked into are no longer than this; longer ones are replaced by dummies.
_MAX_VALUE: Final = 16 << 20


class Edit:
    """One file, edited: iterate over it once to get the new file as bytes and as extents of `buffer`.

    `buffer` holds a Part 10 file and stays as it is; a mapping of a file of any size is fine, since pixel data are not
    touched beyond their item headers. Extents count in bytes from the start of `buffer`. A deflated data set is
    inflated within the limits and comes as bytes only, deflated again. Raises BadDicom (when made, or on the way) where
    the file is broken, TooLarge, and BadRequest where a new value cannot be written; what was handed out until then is
    of no use.

    `subject` is what the file said of itself, `sop_class` and `sop_instance` are what it will say; `report` is complete
    at the end.
    """

    def __init__(self, buffer: Buffer, rules: Rules, limits: ScanLimits = _LIMITS) -> None:
        meta = read_file_meta(buffer)
        self.transfer_syntax = meta.transfer_syntax
        self._start = meta.size
        self._deflated = meta.deflated
        if meta.deflated:
            packed = memoryview(buffer)[meta.size :]
            buffer, self._start = inflate_dataset(packed, limits.max_inflated, limits.max_inflate_ratio), 0
        self._buffer = buffer
        self._limits = limits
        self._coding = meta.coding
        self._strict = rules.policy is not None
        self.subject: Subject = read_subject(buffer, self._start, meta.coding, limits)
        self._changes = Changes(rules, self.subject)
        self.report = self._changes.report
        sop_class = self.subject.text(SOP_CLASS) or meta.sop_class
        recode = self._changes.character_set is not None
        self._scope = rules.scope(sop_class, big=meta.coding.big, recode=recode)
        self.sop_class, self.sop_instance = self._changes.identity(self._scope, meta.coding)
        self._splices = Splices(buffer, self._start)
        self._u16, self._u32 = readers(meta.coding)
        mark = Struct(">HH" if meta.coding.big else "<HH").pack
        self._item, self._item_end = mark(0xFFFE, 0xE000), mark(0xFFFE, 0xE00D)
        self._sequence_end = mark(0xFFFE, 0xE0DD)
        self._length = Struct(">I" if meta.coding.big else "<I").pack
        self._pos = self._start
        self._count = 0

    def __iter__(self) -> Iterator[Segment]:
        prefix = file_meta(self.sop_class, self.sop_instance, self.transfer_syntax)
        return self._compressed(prefix) if self._deflated else self._segments(prefix)

    def _compressed(self, prefix: bytes) -> Iterator[bytes]:
        deflater = zlib.compressobj(wbits=-15)
        yield prefix
        size = 0
        source = memoryview(self._buffer)
        for segment in self._segments(b""):
            whole = source[segment.offset :][: segment.length] if isinstance(segment, Extent) else memoryview(segment)
            for at in range(0, len(whole), _CHUNK):
                if packed := deflater.compress(whole[at : at + _CHUNK]):
                    size += len(packed)
                    yield packed
        packed = deflater.flush()
        # PS3.5 A.5: one NUL pads the stream to an even length.
        yield packed + b"\0" * ((size + len(packed)) % 2)

    # -- containers

    def _segments(self, prefix: bytes) -> Iterator[Segment]:
        end = len(self._buffer)
        data = DataSet(self._start, end - self._start, end, self._scope, self._coding, self._changes.text)
        data.length_at = -1
        if self.subject.pixel_representation is not None:
            data.state[PIXEL_REPRESENTATION] = self.subject.pixel_representation
        if term := self._changes.character_set:
            rule = Rule(Action.REPLACE, Value("CS", (term.decode(),)))
            data.additions = sorted([*data.additions, (CHARACTER_SET, rule)], reverse=True, key=lambda each: each[0])
        while True:
            sequence = self._elements(data)
            if sequence is None:
                if data.sequence is None:
                    break
                sequence = data.sequence
                self._close(data, sequence, self._item_end)
            item = self._next_item(sequence)
            if item is None:
                data = sequence.owner
                self._close(sequence, data, self._sequence_end)
            else:
                data = item
            if len(self._splices) > _WAITING:
                self._delimit(data)
                yield from self._splices.segments(prefix)
                prefix = b""
        yield from self._splices.segments(prefix, end=end)

    def _next_item(self, sequence: Sequence) -> DataSet | None:
        """The next item of the sequence, None at its end; `_pos` moves past the header or delimiter."""
        pos = self._pos
        if pos == sequence.end:
            return None
        buffer, bound, owner = self._buffer, sequence.bound, sequence.owner
        if pos + 8 > bound:
            refuse(sequence.tag, pos, f"the sequence has no end: {CUT}")
        mark, length = bytes(buffer[pos : pos + 4]), self._u32(buffer, pos + 4)[0]
        self._pos = pos = pos + 8
        if mark != self._item:
            if mark == self._sequence_end and sequence.end < 0 and length == 0:
                return None
            refuse(sequence.tag, pos - 8, "neither an item nor the delimiter of the sequence")
        sequence.index += 1
        coding = IMPLICIT_LITTLE if is_implicit(buffer, pos, bound, owner.coding) else owner.coding
        scope = owner.scope.child(sequence.tag, sequence.mode, sequence.index)
        item = DataSet(pos, length, bound, scope, coding, owner.text)
        if item.bound > bound:
            refuse(sequence.tag, pos - 8, f"an item ends past its sequence: {CUT}")
        item.enter(sequence)
        return item

    def _close(self, container: Container, around: Container, delimiter: bytes) -> None:
        """At the end of a container: its length as it is now, or its delimiter."""
        grown = container.grown
        if container.delimited:
            grown += self._splices.add(self._pos, self._pos, delimiter + b"\0\0\0\0")
        elif container.length_at >= 0 and grown:
            length = container.end - container.start + grown
            if length >= UNDEFINED:
                raise TooLarge("a sequence would be longer than 4 GiB")
            self._splices.add(container.length_at, container.start, self._length(length))
        around.grown += grown

    def _delimit(self, data: DataSet) -> None:
        """Let everything that is open end by a delimiter, so that what was changed so far can be handed out."""
        container: Container | None = data
        while container is not None:
            if container.length_at >= 0:
                self._splices.add(container.length_at, container.start, b"\xff\xff\xff\xff")
                container.length_at, container.delimited = -1, True
            container = container.owner if isinstance(container, Sequence) else self._around(container)

    @staticmethod
    def _around(container: Container) -> Container | None:
        return container.sequence if isinstance(container, DataSet) else None

    # -- elements

    def _elements(self, data: DataSet) -> Sequence | None:  # noqa: C901, PLR0912, PLR0915 - hot loop
        """Walk the elements of a data set: None at its end, or a sequence in it with `_pos` at its first item."""
        buffer, pos, bound, end, last = self._buffer, self._pos, data.bound, data.end, data.last
        known, coding = data.scope.known, data.coding
        implicit = not coding.explicit
        size = 4 if implicit else 6
        u16, u32 = self._u16, self._u32
        added = data.additions[-1][0] if data.additions else _NO_TAG
        removed = 0
        gone = -1  # where a run of removed elements began
        while pos != end:
            if pos + 8 > bound:
                refuse(max(last, 0), pos, f"an element header is cut, or an item has no end: {CUT}")
            raw = bytes(buffer[pos : pos + size])
            decision = known.get(raw)
            if decision is None:
                if end < 0 and raw[:4] == self._item_end and u32(buffer, pos + 4)[0] == 0:
                    break
                decision = data.scope.decide(raw, heads_of(coding).read(raw, pos))
            tag, long, action, _, _, _ = decision
            if implicit:
                start, length = pos + 8, u32(buffer, pos + 4)[0]
            elif long:
                if pos + 12 > bound:
                    refuse(tag, pos, "an element header is cut: the file is cut")
                start, length = pos + 12, u32(buffer, pos + 8)[0]
            else:
                start, length = pos + 8, u16(buffer, pos + 6)[0]
            if tag <= last:
                refuse(tag, pos, "tags are not in ascending order")
            last = tag
            if action == _REMOVE and length != UNDEFINED and added > tag:
                if gone < 0:
                    gone = pos
                removed += 1
                pos = start + length
                if pos > bound:
                    refuse(tag, start, f"the value ends past its parent: {CUT}")
                continue
            if gone >= 0:
                gone = self._cut(data, gone, pos)
            if added <= tag:
                added = self._insert(data, tag, pos)
            if action or length == UNDEFINED:
                self._count_element(tag)
                self._pos, data.last = pos, last
                found = self._element(data, decision, start, length)
                if found is not None:
                    self.report.actions[Action.REMOVE] += removed
                    return found
                pos = self._pos
                continue
            pos = start + length
            if pos > bound:
                refuse(tag, start, f"the value ends past its parent: {CUT}")
        if gone >= 0:
            self._cut(data, gone, pos)
        if added < _NO_TAG:
            self._insert(data, _NO_TAG, pos)
        self.report.actions[Action.REMOVE] += removed
        # Behind the delimiter of an item that has one; what a container gets in its place stands before it.
        self._pos, data.last = pos if end >= 0 else pos + 8, last
        return None

    def _cut(self, data: DataSet, start: int, stop: int) -> int:
        data.grown += self._splices.add(start, stop, b"")
        return -1

    def _count_element(self, tag: int) -> None:
        self._count += 1
        if self._count > self._limits.max_fg_elements:
            raise TooLarge(f"more than {self._limits.max_fg_elements} elements", attribute=name_of(tag))

    def _insert(self, data: DataSet, tag: int, pos: int) -> int:
        """Insert what stands before `tag`; the tag of what comes next.

        What is there already is no addition, save for the character set, which is removed wherever all text goes over.
        """
        additions = data.additions
        while additions and additions[-1][0] <= tag:
            new, rule = additions.pop()
            if (new < tag or new == CHARACTER_SET) and rule.value is not None:
                value = rule.value if isinstance(rule.value, Value) else rule.value(self.subject)
                data.grown += self._splices.add(pos, pos, self._changes.added(new, value, data.coding, data.text))
        return additions[-1][0] if additions else _NO_TAG

    def _element(self, data: DataSet, decision: Decision, start: int, length: int) -> Sequence | None:
        """An element that is not simply kept: a sequence to walk, or None with `_pos` behind the element."""
        tag, _, action, vr, _, _ = decision
        if action == Action.PRIVATE or not vr or " or " in vr:
            decision = self._resolved(data, decision, start, length)
            action, vr = decision.action, decision.vr
        if action == Action.WALK:
            if self._is_sequence(data, decision, start, length):
                if data.depth >= self._limits.max_depth:
                    refuse(tag, start, f"nested more than {self._limits.max_depth} deep")
                self._pos = start
                return Sequence(data, tag, decision.rule.mode, start, length)
            # Not the sequence that the dictionary says: nobody knows what is in it.
            decision = decision._replace(action=Action.REMOVE if self._strict and length else Action.KEEP, rule=REMOVE)
        stop = self._behind(data, decision, start, length)
        if decision.action == Action.NOTE:
            self._note(data, tag, bytes(self._buffer[start:stop]))
            if tag == CHARACTER_SET and self._changes.character_set is not None:
                data.grown += self._splices.add(self._pos, stop, b"")
        elif decision.action != Action.KEEP:
            if decision.action == Action.RECODE and length > _MAX_VALUE:
                raise TooLarge(f"{name_of(tag)}: too long to be converted into another character set")
            readable = length <= _MAX_VALUE and decision.action not in {Action.REMOVE, Action.CLEAR, Action.REPLACE}
            raw = bytes(self._buffer[start:stop]) if readable else b""
            new = self._changes.changed(decision, raw, data.coding, data.text)
            if new != self._buffer[self._pos : stop]:
                self.report.actions[decision.action] += 1
                data.grown += self._splices.add(self._pos, stop, new)
        self._pos = stop
        return None

    def _behind(self, data: DataSet, decision: Decision, start: int, length: int) -> int:
        tag, head = decision.tag, decision.head
        if length != UNDEFINED:
            stop = start + length
            if stop > data.bound:
                refuse(tag, start, f"the value ends past its parent: {CUT}")
            return stop
        if has_fragments(head.vr, head.kind) and data.coding.explicit:
            return skip_fragments(self._buffer, start, data.bound, tag, self._limits.max_frames)
        coding = data.coding if head.vr == "SQ" else IMPLICIT_LITTLE
        return skip_sequence(self._buffer, start, data.bound, coding, tag, data.depth, self._limits)

    def _is_sequence(self, data: DataSet, decision: Decision, start: int, length: int) -> bool:
        """Whether there are items to walk: also in a sequence that is encoded as UN, or private and implicit."""
        head = decision.head
        if length == UNDEFINED:
            return not has_fragments(head.vr, head.kind)
        if head.kind == SEQUENCE:
            return True
        if head.vr not in {"UN", ""} or length < 8 or data.coding.big:
            return False
        return self._buffer[start : start + 4] == self._item

    def _resolved(self, data: DataSet, decision: Decision, start: int, length: int) -> Decision:
        """The decision once the private creator and what decides an ambiguous VR are known."""
        tag, vr = decision.tag, decision.head.vr
        if vr in {"UN", ""}:
            try:
                vr = resolve(tag, length, data.state, explicit=data.coding.explicit).vr
            except Unsure:
                vr = "US"
        if length == UNDEFINED and vr == "UN":
            vr = "SQ"
        if decision.action != Action.PRIVATE:
            return decision._replace(vr=vr)
        creator = data.state.get((tag & 0xFFFF0000) | (tag & 0xFFFF) >> 8, "")
        if is_creator(tag):
            creator = bytes(self._buffer[start : start + min(length, 64)]).decode("latin-1").strip(" \0")
            data.state[tag] = creator
        rule = data.scope.private(tag, vr, str(creator))
        return decision._replace(action=rule.action, vr=vr, rule=rule)

    def _note(self, data: DataSet, tag: int, raw: bytes) -> None:
        """Remember a value that decides how elements further down in the data set are read."""
        if tag == PIXEL_REPRESENTATION:
            if len(raw) >= 2:
                data.state[tag] = self._u16(raw, 0)[0]
        elif data.sequence is not None:
            data.text = self._changes.coding_of(raw)
