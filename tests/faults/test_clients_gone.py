"""Clients that vanish in the middle of uploads and downloads: files, memory, connections and tasks come back."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from api.app import Anor, create_app
from api.listening import listen
from api.server import EmbeddedServer
from storage.archive import Archive
from storage.settings import Settings
from tests.faults.stores import assert_sound, count
from tests.faults.web import ROOT, eventually, instance_path, large, multipart
from tests.files import ct, dataset, encoded, new_uid

MIB = 1 << 20
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Held:
    """What a process has in use."""

    tasks: int
    descriptors: int
    memory: int
    spooled: int
    connections: int


class Inside:
    """The real HTTP server and application, in this process, so that its tasks can be counted."""

    def __init__(self, app: Anor, port: int) -> None:
        assert app.front is not None
        self.port = port
        self.services = app.front._services
        self.archive: Archive = self.services.archive

    def spooled(self) -> int:
        return len(list(self.archive.objects.spool_dir.iterdir()))

    def held(self) -> Held:
        connections = self.archive.db._connections
        return Held(
            tasks=len(asyncio.all_tasks()),
            descriptors=len(list(Path("/proc/self/fd").iterdir())) - connections.opened,
            memory=self.services.uploads.left,
            spooled=self.spooled(),
            connections=connections.in_use,
        )

    async def back_to(self, base: Held, seconds: float = 10) -> None:
        """Until nothing more is held than then; connections of the test itself may have ended meanwhile."""
        end = time.monotonic() + seconds
        while True:
            now = self.held()
            same = (now.memory, now.spooled, now.connections) == (base.memory, base.spooled, base.connections)
            if same and now.tasks <= base.tasks and now.descriptors <= base.descriptors:
                return
            assert time.monotonic() < end, f"{now} instead of {base}"
            await asyncio.sleep(0.05)

    def request(self, line: str, *headers: str, body: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        head = "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *headers]) + "\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection


@pytest.fixture
async def inside(settings: Callable[..., Settings], database_url: str) -> AsyncIterator[Inside]:
    values = settings(database_url=database_url, spool_memory=MIB)
    app = create_app(values)
    (listener,) = listen("127.0.0.1", 0, 1)
    port = listener.getsockname()[1]
    server = EmbeddedServer(app, listener, values)
    serving = asyncio.create_task(server.serve())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        while app.front is None:
            assert not serving.done()
            await asyncio.sleep(0.02)
        assert (await client.get("/readyz")).status_code == 200
    yield Inside(app, port)
    server.stop()
    await serving


def vanish(connection: socket.socket, *, politely: bool) -> None:
    if not politely:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


def upload(inside: Inside, kind: str, body: bytes, sent: int) -> socket.socket:
    if kind == "POST":
        return inside.request("POST /instances", f"Content-Length: {len(body)}", body=body[:sent])
    if kind == "chunked":
        piece = b"%x\r\n%b\r\n" % (sent, body[:sent])
        return inside.request("POST /instances", "Transfer-Encoding: chunked", body=piece)
    form = multipart([ct(), body])
    header = 'Content-Type: multipart/related; type="application/dicom"; boundary=b'
    return inside.request(f"POST {ROOT}/studies", header, f"Content-Length: {len(form)}", body=form[: sent + 2000])


async def test_uploads_that_break_off_leave_nothing(inside):
    base = inside.held()
    body = large(4)
    rounds = 0
    for kind in ("POST", "chunked", "STOW"):
        for politely in (True, False):
            for sent in (100, 500_000, 3 * MIB):
                connection = await asyncio.to_thread(upload, inside, kind, body, sent)
                if sent > MIB:
                    await asyncio.to_thread(eventually, lambda: inside.spooled() > 0, 10, "the spool is used")
                vanish(connection, politely=politely)
                rounds += kind == "STOW"
    await inside.back_to(base)
    # Of each STOW the first part was complete: it is stored whatever became of the second.
    assert await count(inside.archive, "instance") == rounds
    await assert_sound(inside.archive)


async def test_many_uploads_at_once_break_off(inside):
    base = inside.held()
    body = large(4)
    connections = await asyncio.gather(
        *(asyncio.to_thread(upload, inside, ("POST", "STOW")[n % 2], body, 2 * MIB) for n in range(24))
    )
    await asyncio.sleep(0.3)
    for connection in connections:
        vanish(connection, politely=False)
    await inside.back_to(base)
    await assert_sound(inside.archive)


async def test_downloads_that_break_off_release_everything(inside):
    study, series = new_uid(), new_uid()
    places = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{inside.port}", timeout=60) as client:
        for _ in range(3):
            ds = dataset(StudyInstanceUID=study, SeriesInstanceUID=series)
            ds.Rows, ds.Columns, ds.PixelData = 4096, 1024, bytes(8 * MIB)
            assert (await client.post("/instances", content=encoded(ds))).status_code == 200
            places.append(instance_path(study, series, ds.SOPInstanceUID))
    base = inside.held()
    wanted = [
        (f"GET {places[0]}", "Accept: application/dicom"),
        (f"GET {places[1]}/frames/1", "Accept: application/octet-stream"),
        (f"GET {places[2]}/bulkdata/7FE00010", "Accept: application/octet-stream"),
        (f"GET {ROOT}/studies/{study}", 'Accept: multipart/related; type="application/dicom"'),
        (f"GET {ROOT}/studies/{study}/metadata", "Accept: application/dicom+json"),
    ]

    def start(n: int) -> socket.socket:
        connection = inside.request(*wanted[n % len(wanted)])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        return connection

    for politely in (True, False):
        connections = await asyncio.gather(*(asyncio.to_thread(start, n) for n in range(20)))
        await asyncio.sleep(0.2)
        for connection in connections:
            vanish(connection, politely=politely)
        await inside.back_to(base)


async def test_a_client_that_stops_reading_costs_no_memory(inside):
    """Twenty clients ask for 32 MiB each and read nothing: what waits for them stays within socket buffers."""
    ds = dataset()
    ds.Rows, ds.Columns, ds.PixelData = 16384, 1024, bytes(32 * MIB)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{inside.port}", timeout=60) as client:
        assert (await client.post("/instances", content=encoded(ds))).status_code == 200
    base = inside.held()
    path = instance_path(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    before = _rss()
    connections = [inside.request(f"GET {path}", "Accept: application/dicom") for _ in range(20)]
    for _ in range(15):
        await asyncio.sleep(0.1)
        assert _rss() - before < 160 * MIB
    for connection in connections:
        vanish(connection, politely=False)
    await inside.back_to(base)


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
