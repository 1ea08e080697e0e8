"""pynetdicom's connection and upper layer with bounds: by length, by silence, by a deadline (PS3.8).

A PDU that declares more than its kind may have is refused by its header alone, a peer that stops in the middle of a PDU
is cut off after seconds, and one that does not read loses its connection. The layer's thread sleeps until there is
something to do, where pynetdicom's turns a thousand times a second.
"""

import os
import queue
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import _PDUPrimitiveType
from pynetdicom.transport import AssociationSocket

from dimse_bridge.limits import Limits
from dimse_bridge.logs import log_crash, log_event

_PATIENCE: Final = 0.1  # how late timers are noticed
_PDU_HEADER: Final = 6

T = TypeVar("T")


class PduRefused(OSError):
    """A PDU is longer than its kind may be; pynetdicom closes the connection on any OSError."""


def _reason(error: OSError) -> str:
    if isinstance(error, PduRefused):
        return str(error)
    return "too slow" if isinstance(error, TimeoutError) else "reset by the peer"


class BoundedSocket(AssociationSocket):
    """A connection whose reads and writes end."""

    def __init__(self, association: Association, connection: socket.socket, peer: str, limits: Limits) -> None:
        super().__init__(association, client_socket=connection)
        self._peer = peer
        self._limits = limits
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._waker, select.POLLIN)

    def wake(self) -> None:
        """End the waiting of `ready`; called from another thread."""
        with suppress(OSError):
            os.eventfd_write(self._waker, 1)

    def release(self) -> None:
        """Free what the waiting needs; the connection itself is closed elsewhere."""
        waker, self._waker = self._waker, -1
        with suppress(OSError):
            os.close(waker)

    @property
    def ready(self) -> bool:
        """Whether data can be read; waits a moment for them when there is nothing else to do."""
        connection = self.socket
        if connection is None or not self._is_connected:
            time.sleep(0.001)
            return False
        try:
            patience = 0 if self.event_queue.qsize() else _PATIENCE * 1000
            events = dict(self._poll.poll(patience))
        except OSError:
            self.event_queue.put("Evt17")  # transport connection closed
            return False
        if self._waker in events:
            with suppress(OSError):
                os.eventfd_read(self._waker)
        return connection.fileno() in events

    def recv(self, nr_bytes: int) -> bytearray:
        """`nr_bytes` bytes, or fewer when the peer closed; OSError when that is too many or takes too long."""
        try:
            data = self._receive(nr_bytes)
        except OSError as error:
            log_event("connection-cut", peer=self._peer, reason=_reason(error))
            self._give_up()
            raise
        if len(data) < nr_bytes:
            self._give_up()
        return data

    def _receive(self, count: int) -> bytearray:
        limits, connection = self._limits, self.socket
        allowed = limits.max_pdu if self.assoc.is_established else limits.max_associate_pdu
        if count > allowed:
            raise PduRefused(f"a PDU of {count} bytes, at most {allowed} are taken")
        if connection is None:
            raise ConnectionResetError
        data, have = bytearray(count), 0
        deadline = time.monotonic() + (limits.pdu_deadline if count > _PDU_HEADER else limits.read_idle)
        with memoryview(data) as view:
            while have < count:
                left = min(limits.read_idle, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError
                connection.settimeout(left)
                got = connection.recv_into(view[have:])
                if not got:
                    break
                have += got
        del data[have:]
        return data

    def _give_up(self) -> None:
        """Let a connection end that has no association; an established one is ended by the state machine."""
        if not self.assoc.is_established and isinstance(self.assoc.dul, UpperLayer):
            self.assoc.dul.abandon()

    def send(self, bytestream: bytes) -> None:
        """Send all of `bytestream`, or close the connection."""
        connection = self.socket
        if connection is None:
            return
        try:
            connection.settimeout(self._limits.send_timeout)
            connection.sendall(bytestream)
        except OSError:
            self.event_queue.put("Evt17")  # transport connection closed


class _Announcing(queue.Queue[T]):
    """A queue that tells somebody that an entry came."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._tell()


class UpperLayer(DULServiceProvider):
    """The upper layer of one association (PS3.8 chapter 9); it calls `tell` when a primitive for its user came."""

    def __init__(self, association: Association, tell: Callable[[], None]) -> None:
        super().__init__(association)
        self.daemon = True
        self.to_user_queue = _Announcing(tell)
        self._run_loop_delay = 0.0  # `ready` waits

    def run_reactor(self) -> None:
        """Serve the connection until it is closed; the association notices when this ends."""
        try:
            super().run_reactor()
        except Exception as exc:  # noqa: BLE001 - the end of a thread: nobody else would hear of it
            log_crash("upper-layer-failed", exc)

    def send_pdu(self, primitive: _PDUPrimitiveType) -> None:
        """Queue a primitive for the peer."""
        super().send_pdu(primitive)
        self._wake()

    def stop_dul(self) -> bool:
        """End the thread if the connection is closed (state 1); whether it was."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        self._wake()
        self.join()
        return True

    def abandon(self) -> None:
        """Tell the association's thread that no request will come: it gets what it gets when its time is over."""
        self.to_user_queue.put(None)

    def restart_idle_timer(self) -> None:
        """Count the peer's silence from now: it was waiting for us."""
        self._idle_timer.restart()

    def _wake(self) -> None:
        if isinstance(self.socket, BoundedSocket):
            self.socket.wake()
