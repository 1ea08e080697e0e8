"""Frame table: where each frame of an instance is (PS3.3 C.7.6.3.1.8, PS3.5 8.1.1 and A.4).

A record is 12 bytes little endian, u64 offset and u32 length, so that one SQL substring() reads the slice of a request;
record i is at byte 12 * i. Bit 63 of the offset marks a frame that is not contiguous: the other bits are then the place
of its first extent in `overflow`, the length is how many extents it has, and an extent is a record of the plain kind.
Bit 62 marks a frame of packed single bits that does not fill whole bytes (PS3.5 8.1.1): the record covers the bytes
that the frame touches, `bit_span` says which bits.

What a file says about its own frames is believed only as far as the item headers confirm it: a table that lies is
dropped, and a frame whose bytes cannot be told is not in the table. No record ever points at another frame's bytes.
"""

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from dicomweb.errors import CorruptObject, TooLarge

RECORD_SIZE = 12
_RECORD = struct.Struct("<QI")
_FRAGMENTED = 1 << 63
_BITS = 1 << 62
_OFFSET = (1 << 56) - 1
_MAX_EXTENT = 0xFFFFFFFE

Extent = tuple[int, int]
Extents = tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class FrameTable:
    """Offsets count from the start of the file, or of the inflated data set when the transfer syntax is deflated."""

    records: bytes
    overflow: bytes = b""

    @property
    def count(self) -> int:
        """How many frames can be addressed."""
        return len(self.records) // RECORD_SIZE

    def record(self, index: int) -> bytes:
        """The record of 0-based frame `index`."""
        return self.records[RECORD_SIZE * index : RECORD_SIZE * index + RECORD_SIZE]

    def locate(self, index: int) -> Extents:
        """The extents of 0-based frame `index`."""
        return locate(self.record(index), self.overflow)

    def to_bytes(self) -> bytes:
        """The records; `overflow` is kept beside them."""
        return self.records

    @classmethod
    def from_bytes(cls, records: bytes, overflow: bytes = b"") -> "FrameTable":
        """The inverse of `to_bytes`."""
        if len(records) % RECORD_SIZE:
            raise CorruptObject("the frame table is damaged")
        return cls(records, overflow)


def locate(record: bytes, overflow: bytes) -> Extents:
    """(offset, length) of each piece of one frame, in order."""
    if len(record) != RECORD_SIZE:
        raise CorruptObject("the frame table has no such record")
    offset, length = _RECORD.unpack(record)
    if not offset & _FRAGMENTED:
        return ((offset & _OFFSET if offset & _BITS else offset, length),)
    start = offset & ~_FRAGMENTED
    piece = overflow[start : start + RECORD_SIZE * length]
    if len(piece) != RECORD_SIZE * length:
        raise CorruptObject("the overflow list of the frame table is cut")
    return tuple(_RECORD.iter_unpack(piece))


def is_fragmented(record: bytes) -> bool:
    """Whether `locate` needs the overflow list for this record."""
    return bool(record[7] & 0x80)


def bit_span(record: bytes) -> tuple[int, int] | None:
    """(first bit, number of bits) of a frame that does not fill whole bytes; None for all others."""
    offset, length = _RECORD.unpack(record)
    if offset & _FRAGMENTED or not offset & _BITS:
        return None
    first, rest = offset >> 56 & 7, offset >> 59 & 7
    return first, 8 * (length - (first + rest + 7) // 8) + rest


def realign(covering: bytes, first: int, bits: int) -> bytes:
    """A frame of packed single bits from the bytes that its record covers: first pixel in bit 0, zeros at the end."""
    number = int.from_bytes(covering, "little") >> first & ((1 << bits) - 1)
    return number.to_bytes((bits + 7) // 8, "little")


def native_frames(offset: int, size: int, frame_bits: int, count: int, max_frames: int) -> tuple[FrameTable, list[str]]:
    """Frames of `frame_bits` bits, one after the other in a value field of `size` bytes, as far as it holds them."""
    warnings: list[str] = []
    if frame_bits <= 0 or count <= 0:
        return FrameTable(b""), ["the size of a frame is not known"]
    held = min(count, size * 8 // frame_bits)
    if held < count:
        warnings.append(f"pixel data holds {held} of {count} frames")
    elif size * 8 - count * frame_bits > 15:
        warnings.append("pixel data is longer than its frames")
    if held > max_frames:
        raise TooLarge(f"more than {max_frames} frames")
    length = (frame_bits + 7) // 8
    if frame_bits % 8 and held > 1:
        return FrameTable(_packed_records(offset, frame_bits, held)), warnings
    if length > _MAX_EXTENT:
        records, overflow = _records([_split(offset + length * i, length) for i in range(held)])
        return FrameTable(records, overflow), warnings
    pack = _RECORD.pack
    return FrameTable(b"".join([pack(at, length) for at in range(offset, offset + length * held, length)])), warnings


def _packed_records(offset: int, frame_bits: int, count: int) -> bytes:
    records = []
    for start in range(0, frame_bits * count, frame_bits):
        place = _BITS | (frame_bits & 7) << 59 | (start & 7) << 56 | offset + start // 8
        records.append(_RECORD.pack(place, (start + frame_bits + 7) // 8 - start // 8))
    return b"".join(records)


def _split(offset: int, length: int) -> Extents:
    return tuple((at, min(_MAX_EXTENT, offset + length - at)) for at in range(offset, offset + length, _MAX_EXTENT))


def _records(frames: Sequence[Extents]) -> tuple[bytes, bytes]:
    records: list[bytes] = []
    overflow = bytearray()
    for extents in frames:
        if len(extents) == 1:
            records.append(_RECORD.pack(*extents[0]))
        else:
            records.append(_RECORD.pack(_FRAGMENTED | len(overflow), len(extents)))
            overflow += b"".join([_RECORD.pack(*extent) for extent in extents])
    return b"".join(records), bytes(overflow)


@dataclass(frozen=True, slots=True)
class Fragments:
    """The items of encapsulated pixel data.

    `offsets` of their values in the file, `lengths`, and the content of the Basic Offset Table; `base` is the offset of
    the first fragment's item tag, from which both offset tables count.
    """

    base: int
    offsets: "array[int]"
    lengths: "array[int]"
    basic_table: bytes


def encapsulated_frames(
    buffer: "bytes | memoryview | object",
    fragments: Fragments,
    count: int,
    extended: tuple[bytes, bytes] | None,
    *,
    video: bool = False,
) -> tuple[FrameTable, list[str]]:
    """Frames of encapsulated pixel data: by tables that the item headers confirm, else by counting fragments."""
    held = len(fragments.offsets)
    warnings: list[str] = []
    if extended is not None:
        if table := _by_extended_table(fragments, extended, count):
            return table, warnings
        warnings.append("the Extended Offset Table does not fit the fragments")
    if fragments.basic_table:
        if table := _by_basic_table(fragments, count):
            return table, warnings
        warnings.append("the Basic Offset Table does not fit the fragments")
    extents = list(zip(fragments.offsets, fragments.lengths, strict=True))
    if held == 0:
        warnings.append("pixel data has no fragments")
        return FrameTable(b""), warnings
    if count == 1 or video:
        return FrameTable(*_records([tuple(extents)])), warnings
    if held == count:
        return FrameTable(*_records([(extent,) for extent in extents])), warnings
    if held > count and (groups := _by_end_marker(buffer, extents, count)):
        return FrameTable(*_records(groups)), warnings
    warnings.append(f"{held} fragments of pixel data cannot be divided into {count} frames")
    return FrameTable(b""), warnings


def _by_extended_table(fragments: Fragments, extended: tuple[bytes, bytes], count: int) -> FrameTable | None:
    """One fragment a frame (PS3.3 C.7.6.3.1.8).

    The item header has the last word on the length: some writers count the header in.
    """
    if len(extended[0]) != len(extended[1]) or len(extended[0]) != 8 * count:
        return None
    starts, sizes = struct.unpack(f"<{count}Q", extended[0]), struct.unpack(f"<{count}Q", extended[1])
    index = {offset - 8 - fragments.base: i for i, offset in enumerate(fragments.offsets)}
    records: list[bytes] = []
    last = -1
    for start, size in zip(starts, sizes, strict=True):
        at = index.get(start)
        if at is None or start <= last:
            return None
        last = start
        length = fragments.lengths[at]
        if size not in (length, length - 1, length + 8, length + 7):
            return None
        records.append(_RECORD.pack(fragments.offsets[at], size if size == length - 1 else length))
    if len(fragments.offsets) != count:
        return None
    return FrameTable(b"".join(records))


def _by_basic_table(fragments: Fragments, count: int) -> FrameTable | None:
    """Fragments from one offset to the next (PS3.5 A.4); every offset must be that of an item, the first one 0."""
    if len(fragments.basic_table) != 4 * count:
        return None
    starts = struct.unpack(f"<{count}I", fragments.basic_table)
    if starts[0] != 0:
        return None
    groups: list[list[Extent]] = []
    following = 0
    for offset, length in zip(fragments.offsets, fragments.lengths, strict=True):
        start = offset - 8 - fragments.base
        if following < count and start == starts[following]:
            groups.append([])
            following += 1
        elif following < count and start > starts[following]:
            return None
        groups[-1].append((offset, length))
    if following != count:
        return None
    return FrameTable(*_records([tuple(group) for group in groups]))


def _by_end_marker(buffer: object, extents: list[Extent], count: int) -> list[Extents] | None:
    """JPEG family: a frame ends with a fragment whose end holds the marker FF D9; if that gives `count` frames."""
    groups: list[Extents] = []
    frame: list[Extent] = []
    for offset, length in extents:
        frame.append((offset, length))
        tail = bytes(buffer[max(offset, offset + length - 10) : offset + length])  # type: ignore[index]
        if b"\xff\xd9" in tail:
            groups.append(tuple(frame))
            frame = []
    return groups if len(groups) == count and not frame else None
