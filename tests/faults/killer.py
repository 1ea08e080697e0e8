"""Kill -9 of parts of a running `anor serve`, and its restart on the same data."""

import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random

import psutil

from tests.rgw import Rgw
from tests.support import RunningServer, start_server

# How often each is chosen. "everything" leaves nobody alive who could tidy up, as a power cut does.
KINDS = {
    "HTTP worker": 8,
    "job worker": 3,
    "DIMSE": 1,
    "PostgreSQL": 4,
    "database backend": 3,
    "supervisor": 2,
    "everything": 3,
    "S3 gateway": 8,
}


class Victim:
    """A server that is killed and started again."""

    def __init__(self, data: Path, port: int, rgw: Rgw | None = None, **settings: object) -> None:
        self._data = data
        self._rgw = rgw
        self._settings = {"http_port": port, **settings}
        self.kills: Counter[str] = Counter()
        self.server: RunningServer = start_server(data, **self._settings)

    def kill(self, kind: str) -> bool:
        """False when there is nobody of the kind just now."""
        supervisor = psutil.Process(self.server.process.pid)
        if kind in ("supervisor", "everything"):
            if kind == "everything":
                kill_all(supervisor)
            else:
                _kill([supervisor])
            self.server.process.wait(30)
            self.kills[kind] += 1
            self.server = start_server(self._data, **self._settings)
            return True
        if kind == "S3 gateway":
            if self._rgw is not None:
                self._rgw.kill("rgw")
                time.sleep(0.5)
                self._rgw.revive("rgw")
                self.kills[kind] += 1
            return self._rgw is not None
        try:
            found = self._part(supervisor, kind)
        except psutil.Error:
            return False
        if found is None:
            return False
        _kill([found])
        self.kills[kind] += 1
        return True

    def kill_one(self, random: Random) -> str:
        """Kill whatever the dice say."""
        while True:
            kind = random.choices(list(KINDS), list(KINDS.values()))[0]
            if self.kill(kind):
                return kind
            time.sleep(0.05)

    def _part(self, supervisor: psutil.Process, kind: str) -> psutil.Process | None:
        children = supervisor.children()
        postgres = [child for child in children if child.name() == "postgres"]
        if kind == "PostgreSQL":
            return postgres[0] if postgres else None
        if kind == "database backend":
            busy = [p for one in postgres for p in one.children() if "anor anor" in " ".join(p.cmdline())]
            return busy[len(busy) // 2] if busy else None
        wanted = {"HTTP worker": self.server.port, "DIMSE": self.server.dimse_port}.get(kind)
        for child in children:
            if child in postgres or child.status() == psutil.STATUS_ZOMBIE:
                continue
            ports = {c.laddr.port for c in child.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
            if (wanted in ports) if wanted else not ports:
                return child
        return None

    def workers(self) -> list[psutil.Process]:
        """The HTTP workers that run now."""
        return http_workers(self.server)


def http_workers(server: RunningServer) -> list[psutil.Process]:
    """The processes of `server` that listen on its HTTP port."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.Error):
            listening = (c for c in child.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
            if any(c.laddr.port == server.port for c in listening):
                found.append(child)
    return found


def kill_all(process: psutil.Process) -> None:
    """Kill -9 of a process and everything below it, the parents first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        _kill([process, *process.children(recursive=True)])


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
