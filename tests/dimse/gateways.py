"""`anor gateway` as a process, and a bad line between it and its archive."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.dimse.programs import DCMTK
from tests.proxy import Link, Proxy
from tests.support import ROOT, clean_environment, free_port


@dataclass
class RunningGateway:
    data: Path
    port: int
    status_port: int
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.data / "gateway.log").read_text("utf-8", "replace")

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.status_port}/{path}", timeout=10)

    def status(self) -> dict[str, Any]:
        return dict(self.get("status").json())

    def until_empty(self, seconds: float = 30) -> dict[str, Any]:
        """Wait until everything is sent or set aside; the status then."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            if not status["queue"]["files"]:
                return status
            assert time.monotonic() < deadline, (status, self.log[-3000:])
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return int(self.process.returncode)

    def start(self, *flags: str) -> None:
        """Start, again after `kill` or `stop`."""
        with (self.data / "gateway.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.cli", "gateway", *flags],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 40
        while True:
            assert self.process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, self.log[-3000:]
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.05)

    def send(self, *paths: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """DCMTK's storescu, as a modality: it stops at the first instance that is not taken."""
        command = ["storescu", "-v", "-aet", "CT1", "-aec", "ANOR", "-to", "5", "-ta", "10", "-td", "10"]
        files = [str(path) for path in paths]
        return subprocess.run(
            [*command, "127.0.0.1", str(self.port), *files],
            env=DCMTK,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@contextlib.contextmanager
def running_gateway(data: Path, to: str, *flags: str, **settings: object) -> Iterator[RunningGateway]:
    data.mkdir(parents=True, exist_ok=True)
    ports = {"dimse_port": free_port(), "gateway_status_port": free_port()}
    values = {"data": data, "gateway_to": to, "gateway_retry_max": 1, "gateway_timeout": 3, **ports, **settings}
    environment = clean_environment(
        PYTHONPATH=str(ROOT), **{f"ANOR_{name.upper()}": str(value) for name, value in values.items()}
    )
    gateway = RunningGateway(data, ports["dimse_port"], ports["gateway_status_port"], environment, None)  # type: ignore[arg-type]
    gateway.start(*flags)
    try:
        yield gateway
    finally:
        status = gateway.stop()
        assert status in (0, -signal.SIGKILL), gateway.log[-3000:]


class BadLine(Proxy):
    """Between a gateway and its archive: also slow, and cut in the middle of what goes up or comes down."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        super().__init__((parts.hostname, parts.port))
        self.latency = 0.0
        self.up_left: int | None = None
        self.down_left: int | None = None

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://{host}:{port}/dicom-web"

    def upstream(self, link: Link, data: bytes) -> None:
        time.sleep(self.latency)
        if self.up_left is not None:
            data, self.up_left = data[: self.up_left], max(0, self.up_left - len(data))
            link.server.sendall(data)
            if not self.up_left:
                self.up_left = None
                self._end(link)
            return
        super().upstream(link, data)

    def downstream(self, link: Link, data: bytes) -> None:
        time.sleep(self.latency)
        if self.down_left is not None:
            data, self.down_left = data[: self.down_left], max(0, self.down_left - len(data))
            link.client.sendall(data)
            if not self.down_left:
                self.down_left = None
                self._end(link)
            return
        super().downstream(link, data)

    def heal(self) -> None:
        """No faults any more."""
        self.latency, self.up_left, self.down_left = 0.0, None, None
        self.accept()
        self.flow()
