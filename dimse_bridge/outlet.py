"""What goes out on an association: messages cut to the PDUs that the peer takes, each in one piece."""

import asyncio
from typing import Final

from dimse_bridge.connection import Connection, Gone
from dimse_bridge.messages import SMALLEST_SENT, pdus

_HELD: Final = 64 << 10  # bytes of messages that wait for the next one


class Outlet:
    """The way to the peer; without a connection, before it is made and after it has ended, nothing goes out."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.max_pdu = SMALLEST_SENT  # until the peer has said how long a PDU may be
        self.lock = asyncio.Lock()  # to be held while a message goes out
        self._held: list[bytes | memoryview] = []
        self._size = 0

    def write(self, *pieces: bytes | memoryview) -> None:
        """Queue encoded PDUs, behind those that were held back."""
        if self.connection is not None:
            self.connection.write([*self._held, *pieces])
        self._held, self._size = [], 0

    def send(self, context_id: int, command: bytes, data_set: bytes | None = None, *, hold: bool = False) -> None:
        """Queue a message, or the command set of one whose data set follows.

        `hold`: another one follows at once, so that the kernel is asked, and the peer woken, once for both.
        """
        parts = [*pdus(context_id, command, self.max_pdu, is_command=True)]
        if data_set is not None:
            parts += pdus(context_id, data_set, self.max_pdu, is_command=False)
        size = self._size + sum(map(len, parts))
        if hold and size <= _HELD:
            self._held += parts
            self._size = size
        else:
            self.write(*parts)

    async def drain(self) -> None:
        """Wait until the peer may take more. Raises Gone when there is no connection any more."""
        if self.connection is None:
            raise Gone
        await self.connection.drain()
