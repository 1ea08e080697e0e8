"""POST /wsi/import and the watched folder, against a running archive; a worker that is killed loses nothing."""

import os
import time
import zipfile
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support import RunningServer, running_server
from tests.wsi.vendor import svs, tiled_tiff


def finished(web: httpx.Client, url: str, seconds: float = 90) -> dict[str, object]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job: dict[str, object] = web.get(url).raise_for_status().json()
        if job["state"] in {"success", "failure"}:
            return job
        time.sleep(0.2)
    raise AssertionError(f"the job is not over: {job}")


def test_an_upload_becomes_a_slide(web: httpx.Client, tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    query = {"filename": "S24-1.svs", "label": "false", "metadata": '{"PatientID": "P-11"}'}
    answer = web.post("/wsi/import", params=query, content=(tmp_path / "slide.svs").read_bytes())
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == answer.json()["url"]
    job = finished(web, answer.json()["url"])
    assert job["state"] == "success", job
    result = job["result"]
    assert result["instances"] == 4  # type: ignore[index]
    slide = web.get(f"/wsi/slides/{result['series']}").json()  # type: ignore[index]
    assert set(slide["images"]) == {"overview", "thumbnail"}
    found = web.get("/dicom-web/instances", params={"SeriesInstanceUID": slide["series"], "includefield": "00400512"})
    assert {item["00400512"]["Value"][0] for item in found.json()} == {"S24-1"}


def test_a_slide_in_a_zip_file(web: httpx.Client, tmp_path: Path) -> None:
    tiled_tiff(tmp_path / "slide.tiff")
    with zipfile.ZipFile(tmp_path / "case.zip", "w") as file:
        file.write(tmp_path / "slide.tiff", "case/slide.tiff")
        file.writestr("case/notes.txt", "nothing")
    answer = web.post("/wsi/import", params={"filename": "S24-3.zip"}, content=(tmp_path / "case.zip").read_bytes())
    job = finished(web, answer.json()["url"])
    assert job["state"] == "success", job
    slide = web.get(f"/wsi/slides/{job['result']['series']}").json()  # type: ignore[index]
    assert (slide["width"], slide["height"]) == (1500, 1100)
    empty = web.post("/wsi/import", params={"filename": "x.zip"}, content=b"PK\5\6" + bytes(18))
    job = finished(web, empty.json()["url"])
    assert (job["state"], job["error"]) == ("failure", "the ZIP file has 0 slides: send one")


def test_what_is_no_slide_fails_with_a_reason(web: httpx.Client) -> None:
    answer = web.post("/wsi/import", params={"filename": "a.svs"}, content=b"II*\0 no slide")
    job = finished(web, answer.json()["url"])
    assert job["state"] == "failure"
    assert job["error"]


@pytest.mark.parametrize(
    ("query", "content", "status", "attribute"),
    [
        ({"format": "gif"}, b"x", 400, "format"),
        ({"seed": "1"}, b"x", 400, "seed"),
        ({"icc_file": "/etc/passwd"}, b"x", 400, "icc_file"),
        ({"label_file": "/etc/passwd"}, b"x", 400, "label_file"),
        ({"overview_part": "0,0,200,100"}, b"x", 400, "overview_part"),
        ({"filename": "../x"}, b"x", 400, "filename"),
        ({"metadata": "{"}, b"x", 400, "metadata"),
        ({}, b"", 400, None),
    ],
)
def test_requests_that_are_wrong(
    web: httpx.Client, query: dict[str, str], content: bytes, status: int, attribute: str | None
) -> None:
    answer = web.post("/wsi/import", params=query, content=content)
    assert answer.status_code == status
    assert answer.json().get("attribute") == attribute


def test_a_slide_without_names(web: httpx.Client, tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    query = {"filename": "S24-2.svs", "metadata": '{"PatientID": "P-12", "PatientName": "Doe^Jane"}'}
    made = web.post("/wsi/import", params=query, content=(tmp_path / "slide.svs").read_bytes()).json()
    series = finished(web, made["url"])["result"]["series"]  # type: ignore[index]
    asked = {"metadata": {"PatientID": "T-12"}, "name": "case-12", "overview_part": [50, 0, 50, 100]}
    answer = web.post(f"/wsi/slides/{series}/deidentify", json=asked)
    assert answer.status_code == 202, answer.text
    job = finished(web, answer.json()["url"])
    assert job["state"] == "success", job
    result: dict[str, str] = job["result"]  # type: ignore[assignment]
    before, after = (web.get(f"/wsi/slides/{name}").json() for name in (series, result["series"]))
    assert set(before["images"]) == {"label", "overview", "thumbnail"}
    assert set(after["images"]) == {"thumbnail", "overview"}
    overviews = [described["images"]["overview"] for described in (before, after)]
    assert [(image["width"], image["height"], image["identifies"]) for image in overviews] == [
        (200, 100, True), (100, 100, False)
    ]  # fmt: skip
    assert [level["width"] for level in after["levels"]] == [level["width"] for level in before["levels"]]
    url = f"/dicom-web/studies/{result['study']}/metadata"
    for instance in web.get(url).json():
        assert instance["00100020"]["Value"] == ["T-12"]
        assert instance["00400512"]["Value"] == ["case-12"]
        assert "Value" not in instance["00100010"]
    text = web.get(url).text
    assert all(name not in text for name in ("P-12", "Doe", "S24-2", before["study"], series, "SS1234"))
    tiles = [web.get(f"/wsi/slides/{name}/tiles/0/2/1").content for name in (series, result["series"])]
    assert tiles[0] == tiles[1]


@pytest.mark.parametrize(
    ("body", "attribute"),
    [
        ({"label": True}, "label"),
        ({"label_file": "/x"}, "label_file"),
        ({"icc_file": "/x"}, "icc_file"),
        ({"format": "gif"}, "format"),
        ({"seed": "1"}, "seed"),
        ({"study": "x"}, "study"),
    ],
)
def test_slides_without_names_that_are_asked_for_wrongly(
    web: httpx.Client, body: dict[str, object], attribute: str
) -> None:
    answer = web.post("/wsi/slides/1.2.3/deidentify", json=body)
    assert (answer.status_code, answer.json()["attribute"]) == (400, attribute)


def test_jobs_that_are_none(web: httpx.Client) -> None:
    for name in ("x", "0b0f4b0e-5c0c-4f60-9f0e-3f6b6a4f7d11"):
        assert web.get(f"/wsi/jobs/{name}").status_code == 404
        assert web.delete(f"/wsi/jobs/{name}").status_code == 404


def conversion(server: RunningServer, seconds: float = 60) -> psutil.Process:
    """The process that converts; its parent is the worker."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for process in psutil.Process(server.process.pid).children(recursive=True):
            try:
                if "wsi.convert.process" in process.cmdline():
                    return process
            except psutil.Error:
                continue
        time.sleep(0.01)
    raise AssertionError("no conversion runs")


@pytest.mark.full
def test_a_killed_worker_loses_no_job_and_a_folder_is_watched(tmp_path: Path) -> None:
    folder = tmp_path / "scanner"
    folder.mkdir()
    tiled_tiff(folder / "watched.tiff")
    before = time.time() - 60
    os.utime(folder / "watched.tiff", (before, before))
    tiled_tiff(tmp_path / "slow.tiff")
    with (
        running_server(tmp_path / "data", workers=1, slide_folder=folder) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        query = {"filename": "slow.tiff", "format": "jpeg2000-lossless", "pyramid": "full", "name": "killed"}
        answer = web.post("/wsi/import", params=query, content=(tmp_path / "slow.tiff").read_bytes())
        child = conversion(server)
        child.parent().kill()  # type: ignore[union-attr]
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running()
        job = finished(web, answer.json()["url"])
        assert job["state"] == "success", job
        deadline = time.monotonic() + 60
        names: set[str] = set()
        while names != {"killed", "watched"} and time.monotonic() < deadline:
            found = web.get("/dicom-web/instances", params={"Modality": "SM", "includefield": "00400512"})
            names = {item["00400512"]["Value"][0] for item in found.json()} if found.status_code == 200 else set()
            time.sleep(0.3)
        assert names == {"killed", "watched"}
        assert len(web.get("/dicom-web/series", params={"Modality": "SM"}).json()) == 2
    assert not list((tmp_path / "data").glob("job-*"))
    assert (folder / "watched.tiff").exists()
