"""PostgreSQL is killed, stopped, hangs or is full: requests say so in time, and all goes on by itself afterwards."""

import asyncio
import contextlib
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import asyncpg
import httpx
import psutil
import pytest

from storage.embedded import SOCKET_NAME, EmbeddedPostgres, socket_directory
from tests.faults.disks import fill, small_disk
from tests.faults.killer import http_workers
from tests.faults.web import ROOT, assert_unavailable, eventually, ready, reasons, requests, stow, within
from tests.files import ct, dataset, encoded
from tests.support import running_server


def test_lock_files_whose_number_is_now_another_programs_do_not_stop_the_start(tmp_path):
    """After kill -9 of everything, or in a restarted container, a lock file may name a process that lives."""
    server = EmbeddedPostgres(tmp_path / "pg", throwaway=True)
    with server:
        pidfile = (server.data / "postmaster.pid").read_text()
        lock = (socket_directory(server.base) / f"{SOCKET_NAME}.lock").read_text()
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            for path, text in (
                (server.data / "postmaster.pid", pidfile),
                (socket_directory(server.base) / f"{SOCKET_NAME}.lock", lock),
            ):
                path.write_text("\n".join([str(other.pid), *text.splitlines()[1:]]) + "\n")
            with server:
                assert server.pid is not None
        finally:
            other.kill()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server that the test may stop and start."""
    with EmbeddedPostgres(tmp_path / "pg", throwaway=True) as server:
        yield server


class Load:
    """Clients that store and search all the time, and keep (status, seconds) of every answer."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self._url = url
        self._stop = threading.Event()
        self.answers: list[tuple[int, float]] = []
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    if number % 2:
                        status = stow(client, [ct(), ct()]).status_code
                    else:
                        status = client.get(f"{ROOT}/studies", params={"limit": "3"}).status_code
                except httpx.TransportError:
                    status = 0
                self.answers.append((status, time.monotonic() - began))
                time.sleep(0.01)


def test_a_database_that_is_down_is_503_everywhere_and_comes_back(own_postgres, tmp_path):
    settings = {"database_url": own_postgres.dsn, "workers": 1, "database_timeout": 2}
    with running_server(tmp_path / "data", **settings) as server, httpx.Client(base_url=server.url, timeout=60) as web:
        ds = dataset()
        assert stow(web, [encoded(ds)]).status_code == 200
        kinds = requests(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        with Load(server.url) as load:
            time.sleep(0.5)
            own_postgres.stop()
            for request in kinds.values():
                with within(5):
                    assert_unavailable(request(web))
            assert web.get("/healthz").status_code == 200
            # A worker that dies now is replaced by one that answers as well, instead of leaving its clients to wait.
            (worker,) = http_workers(server)
            worker.kill()
            worker.wait(10)
            eventually(lambda: _status(web) == 503, 15, "the new worker answers 503")
            own_postgres.start()
            eventually(lambda: ready(web), 10, "ready after the restart")
            for name, request in kinds.items():
                assert request(web).status_code == (404 if name == "delete" else 200), name
            before = len(load.answers)
            eventually(lambda: len(load.answers) > before + 20, 20, "the load goes on")
        assert {status for status, _ in load.answers} <= {0, 200, 503}
        assert sum(status == 0 for status, _ in load.answers) <= 4 * 3  # the worker that was killed
        assert max(seconds for _, seconds in load.answers) < 10
        assert all(status == 200 for status, _ in load.answers[before + 8 :])


def _status(web: httpx.Client) -> int:
    try:
        return web.get("/statistics").status_code
    except httpx.TransportError:
        return 0


def test_a_database_that_hangs_is_503_within_the_limit(own_postgres, tmp_path):
    settings = {"database_url": own_postgres.dsn, "workers": 1, "database_timeout": 1}
    with running_server(tmp_path / "data", **settings) as server, httpx.Client(base_url=server.url, timeout=60) as web:
        ds = dataset()
        assert stow(web, [encoded(ds)]).status_code == 200
        kinds = requests(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        assert own_postgres.pid is not None
        postmaster = psutil.Process(own_postgres.pid)
        frozen = [postmaster, *postmaster.children(recursive=True)]
        for process in frozen:
            process.suspend()
        try:
            with within(15), ThreadPoolExecutor(len(kinds)) as pool:
                for answer in pool.map(lambda request: request(web), kinds.values()):
                    assert_unavailable(answer)
        finally:
            for process in frozen:
                process.resume()
        eventually(lambda: ready(web), 15, "ready again")
        assert stow(web, [ct()]).status_code == 200


@pytest.mark.full
def test_the_embedded_server_that_is_killed_is_back_within_seconds(tmp_path):
    with running_server(tmp_path / "data", workers=1) as server, httpx.Client(base_url=server.url, timeout=60) as web:
        for _ in range(2):
            assert stow(web, [ct()]).status_code == 200
            children = psutil.Process(server.process.pid).children()
            (postgres,) = [child for child in children if child.name() == "postgres"]
            postgres.kill()
            with within(30):
                while stow(web, [ct()]).status_code != 200:
                    time.sleep(0.05)
        assert web.get("/statistics").json()["CountInstances"] == 4


@pytest.mark.full
def test_a_full_disk_of_the_database_is_said_and_survived(tmp_path):
    """On a file system of its own: tables cannot grow any more, and can again."""
    with (
        small_disk(tmp_path / "disk", mebibytes=160) as disk,
        EmbeddedPostgres(disk / "pg", throwaway=True) as postgres,
    ):
        settings = {"database_url": postgres.dsn, "workers": 1}
        with running_server(tmp_path / "data", **settings) as server, httpx.Client(base_url=server.url) as web:
            assert stow(web, [ct()]).status_code == 200
            with fill(disk, leave=0):
                for _ in range(100):
                    answer = stow(web, [ct(ImageComments=secrets.token_hex(4000)) for _ in range(20)])
                    if answer.status_code != 200:
                        break
                if answer.status_code == 202:
                    assert set(reasons(answer)) == {0xA700}
                else:
                    assert_unavailable(answer, status=answer.status_code)
                assert web.get("/healthz").status_code == 200
            eventually(lambda: stow(web, [ct()]).status_code == 200, 30, "stores again")


@pytest.mark.parametrize("owner_lives", [True, False])
def test_a_shutdown_while_the_server_recovers_from_a_crash_does_not_hang(tmp_path, owner_lives):
    """PostgreSQL 18 never ends a fast shutdown that is asked for while it replays its log."""
    base = tmp_path / "pg"
    owner = EmbeddedPostgres(base).start()
    assert owner.pid is not None
    _write_a_log_that_takes_a_while_to_replay(owner)
    postmaster = psutil.Process(owner.pid)
    _child(postmaster, "checkpointer")[0].kill()
    eventually(lambda: bool(_child(postmaster, "startup")), 10, "recovery", every=0.005)
    if owner_lives:
        with within(8):
            owner.stop()
        return
    postmaster.send_signal(signal.SIGINT)  # as the kernel does when the owner is killed
    process = owner._process
    assert process is not None
    owner.leave()
    with within(25), EmbeddedPostgres(base) as next_owner:
        assert next_owner.pid is not None
        process.wait(10)


def _write_a_log_that_takes_a_while_to_replay(server: EmbeddedPostgres) -> None:
    async def fill() -> None:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute(
            "CREATE TABLE replayed AS SELECT n, n::text AS t FROM generate_series(1, 1000000) AS n"
        )
        await connection.execute("CREATE INDEX ON replayed (t)")
        await connection.close()

    asyncio.run(fill())


def _child(process: psutil.Process, title: str) -> list[psutil.Process]:
    found = []
    for child in process.children():
        with contextlib.suppress(psutil.Error):  # ended meanwhile
            if title in " ".join(child.cmdline()):
                found.append(child)
    return found
