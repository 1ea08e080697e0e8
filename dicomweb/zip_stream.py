"""A ZIP file as a stream whose every byte follows from names, sizes and dates, save the checksums (APPNOTE 6.3.10).

Members are deflated in stored blocks (RFC 1951 3.2.4): images do not get much smaller, and a member that tells its
checksum only behind its bytes can be read from a stream when it is deflated, not when it is merely stored (APPNOTE
4.4.4, bit 3). So the length of the whole, and where each member lies, is known before any of them is read.
"""

import struct
import zlib
from array import array
from collections.abc import Sequence
from typing import Final

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_CRC_AT: Final = 16  # in a record of the central directory
_END: Final = struct.Struct("<4sHHHHIIH")
_END64: Final = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64: Final = struct.Struct("<4sIQI")
_DESCRIPTOR: Final = struct.Struct("<4sIII")
_DESCRIPTOR64: Final = struct.Struct("<4sIQQ")

_FLAGS: Final = 0x0808  # sizes behind the bytes; names in UTF-8
_DEFLATED: Final = 8
_VERSION: Final = 20
_VERSION64: Final = 45
_UNIX: Final = 3 << 8
_MODE: Final = 0o100644 << 16
_MAX32: Final = 0xFFFFFFFF
_MAX16: Final = 0xFFFF
_BLOCK: Final = 0xFFFF
_LAST_BLOCK: Final = b"\x01\x00\x00\xff\xff"

Moment = tuple[int, int, int, int, int, int]
# The first that a ZIP file can tell.
EPOCH: Final[Moment] = (1980, 1, 1, 0, 0, 0)


class ZipStream:
    """Begin a member, add its bytes, end it; `take` gives what is ready to be sent. Not for several threads at once.

    `position` is the number of bytes up to where the last member ends, or the directory; `members` how many there are.
    One that is only `measured` keeps no directory, however many members are passed over: it has a `total`, no end.
    """

    def __init__(self, *, measured: bool = False) -> None:
        self.position = self.members = 0
        self.waiting = 0  # bytes that `take` would give
        self._ready: list[bytes | memoryview] = []
        self._measured = measured
        self._directory = bytearray()
        self._directory_size = 0
        self._records = array("Q")
        self._member: _Member | None = None

    def begin(self, name: str, size: int | None, moment: Moment = EPOCH) -> None:
        """The next member; `size` bytes where that is known."""
        self._member = member = _Member(name.encode(), size, moment, self.position)
        self._put(member.head())

    def add(self, chunk: bytes) -> None:
        """Bytes of the member. Raises ValueError where they are more than was said."""
        member = self._member
        assert member is not None
        member.crc = zlib.crc32(chunk, member.crc)
        view, at = memoryview(chunk), 0
        while at < len(view):
            if member.block == 0:
                left = len(view) - at if member.size is None else member.size - member.done
                if left == 0:
                    raise ValueError("a member of a ZIP file is longer than was said")
                member.block = min(left, _BLOCK)
                self._put(struct.pack("<BHH", 0, member.block, member.block ^ _BLOCK))
            piece = view[at : at + member.block]
            at += len(piece)
            member.block -= len(piece)
            member.done += len(piece)
            self._put(piece)

    def end(self) -> int:
        """The member is complete; its CRC-32. Raises ValueError where it is shorter than was said."""
        member, self._member = self._member, None
        assert member is not None
        if member.size not in (None, member.done):
            raise ValueError("a member of a ZIP file is shorter than was said")
        self._put(_LAST_BLOCK)
        packed = self.position - member.offset - member.head_size
        self._put(member.descriptor(packed))
        self._record(member, packed)
        return member.crc

    def skip(self, name: str, size: int, moment: Moment = EPOCH) -> int:
        """Pass over a member whose bytes are not wanted; its number, for `set_crc`."""
        member = _Member(name.encode(), size, moment, self.position)
        member.done = size
        packed = packed_size(size)
        self.position += member.head_size + packed + member.descriptor_size
        self._record(member, packed)
        return self.members - 1

    def room(self, name: str, size: int) -> int:
        """Bytes that a member of this name and size takes where it lies."""
        member = _Member(name.encode(), size, EPOCH, self.position)
        return member.head_size + packed_size(size) + member.descriptor_size

    def set_crc(self, number: int, crc: int) -> None:
        """The CRC-32 of a member that was passed over."""
        struct.pack_into("<I", self._directory, self._records[number] + _CRC_AT, crc)

    @property
    def total(self) -> int:
        """Bytes of the whole file, were it closed now."""
        return self.position + self._directory_size + sum(map(len, self._end()))

    def close(self) -> None:
        """Write the directory. `position` stays where it begins."""
        for piece in (bytes(self._directory), *self._end()):
            self._ready.append(piece)
            self.waiting += len(piece)

    def take(self) -> bytes:
        """Everything that was written since the last time."""
        joined = b"".join(self._ready)
        self._ready.clear()
        self.waiting = 0
        return joined

    def _put(self, data: bytes | memoryview) -> None:
        self._ready.append(data)
        self.waiting += len(data)
        self.position += len(data)

    def _record(self, member: "_Member", packed: int) -> None:
        record = member.record(packed)
        if not self._measured:
            self._records.append(self._directory_size)
            self._directory += record
        self._directory_size += len(record)
        self.members += 1

    def _end(self) -> Sequence[bytes]:
        count, size, offset = self.members, self._directory_size, self.position
        end = _END.pack(
            b"PK\5\6", 0, 0, min(count, _MAX16), min(count, _MAX16), min(size, _MAX32), min(offset, _MAX32), 0
        )
        if count < _MAX16 and size < _MAX32 and offset < _MAX32:
            return (end,)
        end64 = _END64.pack(
            b"PK\6\6", _END64.size - 12, _UNIX | _VERSION64, _VERSION64, 0, 0, count, count, size, offset
        )
        return end64, _LOCATOR64.pack(b"PK\6\7", 0, offset + size, 1), end


def packed_size(size: int) -> int:
    """Bytes that `size` bytes take as stored blocks, the empty last one included."""
    return size + len(_LAST_BLOCK) * (-(-size // _BLOCK) + 1)


class _Member:
    """The member at hand. `done`: bytes of it so far; `block`: bytes that its open block lacks."""

    def __init__(self, name: bytes, size: int | None, moment: Moment, offset: int) -> None:
        self.size = size
        self.offset = offset
        self.crc = self.done = self.block = 0
        self._name = name
        year, month, day, hour, minute, second = moment
        self._date = (year - 1980) << 9 | month << 5 | day
        self._time = hour << 11 | minute << 5 | second >> 1
        # One of unknown size may become a long one.
        self._long = size is None or packed_size(size) >= _MAX32

    def head(self) -> bytes:
        """What comes before the bytes."""
        extra = struct.pack("<HHQQ", 1, 16, 0, 0) if self._long else b""
        sizes = _MAX32 if self._long else 0
        version = _VERSION64 if self._long else _VERSION
        fixed = (b"PK\3\4", version, _FLAGS, _DEFLATED, self._time, self._date, 0, sizes, sizes)
        return _LOCAL.pack(*fixed, len(self._name), len(extra)) + self._name + extra

    @property
    def head_size(self) -> int:
        return _LOCAL.size + len(self._name) + (20 if self._long else 0)

    def descriptor(self, packed: int) -> bytes:
        """What comes behind the bytes."""
        form = _DESCRIPTOR64 if self._long else _DESCRIPTOR
        return form.pack(b"PK\7\x08", self.crc, packed, self.done)

    @property
    def descriptor_size(self) -> int:
        return (_DESCRIPTOR64 if self._long else _DESCRIPTOR).size

    def record(self, packed: int) -> bytes:
        """What the directory says of it."""
        numbers = (self.done, packed, self.offset)
        over = [each for each in numbers if each >= _MAX32]
        extra = struct.pack(f"<HH{len(over)}Q", 1, 8 * len(over), *over) if over else b""
        done, packed, offset = (min(each, _MAX32) for each in numbers)
        version = _VERSION64 if self._long or over else _VERSION
        fixed = (b"PK\1\2", _UNIX | version, version, _FLAGS, _DEFLATED, self._time, self._date, self.crc, packed, done)
        return _CENTRAL.pack(*fixed, len(self._name), len(extra), 0, 0, 0, _MODE, offset) + self._name + extra
