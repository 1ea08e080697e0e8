"""WebSockets: what the server has to say to a subscriber, one text message each (RFC 6455, PS3.18 8.10.5).

The server only speaks. What a client sends is read and dropped, because that is how its leaving is seen.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from starlette.types import Message, Send

from api.exchange import Exchange

# A client that takes no message for so long is cut off. Its events wait for the next connection.
_SEND_SECONDS: Final = 30.0
_FAREWELL_SECONDS: Final = 1.0
_GOING_AWAY: Final = 1001  # RFC 6455 7.4.1
_REPLACED: Final = 4000  # of the range for private use
_TOO_SLOW: Final = 1008


class Sockets:
    """The open WebSockets of this process. They end before the server does, which would cut them off."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._open: set[asyncio.Future[None]] = set()

    async def stop(self, seconds: float) -> None:
        """Let all of them say farewell; wait for their end, at most so long."""
        self._stopping.set()
        if self._open:
            await asyncio.wait(self._open, timeout=seconds)

    @contextmanager
    def opened(self) -> Iterator[asyncio.Event]:
        """One socket, for as long as the block lasts; the event is set when it has to end."""
        ended = asyncio.get_running_loop().create_future()
        self._open.add(ended)
        try:
            yield self._stopping
        finally:
            self._open.discard(ended)
            ended.set_result(None)


def handshake(send: Send) -> Send:
    """Lets an HTTP answer refuse a handshake (ASGI extension `websocket.http.response`)."""

    async def refusing(message: Message) -> None:
        if message["type"].startswith("http.response."):
            message = {**message, "type": f"websocket.{message['type']}"}
        await send(message)

    return refusing


async def speak(http: Exchange, stop: asyncio.Event, messages: AsyncIterator[str], farewell: str) -> None:
    """Accept the handshake and send each message as it comes, until the client leaves or the messages end.

    `farewell` is the last message when `stop` is set.
    """
    http.status = 101
    await http.send({"type": "websocket.accept"})
    speaking = asyncio.ensure_future(_send_all(http, messages))
    leaving = asyncio.ensure_future(_left(http))
    stopping = asyncio.ensure_future(stop.wait())
    tasks = (speaking, leaving, stopping)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        left, stopped = leaving.done(), stopping.done()
    finally:
        for task in tasks:
            task.cancel()
        error, *_ = await asyncio.gather(*tasks, return_exceptions=True)
    if left:
        return
    with suppress(Exception):  # the client may have gone meanwhile
        async with asyncio.timeout(_FAREWELL_SECONDS):
            if stopped:
                await http.send({"type": "websocket.send", "text": farewell})
                await _close(http, _GOING_AWAY, "the server stops")
            elif isinstance(error, TimeoutError):
                await _close(http, _TOO_SLOW, "messages are not taken")
            elif error is None:
                await _close(http, _REPLACED, "another connection listens for this AE")
    if isinstance(error, Exception) and not isinstance(error, TimeoutError):
        raise error


async def _close(http: Exchange, code: int, reason: str) -> None:
    await http.send({"type": "websocket.close", "code": code, "reason": reason})


async def _send_all(http: Exchange, messages: AsyncIterator[str]) -> None:
    async for text in messages:
        async with asyncio.timeout(_SEND_SECONDS):
            await http.send({"type": "websocket.send", "text": text})


async def _left(http: Exchange) -> None:
    while (await http.receive())["type"] != "websocket.disconnect":
        pass
