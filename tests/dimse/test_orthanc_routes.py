"""Orthanc's routes for modalities, queries and jobs: the same requests to Debian's Orthanc and to us."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from dicomweb.uids import orthanc_ids
from dimse_bridge.contexts import COMMITMENT
from dimse_bridge.scu import COMMITMENT_INSTANCE
from tests import files
from tests import orthanc as peer
from tests.dimse.programs import storescp
from tests.orthanc import Orthanc
from tests.support import RunningServer, free_port, running_server

STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
# What newer versions of Orthanc say than Debian's, or we beside it.
MORE = {
    "AllowStorageCommitment", "AllowMpps", "Certificates", "NotifyMpps", "RetrieveMethod", "TargetAet", "Details",
}  # fmt: skip


@pytest.fixture(scope="module")
def anor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("anor"), workers=2, dimse_timeout=5, log_exports="true") as running:
        yield running


@pytest.fixture(scope="module")
def web(anor: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=anor.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def other(anor: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Whom both ask: it knows both as modalities."""
    with peer.running_orthanc(
        tmp_path_factory.mktemp("other"), {"anor": ("ANOR", anor.dimse_port)}, "OTHER"
    ) as running:
        running.upload(Path(get_testdata_file("CT_small.dcm")).read_bytes())
        yield running


@pytest.fixture(scope="module")
def orthanc(other: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Whose answers ours are compared with."""
    base = tmp_path_factory.mktemp("orthanc")
    with peer.running_orthanc(base, {"other": ("OTHER", other.dimse_port), "dead": ("DEAD", free_port())}) as running:
        declared = {"AET": "ORTHANC", "Host": "127.0.0.1", "Port": running.dimse_port}
        other.request("PUT", "/modalities/orthanc", json.dumps(declared).encode())
        yield running


@pytest.fixture(scope="module")
def both(web: httpx.Client, orthanc: Orthanc, other: Orthanc) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    for name, aet, port in (("other", "OTHER", other.dimse_port), ("dead", "DEAD", free_port())):
        body = {"AET": aet, "Host": "127.0.0.1", "Port": port}
        assert web.put(f"/modalities/{name}", json=body).text == ""
    for name in ("CT_small.dcm", "MR_small.dcm"):
        data = Path(get_testdata_file(name)).read_bytes()
        orthanc.upload(data)
        assert web.post("/instances", content=data).status_code == 200
    with httpx.Client(base_url=orthanc.url, timeout=60) as client:
        yield web, client


def ids() -> list[str]:
    found = []
    for name in ("CT_small.dcm", "MR_small.dcm"):
        ds = pydicom.dcmread(get_testdata_file(name), stop_before_pixels=True)
        of = orthanc_ids(ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        found += [of.instance, of.study]
    return found


def same(ours: Any, theirs: Any, *, ignore: set[str] = MORE) -> None:
    """The same keys and types all the way down, and the same values where these do not depend on who is asked."""
    assert type(ours) is type(theirs), (ours, theirs)
    if isinstance(ours, dict):
        assert ours.keys() - ignore == theirs.keys() - ignore
        for key in ours.keys() & theirs.keys():
            same(ours[key], theirs[key], ignore=ignore)
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, two in zip(ours, theirs, strict=True):
            same(one, two, ignore=ignore)


def ask(both: tuple[httpx.Client, httpx.Client], method: str, path: str, body: Any = None) -> tuple[Any, Any]:
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    ours, theirs = (client.request(method, path, content=content) for client in both)
    assert ours.status_code == theirs.status_code, (ours.text, theirs.text)
    return tuple(each.json() if each.text.strip()[:1] in ("{", "[") else each.text for each in (ours, theirs))  # type: ignore[return-value]


def test_declarations(both: tuple[httpx.Client, httpx.Client]) -> None:
    for path in (
        "/modalities",
        "/modalities?expand",
        "/modalities/other/configuration",
        "/modalities//other/configuration/",
    ):
        ours, theirs = ask(both, "GET", path)
        same(ours, theirs)
    ours, theirs = ask(both, "GET", "/modalities/other/configuration")
    assert {k: ours[k] for k in ours.keys() - MORE} == theirs
    ours, theirs = ask(both, "GET", "/modalities/other")
    assert set(theirs) <= set(ours)
    assert ask(both, "PUT", "/modalities/listed", ["LISTED", "localhost", 104]) == ("", "")
    same(*ask(both, "GET", "/modalities/listed/configuration"))
    assert ask(both, "DELETE", "/modalities/listed") == ("", "")
    for method, path, body in (
        ("DELETE", "/modalities/listed", None),
        ("GET", "/modalities/none", None),
        ("PUT", "/modalities/x", {"AET": "X"}),
        ("PUT", "/modalities/x", b"no json"),
        ("POST", "/modalities/none/echo", {}),
    ):
        ours, theirs = ask(both, method, path, body)
        assert ours["HttpStatus"]
        if theirs:
            same(ours, theirs, ignore={"Details"})


def test_certificates_and_titles(web: httpx.Client) -> None:
    digest = "AB:" * 31 + "CD"
    given = [digest, "DNS:CT1.hospital.example", "CN:CT 1"]
    body = {"AET": "X", "Host": "192.0.2.0/24", "Port": 0, "Certificates": given, "NotifyMpps": True}
    assert web.put("/modalities/x", json=body).status_code == 200
    said = web.get("/modalities/x/configuration").json()
    assert said["Certificates"] == ["ab" * 31 + "cd", "dns:ct1.hospital.example", "cn:ct 1"]
    assert (said["Host"], said["NotifyMpps"]) == ("192.0.2.0/24", True)
    for wrong in (["AB"], [1], "AB"):
        assert web.put("/modalities/x", json=body | {"Certificates": wrong}).status_code == 400
    web.delete("/modalities/x")

    assert web.put("/local-aets/RESEARCH", json={"Labels": ["trial", "a"]}).status_code == 200
    assert web.put("/local-aets/PLAIN").status_code == 200
    assert web.get("/local-aets").json() == {"PLAIN": {"Labels": []}, "RESEARCH": {"Labels": ["a", "trial"]}}
    assert web.put("/local-aets/PLAIN", json={"Labels": ["no label"]}).status_code == 400
    for aet in ("PLAIN", "RESEARCH"):
        assert web.delete(f"/local-aets/{aet}").status_code == 200
    assert web.delete("/local-aets/PLAIN").status_code == 404


def test_echo(both: tuple[httpx.Client, httpx.Client], other: Orthanc) -> None:
    assert ask(both, "POST", "/modalities/other/echo", {}) == ({}, {})
    assert ask(both, "POST", "/modalities/other/echo", b"") == ({}, {})
    body = {"AET": "OTHER", "Host": "127.0.0.1", "Port": other.dimse_port}
    assert ask(both, "POST", "/tools/dicom-echo", body) == ({}, {})
    assert both[0].post("/modalities/other/echo", json={"CheckFind": True}).json() == {}
    ours, theirs = ask(both, "POST", "/modalities/dead/echo", {})
    assert ours.keys() == theirs.keys()
    assert {k: ours[k] for k in ours.keys() - {"Details"}} == {k: theirs[k] for k in theirs.keys() - {"Details"}}
    assert (ours["HttpStatus"], ours["OrthancStatus"]) == (500, 9)


def test_store(both: tuple[httpx.Client, httpx.Client], other: Orthanc) -> None:
    instance, study, second, _ = ids()
    for body in (instance.encode(), [second, study], {"Resources": [study], "Synchronous": True, "Priority": 3}):
        ours, theirs = ask(both, "POST", "/modalities/other/store", body)
        same(ours, theirs)
        assert {k: ours[k] for k in ours.keys() - {"LocalAet"}} == {k: theirs[k] for k in theirs.keys() - {"LocalAet"}}
    assert instance in other.request("GET", "/instances")
    exported = both[0].get("/exports").json()["Exports"]
    assert {(each["RemoteModality"], each["ID"]) for each in exported} == {("other", each) for each in ids()[:3]}
    ours, theirs = ask(both, "POST", "/modalities/other/store", {"Resources": [instance], "Asynchronous": True})
    same(ours, theirs)
    job = finished(both[0], ours["ID"])
    same(job, both[1].get(theirs["Path"]).json())
    for body in ({"Resources": ["nope"]}, b"nope", {"Resources": ["0" * 8 + "-00000000" * 4]}):
        ask(both, "POST", "/modalities/other/store", body)
    ours, theirs = ask(both, "POST", "/modalities/dead/store", [instance])
    assert (ours["OrthancStatus"], ours["Message"]) == (theirs["OrthancStatus"], theirs["Message"])
    data = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    ours, theirs = ask(both, "POST", "/modalities/other/store-straight", data)
    assert ours == theirs


def finished(web: httpx.Client, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found: dict[str, Any] = web.get(f"/jobs/{job}").json()
        if found["State"] in ("Success", "Failure"):
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def test_query_and_retrieve(both: tuple[httpx.Client, httpx.Client], other: Orthanc) -> None:
    body = {"Level": "Study", "Query": {"PatientID": "1CT1", "PatientName": "", "0008,0061": ""}, "Normalize": False}
    made = ask(both, "POST", "/modalities/other/query", body)
    same(*made)
    assert made[0]["ID"] in both[0].get("/queries").json()

    def each(path: str, method: str = "GET", body: Any = None) -> tuple[Any, Any]:
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        found = [
            client.request(method, f"/queries/{of['ID']}{path}", content=content)
            for client, of in zip(both, made, strict=True)
        ]
        assert found[0].status_code == found[1].status_code, (path, found[0].text, found[1].text)
        return tuple(f.json() if f.text.strip()[:1] in ("{", "[") else f.text for f in found)  # type: ignore[return-value]

    for path in ("", "/answers", "/answers/0", "/level", "/modality"):
        ours, theirs = each(path)
        assert ours == theirs, path
    for path in ("/query", "/query?simplify"):
        ours, theirs = each(path)
        same(ours, theirs)
    for path in (
        "/answers?expand",
        "/answers?expand&simplify",
        "/answers?expand&short",
        "/answers/0/content",
        "/answers/0/content?simplify",
    ):
        ours, theirs = each(path)
        assert "1CT1" in json.dumps(ours)
        assert without(ours) == without(theirs), path
    ours, theirs = each("/answers/0/query-series", "POST", {})
    assert ours.keys() == theirs.keys()
    found = [c.get(f"{of['Path']}/answers?expand&simplify").json() for c, of in zip(both, (ours, theirs), strict=True)]
    assert [a["SeriesInstanceUID"] for a in found[0]] == [a["SeriesInstanceUID"] for a in found[1]]
    ours, theirs = each("/retrieve", "POST", {"TargetAet": "ORTHANC"})
    same(ours, theirs, ignore=MORE | {"0008,0050"})  # the accession number is no unique key: it is not sent
    assert ours["Query"][0]["0020,000d"] == STUDY
    ours, _ = each("/answers/0/retrieve", "POST", {"TargetAet": "NOBODY"})
    assert ours["OrthancStatus"] == 9
    assert each("", "DELETE") == ("", "")
    assert both[0].get(f"/queries/{made[0]['ID']}").status_code == 404


def without(answer: Any) -> Any:
    """An answer without what the archive adds for who asks."""
    if isinstance(answer, list):
        return [without(each) for each in answer]
    return {k: v for k, v in answer.items() if k not in ("0008,0005", "SpecificCharacterSet")}


def test_storage_commitment(both: tuple[httpx.Client, httpx.Client], other: Orthanc) -> None:
    """The other archive answers on an association that it asks us for."""
    instance, study, second, _ = ids()
    both[0].post("/modalities/other/store", content=study)
    before = set(other.request("GET", "/instances"))
    never = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": "1.2.3.4"}
    body = {"Resources": [study], "DicomInstances": [never]}
    assert instance in before
    made = both[0].post("/modalities/other/storage-commitment", json=body).json()
    found: dict[str, Any] = {}
    deadline = time.monotonic() + 20
    while found.get("Status", "Pending") == "Pending" and time.monotonic() < deadline:
        found = both[0].get(made["Path"]).json()
        time.sleep(0.1)
    assert (found["Status"], found["RemoteAET"]) == ("Failure", "OTHER"), found
    assert len(found["Success"]) == 1
    assert [each["SOPInstanceUID"] for each in found["Failures"]] == ["1.2.3.4"]
    assert found["Failures"][0]["Description"] == "No such object instance"
    assert both[0].post(f"{made['Path']}/remove", json={}).status_code == 400
    ours, theirs = ask(both, "GET", "/storage-commitment/1.2.3")
    assert ours["HttpStatus"] == theirs["HttpStatus"] == 404
    stored = {"Resources": [second], "StorageCommitment": True}
    answer = both[0].post("/modalities/other/store", json=stored).json()
    path = f"/storage-commitment/{answer['StorageCommitmentTransactionUID']}"
    while both[0].get(path).json()["Status"] == "Pending":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert both[0].get(path).json()["Status"] == "Success"
    assert both[0].post(f"{path}/remove", json={}).json() == {}
    assert both[0].get(f"/instances/{second}/file").status_code == 404


def test_wrong_queries(both: tuple[httpx.Client, httpx.Client]) -> None:
    for body in ({"Level": "Bad", "Query": {}}, {"Level": "Study", "Query": {"NoTag": ""}}, b"x", {}):
        ours, _ = ask(both, "POST", "/modalities/other/query", body)
        assert ours["HttpStatus"] == 400
    ours, theirs = ask(both, "POST", "/modalities/dead/query", {"Level": "Study"})
    assert ours["OrthancStatus"] == theirs["OrthancStatus"] == 9
    assert both[0].get("/queries/none").status_code == 404


def test_move_to_us(both: tuple[httpx.Client, httpx.Client], other: Orthanc) -> None:
    accession = f"A{files.new_uid()[-12:]}"
    file = files.ct(AccessionNumber=accession)
    uid = pydicom.dcmread(io.BytesIO(file)).StudyInstanceUID
    identifier = other.upload(file)
    body = {"Level": "Study", "Resources": [{"StudyInstanceUID": uid}]}
    found = both[0].post("/modalities/other/move", json=body).json()
    assert (found["TargetAet"], found["RemoteAet"]) == ("ANOR", "OTHER")
    assert both[0].get("/dicom-web/studies", params={"StudyInstanceUID": uid}).json()
    [details] = found["Details"]
    assert (details["DimseErrorStatus"], details["CompletedSuboperationsCount"]) == (0, 1)
    assert details["ReceivedInstancesIds"] == [identifier]
    for method in ("move", "get"):
        body = {"Level": "Study", "Resources": [{"AccessionNumber": accession}]}
        [details] = both[0].post(f"/modalities/other/{method}", json=body).json()["Details"]
        assert (details["CompletedSuboperationsCount"], details["ReceivedInstancesIds"]) == (1, [identifier])
    # More is here than came: which of it did, is not known.
    more = files.ct(StudyInstanceUID=uid, PatientID=pydicom.dcmread(io.BytesIO(file)).PatientID)
    assert both[0].post("/instances", content=more).status_code == 200
    body = {"Level": "Study", "Resources": [{"StudyInstanceUID": uid}]}
    [details] = both[0].post("/modalities/other/move", json=body).json()["Details"]
    assert (details["CompletedSuboperationsCount"], details["ReceivedInstancesIds"]) == (1, [])
    assert both[0].post("/modalities/other/move", json={"Level": "Study", "Resources": [{}]}).status_code == 400


def test_what_became_of_each_retrieval(both: tuple[httpx.Client, httpx.Client], other: Orthanc) -> None:
    """Each resource with its status and what came of it, in answers, in jobs and in errors."""
    web, file = both[0], files.ct()
    uid = pydicom.dcmread(io.BytesIO(file)).StudyInstanceUID
    identifier = other.upload(file)
    resources = [{"0020,000d": uid, "0010,0020": ""}, {"StudyInstanceUID": uid}]
    body = {"Level": "Study", "Resources": resources, "Permissive": True, "TargetAet": "NOBODY"}
    answer = web.post("/modalities/other/move", json=body)
    assert answer.status_code == 200
    status = answer.json()["Details"][0]["DimseErrorStatus"]
    assert status != 0
    expected = [{"0008,0052": "STUDY", "0020,000d": uid}] * 2
    assert [each["Query"] for each in answer.json()["Details"]] == expected
    assert [each["DimseErrorStatus"] for each in answer.json()["Details"]] == [status] * 2

    refused = web.post("/modalities/other/move", json=body | {"Permissive": False})
    assert refused.status_code == 500
    payload = refused.json()["ErrorPayload"]
    assert payload["Type"] == "RetrieveJob"
    assert [each["DimseErrorStatus"] for each in payload["Content"]] == [status, 0]  # the second one was never tried
    failed = next(each for each in web.get("/jobs?expand").json() if each["State"] == "Failure")
    assert web.get(f"/jobs/{failed['ID']}").json()["ErrorPayload"] == payload

    got = web.post("/modalities/other/get", json={"Level": "Study", "Resources": resources[:1]}).json()
    assert [each["ReceivedInstancesIds"] for each in got["Details"]] == [[identifier]]


def test_a_report_that_leaves_instances_out(web: httpx.Client) -> None:
    """Who is asked for two and tells of one has not committed itself to the other."""
    asked = [{"SOPClassUID": CTImageStorage, "SOPInstanceUID": f"1.2.3.{number}"} for number in range(2)]

    def action(event: evt.Event) -> tuple[int, None]:
        told = Dataset()
        told.TransactionUID = event.action_information.TransactionUID
        told.ReferencedSOPSequence = event.action_information.ReferencedSOPSequence[:1]
        event.assoc.send_n_event_report(told, 1, COMMITMENT, COMMITMENT_INSTANCE)
        return 0, None

    entity = AE(ae_title="FORGETS")
    entity.add_supported_context(COMMITMENT)
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_ACTION, action)])
    try:
        web.put("/modalities/forgets", json=["FORGETS", "127.0.0.1", port])
        path = web.post("/modalities/forgets/storage-commitment", json={"DicomInstances": asked}).json()["Path"]
        deadline = time.monotonic() + 20
        while (found := web.get(path).json())["Status"] == "Pending":
            assert found["Failures"] == []
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        server.shutdown()
    assert found["Status"] == "Failure"
    assert [each["SOPInstanceUID"] for each in found["Success"]] == ["1.2.3.0"]
    assert [(each["SOPInstanceUID"], each["FailureReason"]) for each in found["Failures"]] == [("1.2.3.1", 0x0110)]
    assert web.post(f"{path}/remove", json={}).status_code == 400


def test_the_status_of_a_refusal(web: httpx.Client, tmp_path: Path) -> None:
    good = web.post("/instances", content=files.ct()).json()["ID"]
    entity = AE(ae_title="REFUSES")
    entity.add_supported_context(CTImageStorage)
    entity.add_supported_context(Verification)
    handlers = [(evt.EVT_C_STORE, lambda _: 0xA700), (evt.EVT_C_ECHO, lambda _: 0x0122)]
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        web.put("/modalities/refuses", json=["REFUSES", "127.0.0.1", port])
        for path, body, status in (("store", {"Resources": [good]}, 0xA700), ("echo", {}, 0x0122)):
            refused = web.post(f"/modalities/refuses/{path}", json=body)
            assert refused.status_code == 500
            said = {"Type": "DimseErrorStatus", "Content": {"DimseErrorStatus": status}}
            assert refused.json()["ErrorPayload"] == said
    finally:
        server.shutdown()


def test_jobs(both: tuple[httpx.Client, httpx.Client]) -> None:
    web = both[0]
    ours, theirs = ask(both, "GET", "/jobs")
    assert ours
    assert theirs
    jobs = web.get("/jobs?expand").json()
    assert {each["ID"] for each in jobs} == set(ours)
    failed = next(each for each in jobs if each["State"] == "Failure" and each["Content"]["RemoteAet"] == "DEAD")
    assert (failed["ErrorCode"], failed["ErrorDescription"]) == (9, "Error in the network protocol")
    assert web.post(f"/jobs/{failed['ID']}/resubmit").json() == {}
    assert finished(web, failed["ID"])["State"] == "Failure"
    done = next(each["ID"] for each in jobs if each["State"] == "Success")
    for action, status in (("cancel", 200), ("pause", 200), ("resume", 400), ("resubmit", 400)):
        assert web.post(f"/jobs/{done}/{action}").status_code == status
    assert web.get(f"/jobs/{done}/nothing").json()["HttpStatus"] == 404
    assert web.delete(f"/jobs/{done}").text == ""
    assert web.get(f"/jobs/{done}").status_code == 404
    assert web.get("/jobs/none").status_code == 404


def test_users_are_declared_and_never_told(web: httpx.Client) -> None:
    declared = {"AET": "KNOWS", "Host": "127.0.0.1", "Port": free_port()}

    def put(**user: object) -> int:
        return web.put("/modalities/knows", json=declared | {"UserIdentity": user}).status_code

    for wrong in ({"Password": "x"}, {"Token": "x", "Username": "u"}, {"HasPassword": True}, {"Username": 1}):
        assert put(**wrong) == 400
    for user, shown in (
        ({"Username": "u"}, {"Username": "u", "Password": None}),
        ({"Username": "u", "Password": "canary-7"}, {"Username": "u", "Password": None}),
        ({"Token": "canary-7"}, {"Token": None}),
    ):
        assert put(**user) == 200
        assert web.get("/modalities/knows/configuration").json()["UserIdentity"] == shown
        assert web.post(
            "/modalities/knows/get", json={"Level": "Study", "Resources": [{"StudyInstanceUID": "1.2"}]}
        ).is_error
        assert "canary-7" not in web.get("/modalities?expand").text + web.get("/jobs?expand").text
    assert web.put("/modalities/knows", json=declared).status_code == 200
    assert "UserIdentity" not in web.get("/modalities/knows/configuration").json()
    assert web.delete("/modalities/knows").status_code == 200


def test_permissive(web: httpx.Client, tmp_path: Path) -> None:
    good, bad = files.ct(), files.ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    resources = [web.post("/instances", content=each).json()["ID"] for each in (good, bad)]
    with storescp(tmp_path / "peer", "-xf", str(_profile(tmp_path)), "OnlyCT") as modality:
        web.put("/modalities/ctonly", json=["STORESCP", "127.0.0.1", modality.port])
        refused = web.post("/modalities/ctonly/store", json={"Resources": resources})
        assert (refused.status_code, refused.json()["OrthancStatus"]) == (500, 9)
        body = {"Resources": resources, "Permissive": True, "UserData": {"case": 7}}
        answer = web.post("/modalities/ctonly/store", json=body).json()
        assert (answer["InstancesCount"], answer["FailedInstancesCount"]) == (2, 1)
    job = next(each for each in web.get("/jobs?expand").json() if each.get("UserData") == {"case": 7})
    assert job["State"] == "Success"


def _profile(folder: Path) -> Path:
    path = folder / "storescp.cfg"
    path.write_text(
        "[[TransferSyntaxes]]\n[Any]\nTransferSyntax1 = LocalEndianExplicit\n"
        "[[PresentationContexts]]\n[CT]\nPresentationContext1 = CTImageStorage\\Any\n"
        "[[Profiles]]\n[OnlyCT]\nPresentationContexts = CT\n"
    )
    return path


def test_waiting_cancelling_pausing(web: httpx.Client, tmp_path: Path) -> None:
    resources = [web.post("/instances", content=files.ct()).json()["ID"] for _ in range(5)]
    with storescp(tmp_path / "slow", "--sleep-after", "2") as modality:
        web.put("/modalities/slow", json=["STORESCP", "127.0.0.1", modality.port])
        job = web.post("/modalities/slow/store", json={"Resources": resources, "Asynchronous": True}).json()["ID"]
        time.sleep(2)
        assert web.get(f"/jobs/{job}").json()["State"] == "Running"
        assert web.post(f"/jobs/{job}/pause").json() == {}
        deadline = time.monotonic() + 15
        while web.get(f"/jobs/{job}").json()["State"] != "Paused":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert web.post(f"/jobs/{job}/resume").json() == {}
        assert web.post(f"/jobs/{job}/cancel").json() == {}
        found = finished(web, job)
        assert (found["State"], found["ErrorCode"]) == ("Failure", 37)
