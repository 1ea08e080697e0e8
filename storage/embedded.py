"""Supervises the PostgreSQL that comes with a wheel: no service, no account, no port.

One process owns a data directory (an flock says so) and runs the server as its child; every other process attaches
to the unix socket with `attach`. The server shuts down cleanly when its owner ends in whatever way, kill -9 included;
a server that was killed is started again by `supervise_once`.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self, TextIO
from urllib.parse import quote

from storage.embedded_cluster import (
    ADMIN,
    DATABASE,
    ROLE,
    EmbeddedError,
    create_cluster,
    find_programs,
    forced_options,
    machine_memory,
    program_environment,
    tuning,
    write_configuration,
    write_private,
)
from storage.embedded_processes import POLL, cluster_name, end, end_orphans, retire_orphan
from storage.process import RunAs, choose_identity, hand_over, owner_of, prepare_child
from storage.settings_model import Settings

__all__ = [
    "EmbeddedError",
    "EmbeddedPostgres",
    "InUse",
    "NotRunning",
    "attach",
    "connections_for",
    "database",
    "database_url",
]

SOCKET_NAME: Final = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT: Final = 107  # bytes in sockaddr_un.sun_path, without the final zero
LOG_LIMIT: Final = 8 << 20


def _nothing() -> None:
    """The default of `meanwhile`."""


class InUse(EmbeddedError):
    """Another process owns the data directory."""


class NotRunning(EmbeddedError):
    """No process owns the data directory, so there is nothing to attach to."""


class EmbeddedPostgres:
    """The owner's side: `start`, `supervise_once` now and then, `stop`. Call all from one thread, the main thread.

    `base` receives data/, run/ (the socket), two password files, endpoint.json and postgres.log. `connections` is the
    server's max_connections. `throwaway` gives up durability for speed: only for data that nobody will miss.
    """

    def __init__(
        self,
        base: Path,
        *,
        connections: int = 100,
        programs: Path | None = None,
        throwaway: bool = False,
        run_as: str = "",
    ) -> None:
        self.base = base.absolute()
        self.data = self.base / "data"
        self.log = self.base / "postgres.log"
        self._connections = connections
        self._wanted_programs = programs
        self._throwaway = throwaway
        self._run_as = run_as
        self._lock: TextIO | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The connection URL of the archive's role, over the unix socket."""
        return _dsn(self.base, ROLE, DATABASE, "password")

    @property
    def admin_dsn(self) -> str:
        """The connection URL of the superuser."""
        return _dsn(self.base, ADMIN, ADMIN, "admin-password")

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, timeout: float = 60.0, meanwhile: Callable[[], None] = _nothing) -> Self:
        """Create the cluster where there is none, start the server, and return when it accepts connections.

        `meanwhile` runs once in this thread while a child process works. Raises InUse where another process owns
        the directory, EmbeddedError where the server cannot run.
        """
        self.base.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _take_ownership(self.base)
        try:
            identity = choose_identity(self._run_as)
            version = self.data / "PG_VERSION"
            existing = int(version.read_text().strip()) if version.is_file() else None
            programs = find_programs(existing, self._wanted_programs)
            if existing is None:
                create_cluster(self.base, programs, identity, meanwhile)
                meanwhile = _nothing
            else:
                retire_orphan(self.data, timeout)
                if self.data.stat().st_uid != owner_of(identity)[0]:
                    hand_over(identity, [self.data, *self.data.rglob("*")])
            self._identity = identity
            self._programs = programs
            self._launch(timeout, meanwhile)
        except BaseException:
            self.stop()
            raise
        return self

    def supervise_once(self, timeout: float = 60.0) -> bool:
        """Start the server again if it has died; says whether it had."""
        if self._process is None or self._process.poll() is None:
            return False
        self._launch(timeout)
        return True

    def stop(self, timeout: float = 120.0) -> None:
        """Shut down cleanly (open transactions are rolled back) and give up the directory."""
        process, self._process = self._process, None
        if process is not None:
            end(process, timeout, signal.SIGQUIT if self._throwaway else signal.SIGINT)
        if self._lock is not None:
            (self.base / "endpoint.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def leave(self) -> None:
        """In a forked child: let go of what belongs to the parent, without touching the server."""
        self._process = None
        if self._lock is not None:
            self._lock.close()  # the parent's descriptor keeps the lock
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _launch(self, timeout: float, meanwhile: Callable[[], None] = _nothing) -> None:
        """Start the server; while backends of a killed one still hold its shared memory, try again."""
        sockets = socket_directory(self.base)
        sockets.mkdir(exist_ok=True, mode=0o700)
        if sockets.lstat().st_uid not in {os.geteuid(), *(owner_of(each)[0] for each in RunAs if os.geteuid() == 0)}:
            raise EmbeddedError(f"{sockets} belongs to somebody else")
        # Of a server of ours that is dead: PostgreSQL would take a program that now has its number (or its zombie) for
        # it. The data directory has a lock of its own, which also sees backends that are left.
        (sockets / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)
        options = tuning(self._programs.major, self._connections, machine_memory())
        write_configuration(self.data, options)
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        hand_over(self._identity, [sockets, self.data / "anor.conf"])
        arguments = [str(self._programs.directory / "postgres"), "-D", str(self.data)]
        cluster = cluster_name(self.base)
        forced = forced_options(sockets, throwaway=self._throwaway) | {"cluster_name": cluster}
        for name, value in forced.items():
            arguments += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + timeout
        while True:
            end_orphans(cluster)
            begin = self.log.stat().st_size if self.log.exists() else 0
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=program_environment(),
                    preexec_fn=prepare_child(self._identity, signal.SIGINT),
                )
            meanwhile()
            if self._await_ready(self._process, deadline):
                break
            said = self.log.read_bytes()[begin:].decode("utf-8", "replace").strip()
            meanwhile = _nothing
            if "shared memory" not in said or time.monotonic() > deadline:
                raise EmbeddedError(
                    f"PostgreSQL does not start (exit {self._process.returncode}); {self.log} ends:\n{said[-2000:]}"
                )
            time.sleep(0.1)
        self._announce()

    def _await_ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """True once the server takes connections, False if it has ended."""
        pidfile = self.data / "postmaster.pid"
        while process.poll() is None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                lines = pidfile.read_text().splitlines()
                # The pid too: a file that a killed server left behind also says "ready".
                if int(lines[0]) == process.pid and lines[7].strip() == "ready":
                    return True
            if time.monotonic() > deadline:
                raise EmbeddedError(f"PostgreSQL was not ready in time; see {self.log}")
            time.sleep(POLL)
        return False

    def _announce(self) -> None:
        endpoint = {
            "host": str(socket_directory(self.base)),
            "port": 5432,
            "user": ROLE,
            "database": DATABASE,
            "postmaster": self.pid,
            "owner": os.getpid(),
            "version": self._programs.major,
        }
        temporary = self.base / "endpoint.json.tmp"
        write_private(temporary, json.dumps(endpoint))
        temporary.replace(self.base / "endpoint.json")


def attach(base: Path) -> str:
    """The connection URL of a server that another process owns; raises NotRunning where none does."""
    base = base.absolute()
    try:
        json.loads((base / "endpoint.json").read_text("utf-8"))
        owner = base.joinpath("owner.lock").open("r", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise NotRunning(
            f"no PostgreSQL runs for {base}: start it with `anor serve`, or set ANOR_DATABASE_URL"
        ) from error
    with owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _dsn(base, ROLE, DATABASE, "password")
    raise NotRunning(f"the owner of {base} has ended without a clean stop: start `anor serve` again")


def database_url(settings: Settings) -> str:
    """Where this process finds the database: the configured one, else the embedded one, which has to run."""
    return settings.database_url if settings.database_url is not None else attach(settings.data / "postgres")


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The database's URL for the time of one command: the configured one, a running embedded one, or our own."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    base = settings.data / "postgres"
    try:
        url = attach(base)
    except NotRunning:
        with EmbeddedPostgres(base, connections=connections_for(settings), programs=settings.postgres_bin) as server:
            yield server.dsn
        return
    yield url


def connections_for(settings: Settings) -> int:
    """max_connections: the pools of all processes of `anor serve`, as many commands beside it, and a reserve."""
    return (settings.workers + settings.dimse_processes + 3) * (settings.database_pool + 1) + 20


def socket_directory(base: Path) -> Path:
    """Where the socket lies: below `base`, or for a path that is too long for a socket in a short directory of ours."""
    inside = base / "run"
    if len(os.fsencode(inside / SOCKET_NAME)) <= SOCKET_PATH_LIMIT:
        return inside
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    root = Path(runtime) if runtime and len(runtime) < 60 and Path(runtime).is_dir() else Path("/tmp")  # noqa: S108
    return root / f"anor-{os.geteuid()}-{hashlib.sha256(os.fsencode(base)).hexdigest()[:16]}"


def _dsn(base: Path, user: str, name: str, password_file: str) -> str:
    password = (base / password_file).read_text("utf-8").strip()
    return f"postgresql://{user}:{quote(password)}@/{name}?host={quote(str(socket_directory(base)), safe='')}&port=5432"


def _take_ownership(base: Path) -> TextIO:
    lock = (base / "owner.lock").open("a+", encoding="utf-8")
    for _ in range(20):  # `attach` holds it for a moment when it looks whether there is an owner
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
            continue
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock
    lock.seek(0)
    owner = lock.read().strip()
    lock.close()
    raise InUse(f"{base} is in use by process {owner or 'unknown'}: stop that, or choose another directory with --data")
