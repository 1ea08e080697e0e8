"""What goes out on an association: messages cut to the PDUs that the peer takes, each in one piece."""

import asyncio

from dimse_bridge.connection import Connection, Gone
from dimse_bridge.messages import SMALLEST_SENT, pdus


class Outlet:
    """The way to the peer; without a connection, before it is made and after it has ended, nothing goes out."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.max_pdu = SMALLEST_SENT  # until the peer has said how long a PDU may be
        self.lock = asyncio.Lock()  # to be held while a message goes out

    def write(self, *pieces: bytes | memoryview) -> None:
        """Queue encoded PDUs."""
        if self.connection is not None:
            self.connection.write(pieces)

    def send(self, context_id: int, command: bytes, data_set: bytes | None = None) -> None:
        """Queue a message, or the command set of one whose data set follows."""
        parts = [*pdus(context_id, command, self.max_pdu, is_command=True)]
        if data_set is not None:
            parts += pdus(context_id, data_set, self.max_pdu, is_command=False)
        self.write(*parts)

    async def drain(self) -> None:
        """Wait until the peer may take more. Raises Gone when there is no connection any more."""
        if self.connection is None:
            raise Gone
        await self.connection.drain()
