"""POST /{patients|studies|series|instances}/{id}/reconstruct and /tools/reconstruct."""

from collections.abc import Iterator

import httpx
import pytest

from tests.files import ct, new_uid
from tests.support import running_server


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server whose whole index may be made anew."""
    with (
        running_server(tmp_path_factory.mktemp("alone"), workers=1) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def stored(alone: httpx.Client) -> dict[str, str]:
    answer = alone.post("/instances", content=ct(PatientID=f"P-{new_uid()[-12:]}")).json()
    return {
        "": "/tools",
        "patient": f"/patients/{answer['ParentPatient']}",
        "study": f"/studies/{answer['ParentStudy']}",
        "series": f"/series/{answer['ParentSeries']}",
        "instance": f"/instances/{answer['ID']}",
    }


@pytest.mark.parametrize("level", ["", "patient", "study", "series", "instance"])
@pytest.mark.parametrize("body", [{}, {"ReconstructFiles": True}, {"LimitToThisLevelMainDicomTags": True}])
def test_answers_are_as_before(alone: httpx.Client, stored: dict[str, str], level: str, body: dict[str, bool]) -> None:
    paths = [path for name, path in stored.items() if name]
    assert alone.put(f"{stored['study']}/labels/mine").status_code == 200
    assert alone.put(f"{stored['study']}/metadata/1024", content=b"kept").status_code == 200
    before = [alone.get(path + more).json() for path in paths for more in ("", "/metadata?expand", "/statistics")]
    tags, last = alone.get(f"{stored['instance']}/tags").json(), alone.get("/changes?last").json()
    answer = alone.post(f"{stored[level]}/reconstruct", json=body)
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, "text/plain", "")
    assert [
        alone.get(path + more).json() for path in paths for more in ("", "/metadata?expand", "/statistics")
    ] == before
    assert (alone.get(f"{stored['instance']}/tags").json(), alone.get("/changes?last").json()) == (tags, last)
    assert alone.get(f"{stored['instance']}/preview").status_code == 200


def test_as_a_job(alone: httpx.Client, stored: dict[str, str]) -> None:
    made = alone.post(f"{stored['study']}/reconstruct", json={"Asynchronous": True, "UserData": 7}).json()
    assert made["Path"] == f"/jobs/{made['ID']}"
    alone.post(f"{stored['study']}/reconstruct")  # the jobs are worked on one after the other
    job = alone.get(made["Path"]).json()
    assert (job["Type"], job["State"], job["UserData"]) == ("Reconstruct", "Success", 7)
    assert job["Content"] == {
        "Description": "REST API", "ID": stored["study"].rpartition("/")[2], "Type": "Study", "StudiesCount": 1,
        "FailedStudiesCount": 0,
    }  # fmt: skip


def test_refusals(alone: httpx.Client, stored: dict[str, str]) -> None:
    for path in (
        "/studies/nothing",
        f"/studies/{'-'.join(['0' * 8] * 5)}",
        stored["study"].replace("studies", "series"),
    ):
        assert alone.post(f"{path}/reconstruct").status_code == 404
    assert alone.post(f"{stored['study']}/reconstruct", json=[]).status_code == 400
    assert alone.post(f"{stored['study']}/reconstruct", json={"ReconstructFiles": 5}).status_code == 400
    assert alone.get(f"{stored['study']}/reconstruct").status_code == 405
