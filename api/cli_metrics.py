"""Metrics and liveness of `anor dimse` and `anor worker`, which serve no HTTP otherwise: on `metrics_port`."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.cli_options import fail, guarded
from api.listening import ListenError, listen
from api.metrics import CONTENT_TYPE, Metrics
from api.server import EmbeddedServer
from api.supervisor import Part
from storage.settings import Settings, check_exposure


def metrics_listener(settings: Settings, wanted: int) -> socket.socket:
    """The socket of the port that is wanted, which is announced; one that is taken is said at once."""
    guarded(lambda: check_exposure(settings.host, insecure=settings.insecure))
    try:
        [listener] = listen(settings.host, wanted, 1)
    except ListenError as error:
        fail(error)
    host, port = listener.getsockname()[:2]
    print(f"  metrics     http://{f'[{host}]' if ':' in host else host}:{port}/metrics", flush=True)
    return listener


@asynccontextmanager
async def telling(metrics: Metrics, listener: socket.socket | None, settings: Settings) -> AsyncIterator[None]:
    """Write what this process counts, and answer what all of its server count where there is a socket for it."""
    metrics.start()
    server = None if listener is None else EmbeddedServer(_application(metrics), listener, settings)
    serving = None if server is None else asyncio.create_task(server.serve())
    try:
        yield
    finally:
        if server is not None and serving is not None:
            server.stop()  # type: ignore[no-untyped-call]  # granian has no annotations here
            await asyncio.wait((serving,), timeout=5)
        await metrics.stop()


def metrics_part(listener: socket.socket, settings: Settings) -> Part:
    """A process that tells what its neighbours count."""

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with telling(Metrics(settings.data / "metrics", os.getppid()), listener, settings):
            await stop.wait()

    def serve() -> int:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
        return 0

    return Part("metrics", serve, listener)


def _application(metrics: Metrics) -> Starlette:
    async def tell(_: Request) -> Response:
        return Response(metrics.expose({}), media_type=CONTENT_TYPE.decode())

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})

    return Starlette(routes=[Route("/metrics", tell), Route("/healthz", healthz)])
