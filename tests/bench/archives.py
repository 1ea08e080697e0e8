"""The servers under test: what the measurements need to know of a running one, and how Anor itself is started."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import processes

LOOPBACK = "127.0.0.1"
DICOMWEB = "/dicom-web"
_ROLES = ("anor", "sqlite", "pg")


@dataclass(frozen=True, slots=True)
class Archive:
    """A running server. `name` says its part in the ratios: `anor`, `sqlite` or `pg` (Orthanc by its index)."""

    name: str
    http: int
    dimse: int
    aet: str
    pids: tuple[int, ...]

    def cpu(self) -> float:
        """CPU seconds its processes have used so far."""
        return processes.cpu_seconds(self.pids)

    def delete(self, path: str) -> int:
        """The status of one DELETE on a new connection."""
        connection = http.client.HTTPConnection(LOOPBACK, self.http, timeout=600)
        try:
            connection.request("DELETE", path)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def get(self, path: str, accept: str = "*/*", encoding: str = "identity") -> tuple[bytes, str, str]:
        """One GET on a new connection: body, Content-Type and Content-Encoding. Raises ConnectionError for no 200."""
        connection = http.client.HTTPConnection(LOOPBACK, self.http, timeout=300)
        try:
            connection.request("GET", path, headers={"Accept": accept, "Accept-Encoding": encoding})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status not in {200, 204}:
                raise ConnectionError(f"{answer.status} for {path}: {body[:200]!r}")
            return body, answer.getheader("Content-Type", ""), answer.getheader("Content-Encoding", "")
        finally:
            connection.close()

    def count(self) -> int:
        """Instances in it, by Orthanc's `GET /statistics`."""
        return int(json.loads(self.get("/statistics")[0])["CountInstances"])


def parse(text: str) -> Archive:
    """A server that runs already, from `anor=http:8042,dimse:4242,pid:1[,pid:2][,aet:NAME]`."""
    name, _, rest = text.partition("=")
    pairs = [part.partition(":")[::2] for part in rest.split(",")]
    values = dict(pairs)
    if name not in _ROLES or "http" not in values:
        raise ValueError(f"{text!r}: expected {'|'.join(_ROLES)}=http:PORT[,dimse:PORT][,pid:N…][,aet:NAME]")
    default_aet = "ANOR" if name == "anor" else "ORTHANC"
    pids = tuple(int(value) for key, value in pairs if key == "pid")
    return Archive(name, int(values["http"]), int(values.get("dimse", 0)), values.get("aet", default_aet), pids)


def free_port() -> int:
    """A loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path, patience: float = 120.0) -> float:
    """Poll `path` until it answers 200; seconds waited. Raises RuntimeError with the log's end when the server ends."""
    begin = time.perf_counter()
    while (waited := time.perf_counter() - begin) < patience:
        if process.poll() is not None:
            break
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == http.client.OK:
                return time.perf_counter() - begin
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.01)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"not ready after {waited:.0f} s (exit code {process.poll()}); the log ends:\n{tail}")


def anor_command() -> list[str]:
    """The `anor` program of this environment."""
    program = Path(sys.executable).with_name("anor")
    return [str(program)] if program.exists() else [sys.executable, "-m", "api.cli"]


@dataclass(frozen=True, slots=True)
class Started:
    """Anor as this benchmark started it; `seconds` from the start of the process to a ready answer."""

    archive: Archive
    seconds: float


@contextmanager
def anor(data: Path, *, fresh: bool) -> Iterator[Started]:
    """`anor serve` on free ports over `data`, which is emptied first when `fresh`; stopped at the end."""
    if fresh:
        shutil.rmtree(data, ignore_errors=True)
    data.parent.mkdir(parents=True, exist_ok=True)
    web, dimse = free_port(), free_port()
    log = data.with_name(data.name + ".log")
    ports = ["--host", LOOPBACK, "--http-port", str(web), "--dimse-port", str(dimse)]
    command = [*anor_command(), "serve", "--data", str(data), *ports]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANOR_")}
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=Path(__file__).parents[2],
            env=environment,
            start_new_session=True,
        )
    try:
        seconds = wait_ready(process, web, "/readyz", log)
        yield Started(Archive("anor", web, dimse, "ANOR", (process.pid, *_postmasters(data))), seconds)
    finally:
        processes.stop(process)


def _postmasters(data: Path) -> list[int]:
    """The embedded PostgreSQL may not be a descendant of the server; its lock file tells the process."""
    return [
        int(lock.read_text().split()[0])
        for pattern in ("postmaster.pid", "*/postmaster.pid", "*/*/postmaster.pid")
        for lock in data.glob(pattern)
    ]
