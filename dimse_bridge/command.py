"""Command sets (PS3.7 6.3 and annex E): bytes, elements, and the primitives of pynetdicom."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from pynetdicom.dimse_primitives import (
    C_ECHO,
    C_FIND,
    C_GET,
    C_MOVE,
    C_STORE,
    N_ACTION,
    N_CREATE,
    N_DELETE,
    N_EVENT_REPORT,
    N_GET,
    N_SET,
    DIMSEPrimitive,
)

from dimse_bridge.violation import Violation


class Field(IntEnum):
    """Values of Command Field (0000,0100): requests."""

    C_STORE = 0x0001
    C_GET = 0x0010
    C_FIND = 0x0020
    C_MOVE = 0x0021
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_GET = 0x0110
    N_SET = 0x0120
    N_ACTION = 0x0130
    N_CREATE = 0x0140
    N_DELETE = 0x0150
    C_CANCEL = 0x0FFF


class Tag(IntEnum):
    """Numbers of the elements of group 0000 that are needed by name."""

    GROUP_LENGTH = 0x0000
    AFFECTED_CLASS = 0x0002
    REQUESTED_CLASS = 0x0003
    FIELD = 0x0100
    MESSAGE_ID = 0x0110
    RESPONDED_TO = 0x0120
    MOVE_DESTINATION = 0x0600
    PRIORITY = 0x0700
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    AFFECTED_INSTANCE = 0x1000
    REQUESTED_INSTANCE = 0x1001
    EVENT_TYPE = 0x1002
    ACTION_TYPE = 0x1008


_RESPONSE: Final = 0x8000
_NO_DATA_SET: Final = 0x0101
_DATA_SET: Final = 0x0001

# PS3.7 table E.1-1: keyword, element number, value representation.
_ELEMENTS: Final[dict[str, tuple[int, str]]] = {
    "AffectedSOPClassUID": (Tag.AFFECTED_CLASS, "UI"),
    "RequestedSOPClassUID": (Tag.REQUESTED_CLASS, "UI"),
    "MessageID": (Tag.MESSAGE_ID, "US"),
    "MessageIDBeingRespondedTo": (Tag.RESPONDED_TO, "US"),
    "MoveDestination": (Tag.MOVE_DESTINATION, "AE"),
    "Priority": (Tag.PRIORITY, "US"),
    "Status": (Tag.STATUS, "US"),
    "OffendingElement": (0x0901, "AT"),
    "ErrorComment": (0x0902, "LO"),
    "ErrorID": (0x0903, "US"),
    "AffectedSOPInstanceUID": (Tag.AFFECTED_INSTANCE, "UI"),
    "RequestedSOPInstanceUID": (Tag.REQUESTED_INSTANCE, "UI"),
    "EventTypeID": (Tag.EVENT_TYPE, "US"),
    "AttributeIdentifierList": (0x1005, "AT"),
    "ActionTypeID": (Tag.ACTION_TYPE, "US"),
    "NumberOfRemainingSuboperations": (0x1020, "US"),
    "NumberOfCompletedSuboperations": (0x1021, "US"),
    "NumberOfFailedSuboperations": (0x1022, "US"),
    "NumberOfWarningSuboperations": (0x1023, "US"),
    "MoveOriginatorApplicationEntityTitle": (0x1030, "AE"),
    "MoveOriginatorMessageID": (0x1031, "US"),
}

_PRIMITIVES: Final[dict[int, type[DIMSEPrimitive]]] = {
    Field.C_STORE: C_STORE,
    Field.C_GET: C_GET,
    Field.C_FIND: C_FIND,
    Field.C_MOVE: C_MOVE,
    Field.C_ECHO: C_ECHO,
    Field.N_EVENT_REPORT: N_EVENT_REPORT,
    Field.N_GET: N_GET,
    Field.N_SET: N_SET,
    Field.N_ACTION: N_ACTION,
    Field.N_CREATE: N_CREATE,
    Field.N_DELETE: N_DELETE,
}
_FIELDS: Final = {kind: field for field, kind in _PRIMITIVES.items()}

_COMPOSITE: Final = frozenset({Tag.MESSAGE_ID, Tag.AFFECTED_CLASS})
_NORMALISED: Final = frozenset({Tag.MESSAGE_ID, Tag.REQUESTED_CLASS, Tag.REQUESTED_INSTANCE})
# What a request cannot do without (PS3.7 9.3 and 10.3). A missing Priority is forgiven.
_MANDATORY: Final[dict[int, frozenset[Tag]]] = {
    Field.C_STORE: _COMPOSITE | {Tag.AFFECTED_INSTANCE},
    Field.C_GET: _COMPOSITE,
    Field.C_FIND: _COMPOSITE,
    Field.C_MOVE: _COMPOSITE | {Tag.MOVE_DESTINATION},
    Field.C_ECHO: _COMPOSITE,
    Field.N_EVENT_REPORT: _COMPOSITE | {Tag.AFFECTED_INSTANCE, Tag.EVENT_TYPE},
    Field.N_GET: _NORMALISED,
    Field.N_SET: _NORMALISED,
    Field.N_ACTION: _NORMALISED | {Tag.ACTION_TYPE},
    Field.N_CREATE: _COMPOSITE,
    Field.N_DELETE: _NORMALISED,
    Field.C_CANCEL: frozenset({Tag.RESPONDED_TO}),
}


@dataclass(frozen=True, slots=True)
class Command:
    """A decoded command set: its field, and the values by element number."""

    field: int
    has_data_set: bool
    values: Mapping[int, bytes]

    @property
    def is_response(self) -> bool:
        """Whether this answers a request."""
        return bool(self.field & _RESPONSE)

    @property
    def message_id(self) -> int:
        """The message ID of a request; of a response or a cancel, that of the request that it belongs to."""
        return self.number(Tag.RESPONDED_TO if self.is_response or self.field == Field.C_CANCEL else Tag.MESSAGE_ID)

    def number(self, tag: int) -> int:
        """A value of VR US; raises Violation where it is none."""
        value = self.values.get(tag, b"")
        if len(value) != 2:
            raise Violation(f"element (0000,{tag:04X}) of the command set is not a number")
        return int.from_bytes(value, "little")

    def text(self, tag: int) -> str:
        """A value of VR UI or AE without its padding; bytes that are not ASCII become U+FFFD."""
        return self.values.get(tag, b"").decode("ascii", "replace").rstrip("\0 ")


def decode(data: bytes | bytearray) -> Command:
    """The command set in `data`, which is complete (Implicit VR Little Endian). Raises Violation."""
    values: dict[int, bytes] = {}
    pos, end = 0, len(data)
    while pos + 8 <= end:
        group, number, length = struct.unpack_from("<HHI", data, pos)
        pos += 8
        if group != 0 or length > end - pos:
            raise Violation("the command set cannot be decoded")
        values[number] = bytes(data[pos : pos + length])
        pos += length
    if pos != end or len(values.get(Tag.FIELD, b"")) != 2:
        raise Violation("the command set cannot be decoded")
    field = int.from_bytes(values[Tag.FIELD], "little")
    command = Command(field, int.from_bytes(values.get(Tag.DATA_SET_TYPE, b""), "little") != _NO_DATA_SET, values)
    if command.is_response:
        required: Iterable[Tag] = (Tag.RESPONDED_TO, Tag.STATUS)
    elif field in _MANDATORY:
        required = _MANDATORY[field]
    else:
        raise Violation("the command is none of PS3.7")
    for tag in required:
        if not values.get(tag):
            raise Violation(f"the command set lacks the mandatory element (0000,{tag:04X})")
    return command


def primitive_of(command: Command) -> DIMSEPrimitive:
    """The primitive for a request or a response, without its data set. Raises Violation for a value that is none.

    A response is without UIDs: they are those of the request, and to check them again takes the most time of all this.
    """
    kind = _PRIMITIVES.get(command.field & ~_RESPONSE)
    if kind is None:
        raise Violation("the command is none of PS3.7")
    primitive = kind()
    for keyword, (tag, vr) in _ELEMENTS.items():
        value = command.values.get(tag)
        if value and not (vr == "UI" and command.is_response) and hasattr(primitive, keyword):
            try:
                setattr(primitive, keyword, _decoded(value, vr))
            except (ValueError, TypeError, struct.error) as exc:
                raise Violation(f"the command set has an invalid {keyword}") from exc
    return primitive


def encode(field: int, values: Mapping[int, bytes], *, has_data_set: bool) -> bytes:
    """A command set; `values` without the group length, the field and the data set type."""
    complete = dict(values)
    complete[Tag.FIELD] = struct.pack("<H", field)
    complete[Tag.DATA_SET_TYPE] = struct.pack("<H", _DATA_SET if has_data_set else _NO_DATA_SET)
    body = b"".join(
        struct.pack("<HHI", 0, number, len(complete[number])) + complete[number] for number in sorted(complete)
    )
    return struct.pack("<HHII", 0, Tag.GROUP_LENGTH, 4, len(body)) + body


def request_of(primitive: DIMSEPrimitive, message_id: int, *, has_data_set: bool) -> bytes:
    """A request of ours; the primitive's own message ID does not count."""
    named = {keyword: getattr(primitive, keyword, None) for keyword in _ELEMENTS}
    named |= {"MessageID": message_id, "MessageIDBeingRespondedTo": None, "Status": None}
    return encode(_FIELDS[type(primitive)], encoded(named), has_data_set=has_data_set)


def store_request(message_id: int, sop_class: str, sop_instance: str, priority: int) -> bytes:
    """A C-STORE-RQ of ours (PS3.7 9.3.1.1)."""
    values: dict[int, bytes] = {
        Tag.AFFECTED_CLASS: _encoded(sop_class, "UI"),
        Tag.MESSAGE_ID: _encoded(message_id, "US"),
        Tag.PRIORITY: _encoded(priority, "US"),
        Tag.AFFECTED_INSTANCE: _encoded(sop_instance, "UI"),
    }
    return encode(Field.C_STORE, values, has_data_set=True)


def response_to(request: Command, status: int, elements: Mapping[str, Any], *, has_data_set: bool) -> bytes:
    """The response to `request` with its UIDs and message ID; `elements` come by their keyword."""
    values = {
        Tag.AFFECTED_CLASS: request.values.get(Tag.AFFECTED_CLASS) or request.values.get(Tag.REQUESTED_CLASS, b""),
        Tag.RESPONDED_TO: request.values[Tag.MESSAGE_ID],
        Tag.STATUS: struct.pack("<H", status),
    }
    instance = request.values.get(Tag.AFFECTED_INSTANCE) or request.values.get(Tag.REQUESTED_INSTANCE)
    if instance:
        values[Tag.AFFECTED_INSTANCE] = instance
    for tag in (Tag.EVENT_TYPE, Tag.ACTION_TYPE):
        if tag in request.values:
            values[tag] = request.values[tag]
    return encode(request.field | _RESPONSE, values | encoded(elements), has_data_set=has_data_set)


def encoded(elements: Mapping[str, Any]) -> dict[int, bytes]:
    """Values by keyword as values by element number; those that are None are left out. Raises KeyError."""
    return {
        tag: _encoded(value, vr)
        for (tag, vr), value in ((_ELEMENTS[keyword], value) for keyword, value in elements.items())
        if value is not None
    }


def _decoded(value: bytes, vr: str) -> object:
    if vr == "US":
        return struct.unpack("<H", value)[0]
    if vr == "AT":
        numbers = struct.unpack(f"<{len(value) // 2}H", value)
        return [group << 16 | element for group, element in zip(numbers[::2], numbers[1::2], strict=True)]
    return value.decode("ascii", "replace").strip("\0 ")


def _encoded(value: Any, vr: str) -> bytes:
    if vr == "US":
        return struct.pack("<H", value)
    if vr == "AT":
        tags = [int(value)] if isinstance(value, int) else [int(each) for each in value]
        return b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in tags)
    data = str(value).encode("ascii", "replace")
    return data + (b"\0" if vr == "UI" else b" ") * (len(data) % 2)
