"""A proxy of our own, to cut, stall and refuse connections: TCP or Unix sockets on either side.

`PostgresProxy` knows enough of PostgreSQL's wire protocol to act when a certain statement passes. Threads, so that it
serves an event loop in this process as well as other processes.
"""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

Address = tuple[str, int] | str
Action = Literal["cut-before", "cut-after", "cut-answered", "hold", "mute"]

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST
_PROTOCOL_3 = 196608
_PIECE = 1 << 16
_ABSOLUTE = re.compile(rb"([A-Z]+) http://([^/ ]+)(?=/)")
# Sync, Flush, simple query, password, Terminate, COPY's data, end and failure: what need not wait for more.
_PASSED_ON = frozenset({b"S", b"H", b"Q", b"p", b"X", b"d", b"c", b"f"})


class Link:
    """One proxied connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.cut_on_answer = False
        self.mute = False
        # What the proxy knows of the PostgreSQL conversation.
        self.pending = b""
        self.started = False
        self.statements: dict[bytes, bytes] = {}  # name -> SQL

    def close(self) -> None:
        """End both connections, with RST where there is one."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                if end.family == socket.AF_INET:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                end.close()


class Proxy:
    """Forwards what comes to `address` to `target`; a context manager."""

    def __init__(self, target: Address, listen: Path | None = None) -> None:
        self._target = target
        if listen is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address: Address = self._listener.getsockname()
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(listen))
            self._listener.listen(64)
            self.address = str(listen)
        self._links: set[Link] = set()
        self._lock = threading.Lock()
        self._open = threading.Event()  # cleared: bytes wait in both directions
        self._open.set()
        self.refusing = False
        self.accepted = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.set()
        # Wakes the accepting thread, which a close alone would not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    @property
    def links(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    def cut(self) -> None:
        """Cut every connection."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.close()

    def refuse(self) -> None:
        """Cut every connection, and each new one as soon as it is made."""
        self.refusing = True
        self.cut()

    def accept(self) -> None:
        """The end of `refuse`."""
        self.refusing = False

    def stall(self) -> None:
        """Connections stay, new ones are taken, and nothing passes."""
        self._open.clear()

    def flow(self) -> None:
        """The end of `stall`."""
        self._open.set()

    def upstream(self, link: Link, data: bytes) -> None:
        """Forward bytes of the client."""
        link.server.sendall(data)

    def downstream(self, link: Link, data: bytes) -> None:
        """Forward bytes of the server."""
        if link.cut_on_answer:
            self._end(link)
        elif not link.mute:
            link.client.sendall(data)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            server = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
            link = Link(client, server)
            try:
                if self.refusing:
                    raise ConnectionRefusedError
                server.connect(self._target)
            except OSError:
                link.close()
                continue
            with self._lock:
                self._links.add(link)
            for pump in (self._pump_up, self._pump_down):
                threading.Thread(target=pump, args=(link,), daemon=True).start()

    def _pump_up(self, link: Link) -> None:
        with self._ending(link):
            while data := link.client.recv(_PIECE):
                self._open.wait()
                self.upstream(link, data)

    def _pump_down(self, link: Link) -> None:
        with self._ending(link):
            while data := link.server.recv(_PIECE):
                self._open.wait()
                self.downstream(link, data)

    @contextlib.contextmanager
    def _ending(self, link: Link) -> Iterator[None]:
        try:
            yield
        except OSError:
            pass  # either end went: so does the other
        finally:
            self._end(link)

    def _end(self, link: Link) -> None:
        with self._lock:
            self._links.discard(link)
        link.close()


class ForwardProxy(Proxy):
    """An HTTP proxy that has one server behind every name; `hosts` are the names, with ports, that it was asked for.

    Requests come in absolute form (RFC 9112 3.2.2), each at the begin of a piece: no client of ours pipelines.
    """

    def __init__(self, target: Address) -> None:
        super().__init__(target)
        self.hosts: set[str] = set()

    @property
    def url(self) -> str:
        """What clients are told, for example by `http_proxy`."""
        return f"http://{self.address[0]}:{self.address[1]}"

    def upstream(self, link: Link, data: bytes) -> None:
        """Forward a request with the path alone."""
        found = _ABSOLUTE.match(data)
        if found is not None:
            self.hosts.add(found[2].decode())
            data = found[1] + b" " + data[found.end() :]
        super().upstream(link, data)


class PostgresProxy(Proxy):
    """In front of a PostgreSQL that listens on the Unix socket named in `url`.

    After `arm(text, action)` the next statement whose SQL contains `text` is, as a whole up to its Sync message,
    "cut-before": dropped, and both connections cut: the server never saw it;
    "cut-after": forwarded, and both connections cut at once: it may still be running;
    "cut-answered": forwarded, and both connections cut when the server has answered: it is committed;
    "hold": kept back until `release`, then forwarded;
    "mute": forwarded, and the answer swallowed: the client waits.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(pair.split("=", 1) for pair in parts.query.split("&"))
        directory = options["host"].replace("%2F", "/")
        super().__init__(f"{directory}/.s.PGSQL.{options['port']}")
        host, port = self.address
        credentials = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{credentials}@{host}:{port}", query="sslmode=disable"))
        self._needle = b""
        self._action: Action = "hold"
        self._times = 0
        self._armed = threading.Lock()
        self._released = threading.Event()
        self.hits = 0  # how often the action was taken
        self.reached = threading.Event()  # set when it is

    def arm(self, text: str, action: Action, times: int = 1) -> None:
        """Act on the next `times` statements that contain `text`, on whatever connection."""
        with self._armed:
            self._needle, self._action, self._times = text.encode(), action, times
            self.hits = 0
            self.reached.clear()
            self._released.clear()

    def release(self) -> None:
        """Forward what "hold" kept back."""
        self._released.set()

    def upstream(self, link: Link, data: bytes) -> None:
        """Forward message by message; from a Bind of the statement on, up to its Sync, together."""
        link.pending += data
        while (end := self._batch(link)) is not None:
            batch, link.pending = link.pending[:end], link.pending[end:]
            action = self._due(link, batch)
            if action == "cut-before":
                self._end(link)
                return
            if action == "hold":
                self._released.wait()
            link.mute = link.mute or action == "mute"
            link.cut_on_answer = action == "cut-answered"
            link.server.sendall(batch)
            if action == "cut-after":
                self._end(link)
                return

    def _batch(self, link: Link) -> int | None:
        """Where the next batch ends: one start-up message, or messages up to and including a Sync or Flush."""
        data = link.pending
        if not link.started:
            if len(data) < 8 or len(data) < int.from_bytes(data[:4]):
                return None
            link.started = int.from_bytes(data[4:8]) == _PROTOCOL_3
            return int.from_bytes(data[:4])
        at = 0
        while len(data) >= at + 5:
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5])
            if len(data) < end:
                return None
            if data[at : at + 1] in _PASSED_ON:
                return end
            at = end
        return None

    def _due(self, link: Link, batch: bytes) -> Action | None:
        """The action for this batch, if it executes the statement that is waited for."""
        at, executes = 0, False
        if not batch[:1].isalpha():
            return None  # start-up
        while at < len(batch):
            kind = batch[at : at + 1]
            end = at + 1 + int.from_bytes(batch[at + 1 : at + 5])
            body = batch[at + 5 : end]
            if kind == b"P":
                name, sql = body.split(b"\0", 2)[:2]
                link.statements[name] = sql
            elif kind == b"B":
                sql = link.statements.get(body.split(b"\0", 2)[1], b"")
                executes = executes or self._needle in sql
            elif kind == b"Q":
                executes = executes or self._needle in body
            at = end
        with self._armed:
            if not executes or self._times == 0:
                return None
            self._times -= 1
            self.hits += 1
            self.reached.set()
            return self._action
