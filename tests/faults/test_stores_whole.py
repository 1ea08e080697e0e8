"""The whole program on both stores: real clients, deletion to the last object, and large instances in little memory."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from storage.archive import open_archive
from storage.settings import load_settings
from storage.worker import sweep
from tests.faults.killer import http_workers
from tests.faults.stores import assert_sound, objects
from tests.faults.web import instance_path
from tests.files import compressed, dataset, encoded, new_uid
from tests.rgw import Rgw
from tests.support import RunningServer, running_server

MIB = 1 << 20
GROWTH = 64 * MIB


@pytest.fixture(scope="module", params=["directory", "s3"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, dict[str, Any]]]:
    """A server with one worker, and the settings of its object store."""
    where: dict[str, Any] = {}
    if request.param == "s3":
        rgw: Rgw = request.getfixturevalue("rgw")
        where = rgw.settings(rgw.new_bucket(), "some/archive")
    with running_server(tmp_path_factory.mktemp("whole") / "data", workers=1, tomb_grace_s=0, **where) as server:
        yield server, where


def test_a_series_from_store_to_the_removal_of_its_objects(whole):
    server, where = whole
    client = DICOMwebClient(server.dicomweb)
    study, series = new_uid(), new_uid()
    plain = [dataset(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n) for n in range(1, 6)]
    frames = [bytes([n]) * (1000 + 2 * n) for n in range(3)]
    video = dcmread(BytesIO(compressed(frames, StudyInstanceUID=study, SeriesInstanceUID=new_uid())))
    files = {ds.SOPInstanceUID: encoded(ds) for ds in plain}
    answer = client.store_instances([*(dcmread(BytesIO(data)) for data in files.values()), video])
    assert len(answer.ReferencedSOPSequence) == 6

    assert [
        found["0020000D"]["Value"] for found in client.search_for_studies(search_filters={"StudyInstanceUID": study})
    ] == [[study]]
    assert len(client.search_for_instances(study, series)) == 5
    metadata = client.retrieve_series_metadata(study, series)
    assert [each["00200013"]["Value"] for each in metadata] == [[1], [2], [3], [4], [5]]
    for uid in files:
        got = client.retrieve_instance(study, series, uid, media_types=(("application/dicom", "*"),))
        assert got.PixelData == plain[0].PixelData
    whole_series = client.retrieve_series(study, series, media_types=(("application/dicom", "*"),))
    assert {each.SOPInstanceUID for each in whole_series} == files.keys()
    kinds = (("image/jpeg", "1.2.840.10008.1.2.4.50"),)
    got_frames = client.retrieve_instance_frames(
        study, video.SeriesInstanceUID, video.SOPInstanceUID, [3, 1], media_types=kinds
    )
    assert [frame.rstrip(b"\0") for frame in got_frames] == [frames[2].rstrip(b"\0"), frames[0].rstrip(b"\0")]
    bulk = client.retrieve_bulkdata(
        f"{server.dicomweb}/studies/{study}/series/{series}/instances/{plain[0].SOPInstanceUID}/bulkdata/7FE00010"
    )
    assert b"".join(bulk) == plain[0].PixelData

    assert asyncio.run(_contents(server, where)) == 6
    client.delete_study(study)
    assert client.search_for_studies(search_filters={"StudyInstanceUID": study}) == []
    assert asyncio.run(_contents(server, where)) == 0


async def _contents(server: RunningServer, where: dict[str, Any]) -> int:
    """How many objects there are after a sweep, beside the running server; index and objects fit."""
    settings, _ = load_settings({"data": server.data, "tomb_grace_s": 0, **where}, {}, None)
    archive = await open_archive(settings)
    try:
        await sweep(archive)
        await assert_sound(archive)
        return len(await objects(archive))
    finally:
        await archive.close()


class Memory:
    """The greatest resident size of a process while the block runs, above what it was before."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.most = process.memory_info().rss

    @property
    def growth(self) -> int:
        return self.most - self.before

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.most = max(self.most, self._process.memory_info().rss)


def _image(mebibytes: int) -> tuple[pydicom.Dataset, bytes]:
    """A multi-frame image of that size."""
    ds = dataset(NumberOfFrames=mebibytes * 2, Rows=512, Columns=512)
    pattern = hashlib.sha256(ds.SOPInstanceUID.encode()).digest() * 16384
    ds.PixelData = pattern * (mebibytes * 2)
    return ds, encoded(ds)


def _in_and_out(web: httpx.Client, mebibytes: int, kind: str) -> None:
    ds, data = _image(mebibytes)
    path = instance_path(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)

    def body() -> Iterator[bytes]:
        for start in range(0, len(data), MIB):
            yield data[start : start + MIB]

    if kind == "STOW":
        head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
        length = str(len(head) + len(data) + 9)

        def form() -> Iterator[bytes]:
            yield head
            yield from body()
            yield b"\r\n--b--\r\n"

        answer = web.post(
            "/dicom-web/studies",
            content=form(),
            headers={
                "content-type": 'multipart/related; type="application/dicom"; boundary=b',
                "content-length": length,
            },
        )
    else:
        answer = web.post("/instances", content=body(), headers={"content-length": str(len(data))})
    assert answer.status_code == 200, answer.text
    for target, accept, expected in (
        (path, "application/dicom", data),
        (f"{path}/bulkdata/7FE00010", "application/octet-stream", ds.PixelData),
    ):
        digest, size = hashlib.sha256(), 0
        with web.stream("GET", target, headers={"accept": accept}) as found:
            assert found.status_code == 200
            for piece in found.iter_raw():
                digest.update(piece)
                size += len(piece)
        assert (size, digest.digest()) == (len(expected), hashlib.sha256(expected).digest())
    assert web.get(f"{path}/frames/{mebibytes}", headers={"accept": "application/octet-stream"}).status_code == 200
    assert web.delete(path).status_code in (200, 204)


@pytest.mark.parametrize("kind", ["STOW", pytest.param("POST", marks=pytest.mark.full)])
def test_200_mib_in_and_out_within_64_mib(whole, kind):
    server, _ = whole
    (worker,) = http_workers(server)
    with httpx.Client(base_url=server.url, timeout=60) as web:
        _in_and_out(web, 24, kind)  # modules, threads, buffers
        with Memory(worker) as memory:
            _in_and_out(web, 200, kind)
    print(f"{kind}: {memory.before / MIB:.0f} MiB before, at most {memory.growth / MIB:.1f} MiB more")
    assert memory.growth < GROWTH
    assert Path(server.data).exists()
