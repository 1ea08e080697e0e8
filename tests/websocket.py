"""A WebSocket client on plain streams (RFC 6455): enough to open, read text messages and close."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Refused(Exception):
    """The server answered the handshake with something else; `head` and `body` are its answer."""

    def __init__(self, head: bytes, body: bytes) -> None:
        super().__init__(head.split(b"\r\n")[0].decode())
        self.status = int(head.split(b" ", 2)[1])
        self.body = body


class Closed(Exception):
    """The server closed; `code` is that of its close frame, None when the connection just ended."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class WebSocket:
    """One open connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self) -> tuple[int, bytes]:
        """One whole message: its opcode and payload."""
        first, second = await self.reader.readexactly(2)
        assert first & 0x80, "messages come in one frame"
        assert not second & 0x80, "a server does not mask"
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
        return first & 0x0F, await self.reader.readexactly(length)

    async def event(self, seconds: float = 10) -> Any:
        """The next text message as JSON; raises Closed when the server ends it."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    opcode, payload = await self.frame()
                except (asyncio.IncompleteReadError, ConnectionError):
                    raise Closed(None) from None
                if opcode == CLOSE:
                    raise Closed(int.from_bytes(payload[:2], "big") if payload else None)
                if opcode == TEXT:
                    return json.loads(payload)

    async def send(self, opcode: int, payload: bytes) -> None:
        """One masked frame of at most 125 bytes."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.writer.write(bytes((0x80 | opcode, 0x80 | len(payload))) + mask + masked)
        await self.writer.drain()


@asynccontextmanager
async def connected(url: str, **headers: str) -> AsyncIterator[WebSocket]:
    """A connection to a `ws://` URL; cut without a close frame at the end."""
    parts = urlsplit(url)
    key = base64.b64encode(os.urandom(16))
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        fields = {
            "Host": parts.netloc,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key.decode(),
        } | headers
        head = f"GET {parts.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(head.encode() + b"\r\n")
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 101 "):
                length = next(
                    (int(x[15:]) for x in answer.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0
                )
                raise Refused(answer, await reader.readexactly(length))
        accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest())
        assert b"sec-websocket-accept: " + accept.lower() in answer.lower()
        yield WebSocket(reader, writer)
    finally:
        writer.transport.abort()
