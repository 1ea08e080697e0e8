"""DELETE at the three levels."""

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient

from tests.files import ct, dataset, encoded, new_uid
from tests.http.bodies import ROOT, problem, store


def _count(web: httpx.Client, study: str) -> int:
    answer = web.get(f"{ROOT}/studies/{study}/instances")
    return len(answer.json()) if answer.status_code == 200 else 0


def test_each_level(web: httpx.Client, dicomweb: DICOMwebClient) -> None:
    study, series = new_uid(), new_uid()
    first = dataset(StudyInstanceUID=study, SeriesInstanceUID=series)
    files = [encoded(first), ct(StudyInstanceUID=study, SeriesInstanceUID=series), ct(StudyInstanceUID=study)]
    other = [ct(StudyInstanceUID=study) for _ in range(2)]
    assert store(web, *files, *other).status_code == 200
    dicomweb.delete_instance(study, series, first.SOPInstanceUID)
    assert _count(web, study) == 4
    dicomweb.delete_series(study, series)
    assert _count(web, study) == 3
    dicomweb.delete_study(study)
    assert web.get(f"{ROOT}/studies?StudyInstanceUID={study}").status_code == 204
    answer = web.get(f"{ROOT}/studies/{study}/metadata")
    assert (answer.status_code, problem(answer)) == (404, "not-found")


def test_answer_is_204_then_404(web: httpx.Client) -> None:
    ds = dataset()
    store(web, encoded(ds))
    path = f"{ROOT}/studies/{ds.StudyInstanceUID}"
    answer = web.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    again = web.delete(path)
    assert (again.status_code, problem(again)) == (404, "not-found")


def test_last_instance_takes_its_parents_along(web: httpx.Client) -> None:
    ds = dataset()
    store(web, encoded(ds))
    web.delete(f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}")
    assert web.get(f"{ROOT}/studies?StudyInstanceUID={ds.StudyInstanceUID}").status_code == 204


def test_deleted_and_stored_again(web: httpx.Client) -> None:
    ds = dataset()
    for _ in range(2):
        assert store(web, encoded(ds)).status_code == 200
        assert _count(web, ds.StudyInstanceUID) == 1
        assert web.delete(f"{ROOT}/studies/{ds.StudyInstanceUID}").status_code == 204
    ds.KVP = "80"
    assert store(web, encoded(ds)).status_code == 200


@pytest.mark.parametrize("path", ["studies/1.2.x", "studies/1.2/series/..a", "studies/1.2/series/1.3/instances/x"])
def test_malformed_uids(web: httpx.Client, path: str) -> None:
    assert web.delete(f"{ROOT}/{path}").status_code == 400


def test_series_of_another_study_stays(web: httpx.Client) -> None:
    one, other = dataset(), dataset()
    store(web, encoded(one), encoded(other))
    answer = web.delete(f"{ROOT}/studies/{one.StudyInstanceUID}/series/{other.SeriesInstanceUID}")
    assert answer.status_code == 404
    assert _count(web, other.StudyInstanceUID) == 1
