"""Programs of other toolkits that serve a port."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from storage.modalities import Modality
from tests.support import free_port

# What programs of DCMTK see of the environment.
DCMTK: Final = {"PATH": os.environ["PATH"], "TCP_NODELAY": "1"}


@contextlib.contextmanager
def listening(
    command: Sequence[str | Path],
    port: int,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
) -> Iterator[None]:
    """A program while it takes connections at `port`; it is ended behind that. `output`: of both its streams."""
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 20
        while not _answers(port):
            assert process.poll() is None, f"{command[0]} has ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} does not listen"
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def storescp(folder: Path, *options: str, port: int | None = None, log: Path | None = None) -> Iterator[Modality]:
    """DCMTK's receiver; it keeps what comes byte for byte."""
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    command = ["storescp", "-od", folder, "+B", *options, str(port)]
    with (
        contextlib.nullcontext() if log is None else log.open("wb") as output,
        listening(command, port, env=DCMTK, output=output),
    ):
        yield Modality("peer", "STORESCP", "127.0.0.1", port)
