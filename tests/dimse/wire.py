"""A DICOM peer byte by byte: what pynetdicom and DCMTK would never send is sent with this (PS3.7, PS3.8)."""

import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Self

APPLICATION = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
IMPLICIT_LE = "1.2.840.10008.1.2"


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def associate_rq(
    contexts: dict[int, tuple[str, Iterable[str]]], called: str = "ANOR", calling: str = "WIRE", extra: bytes = b""
) -> bytes:
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    body += _item(0x10, APPLICATION.encode())
    for number, (abstract, syntaxes) in contexts.items():
        inner = struct.pack(">B3x", number) + _item(0x30, abstract.encode())
        body += _item(0x20, inner + b"".join(_item(0x40, uid.encode()) for uid in syntaxes))
    body += _item(0x50, _item(0x51, struct.pack(">I", 65536)) + _item(0x52, b"1.2.3.4") + extra)
    return pdu(1, body)


def element(group: int, number: int, value: bytes) -> bytes:
    """One element in Implicit VR Little Endian."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", group, number, len(value)) + value


def command(**elements: bytes) -> bytes:
    """A command set; names are tags ("t0100")."""
    body = b"".join(element(0, int(name[1:], 16), value) for name, value in sorted(elements.items()))
    return element(0, 0, struct.pack("<I", len(body))) + body


def us(number: int) -> bytes:
    return struct.pack("<H", number)


def echo_rq(message: int = 1) -> bytes:
    return command(t0002=VERIFICATION.encode(), t0100=us(0x30), t0110=us(message), t0800=us(0x0101))


def store_rq(sop_class: str, sop_instance: str, message: int = 1) -> bytes:
    return command(
        t0002=sop_class.encode(),
        t0100=us(1),
        t0110=us(message),
        t0700=us(0),
        t0800=us(0),
        t1000=sop_instance.encode("latin-1"),
    )


def find_rq(sop_class: str = STUDY_ROOT_FIND, message: int = 1) -> bytes:
    return command(t0002=sop_class.encode(), t0100=us(0x20), t0110=us(message), t0700=us(0), t0800=us(1))


def cancel_rq(message: int = 1) -> bytes:
    return command(t0100=us(0x0FFF), t0120=us(message), t0800=us(0x0101))


def pdv(context: int, header: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context, header) + data


class Wire:
    """A connection to the bridge."""

    def __init__(self, port: int, seconds: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU's kind and body; (0, b"") when the peer closed or reset the connection."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        kind, _, length = struct.unpack(">BBI", head)
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                got = self.socket.recv(count - len(data))
            except ConnectionError:
                break
            if not got:
                break
            data += got
        return data

    def associate(self, *abstract: str, syntax: str = EXPLICIT_LE, called: str = "ANOR") -> int:
        """Propose one context per class, numbered 1, 3, 5...; the kind of the answer (2 accepted, 3 rejected)."""
        self.send(associate_rq({2 * i + 1: (uid, [syntax]) for i, uid in enumerate(abstract)}, called))
        return self.receive()[0]

    def data(self, context: int, header: int, data: bytes) -> None:
        self.send(pdu(4, pdv(context, header, data)))

    def message(self, context: int, command_set: bytes, data_set: bytes | None = None, chunk: int = 60_000) -> None:
        """One whole message, its data set cut into fragments."""
        self.data(context, 3, command_set)
        if data_set is not None:
            for start in range(0, max(len(data_set), 1), chunk):
                last = start + chunk >= len(data_set)
                self.data(context, 2 if last else 0, data_set[start : start + chunk])

    def answer(self) -> dict[int, bytes]:
        """The command set of the next message; data sets are dropped."""
        return next(self.answers())

    def answers(self) -> Iterator[dict[int, bytes]]:
        """Command sets as they come; each ends with `"end"` when the connection does."""
        while True:
            kind, body = self.receive()
            if kind != 4:
                raise ConnectionError(f"PDU {kind} instead of data")
            pos = 0
            while pos < len(body):
                length, _, header = struct.unpack_from(">IBB", body, pos)
                if header & 1:
                    yield _elements(body[pos + 6 : pos + 4 + length])
                pos += 4 + length

    def status(self) -> int:
        return int.from_bytes(self.answer()[0x0900], "little")

    def closed_within(self, seconds: float) -> bool:
        """Whether the bridge aborts or closes, answering nothing else, within the time."""
        self.socket.settimeout(seconds)
        try:
            while True:
                kind, _ = self.receive()
                if kind in (0, 7):
                    return True
        except TimeoutError:
            return False


def _elements(data: bytes) -> dict[int, bytes]:
    found, pos = {}, 0
    while pos < len(data):
        _, number, length = struct.unpack_from("<HHI", data, pos)
        found[number] = data[pos + 8 : pos + 8 + length]
        pos += 8 + length
    return found
