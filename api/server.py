"""HTTP: granian in each worker process, one event loop, on a listening socket that the supervisor made."""

import asyncio
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

import uvloop
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server
from starlette.types import ASGIApp

from api.listening import BACKLOG
from storage.settings import Settings

if TYPE_CHECKING:  # a gateway has no such application to import
    from api.app import Anor

CONNECTIONS: Final = 4096  # per worker; those above wait in the backlog
READ_BUFFER: Final = 1 << 20  # what one `receive` of a large body brings at most
# How long a thread that comes back from a system call waits for the interpreter while the event loop is busy. With
# Python's 5 ms the threads that write objects wait longer for it than for the disk: a third less is stored per second.
_SWITCH_SECONDS: Final = 0.001
_FAREWELL_SECONDS: Final = 2.0


class EmbeddedServer(Server):
    """A granian worker inside this process, on a socket that exists already."""

    def __init__(self, app: ASGIApp, listener: socket.socket, settings: Settings) -> None:
        super().__init__(
            app,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=True,
            backlog=BACKLOG,
            backpressure=CONNECTIONS,
            http1_settings=HTTP1Settings(
                # Also how long an idle connection is kept.
                header_read_timeout=settings.header_timeout * 1000,
                max_buffer_size=READ_BUFFER,
            ),
            log_level=LogLevels.error,
        )
        self._listener = listener

    def _init_shared_socket(self) -> None:
        self._ssp = None
        # The holder owns the descriptor from here on and closes it when the worker stops accepting.
        # (granian's stub does not know the arguments.)
        holder = SocketHolder(self._listener.detach(), False, BACKLOG)  # type: ignore[call-arg]
        self._shd = holder  # type: ignore[assignment]
        self._sfd = holder.get_fd()


def serve_http(app: "Anor", listener: socket.socket, settings: Settings) -> int:
    """Serve until SIGTERM, then finish the requests in flight; returns the exit status of the process."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(app, listener, settings))


async def _serve(app: "Anor", listener: socket.socket, settings: Settings) -> int:
    server = EmbeddedServer(app, listener, settings)
    stopping: list[asyncio.Task[None]] = []  # the loop alone would not keep it alive

    async def stop() -> None:
        await app.sockets.stop(_FAREWELL_SECONDS)
        server.stop()  # type: ignore[no-untyped-call]  # granian has no annotations here

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: stopping.append(loop.create_task(stop())))
    await server.serve()
    return 1 if server.interrupt_children else 0  # the application could not start
