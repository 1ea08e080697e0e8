"""Which instance a data set says it is, read from its first elements without decoding the rest (PS3.5 chapter 7)."""

import struct
import zlib
from typing import Final

from dicomweb.errors import IdentityMismatch
from dimse_bridge.contexts import DEFLATED_LE, EXPLICIT_BE, IMPLICIT_LE

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_ENDS: Final = (0xFFFEE00D, 0xFFFEE0DD)  # of an item, of a sequence
_UNDEFINED: Final = 0xFFFFFFFF
_LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
HEAD_SIZE: Final = 16 << 10  # the two UIDs come before anything large
_MAX_DEPTH: Final = 8


class _Unclear(Exception):
    """The head is cut or odd: the checked scan of the whole file will say what is wrong with it."""


def check_identity(head: bytes, transfer_syntax: str, sop_class: str, sop_instance: str) -> None:
    """Raise IdentityMismatch when a data set that begins with `head` has other UIDs than its C-STORE (0xA900)."""
    if transfer_syntax == DEFLATED_LE:
        try:
            head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, HEAD_SIZE)
        except zlib.error:
            return
    reader = _Reader(head, implicit=transfer_syntax == IMPLICIT_LE, big=transfer_syntax == EXPLICIT_BE)
    found: dict[int, str] = {}
    try:
        pos = 0
        while len(found) < 2:
            tag, start, length = reader.element(pos)
            if tag > _SOP_INSTANCE:
                break
            pos = reader.end(start, length, 0)
            if tag in (_SOP_CLASS, _SOP_INSTANCE):
                found[tag] = head[start:pos].rstrip(b"\0 ").decode("ascii", "replace")
    except _Unclear:
        return
    for tag, expected, name in (
        (_SOP_CLASS, sop_class, "SOPClassUID"),
        (_SOP_INSTANCE, sop_instance, "SOPInstanceUID"),
    ):
        if found.get(tag, expected) != expected:
            raise IdentityMismatch(f"{name} of the data set differs from the C-STORE's", attribute=name)


class _Reader:
    """Element headers in one encoding."""

    def __init__(self, data: bytes, *, implicit: bool, big: bool) -> None:
        self._data = data
        self._implicit = implicit
        self._order = ">" if big else "<"

    def element(self, pos: int) -> tuple[int, int, int]:
        """Tag, where the value starts, and its length."""
        group, number = self._unpack("HH", pos)
        tag = group << 16 | number
        if self._implicit or group == 0xFFFE:
            return tag, pos + 8, self._unpack("I", pos + 4)[0]
        if self._data[pos + 4 : pos + 6] in _LONG_VRS:
            return tag, pos + 12, self._unpack("I", pos + 8)[0]
        return tag, pos + 8, self._unpack("H", pos + 6)[0]

    def end(self, start: int, length: int, depth: int) -> int:
        """Where the value ends; one of undefined length is walked."""
        if length != _UNDEFINED:
            return start + length
        if depth > _MAX_DEPTH:
            raise _Unclear
        while True:
            tag, start, length = self.element(start)
            if tag in _ENDS:
                return start
            start = self.end(start, length, depth + 1)

    def _unpack(self, form: str, pos: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + form, self._data, pos)
        except struct.error:
            raise _Unclear from None
