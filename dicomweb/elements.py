"""The walk over a data set's own elements: the hot loop of ingest.

A series repeats almost all its elements, so an element that has been seen costs one lookup of its raw bytes, and a run
of such elements one comparison (`memo`). Pixel data is not touched beyond its item headers.
"""

from typing import Final, cast

from dicomweb.charset import DEFAULT, Codecs
from dicomweb.dictionary import PIXEL_REPRESENTATION, Need, State
from dicomweb.errors import TooLarge
from dicomweb.frames import Fragments
from dicomweb.memo import AVAILABLE, MAX_RAW, RECENT, VOLATILE, Context, Entry, Memo
from dicomweb.metadata import MetadataBuilder
from dicomweb.pixelinfo import PixelElement
from dicomweb.structure import (
    GROUP_LENGTH,
    NOTED,
    PIXELS,
    PLAIN,
    SEQUENCE,
    SPECIFIC_CHARACTER_SET,
    UNDEFINED,
    Buffer,
    Coding,
    Head,
    ScanLimits,
    heads_of,
    readers,
    refuse,
    walk_fragments,
)
from dicomweb.values import BINARY_VRS, TEXT_BULK, render
from dicomweb.walker import Scope, Walker

# Shared and Per-frame Functional Groups: never among the elements that are indexed.
FUNCTIONAL_GROUPS: Final = frozenset((0x52009229, 0x52009230))
_SOP_INSTANCE_UID: Final = 0x00080018
_PAST_THE_END: Final = "the value ends past the end of the file: the file is cut or a length is wrong"
_EXTENDED_OFFSETS: Final = 0x7FE00001
_EXTENDED_LENGTHS: Final = 0x7FE00002
# Data Set Trailing Padding (PS3.10 7.2) fills a block of a medium; a larger one hides something.
_PADDING: Final = 0xFFFCFFFC
_MAX_PADDING: Final = 128 * 1024
# A data set with more new elements than this is no image header, and must not push what series repeat out of the memo.
_MEMORABLE: Final = 5000
# Never alike in two instances, of effect beyond their own text, or not what the metadata say.
_NOT_KEPT: Final = frozenset(
    (_SOP_INSTANCE_UID, SPECIFIC_CHARACTER_SET, AVAILABLE, _EXTENDED_OFFSETS, _EXTENDED_LENGTHS)
)


def _holds(needs: tuple[Need, ...], state: State) -> bool:
    return all(state.get(key) == value for key, value in needs)


class ElementWalk:
    """One walk. Without `values` it checks the structure and finds bulk values, and `elements` has only the tags."""

    def __init__(
        self,
        buffer: Buffer,
        start: int,
        coding: Coding,
        limits: ScanLimits,
        walker: Walker,
        memo: Memo,
        builder: MetadataBuilder,
    ) -> None:
        # Slices of a mapping are bytes, and those of a memoryview compare and hash like bytes.
        self.buffer = cast("bytes", buffer)
        self.start = start
        self.end = len(buffer)
        self.coding = coding
        self.limits = limits
        self.walker = walker
        self.values = walker.values
        self.memo = memo
        self.codecs: Codecs = DEFAULT
        self.state: State = {}
        self.elements: dict[str, bytes] = {}
        self.builder = builder
        self.pixel: PixelElement | None = None
        self.pixel_start = self.pixel_end = self.end
        self.offset_tables: dict[int, bytes] = {}
        self.context = self._context()

    def _context(self) -> Context:
        if not self.values:
            return Context(0)
        key = (self.limits.max_depth, self.limits.bulk_threshold)
        context = self.memo.context(self.coding.explicit, self.codecs, key)
        context.begin()
        return context

    def walk(self) -> None:  # noqa: C901, PLR0912, PLR0915 - one loop: a call for each element would double its cost
        """All elements in order: what has been seen before here, everything else in `_learn`."""
        buffer, pos, end = self.buffer, self.start, self.end
        implicit = not self.coding.explicit
        u16, u32 = readers(self.coding)
        heads = heads_of(self.coding)
        known_heads, head_size = heads.known, 4 if implicit else 6
        state, elements, parts = self.state, self.elements, self.builder.parts
        context = self.context
        known, learnt, now = context.known, context.learnt, context.scans
        last, count = -1, 0
        streak: list[Entry] = []
        streak_start = pos
        while pos < end:
            if pos + 8 > end:
                refuse(max(last, 0), pos, "an element header is cut, or there are bytes after the last element")
            raw = buffer[pos : pos + head_size]
            head = known_heads.get(raw) or heads.read(bytes(raw), pos)
            tag = head.tag
            if implicit:
                start, length = pos + 8, u32(buffer, pos + 4)[0]
            elif head.long:
                if pos + 12 > end:
                    refuse(tag, pos, "an element header is cut: the file is cut")
                start, length = pos + 12, u32(buffer, pos + 8)[0]
            else:
                start, length = pos + 8, u16(buffer, pos + 6)[0]
            if tag <= last:
                refuse(tag, pos, "tags are not in ascending order")
            if length <= MAX_RAW:
                raw = buffer[pos : start + length]
                entry = known.get(raw) or context.recall(raw)
            else:
                entry = context.find_unmeasured(buffer, pos) if length == UNDEFINED else None
            if entry is None or (entry.needs and not _holds(entry.needs, state)):
                if streak:
                    context.offer(buffer[streak_start:pos], streak)
                    streak = []
                if head.kind == PLAIN and length < TEXT_BULK and self.values:
                    pos = self._learn_plain(head, pos, start, start + length)
                else:
                    pos = self._learn(head, pos, start, length)
                    context = self.context
                known, learnt, now = context.known, context.learnt, context.scans
                last = tag
                continue
            for run in entry.runs:
                if buffer[pos : pos + run.size] == run.raw and (not run.needs or _holds(run.needs, state)):
                    if streak:
                        context.offer(buffer[streak_start:pos], streak)
                        streak = []
                    parts.append(run)
                    elements.update(run.elements)
                    state.update(run.sets)
                    pos, last, count = pos + run.size, run.last, count + run.count
                    break
            else:
                if now - entry.met > RECENT:
                    learnt[tag] = learnt.get(tag, 0) + 1
                entry.met = now
                if learnt.get(tag, 0) >= VOLATILE:
                    if streak:
                        context.offer(buffer[streak_start:pos], streak)
                        streak = []
                else:
                    if not streak:
                        streak_start = pos
                    streak.append(entry)
                if entry.text:
                    parts.append(entry.text)
                    elements[entry.key] = entry.text
                if entry.sets:
                    state.update(entry.sets)
                pos, last, count = pos + len(entry.raw), tag, count + entry.count
        if streak:
            context.offer(buffer[streak_start:pos], streak)
        self.walker.count += count
        self._check_count()

    def _check_count(self) -> None:
        if self.walker.count > self.limits.max_elements:
            raise TooLarge(f"more than {self.limits.max_elements} elements (max_elements)")

    def _learn_plain(self, head: Head, pos: int, start: int, stop: int) -> int:
        """As `_learn`, for the common case: a short value that is neither a sequence nor binary."""
        if stop > self.end:
            refuse(head.tag, pos, _PAST_THE_END)
        walker, key = self.walker, head.key
        walker.count += 1
        if walker.count > self.limits.max_elements:
            self._check_count()
        notes = walker.notes.count
        raw = bytes(self.buffer[pos:stop])
        text = head.member + render(key, head.vr, raw[start - pos :], self.codecs, walker.notes)
        self.builder.parts.append(text)
        self.elements[key] = text
        if head.tag == _SOP_INSTANCE_UID:
            walker.sop_uid = raw[start - pos :].decode("latin-1").strip(" \0")
        elif (
            notes == walker.notes.count
            and len(raw) <= MAX_RAW
            and walker.count < _MEMORABLE
            and head.tag not in _NOT_KEPT
        ):
            self.context.keep(raw, Entry(raw, head.tag, key, text, 1, (), None))
        return stop

    def _learn(self, head: Head, pos: int, start: int, length: int) -> int:
        """An element that was not seen before; the offset behind it."""
        tag, kind = head.tag, head.kind
        walker = self.walker
        counted, bulk, notes = walker.count, len(walker.bulk), walker.notes.count
        walker.count += 1
        self._check_count()
        if kind == PIXELS:
            return self._pixels(head, pos, start, length)
        sequence = kind == SEQUENCE or (length == UNDEFINED and head.vr in {"UN", ""})
        if sequence and tag in FUNCTIONAL_GROUPS and self.values:
            return self._functional_groups(head, start, length)
        if sequence:
            text, needs, stop = self._sequence(head, start, length)
        elif length == UNDEFINED:
            stop = self._fragments(head, start)[1]
            size = stop - 8 - start
            text, needs = head.member + walker.bulk_value(head.key, head.vr, start, size, encapsulated=True), ()
        else:
            stop = start + length
            if stop > self.end:
                refuse(tag, pos, _PAST_THE_END)
            text, needs = self._value(head, start, length)
        self._add(head.key, text)
        repeatable = bulk == len(walker.bulk) and notes == walker.notes.count and self.values
        if repeatable and stop - pos <= MAX_RAW and tag not in _NOT_KEPT and counted < _MEMORABLE:
            raw = bytes(self.buffer[pos:stop])
            sets = {tag: self.state[tag]} if kind == NOTED and tag in self.state else None
            entry = Entry(raw, tag, head.key, text, walker.count - counted, needs, sets)
            if length == UNDEFINED:
                self.context.keep_unmeasured(entry)
            else:
                self.context.keep(raw, entry)
        return stop

    def _add(self, key: str, text: bytes) -> None:
        if text:
            self.builder.parts.append(text)
            self.elements[key] = text

    def _sequence(self, head: Head, start: int, length: int) -> tuple[bytes, tuple[Need, ...], int]:
        """The JSON member of a sequence, what it rests on, and the offset behind it."""
        walker = self.walker
        walker.inherited = False
        out = [head.member]
        stop = walker.sequence(head, start, length, self.end, self._scope(), out)
        return b"".join(out), self._inherited(), stop

    def _scope(self) -> Scope:
        return Scope(self.codecs, self.state, not self.coding.explicit)

    def _inherited(self) -> tuple[Need, ...]:
        if not self.walker.inherited:
            return ()
        return ((PIXEL_REPRESENTATION, self.state.get(PIXEL_REPRESENTATION)),)

    def _fragments(self, head: Head, start: int) -> tuple[Fragments, int]:
        """Fragments where a value without a length is; only binary values of explicit data sets may have none."""
        if head.vr not in BINARY_VRS or not self.coding.explicit:
            refuse(head.tag, start, "a value without a length")
        return walk_fragments(self.buffer, start, self.end, head.tag, self.limits.max_frames)

    def _value(self, head: Head, start: int, length: int) -> tuple[bytes, tuple[Need, ...]]:
        """The JSON member of an element of defined length, and what it rests on."""
        tag, key, member, vr, _, kind = head
        walker = self.walker
        needs: tuple[Need, ...] = ()
        if kind == GROUP_LENGTH:
            # PS3.18 F.2.2: not in the JSON model.
            return b"", needs
        if not vr or (vr == "UN" and not self.coding.big):
            vr, needs = walker.resolved(head, length, self.state, explicit=self.coding.explicit)
            if vr == "SQ":
                walker.inherited = False
                text = walker.opaque_sequence(head, start, length, self._scope())
                if text is not None:
                    return member + text, needs + self._inherited()
                vr = "UN"
        if tag == _PADDING and length > _MAX_PADDING:
            refuse(tag, start, f"more than {_MAX_PADDING} bytes of padding")
        if tag in {_EXTENDED_OFFSETS, _EXTENDED_LENGTHS} and length <= 8 * self.limits.max_frames:
            self.offset_tables[tag] = bytes(self.buffer[start : start + length])
        if walker.is_bulk(vr, length):
            return member + walker.bulk_value(key, vr, start, length), needs
        raw = bytes(self.buffer[start : start + length])
        if kind == NOTED:
            walker.take_note(tag, vr, raw, self.codecs, self.state)
            if tag == SPECIFIC_CHARACTER_SET:
                self.codecs = walker.charset(raw, start)
                self.context = self._context()
        if tag == _SOP_INSTANCE_UID:
            walker.sop_uid = raw.decode("latin-1").strip(" \0")
        return member + walker.value(key, vr, raw, self.codecs), needs

    def _pixels(self, head: Head, pos: int, start: int, length: int) -> int:
        """Pixel data: noted, never read; always bulk data."""
        fragments: Fragments | None = None
        stop = start + length
        vr = head.vr or "OW"  # Implicit VR: PS3.5 A.1
        if length == UNDEFINED:
            fragments, stop = self._fragments(head, start)
            length = stop - 8 - start
        elif stop > self.end:
            refuse(head.tag, start, "pixel data ends past the end of the file: the file is cut")
        if length:
            text = self.walker.bulk_value(head.key, vr, start, length, encapsulated=fragments is not None)
        else:
            text = render(head.key, vr, b"", self.codecs, self.walker.notes)
        self._add(head.key, head.member + text)
        self.pixel = PixelElement(head.tag, vr, start, length, fragments)
        self.pixel_start, self.pixel_end = pos, stop
        return stop

    def _functional_groups(self, head: Head, start: int, length: int) -> int:
        """A functional group sequence: straight into the compressor, under its own limit of elements."""
        sink = self.builder.stream()
        walker = self.walker
        counted, walker.count, walker.max_elements = walker.count, 0, self.limits.max_fg_elements

        def drain(out: list[bytes]) -> None:
            sink.write(b"".join(out))
            out.clear()

        out = [head.member]
        stop = walker.sequence(head, start, length, self.end, self._scope(), out, drain)
        drain(out)
        walker.count, walker.max_elements = counted, self.limits.max_elements
        return stop
