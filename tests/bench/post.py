"""POSTs over keep-alive sockets from one thread: eight client threads would fight the server for the same two cores."""

import re
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .archives import LOOPBACK

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_RECEIVE = 1 << 20
_BUFFERS = 64  # given to one sendmsg
_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


@dataclass(frozen=True, slots=True)
class Job:
    """A request to send: its head and the buffers of its body, made only when its turn comes."""

    build: Callable[[], list[bytes]]


@dataclass(frozen=True, slots=True)
class Posted:
    """Seconds each request took from its first byte sent to its answer's last, and the answers that were no success."""

    seconds: list[float]
    refused: list[tuple[int, bytes, Job]]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    keep: bool


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    job: Job
    unsent: list[memoryview] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    began: float = 0.0
    reused: bool = False

    def begin(self) -> None:
        self.unsent = [memoryview(part) for part in self.job.build()]
        self.received.clear()
        self.sock.setblocking(False)
        self.began = time.perf_counter()

    def send(self) -> None:
        sent = self.sock.sendmsg(self.unsent[:_BUFFERS])
        while sent:
            if sent < len(self.unsent[0]):
                self.unsent[0] = self.unsent[0][sent:]
                return
            sent -= len(self.unsent.pop(0))

    def receive(self) -> _Answer | None:
        """The answer, once all of it is there."""
        data = self.sock.recv(_RECEIVE)
        if not data:
            raise ConnectionError(f"closed without an answer: {bytes(self.received[:200])!r}")
        self.received += data
        end = self.received.find(_HEAD_END)
        if end < 0:
            return None
        head, body = bytes(self.received[:end]).lower(), bytes(self.received[end + 4 :])
        length = re.search(rb"\r\ncontent-length: *(\d+)", head)
        whole = len(body) >= int(length[1]) if length else b"chunked" in head and body.endswith(_LAST_CHUNK)
        return _Answer(int(head[9:12]), body, b"connection: close" not in head) if whole else None


def connect(port: int) -> socket.socket:
    """A loopback connection without Nagle's delay."""
    sock = socket.create_connection((LOOPBACK, port), timeout=300)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def post_all(port: int, jobs: Sequence[Job], connections: int, patience: float = 120.0) -> Posted:
    """Send every job, `connections` at a time. A kept-alive connection that the server closed is opened again once.

    Raises ConnectionError when a new connection breaks off, TimeoutError when nothing moves for `patience` seconds.
    """
    sender = _Sender(port, jobs)
    try:
        return sender.run(connections, patience)
    finally:
        sender.close()


class _Sender:
    def __init__(self, port: int, jobs: Sequence[Job]) -> None:
        self._port = port
        self._waiting = list(reversed(jobs))
        self._selector = selectors.DefaultSelector()
        self._done = Posted([], [])

    def run(self, connections: int, patience: float) -> Posted:
        for _ in range(min(connections, len(self._waiting))):
            self._begin(_Connection(connect(self._port), self._waiting.pop()))
        while self._selector.get_map():
            ready = self._selector.select(patience)
            if not ready:
                raise TimeoutError(f"nothing sent or answered for {patience:.0f} s")
            for key, events in ready:
                self._step(key.data, events)
        return self._done

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.sock.close()
        self._selector.close()

    def _begin(self, connection: _Connection) -> None:
        connection.begin()
        self._selector.register(connection.sock, _BOTH, connection)

    def _step(self, connection: _Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE and connection.unsent:
                connection.send()
                if not connection.unsent:
                    self._selector.modify(connection.sock, selectors.EVENT_READ, connection)
            answer = connection.receive() if events & selectors.EVENT_READ else None
        except BlockingIOError:
            return
        except OSError:
            if not connection.reused:
                raise
            self._reopen(connection)
            self._begin(connection)
            return
        if answer:
            self._answered(connection, answer)

    def _answered(self, connection: _Connection, answer: _Answer) -> None:
        self._done.seconds.append(time.perf_counter() - connection.began)
        if not 200 <= answer.status < 300:
            self._done.refused.append((answer.status, answer.body[:300], connection.job))
        if not self._waiting:
            self._selector.unregister(connection.sock)
            connection.sock.close()
            return
        if answer.keep and not connection.unsent:
            self._selector.unregister(connection.sock)
            connection.reused = True
        else:
            self._reopen(connection)
        connection.job = self._waiting.pop()
        self._begin(connection)

    def _reopen(self, connection: _Connection) -> None:
        self._selector.unregister(connection.sock)
        connection.sock.close()
        connection.sock, connection.reused = connect(self._port), False
