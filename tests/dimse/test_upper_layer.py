"""The protocol without a socket: whatever the cuts, the same events; whatever the bytes, events or a violation."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimse_bridge.command import Field, decode
from dimse_bridge.messages import Assembler, Fragmenter, Message, StoreBegins, StoreData, pdus
from dimse_bridge.upper_layer import Abort, AssociateRequest, Fragment, ReleaseRequest, State, UpperLayer
from dimse_bridge.violation import Violation
from tests.dimse import wire
from tests.dimse.wire import CT, EXPLICIT_LE, STUDY_ROOT_FIND, VERIFICATION

MAX_PDU, MAX_REQUEST = 4096, 4096
REQUEST = wire.associate_rq({1: (CT, [EXPLICIT_LE]), 3: (STUDY_ROOT_FIND, [EXPLICIT_LE])})
DATA_SET = bytes(range(256)) * 3
CONVERSATION = b"".join(
    (
        REQUEST,
        wire.pdu(4, wire.pdv(1, 3, wire.echo_rq(1))),
        # The command in three values of one PDU, and the data set with it; the last value is empty.
        wire.pdu(
            4,
            wire.pdv(1, 1, wire.store_rq(CT, "1.2.3", 2)[:7])
            + wire.pdv(1, 1, b"")
            + wire.pdv(1, 3, wire.store_rq(CT, "1.2.3", 2)[7:])
            + wire.pdv(1, 0, DATA_SET[:100])
            + wire.pdv(1, 0, DATA_SET[100:])
            + wire.pdv(1, 2, b""),
        ),
        wire.pdu(4, wire.pdv(3, 3, wire.find_rq(message=3))),
        wire.pdu(4, wire.pdv(3, 0, b"abc")),
        wire.pdu(4, wire.pdv(3, 2, b"de")),
        wire.pdu(4, wire.pdv(3, 3, wire.cancel_rq(3))),
        wire.pdu(5, bytes(4)),
    )
)


def understood(pieces: list[bytes]) -> list[tuple[object, ...]]:
    """What comes out of the bytes: requests and messages whole, data sets of stores put together."""
    layer, assembler = UpperLayer(MAX_PDU, MAX_REQUEST), Assembler(1000, 1000, 1000)
    found: list[tuple[object, ...]] = []
    store = b""
    for piece in pieces:
        for event in layer.receive(piece):
            match event:
                case AssociateRequest(pdu):
                    found.append(("request", pdu))
                    layer.state, assembler.contexts = State.ESTABLISHED, {1, 3}
                case Fragment():
                    match assembler.take(event):
                        case Message(context, command, data):
                            found.append((context, command.field, command.message_id, data))
                        case StoreBegins(context, command):
                            found.append((context, command.field, command.message_id))
                        case StoreData(data, last):
                            store += data
                            if last:
                                found.append(("stored", store))
                case _:
                    found.append((type(event),))
    assert not layer.inside
    assert not assembler.inside
    return found


EXPECTED = [
    ("request", REQUEST),
    (1, Field.C_ECHO, 1, b""),
    (1, Field.C_STORE, 2),
    ("stored", DATA_SET),
    (3, Field.C_FIND, 3, b"abcde"),
    (3, Field.C_CANCEL, 3, b""),
    (ReleaseRequest,),
]


def test_one_byte_at_a_time_and_all_at_once():
    assert understood([CONVERSATION]) == EXPECTED
    assert understood([CONVERSATION[at : at + 1] for at in range(len(CONVERSATION))]) == EXPECTED


def test_cut_in_two_at_every_byte():
    for at in range(len(CONVERSATION)):
        assert understood([CONVERSATION[:at], CONVERSATION[at:]]) == EXPECTED, at


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=20))
def test_cut_anywhere(cuts):
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    assert understood([CONVERSATION[a:b] for a, b in pairwise(edges)]) == EXPECTED


def test_pieces_of_a_data_set_are_views_of_what_came():
    layer = UpperLayer(MAX_PDU, MAX_REQUEST)
    layer.state = State.ESTABLISHED
    data = wire.pdu(4, wire.pdv(1, 0, DATA_SET))
    [fragment] = layer.receive(data)
    assert isinstance(fragment, Fragment)
    assert fragment.data.obj is data


@pytest.mark.parametrize(
    ("state", "data", "reason"),
    [
        (State.EXPECTING, wire.pdu(4, wire.pdv(1, 3, b"x")), 2),
        (State.EXPECTING, wire.pdu(2, bytes(100)), 2),
        (State.EXPECTING, wire.pdu(9, bytes(100)), 1),
        (State.EXPECTING, wire.pdu(1, b"", MAX_REQUEST + 1), 6),
        (State.EXPECTING, wire.pdu(1, b"", 0xFFFFFFFF), 6),
        (State.NEGOTIATING, wire.pdu(4, wire.pdv(1, 3, b"x")), 2),
        (State.ESTABLISHED, REQUEST, 2),
        (State.ESTABLISHED, wire.pdu(4, b"", MAX_PDU + 1), 6),
        (State.ESTABLISHED, wire.pdu(4, b""), 6),
        (State.ESTABLISHED, wire.pdu(5, bytes(5)), 6),
        (State.ESTABLISHED, wire.pdu(4, struct.pack(">IBB", 1, 1, 3)), 6),
        (State.ESTABLISHED, wire.pdu(4, struct.pack(">IBB", 5000, 1, 3) + b"xx"), 6),
        (State.ESTABLISHED, wire.pdu(4, wire.pdv(1, 3, b"x") + b"123"), 6),
        (State.ESTABLISHED, wire.pdu(6, bytes(4)), 2),
    ],
)
def test_violations(state, data, reason):
    layer = UpperLayer(MAX_PDU, MAX_REQUEST)
    layer.state = state
    with pytest.raises(Violation) as caught:
        list(layer.receive(data))
    assert caught.value.reason == reason


def test_an_abort_at_any_time():
    for state in (State.EXPECTING, State.ESTABLISHED):
        layer = UpperLayer(MAX_PDU, MAX_REQUEST)
        layer.state = state
        assert list(layer.receive(wire.pdu(7, bytes(4)))) == [Abort()]


@given(st.binary(max_size=2000), st.integers(16, 500), st.lists(st.integers(0, 2000), max_size=5))
def test_what_is_sent_in_pieces_arrives_whole(data, max_pdu, cuts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    fragmenter = Fragmenter(1, max_pdu)
    streamed = [b"".join(fragmenter.feed(data[a:b])) for a, b in pairwise(edges)] + [b"".join(fragmenter.finish())]
    for sent in (b"".join(streamed), b"".join(pdus(1, data, max_pdu, is_command=False))):
        layer = UpperLayer(max_pdu, 0)
        layer.state = State.ESTABLISHED
        fragments = [event for event in layer.receive(sent) if isinstance(event, Fragment)]
        assert b"".join(fragment.data for fragment in fragments) == data
        assert [fragment.last for fragment in fragments] == [False] * (len(fragments) - 1) + [True]
        assert not layer.inside


def test_bounds_of_a_message():
    assembler = Assembler(100, 100, 100)
    assembler.contexts = {1}
    with pytest.raises(Violation, match="command set is too long"):
        assembler.take(Fragment(1, True, False, memoryview(bytes(101))))
    assembler = Assembler(1000, 100, 100)
    assembler.contexts = {1}
    assembler.take(Fragment(1, True, True, memoryview(wire.find_rq())))
    with pytest.raises(Violation, match="data set of a request is too long"):
        assembler.take(Fragment(1, False, False, memoryview(bytes(101))))


@given(st.binary(max_size=200))
def test_a_command_set_of_rubbish_is_decoded_or_a_violation(data):
    for candidate in (data, wire.echo_rq() + data, wire.element(0, 0x100, wire.us(1)) + data):
        try:
            command = decode(candidate)
        except Violation:
            continue
        assert command.field in (0x0FFF, *Field) or command.is_response


def test_every_field_of_the_wire_is_read():
    command = decode(wire.store_rq(CT, "1.2.3", 77))
    assert (command.field, command.message_id, command.text(0x0002), command.has_data_set) == (1, 77, CT, True)
    assert decode(wire.echo_rq()).text(0x0002) == VERIFICATION
