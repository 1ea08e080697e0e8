"""Shared by the tests: free ports, and `anor serve` as a real process."""

import asyncio
import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil

from storage.access import LOCAL
from storage.archive import Archive
from storage.embedded import attach
from storage.settings import Settings

ROOT = Path(__file__).parent.parent
# Opens an archive with settings; see tests/conftest.py.
Opened = Callable[..., contextlib.AbstractAsyncContextManager[Archive]]


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without settings of the person who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANOR_")}
    if "ANOR_POSTGRES_BIN" in os.environ:
        kept["ANOR_POSTGRES_BIN"] = os.environ["ANOR_POSTGRES_BIN"]
    return kept | variables


def anor(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one `anor` command to its end; variables are ANOR_ settings by their lower-case names."""
    named = {f"ANOR_{name.upper()}": value for name, value in variables.items()}
    return subprocess.run(
        [sys.executable, "-m", "api.cli", *arguments],
        cwd=cwd or ROOT,
        env=clean_environment(PYTHONPATH=str(ROOT), COLUMNS="200", **named),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@dataclass
class RunningServer:
    """`anor serve` in a process group of its own; `url` has no slash at its end."""

    data: Path
    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""
    dimse_port: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """Kill -9 of the supervisor; everything else has to end by itself."""
        self.process.kill()
        self.process.wait(30)

    def stop(self, timeout: float = 90) -> int:
        """SIGTERM, then the exit status; kill -9 where it takes too long."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout)
        if self.process.poll() is None:
            self.kill()
            raise AssertionError(f"anor serve did not stop within {timeout} s:\n{self.output()[-4000:]}")
        return int(self.process.returncode)


def start_server(
    data: Path, *flags: str, timeout: float = 60, wait: bool = True, fresh: bool = False, **settings: object
) -> RunningServer:
    """Start `anor serve` on free ports below `data`; settings become ANOR_ variables. Returns when it is ready.

    `fresh`: a server that has no cluster makes it, as on a new machine; else it begins with a copy of one.
    """
    data.mkdir(parents=True, exist_ok=True)
    if not fresh and "database_url" not in settings and not (data / "postgres").exists():
        begin_migrated(data)
    named = {f"ANOR_{name.upper()}": str(value) for name, value in settings.items()}
    defaults = {"ANOR_DATA": str(data), "ANOR_HTTP_PORT": "0", "ANOR_DIMSE_PORT": "0", "ANOR_WORKERS": "2"}
    environment = clean_environment(PYTHONPATH=str(ROOT), **(defaults | named))
    log = data / "serve.log"
    (data / "server.json").unlink(missing_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve", *flags],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = RunningServer(data, process, log, environment=environment)
    if wait:
        await_ready(server, timeout)
    return server


@functools.cache
def migrated_data() -> Path:
    """A data directory with a migrated cluster, made by `anor migrate` once in this process: what others begin as."""
    base = Path(tempfile.mkdtemp(prefix="anor-migrated-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    done = anor("migrate", data=str(base))
    assert done.returncode == 0, done.stderr
    return base


def begin_migrated(data: Path) -> None:
    """Spare whoever starts below `data` the making of a cluster. `cp` keeps the owner, as PostgreSQL asks."""
    data.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", migrated_data() / "postgres", data], check=True)


def await_ready(server: RunningServer, timeout: float = 60) -> None:
    """Wait for the file that the supervisor writes when everything answers."""
    state = server.data / "server.json"
    deadline = time.monotonic() + timeout
    while not state.exists():
        if server.process.poll() is not None:
            raise AssertionError(f"anor serve ended with {server.process.returncode}:\n{server.output()[-4000:]}")
        if time.monotonic() > deadline:
            server.kill()
            raise AssertionError(f"anor serve was not ready within {timeout} s:\n{server.output()[-4000:]}")
        time.sleep(0.02)
    said = json.loads(state.read_text("utf-8"))
    server.url, server.dimse_port = said["url"].rstrip("/"), said["dimse_port"]


@contextlib.contextmanager
def running_server(data: Path, *flags: str, **settings: object) -> Iterator[RunningServer]:
    """A server for the time of a `with` block, stopped by SIGTERM; a bad exit status is an error."""
    server = start_server(data, *flags, **settings)
    try:
        yield server
    finally:
        ended_before = server.process.poll() is not None
        status = server.stop()
        assert ended_before or status == 0, f"exit status {status}:\n{server.output()[-4000:]}"


@contextlib.contextmanager
def running_worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A background process alone, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "worker"],
        cwd=ROOT,
        env=clean_environment(PYTHONPATH=str(ROOT), **settings.to_env()),
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def kill_worker(supervisor: int) -> None:
    """Kill -9 of the background process: the child of the supervisor that listens nowhere and is no database."""
    (worker,) = (
        child
        for child in psutil.Process(supervisor).children()
        if "postgres" not in child.name()
        and not any(each.status == psutil.CONN_LISTEN for each in child.net_connections("tcp"))
    )
    worker.kill()


_ENDED = """
UPDATE job SET heartbeat_at = now() - interval '1 hour' WHERE state = 'running';
UPDATE reader SET lease_until = now() - interval '1 second' WHERE lease_until > now();
UPDATE derived SET lease_until = now() - interval '1 second' WHERE lease_until > now();
"""


async def parts_over(archive: Archive, name: str, at_least: int) -> None:
    """Wait until so many parts of a job are done."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        job = await archive.jobs.get(LOCAL, name)
        if (await archive.jobs.items(LOCAL, [job]))[name].over >= at_least:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(await archive.jobs.get(LOCAL, name))


def end_leases(server: RunningServer) -> None:
    """After a kill of the background process: what it had claimed is free at once, as it is when its leases end.

    One that lives loses what it has claimed to itself: what it does then is done twice, as after a pause.
    """

    async def end() -> None:
        connection = await asyncpg.connect(attach(server.data / "postgres"))
        try:
            await connection.execute(_ENDED)
        finally:
            await connection.close()

    asyncio.run(end())
