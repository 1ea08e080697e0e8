"""The modality worklist and performed steps over HTTP: PS3.18 chapters 14 and 15, and Orthanc's worklists plugin."""

import json
import subprocess
from typing import Any

import httpx
import pytest

from tests.files import new_uid
from tests.http.bodies import ROOT
from tests.http.bodies import problem as slug_of
from tests.modality_worklist import dataset, finished, item, performed
from tests.support import ROOT as TREE
from tests.support import RunningServer

SCHEDULED = f"{ROOT}/modality-scheduled-procedure-steps"
PERFORMED = f"{ROOT}/modality-performed-procedure-steps"
TYPE = {"Content-Type": "application/dicom+json"}
STEP = "ScheduledProcedureStepSequence"


def problem(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status
    slug_of(answer)
    return answer.json()


def add(web: httpx.Client, **replaced: Any) -> str:
    answer = web.post(SCHEDULED, json=item(**replaced), headers=TYPE)
    assert (answer.status_code, answer.content) == (201, b"")
    return answer.headers["location"]


def find(web: httpx.Client, **parameters: str) -> list[Any]:
    answer = web.get(SCHEDULED, params={name.replace("__", "."): value for name, value in parameters.items()})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    return answer.json()


def test_feed_find_change_remove(web: httpx.Client, server: RunningServer) -> None:
    patient = new_uid()
    url = add(web, PatientID=patient)
    assert url.startswith(f"{server.dicomweb}/modality-scheduled-procedure-steps/")
    (row,) = find(web, PatientID=patient)
    assert row["00081190"]["Value"] == [url]
    assert row["00400100"]["Value"][0]["00400020"]["Value"] == ["SCHEDULED"]
    assert web.get(url).json() == {tag: element for tag, element in row.items() if tag != "00081190"}
    changed = web.put(url, json=item(PatientID=patient, step_Modality="MR", StudyInstanceUID=...), headers=TYPE)
    assert (changed.status_code, changed.content) == (200, b"")
    assert find(web, PatientID=patient, ScheduledProcedureStepSequence__Modality="CT") == []
    assert len(find(web, PatientID=patient, **{"00400100.00080060": "MR"})) == 1
    assert web.get(url).json()["0020000D"]["Value"] == ["1.2.3.4"]
    assert (web.delete(url).status_code, web.delete(url).status_code) == (204, 404)
    assert web.get(url).status_code == web.put(url, json=item(), headers=TYPE).status_code == 404


def test_labels_of_an_item(web: httpx.Client) -> None:
    """One item by both dialects: labels are given, shown, kept, replaced, and refused where they are none."""
    added = web.post(f"{SCHEDULED}?label=trial&label=blind", json=item(), headers=TYPE)
    url = added.headers["location"]
    there = f"/worklists/{url.rpartition('/')[2]}"
    assert web.get(there).json()["Labels"] == ["blind", "trial"]
    assert web.put(url, json=item(), headers=TYPE).status_code == 200
    assert web.get(there).json()["Labels"] == ["blind", "trial"]
    assert web.put(f"{url}?label=open", json=item(), headers=TYPE).status_code == 200
    assert web.get(there).json()["Labels"] == ["open"]
    tags = web.get(there).json()["Tags"]
    assert web.put(there, json={"Tags": tags}).status_code == 200
    assert web.get(there).json()["Labels"] == ["open"]
    assert web.put(there, json={"Tags": tags, "Labels": []}).status_code == 200
    assert "Labels" not in web.get(there).json()
    assert web.post(f"{SCHEDULED}?label=no%20label", json=item(), headers=TYPE).status_code == 400
    for labels in (["no label"], "trial", [1], [f"l{n}" for n in range(65)]):
        assert web.post("/worklists/create", json={"Tags": tags, "Labels": labels}).status_code == 400


def test_the_documented_examples(server: RunningServer, web: httpx.Client) -> None:
    text = (TREE / "infra/docs/modality-worklist.md").read_text("utf-8")
    dicomweb, orthanc = text.split("```")[1::2]
    ran = subprocess.run(
        ["bash", "-ec", dicomweb.replace("http://127.0.0.1:8042", server.url)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "HTTP/1.1 201 " in ran.stdout
    assert '"A-1"' in ran.stdout.splitlines()[-1]
    ran = subprocess.run(
        ["bash", "-ec", orthanc.replace("http://127.0.0.1:8042", server.url)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert web.get(json.loads(ran.stdout)["Path"]).json()["Tags"]["PatientID"] == "PID-45"


def test_the_examples_of_the_standard(web: httpx.Client) -> None:
    """PS3.18 B.36 to B.40: a station asks, begins, ends, and is asked."""
    station, study, mpps = new_uid()[-15:], new_uid(), new_uid()
    for day in ("20250101", "20250102"):
        add(web, step_ScheduledStationName=station, step_ScheduledProcedureStepStartDate=day, StudyInstanceUID=study)
    query = f"00400100.00400010={station}&00400100.00400002=20250101&00400100.00080060=CT&limit=20&offset=0"
    answer = web.get(f"{SCHEDULED}/?{query}&includefield=all", headers={"Accept": "application/dicom+json"})
    assert [row["00400100"]["Value"][0]["00400010"]["Value"] for row in answer.json()] == [[station]]
    url = f"{PERFORMED}/{mpps}"
    begun = web.post(url, json=performed(request_StudyInstanceUID=study), headers=TYPE)
    assert (begun.status_code, begun.content) == (201, b"")
    assert begun.headers["location"].endswith(url)
    assert {row["00400100"]["Value"][0]["00400020"]["Value"][0] for row in find(web, StudyInstanceUID=study)} == {
        "STARTED"
    }
    ended = web.post(f"{url}?update", json=finished(), headers=TYPE)
    assert (ended.status_code, ended.content) == (200, b"")
    assert find(web, StudyInstanceUID=study) == []
    assert len(find(web, StudyInstanceUID=study, **{f"{STEP}.ScheduledProcedureStepStatus": "COMPLETED"})) == 2
    (everything,) = web.get(f"{url}?includefield=all").json()
    assert everything["00400252"]["Value"] == ["COMPLETED"]
    assert list(everything) == sorted(everything)
    (some,) = web.get(f"{url}?includefield=00100010,00400252&includefield=00400242").json()
    assert list(some) == ["00100010", "00400242", "00400252"]


def test_statuses_of_performed_steps(web: httpx.Client) -> None:
    url = f"{PERFORMED}/{new_uid()}"
    assert problem(web.get(url), 404)["slug"] == "not-found"
    assert problem(web.post(f"{url}?update", json=finished(), headers=TYPE), 404)["slug"] == "not-found"
    wrong = problem(web.post(url, json=performed(PerformedProcedureStepID=...), headers=TYPE), 400)
    assert (wrong["slug"], wrong["attribute"]) == ("workitem-refused", "00400253")
    assert web.post(url, json=performed(), headers=TYPE).status_code == 201
    assert problem(web.post(url, json=performed(), headers=TYPE), 409)["slug"] == "workitem-conflict"
    wrong = problem(web.post(f"{url}?update", json=dataset(PatientID="P-2"), headers=TYPE), 400)
    assert wrong["attribute"] == "00100020"
    assert web.post(f"{url}?update=true", json=finished("DISCONTINUED"), headers=TYPE).status_code == 200
    assert "no longer" in problem(web.post(f"{url}?update", json=finished(), headers=TYPE), 409)["detail"]
    assert problem(web.post(f"{url}?upd", json=finished(), headers=TYPE), 400)["slug"] == "bad-query"
    assert problem(web.post(f"{PERFORMED}/one", json=performed(), headers=TYPE), 400)["slug"] == "bad-request"
    assert problem(web.get(f"{url}?PatientID=1"), 400)["slug"] == "bad-query"


def test_performed_steps_are_found(web: httpx.Client) -> None:
    patient, uids = new_uid(), [new_uid(), new_uid()]
    for uid, time in zip(uids, ("1000", "1100"), strict=True):
        sent = performed(PatientID=patient, PerformedProcedureStepStartTime=time)
        assert web.post(f"{PERFORMED}/{uid}", json=sent, headers=TYPE).status_code == 201
    assert web.post(f"{PERFORMED}/{uids[0]}?update", json=finished(), headers=TYPE).status_code == 200

    def found(**keys: str) -> list[str]:
        rows = web.get(PERFORMED, params={"PatientID": patient} | keys).json()
        return [row["00080018"]["Value"][0] for row in rows]

    assert found() == uids[::-1]
    assert found(PerformedProcedureStepStatus="IN PROGRESS") == [uids[1]]
    assert found(PerformedProcedureStepStartDate="20260114", limit="1", offset="1") == [uids[0]]
    assert found(PerformedProcedureStepStartDate="20260115-") == []
    assert found(**{"PerformedSeriesSequence.ProtocolName": "Tho*"}) == [uids[0]]
    assert web.get(f"{PERFORMED}?PatientIdd=1").status_code == 400


def test_what_is_refused(web: httpx.Client) -> None:
    deep = '{"00400100": {"vr": "SQ", "Value": [' * 1000 + "{}" + "]}}" * 1000
    for body in (
        b"", b"{", b"[]", b"null", b'{"x": 1}', b'{"00100020": {"vr": "SQ"}}',
        b'{"00100020": {"vr": "LO", "Value": "P"}}',
        b'{"00100020": {"vr": "LO", "Value": ["\\u0000"]}}', b'{"00400100": {"vr": "LO", "Value": ["x"]}}',
        json.dumps(item() | {"00100020": {"vr": "LO", "Value": ["x" * 100]}}).encode(),
        json.dumps(item() | {"00100010": {"vr": "PN", "Value": ["Doe"]}}).encode(),
        deep.encode(),
    ):  # fmt: skip
        assert problem(web.post(SCHEDULED, content=body, headers=TYPE), 400)["slug"] in {
            "bad-request",
            "workitem-refused",
        }
    assert problem(web.post(SCHEDULED, content=b" " * 300_000, headers=TYPE), 413)["slug"] == "too-large"
    assert problem(web.post(SCHEDULED, content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    assert problem(web.get(SCHEDULED, params={"PatientIdd": "1"}), 400)["slug"] == "bad-query"
    assert problem(web.get(SCHEDULED, params={"00400100.00400002": "x"}), 400)["slug"] == "bad-query"
    assert problem(web.get(SCHEDULED, headers={"Accept": "image/png"}), 406)
    assert problem(web.get(f"{SCHEDULED}/x"), 404)
    assert web.patch(SCHEDULED).status_code == 405
    # Unknown and private attributes are kept as they came.
    url = add(web) and web.post(
        SCHEDULED, json=item() | {"00091001": {"vr": "LO", "Value": ["x"]}, "00090010": {"vr": "LO", "Value": ["ME"]}},
        headers=TYPE,
    ).headers["location"]  # fmt: skip
    assert web.get(url).json()["00091001"] == {"vr": "LO", "Value": ["x"]}


# -------------------------------------------------------------------------------------------------------- Orthanc

TAGS: dict[str, Any] = {
    "PatientID": "PID-45",
    "PatientName": "Toto",
    "0010,0040": "O",
    "ScheduledProcedureStepSequence": [
        {
            "Modality": "US",
            "ScheduledProcedureStepStartDate": "20251014",
            "0040-0007": "Description",
            "ScheduledStationAETitle": "US1\\US2",
        }
    ],
}


def test_orthanc_life_of_an_item(web: httpx.Client) -> None:
    made = web.post(f"{web.base_url}//worklists//create/", content=json.dumps({"Tags": TAGS}))
    assert made.status_code == 200
    item_id = made.json()["ID"]
    assert made.json() == {"ID": item_id, "Path": f"/worklists/{item_id}"}
    described = web.get(f"/worklists/{item_id}").json()
    assert set(described) == {"CreationDate", "ID", "Tags"}
    tags = described["Tags"]
    assert tags["PatientName"] == "Toto"
    assert tags["StudyInstanceUID"].startswith("2.25.")
    (step,) = tags["ScheduledProcedureStepSequence"]
    assert step["ScheduledStationAETitle"] == "US1\\US2"
    assert step["ScheduledProcedureStepDescription"] == "Description"
    short = web.get(f"/worklists/{item_id}?format=Short").json()["Tags"]
    assert short["0010,0020"] == "PID-45"
    assert short["0040,0100"][0]["0008,0060"] == "US"
    full = web.get(f"/worklists/{item_id}?format=Full").json()["Tags"]
    assert full["0010,0010"] == {"Name": "PatientName", "Type": "String", "Value": "Toto"}
    assert full["0040,0100"]["Type"] == "Sequence"
    assert full["0040,0100"]["Value"][0]["0008,0060"]["Value"] == "US"
    listed = {each["ID"]: each for each in web.get("/worklists/?format=Full").json()}
    assert listed[item_id]["Tags"] == full
    # What was read can be sent back.
    again = web.put(f"/worklists/{item_id}/", content=json.dumps({"Tags": tags | {"PatientName": "Titi^A=山田"}}))
    assert (again.status_code, again.json()["ID"]) == (200, item_id)
    assert web.get(f"/worklists/{item_id}").json()["Tags"] == tags | {"PatientName": "Titi^A=山田"}
    gone = web.delete(f"/worklists/{item_id}")
    assert (gone.status_code, gone.json()) == (200, {})
    for answer in (web.get(f"/worklists/{item_id}"), web.delete(f"/worklists/{item_id}"), web.get("/worklists/x")):
        assert (answer.status_code, answer.json()["OrthancStatus"]) == (404, 17)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"Tags": []}',
        json.dumps({"Tags": {"PatientID": "1"}}).encode(),
        json.dumps({"Tags": {"ScheduledProcedureStepSequence": [{"Modality": "US"}]}}).encode(),
        json.dumps({"Tags": TAGS | {"NoSuchKeyword": "1"}}).encode(),
        json.dumps({"Tags": TAGS | {"PatientID": ["1"]}}).encode(),
        json.dumps({"Tags": TAGS | {"PatientID": {"a": "1"}}}).encode(),
        json.dumps({"Tags": TAGS | {"PatientWeight": "heavy"}}).encode(),
        json.dumps({"Tags": TAGS | {"ScheduledProcedureStepSequence": "US"}}).encode(),
        json.dumps({"Tags": TAGS | {"PatientName": "a\u0000b"}}).encode(),
    ],
)
def test_orthanc_refusals(web: httpx.Client, body: bytes) -> None:
    answer = web.post("/worklists/create", content=body)
    assert (answer.status_code, answer.json()["OrthancStatus"]) == (400, 15)
    assert answer.json()["Details"]


def test_orthanc_force(web: httpx.Client) -> None:
    made = web.post("/worklists/create", content=json.dumps({"Tags": {"PatientID": "FORCED"}, "Force": True}))
    assert made.status_code == 200
    tags = web.get(made.json()["Path"]).json()["Tags"]
    assert tags["ScheduledProcedureStepSequence"] == [{"ScheduledProcedureStepStatus": "SCHEDULED"}]
    assert web.get("/worklists?format=Xml").status_code == 400
    assert web.post("/worklists", content=b"{}").status_code == 405
