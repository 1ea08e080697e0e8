"""The object store is full, read-only, down or hangs: what can be stored is, the rest is refused in time."""

import asyncio
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from dicomweb.errors import Unavailable
from storage.archive import open_archive
from storage.settings import load_settings
from tests.faults.disks import fill, read_only, small_disk
from tests.faults.killer import http_workers
from tests.faults.stores import assert_sound, store
from tests.faults.web import (
    ROOT,
    assert_unavailable,
    eventually,
    instance_path,
    large,
    multipart,
    ready,
    reasons,
    stored,
    stow,
    within,
)
from tests.files import ct, dataset, encoded
from tests.proxy import Proxy
from tests.rgw import Rgw
from tests.support import RunningServer, running_server

OUT_OF_RESOURCES = 0xA700


async def _assert_sound(server: RunningServer, **settings: object) -> None:
    """Index and objects fit, beside the running server."""
    given: dict[str, object] = {"data": server.data, **settings}
    archive = await open_archive(load_settings(given, {}, None)[0])
    try:
        await assert_sound(archive)
    finally:
        await archive.close()


def _assert_reads(web: httpx.Client, path: str, content: bytes) -> None:
    assert web.get(path, headers={"accept": "application/dicom"}).content == content
    assert web.get(f"{ROOT}/studies").status_code == 200


def test_a_full_disk_refuses_what_does_not_fit_and_stores_what_does(tmp_path):
    with (
        small_disk(tmp_path / "objects", mebibytes=24) as disk,
        running_server(tmp_path / "data", workers=1, objects=str(disk)) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        ds = dataset()
        path = instance_path(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        assert stow(web, [encoded(ds)]).status_code == 200
        with fill(disk, leave=200):
            # In memory, and above the 8 MiB that stay in memory: the spool file is on the same disk.
            for size in (4, 12):
                answer = stow(web, [ct(), large(size), ct()])
                assert (answer.status_code, reasons(answer), len(stored(answer))) == (202, [OUT_OF_RESOURCES], 2)
                assert_unavailable(stow(web, [large(size)]), status=507)
                assert_unavailable(web.post("/instances", content=large(size)), status=507)
        with fill(disk, leave=0):
            assert_unavailable(stow(web, [ct(), ct()]), status=507)
            assert web.get("/readyz").status_code == 503
            _assert_reads(web, path, encoded(ds))
        assert ready(web)
        answer = stow(web, [ct(), large(12)])
        assert (answer.status_code, len(stored(answer))) == (200, 2)
        assert list((disk / ".spool").iterdir()) == []
        assert web.get("/statistics").json()["CountInstances"] == 7
        asyncio.run(_assert_sound(server, objects=str(disk)))


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, httpx.Client]]:
    """A server whose worker is refused large files by the kernel; needs no right to mount."""
    with (
        running_server(tmp_path_factory.mktemp("limited") / "data", workers=1) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        yield server, web


@contextmanager
def file_limit(server: RunningServer, kibibytes: int) -> Iterator[None]:
    (worker,) = http_workers(server)
    before = worker.rlimit(resource.RLIMIT_FSIZE)
    worker.rlimit(resource.RLIMIT_FSIZE, (kibibytes << 10, before[1]))
    try:
        yield
    finally:
        worker.rlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_size_limit_is_like_a_full_disk(limited):
    server, web = limited
    with file_limit(server, 1024):
        for size in (4, 12):
            answer = stow(web, [ct(), large(size), ct()])
            assert (answer.status_code, reasons(answer), len(stored(answer))) == (202, [OUT_OF_RESOURCES], 2)
            assert_unavailable(web.post("/instances", content=large(size)))
    assert stow(web, [large(12)]).status_code == 200
    assert list((server.data / "objects" / ".spool").iterdir()) == []
    asyncio.run(_assert_sound(server))


@pytest.mark.parametrize(("limit", "size"), [(1024, 9 << 20), (8500, 8900 << 10)])
def test_refused_uploads_give_their_memory_back(limited, limit, size):
    """The spool fails at its first write, or at its last, when the body is complete."""
    server, web = limited
    free = _memory_left(web)
    body = ct(PixelData=bytes(size))
    with file_limit(server, limit):
        for _ in range(3):
            assert_unavailable(web.post("/instances", content=body))
            assert_unavailable(stow(web, [body]))
    assert _memory_left(web) == free
    assert list((server.data / "objects" / ".spool").iterdir()) == []


def _memory_left(web: httpx.Client) -> float:
    lines = web.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("anor_upload_memory_left_bytes ")]
    return float(line.split()[1])


def test_a_read_only_disk_refuses_and_serves(tmp_path):
    with (
        small_disk(tmp_path / "objects", mebibytes=24) as disk,
        running_server(tmp_path / "data", workers=1, objects=str(disk)) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        ds = dataset()
        path = instance_path(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        assert stow(web, [encoded(ds)]).status_code == 200
        with read_only(disk):
            for size in (0, 12):
                data = large(size) if size else ct()
                with within(5):
                    assert_unavailable(stow(web, [data, ct()]))
                assert_unavailable(web.post("/instances", content=data))
            assert web.get("/readyz").status_code == 503
            _assert_reads(web, path, encoded(ds))
            assert web.delete(path).status_code in (200, 204)  # the object stays for the sweeper
        assert ready(web)
        assert stow(web, [ct()]).status_code == 200
        asyncio.run(_assert_sound(server, objects=str(disk)))


def test_a_disk_that_is_gone_is_not_an_empty_archive(tmp_path):
    with running_server(tmp_path / "data", workers=1) as server, httpx.Client(base_url=server.url, timeout=60) as web:
        ds = dataset()
        path = instance_path(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        assert stow(web, [encoded(ds)]).status_code == 200
        objects = server.data / "objects"
        objects.rename(server.data / "elsewhere")
        objects.mkdir()
        assert_unavailable(web.get(path, headers={"accept": "application/dicom"}))
        assert_unavailable(stow(web, [ct()]))
        assert_unavailable(stow(web, [encoded(ds)]))  # not "restored" into the wrong directory
        assert web.get("/readyz").status_code == 503
        assert list(objects.iterdir()) == []
        objects.rmdir()
        (server.data / "elsewhere").rename(objects)
        _assert_reads(web, path, encoded(ds))
        assert stow(web, [ct()]).status_code == 200


# ---------------------------------------------------------------------------------------------------------------- S3


@pytest.fixture(scope="module")
def on_s3(
    rgw: Rgw, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, httpx.Client, dict[str, object]]]:
    """A server on a bucket of its own, with short limits."""
    objects: dict[str, Any] = rgw.settings(rgw.new_bucket(), "archive")
    limits = {"s3_read_timeout": 2, "s3_connect_timeout": 1, "s3_retries": 1}
    with (
        running_server(tmp_path_factory.mktemp("s3") / "data", workers=1, **objects, **limits) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        yield server, web, objects


def _timed(request: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    return request(), time.monotonic() - began


@pytest.mark.parametrize("fault", ["gateway killed", "disk paused"])
def test_an_s3_service_that_is_down_or_hangs_is_refused_in_time(on_s3, rgw, fault):
    server, web, objects = on_s3
    ds = dataset()
    path = instance_path(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    assert stow(web, [encoded(ds)]).status_code == 200
    before = web.get("/statistics").json()["CountInstances"]
    refused: dict[str, Callable[[], httpx.Response]] = {
        "STOW": lambda: stow(web, [ct()]),
        "STOW in parts": lambda: stow(web, [large(20)]),
        "POST": lambda: web.post("/instances", content=ct()),
        "frame": lambda: web.get(f"{path}/frames/1"),
        "instance": lambda: web.get(path, headers={"accept": "application/dicom"}),
        "readiness": lambda: web.get("/readyz"),
    }
    rgw.kill("rgw") if fault == "gateway killed" else rgw.pause("osd")
    try:
        with ThreadPoolExecutor(len(refused) + 1) as pool:
            mixed = pool.submit(stow, web, [ct(), ct()[:-20], ct()])
            answers = {name: pool.submit(_timed, request) for name, request in refused.items()}
            with within(2):  # what needs no object is served
                assert web.get(f"{ROOT}/studies").json()
                assert web.get(f"{path}/metadata").json()[0]["00080018"]["Value"] == [ds.SOPInstanceUID]
        for name, answer in answers.items():
            got, seconds = answer.result()
            assert_unavailable(got)
            assert seconds < 10, name
        # The broken one would be refused anyway; no part is lost in the answer.
        assert mixed.result().status_code == 409
        assert sorted(reasons(mixed.result())) == [OUT_OF_RESOURCES, OUT_OF_RESOURCES, 0xC000]
        assert web.get("/statistics").json()["CountInstances"] == before
    finally:
        rgw.revive("rgw") if fault == "gateway killed" else rgw.resume("osd")
        rgw.wait_ready()
    eventually(lambda: ready(web), 20, "ready again")
    assert web.get(path, headers={"accept": "application/dicom"}).content == encoded(ds)
    answer = stow(web, [ct(), large(20)])
    assert (answer.status_code, len(stored(answer))) == (200, 2)
    assert list((server.data / "spool").iterdir()) == []
    asyncio.run(_assert_sound(server, **objects))


def test_the_pace_of_an_upload_does_not_depend_on_a_store_that_hangs(on_s3, rgw):
    """A client that sends many instances in one request gets its answer, with a reason for each, within bounds."""
    server, web, _ = on_s3
    files = [ct() for _ in range(24)]
    rgw.pause("osd")
    try:
        began = time.monotonic()
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        answer = web.post(f"{ROOT}/studies", content=multipart(files), headers={"content-type": kind})
        # Eight at once, each at most twice the read timeout.
        assert time.monotonic() - began < 3 * 4 + 6
        assert_unavailable(answer)
    finally:
        rgw.resume("osd")
        rgw.wait_ready()
    assert psutil.pid_exists(server.process.pid)
    eventually(lambda: stow(web, files).status_code == 200, 30, "stored at once")


_LEASES = "SELECT extract(epoch FROM lease_until - created_at)::float8 AS seconds FROM intent WHERE size > 4000000"


async def test_a_large_object_has_more_time_than_a_small_one(settings, database_url, rgw):
    """A slow line to the store: what the lease gives to every object is not enough for a large one."""
    host, port = rgw.endpoint.removeprefix("http://").split(":")
    where = rgw.settings(rgw.new_bucket())
    with Proxy((host, int(port))) as line:
        where["s3_endpoint"] = f"http://127.0.0.1:{line.address[1]}"
        archive = await open_archive(settings(database_url=database_url, intent_lease_s=1, **where))
        try:
            await store(archive, ct())
            line.stall()
            big = asyncio.create_task(store(archive, large(4)))
            async with asyncio.timeout(5):
                while not (leases := await archive.db.fetch_sql(_LEASES)):  # noqa: ASYNC110 - what is awaited is a row
                    await asyncio.sleep(0.02)
            assert 64 < leases[0]["seconds"] < 67  # 1, a minute that every key has, and one for each megabyte
            with pytest.raises(Unavailable, match="in time"):
                await store(archive, ct())
            assert not big.done()
            line.flow()
            assert (await big).status == "stored"
        finally:
            line.flow()
            await archive.close()
