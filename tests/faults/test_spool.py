"""Uploads that were on their way when their process died leave nothing behind."""

import socket

import httpx
import pytest

from storage.directory_files import SPOOLED
from tests.faults.killer import Victim, http_workers
from tests.faults.web import eventually, large, ready
from tests.support import RunningServer, free_port


def _spooled(server: RunningServer) -> list[str]:
    return [path.name for path in (server.data / "objects" / ".spool").iterdir()]


def _begin_upload(port: int, body: bytes, sent: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(
        b"POST /instances HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/dicom\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body[:sent]
    )
    return connection


def test_spool_files_of_a_killed_worker_go_when_the_next_one_starts(tmp_path):
    victim = Victim(tmp_path / "data", free_port(), workers=1, spool_memory=1 << 20)
    try:
        body = large(4)
        with (
            _begin_upload(victim.server.port, body, 3 << 20),
            httpx.Client(base_url=victim.server.url, timeout=60) as web,
        ):
            eventually(lambda: len(_spooled(victim.server)) == 1, 10, "the upload is spooled")
            assert _spooled(victim.server)[0].startswith(SPOOLED)
            victim.kill("HTTP worker")
            eventually(lambda: ready(web) and not _spooled(victim.server), 30, "the spool is empty")
    finally:
        victim.server.stop()


@pytest.mark.full
def test_a_second_process_leaves_the_uploads_of_the_first_alone(tmp_path):
    """Every start cleans up, and workers start while others receive."""
    victim = Victim(tmp_path / "data", free_port(), workers=2, spool_memory=1 << 20)
    try:
        body = large(4)
        with _begin_upload(victim.server.port, body, 3 << 20) as upload:
            eventually(lambda: len(_spooled(victim.server)) == 1, 10, "the upload is spooled")
            held = {
                worker.pid
                for worker in http_workers(victim.server)
                if any(file.path.endswith(_spooled(victim.server)[0]) for file in worker.open_files())
            }
            (other,) = {worker.pid for worker in http_workers(victim.server)} - held
            for worker in http_workers(victim.server):
                if worker.pid == other:
                    worker.kill()
            eventually(
                lambda: (
                    len(http_workers(victim.server)) == 2
                    and other not in {worker.pid for worker in http_workers(victim.server)}
                ),
                30,
                "the other worker is back",
            )
            assert len(_spooled(victim.server)) == 1
            upload.sendall(body[3 << 20 :])
            assert upload.recv(1000).startswith(b"HTTP/1.1 200")
        assert _spooled(victim.server) == []
    finally:
        victim.server.stop()
