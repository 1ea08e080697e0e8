"""Archives that go on where they broke off, and those that jobs write."""

import io
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, generate_uid

from dicomweb.uids import OrthancIds, orthanc_ids
from tests.files import dataset, encoded, file_set
from tests.support import kill_worker, running_server


class Study:
    """Two series of three images each; the second series is large enough not to be read at once."""

    def __init__(self, *clients: httpx.Client) -> None:
        study = generate_uid()
        self.files: list[bytes] = []
        for number, (rows, columns) in enumerate(((64, 48), (1500, 1500))):
            series = generate_uid()
            for each in (1, 2, 3):
                values = np.random.default_rng(each).integers(0, 4000, (rows, columns), dtype="<u2")
                ds = dataset(
                    StudyInstanceUID=study, SeriesInstanceUID=series, SeriesNumber=number, InstanceNumber=each,
                    Rows=rows, Columns=columns, PixelData=values.tobytes(), PatientID=f"Z-{study[-10:]}",
                    StudyDate="20240229", StudyTime="131415",
                )  # fmt: skip
                self.files.append(encoded(ds))
                for client in clients:
                    assert client.post("/instances", content=self.files[-1]).json()["Status"] == "Success"
        self.ids: OrthancIds = orthanc_ids(ds.PatientID, study, series, ds.SOPInstanceUID)
        self.path = f"/studies/{self.ids.study}"


@pytest.fixture(scope="module")
def study(server: Any) -> Study:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        return Study(client)


def _members(data: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        assert found.testzip() is None
        return [found.read(name) for name in found.namelist()]


def test_length_and_tag_are_known(web: httpx.Client, study: Study) -> None:
    answer = web.get(f"{study.path}/archive")
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["accept-ranges"] == "bytes"
    assert not answer.headers["etag"].startswith("W/")
    assert _members(answer.content) == study.files
    times = {each.date_time for each in zipfile.ZipFile(io.BytesIO(answer.content)).infolist()}
    assert times == {(2024, 2, 29, 13, 14, 14)}
    head = web.head(f"{study.path}/archive")
    assert {name: head.headers[name] for name in ("content-length", "etag")} == {
        name: answer.headers[name] for name in ("content-length", "etag")
    }
    assert not head.content
    kept = web.get(f"{study.path}/archive", headers={"if-none-match": answer.headers["etag"]})
    assert (kept.status_code, kept.content) == (304, b"")


def test_any_part_is_a_part_of_the_whole(web: httpx.Client, study: Study) -> None:
    whole = web.get(f"{study.path}/archive")
    size = len(whole.content)
    offsets = [each.header_offset for each in zipfile.ZipFile(io.BytesIO(whole.content)).infolist()]
    directory = whole.content.rindex(b"PK\5\6") - 500
    starts = {0, 1, size - 1, directory, *offsets, *(each + 1 for each in offsets), *(each - 1 for each in offsets[1:])}
    for start in sorted(starts):
        for end in (start, start + 100, start + 70_000, size - 1):
            part = web.get(f"{study.path}/archive", headers={"range": f"bytes={start}-{end}"})
            last = min(end, size - 1)
            assert (part.status_code, part.headers["content-range"]) == (206, f"bytes {start}-{last}/{size}")
            assert part.content == whole.content[start : last + 1], (start, last)
    assert web.get(f"{study.path}/archive", headers={"range": f"bytes={size}-"}).status_code == 416
    assert web.get(f"{study.path}/archive", headers={"range": "bytes=-22"}).content == whole.content[-22:]


def test_going_on_where_a_download_broke_off(web: httpx.Client, study: Study) -> None:
    whole = web.get(f"{study.path}/archive")
    received = b""
    with web.stream("GET", f"{study.path}/archive") as answer:
        for chunk in answer.iter_raw():
            received += chunk
            if len(received) > len(whole.content) * 2 // 3:
                break
    headers = {"range": f"bytes={len(received)}-", "if-range": whole.headers["etag"]}
    rest = web.get(f"{study.path}/archive", headers=headers)
    assert rest.status_code == 206
    assert received + rest.content == whole.content


def test_a_study_that_changed_is_sent_whole(web: httpx.Client) -> None:
    study = Study(web)
    tag = web.get(f"{study.path}/archive", headers={"range": "bytes=0-9"}).headers["etag"]
    assert web.delete(f"/instances/{study.ids.instance}").status_code == 200
    again = web.get(f"{study.path}/archive", headers={"range": "bytes=10-", "if-range": tag})
    assert again.status_code == 200
    assert again.headers["etag"] != tag
    assert _members(again.content) == study.files[:-1]


def test_several_resources_in_parts(web: httpx.Client, study: Study) -> None:
    asked = {"resources": f"{study.ids.instance},{study.ids.instance}"}
    whole = web.get("/tools/create-archive", params=asked)
    assert _members(whole.content) == study.files[-1:]
    part = web.get("/tools/create-archive", params=asked, headers={"range": "bytes=100-"})
    assert part.content == whole.content[100:]


def test_what_is_made_on_the_way_has_no_parts(web: httpx.Client, study: Study) -> None:
    for path in ("media", f"archive?transcode={JPEGLSLossless}"):
        answer = web.get(f"{study.path}/{path}", headers={"range": "bytes=0-9"})
        assert answer.status_code == 200
        assert "accept-ranges" not in answer.headers
        assert "etag" not in answer.headers


def _over(web: httpx.Client, job: str, seconds: float = 30) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while (found := web.get(f"/jobs/{job}").json())["State"] not in ("Success", "Failure"):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return dict(found)


def test_posted_archives_are_streamed(web: httpx.Client, study: Study) -> None:
    expected = web.get(f"{study.path}/archive").content
    for path, body in (
        (f"{study.path}/archive", {}),
        (f"{study.path}/archive", []),
        ("/tools/create-archive", [study.ids.study]),
        ("/tools/create-archive", {"Resources": [study.ids.study], "Filename": "../my.zip", "Utf8": True}),
    ):
        answer = web.post(path, json=body)
        assert (answer.status_code, answer.content) == (200, expected)
    assert answer.headers["content-disposition"] == 'attachment; filename="my.zip"'
    for path in (f"{study.path}/media", "/tools/create-media", "/tools/create-media-extended"):
        answer = web.post(path, json={"Resources": [study.ids.study]})
        assert "DICOMDIR" in zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert _members(web.post("/tools/create-archive", json=[]).content) == []


def test_an_archive_as_a_job(web: httpx.Client, study: Study) -> None:
    body = {"Asynchronous": True, "Priority": 3, "UserData": {"a": 1}, "Filename": "my study.zip"}
    made = web.post(f"{study.path}/archive", json=body).json()
    assert made == {"ID": made["ID"], "Path": f"/jobs/{made['ID']}"}
    found = _over(web, made["ID"])
    whole = web.get(f"{study.path}/archive").content
    stored = sum(map(len, study.files))
    assert (found["Type"], found["State"], found["Priority"], found["UserData"]) == ("Archive", "Success", 3, {"a": 1})
    assert found["Content"] == {
        "Description": "REST API", "InstancesCount": 6, "UncompressedSize": str(stored),
        "UncompressedSizeMB": stored >> 20, "ArchiveSize": str(len(whole)), "ArchiveSizeMB": len(whole) >> 20,
    }  # fmt: skip
    path = f"{made['Path']}/archive"
    answer = web.get(path)
    assert answer.content == whole
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="my study.zip"'
    part = web.get(path, headers={"range": "bytes=5-99", "if-range": answer.headers["etag"]})
    assert (part.status_code, part.content) == (206, whole[5:100])
    assert web.get(f"{made['Path']}/nothing").status_code == 404
    assert web.delete(path).status_code == 200
    for gone in (web.get(path), web.delete(path)):
        assert (gone.status_code, gone.json()["OrthancStatus"]) == (404, 17)
    assert web.get(made["Path"]).json()["State"] == "Success"


def test_a_transcoded_medium_as_a_job(web: httpx.Client, study: Study, tmp_path: Path) -> None:
    body = {"Resources": [study.ids.study], "Synchronous": False, "Transcode": JPEGLSLossless}
    made = web.post("/tools/create-media-extended", json=body).json()
    found = _over(web, made["ID"])
    assert (found["Type"], found["State"], found["Content"]["Transcode"]) == ("Media", "Success", JPEGLSLossless)
    answer = web.get(f"{made['Path']}/archive")
    assert found["Content"]["ArchiveSize"] == str(len(answer.content))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as opened:
        opened.extractall(tmp_path)
    assert len(list(file_set(tmp_path / "DICOMDIR"))) == 6
    assert {dcmread(each).file_meta.TransferSyntaxUID for each in (tmp_path / "IMAGES").iterdir()} == {JPEGLSLossless}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("{study}/archive", None, 400),
        ("{study}/archive", "hello", 400),
        ("{study}/archive", {"Transcode": "1.2.3"}, 400),
        ("{study}/archive", {"Transcode": 5}, 400),
        ("{study}/archive", {"Synchronous": "x"}, 400),
        ("{study}/archive", {"Asynchronous": True, "Priority": "high"}, 400),
        ("{study}/archive", {"LossyQuality": 0}, 400),
        ("{study}/media", {"Extended": 1}, 400),
        ("/studies/nothing/archive", {"Asynchronous": True}, 404),
        ("/series/{id}/archive", {}, 404),
        ("/instances/{id}/archive", {}, 404),
        ("/tools/create-archive", {}, 400),
        ("/tools/create-archive", "{id}", 400),
        ("/tools/create-archive", [5], 400),
        ("/tools/create-archive", {"Resources": ["no"]}, 404),
        ("/tools/create-media", {"Resources": ["{id}"] * 100_001}, 400),
    ],
)
def test_refusals(web: httpx.Client, study: Study, path: str, body: Any, status: int) -> None:
    path = path.format(study=study.path, id=study.ids.study)
    answer = web.post(path) if body is None else web.post(path, json=body)
    assert answer.status_code == status, answer.text


def test_an_archive_that_could_not_be_kept_is_refused(tmp_path: Path) -> None:
    with (
        running_server(tmp_path, workers=1, job_file_bytes=100_000) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        study = Study(web)
        refused = web.post(f"{study.path}/archive", json={"Asynchronous": True})
        assert refused.status_code == 413
        assert "job_file_bytes" in refused.text
        assert web.post(f"{study.path}/archive", json={}).status_code == 200


@pytest.mark.full
def test_a_killed_worker_loses_no_archive(tmp_path: Path) -> None:
    with (
        running_server(tmp_path, workers=1) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        study, series = generate_uid(), generate_uid()
        pixels = os.urandom(1 << 19)
        for number in range(50):
            ds = dataset(PatientID="K", StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number,
                         Rows=512, Columns=512, BitsAllocated=16, PixelData=pixels)  # fmt: skip
            web.post("/instances", content=encoded(ds))
        source = f"/studies/{orthanc_ids('K', study, series, '').study}"
        # Transcoding takes long enough to be killed in its midst.
        body = {"Asynchronous": True, "Transcode": JPEG2000Lossless}
        job = web.post(f"{source}/archive", json=body).json()["ID"]
        end = time.monotonic() + 30
        while not any(each.stat().st_size > 1 << 20 for each in tmp_path.glob(f"job-{job}-*/archive")):
            assert time.monotonic() < end
            time.sleep(0.01)
        kill_worker(server.process.pid)
        assert web.get(f"/jobs/{job}").json()["State"] != "Success"
        assert web.get(f"/jobs/{job}/archive").status_code == 404
        assert _over(web, job, 90)["State"] == "Success"
        members = _members(web.get(f"/jobs/{job}/archive").content)
        assert {dcmread(io.BytesIO(each)).file_meta.TransferSyntaxUID for each in members} == {JPEG2000Lossless}
        assert len(members) == 50
        assert not list(tmp_path.glob(f"job-{job}-*"))


def test_answers_are_those_of_orthanc(web: httpx.Client, orthanc: httpx.Client) -> None:
    """Members and values of jobs, but for the bytes of the ZIP file, and statuses; Orthanc reads what we made."""
    study, found = Study(web, orthanc), []
    for client in (web, orthanc):
        of: list[Any] = []
        for path, body in (
            (f"{study.path}/archive", {"Asynchronous": True, "Priority": 7}),
            (f"{study.path}/media", {"Synchronous": False, "Transcode": "1.2.840.10008.1.2.1"}),
            ("/tools/create-archive", {"Resources": [study.ids.study], "Asynchronous": True}),
        ):
            made = client.post(path, json=body).json()
            job = _over(client, made["ID"])
            content = job["Content"]
            assert int(content.pop("ArchiveSize")) >> 20 == content.pop("ArchiveSizeMB")
            of.append((sorted(made), sorted(job), content, [job[n] for n in ("Type", "State", "Priority", "Progress")]))
        for path, body in (
            (f"{study.path}/archive", {"Transcode": 5}), ("/tools/create-archive", {}), ("/tools/create-archive", []),
            ("/tools/create-archive", {"Resources": ["no"]}), (f"{study.path}/archive", []),
        ):  # fmt: skip
            of.append(client.post(path, json=body).status_code)
        for path in ("/jobs/nothing/archive", f"{made['Path']}/nothing", f"{made['Path']}/archive"):
            answer = client.get(path)
            of.append((answer.status_code, answer.headers.get("content-type") if answer.is_success else None))
        found.append(of)
    assert found[0] == found[1]
    again = orthanc.post("/instances", content=web.get(f"{study.path}/archive").content).json()
    assert [each["Status"] for each in again] == ["AlreadyStored"] * 6
