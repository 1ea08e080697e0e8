"""A running DIMSE process for all tests of this folder, and the archive behind it."""

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest

from dimse_bridge.scu import Requestor
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.embedded import EmbeddedPostgres
from storage.modalities import Modality
from storage.settings import Settings, load_settings
from tests.dimse import wire
from tests.dimse.programs import DCMTK
from tests.dimse.wire import VERIFICATION, Wire
from tests.files import new_uid
from tests.support import ROOT, Opened, clean_environment, free_port


@dataclass
class Bridge:
    """`anor dimse` with its processes."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def processes(self) -> list[psutil.Process]:
        """Those that serve associations."""
        return psutil.Process(self.process.pid).children()

    def echoes(self, seconds: float = 3.0) -> bool:
        """Whether another peer is served at once."""
        begin = time.monotonic()
        try:
            with Wire(self.port, seconds) as peer:
                if peer.associate(VERIFICATION) != 2:
                    return False
                peer.message(1, wire.echo_rq())
                return peer.status() == 0 and time.monotonic() - begin < seconds
        except OSError:
            return False

    def stop(self, timeout: float = 30) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return int(self.process.returncode)


def start_bridge(settings: Settings) -> Bridge:
    log = settings.data.parent / f"dimse-{settings.dimse_port}.log"
    settings.data.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "dimse"],
            cwd=ROOT,
            env=clean_environment(PYTHONPATH=str(ROOT), **settings.to_env()),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    bridge = Bridge(process, settings.dimse_port, log)
    deadline = time.monotonic() + 20
    while not (len(bridge.processes()) == settings.dimse_processes and bridge.echoes()):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)
    return bridge


@pytest.fixture(scope="session")
async def dimse_settings(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings with a database of their own and a free port."""
    name = f"dimse_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(postgres.admin_dsn)
    try:
        await connection.execute(
            f'CREATE DATABASE "{name}" TEMPLATE "{migrated_template}" OWNER anor STRATEGY file_copy'
        )
    finally:
        await connection.close()
    values = {
        "data": tmp_path_factory.mktemp("dimse") / "data",
        "database_url": urlunsplit(urlsplit(postgres.dsn)._replace(path=f"/{name}")),
        "dimse_port": free_port(),
        "dimse_open_local": "echo,store,find",
        "spool_memory": 1 << 20,
        "qido_max_limit": 50,
        "qido_default_limit": 50,
    }
    return load_settings(values, {}, None)[0]


@pytest.fixture(scope="session")
def bridge(dimse_settings: Settings) -> Iterator[Bridge]:
    """The process; tests share it, so each uses UIDs of its own."""
    running = start_bridge(dimse_settings)
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture(scope="session")
async def archive(dimse_settings: Settings) -> AsyncIterator[Archive]:
    """The archive that the process writes to, opened a second time to look into it."""
    opened = await open_archive(dimse_settings)
    yield opened
    await opened.close()


@pytest.fixture
def own_settings() -> dict[str, object]:
    """What `own` is opened with; modules have settings of their own."""
    return {"dimse_timeout": 5}


@pytest.fixture
async def own(opened: Opened, own_settings: dict[str, object]) -> AsyncIterator[Archive]:
    """An archive on a database of its own, which no process serves."""
    async with opened(**own_settings) as archive:
        yield archive


@pytest.fixture
async def requestor(own: Archive) -> AsyncIterator[Requestor]:
    """Asks other application entities in the name of `own`."""
    made = Requestor(own)
    yield made
    await made.close()


@pytest.fixture
async def workstation(archive: Archive) -> AsyncIterator[Modality]:
    """A declared application entity that may find, get and move, and receives on a port of its own."""
    aet = f"WS{new_uid()[-10:]}"
    declared = Modality(aet.lower(), aet, "127.0.0.1", free_port(), allow=frozenset({"find", "get", "move", "echo"}))
    await archive.modalities.put(LOCAL, declared)
    yield declared
    await archive.modalities.delete(LOCAL, declared.name)


@pytest.fixture
def dcmtk() -> dict[str, str]:
    """The environment for DCMTK's programs."""
    return DCMTK
