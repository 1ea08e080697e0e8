"""Fuzz of the receive path: whatever comes, in whatever pieces, an association ends or goes on."""

import asyncio
import random
import struct
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_primitives import C_FIND

from dimse_bridge.messages import Assembler
from dimse_bridge.service import Entry
from dimse_bridge.upper_layer import AssociateRequest, Fragment, State, UpperLayer
from dimse_bridge.violation import Violation
from tests.dimse import wire
from tests.dimse.serving import Sink, acceptor
from tests.dimse.wire import CT, EXPLICIT_LE, STUDY_ROOT_FIND, VERIFICATION

pytestmark = pytest.mark.filterwarnings("ignore")  # as in the DIMSE processes
REQUEST = wire.associate_rq({1: (CT, [EXPLICIT_LE]), 3: (STUDY_ROOT_FIND, [EXPLICIT_LE]), 5: (VERIFICATION, ["1.2"])})
COMMANDS = [
    wire.echo_rq(),
    wire.store_rq(CT, "1.2.3"),
    wire.find_rq(),
    wire.cancel_rq(),
    wire.command(t0100=wire.us(0x8001), t0120=wire.us(1), t0800=wire.us(0x0101), t0900=wire.us(0)),
]
values = st.builds(
    wire.pdv,
    st.sampled_from([1, 3, 5, 7]),
    st.integers(0, 3),
    st.one_of(st.sampled_from(COMMANDS), st.binary(max_size=40)),
)
pdus = st.one_of(
    st.builds(wire.pdu, st.integers(0, 9), st.binary(max_size=60)),
    st.builds(lambda parts: wire.pdu(4, b"".join(parts)), st.lists(values, min_size=1, max_size=4)),
    st.just(wire.pdu(5, bytes(4))),
)


def receive(pieces: list[bytes]) -> None:
    """Only a Violation may come out; what is held is bounded."""
    layer, assembler = UpperLayer(4096, 4096), Assembler(500, 500, 500)
    assembler.contexts = {1, 3}
    try:
        for piece in pieces:
            for event in layer.receive(piece):
                if isinstance(event, AssociateRequest):
                    layer.state = State.ESTABLISHED
                elif isinstance(event, Fragment):
                    assembler.take(event)
    except Violation:
        pass
    assert len(layer._carry) <= 4096
    assert len(assembler._command_set) + len(assembler._data_set) < 500 + 4096


@given(st.lists(pdus, max_size=6), st.binary(max_size=30), st.lists(st.integers(0, 400), max_size=4))
def test_sequences_of_pdus(sequence, rest, cuts):
    data = REQUEST + b"".join(sequence) + rest
    edges = [0, *sorted(cuts), len(data)]
    receive([data[a:b] for a, b in pairwise(edges)])


def mutated(chance: random.Random) -> bytes:
    """A whole conversation with a few bytes changed, inserted, left out or repeated."""
    store = wire.pdu(4, wire.pdv(1, 3, wire.store_rq(CT, "1.2.3")) + wire.pdv(1, 2, bytes(100)))
    find = wire.pdu(4, wire.pdv(3, 3, wire.find_rq(message=2)) + wire.pdv(3, 2, b"x" * 30))
    parts = [REQUEST, store, find, wire.pdu(4, wire.pdv(3, 3, wire.cancel_rq(2))), wire.pdu(5, bytes(4))]
    if chance.random() < 0.3:
        chance.shuffle(parts)
    data = bytearray(b"".join(parts))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randrange(1, 20)]
            case 2:
                data[at:at] = chance.randbytes(chance.randrange(1, 20))
            case _:
                data[at : at + 4] = struct.pack(">I", chance.choice([0, 1, 2, 0x7FFF, 0xFFFF, 0xFFFFFFFF]))
    return bytes(data)


@pytest.mark.full
def test_100_000_mutations():
    chance = random.Random(42)
    for _ in range(100_000):
        data = mutated(chance)
        edges = sorted({0, len(data), *(chance.randrange(len(data)) for _ in range(chance.randrange(4)))})
        receive([data[a:b] for a, b in pairwise(edges)])


async def converse(port: int, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(10):
            while await reader.read(65_536):
                pass
    except ConnectionError:
        pass
    finally:
        writer.close()


async def fuzz(count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Mutations on real connections; crashes of ours would be in the log."""

    async def find(exchange):
        await exchange.respond(0xFF00, identifier=b"x")
        await exchange.respond(0)

    chance, sink = random.Random(7), Sink()
    async with acceptor({(C_FIND, STUDY_ROOT_FIND): Entry(find, "find")}, sink) as port:
        for _ in range(count // 16):
            await asyncio.gather(*(converse(port, mutated(chance)) for _ in range(16)))
        await converse(port, REQUEST + wire.pdu(5, bytes(4)))
    for event in ("association-failed", "connection-failed", "request-failed", "Exception"):
        assert event not in caplog.text
    assert sink.stored  # some got through


async def test_mutations_on_connections(caplog):
    await fuzz(320, caplog)


@pytest.mark.full
async def test_10_000_mutations_on_connections(caplog):
    await fuzz(10_000, caplog)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_association_requests_of_rubbish(insertion, at, value):
    from dimse_bridge import negotiation
    from dimse_bridge.contexts import STORAGE_CLASSES, Supported

    data = bytearray(REQUEST[:at] + insertion + REQUEST[at:])
    data[min(at, len(data) - 1)] = value
    try:
        request = negotiation.parse(bytes(data))
    except Violation:
        return
    negotiation.accept(request, Supported(STORAGE_CLASSES, {STUDY_ROOT_FIND}), 16_384, confirm_user=False)
