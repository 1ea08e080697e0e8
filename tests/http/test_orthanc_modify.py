"""Modify, anonymize, merge and split through Orthanc's REST API."""

import os
import re
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread

from dicomweb.uids import orthanc_ids
from tests.files import dataset, encoded, new_uid
from tests.support import end_leases, kill_worker, running_server

NOBODY = "-".join(["0" * 8] * 5)
IDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


class Stored:
    """A study of two series with two images each, of a patient of its own; the second image refers to the first."""

    def __init__(self, web: httpx.Client, patient: str = "", **attributes: Any) -> None:
        self.patient = patient or f"P-{new_uid()[-12:]}"
        study = new_uid()
        self.files: list[Dataset] = []
        for _ in range(2):
            series = new_uid()
            for number in (1, 2):
                ds = dataset(PatientID=self.patient, StudyInstanceUID=study, SeriesInstanceUID=series,
                             InstanceNumber=number, **attributes)  # fmt: skip
                if self.files:
                    item = Dataset()
                    item.ReferencedSOPClassUID = ds.SOPClassUID
                    item.ReferencedSOPInstanceUID = self.files[0].SOPInstanceUID
                    ds.ReferencedImageSequence = [item]
                self.files.append(ds)
        for ds in self.files:
            assert web.post("/instances", content=encoded(ds)).json()["Status"] == "Success"
        self.ids = [orthanc_ids(*(ds[name].value for name in ("PatientID", *IDS))) for ds in self.files]
        self.id = self.ids[0].study


@pytest.fixture
def stored(web: httpx.Client) -> Stored:
    return Stored(web)


def _ask(web: httpx.Client, path: str, **body: Any) -> Any:
    answer = web.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _files(web: httpx.Client, path: str) -> list[Dataset]:
    return [
        dcmread(BytesIO(web.get(f"/instances/{each['ID']}/file").content))
        for each in sorted(web.get(f"{path}/instances").json(), key=lambda e: e["ID"])
    ]


def test_study(web: httpx.Client, stored: Stored) -> None:
    answer = _ask(
        web, f"/studies/{stored.id}/modify", Replace={"StudyDescription": "Änderung"}, Remove=["AccessionNumber"]
    )
    made = answer["ID"]
    assert answer == {
        "Description": "REST API", "FailedInstancesCount": 0, "InstancesCount": 4, "IsAnonymization": False, "ID": made,
        "Path": f"/studies/{made}", "PatientID": stored.ids[0].patient, "Type": "Study",
        "ParentResources": [stored.id],
    }  # fmt: skip
    files = _files(web, f"/studies/{made}")
    assert {ds.StudyDescription for ds in files} == {"Änderung"}
    assert not any("AccessionNumber" in ds for ds in files)
    for name in IDS:
        assert {ds[name].value for ds in files}.isdisjoint(ds[name].value for ds in stored.files)
    referred = {item.ReferencedSOPInstanceUID for ds in files for item in ds.get("ReferencedImageSequence", [])}
    assert len(referred) == 1
    assert referred < {ds.SOPInstanceUID for ds in files}
    assert web.get(f"/studies/{made}/metadata/ModifiedFrom").text == stored.id
    instance = web.get(f"/studies/{made}/instances").json()[0]
    assert instance["ModifiedFrom"] in {each.instance for each in stored.ids}
    assert web.get(f"/instances/{instance['ID']}/metadata/Origin").text == "RestApi"
    assert web.get(f"/studies/{stored.id}").status_code == 200
    kinds = {(c["ChangeType"], c["ID"]) for c in web.get("/changes?limit=10000").json()["Changes"]}
    assert {("ModifiedStudy", made), ("NewStudy", made)} <= kinds


def test_series_stays_in_its_study(web: httpx.Client, stored: Stored) -> None:
    web.put(f"/series/{stored.ids[0].series}/labels/urgent")
    body = {"Replace": {"SeriesDescription": "S"}, "KeepSource": False, "KeepLabels": True}
    answer = _ask(web, f"/series/{stored.ids[0].series}/modify", **body)
    assert (answer["Type"], answer["InstancesCount"]) == ("Series", 2)
    found = web.get(f"/series/{answer['ID']}").json()
    assert (found["ParentStudy"], found["MainDicomTags"]["SeriesDescription"]) == (stored.id, "S")
    assert found["Labels"] == ["urgent"]
    assert set(web.get(f"/studies/{stored.id}").json()["Series"]) == {answer["ID"], stored.ids[2].series}


def test_patient(web: httpx.Client, stored: Stored) -> None:
    path = f"/patients/{stored.ids[0].patient}"
    assert web.post(f"{path}/modify", json={"Replace": {"PatientName": "x"}}).status_code == 400
    body = {"Replace": {"PatientID": f"{stored.patient}-new", "PatientName": "New"}, "Force": True, "KeepSource": False}
    answer = _ask(web, f"{path}/modify", **body)
    assert answer["ID"] == answer["PatientID"] == orthanc_ids(f"{stored.patient}-new", "", "", "").patient
    assert web.get(f"{answer['Path']}/metadata/ModifiedFrom").text == stored.ids[0].patient
    assert {str(ds.PatientName) for ds in _files(web, answer["Path"])} == {"New"}
    assert web.get(path).status_code == 404
    assert web.get(f"/studies/{stored.id}").status_code == 404


def test_in_place(web: httpx.Client, stored: Stored) -> None:
    """A study that keeps its UIDs is overwritten, also with another patient."""
    web.put(f"/studies/{stored.id}/labels/mine")
    keep = {"Keep": list(IDS), "Force": True}
    answer = _ask(web, f"/studies/{stored.id}/modify", Replace={"StudyDescription": "B", "Rows": 4}, **keep)
    assert answer["ID"] == stored.id
    study = web.get(f"/studies/{stored.id}").json()
    assert study["MainDicomTags"]["StudyDescription"] == "B"
    assert {ds.SOPInstanceUID for ds in _files(web, f"/studies/{stored.id}")} == {
        ds.SOPInstanceUID for ds in stored.files
    }
    other = f"{stored.patient}-new"
    body = {"Replace": {"PatientID": other, "PatientName": "Other", "KVP": "80"}, **keep}
    refused = web.post(f"/studies/{stored.id}/modify", json=body)
    assert (refused.status_code, refused.json()["OrthancStatus"]) == (400, 8)
    answer = _ask(web, f"/studies/{stored.id}/modify", **body, KeepSource=False)
    ids = [orthanc_ids(other, *(ds[name].value for name in IDS)) for ds in stored.files]
    assert (answer["ID"], answer["PatientID"]) == (ids[0].study, ids[0].patient)
    study = web.get(f"/studies/{ids[0].study}").json()
    assert (study["PatientMainDicomTags"]["PatientName"], study["ParentPatient"]) == ("Other", ids[0].patient)
    assert study["Labels"] == ["mine"]
    assert set(study["Series"]) == {each.series for each in ids}
    assert {each["ID"] for each in web.get(f"/studies/{ids[0].study}/instances").json()} == {e.instance for e in ids}
    for gone in (f"/studies/{stored.id}", f"/patients/{stored.ids[0].patient}", f"/series/{stored.ids[0].series}"):
        assert web.get(gone).status_code == 404
    assert web.post("/tools/find", json={"Level": "Study", "Query": {"PatientID": stored.patient}}).json() == []
    found = web.post("/tools/find", json={"Level": "Instance", "Query": {"PatientID": other, "KVP": "80"}}).json()
    assert sorted(found) == sorted(each.instance for each in ids)
    shared = web.get(f"/studies/{ids[0].study}/shared-tags?simplify").json()
    assert (shared["KVP"], shared["PatientName"]) == ("80", "Other")


def test_moved_to_another_patient(web: httpx.Client, stored: Stored) -> None:
    """Who is stored already is to be named as stored."""
    other = Stored(web, PatientName="Known^Karl", PatientSex="M", PatientBirthDate="19500101")
    body: dict[str, Any] = {"Replace": {"PatientID": other.patient, "PatientName": "Known^Karl"}, "Force": True}
    answer = web.post(f"/studies/{stored.id}/modify", json=body)
    assert answer.status_code == 400
    assert "PatientBirthDate" in answer.json()["Details"]
    body["Replace"] |= {"PatientSex": "M", "PatientBirthDate": "19500101"}
    made = _ask(web, f"/studies/{stored.id}/modify", **body)
    assert made["PatientID"] == other.ids[0].patient
    assert set(web.get(f"/patients/{made['PatientID']}").json()["Studies"]) == {other.id, made["ID"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/studies/{study}/modify", {"Replace": {"PatientID": "x"}}, 400, 8),
        ("/studies/{study}/modify", {"Keep": ["SOPInstanceUID"], "Force": True}, 400, 8),
        ("/studies/{study}/modify", {"Replace": {"PatientID": "x"}, "Keep": [IDS[0]], "Force": True}, 400, 8),
        ("/series/{series}/modify", {"Replace": {"PatientID": "x"}, "Force": True}, 400, 8),
        ("/series/{series}/modify", {"Replace": {"StudyInstanceUID": "1.2"}, "Force": True}, 400, 8),
        ("/studies/{study}/modify", {"Replace": {"Nope": "x"}}, 400, 8),
        ("/studies/{study}/modify", {"Transcode": "1.2.3"}, 400, 8),
        ("/studies/{study}/modify", [], 400, 8),
        ("/studies/{study}/anonymize", {"DicomVersion": "2008"}, 400, 3),
        ("/studies/{study}/anonymize", {"ProjectKey": "short"}, 400, 8),
        ("/studies/{study}/anonymize", {"Options": ["RetainUIDs"], "KeepSource": False}, 400, 8),
        (f"/studies/{NOBODY}/modify", {}, 404, 17),
        ("/patients/{study}/anonymize", {}, 404, 17),
        ("/instances/{study}/anonymize", {}, 404, 17),
        ("/tools/bulk-modify", {}, 400, 8),
        ("/tools/bulk-modify", {"Resources": ["{study}"], "Level": "Foo"}, 400, 3),
        ("/tools/bulk-anonymize", {"Resources": [NOBODY]}, 404, 17),
        ("/studies/{study}/merge", {}, 400, 8),
        ("/studies/{study}/merge", {"Resources": ["{series}"]}, 404, 17),
        ("/studies/{study}/split", {}, 400, 8),
        ("/studies/{study}/split", {"Series": ["{study}"]}, 404, 17),
        ("/studies/{study}/split", {"Series": ["{series}"], "Replace": {"SeriesDescription": "d"}}, 400, 3),
        ("/studies/{study}/split", {"Series": ["{series}"], "Replace": {"StudyInstanceUID": "1.2"}}, 400, 3),
    ],
)  # fmt: skip
def test_refusals(web: httpx.Client, refused: Stored, path: str, body: Any, status: int, code: int) -> None:
    names = {"study": refused.id, "series": refused.ids[0].series}
    if isinstance(body, dict):
        body = {
            name: [re.sub(r"\{(\w+)\}", lambda m: names[m[1]], e) for e in v] if isinstance(v, list) else v
            for name, v in body.items()
        }
    answer = web.post(path.format(**names), json=body)
    assert (answer.status_code, answer.json()["OrthancStatus"]) == (status, code), answer.text


@pytest.fixture(scope="module")
def refused(server: Any) -> Stored:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        return Stored(client)


def test_anonymized_study_has_no_original_identifier(web: httpx.Client) -> None:
    stored = Stored(
        web, PatientName="Geheim^Gerda", PatientBirthDate="19411112", AccessionNumber="ACC-77123",
        ReferringPhysicianName="Zuweiser^Zeno", InstitutionName="Klinikum Nirgendwo", OperatorsName="Bediener^Bodo",
        PatientAddress="Nebenstrasse 99", StudyID="STID-4711", OtherPatientIDs="OTHER-4712",
        BurnedInAnnotation="YES",
    )  # fmt: skip
    answer = _ask(web, f"/studies/{stored.id}/anonymize", KeepSource=False)
    assert (answer["IsAnonymization"], answer["Type"], answer["InstancesCount"]) == (True, "Study", 4)
    assert answer["BurnedInAnnotations"] == 4
    patient = web.get(f"/patients/{answer['PatientID']}").json()
    assert re.fullmatch(r"Anonymized\d+", patient["MainDicomTags"]["PatientName"])
    assert patient["AnonymizedFrom"] == stored.ids[0].patient
    secrets = {
        str(ds[name].value).encode()
        for ds in stored.files
        for name in (*IDS, "PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName",
                     "InstitutionName", "OperatorsName", "PatientAddress", "StudyID", "OtherPatientIDs")
    }  # fmt: skip
    instances = web.get(f"/studies/{answer['ID']}/instances").json()
    assert len(instances) == 4
    for each in instances:
        content = web.get(f"/instances/{each['ID']}/file").content
        assert not [secret for secret in secrets if secret in content]
        assert dcmread(BytesIO(content)).PatientIdentityRemoved == "YES"
    assert web.get(f"/patients/{stored.ids[0].patient}").status_code == 404
    job = next(j for j in web.get("/jobs?expand").json() if j["Content"].get("ID") == answer["ID"])
    assert (job["Type"], job["State"], job["Content"]) == ("ResourceModification", "Success", answer)


def test_pseudonyms_of_a_project_are_the_same_in_every_job(web: httpx.Client) -> None:
    first = Stored(web)
    second = Stored(web, first.patient)
    key = {"ProjectKey": "the key of this project"}
    names = set()
    for study in (first, second):
        answer = _ask(web, f"/studies/{study.id}/anonymize", **key)
        names |= {(str(ds.PatientID), str(ds.PatientName)) for ds in _files(web, answer["Path"])}
    assert len(names) == 1
    again = _ask(web, f"/studies/{first.id}/anonymize", **key)
    assert web.get(again["Path"]).json()["ParentPatient"] == answer["PatientID"]


def test_bulk(web: httpx.Client) -> None:
    first, second = Stored(web), Stored(web)
    resources = [first.id, second.ids[0].series, second.ids[2].instance]
    answer = _ask(web, "/tools/bulk-anonymize", Resources=resources)
    kinds = [each["Type"] for each in answer["Resources"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {"Patient": 2, "Study": 2, "Series": 4, "Instance": 7}
    assert answer["InstancesCount"] == 7
    for each in answer["Resources"]:
        assert web.get(each["Path"]).json()["ID"] == each["ID"]
    body = {"Replace": {"StudyDescription": "z"}, "Level": "Study", "Asynchronous": True}
    job = _ask(web, "/tools/bulk-modify", Resources=[first.id, second.id], **body)
    assert job["Path"] == f"/jobs/{job['ID']}"
    content = _over(web, job["ID"])["Content"]
    assert [each["Type"] for each in content["Resources"]].count("Study") == 2


def _over(web: httpx.Client, job: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while (found := web.get(f"/jobs/{job}").json())["State"] not in ("Success", "Failure"):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"'])
@pytest.mark.parametrize("what", ["modify", "anonymize", "merge", "split"])
def test_nothing_is_done_without_a_request(web: httpx.Client, stored: Stored, what: str, body: bytes) -> None:
    answer = web.post(f"/studies/{stored.id}/{what}", content=body)
    assert (answer.status_code, answer.json()["OrthancStatus"]) == (400, 8)
    assert len(web.post("/tools/lookup", content=stored.files[0].PatientID).json()) == 1
    assert len(web.get(f"/patients/{stored.ids[0].patient}/studies").json()) == 1


def test_a_patient_is_the_same_in_all_studies(web: httpx.Client, stored: Stored) -> None:
    """As since Orthanc 1.11.3: what one study says of the patient, the others say, too."""
    path = f"/studies/{stored.id}/modify"
    second = _ask(web, path, Replace={"StudyDescription": "Second"})["ID"]
    name = str(stored.files[0].PatientName)
    for body in ({"Replace": {"PatientName": "Other^Name"}}, {"Remove": ["PatientName"]}):
        refused = web.post(path, json=body)
        assert refused.status_code == 400
        assert "PatientName" in refused.json()["Details"]
    _ask(web, path, Replace={"PatientName": name, "PatientID": stored.files[0].PatientID}, Force=True)
    # A patient's only study may say what it likes, and so may all studies together.
    web.delete(f"/studies/{second}")
    patient = web.get(f"/patients/{stored.ids[0].patient}").json()
    keep = {"Keep": ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"], "Force": True}
    _ask(web, "/tools/bulk-modify", Resources=patient["Studies"], Level="Study", Replace={"PatientName": "New"}, **keep)
    assert web.get(f"/patients/{stored.ids[0].patient}").json()["MainDicomTags"]["PatientName"] == "New"


def test_merge(web: httpx.Client) -> None:
    target, source = Stored(web, StudyDescription="Target"), Stored(web, AccessionNumber=None, PatientAge="050Y")
    answer = _ask(web, f"/studies/{target.id}/merge", Resources=[source.ids[0].series], KeepSource=True)
    assert answer == {
        "Description": "REST API", "FailedInstancesCount": 0, "InstancesCount": 2, "TargetStudy": target.id,
    }  # fmt: skip
    assert len(web.get(f"/studies/{source.id}/series").json()) == 2
    _ask(web, f"/studies/{target.id}/merge", Resources=[source.id])
    assert _ask(web, f"/studies/{target.id}/merge", Resources=[])["InstancesCount"] == 0
    assert web.get(f"/studies/{source.id}").status_code == 404
    files = _files(web, f"/studies/{target.id}")
    assert len(files) == 4 + 2 + 4
    first = target.files[0]
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDescription", "AccessionNumber"):
        assert {str(ds[name].value) for ds in files} == {str(first[name].value)}
    assert not any("PatientAge" in ds for ds in files)
    assert len({ds.SeriesInstanceUID for ds in files}) == 5
    assert web.get(f"/studies/{target.id}/metadata?expand").json().keys() == {"LastUpdate", "MainDicomTagsSignature"}


def test_split(web: httpx.Client, stored: Stored) -> None:
    web.put(f"/studies/{stored.id}/labels/kept")
    body = {"Series": [stored.ids[2].series], "Instances": [stored.ids[0].instance], "KeepLabels": True}
    answer = _ask(web, f"/studies/{stored.id}/split", **body, Replace={"StudyDescription": "Part"})
    assert (answer["InstancesCount"], answer["FailedInstancesCount"]) == (3, 0)
    study = web.get(f"/studies/{answer['TargetStudy']}").json()
    assert study["MainDicomTags"]["StudyInstanceUID"] == answer["TargetStudyUID"]
    assert (study["MainDicomTags"]["StudyDescription"], study["Labels"]) == ("Part", ["kept"])
    assert len(study["Series"]) == 2
    assert [each["ID"] for each in web.get(f"/studies/{stored.id}/instances").json()] == [stored.ids[1].instance]


def test_transcoded(web: httpx.Client, stored: Stored) -> None:
    """Lossy compression makes derived instances; references to them follow."""
    for target in ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"):
        answer = _ask(web, f"/studies/{stored.id}/modify", Transcode=target, LossyQuality=90)
        files = {ds.SOPInstanceUID: ds for ds in _files(web, answer["Path"])}
        assert {ds.file_meta.TransferSyntaxUID for ds in files.values()} == {target}
        referred = [
            ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID for ds in files.values() if ds.InstanceNumber == 2
        ]
        assert {files[uid].InstanceNumber for uid in referred} == {1}
        assert not any("SourceImageSequence" in ds for ds in files.values())


def test_instance_is_answered_and_not_stored(web: httpx.Client, stored: Stored) -> None:
    before = web.get("/statistics").json()["CountInstances"]
    path = f"/instances/{stored.ids[1].instance}"
    answer = web.post(f"{path}/modify", json={"Replace": {"PatientName": "New^Name"}, "Keep": ["SOPInstanceUID"], "Force": True})  # fmt: skip  # noqa: E501
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom")
    ds = dcmread(BytesIO(answer.content))
    assert (ds.PatientName, ds.SOPInstanceUID) == ("New^Name", stored.files[1].SOPInstanceUID)
    answer = web.post(f"{path}/anonymize", json={"Replace": {"PatientID": "mine"}, "Force": True})
    ds = dcmread(BytesIO(answer.content))
    assert (ds.PatientID, ds.PatientIdentityRemoved) == ("mine", "YES")
    assert stored.files[1].SOPInstanceUID.encode() not in answer.content
    assert web.post(f"{path}/modify", json={"Replace": {"PatientID": "x"}}).status_code == 400
    assert web.get("/statistics").json()["CountInstances"] == before


def test_large_instance(web: httpx.Client) -> None:
    """Larger than what is read at once: mapped, spooled, and untouched where nothing changes."""
    pixels = os.urandom(1 << 16) * 200
    ds = dataset(Rows=2560, Columns=2560, BitsAllocated=16, PixelData=pixels, PatientID=f"L-{new_uid()[-12:]}")
    ids = web.post("/instances", content=encoded(ds)).json()
    answer = web.post(f"/instances/{ids['ID']}/modify", json={"Replace": {"PatientName": "Big"}})
    assert dcmread(BytesIO(answer.content)).PixelData == pixels
    made = _ask(web, f"/series/{ids['ParentSeries']}/anonymize")
    assert _files(web, made["Path"])[0].PixelData == pixels


def test_permissive(web: httpx.Client) -> None:
    """Parts that cannot be done are counted; without permission the first ends the job, and the sources stay."""
    stored = Stored(web)
    # The text of one of the files cannot be written in the character set that is asked for.
    broken = stored.files[0]
    twin = dataset(PatientID=stored.patient, StudyInstanceUID=broken.StudyInstanceUID,
                   SeriesInstanceUID=broken.SeriesInstanceUID, SpecificCharacterSet="ISO_IR 192",
                   SeriesDescription="日本語")  # fmt: skip
    assert web.post("/instances", content=encoded(twin)).status_code == 200
    body = {"Replace": {"SpecificCharacterSet": "ISO_IR 100"}, "KeepSource": False}
    answer = web.post(f"/studies/{stored.id}/modify", json=body)
    assert answer.status_code == 400
    assert "SeriesDescription" in answer.json()["Details"]
    answer = _ask(web, f"/studies/{stored.id}/modify", **body, Permissive=True)
    assert (answer["InstancesCount"], answer["FailedInstancesCount"]) == (5, 1)
    assert len(_files(web, answer["Path"])) == 4
    assert len(web.get(f"/studies/{stored.id}/instances").json()) == 5


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    with (
        running_server(tmp_path, workers=1) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        study = new_uid()
        series = new_uid()
        patient = f"K-{study[-8:]}"
        pixels = os.urandom(1 << 19)
        for number in range(150):
            ds = dataset(PatientID=patient, StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number,
                         Rows=512, Columns=512, BitsAllocated=16, PixelData=pixels)  # fmt: skip
            web.post("/instances", content=encoded(ds))
        source = orthanc_ids(patient, study, series, "").study
        job = _ask(web, f"/studies/{source}/anonymize", Asynchronous=True, KeepSource=False)
        end = time.monotonic() + 30
        while not 10 < web.get("/statistics").json()["CountInstances"] - 150 < 140:
            assert time.monotonic() < end
        kill_worker(server.process.pid)
        end_leases(server)
        found = _over(web, job["ID"], 90)
        assert (found["State"], found["Content"]["InstancesCount"]) == ("Success", 150)
        assert web.get("/statistics").json()["CountInstances"] == 150
        assert len(web.get(f"{found['Content']['Path']}/instances?expand=false").json()) == 150
        assert web.get(f"/studies/{source}").status_code == 404


def test_answers_are_those_of_orthanc(web: httpx.Client, orthanc: httpx.Client) -> None:
    """The members of each answer, and what becomes of the same files."""
    seen = []
    for client in (web, orthanc):
        stored, other = Stored(client, "same"), Stored(client, "other")
        found: list[Any] = []
        for path, body in (
            (f"/studies/{stored.id}/modify", {"Replace": {"StudyDescription": "x"}}),
            (f"/series/{stored.ids[0].series}/modify", {"Remove": ["SeriesDescription"]}),
            (f"/studies/{stored.id}/anonymize", {"Replace": {"PatientName": "A"}}),
            (f"/studies/{stored.id}/modify", {"Asynchronous": True}),
            ("/tools/bulk-modify", {"Resources": [stored.id], "Level": "Study"}),
            (f"/studies/{stored.id}/merge", {"Resources": [other.ids[0].series]}),
            (f"/studies/{stored.id}/split", {"Series": [stored.ids[0].series], "KeepSource": True}),
            (f"/patients/{stored.ids[0].patient}/modify", {"Replace": {"PatientID": "x"}, "Force": True}),
        ):
            answer = _ask(client, path, **body)
            if "Asynchronous" in body:
                assert _over(client, answer["ID"])["State"] == "Success"
            answer.pop("ParentResources", None)  # since Orthanc 1.12
            found.append((sorted(answer), {k: v for k, v in answer.items() if isinstance(v, int)}, answer.get("Type")))
        found.append([len(client.get(f"/studies/{each.id}/series").json()) for each in (stored, other)])
        seen.append(found)
    assert seen[0] == seen[1]
