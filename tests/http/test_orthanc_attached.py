"""Labels, metadata, attachments and the change feed over HTTP."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.files import ct, new_uid
from tests.support import running_server


@pytest.fixture
def paths(web: httpx.Client) -> dict[str, str]:
    """The four resources of an instance that was just stored."""
    answer = web.post("/instances", content=ct(PatientID=f"A-{os.urandom(6).hex()}")).json()
    return {
        "patient": f"/patients/{answer['ParentPatient']}",
        "study": f"/studies/{answer['ParentStudy']}",
        "series": f"/series/{answer['ParentSeries']}",
        "instance": f"/instances/{answer['ID']}",
    }


@pytest.fixture(scope="module")
def careful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that checks revisions, has names for metadata and attachments, and settles at once."""
    with (
        running_server(
            tmp_path_factory.mktemp("careful"),
            workers=1,
            check_revisions="true",
            user_metadata="ward=1024",
            user_attachments="report=1024",
            stable_age_s=0,
        ) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def test_labels(web: httpx.Client, paths: dict[str, str]) -> None:
    name = f"l-{os.urandom(4).hex()}"
    for path in paths.values():
        assert web.get(f"{path}/labels").json() == []
        assert web.get(f"{path}/labels/{name}").status_code == 404
        assert web.put(f"{path}/labels/{name}").status_code == 200
        assert web.put(f"{path}//labels/{name}/", content=b"ignored").status_code == 200
        assert (web.get(f"{path}/labels/{name}").status_code, web.get(f"{path}/labels/{name}").text) == (200, "")
        assert web.get(f"{path}/labels").json() == [name]
    assert name in web.get("/tools/labels").json()
    for path in paths.values():
        assert web.delete(f"{path}/labels/{name}").status_code == 200
        assert web.get(f"{path}/labels").json() == []
    assert name not in web.get("/tools/labels").json()


@pytest.mark.parametrize("label", ["a%20b", "%C3%A4", "a.b", "x" * 65, "%3Cscript%3E", "a%2Fb", "%27%3B--"])
def test_what_is_no_label(web: httpx.Client, paths: dict[str, str], label: str) -> None:
    answer = web.put(f"{paths['study']}/labels/{label}")
    assert answer.status_code in (400, 404)  # a slash makes another path
    assert web.get(f"{paths['study']}/labels").json() == []


def test_metadata(web: httpx.Client, paths: dict[str, str]) -> None:
    for path in paths.values():
        assert "1030" not in web.get(f"{path}/metadata").json()
        put = web.put(f"{path}/metadata/1030", content="Räume 7".encode())
        assert put.status_code == 200
        got = web.get(f"{path}/metadata/1030")
        assert (got.text, got.headers["etag"]) == ("Räume 7", put.headers["etag"])
        assert web.get(f"{path}/metadata/1030", headers={"If-None-Match": got.headers["etag"]}).status_code == 304
        assert web.get(f"{path}/metadata?expand").json()["1030"] == "Räume 7"
        assert web.put(f"{path}/metadata/1030", content=b"x", headers={"If-Match": '"9-00"'}).status_code == 409
        assert web.delete(f"{path}/metadata/1030").status_code == 200
        assert web.get(f"{path}/metadata/1030").status_code == 404
        assert web.delete(f"{path}/metadata/1030").status_code == 404
    known = web.get(f"{paths['instance']}/metadata?expand").json()
    assert known["Origin"] == "RestApi"
    assert known["SopClassUid"] == "1.2.840.10008.5.1.4.1.1.2"
    assert web.get(f"{paths['instance']}/metadata?expand&numeric").json()["8"] == "RestApi"
    assert {2, 3, 8, 15} <= set(web.get(f"{paths['instance']}/metadata?numeric").json())
    signature = "0010,0010;0010,0020;0010,0030;0010,0040;0010,1000"
    assert web.get(f"{paths['patient']}/metadata/MainDicomTagsSignature").text == signature
    assert web.get(f"{paths['instance']}/metadata/Origin").text == "RestApi"


@pytest.mark.parametrize(
    ("name", "status", "code"), [("LastUpdate", 403, 45), ("7", 403, 45), ("nothing", 404, 17), ("70000", 404, 17)]
)
def test_metadata_that_cannot_be_written(
    web: httpx.Client, paths: dict[str, str], name: str, status: int, code: int
) -> None:
    for answer in (
        web.put(f"{paths['study']}/metadata/{name}", content=b"x"),
        web.put(f"{paths['study']}/attachments/{name.replace('LastUpdate', 'dicom')}", content=b"x"),
    ):
        assert (answer.status_code, answer.json()["OrthancStatus"]) == (status, code)


def test_metadata_are_text(web: httpx.Client, paths: dict[str, str]) -> None:
    for bad in (b"\xff\xfe", b"a\0b"):
        assert web.put(f"{paths['study']}/metadata/1024", content=bad).status_code == 400
    assert web.put(f"{paths['study']}/metadata/1024", content=bytes(2 << 20)).status_code == 413


def test_attachments(web: httpx.Client, paths: dict[str, str]) -> None:
    data = b"\x02\x00" + os.urandom(9 << 20)  # above what is held in memory, and like a file without preamble
    for path in paths.values():
        put = web.put(f"{path}/attachments/1040", content=data)
        assert (put.status_code, put.json()) == (200, {})
        at = f"{path}/attachments/1040"
        assert web.get(f"{at}/data").content == data
        assert web.get(f"{at}/data").headers["etag"] == put.headers["etag"]
        part = web.get(f"{at}/data", headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, data[100:200])
        assert web.get(f"{at}/compressed-data", headers={"Range": f"bytes={len(data)}-"}).status_code == 416
        info = web.get(f"{at}/info").json()
        assert (info["UncompressedSize"], info["ContentType"]) == (len(data), 1040)
        assert info["UncompressedMD5"] == web.get(f"{at}/md5").text
        assert web.get(f"{at}/size").text == str(len(data))
        assert web.get(f"{at}/is-compressed").text == "0"
        assert web.post(f"{at}/verify-md5").json() == {}
        assert "1040" in web.get(f"{path}/attachments").json()
        assert web.get(f"{path}/attachments?full").json()["1040"] == 1040
        assert web.delete(at).status_code == 200
        assert web.get(at).status_code == 404
    assert web.get(f"{paths['instance']}/attachments").json() == ["dicom"]
    assert web.get(f"{paths['instance']}/attachments/dicom/data").content[128:132] == b"DICM"
    assert web.delete(f"{paths['instance']}/attachments/dicom").status_code == 403


def test_names_of_downloads_are_names_only(web: httpx.Client, paths: dict[str, str]) -> None:
    web.put(f"{paths['study']}/attachments/1024", content=b"x")
    answer = web.get(f"{paths['study']}/attachments/1024/data?filename=a%22%0d%0aSet-Cookie:b")
    assert "set-cookie" not in answer.headers
    assert "\n" not in answer.headers["content-disposition"]


def test_revisions_are_demanded(careful: httpx.Client) -> None:
    study = f"/studies/{careful.post('/instances', content=ct()).json()['ParentStudy']}"
    for path in (f"{study}/metadata/ward", f"{study}/attachments/report"):
        first = careful.put(path, content=b"one").headers["etag"]
        assert first.startswith('"0-')
        refused = careful.put(path, content=b"two")
        assert (refused.status_code, refused.json()["OrthancStatus"]) == (409, 43)
        second = careful.put(path, content=b"two", headers={"If-Match": first}).headers["etag"]
        assert second.startswith('"1-')
        assert careful.delete(path).status_code == 409
        assert careful.delete(path, headers={"If-Match": first}).status_code == 409
        assert careful.delete(path, headers={"If-Match": second}).status_code == 200
    careful.put(f"{study}/metadata/ward", content=b"7")
    assert careful.get(f"{study}/metadata?expand").json()["ward"] == "7"
    assert careful.get(f"{study}/metadata/1024").text == "7"


def test_changes(careful: httpx.Client) -> None:
    since = careful.get("/changes?last").json()["Last"]
    ids = careful.post("/instances", content=ct(PatientID=new_uid())).json()
    deadline = time.monotonic() + 10
    kinds: list[str] = []
    while "StablePatient" not in kinds and time.monotonic() < deadline:
        page = careful.get(f"/changes?since={since}").json()
        kinds = [each["ChangeType"] for each in page["Changes"]]
        assert set(kinds) >= {"NewPatient", "NewStudy", "NewSeries", "NewInstance"}  # at once
    assert {"StableSeries", "StableStudy", "StablePatient"} <= set(kinds)
    assert [each["Seq"] for each in page["Changes"]] == list(range(since + 1, since + 1 + len(kinds)))
    assert (page["Done"], page["First"], page["Last"]) == (True, since + 1, since + len(kinds))
    first = next(each for each in page["Changes"] if each["ChangeType"] == "NewStudy")
    assert (first["ID"], first["Path"]) == (ids["ParentStudy"], f"/studies/{ids['ParentStudy']}")
    assert first["ResourceType"] == "Study"
    assert len(first["Date"]) == 15
    only = careful.get(f"/changes?since={since}&type=NewStudy;StableStudy").json()["Changes"]
    assert [e["ChangeType"] for e in only if e["ID"] == ids["ParentStudy"]] == ["NewStudy", "StableStudy"]
    assert careful.get("/changes?type=Nothing").status_code == 400
    assert careful.get("/changes?since=x").status_code == 400
    assert careful.delete("/changes").status_code == 200
    assert careful.get("/changes").json()["Changes"] == []
    assert careful.get("/exports").json() == {"Exports": [], "Done": True, "Last": 0}
    assert careful.delete("/exports").status_code == 200


def test_wrong_verbs_and_resources(web: httpx.Client, paths: dict[str, str], tmp_path: Path) -> None:
    refused = web.post(f"{paths['study']}/labels/x")
    assert (refused.status_code, set(refused.headers["allow"].replace(" ", "").split(","))) == (
        405,
        {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"},
    )
    for unknown in ("xx", "0" * 40, "00000000-00000000-00000000-00000000-00000000"):
        for path in ("labels", "metadata", "attachments", "labels/x", "metadata/1024", "attachments/1024/data"):
            assert web.get(f"/studies/{unknown}/{path}").status_code == 404
        assert web.put(f"/studies/{unknown}/labels/x").status_code == 404
        assert web.put(f"/studies/{unknown}/attachments/1024", content=b"x").status_code == 404
