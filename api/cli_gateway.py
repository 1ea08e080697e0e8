"""`anor gateway`: receives at the edge of a hospital and forwards to an archive; one process, no database."""

import asyncio
import signal
import socket
from importlib.metadata import version
from typing import Final

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.cli_logging import configure_logging
from api.cli_options import fail, guarded
from api.listening import ListenError, listen
from api.metrics import CONTENT_TYPE
from api.server import EmbeddedServer
from api.supervisor import raise_file_limit
from dicomweb.errors import ArchiveError
from dimse_bridge.gateway.service import Gateway
from dimse_bridge.peers import Board, Doors
from dimse_bridge.server import Credentials, configure_libraries
from dimse_bridge.users import UsersError
from storage.setting_checks import SettingError
from storage.settings import Settings, check_exposure

_LOOPBACK: Final = "127.0.0.1"
_NO_STORE: Final = {"cache-control": "no-store"}


def run_gateway(settings: Settings, *, retry_rejected: bool) -> int:
    """Run until SIGTERM or SIGINT; the exit status."""
    guarded(lambda: check_exposure(settings.host, insecure=settings.insecure))
    configure_logging(settings.log_level)
    configure_libraries()
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_run(settings, retry_rejected=retry_rejected))
        except SettingError as error:
            fail(error, 2)
        except (ArchiveError, UsersError, ListenError) as error:
            fail(error)
    return 0


async def _run(settings: Settings, *, retry_rejected: bool) -> None:
    credentials = Credentials.of(settings)
    gateway = await asyncio.to_thread(Gateway, settings, revive=retry_rejected)
    [status] = listen(_LOOPBACK, settings.gateway_status_port, 1)
    [plain] = listen(settings.host, settings.dimse_port, 1)
    tls = listen(settings.host, settings.dimse_tls_port, 1)[0] if settings.dimse_tls_port is not None else None
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _announce(settings, plain, tls, status)
    server = EmbeddedServer(status_application(gateway), status, settings)
    serving = asyncio.create_task(server.serve())
    try:
        doors = Doors(plain, tls, Board(1, settings.dimse_associations))
        await gateway.run(doors, credentials, stop)
    finally:
        server.stop()  # type: ignore[no-untyped-call]  # granian has no annotations here
        await asyncio.wait((serving,), timeout=5)


def status_application(gateway: Gateway) -> Starlette:
    """What is asked on the loopback port."""

    async def status(_: Request) -> Response:
        return JSONResponse((await gateway.report()).as_json(), headers=_NO_STORE)

    async def metrics(_: Request) -> Response:
        return Response((await gateway.report()).as_metrics(), media_type=CONTENT_TYPE.decode())

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers=_NO_STORE)

    return Starlette(routes=[Route("/status", status), Route("/metrics", metrics), Route("/healthz", healthz)])


def _announce(settings: Settings, plain: socket.socket, tls: socket.socket | None, status: socket.socket) -> None:
    host, port = plain.getsockname()[:2]
    lines = [
        f"Anor {version('anor')} forwards to {settings.gateway_to}; spool in {settings.data / 'gateway'}",
        f"  DIMSE       {settings.aet} at {host} port {port}",
        f"  status      http://{_LOOPBACK}:{status.getsockname()[1]}/status",
    ]
    if tls is not None:
        lines.insert(2, f"  DIMSE, TLS  {settings.aet} at {host} port {tls.getsockname()[1]}")
    print("\n".join(lines), flush=True)
