"""The commands that serve: `anor serve`, `api`, `worker`, `dimse`."""

import asyncio
import dataclasses
import gc
import getpass
import http.client
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from api.cli_logging import configure_logging
from api.cli_options import fail, guarded
from api.listening import ListenError, listen
from api.supervisor import Part, StartError, Supervisor, raise_file_limit
from dicomweb.errors import ArchiveError
from storage.embedded import EmbeddedError, EmbeddedPostgres, connections_for, database_url
from storage.settings import Settings, check_exposure

if TYPE_CHECKING:
    from api.app import Anor
    from dimse_bridge.peers import Doors

log = logging.getLogger("anor.serve")

READY_TIMEOUT: Final = 60.0
STATE_FILE: Final = "server.json"


def run_all(settings: Settings) -> int:
    """`anor serve`: the embedded database where none is given, migrations, HTTP, DIMSE and worker."""
    begin = time.monotonic()
    guarded(lambda: check_exposure(settings.host, insecure=settings.insecure))
    _prepare(settings)
    listeners, settings = _bind(settings)
    doors, settings = _dimse_doors(settings)
    application = _Application(settings)
    postgres = None
    signal.signal(signal.SIGTERM, _interrupt)  # until the supervisor waits for signals itself
    try:
        if settings.database_url is None:
            postgres = EmbeddedPostgres(
                settings.data / "postgres",
                connections=connections_for(settings),
                programs=settings.postgres_bin,
            ).start(meanwhile=lambda: _load(application))
        _migrate(database_url(settings))
        parts = [
            *_http_parts(application, listeners),
            *_dimse_parts(settings, doors),
            Part("worker", lambda: _worker(settings, os.getppid())),
        ]
        supervisor = Supervisor(parts, postgres, listeners, settings.shutdown_timeout, doors.sockets)
        return _supervise(supervisor, settings, begin, doors)
    except (EmbeddedError, ArchiveError) as error:
        fail(error)
    except KeyboardInterrupt:
        return 130
    finally:
        if postgres is not None:
            postgres.stop()


def _load(application: "_Application") -> None:
    """Import what the children need, once for all of them."""
    application.build()
    gc.disable()
    import dimse_bridge.server  # noqa: F401

    gc.enable()


def run_api(settings: Settings) -> int:
    """`anor api`: HTTP workers against a database that runs already."""
    begin = time.monotonic()
    guarded(lambda: check_exposure(settings.host, insecure=settings.insecure))
    _prepare(settings)
    _require_migrated(settings)
    listeners, settings = _bind(settings)
    parts = _http_parts(_Application(settings), listeners)
    return _supervise(Supervisor(parts, None, listeners, settings.shutdown_timeout), settings, begin)


def run_worker(settings: Settings) -> int:
    """`anor worker`: background work in this process."""
    _prepare(settings)
    _require_migrated(settings)
    raise_file_limit()
    listener = None
    if settings.metrics_port is not None:
        from api.cli_metrics import metrics_listener

        listener = metrics_listener(settings, settings.metrics_port)
    try:
        return _worker(settings, os.getpid(), listener)
    except ArchiveError as error:
        fail(error)


def run_dimse(settings: Settings) -> int:
    """`anor dimse`: the DIMSE service alone, against a database that runs already."""
    guarded(lambda: check_exposure(settings.host, insecure=settings.insecure))
    _prepare(settings)
    _require_migrated(settings)
    doors, settings = _dimse_doors(settings)
    parts, listeners = _dimse_parts(settings, doors), []
    if settings.metrics_port is not None:
        from api.cli_metrics import metrics_listener, metrics_part

        listeners.append(metrics_listener(settings, settings.metrics_port))
        parts.append(metrics_part(listeners[0], settings))
    supervisor = Supervisor(parts, None, listeners, settings.shutdown_timeout, doors.sockets)
    supervisor.start()
    try:
        if supervisor.await_ready(lambda: _missing(doors), READY_TIMEOUT):
            supervisor.run()
    except StartError as error:
        print(f"anor: {error}", file=sys.stderr)
        supervisor.stop()
        return 1
    return 0 if supervisor.stop() else 1


def run_dimse_user(name: str) -> int:
    """`anor dimse-user`: a passcode from the terminal or from standard input, a line for the file of users."""
    from dimse_bridge.users import UsersError, line_for

    try:
        if sys.stdin.isatty():
            passcode = getpass.getpass("Passcode: ")
            if getpass.getpass("Again: ") != passcode:
                fail("the passcodes differ")
        else:
            passcode = sys.stdin.readline().rstrip("\n")
        if not passcode:
            fail("an empty passcode is none")
        print(line_for(name, passcode))
    except UsersError as error:
        fail(error)
    return 0


def _prepare(settings: Settings) -> None:
    # The parent must not have threads when it forks, and nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Else pydantic reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    configure_logging(settings.log_level)
    try:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        fail(f"cannot make the data directory {settings.data}: {error.strerror}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class _Application:
    """The ASGI application, built once before the workers are forked; the database may be starting meanwhile."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app: Anor | None = None

    def build(self) -> None:
        """Import and build. The collector would find nothing there, and look a hundred times: a quarter of the time."""
        if self._app is None:
            gc.disable()
            from api.app import create_app

            self._app = create_app(self._settings)
            gc.enable()

    def serve(self, listener: socket.socket) -> int:
        """One worker, in a child process."""
        from api.server import serve_http

        self.build()
        assert self._app is not None
        return serve_http(self._app, listener, self._settings)


def _http_parts(application: _Application, listeners: Sequence[socket.socket]) -> list[Part]:
    application.build()
    import api.server  # noqa: F401 - imported before the fork, once for all workers

    def part(number: int, listener: socket.socket) -> Part:
        return Part(f"HTTP worker {number}", lambda: application.serve(listener), listener)

    return [part(number, listener) for number, listener in enumerate(listeners, start=1)]


def _bind(settings: Settings) -> tuple[list[socket.socket], Settings]:
    try:
        listeners = listen(settings.host, settings.http_port, settings.workers)
    except ListenError as error:
        fail(error)
    return listeners, dataclasses.replace(settings, http_port=listeners[0].getsockname()[1])


def _dimse_doors(settings: Settings) -> tuple["Doors", Settings]:
    """The sockets that the DIMSE processes share. A port that is taken is said at once; 0 becomes a free one."""
    from dimse_bridge.peers import Board, Doors

    tls = None
    try:
        [plain] = listen(settings.host, settings.dimse_port, 1)
        settings = dataclasses.replace(settings, dimse_port=plain.getsockname()[1])
        if settings.dimse_tls_port is not None:
            [tls] = listen(settings.host, settings.dimse_tls_port, 1)
            settings = dataclasses.replace(settings, dimse_tls_port=tls.getsockname()[1])
    except ListenError as error:
        fail(error)
    return Doors(plain, tls, Board(settings.dimse_processes, settings.dimse_associations)), settings


def _dimse_parts(settings: Settings, doors: "Doors") -> list[Part]:
    """The DIMSE processes; certificates and users that cannot be used are said here, once for all of them."""
    from dimse_bridge.server import Credentials, serve
    from dimse_bridge.users import UsersError

    try:
        Credentials.of(settings)
    except (ArchiveError, UsersError) as error:
        fail(error)

    def part(number: int) -> Part:
        def run() -> int:
            serve(settings, doors, number)
            return 0

        return Part(f"DIMSE process {number + 1}", run, shares=doors.sockets)

    return [part(number) for number in range(settings.dimse_processes)]


def _migrate(url: str) -> None:
    from storage.migrate import MigrationError, migrate

    try:
        asyncio.run(migrate(url, report=log.info))
    except MigrationError as error:
        fail(error)


def _require_migrated(settings: Settings) -> None:
    from storage.migrate import MigrationError, require_current

    try:
        asyncio.run(require_current(database_url(settings)))
    except (MigrationError, EmbeddedError) as error:
        fail(error)


def _worker(settings: Settings, server: int, listener: socket.socket | None = None) -> int:
    """The worker's process; `server` as for Counts, and where there is a socket, metrics on it."""
    import uvloop

    from api.cli_metrics import telling
    from api.metrics import Metrics
    from dimse_bridge.commitment import handlers as commitment_handlers
    from dimse_bridge.scu import Requestor
    from dimse_bridge.step_notifications import handlers as notification_handlers
    from dimse_bridge.tasks import handlers as dimse_handlers
    from storage.archive import open_archive
    from storage.archive_jobs import handlers as archive_handlers
    from storage.modification_jobs import handlers as modification_handlers
    from storage.reconstruction import handlers as reconstruction_handlers
    from storage.remote_retrieval import handlers as retrieval_handlers
    from storage.remote_sending import handlers as sending_handlers
    from storage.transfer_jobs import commit_handlers
    from storage.transfer_jobs import handlers as transfer_handlers
    from storage.worker import run_worker as work
    from wsi.tasks import handlers, steps

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        archive = await open_archive(settings)
        try:
            requestor = Requestor(archive)
            dimse = {
                **dimse_handlers(requestor),
                **commitment_handlers(requestor),
                **notification_handlers(requestor),
            }
            remote = {**sending_handlers(archive), **retrieval_handlers(archive), **transfer_handlers(archive)}
            lanes = (
                (handlers(archive), 1),
                (dimse, settings.jobs_at_once),
                (modification_handlers(archive), settings.jobs_at_once),
                (remote, settings.jobs_at_once),
                (commit_handlers(archive), settings.jobs_at_once),
                (reconstruction_handlers(archive), 1),
                (archive_handlers(archive), settings.jobs_at_once),
            )
            metrics = Metrics(
                settings.data / "metrics", server, requestor.counters, archive.times, requestor.traffic.levels
            )
            try:
                async with telling(metrics, listener, settings):
                    await work(archive, stop, lanes, steps(archive))
            finally:
                await requestor.close()
        finally:
            await archive.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return 0


def _supervise(supervisor: Supervisor, settings: Settings, begin: float, doors: "Doors | None" = None) -> int:
    """Start, announce, look after, stop; the exit status. Without doors there is no DIMSE service."""
    state = settings.data / STATE_FILE
    status = 0
    supervisor.start()
    try:
        if supervisor.await_ready(lambda: _missing(doors) or _unready(settings), READY_TIMEOUT):
            _announce(settings, state, time.monotonic() - begin, alone=doors is None)
            supervisor.run()
    except StartError as error:
        print(f"anor: {error}", file=sys.stderr)
        status = 1
    finally:
        state.unlink(missing_ok=True)
        stopped = supervisor.stop()
    return status if stopped else 1


def _missing(doors: "Doors | None") -> str:
    return "" if doors is None or doors.board.ready else "the DIMSE processes have not begun"


def _unready(settings: Settings) -> str:
    """Why HTTP does not serve yet; "" when it does."""
    connection = http.client.HTTPConnection(_reachable(settings.host), settings.http_port, timeout=10)
    try:
        connection.request("GET", "/readyz", headers={"Connection": "close"})
        answer = connection.getresponse()
        return "" if answer.status == http.HTTPStatus.OK else "; ".join(json.load(answer)["reasons"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return "HTTP does not answer"
    finally:
        connection.close()


def _reachable(host: str) -> str:
    """An address to connect to, for one that may mean all interfaces."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return host


def _announce(settings: Settings, state: Path, seconds: float, *, alone: bool) -> None:
    host = _reachable(settings.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}"
    said = {
        "pid": os.getpid(),
        "url": f"{url}/",
        "dimse_port": 0 if alone else settings.dimse_port,
        "aet": settings.aet,
    }
    temporary = state.with_suffix(".tmp")
    temporary.write_text(json.dumps(said), "utf-8")
    temporary.replace(state)
    lines = [
        f"Anor {version('anor')} is ready after {seconds:.1f} s; data in {settings.data}",
        f"  start page  {url}/",
        f"  DICOMweb    {url}{settings.dicomweb_root}",
        f"  API         {url}/docs",
    ]
    if not alone:
        lines.append(f"  DIMSE       {settings.aet} at {host} port {settings.dimse_port}")
    if not alone and settings.dimse_tls_port is not None:
        lines.append(f"  DIMSE, TLS  {settings.aet} at {host} port {settings.dimse_tls_port}")
    if settings.insecure:
        lines.append(f"  WARNING     everyone who reaches {settings.host} can read and delete every study (--insecure)")
    print("\n".join(lines), flush=True)
