"""Listening: connections are accepted in turn by the processes that share the port, and watched until they end."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterable
from typing import Final

from dimse_bridge.admission import Application
from dimse_bridge.association import Association
from dimse_bridge.connection import Connection
from dimse_bridge.limits import Limits
from dimse_bridge.logs import log_crash, log_event
from dimse_bridge.peers import Peers
from dimse_bridge.tls import Certificates

_TICK: Final = 0.25  # how late an overdue peer may be noticed
_CERTIFICATES: Final = 20  # ticks between two looks at the files
# How long a process leaves a connection to those with fewer, for each that it has more.
_COURTESY: Final = 0.002
_MOST_COURTESY: Final = 8
_LINGERING: Final = 64
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE: Final = 0.5


class Acceptor:
    """The associations of one process."""

    def __init__(self, application: Application, limits: Limits, peers: Peers) -> None:
        self._application = application
        self._limits = limits
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[socket.socket, Certificates | None] = {}
        self._associations: dict[Association, asyncio.Task[None]] = {}
        self._connections: set[Connection] = set()
        self._watching = self._loop.create_task(self._watch())

    def listen(self, listener: socket.socket, certificates: Certificates | None = None) -> None:
        """Accept connections of a listening socket that does not block; with certificates they speak TLS."""
        self._listeners[listener] = certificates
        self._loop.add_reader(listener.fileno(), self._arrived, listener)

    async def stop(self) -> None:
        """Accept no more, let running requests end within the grace, abort the rest."""
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        end = self._loop.time() + self._limits.stop_grace
        while self._associations:
            overdue = self._loop.time() > end
            for association in list(self._associations):
                if overdue or not association.busy:
                    association.end("")
            await asyncio.sleep(0.02)
            if self._loop.time() > end + self._limits.associate_timeout:
                break
        self._watching.cancel()
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # the loop closes their sockets in its next turn

    # -- connections -------------------------------------------------------------------------------------------------

    def _arrived(self, listener: socket.socket) -> None:
        """A connection waits. Whoever woke first would take every one of a burst: those with fewer come first."""
        excess = self._peers.excess
        if excess:
            self._rest(listener, _COURTESY * min(excess, _MOST_COURTESY))
        else:
            self._accept(listener)

    def _rest(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(seconds, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._arrived, listener)
            self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connected, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another process has it
        except OSError as error:
            log_event("accept-failed", reason=error.strerror or "")
            if error.errno in _EXHAUSTED:
                self._rest(listener, _PAUSE)
            return
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        association = Association(self._application, self._limits, self._peers, address[0].partition("%")[0])
        self._peers.arrive(association)
        certificates = self._listeners[listener]
        context = certificates.context if certificates is not None else None
        task = self._loop.create_task(self._converse(association, connected, context))
        association.task = task
        self._associations[association] = task

    async def _converse(
        self, association: Association, connected: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        """The whole life of a connection, the TLS handshake included."""
        connection = Connection(self._connections.discard)
        try:
            try:
                await self._loop.connect_accepted_socket(
                    lambda: connection,
                    connected,
                    ssl=context,
                    ssl_handshake_timeout=self._limits.associate_timeout if context is not None else None,
                )
            except OSError as error:  # of which TLS' errors are some
                log_event("connection-refused", peer=association.peer, reason=_failure(error))
                return
            if len(self._connections) < self._limits.max_associations + self._limits.max_pending + _LINGERING:
                self._connections.add(connection)
                await association.run(connection)
            else:
                connection.abort()
        except asyncio.CancelledError:
            connection.linger()
        except Exception as exc:  # noqa: BLE001 - the end of a task: nobody else would hear of it
            log_crash("connection-failed", exc, peer=association.peer)
            connection.abort()
        finally:
            if not connection.made:
                connected.close()
            self._associations.pop(association, None)
            self._peers.leave(association)

    async def _watch(self) -> None:
        """One clock for all: nothing is timed by itself."""
        ticks = 0
        while True:
            await asyncio.sleep(_TICK)
            ticks += 1
            now = self._loop.time()
            for association in list(self._associations):
                reason = association.overdue(now)
                if reason is not None:
                    association.end(reason)
            if ticks % _CERTIFICATES == 0:
                await self._renew(self._listeners.values())

    async def _renew(self, certificates: Iterable[Certificates | None]) -> None:
        for each in list(certificates):
            if each is not None:
                await asyncio.to_thread(each.refresh)


def _failure(error: OSError) -> str:
    """A reason of ours: what OpenSSL says holds nothing of the peer but its own words."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'failed'}"
    return error.strerror or type(error).__name__
