"""QIDO-RS against a running server: the requests of the clients that have to work."""

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient

from tests.files import ct, new_uid
from tests.http.bodies import ROOT, problem, store
from tests.support import RunningServer


@pytest.fixture
def patient(web: httpx.Client) -> str:
    """A patient with two studies of two series of two instances; its ID."""
    patient = f"Q-{new_uid()[-12:]}"
    for date, description in (("20240101", "Knie"), ("20240215", "Thorax")):
        study = new_uid()
        for modality in ("CT", "SR"):
            series = new_uid()
            common = {
                "PatientID": patient,
                "PatientName": f"Query^{patient}",
                "StudyInstanceUID": study,
                "SeriesInstanceUID": series,
                "StudyDate": date,
                "StudyDescription": description,
                "Modality": modality,
            }
            files = [ct(**common, InstanceNumber=n) for n in (1, 2)]
            assert store(web, *files).status_code == 200
    return patient


def _studies(web: httpx.Client, query: str) -> list[str]:
    answer = web.get(f"{ROOT}/studies?{query}")
    if answer.status_code == 204:
        assert answer.content == b""
        return []
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    return [row["00081030"]["Value"][0] for row in answer.json()]


def test_dicomweb_client_walks_down_the_levels(dicomweb: DICOMwebClient, patient: str) -> None:
    studies = dicomweb.search_for_studies(
        search_filters={"PatientID": patient}, fields=["StudyDescription", "00080060"]
    )
    assert len(studies) == 2
    study = studies[0]["0020000D"]["Value"][0]
    assert studies[0]["00201206"]["Value"] == [2]
    assert studies[0]["00201208"]["Value"] == [4]
    assert sorted(studies[0]["00080061"]["Value"]) == ["CT", "SR"]
    series = dicomweb.search_for_series(study)
    assert [row["00201209"]["Value"] for row in series] == [[2], [2]]
    instances = dicomweb.search_for_instances(study, series[0]["0020000E"]["Value"][0])
    assert [row["00200013"]["Value"] for row in instances] == [[1], [2]]
    assert len(dicomweb.search_for_instances(study)) == 4


def test_relational_searches_at_the_root(dicomweb: DICOMwebClient, patient: str) -> None:
    assert len(dicomweb.search_for_series(search_filters={"PatientID": patient, "Modality": "SR"})) == 2
    found = dicomweb.search_for_instances(search_filters={"PatientID": patient})
    assert len(found) == 8
    assert all("0020000D" in row and "0020000E" in row for row in found)


def test_client_reads_all_pages(dicomweb: DICOMwebClient, patient: str) -> None:
    found = dicomweb.search_for_instances(search_filters={"PatientID": patient}, limit=3, get_remaining=True)
    assert len({row["00080018"]["Value"][0] for row in found}) == 8


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("PatientID={id}&StudyDate=20240101-20240131", ["Knie"]),
        ("PatientID={id}&StudyDate=-20240131", ["Knie"]),
        ("PatientID={id}&StudyDate=20240201-", ["Thorax"]),
        ("00100010=*{id}&StudyDescription=Th*", ["Thorax"]),
        ("PatientName=query%5e{id}&StudyDescription=Kn?e", ["Knie"]),
        ("PatientID={id}&ModalitiesInStudy=SR&StudyDate=20240215", ["Thorax"]),
        ("PatientID={id}&StudyDescription=Hand", []),
        ("PatientID={id}&limit=1&offset=1", ["Knie"]),
        ("PatientID={id}&limit=0", []),
        # Weasis begins with an empty parameter; OHIF sends one comma list and its own flags.
        ("?&PatientID={id}&includefield=00081030,00080060&limit=101&offset=0&fuzzymatching=false", ["Knie", "Thorax"]),
    ],
)
def test_matching(web: httpx.Client, patient: str, query: str, expected: list[str]) -> None:
    query = query.replace("{id}", patient).removeprefix("?")
    assert sorted(_studies(web, query + "&includefield=StudyDescription")) == expected


def test_uid_lists_with_backslash_and_comma(web: httpx.Client, patient: str) -> None:
    rows = web.get(f"{ROOT}/studies?PatientID={patient}").json()
    uids = [row["0020000D"]["Value"][0] for row in rows]
    for separator in ("%5C", ",", "&StudyInstanceUID="):
        answer = web.get(f"{ROOT}/studies?StudyInstanceUID={separator.join(uids)}")
        assert len(answer.json()) == 2, separator


def test_warning_when_a_limit_of_ours_cuts(strict: httpx.Client) -> None:
    study = new_uid()
    for _ in range(2):
        assert store(strict, *[ct(StudyInstanceUID=study) for _ in range(3)]).status_code == 200
    defaulted = strict.get(f"{ROOT}/studies/{study}/instances")
    assert len(defaulted.json()) == 2
    assert defaulted.headers["warning"].startswith("299 ")
    assert "additional results" in defaulted.headers["warning"]
    assert "warning" not in strict.get(f"{ROOT}/studies/{study}/instances?limit=3").headers
    capped = strict.get(f"{ROOT}/studies/{study}/instances?limit=100")
    assert len(capped.json()) == 5
    assert "warning" in capped.headers


def test_what_is_ignored_is_said(web: httpx.Client, server: RunningServer, patient: str) -> None:
    answer = web.get(f"{ROOT}/studies?PatientID={patient}&includefield=NoSuchThing,NorThis")
    warnings = answer.headers.get_list("warning")
    assert len(warnings) == 2
    assert all(text.startswith(f"299 {server.dicomweb}: ") for text in warnings)


def test_by_the_uids_of_lower_levels(web: httpx.Client, patient: str) -> None:
    instances = web.get(f"{ROOT}/instances?PatientID={patient}").json()
    study, series, sop = (instances[0][tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    for level, query, tag, uid in (
        ("studies", f"SeriesInstanceUID={series}", "0020000D", study),
        ("studies", f"SOPInstanceUID={sop}", "0020000D", study),
        ("series", f"SOPInstanceUID={sop}", "0020000E", series),
        (f"studies/{study}/series", f"SOPInstanceUID={sop}", "0020000E", series),
    ):
        answer = web.get(f"{ROOT}/{level}?{query}")
        assert [row[tag]["Value"] for row in answer.json()] == [[uid]], (level, query)
        assert "warning" not in answer.headers
    assert web.get(f"{ROOT}/studies?SOPInstanceUID=1.2.3").status_code == 204


@pytest.mark.parametrize(
    ("query", "attribute"),
    [
        ("BodyPartExamined=HEAD", "BodyPartExamined"),
        ("NumberOfStudyRelatedInstances=7", "NumberOfStudyRelatedInstances"),
        ("PatientIdd=1", "PatientIdd"),
        ("limit=-1", "limit"),
        ("StudyDate=yesterday", "StudyDate"),
        ("fuzzymatching=x", "fuzzymatching"),
    ],
)
def test_wrong_parameters_are_named(web: httpx.Client, query: str, attribute: str) -> None:
    answer = web.get(f"{ROOT}/studies?{query}")
    assert (answer.status_code, problem(answer)) == (400, "bad-query")
    assert answer.json()["attribute"] == attribute


def test_query_that_is_not_utf8(web: httpx.Client) -> None:
    assert web.get(f"{ROOT}/studies?PatientName=%ff%fe").status_code == 400


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/dicom+json", 200),
        ("application/dicom+json, application/json", 200),
        ("application/json", 200),
        ("*/*", 200),
        ("application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*", 200),
        ("text/html", 406),
    ],
)
def test_accept(web: httpx.Client, patient: str, accept: str, status: int) -> None:
    answer = web.get(f"{ROOT}/studies?PatientID={patient}", headers={"Accept": accept})
    assert answer.status_code == status
    if status == 200:
        assert "charset" not in answer.headers["content-type"]
    else:
        assert "application/dicom+json" in answer.json()["detail"]


def test_retrieve_url_never_from_the_host_header(server: RunningServer, web: httpx.Client, patient: str) -> None:
    def url(host: str) -> str:
        answer = web.get(f"{ROOT}/studies?PatientID={patient}&limit=1", headers={"Host": host})
        return str(answer.json()[0]["00081190"]["Value"][0])

    port = server.port
    assert url("127.0.0.1").startswith(f"http://127.0.0.1:{port}/dicom-web/studies/")  # dicomweb-client drops the port
    assert url("localhost:1").startswith(f"http://localhost:{port}/dicom-web/")
    assert url("evil.example.org").startswith(f"http://127.0.0.1:{port}/dicom-web/")


def test_doubled_and_trailing_slashes(web: httpx.Client, patient: str) -> None:
    for path in ("//dicom-web/studies", "/dicom-web//studies/", "/dicom-web/studies///"):
        answer = web.send(web.build_request("GET", str(web.base_url) + path, params={"PatientID": patient}))
        assert answer.status_code == 200, path


def test_head_is_get_without_a_body(web: httpx.Client, patient: str) -> None:
    path = f"{ROOT}/studies?PatientID={patient}"
    whole, head = web.get(path), web.head(path)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(whole.content))


def test_many_searches_on_one_connection(web: httpx.Client, patient: str) -> None:
    answers = {web.get(f"{ROOT}/studies?PatientID={patient}").content for _ in range(50)}
    assert len(answers) == 1
