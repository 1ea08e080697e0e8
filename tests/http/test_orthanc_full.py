"""`maximum_storage_mode` = `reject`: whoever brings more than there is room for is told so, by every way in."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import httpx
import pytest
from pydicom import dcmread
from pynetdicom import AE

from dicomweb.uids import orthanc_ids
from tests.files import ct
from tests.http.bodies import problem, reasons, store
from tests.support import RunningServer, running_server

SIZE = 2_000_000
# The room that is left is less than this file takes.
LARGE = bytes(SIZE)


@dataclass
class Full:
    """An archive with one patient, and a file that it has no room for."""

    server: RunningServer
    web: httpx.Client
    file: bytes
    setting: str


@pytest.fixture(scope="module", params=["maximum_storage_size", "maximum_patient_count"])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    limit = {request.param: 1 if request.param == "maximum_patient_count" else SIZE}
    base = tmp_path_factory.mktemp("full")
    with (
        running_server(base, workers=1, maximum_storage_mode="reject", **limit) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        assert web.post("/instances", content=ct(PatientID="first")).status_code == 200
        file = ct(PatientID="second", Rows=1000, Columns=1000, PixelData=LARGE)
        yield Full(server, web, file, request.param)


def instances(full: Full) -> int:
    return int(full.web.get("/statistics").json()["CountInstances"])


def test_upload(full: Full) -> None:
    before = instances(full)
    answer = full.web.post("/instances", content=full.file)
    assert (answer.status_code, answer.json()["OrthancStatus"]) == (507, 19)
    assert full.setting in answer.json()["Details"]
    assert instances(full) == before


def test_stow(full: Full) -> None:
    answer = store(full.web, full.file)
    assert (answer.status_code, problem(answer)) == (507, "storage-full")
    assert full.setting in answer.json()["detail"]
    mixed = store(full.web, ct(PatientID="first"), full.file)
    assert (mixed.status_code, reasons(mixed)) == (202, [0xA700])


def test_c_store(full: Full) -> None:
    dataset = dcmread(BytesIO(full.file))
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", full.server.dimse_port, ae_title="ANOR")
    assert association.is_established
    try:
        answer = association.send_c_store(dataset)
    finally:
        association.release()
    assert answer.Status == 0xA700
    assert full.setting in answer.ErrorComment


def test_create(full: Full) -> None:
    tags = {"PatientID": "made", "TextValue": "x" * SIZE}
    answer = full.web.post("/tools/create-dicom", json={"Tags": tags})
    assert (answer.status_code, answer.json()["OrthancStatus"]) == (507, 19)


def test_modification(full: Full) -> None:
    study = full.web.get("/studies?expand").json()[0]
    body = {"Replace": {"PatientID": "other", "TextValue": "x" * SIZE}, "Force": True, "KeepSource": False}
    answer = full.web.post(f"/studies/{study['ID']}/modify", json=body)
    assert (answer.status_code, answer.json()["OrthancStatus"]) == (507, 19)
    assert full.setting in answer.json()["Details"]
    job = full.web.get("/jobs?expand").json()[0]
    assert (job["Type"], job["State"], job["ErrorCode"]) == ("ResourceModification", "Failure", 19)
    assert job["ErrorDescription"] == "The file storage is full"
    assert full.setting in job["ErrorDetails"]
    assert full.web.get(f"/studies/{study['ID']}").json()["Series"] == study["Series"]
    assert full.web.get(f"/patients/{orthanc_ids('other', '', '', '').patient}").status_code == 404


def test_what_fits_is_stored(full: Full) -> None:
    before = instances(full)
    assert full.web.post("/instances", content=ct(PatientID="first")).json()["Status"] == "Success"
    assert instances(full) == before + 1
