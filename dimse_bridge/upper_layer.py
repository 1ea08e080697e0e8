"""The upper layer protocol of an association acceptor (PS3.8 chapter 9): bytes in, events out. No socket, no clock.

A PDU that declares more than its kind may have is refused by its header alone. Values of P-DATA-TF are passed on
piece by piece as they come, without copying and without waiting for the end of their PDU.
"""

import struct
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, NamedTuple, TypeAlias

from dimse_bridge.violation import INVALID_VALUE, UNEXPECTED_PDU, UNRECOGNISED_PDU, Violation

_HEADER: Final = 6  # of a PDU
_VALUE_HEADER: Final = 6  # of a presentation data value: length, context, control
_ASSOCIATE_RQ, _ASSOCIATE_AC, _ASSOCIATE_RJ, _DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = range(1, 8)
_SHORT: Final = 4  # the body of A-RELEASE and A-ABORT
_COMMAND, _LAST = 0x01, 0x02  # bits of the message control header (E.2)

RELEASE_RP: Final = struct.pack(">BxII", _RELEASE_RP, _SHORT, 0)


class State(Enum):
    """Where the association is, as far as what the peer may send depends on it."""

    EXPECTING = auto()  # an A-ASSOCIATE-RQ
    NEGOTIATING = auto()  # our answer to it is due
    ESTABLISHED = auto()
    ENDED = auto()


class AssociateRequest(NamedTuple):
    """A whole A-ASSOCIATE-RQ PDU."""

    pdu: bytes


class Fragment(NamedTuple):
    """A piece of a command set or of a data set; `last`: the end of that set."""

    context_id: int
    is_command: bool
    last: bool
    data: memoryview


class ReleaseRequest(NamedTuple):
    """The peer wants to release the association."""


class Abort(NamedTuple):
    """The peer has aborted the association."""


Event: TypeAlias = AssociateRequest | Fragment | ReleaseRequest | Abort


def abort(source: int, reason: int) -> bytes:
    """An A-ABORT PDU; source 0 is the service user, 2 the provider."""
    return struct.pack(">BxIBBBB", _ABORT, _SHORT, 0, 0, source, reason)


def reject(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ PDU (9.3.4)."""
    return struct.pack(">BxIBBBB", _ASSOCIATE_RJ, _SHORT, 0, result, source, reason)


def data_header(context_id: int, length: int, *, is_command: bool, last: bool) -> bytes:
    """What precedes `length` bytes of a fragment in a P-DATA-TF PDU of their own."""
    control = (_COMMAND if is_command else 0) | (_LAST if last else 0)
    return struct.pack(">BxIIBB", _DATA, length + _VALUE_HEADER, length + 2, context_id, control)


class UpperLayer:
    """One association's incoming bytes."""

    def __init__(self, max_pdu: int, max_associate_pdu: int) -> None:
        """Longest P-DATA-TF and A-ASSOCIATE-RQ that are taken, in bytes without their header."""
        self.state = State.EXPECTING
        self.pdus = 0  # how many have begun
        self._max_pdu = max_pdu
        self._max_associate = max_associate_pdu
        self._carry = bytearray()  # of a header, or of a PDU that is taken as a whole
        self._kind = 0  # of the PDU whose body comes; 0 between PDUs
        self._left = 0  # bytes of that PDU to come
        self._value_left = 0  # bytes of the presentation data value to come
        self._value: tuple[int, bool, bool] | None = None  # its context, and what its control header says

    @property
    def inside(self) -> bool:
        """Whether a PDU has begun and not ended."""
        return self._kind != 0 or bool(self._carry)

    def receive(self, data: bytes) -> Iterator[Event]:
        """The events in the next bytes. Raises Violation, after which nothing more may be given.

        To be exhausted before the next call; the state may be changed between two events.
        """
        view, pos, end = memoryview(data), 0, len(data)
        while pos < end:
            if not self._kind:
                if not self._carry:
                    self.pdus += 1
                pos = self._gather(view, pos, _HEADER)
                if len(self._carry) == _HEADER:
                    self._begin()
            elif self._kind == _DATA:
                if self._value is None:
                    pos = self._gather(view, pos, _VALUE_HEADER)
                    if len(self._carry) < _VALUE_HEADER:
                        continue
                    self._begin_value()
                    if self._value_left and pos == end:
                        continue
                piece = view[pos : pos + self._value_left]
                pos += len(piece)
                yield self._piece(piece)
            else:
                pos = self._gather(view, pos, len(self._carry) + self._left)
                if not self._left:
                    yield self._whole()

    def _gather(self, view: memoryview, pos: int, size: int) -> int:
        """Collect up to `size` bytes in all; where the rest begins."""
        piece = view[pos : pos + size - len(self._carry)]
        self._carry += piece
        if self._kind:
            self._left -= len(piece)
        return pos + len(piece)

    def _begin(self) -> None:
        """The header of a PDU is there."""
        kind, length = struct.unpack(">BxI", self._carry)
        self._carry.clear()
        if self.state is State.ESTABLISHED:
            expected = kind in {_DATA, _RELEASE_RQ, _ABORT}
        else:
            expected = kind in {_ASSOCIATE_RQ, _ABORT} and self.state is State.EXPECTING
        if not expected:
            known = _ASSOCIATE_RQ <= kind <= _ABORT
            raise Violation(
                f"a PDU of kind {kind} was not expected" if known else "the PDU is of no known kind",
                UNEXPECTED_PDU if known else UNRECOGNISED_PDU,
            )
        allowed = {_DATA: self._max_pdu, _ASSOCIATE_RQ: self._max_associate}.get(kind, _SHORT)
        least = _VALUE_HEADER if kind == _DATA else _SHORT
        if not least <= length <= allowed:
            raise Violation(f"a PDU of {length} bytes, at most {allowed} are taken", INVALID_VALUE)
        self._kind, self._left = kind, length

    def _begin_value(self) -> None:
        """The header of a presentation data value is there."""
        length, context_id, control = struct.unpack(">IBB", self._carry)
        self._carry.clear()
        self._value_left = length - 2
        if not 0 <= self._value_left <= self._left:
            raise Violation("a presentation data value does not fit into its PDU", INVALID_VALUE)
        self._value = (context_id, bool(control & _COMMAND), bool(control & _LAST))

    def _piece(self, data: memoryview) -> Fragment:
        assert self._value is not None
        context_id, is_command, last = self._value
        self._left -= len(data)
        self._value_left -= len(data)
        if not self._value_left:
            self._value = None
            if not self._left:
                self._kind = 0
            elif self._left < _VALUE_HEADER:
                raise Violation("the rest of a PDU is no presentation data value", INVALID_VALUE)
        return Fragment(context_id, is_command, last and not self._value_left, data)

    def _whole(self) -> Event:
        """A PDU other than P-DATA-TF is complete."""
        kind, self._kind = self._kind, 0
        body = bytes(self._carry)
        self._carry.clear()
        if kind == _ASSOCIATE_RQ:
            self.state = State.NEGOTIATING
            return AssociateRequest(struct.pack(">BxI", kind, len(body)) + body)
        self.state = State.ENDED
        return ReleaseRequest() if kind == _RELEASE_RQ else Abort()
