"""The scanner: one checked pass over a DICOM file (PS3.10 chapter 7) -> attributes, finished DICOM JSON, frame table, bulk data table.

This is the hot loop of ingest. A series repeats almost all its elements, so an element that has been seen costs one lookup of its raw
bytes, and a run of such elements one comparison (`memo`). Pixel data is never touched beyond its item headers: the buffer may be a
mapped file of any size.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final
from zlib import crc32

from dicomweb import json_model
from dicomweb.bulk import BulkTable, bulk_uri
from dicomweb.charset import DEFAULT, Codecs, codecs_for
from dicomweb.deflate import DeflatedJson, Deflater, deflate, inflate_dataset, stored
from dicomweb.dictionary import PIXEL_REPRESENTATION, Need, State, Unsure, resolve
from dicomweb.errors import BadDicom, TooLarge
from dicomweb.frames import Fragments, FrameTable
from dicomweb.memo import MAX_RAW, Context, Entry, Memo, Piece, Run
from dicomweb.meta import FileMeta, read_file_meta
from dicomweb.pixelinfo import PixelElement, PixelInfo, describe_pixels, refuse_if_cut
from dicomweb.structure import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    GROUP_LENGTH,
    IMPLICIT_LITTLE,
    LOOKUP,
    NOTED,
    PIXELS,
    SEQUENCE,
    SPECIFIC_CHARACTER_SET,
    UNDEFINED,
    UNKNOWN,
    Buffer,
    Coding,
    Head,
    ScanLimits,
    Walker,
    heads_of,
    refuse,
    walk_fragments,
)
from dicomweb.tags import keyword_of
from dicomweb.uids import is_uid
from dicomweb.values import BINARY_VRS, TEXT_BULK, bulk_reference, first_text, render

FUNCTIONAL_GROUPS: Final = frozenset((0x52009229, 0x52009230))
FUNCTIONAL_GROUP_KEYS: Final = ("52009229", "52009230")
_DEFLATED: Final = frozenset(
    ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
)
_IMPLICIT: Final = "1.2.840.10008.1.2"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_U16, _U32 = Struct("<H").unpack_from, Struct("<I").unpack_from
_B16, _B32 = Struct(">H").unpack_from, Struct(">I").unpack_from
# First bytes of a sequence without a length, by which a known one is found again.
_PROBE: Final = 64
SOP_INSTANCE_UID: Final = 0x00080018
_OFFSET_TABLES: Final = frozenset((0x7FE00001, 0x7FE00002))
# Never alike in two instances, or of effect beyond their own text.
_NOT_KEPT: Final = frozenset((SOP_INSTANCE_UID, SPECIFIC_CHARACTER_SET)) | _OFFSET_TABLES


@dataclass(frozen=True, slots=True)
class Scan:
    """What ingest needs to know of one instance. Offsets count from the start of the file, for `deflated` files from the start of
    the inflated data set."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    transfer_syntax: str
    meta_size: int
    elements: dict[str, bytes]
    metadata: DeflatedJson
    frames: FrameTable | None
    pixel: PixelInfo | None
    bulk: BulkTable
    fallback: str | None
    warnings: tuple[str, ...]
    deflated: bool = False


def scan(
    buffer: Buffer, limits: ScanLimits = ScanLimits(), *, version: str = "", memo: Memo | None = None
) -> Scan:
    """Check and describe the DICOM file in `buffer`, which is read only and in one piece.

    `version` goes into bulk data URIs; `memo` is what earlier scans with the same limits have learnt. Time is linear in the header;
    memory is a small multiple of it. Raises BadDicom, which names the attribute, or TooLarge.
    """
    if isinstance(buffer, memoryview) and not buffer.readonly:
        buffer = buffer.toreadonly()
    meta = read_file_meta(buffer)
    coding = EXPLICIT_LITTLE
    if meta.transfer_syntax == _IMPLICIT:
        coding = IMPLICIT_LITTLE
    elif meta.transfer_syntax == _BIG_ENDIAN:
        coding = EXPLICIT_BIG
    start = meta.size
    deflated = meta.transfer_syntax in _DEFLATED
    if deflated:
        packed = memoryview(buffer)[meta.size :]
        buffer, start = inflate_dataset(packed, limits.max_inflated, limits.max_inflate_ratio), 0
    scanner = _Scanner(buffer, start, coding, meta, limits, version, memo or Memo())
    reason = "big endian" if coding.big else None
    try:
        scanner.walk()
    except Unsure as unsure:
        reason = str(unsure)
        scanner = _Scanner(buffer, start, coding, meta, limits, version, Memo(), values=False)
        scanner.walk()
    if reason is not None:
        scanner.ask_pydicom()
    return scanner.finish(reason, deflated=deflated)


def _holds(needs: tuple[Need, ...], state: State) -> bool:
    return all(state.get(key) == value for key, value in needs)


class _Scanner:
    """One scan. `parts` is the JSON in order: members and runs of members."""

    def __init__(
        self, buffer: Buffer, start: int, coding: Coding, meta: FileMeta, limits: ScanLimits, version: str, memo: Memo,
        *, values: bool = True,
    ) -> None:
        self.buffer = buffer
        self.start = start
        self.end = len(buffer)
        self.coding = coding
        self.meta = meta
        self.limits = limits
        self.memo = memo
        self.values = values and not coding.big
        self.walker = Walker(buffer, limits, coding, meta.sop_uid, version, values=self.values)
        self.codecs: Codecs = DEFAULT
        self.state: State = {}
        self.elements: dict[str, bytes] = {}
        self.parts: list[bytes | Run] = []
        self.sink: Deflater | None = None
        self.pixel: PixelElement | None = None
        self.pixel_start = self.pixel_end = self.end
        self.offset_tables: dict[int, bytes] = {}
        self.context = self._context()

    def _context(self) -> Context:
        if not self.values:
            return Context(0)
        return self.memo.context(self.coding.explicit, self.codecs, (self.limits.max_depth, self.limits.bulk_threshold))

    def walk(self) -> None:
        """The data set's own elements, in order: what has been seen before here, everything else in `_learn`."""
        buffer, pos, end = self.buffer, self.start, self.end
        implicit = not self.coding.explicit
        u16, u32 = (_B16, _B32) if self.coding.big else (_U16, _U32)
        heads = heads_of(self.coding)
        known_heads, head_size = heads.known, 4 if implicit else 6
        state, parts, elements, known = self.state, self.parts, self.elements, self.context.known
        last, count = -1, 0
        streak: list[Entry] = []
        streak_start = pos
        while pos < end:
            if pos + 8 > end:
                refuse(max(last, 0), pos, "an element header is cut, or there are bytes after the last element")
            raw_head = bytes(buffer[pos : pos + head_size])
            head = known_heads.get(raw_head) or heads.read(raw_head, pos)
            tag, key = head.tag, head.key
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
                entry = known.get(raw) or self.context.recall(raw)  # type: ignore[call-overload,arg-type]
            else:
                entry = self._recall_unmeasured(known, pos) if length == UNDEFINED else None
            if entry is None or (entry.needs and not _holds(entry.needs, state)):
                if len(streak) > 1:
                    self.context.offer(bytes(buffer[streak_start:pos]), streak)
                streak = []
                pos = self._learn(head, pos, start, length)
                known = self.context.known
                last = tag
                continue
            for run in entry.runs:
                if buffer[pos : pos + run.size] == run.raw and (not run.needs or _holds(run.needs, state)):
                    if len(streak) > 1:
                        self.context.offer(bytes(buffer[streak_start:pos]), streak)
                    streak = []
                    parts.append(run)
                    elements.update(run.elements)
                    pos, last = pos + run.size, run.last
                    count += run.count
                    state.update(run.sets)
                    break
            else:
                if not streak:
                    streak_start = pos
                streak.append(entry)
                if entry.text:
                    parts.append(entry.text)
                    elements[key] = entry.text
                pos, last = pos + len(entry.raw), tag
                count += entry.count
                if entry.sets:
                    state.update(entry.sets)
        if len(streak) > 1:
            self.context.offer(bytes(buffer[streak_start:pos]), streak)
        self.walker.count += count
        self._check_count()

    def _check_count(self) -> None:
        if self.walker.count > self.limits.max_elements:
            raise TooLarge(f"more than {self.limits.max_elements} elements")

    def _recall_unmeasured(self, known: dict[bytes, Entry], pos: int) -> Entry | None:
        """What is known of an element without a length, by its first bytes: the walk of equal bytes ends in the same place."""
        entry = known.get(bytes(self.buffer[pos : pos + _PROBE]))
        if entry is not None and self.buffer[pos : pos + len(entry.raw)] == entry.raw:
            return entry
        return None

    def _learn(self, head: Head, pos: int, start: int, length: int) -> int:
        """An element that was not seen before; the offset behind it."""
        tag, kind, vr = head.tag, head.kind, head.vr
        walker = self.walker
        before = walker.count, len(walker.bulk), len(walker.notes)
        walker.count += 1
        self._check_count()
        stop = start + length
        needs: tuple[Need, ...] = ()
        if kind == PIXELS:
            self.pixel_start = pos
            return self._pixels(head, start, length)
        if kind == SEQUENCE or (length == UNDEFINED and vr in ("UN", "")):
            if tag in FUNCTIONAL_GROUPS and self.values:
                return self._functional_groups(head, start, length)
            walker.inherited = False
            out = [head.member]
            stop = walker.sequence(
                start, length, self.end, head.key, self.codecs, self.state, out, implicit=not self.coding.explicit
            )
            text = b"".join(out)
            if walker.inherited:
                needs = ((PIXEL_REPRESENTATION, self.state.get(PIXEL_REPRESENTATION)),)
        elif length == UNDEFINED:
            if vr not in BINARY_VRS or not self.coding.explicit:
                refuse(tag, pos, "a value without a length")
            _, stop = walk_fragments(self.buffer, start, self.end, tag, self.limits.max_frames)
            text = head.member + walker.bulk_member(head.key, vr, start, stop - 8 - start, encapsulated=True)
        elif stop > self.end:
            refuse(tag, pos, "the value ends past the end of the file: the file is cut or a length is wrong")
        else:
            text, needs = self._value(head, start, length)
        if text:
            self.parts.append(text)
            self.elements[head.key] = text
        unchanged = before[1] == len(walker.bulk) and before[2] == len(walker.notes)
        if unchanged and stop - pos <= MAX_RAW and tag not in _NOT_KEPT and self.values:
            raw = bytes(self.buffer[pos:stop])
            sets = {tag: self.state[tag]} if kind == NOTED and tag in self.state else None
            entry = Entry(raw, tag, head.key, text, walker.count - before[0], needs, sets)
            self.context.keep(raw[:_PROBE] if length == UNDEFINED else raw, entry)
        return stop

    def _value(self, head: Head, start: int, length: int) -> tuple[bytes, tuple[Need, ...]]:
        """The JSON member of an element of defined length, and what it rests on."""
        tag, key, member, vr, _, kind = head
        walker = self.walker
        needs: tuple[Need, ...] = ()
        if kind == GROUP_LENGTH:
            # PS3.18 F.2.2: not in the JSON model.
            return b"", needs
        if not vr or (vr == "UN" and not self.coding.big):
            vr, needs = resolve(tag, length, self.state, explicit=self.coding.explicit)
            if vr == "SQ":
                text = walker.opaque_sequence(start, length, key, self.codecs, self.state, 1)
                if text is not None:
                    return member + text, (*needs, (PIXEL_REPRESENTATION, self.state.get(PIXEL_REPRESENTATION)))
                vr = "UN"
        if tag in _OFFSET_TABLES and length <= 8 * self.limits.max_frames:
            self.offset_tables[tag] = bytes(self.buffer[start : start + length])
        if length > (self.limits.bulk_threshold if vr in BINARY_VRS else TEXT_BULK - 1):
            if not walker.sop_uid:
                refuse(tag, start, "a bulk value before the SOP Instance UID")
            return member + walker.bulk_member(key, vr, start, length), needs
        raw = bytes(self.buffer[start : start + length])
        if kind == NOTED:
            walker.take_note(tag, vr, raw, self.codecs, self.state)
            if tag == SPECIFIC_CHARACTER_SET:
                self.codecs = codecs_for(raw, walker.notes)
                self.context = self._context()
        elif tag == SOP_INSTANCE_UID:
            walker.sop_uid = raw.decode("latin-1").strip(" \0")
        return member + render(key, vr, raw, self.codecs, walker.notes) if self.values else member, needs

    def ask_pydicom(self) -> None:
        """Let pydicom make the JSON of what the walk has accepted; bulk values stay as the walk found them."""
        bulk = {entry.path: bulk_reference(entry.vr, bulk_uri(self.walker.sop_uid, entry.path, self.walker.version)) for entry in self.walker.bulk}
        data = bytes(self.buffer[self.start : self.pixel_start]) + bytes(self.buffer[self.pixel_end : self.end])
        rendered = json_model.members(data, self.coding, bulk, self.walker.notes)
        for key in self.elements:
            self.elements[key] = b'"%s":%s' % (key.encode(), bulk.get(key) or rendered[key])
        self.parts = list(self.elements.values())

    def _pixels(self, head: Head, start: int, length: int) -> int:
        """Pixel data: noted, never read."""
        vr = head.vr or "OW"
        fragments: Fragments | None = None
        stop = start + length
        if length == UNDEFINED:
            if not self.coding.explicit or vr not in BINARY_VRS:
                refuse(head.tag, start, "pixel data without a length")
            fragments, stop = walk_fragments(self.buffer, start, self.end, head.tag, self.limits.max_frames)
            length = stop - 8 - start
        elif stop > self.end:
            refuse(head.tag, start, "pixel data ends past the end of the file: the file is cut")
        if not self.walker.sop_uid:
            refuse(head.tag, start, "pixel data before the SOP Instance UID")
        text = head.member + (
            self.walker.bulk_member(head.key, vr, start, length, encapsulated=fragments is not None)
            if length
            else render(head.key, vr, b"", self.codecs, self.walker.notes)
        )
        self.parts.append(text)
        self.elements[head.key] = text
        self.pixel = PixelElement(head.tag, vr, start, length, fragments)
        self.pixel_end = stop
        return stop

    def _functional_groups(self, head: Head, start: int, length: int) -> int:
        """A functional group sequence: straight into the compressor, under its own limit of elements."""
        sink = self._open_sink()
        walker = self.walker
        counted, walker.count, walker.max_elements = walker.count, 0, self.limits.max_fg_elements

        def drain(out: list[bytes]) -> None:
            sink.write(b"".join(out))
            out.clear()

        out = [head.member]
        stop = walker.sequence(
            start,
            length,
            self.end,
            head.key,
            self.codecs,
            self.state,
            out,
            implicit=not self.coding.explicit,
            drain=drain,
        )
        drain(out)
        walker.count, walker.max_elements = counted, self.limits.max_elements
        return stop

    def _open_sink(self) -> Deflater:
        """The compressor, with all that came before in it and ready for another member."""
        texts = [part if isinstance(part, bytes) else part.text for part in self.parts]
        self.parts.clear()
        if self.sink is None:
            self.sink = Deflater()
            self.sink.write(b"{" + b",".join(texts) + (b"," if texts else b""))
        else:
            self.sink.write(b",".join([b"", *texts, b""]))
        return self.sink

    def metadata(self) -> DeflatedJson:
        """The JSON object, compressed: from the pieces of known runs where these are most of it, else in one go."""
        if self.sink is not None:
            texts = [part if isinstance(part, bytes) else part.text for part in self.parts]
            self.sink.write(b",".join([b"", *texts]) + b"}")
            return self.sink.finish()
        repeated = single = 0
        for part in self.parts:
            if isinstance(part, Run):
                repeated += len(part.text)
            else:
                single += len(part)
        if repeated > single:
            return self._assembled()
        return deflate(b"{" + b",".join([p if isinstance(p, bytes) else p.text for p in self.parts]) + b"}")

    def _assembled(self) -> DeflatedJson:
        data: list[bytes] = []
        literal: list[bytes] = []
        crc = length = 0
        before: Piece | None = None
        gap = 0
        lead = b"{"
        for part in self.parts:
            if isinstance(part, Run):
                if literal:
                    text = b"".join(literal)
                    literal.clear()
                    crc, gap = crc32(text, crc), len(text)
                    data.append(stored(text))
                before = part.piece(lead, before, gap if before else 0)
                text = before.text
                crc, length = crc32(text, crc), length + gap + len(text)
                data.append(before.data)
                gap = 0
            else:
                literal.append(lead)
                literal.append(part)
            lead = b","
        literal.append(b"}")
        text = b"".join(literal)
        data.append(stored(text))
        return DeflatedJson(b"".join(data), crc32(text, crc), length + len(text))

    def finish(self, fallback: str | None, *, deflated: bool) -> Scan:
        """Check what an instance must have, describe its pixels and compress its metadata."""
        sop_class, sop_uid = self._uid("00080016"), self._uid("00080018")
        study, series = self._uid("0020000D"), self._uid("0020000E")
        if self.meta.sop_uid and self.meta.sop_uid != sop_uid:
            raise BadDicom(
                "the file meta information names another SOP Instance UID than the data set",
                attribute="MediaStorageSOPInstanceUID",
            )
        warnings = [*self.meta.warnings]
        if self.meta.sop_class and self.meta.sop_class != sop_class:
            warnings.append("the file meta information names another SOP Class UID than the data set")
        pixel: PixelInfo | None = None
        frames: FrameTable | None = None
        if self.pixel is not None:
            tables = self.offset_tables
            extended = (tables[0x7FE00001], tables[0x7FE00002]) if len(tables) == 2 else None
            pixel, frames, notes = describe_pixels(
                self.buffer, self.pixel, self.elements, self.meta.transfer_syntax, extended, self.limits.max_frames
            )
            warnings += notes
        elif notice := refuse_if_cut(sop_class, self.elements):
            warnings.append(notice)
        metadata = self.metadata()
        warnings += sorted(self.walker.notes)
        for key in FUNCTIONAL_GROUP_KEYS:
            self.elements.pop(key, None)
        return Scan(
            sop_class,
            sop_uid,
            study,
            series,
            first_text(self.elements.get("00100020")),
            self.meta.transfer_syntax,
            self.meta.size,
            self.elements,
            metadata,
            frames,
            pixel,
            BulkTable.of(self.walker.bulk),
            fallback,
            tuple(warnings),
            deflated,
        )

    def _uid(self, key: str) -> str:
        """The value of a UID that an instance must have."""
        text = self.elements.get(key)
        if text is None:
            raise BadDicom(f"{keyword_of(key)} is missing", attribute=keyword_of(key))
        value = first_text(text)
        if not is_uid(value):
            raise BadDicom(f"{keyword_of(key)} is not a valid UID", attribute=keyword_of(key))
        return value
