"""DIMSE messages from fragments and to PDUs (PS3.7 6.3, PS3.8 annex E): no socket, no clock.

The data set of a C-STORE is passed on in pieces; every other one is collected, and has its bound.
"""

from collections.abc import Container, Iterator
from typing import Final, NamedTuple, TypeAlias

from dimse_bridge.command import Command, Field, decode
from dimse_bridge.upper_layer import Fragment, data_header
from dimse_bridge.violation import UNEXPECTED_PDU, Violation

LARGEST_SENT = 128 << 10  # a peer that announces more, or no limit, gets PDUs of this length
SMALLEST_SENT = 128  # a peer that takes less would have us cut answers into crumbs
_OF_COMMITMENT: Final = frozenset((Field.N_ACTION, Field.N_EVENT_REPORT))


class Message(NamedTuple):
    """A complete message, with its encoded data set (empty where there is none, or it was too long)."""

    context_id: int
    command: Command
    data_set: bytes
    too_long: bool = False


class StoreBegins(NamedTuple):
    """The command of a C-STORE; the data set follows."""

    context_id: int
    command: Command


class StoreData(NamedTuple):
    """A piece of the data set of the C-STORE that began; the view is of what was received and may be kept."""

    data: memoryview
    last: bool


Part: TypeAlias = Message | StoreBegins | StoreData


class Assembler:
    """Puts the fragments of one association together."""

    def __init__(self, max_command: int, max_data_set: int, max_action: int) -> None:
        """Bounds in bytes; `max_action` is that of N-ACTION and N-EVENT-REPORT, which are dropped when they are longer.

        Who asks for commitment of too much is told so (PS3.4 J.3.2.1.3); any other one that is too long is a breach.
        """
        self.contexts: Container[int] = ()  # the IDs that were accepted
        self._max_command = max_command
        self._max_data_set = max_data_set
        self._max_action = max_action
        self._command_set = bytearray()
        self._due: tuple[int, Command] | None = None  # its data set is due
        self._data_set = bytearray()
        self._too_long = False

    @property
    def inside(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._due is not None or bool(self._command_set)

    def take(self, fragment: Fragment) -> Part | None:
        """What the fragment completes. Raises Violation."""
        context_id, is_command, last, data = fragment
        if context_id not in self.contexts:
            raise Violation("a fragment is in no accepted presentation context")
        if is_command:
            return self._command(context_id, data, last=last)
        if self._due is None or context_id != self._due[0]:
            raise Violation("a data set came without its command", UNEXPECTED_PDU)
        command = self._due[1]
        if last:
            self._due = None
        if command.field == Field.C_STORE:
            return StoreData(data, last)
        commitment = command.field in _OF_COMMITMENT
        if len(self._data_set) + len(data) <= (self._max_action if commitment else self._max_data_set):
            self._data_set += data
        elif commitment:
            self._too_long = True
        else:
            raise Violation("the data set of a request is too long")
        if not last:
            return None
        message = Message(context_id, command, b"" if self._too_long else bytes(self._data_set), self._too_long)
        self._data_set.clear()
        self._too_long = False
        return message

    def _command(self, context_id: int, data: memoryview, *, last: bool) -> Part | None:
        if self._due is not None:
            raise Violation("a command came while a data set was due", UNEXPECTED_PDU)
        self._command_set += data
        if len(self._command_set) > self._max_command:
            raise Violation("the command set is too long")
        if not last:
            return None
        command = decode(self._command_set)
        self._command_set.clear()
        if command.has_data_set:
            self._due = (context_id, command)
            return StoreBegins(context_id, command) if command.field == Field.C_STORE else None
        if command.field == Field.C_STORE:
            raise Violation("a C-STORE came without a data set")
        return Message(context_id, command, b"")


def pdus(context_id: int, data: bytes, max_pdu: int, *, is_command: bool) -> Iterator[bytes | memoryview]:
    """A whole command set or data set as P-DATA-TF PDUs of at most `max_pdu` bytes, to be sent one after the other."""
    room = max_pdu - 6
    view = memoryview(data)
    for start in range(0, max(len(data), 1), room):
        piece = view[start : start + room]
        yield data_header(context_id, len(piece), is_command=is_command, last=start + room >= len(data))
        yield piece


class Fragmenter:
    """Cuts a data set that comes in pieces of any size into P-DATA-TF PDUs; the last one is known only at the end."""

    def __init__(self, context_id: int, max_pdu: int) -> None:
        self._context_id = context_id
        self._room = max_pdu - 6
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes | memoryview]:
        """The PDUs that are full, and surely not the last."""
        view, pos = memoryview(data), 0
        if self._rest:
            pos = min(self._room - len(self._rest), len(data))
            self._rest += view[:pos]
            if pos == len(data):
                return
            rest, self._rest = bytes(self._rest), bytearray()
            yield self._header(len(rest), last=False)
            yield rest
        while len(data) - pos > self._room:
            yield self._header(self._room, last=False)
            yield view[pos : pos + self._room]
            pos += self._room
        self._rest += view[pos:]

    def finish(self) -> Iterator[bytes | memoryview]:
        """The last PDU."""
        yield self._header(len(self._rest), last=True)
        yield bytes(self._rest)

    def _header(self, length: int, *, last: bool) -> bytes:
        return data_header(self._context_id, length, is_command=False, last=last)
