"""Peers that stop, drip, lie and flood: each is bounded, and the others keep working."""

import contextlib
import socket
import struct
import time

import pytest
from pydicom.uid import generate_uid

from tests.dimse import wire
from tests.dimse.peers import encoded, instance
from tests.dimse.wire import CT, STUDY_ROOT_FIND, VERIFICATION, Wire


def rss(bridge) -> int:
    return sum(process.memory_info().rss for process in bridge.processes())


def threads(bridge) -> int:
    return sum(process.num_threads() for process in bridge.processes())


def descriptors(bridge) -> int:
    return sum(process.num_fds() for process in bridge.processes())


def test_a_huge_pdu_is_refused_by_its_header(bridge):
    before = rss(bridge)
    for head in (wire.pdu(1, b"", 0xFFFFFFFF), wire.pdu(4, b"", 0xFFFFFFFF), wire.pdu(1, b"", 300_000)):
        with Wire(bridge.port) as peer:
            peer.send(head)
            assert sends_until_cut(peer, bytes(1 << 20), 5)
    assert rss(bridge) - before < 16 << 20
    assert bridge.echoes()


def test_a_pdu_longer_than_announced_ends_the_association(bridge):
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        peer.send(wire.pdu(4, b"", (128 << 10) + 1))
        assert peer.closed_within(5)


def test_peers_that_say_nothing_or_drip_keep_nobody_out_and_are_cut(bridge):
    starts = {
        "nothing": b"",
        "part of a header": b"\x01\x00\x00\x00\x00",
        "part of a body": wire.pdu(1, bytes(10), 1000),
    }
    peers = [(name, Wire(bridge.port)) for name in starts for _ in range(40)]
    begin = time.monotonic()
    try:
        for name, peer in peers:
            peer.send(starts[name])
        assert bridge.echoes()
        assert threads(bridge) < 60  # a connection has none of its own
        stopped, endless = Wire(bridge.port), Wire(bridge.port)
        peers += [("half a PDU", stopped), ("endless", endless)]
        assert stopped.associate(CT) == 2
        stopped.send(wire.pdu(4, bytes(100), 5000))
        assert endless.associate(STUDY_ROOT_FIND) == 2
        endless.send(wire.pdu(4, wire.pdv(1, 3, wire.find_rq())))
        assert sends_until_cut(endless, wire.pdu(4, wire.pdv(1, 0, bytes(64_000))), 12)
        assert bridge.echoes()
        for name, peer in peers[:-1]:
            assert peer.closed_within(15), name
        assert time.monotonic() - begin < 20
    finally:
        for _, peer in peers:
            peer.socket.close()


def sends_until_cut(peer: Wire, data: bytes, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            peer.send(data)
            time.sleep(0.02)
    except ConnectionError:
        return True
    return False


STORE = wire.store_rq(CT, "1.2.3.4.5")
NO_DATA_SET = wire.element(0, 0x800, wire.us(0x0101))
VIOLATIONS = {
    "context that was not accepted": wire.pdv(9, 3, wire.echo_rq()),
    "empty value": struct.pack(">IB", 1, 1),
    "no header": struct.pack(">IB", 0, 1),
    "longer than the PDU": struct.pack(">IBB", 5000, 1, 3) + b"xx",
    "data set before its command": wire.pdv(1, 2, b"abcd"),
    "data set in another context": wire.pdv(1, 3, STORE) + wire.pdv(3, 2, b"abcd"),
    "command in the middle of a data set": wire.pdv(1, 3, STORE) + wire.pdv(1, 0, b"ab") + wire.pdv(1, 3, STORE),
    "command that is no command": wire.pdv(1, 3, b"\xff" * 50),
    "empty command": wire.pdv(1, 3, b""),
    "command without a field": wire.pdv(1, 3, wire.command(t0110=wire.us(1), t0800=wire.us(0x0101))),
    "unknown command": wire.pdv(1, 3, wire.command(t0100=wire.us(0x7777), t0110=wire.us(1), t0800=wire.us(0x0101))),
    "event report": wire.pdv(
        1, 3, wire.command(t0002=CT.encode(), t0100=wire.us(0x100), t0110=wire.us(1), t0800=wire.us(0x0101))
    ),
    "a response": wire.pdv(
        1, 3, wire.command(t0100=wire.us(0x8030), t0120=wire.us(1), t0800=wire.us(0x0101), t0900=wire.us(0))
    ),
    "store without an instance": wire.pdv(
        1, 3, wire.command(t0002=CT.encode(), t0100=wire.us(1), t0110=wire.us(1), t0700=wire.us(0), t0800=wire.us(0))
    )
    + wire.pdv(1, 2, b"abcd"),
    "store without a data set": wire.pdv(1, 3, STORE.replace(wire.element(0, 0x800, wire.us(0)), NO_DATA_SET)),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_messages_that_break_the_protocol_end_the_association(bridge, name):
    with Wire(bridge.port) as peer:
        assert peer.associate(CT, VERIFICATION) == 2
        peer.send(wire.pdu(4, VIOLATIONS[name]))
        if name == "store without an instance":
            peer.socket.settimeout(5)
            assert peer.receive()[0] in (0, 4, 7)  # refused by a status, or aborted
        else:
            assert peer.closed_within(8)
    assert bridge.echoes()


def test_stores_that_do_not_wait_for_the_answer_are_served_in_turn(bridge):
    stores = [
        wire.pdu(4, wire.pdv(1, 3, wire.store_rq(CT, f"1.2.3.4.{n}", n)) + wire.pdv(1, 2, b"abcd")) for n in (1, 2, 3)
    ]
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        peer.send(b"".join(stores))
        answers = [peer.answer() for _ in stores]
    assert [int.from_bytes(answer[0x0120], "little") for answer in answers] == [1, 2, 3]
    assert {int.from_bytes(answer[0x0900], "little") for answer in answers} == {0xC000}


def test_a_command_without_end_is_cut(bridge):
    with Wire(bridge.port) as peer:
        assert peer.associate(VERIFICATION) == 2
        peer.data(1, 1, bytes(60_000))
        assert peer.closed_within(8)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(100),
        b"\xff" * 100,
        wire.pdu(9, bytes(20)),
        wire.pdu(1, b"\xff" * 200),
    ],
    ids=["http", "zeros", "ones", "unknown kind", "association request of ones"],
)
def test_what_is_no_dicom_is_closed(bridge, data):
    with Wire(bridge.port) as peer:
        peer.send(data)
        assert peer.closed_within(12)
    assert bridge.echoes()


def test_very_many_contexts_and_encodings(bridge):
    syntaxes = [f"1.2.840.10008.1.2.4.{n}" for n in range(50, 80)]
    with Wire(bridge.port) as peer:
        begin = time.monotonic()
        peer.send(wire.associate_rq(dict.fromkeys(range(1, 256, 2), (CT, syntaxes))))
        kind, body = peer.receive()
        assert kind == 2
        assert time.monotonic() - begin < 3
        assert body.count(b"\x21\x00") >= 128
    with Wire(bridge.port) as peer:
        assert peer.associate(CT, "1.2.3.4.5", "1.2.840.10008.5.1.4.38.1") == 2
        peer.data(3, 3, wire.echo_rq())  # neither private nor without a patient: not accepted
        assert peer.closed_within(5)


def test_more_associations_than_one_address_may_have(bridge):
    held, answers = [], []
    try:
        for _ in range(50):
            held.append(Wire(bridge.port))
            answers.append(held[-1].associate(VERIFICATION))
        assert answers == [2] * 48 + [3] * 2
    finally:
        for peer in held:
            peer.socket.close()
    deadline = time.monotonic() + 10
    while not bridge.echoes():
        assert time.monotonic() < deadline


def test_many_associations_leave_nothing_behind(bridge):
    def once() -> None:
        with Wire(bridge.port) as peer:
            assert peer.associate(CT) == 2
            peer.message(1, STORE)
            peer.data(1, 0, bytes(50_000))  # and gone in the middle of a data set

    for _ in range(20):
        once()
    time.sleep(0.5)
    before = rss(bridge), descriptors(bridge), threads(bridge)
    for _ in range(60):
        once()
    deadline = time.monotonic() + 10
    while descriptors(bridge) > before[1] + 4 or threads(bridge) > before[2] + 4:
        assert time.monotonic() < deadline, (before, descriptors(bridge), threads(bridge))
        time.sleep(0.1)
    assert rss(bridge) - before[0] < 16 << 20


@pytest.mark.full
@pytest.mark.timeout(900)
def test_10_000_associations_one_after_another(bridge):
    """Released, aborted, reset, rejected, or left in the middle of a data set: nothing grows by any of them."""

    def once(number: int) -> None:
        with Wire(bridge.port) as peer:
            if number % 5 == 4:
                assert peer.associate(CT, called="NOBODY") == 3
                return
            assert peer.associate(CT, VERIFICATION) == 2
            match number % 5:
                case 0:
                    peer.message(3, wire.echo_rq())
                    assert peer.status() == 0
                    peer.send(wire.pdu(5, bytes(4)))
                    assert peer.receive()[0] == 6
                case 1:
                    peer.send(wire.pdu(7, bytes(4)))
                case 2:
                    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                case 3:
                    peer.message(1, STORE)
                    peer.data(1, 0, bytes(20_000))

    def settled() -> tuple[int, int]:
        deadline = time.monotonic() + 15
        found = descriptors(bridge), threads(bridge)
        while time.monotonic() < deadline:
            time.sleep(0.5)
            before, found = found, (descriptors(bridge), threads(bridge))
            if found == before:
                break
        return found

    for number in range(1_000):
        once(number)
    before, memory = settled(), rss(bridge)
    for number in range(10_000):
        once(number)
    after = settled()
    assert all(a <= b + 4 for a, b in zip(after, before, strict=True)), (before, after)
    assert rss(bridge) - memory < 16 << 20
    assert bridge.echoes()


def test_a_flood_in_one_request_is_answered_or_closed_at_once(bridge):
    """128 contexts with 255 encodings each are 850 KB; a user identity may have 65,535 bytes in a field."""
    syntaxes = [f"1.2.840.10008.1.2.4.{n}" for n in range(1000, 1255)]
    flood = wire.associate_rq(dict.fromkeys(range(1, 256, 2), (CT, syntaxes)))
    fields = struct.pack(">H", 65_000) + b"u" * 65_000 + struct.pack(">H", 0)
    identity = struct.pack(">BBH", 0x58, 0, len(fields) + 2) + b"\2\0" + fields
    for request, answers in ((flood, {0, 7}), (wire.associate_rq({1: (CT, syntaxes[:1])}, extra=identity), {2, 7})):
        with Wire(bridge.port) as peer:
            begin = time.monotonic()
            with contextlib.suppress(ConnectionError):
                peer.send(request)
            assert peer.receive()[0] in answers
            assert time.monotonic() - begin < 1
    assert bridge.echoes()


def test_a_store_that_is_aborted_half_way_leaves_no_spool_file(bridge, dimse_settings):
    spools = dimse_settings.data / "objects"
    uid = generate_uid()
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        peer.message(1, wire.store_rq(CT, uid))
        for _ in range(40):  # 5 MB, more than stays in memory
            peer.data(1, 0, bytes(128_000))
        deadline = time.monotonic() + 5
        while not list(spools.rglob("spool-*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    deadline = time.monotonic() + 10
    while list(spools.rglob("spool-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_logs_hold_no_patient_data(bridge):
    secret = "SECRET^NAME"
    uid = generate_uid()
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        peer.message(1, wire.store_rq(CT, uid), encoded(instance(SOPInstanceUID=uid, PatientName=secret))[:-5])
        assert peer.status() == 0xC000
    text = bridge.log.read_text()
    assert "store-failed" in text
    assert secret not in text
    assert all(line.startswith("{") for line in text.splitlines())
