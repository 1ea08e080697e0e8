"""`anor export` and POST .../export: what comes out is what OpenSlide and tifffile see in the file that went in."""

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openslide
import pytest
import tifffile
from pydicom.uid import generate_uid

from tests.support import RunningServer, anor
from tests.wsi.vendor import MPP, ome_tiff, svs, tiled_tiff
from wsi.convert.tiff import open_tiff


def stored(server: RunningServer, path: Path, *flags: str) -> str:
    series = str(generate_uid())
    done = anor("dicomize", str(path), "--data", str(server.data), "--series", series, "-q", *flags)
    assert done.returncode == 0, done.stderr
    return series


def exported(server: RunningServer, series: str, path: Path, *flags: str) -> None:
    done = anor("export", series, str(path), "--data", str(server.data), "-q", *flags)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("space", ["ycbcr", "rgb"])
def test_jpeg_frames_are_copied(server: RunningServer, tmp_path: Path, space: str) -> None:
    svs(tmp_path / "in.svs", space=space)
    series = stored(server, tmp_path / "in.svs")
    exported(server, series, tmp_path / "out.tiff", "--plain")
    exported(server, series, tmp_path / "out.ome.tiff")
    with openslide.OpenSlide(tmp_path / "in.svs") as before, openslide.OpenSlide(tmp_path / "out.tiff") as after:
        assert after.level_dimensions == before.level_dimensions
        assert float(after.properties["openslide.mpp-x"]) == pytest.approx(MPP)
        for level, size in enumerate(before.level_dimensions):
            one, two = (np.asarray(each.read_region((0, 0), level, size)) for each in (before, after))
            assert np.array_equal(one, two), level
    with tifffile.TiffFile(tmp_path / "out.ome.tiff") as tiff:
        assert tiff.is_ome
        (image,) = tiff.series
        assert [level.shape for level in image.levels] == [(1100, 1500, 3), (275, 375, 3)]
        assert 'PhysicalSizeX="0.25"' in (tiff.ome_metadata or "")
        assert tiff.pages.first.iccprofile
    source = open_tiff(tmp_path / "out.ome.tiff")
    assert source is not None
    assert source.levels[0].copied is not None
    source.close()


def test_what_is_no_jpeg_is_written_without_loss(server: RunningServer, tmp_path: Path) -> None:
    base = tiled_tiff(tmp_path / "in.tiff")
    series = stored(server, tmp_path / "in.tiff", "--format", "htj2k-lossless")
    exported(server, series, tmp_path / "out.tiff", "--plain")
    assert np.array_equal(tifffile.imread(tmp_path / "out.tiff"), base)


def test_fluorescence_comes_back(server: RunningServer, tmp_path: Path) -> None:
    pixels = ome_tiff(tmp_path / "in.ome.tiff")
    series = stored(server, tmp_path / "in.ome.tiff")
    exported(server, series, tmp_path / "out.ome.tiff")
    with tifffile.TiffFile(tmp_path / "out.ome.tiff") as tiff:
        assert np.array_equal(tiff.series[0].levels[0].asarray(), pixels)
        assert np.array_equal(tiff.series[0].levels[1].asarray(), pixels[..., ::2, ::2])
        assert all(name in (tiff.ome_metadata or "") for name in ("DAPI", "FITC", "Cy5"))


def test_what_cannot_be_exported(server: RunningServer, tmp_path: Path) -> None:
    flags = ("--data", str(server.data), "-q")
    unknown = anor("export", str(generate_uid()), str(tmp_path / "x.tiff"), *flags)
    assert (unknown.returncode, "no such series" in unknown.stderr) == (1, True)
    (tmp_path / "x.tiff").write_bytes(b"")
    there = anor("export", "1.2.3", str(tmp_path / "x.tiff"), *flags)
    assert (there.returncode, "is there already" in there.stderr) == (2, True)


def finished(web: httpx.Client, url: str, seconds: float = 60) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job: dict[str, Any] = web.get(url).raise_for_status().json()
        if job["state"] in {"success", "failure"}:
            return job
        time.sleep(0.1)
    raise AssertionError(f"the job is not over: {job}")


def test_a_job_leaves_the_file(web: httpx.Client, server: RunningServer, tmp_path: Path) -> None:
    base = tiled_tiff(tmp_path / "in.tiff")
    series = stored(server, tmp_path / "in.tiff", "--format", "htj2k-lossless")
    made = web.post(f"/wsi/slides/{series}/export", json={"layout": "tiff"})
    assert made.status_code == 202, made.text
    assert made.headers["location"] == made.json()["url"]
    early = web.get(f"/wsi/jobs/{made.json()['job']}/result")
    assert early.status_code in {200, 404}
    job = finished(web, made.json()["url"])
    assert job["state"] == "success", job
    answer = web.get(job["file"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/tiff")
    assert answer.headers["content-disposition"] == f'attachment; filename="{series}.tiff"'
    assert len(answer.content) == job["result"]["bytes"] == int(answer.headers["content-length"])
    (tmp_path / "out.tiff").write_bytes(answer.content)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tiff"), base)
    tag = answer.headers["etag"]
    rest = web.get(job["file"], headers={"Range": "bytes=100000-", "If-Range": tag})
    assert (rest.status_code, rest.content) == (206, answer.content[100_000:])
    assert rest.headers["content-range"] == f"bytes 100000-{len(answer.content) - 1}/{len(answer.content)}"
    assert web.get(job["file"], headers={"If-None-Match": tag}).status_code == 304
    beyond = web.get(job["file"], headers={"Range": f"bytes={len(answer.content)}-"})
    assert beyond.status_code == 416
    assert web.delete(made.json()["url"]).status_code == 204
    assert web.get(job["file"]).status_code == 410
    assert web.get(made.json()["url"]).json() | {"file": job["file"]} == job


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "no JSON"),
        (b"[]", "a JSON object"),
        (b'{"layout": "gif"}', "layout is one of"),
        (b'{"x": 1}', "option x"),
    ],
)
def test_export_requests_that_are_wrong(web: httpx.Client, body: bytes, said: str) -> None:
    answer = web.post(f"/wsi/slides/{generate_uid()}/export", content=body)
    assert (answer.status_code, said in answer.json()["detail"]) == (400, True), answer.text


def test_jobs_without_a_file(web: httpx.Client, tmp_path: Path) -> None:
    assert web.post(f"/wsi/slides/{generate_uid()}/export").status_code == 404
    svs(tmp_path / "slide.svs")
    made = web.post("/wsi/import", params={"filename": "x.svs"}, content=(tmp_path / "slide.svs").read_bytes()).json()
    job = finished(web, made["url"])
    assert (job["state"], job["file"]) == ("success", None)
    answer = web.get(f"{made['url']}/result")
    assert (answer.status_code, answer.json()["detail"]) == (404, "the job has left no file")
    assert web.get("/wsi/jobs/0b0f4b0e-5c0c-4f60-9f0e-3f6b6a4f7d11/result").status_code == 404


def test_the_list_of_jobs(web: httpx.Client) -> None:
    bad = [web.post("/wsi/import", params={"filename": "a.svs"}, content=b"no slide").json() for _ in range(3)]
    for job in bad:
        finished(web, job["url"])
    failed = {"state": "failure", "kind": "dicomize"}
    first = web.get("/wsi/jobs", params={**failed, "limit": "2"}).json()
    assert [job["job"] for job in first["jobs"]] == [bad[2]["job"], bad[1]["job"]]
    second = web.get(first["next"]).json()
    assert second["jobs"][0]["job"] == bad[0]["job"]
    assert {job["state"] for job in second["jobs"]} == {"failure"}
    last = web.get("/wsi/jobs", params={"limit": "1000"}).json()
    assert last["next"] is None
    for name, value in (("limit", "0"), ("limit", "x"), ("limit", "1001"), ("state", "x"), ("after", "x"), ("y", "1")):
        answer = web.get("/wsi/jobs", params={name: value})
        assert (answer.status_code, answer.json()["attribute"]) == (400, name)
