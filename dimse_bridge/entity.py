"""pynetdicom's associations with bounds, for what we ask. Everything here blocks and belongs into a thread.

pynetdicom as it comes waits 40 ms for each answer (no TCP_NODELAY), holds a whole object in its queues while a slow
peer reads, believes every length that it is told, and waits for ever in the middle of a PDU.
"""

import queue
import socket
import threading
from contextlib import suppress
from functools import partial
from typing import Any, Final

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

CONNECT_SECONDS: Final = 10.0
_END_SECONDS: Final = 2.0
# What is received in one PDU, whatever the peer says of itself.
_RECEIVED_PDU: Final = 1 << 20
# PDUs that wait to be sent, messages that wait to be looked at.
_WAITING: Final = 64
# N-EVENT-REPORTs that are served at the same time.
_REPORTS: Final = 8
# Between two looks at the socket; pynetdicom's own is a millisecond, which every message pays three times.
_LOOK_SECONDS: Final = 0.0002


class _Bounded(queue.Queue[Any]):
    """A queue whose putters wait for room, but not for ever."""

    def __init__(self, seconds: float) -> None:
        super().__init__(_WAITING)
        self._seconds = seconds

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Raises queue.Full where nothing was taken for so long."""
        super().put(item, block, timeout or self._seconds)


class Socket(AssociationSocket):
    """Sends at once, and waits for the peer no longer than the time that it has."""

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect."""
        if self.socket is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        super().connect(primitive)
        if self.socket is not None:
            self.socket.settimeout(self.assoc.dimse_timeout)

    def _shutdown_socket(self) -> None:
        """Close, whoever has shut it down before; pynetdicom would leave it open then."""
        super()._shutdown_socket()
        if self.socket is not None:
            with suppress(OSError):
                self.socket.close()

    def end(self) -> None:
        """Wake whoever reads or writes, who then closes it; from any thread."""
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def recv(self, nr_bytes: int) -> bytearray:
        """Receive; a PDU that is longer than any we have announced ends the connection."""
        if nr_bytes > _RECEIVED_PDU:
            raise OSError("a PDU is too long")
        return super().recv(nr_bytes)


class Entity(AE):
    """Makes associations with bounds."""

    def _create_socket(self, assoc: Association, address: AddressInformation, tls_args: Any) -> AssociationSocket:
        made = Socket(assoc, address=address)
        made.tls_args = tls_args
        patience = float(assoc.dimse_timeout or CONNECT_SECONDS)
        assoc.dul.to_provider_queue = _Bounded(patience)
        assoc.dimse.msg_queue = _Bounded(patience)
        assoc.dul._run_loop_delay = _LOOK_SECONDS  # noqa: SLF001 - the only way to say it
        # The association's own thread, which serves requests of the peer between ours, may take away the answer to the
        # next one when it is slow to stop (seen once in a thousand). It never starts: it counts as paused for ever.
        assoc.start = _nothing  # type: ignore[method-assign]
        assoc._is_paused = True  # noqa: SLF001
        assoc._serve_request = partial(_serve, assoc, made, threading.Semaphore(_REPORTS))  # type: ignore[method-assign] # noqa: SLF001
        return made


def _nothing() -> None:
    pass


def _serve(assoc: Association, connection: Socket, room: threading.Semaphore, message: Any, context_id: int) -> None:
    """Serve an N-EVENT-REPORT, in the thread that pynetdicom has made for it; too many at once end the connection.

    pynetdicom takes the association for running again then, and whoever sends next would wait for ever.
    """
    if not room.acquire(blocking=False):
        connection.end()
        return
    try:
        Association._serve_request(assoc, message, context_id)  # noqa: SLF001
    finally:
        assoc._is_paused = True  # noqa: SLF001
        room.release()


def discard(assoc: Association) -> None:
    """Leave neither a thread nor a socket behind."""
    assoc.dul.kill_dul()
    if assoc.dul.is_alive():
        assoc.dul.join(_END_SECONDS)
    if assoc.dul.socket is not None:
        assoc.dul.socket.close()
