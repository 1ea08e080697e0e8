"""Associations as services see them: requests of both sides, cancels, permissions, ends."""

import asyncio
import dataclasses
import re
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, _config, build_role, evt
from pynetdicom.dimse_primitives import C_FIND, C_GET, N_ACTION, N_EVENT_REPORT
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicomweb import errors
from dimse_bridge.limits import Limits
from dimse_bridge.service import AskFailed, Entry
from tests.dimse import wire
from tests.dimse.peers import encoded, instance
from tests.dimse.serving import Sink, acceptor
from tests.dimse.wire import APPLICATION, CT, EXPLICIT_LE, STUDY_ROOT_FIND, VERIFICATION, Wire

STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
T = TypeVar("T")


async def blocking(call: Callable[[], T]) -> T:
    return await asyncio.to_thread(call)


def identifier() -> Dataset:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = "STUDY"
    return dataset


async def test_pending_answers_come_as_they_are_given_and_a_cancel_is_seen():
    seen = []

    async def find(exchange):
        seen.append((exchange.request.MessageID, exchange.identifier, exchange.association.called_aet))
        while not exchange.cancelled:
            await exchange.respond(0xFF00, identifier=b"answer")
            await asyncio.sleep(0.01)
        await exchange.respond(0xFE00, comment="as you said")

    def ask(port):
        with Wire(port) as peer:
            assert peer.associate(STUDY_ROOT_FIND) == 2
            peer.message(1, wire.find_rq(message=7), b"question")
            answers = peer.answers()
            assert [int.from_bytes(next(answers)[0x0900], "little") for _ in range(5)] == [0xFF00] * 5
            peer.message(1, wire.cancel_rq(8))  # of another request
            assert int.from_bytes(next(answers)[0x0900], "little") == 0xFF00
            peer.message(1, wire.cancel_rq(7))
            final = next(each for each in answers if each[0x0900] != b"\x00\xff")
            peer.message(1, wire.cancel_rq(7))  # too late, and nothing happens
            peer.message(1, wire.find_rq(message=9), b"more")
            next(answers)
            return final

    async with acceptor({(C_FIND, STUDY_ROOT_FIND): Entry(find, "find")}) as port:
        final = await blocking(lambda: ask(port))
    assert final[0x0900] == b"\x00\xfe"
    assert final[0x0120] == wire.us(7)
    assert final[0x0902].strip() == b"as you said"
    assert seen == [(7, b"question", "ANOR"), (9, b"more", "ANOR")]


def get(data: bytes, uids: list[str], outcomes: list[object]):
    """A C-GET that sends instances of CT; the data set of the first one comes whole, those of others in crumbs."""

    async def crumbs() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 777):
            yield data[at : at + 777]

    async def serve(exchange):
        association = exchange.association
        context = next((c.id for c in association.contexts.values() if c.abstract_syntax == CT), 99)
        for number, uid in enumerate(uids):
            try:
                outcomes.append(await association.store(context, CT, uid, 0, crumbs() if number else data))
            except AskFailed as failure:
                outcomes.append(str(failure))
        await exchange.respond(
            0, NumberOfCompletedSuboperations=len(uids), NumberOfFailedSuboperations=0, NumberOfWarningSuboperations=0
        )

    return {(C_GET, STUDY_ROOT_GET): Entry(serve, "get")}


@pytest.mark.parametrize("max_pdu", [0, 4096, 16382])
async def test_instances_are_sent_on_the_association_of_a_get(max_pdu, monkeypatch):
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", False)  # our requestor sets it for the whole process
    data, uids, outcomes, received = (
        encoded(instance(EncapsulatedDocument=b"x" * 70_000)),
        [generate_uid(), "1.2.3"],
        [],
        [],
    )

    def store(event):
        received.append((event.request.AffectedSOPInstanceUID, event.request.DataSet.getvalue()))
        return 0xB000 if event.request.AffectedSOPInstanceUID == "1.2.3" else 0

    def ask(port):
        ae = AE()
        ae.maximum_pdu_size = max_pdu
        ae.add_requested_context(STUDY_ROOT_GET)
        ae.add_requested_context(CT, EXPLICIT_LE)
        made = ae.associate(
            "127.0.0.1",
            port,
            ae_title="ANOR",
            max_pdu=max_pdu,
            ext_neg=[build_role(CT, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, store)],
        )
        assert made.is_established
        statuses = [status for status, _ in made.send_c_get(identifier(), STUDY_ROOT_GET)]
        made.release()
        return statuses

    async with acceptor(get(data, uids, outcomes)) as port:
        [final] = await blocking(lambda: ask(port))
    assert final.Status == 0
    assert final.NumberOfCompletedSuboperations == 2
    assert received == [(uid, data) for uid in uids]
    assert outcomes == [0, 0xB000]


async def test_without_a_role_nothing_can_be_sent():
    outcomes: list[object] = []

    def ask(port):
        with Wire(port) as peer:
            assert peer.associate(STUDY_ROOT_GET, CT) == 2
            command = wire.command(
                t0002=STUDY_ROOT_GET.encode(), t0100=wire.us(0x10), t0110=wire.us(1), t0700=wire.us(0), t0800=wire.us(1)
            )
            peer.message(1, command, b"x")
            return peer.status()

    async with acceptor(get(b"", ["1.2.3"], outcomes)) as port:
        assert await blocking(lambda: ask(port)) == 0
    assert outcomes == ["no presentation context was accepted for this request"]


async def test_a_peer_that_does_not_answer_a_request_of_ours_is_cut_off():
    ended = asyncio.Event()

    async def serve(exchange):
        [context] = [each.id for each in exchange.association.contexts.values() if each.as_scu]
        try:
            await exchange.association.store(context, CT, "1.2.3", 0, b"x")
        finally:
            ended.set()

    def ask(port):
        with Wire(port) as peer:
            role = struct.pack(">BBHH", 0x54, 0, 4 + len(CT), len(CT)) + CT.encode() + b"\0\1"
            contexts = {1: (STUDY_ROOT_GET, [EXPLICIT_LE]), 3: (CT, [EXPLICIT_LE])}
            peer.send(wire.associate_rq(contexts, extra=role))
            assert peer.receive()[0] == 2
            peer.message(1, wire.find_rq(STUDY_ROOT_GET).replace(wire.us(0x20), wire.us(0x10), 1), b"x")
            begin = time.monotonic()
            assert peer.receive()[0] == 4  # the C-STORE
            assert peer.closed_within(5)
            return time.monotonic() - begin

    limits = dataclasses.replace(Limits(), ask_timeout=0.5)
    async with acceptor({(C_GET, STUDY_ROOT_GET): Entry(serve, "get")}, limits=limits) as port:
        assert 0.4 < await blocking(lambda: ask(port)) < 3
        await asyncio.wait_for(ended.wait(), 5)


async def test_an_event_report_and_its_response():
    outcome: list[object] = []

    async def commit(exchange):
        await exchange.respond(0)
        report = N_EVENT_REPORT()
        report.AffectedSOPClassUID = StorageCommitmentPushModel
        report.AffectedSOPInstanceUID = "1.2.840.10008.1.20.1.1"
        report.EventTypeID = 1

        async def event() -> AsyncIterator[bytes]:
            yield encoded(identifier())

        outcome.append((await exchange.association.ask(exchange.context.id, report, event())).Status)

    def ask(port):
        got = []
        ae = AE()
        ae.add_requested_context(StorageCommitmentPushModel, EXPLICIT_LE)

        def handle(event):
            got.append((event.event_type, event.event_information.QueryRetrieveLevel))
            return 0x0000, None

        made = ae.associate("127.0.0.1", port, ae_title="ANOR", evt_handlers=[(evt.EVT_N_EVENT_REPORT, handle)])
        status, _ = made.send_n_action(identifier(), 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
        while not outcome:  # a release that overtakes the response of this requestor would cut it off
            time.sleep(0.005)
        made.release()
        return status.Status, got

    services = {(N_ACTION, str(StorageCommitmentPushModel)): Entry(commit, "commitment")}
    async with acceptor(services) as port:
        assert await blocking(lambda: ask(port)) == (0, [(1, "STUDY")])
    assert outcome == [0]


@pytest.mark.parametrize("end", ["abort", "close", "release"])
async def test_a_service_ends_with_its_association(end):
    ended = asyncio.Event()
    outcomes: list[object] = []

    async def find(exchange):
        try:
            with pytest.raises(AskFailed):
                await exchange.association.store(1, CT, "1.2.3", 0, b"")
            await exchange.respond(0xFF00, identifier=b"x")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise
        finally:
            ended.set()

    def ask(port):
        with Wire(port) as peer:
            assert peer.associate(STUDY_ROOT_FIND) == 2
            peer.message(1, wire.find_rq(), b"x")
            assert peer.status() == 0xFF00
            if end == "abort":
                peer.send(wire.pdu(7, bytes(4)))
            elif end == "release":
                peer.send(wire.pdu(5, bytes(4)))
                assert [peer.receive()[0] for _ in range(2)] == [4, 6]  # the answer's data set, then A-RELEASE-RP

    async with acceptor({(C_FIND, STUDY_ROOT_FIND): Entry(find, "find")}) as port:
        await blocking(lambda: ask(port))
        await asyncio.wait_for(ended.wait(), 5)
    assert outcomes == ["cancelled"]


async def test_failures_of_a_service_become_statuses():
    failures = iter([errors.BadRequest("what"), RuntimeError("secret"), errors.Unavailable("down"), None])

    async def find(exchange):
        failure = next(failures)
        if failure is not None:
            raise failure

    def ask(port):
        with Wire(port) as peer:
            assert peer.associate(STUDY_ROOT_FIND, VERIFICATION) == 2
            found = []
            for _ in range(4):
                peer.message(1, wire.find_rq(), b"x")
                answer = peer.answer()
                assert b"secret" not in answer[0x0902]
                found.append(int.from_bytes(answer[0x0900], "little"))
            peer.message(3, wire.find_rq(), b"x")  # no such operation in this context
            found.append(peer.status())
            peer.message(1, wire.echo_rq())
            found.append(peer.status())
            return found

    async with acceptor({(C_FIND, STUDY_ROOT_FIND): Entry(find, "find")}) as port:
        assert await blocking(lambda: ask(port)) == [0xC000, 0x0110, 0xA700, 0x0110, 0x0211, 0x0211]


async def test_a_request_before_the_answer_to_the_last_one_aborts():
    async def find(exchange):
        await asyncio.sleep(60)

    def ask(port):
        for second in (wire.find_rq(message=2), wire.store_rq(CT, "1.2.3")):
            with Wire(port) as peer:
                assert peer.associate(STUDY_ROOT_FIND, CT) == 2
                peer.message(1, wire.find_rq(), b"x")
                peer.message(1 if second == wire.find_rq(message=2) else 3, second, b"x")
                if not peer.closed_within(5):
                    return False
        return True

    async with acceptor({(C_FIND, STUDY_ROOT_FIND): Entry(find, "find")}) as port:
        assert await blocking(lambda: ask(port))


async def test_what_is_not_allowed_is_said_so():
    async def find(exchange):
        raise AssertionError

    sink = Sink()

    def ask(port):
        with Wire(port) as peer:
            assert peer.associate(STUDY_ROOT_FIND, VERIFICATION) == 2
            peer.message(1, wire.find_rq(), b"x")
            assert peer.status() == 0x0124
            peer.message(3, wire.echo_rq())
            return peer.status()

    services = {(C_FIND, STUDY_ROOT_FIND): Entry(find, "find")}
    async with acceptor(services, sink, frozenset({"echo"})) as port:
        assert await blocking(lambda: ask(port)) == 0
    async with acceptor(services, sink, frozenset()) as port:
        assert await blocking(lambda: rejected(port)) == (1, 1, 3)


def rejected(port: int, request: bytes | None = None, **titles: str) -> tuple[int, int, int] | None:
    with Wire(port) as peer:
        peer.send(request or wire.associate_rq({1: (VERIFICATION, [EXPLICIT_LE])}, **titles))
        kind, body = peer.receive()
        return (body[1], body[2], body[3]) if kind == 3 else None


async def test_rejections():
    request = wire.associate_rq({1: (VERIFICATION, [EXPLICIT_LE])})
    limits = dataclasses.replace(Limits(), max_associations=1)
    async with acceptor(limits=limits) as port:

        def ask():
            assert rejected(port) is None
            assert rejected(port, called="OTHER") == (1, 1, 7)
            assert rejected(port, called="../secret/X") == (1, 1, 7)
            assert rejected(port, request.replace(APPLICATION.encode(), b"1.2.840.10008.3.1.1.9")) == (1, 1, 2)
            assert rejected(port, request[:6] + b"\0\2" + request[8:]) == (1, 2, 2)
            assert rejected(port, request.replace(b"\x51\0\0\4\0\1\0\0", b"\x51\0\0\4\0\0\0\x64")) == (1, 1, 1)
            with Wire(port) as peer:
                assert peer.associate(VERIFICATION) == 2
                assert rejected(port) == (2, 3, 2)

        await blocking(ask)


async def test_a_peer_that_is_slow_to_read_still_learns_that_it_was_rejected():
    def ask(port):
        with Wire(port) as peer:
            peer.send(wire.associate_rq({1: (VERIFICATION, [EXPLICIT_LE])}, called="OTHER"))
            time.sleep(2.5)
            assert peer.receive()[0] == 3
            assert peer.closed_within(1)

    async with acceptor() as port:
        await blocking(lambda: ask(port))


async def test_contexts_roles_and_extended_negotiation():
    def ask(port):
        with Wire(port) as peer:
            role = struct.pack(">BBHH", 0x54, 0, 4 + len(CT), len(CT)) + CT.encode() + b"\0\1"
            extended = b"".join(
                struct.pack(">BBHH", 0x56, 0, 2 + len(uid) + len(info), len(uid)) + uid.encode() + info
                for uid, info in ((CT, b"\2\0\0\0\1"), (STUDY_ROOT_FIND, b"\1\1\1\1"), (VERIFICATION, b"\1"))
            )
            request = wire.associate_rq(
                {1: (CT, [EXPLICIT_LE]), 3: (STUDY_ROOT_FIND, ["1.2.3"]), 5: (VERIFICATION, [EXPLICIT_LE])},
                extra=role + extended,
            )
            peer.send(request)
            kind, body = peer.receive()
            assert kind == 2
            return body

    async with acceptor({(C_FIND, STUDY_ROOT_FIND): Entry(lambda _: None, "find")}) as port:
        body = await blocking(lambda: ask(port))
    assert body.count(b"\x21\0") == 3
    assert struct.pack(">BBBB", 3, 0, 4, 0) in body  # of context 3: the transfer syntax is not supported
    assert struct.pack(">H", len(CT)) + CT.encode() + b"\0\1" in body  # the peer is the SCP
    assert struct.pack(">H", len(CT)) + CT.encode() + b"\2\0\2\0\0" in body
    assert STUDY_ROOT_FIND.encode() + b"\1" not in body  # its context was not accepted
    assert VERIFICATION.encode() + b"\1" not in body


@pytest.mark.parametrize(
    ("sop_class", "asked", "agreed"),
    [
        # PS3.4 table C.5-2: relational queries, combined date and time, fuzzy names, time zones, conversion of
        # multi-frame images, empty values, multiple values.
        (STUDY_ROOT_FIND, "01010101010101", "01010100000101"),
        (STUDY_ROOT_FIND, "00000000000000", "00000000000000"),
        (STUDY_ROOT_FIND, "01", "01"),
        (STUDY_ROOT_FIND, "0100", "0100"),
        (STUDY_ROOT_FIND, "00010001", "00010000"),
        (STUDY_ROOT_FIND, "0101010101010101", "01010100000101"),  # a byte that the standard does not know
        # Table C.5-4: relational retrieval, conversion.
        (STUDY_ROOT_GET, "01", "01"),
        (STUDY_ROOT_GET, "0101", "0100"),
        (STUDY_ROOT_GET, "0000", "0000"),
        # Table B.3-2 (storage): level 2, reserved, digital signatures kept, reserved, nothing coerced.
        (CT, "020001000100", "0200020000"),
        (CT, "00", "02"),
        (VERIFICATION, "01", None),
    ],
)
async def test_every_byte_of_extended_negotiation(sop_class, asked, agreed):
    def ask(port):
        with Wire(port) as peer:
            said = struct.pack(">H", len(sop_class)) + sop_class.encode()
            item = said + bytes.fromhex(asked)
            extra = struct.pack(">BBH", 0x56, 0, len(item)) + item
            peer.send(wire.associate_rq({1: (sop_class, [EXPLICIT_LE])}, extra=extra))
            kind, body = peer.receive()
            assert kind == 2
            found = re.search(rb"\x56\x00(..)" + re.escape(said), body, re.DOTALL)
            if found is None:
                return None
            end = found.start() + 4 + int.from_bytes(found[1], "big")
            return body[found.end() : end].hex()

    services = {(C_FIND, STUDY_ROOT_FIND): Entry(lambda _: None, "find"), **get(b"", [], [])}
    async with acceptor(services) as port:
        assert await blocking(lambda: ask(port)) == agreed


async def test_a_peer_that_does_not_read_is_cut_off():
    blocked = asyncio.Event()

    async def find(exchange):
        try:
            while True:
                await exchange.respond(0xFF00, identifier=bytes(60_000))
        finally:
            blocked.set()

    limits = dataclasses.replace(Limits(), send_timeout=0.5)
    async with acceptor({(C_FIND, STUDY_ROOT_FIND): Entry(find, "find")}, limits=limits) as port:
        peer = Wire(port)
        await blocking(lambda: peer.associate(STUDY_ROOT_FIND))
        peer.message(1, wire.find_rq(), b"x")
        await asyncio.wait_for(blocked.wait(), 10)
        peer.socket.close()


async def test_a_store_is_passed_on_and_its_failure_answered():
    sink = Sink()
    data = bytes(range(256)) * 600

    def send(port, failing=False):
        with Wire(port) as peer:
            assert peer.associate(CT) == 2
            found = []
            for chunk in (1000, 60_000):
                peer.message(1, wire.store_rq(CT, "1.2.3"), data, chunk)
                found.append(peer.status())
            return found

    async with acceptor(sink=sink) as port:
        assert await blocking(lambda: send(port)) == [0, 0]
        assert sink.stored == [("1.2.3", data)] * 2
        assert sink.flushes > 0
        sink.failure = errors.Conflict("other bytes")
        assert await blocking(lambda: send(port)) == [0xC111, 0xC111]
        sink.failure = OSError("/secret")
        assert await blocking(lambda: send(port)) == [0x0110, 0x0110]


@pytest.mark.parametrize("context", [("", [EXPLICIT_LE]), (CT, [])])
async def test_contexts_that_say_nothing(context, caplog):
    async with acceptor() as port:

        def ask():
            with Wire(port) as peer:
                peer.send(wire.associate_rq({1: context}))
                return peer.closed_within(5)

        assert await blocking(ask)
    assert "association-failed" not in caplog.text
