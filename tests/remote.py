"""Servers that misbehave, in a thread: what a remote server may do to whoever calls it."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

Reply = Callable[["Request"], None]

# Settings of an archive that may call this machine, and does not wait for long.
CALLING: Mapping[str, object] = {"outgoing_networks": "127.0.0.0/8", "outgoing_timeout": 5, "jobs_at_once": 2}


@dataclass
class Request:
    """One request: its head, and the connection, on which the reply has to be written."""

    head: str
    connection: socket.socket

    @property
    def path(self) -> str:
        return self.head.split(" ", 2)[1]

    def header(self, name: str) -> str:
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return ""

    def body(self) -> bytes:
        data = b""
        while len(data) < int(self.header("content-length") or 0):
            piece = self.connection.recv(1 << 16)
            if not piece:
                break
            data += piece
        return data

    def answer(self, status: str, body: bytes = b"", **headers: str) -> None:
        fields = {"Content-Length": str(len(body)), "Connection": "close"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
        self.connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


@dataclass
class Scripted:
    """A server on 127.0.0.1; `requests` are those that came."""

    port: int
    reply: Reply
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/"


@contextlib.contextmanager
def scripted(reply: Reply, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A server that answers every request by `reply`, a connection each, for the time of a `with` block."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Scripted(listener.getsockname()[1], reply, "https" if tls else "http")

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.settimeout(20)
            wrapped = tls.wrap_socket(connection, server_side=True) if tls else connection
            with wrapped:
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = wrapped.recv(1)
                    if not piece:
                        return
                    head += piece
                request = Request(head.decode("latin-1"), wrapped)
                server.requests.append(request)
                server.reply(request)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def hang(_request: Request) -> None:
    """Say nothing."""
    time.sleep(15)


def endless(content_type: str, opening: bytes = b"") -> Reply:
    """Data without an end."""

    def reply(request: Request) -> None:
        request.body()
        request.connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode() + opening)
        while True:
            request.connection.sendall(b"x" * 65536)

    return reply
