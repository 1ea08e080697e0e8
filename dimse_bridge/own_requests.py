"""Requests of ours on an association that a peer has asked for: C-STORE of a C-GET, N-EVENT-REPORT (PS3.7 8.1, 10.1).

One at a time: asynchronous operations are not negotiated.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from dimse_bridge.command import Command
from dimse_bridge.connection import Gone
from dimse_bridge.messages import Fragmenter
from dimse_bridge.outlet import Outlet
from dimse_bridge.service import AskFailed, DataSet
from dimse_bridge.violation import UNEXPECTED_PDU, Violation


class OwnRequests:
    """Asks, and waits for the response."""

    def __init__(self, outlet: Outlet, timeout: float, end: Callable[[str], None]) -> None:
        """`timeout`: seconds that a response may take; `end` aborts the association, with a reason in our words."""
        self._outlet = outlet
        self._timeout = timeout
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._one = asyncio.Lock()
        self._asked: tuple[int, asyncio.Future[Command]] | None = None
        self._message_id = 0
        self.due: float | None = None  # when the response has to be there
        self.ended_at = 0.0  # when the last one was over

    def take(self, response: Command) -> None:
        """A response came. Raises Violation for one that nobody waits for."""
        if self._asked is None or response.message_id != self._asked[0] or self._asked[1].done():
            raise Violation("a response came that belongs to no request", UNEXPECTED_PDU)
        self._asked[1].set_result(response)

    def lost(self) -> None:
        """The association has ended: there will be no response."""
        if self._asked is not None and not self._asked[1].done():
            self._asked[1].set_exception(AskFailed("the association has ended"))

    async def ask(self, context_id: int, encoded: Callable[[int], bytes], data: DataSet | None) -> Command:
        """The response to a request, of which `encoded` makes the command set with its message ID.

        A data set that breaks off ends the association: there is no way to take it back. Raises AskFailed.
        """
        async with self._one:
            self._message_id = self._message_id % 0xFFFF + 1
            answer: asyncio.Future[Command] = self._loop.create_future()
            self._asked = (self._message_id, answer)
            try:
                # However long it is: a peer that does not read is noticed by the watch.
                await self._send(context_id, encoded(self._message_id), data)
                self.due = self._loop.time() + self._timeout
                return await answer
            except Gone as exc:
                raise AskFailed("the association has ended") from exc
            finally:
                self._asked, self.due, self.ended_at = None, None, self._loop.time()

    async def _send(self, context_id: int, command: bytes, data: DataSet | None) -> None:
        async with self._outlet.lock:
            if data is None or isinstance(data, bytes):  # in one piece: the kernel is asked once
                self._outlet.send(context_id, command, data)
            else:
                await self._send_in_pieces(context_id, command, data)
            await self._outlet.drain()

    async def _send_in_pieces(self, context_id: int, command: bytes, data: AsyncIterator[bytes]) -> None:
        fragmenter = Fragmenter(context_id, self._outlet.max_pdu)
        self._outlet.send(context_id, command)
        try:
            async for piece in data:
                self._outlet.write(*fragmenter.feed(piece))
                await self._outlet.drain()
        except Gone:
            raise
        except BaseException:
            self._end("a data set of ours broke off")
            raise
        self._outlet.write(*fragmenter.finish())
