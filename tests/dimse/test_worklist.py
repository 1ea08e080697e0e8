"""The modality worklist and MPPS on the network: DCMTK's findscu asks us and DCMTK's wlmscpfs, pynetdicom reports."""

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
    ModalityWorklistInformationFind,
)

from storage.access import LOCAL
from storage.archive import Archive
from storage.settings import Settings
from tests.dimse.conftest import Bridge, start_bridge
from tests.dimse.peers import association
from tests.files import new_uid
from tests.modality_worklist import finished, item, performed
from tests.support import free_port

# AccessionNumber -> what is special about the item.
ITEMS: dict[str, dict[str, Any]] = {
    "W01": {"step_ScheduledProcedureStepStartTime": "080000", "PatientName": "ADAMS^ALICE"},
    "W02": {"step_ScheduledProcedureStepStartTime": "120000", "PatientName": "BAKER^BOB", "step_Modality": "MR"},
    "W03": {"step_ScheduledProcedureStepStartDate": "20260115", "step_ScheduledProcedureStepStartTime": "070000"},
    "W04": {"step_ScheduledProcedureStepStartDate": "20260115", "step_ScheduledProcedureStepStartTime": "163000"},
    "W05": {"step_ScheduledProcedureStepStartDate": "20260116", "step_ScheduledProcedureStepStartTime": "093000"},
    "W06": {"step_ScheduledStationAETitle": "MR1", "step_Modality": "MR", "PatientID": "W-6"},
    "W07": {"step_ScheduledStationAETitle": "US1", "step_Modality": "US", "PatientID": "W-66"},
    "W08": {"step_ScheduledPerformingPhysicianName": "WILSON^JAMES", "RequestedProcedureID": "RP8"},
    "W09": {"PatientName": "ADAMS^BERT", "StudyInstanceUID": "1.2.3.9"},
    "W10": {"PatientSex": None, "PatientName": "ADAMSON^CARL", "ReferringPhysicianName": None},
}
STEP = "ScheduledProcedureStepSequence[0]."
RETURNED = (
    *("AccessionNumber", "PatientName", "PatientID", "PatientSex", "StudyInstanceUID", "RequestedProcedureID"),
    *("ReferringPhysicianName", f"{STEP}Modality", f"{STEP}ScheduledStationAETitle"),
    *(f"{STEP}ScheduledProcedureStepStartDate", f"{STEP}ScheduledProcedureStepStartTime"),
    *(f"{STEP}ScheduledPerformingPhysicianName", f"{STEP}ScheduledProcedureStepID"),
)


def members(accession: str) -> dict[str, Any]:
    return item(AccessionNumber=accession, **ITEMS[accession])


@pytest.fixture(scope="module")
async def open_bridge(dimse_settings: Settings, archive: Archive) -> Any:
    """A process where nobody has to be declared, over the items."""
    settings = replace(dimse_settings, dimse_port=free_port(), dimse_open_local="echo,worklist,mpps")
    for accession in ITEMS:
        await archive.modality_worklist.create(LOCAL, members(accession))
    running = start_bridge(settings)
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture(scope="module")
def wlmscpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """DCMTK's worklist server over the same items: its port."""
    program = which("wlmscpfs")
    assert program, "DCMTK's wlmscpfs is missing"
    folder = tmp_path_factory.mktemp("wlmscpfs") / "ANOR"
    folder.mkdir()
    (folder / "lockfile").touch()
    for accession in ITEMS:
        found = Dataset.from_json(members(accession))
        found.file_meta = FileMetaDataset()
        found.file_meta.MediaStorageSOPClassUID = ModalityWorklistInformationFind
        found.file_meta.MediaStorageSOPInstanceUID = new_uid()
        found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        pydicom.dcmwrite(folder / f"{accession}.wl", found, enforce_file_format=True)
    port = free_port()
    process = subprocess.Popen([program, "-dfr", "-dfp", str(folder.parent), str(port)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while subprocess.run(
            ["echoscu", "-aec", "ANOR", "127.0.0.1", str(port)], capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def findscu(port: int, folder: Path, environment: dict[str, str], keys: dict[str, str]) -> list[Dataset]:
    """The answers of a server, as findscu writes them down."""
    folder.mkdir()
    asked = [f"{name}={keys.get(name, '')}" for name in dict.fromkeys((*RETURNED, *keys))]
    command = ["findscu", "-W", "-X", "-od", str(folder), "-aec", "ANOR", "-aet", "CT1"]
    for each in asked:
        command += ["-k", each]
    ran = subprocess.run(
        [*command, "127.0.0.1", str(port)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [pydicom.dcmread(path, force=True) for path in sorted(folder.iterdir())]


def accessions(answers: list[Dataset]) -> str:
    return " ".join(sorted(answer.AccessionNumber.removeprefix("W") for answer in answers))


def described(answers: list[Dataset]) -> list[Any]:
    """Answers as they may be compared: without character set and padding, in the order of accession numbers."""
    found = []
    for answer in answers:
        answer.pop("SpecificCharacterSet", None)
        found.append(json.loads(answer.to_json()))
    return sorted(found, key=lambda each: each["00080050"]["Value"])


QUERIES: list[tuple[dict[str, str], str]] = [
    ({}, "01 02 03 04 05 06 07 08 09 10"),
    ({"AccessionNumber": "W04"}, "04"),
    ({"PatientName": "ADAMS^ALICE"}, "01"),
    ({"PatientName": "ADAMS*"}, "01 09 10"),
    ({"PatientName": "ADAMS?*"}, "01 09 10"),
    ({"PatientName": "*B*"}, "02 09"),
    ({"PatientID": "W-6"}, "06"),
    ({"RequestedProcedureID": "RP8"}, "08"),
    ({f"{STEP}Modality": "MR"}, "02 06"),
    ({f"{STEP}ScheduledStationAETitle": "US1"}, "07"),
    ({f"{STEP}ScheduledPerformingPhysicianName": "WILSON*"}, "08"),
    ({f"{STEP}ScheduledProcedureStepStartDate": "20260115"}, "03 04"),
    ({f"{STEP}ScheduledProcedureStepStartDate": "20260115-20260116"}, "03 04 05"),
    ({f"{STEP}ScheduledProcedureStepStartDate": "-20260115", "AccessionNumber": "W0?"}, "01 02 03 04 06 07 08 09"),
    ({f"{STEP}ScheduledProcedureStepStartDate": "20260116-"}, "05"),
    ({f"{STEP}ScheduledProcedureStepStartTime": "120000"}, "02"),
    ({f"{STEP}ScheduledProcedureStepStartTime": "110000-"}, "02 04"),
    (
        {f"{STEP}ScheduledProcedureStepStartDate": "20260115", f"{STEP}ScheduledProcedureStepStartTime": "0600-0800"},
        "03",
    ),
    (
        {
            f"{STEP}ScheduledProcedureStepStartDate": "20260114-20260115",
            f"{STEP}ScheduledProcedureStepStartTime": "110000-080000",
        },
        "02 03",
    ),
    (
        {
            f"{STEP}ScheduledProcedureStepStartDate": "20260114-20260116",
            f"{STEP}ScheduledProcedureStepStartTime": "110000-170000",
        },
        "02 03 04 05",
    ),
    ({f"{STEP}Modality": "XA"}, ""),
]


@pytest.mark.parametrize(("keys", "expected"), QUERIES)
def test_as_wlmscpfs_answers(
    open_bridge: Bridge, wlmscpfs: int, tmp_path: Path, dcmtk: dict[str, str], keys: dict[str, str], expected: str
) -> None:
    ours = described(findscu(open_bridge.port, tmp_path / "ours", dcmtk, keys))
    theirs = described(findscu(wlmscpfs, tmp_path / "theirs", dcmtk, keys))
    assert [each["00080050"]["Value"][0] for each in ours] == [f"W{number}" for number in expected.split()]
    assert ours == theirs


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"PatientID": "W-6*"}, "06 07"),
        ({"PatientID": "W-6?"}, "07"),
        ({"StudyInstanceUID": "1.2.3.9"}, "09"),
        ({"PatientName": "adams^bert"}, "09"),
        ({f"{STEP}ScheduledProtocolCodeSequence[0].CodeValue": "CT7", "PatientID": "W-6"}, "06"),
        ({f"{STEP}ScheduledProcedureStepStatus": "SCHEDULED", "PatientID": "W-6"}, "06"),
    ],
)
def test_what_wlmscpfs_does_not_match(
    open_bridge: Bridge, tmp_path: Path, dcmtk: dict[str, str], keys: dict[str, str], expected: str
) -> None:
    assert accessions(findscu(open_bridge.port, tmp_path / "ours", dcmtk, keys)) == expected


def test_who_may(bridge: Bridge) -> None:
    """Nobody asks for the worklist or reports who is neither declared nor allowed by the settings."""
    with association(bridge.port, ModalityWorklistInformationFind, ModalityPerformedProcedureStep) as peer:
        asked = Dataset()
        asked.PatientName = ""
        (status,) = [status for status, _ in peer.send_c_find(asked, ModalityWorklistInformationFind)]
        assert status.Status == 0x0124
        status, _ = peer.send_n_create(Dataset.from_json(performed()), ModalityPerformedProcedureStep, new_uid())
        assert status.Status == 0x0124


def test_cancel_on_the_network(open_bridge: Bridge, tmp_path: Path, dcmtk: dict[str, str]) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    command = ["findscu", "-W", "-v", "--cancel", "2", "-aec", "ANOR", "-k", "PatientName", "127.0.0.1"]
    ran = subprocess.run(
        [*command, str(open_bridge.port)], env=dcmtk, capture_output=True, text=True, timeout=60, check=True
    )
    assert "Pending" in ran.stdout + ran.stderr
    # All answers may have been on their way before the cancellation came.
    assert "Cancel" in ran.stdout + ran.stderr


async def test_a_modality_at_work(open_bridge: Bridge, archive: Archive, tmp_path: Path, dcmtk: dict[str, str]) -> None:
    """It takes an item from the list, begins, is refused, ends; the list follows, and another one reads the report."""
    port, uid, patient = open_bridge.port, new_uid(), "AT-WORK"
    due = {"step_ScheduledProcedureStepStartDate": "20300101", "StudyInstanceUID": new_uid(), "PatientName": "X^Y"}
    await archive.modality_worklist.create(LOCAL, item(AccessionNumber="AT-WORK", PatientID=patient, **due))
    (work,) = findscu(port, tmp_path / "before", dcmtk, {"PatientID": patient})
    names = {"PatientID": patient, "request_StudyInstanceUID": work.StudyInstanceUID}
    begun = Dataset.from_json(
        performed(**names, request_AccessionNumber=work.AccessionNumber, request_ScheduledProcedureStepID=None)
    )
    with association(port, ModalityPerformedProcedureStep) as modality:
        status, _ = modality.send_n_create(begun, ModalityPerformedProcedureStep, uid)
        assert status.Status == 0
        status, _ = modality.send_n_create(begun, ModalityPerformedProcedureStep, uid)
        assert status.Status == 0x0111
        started = {"PatientID": patient, f"{STEP}ScheduledProcedureStepStatus": ""}
        (work,) = findscu(port, tmp_path / "during", dcmtk, started)
        assert work.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus == "STARTED"
        incomplete = Dataset.from_json(finished(PerformedProcedureStepEndDate=...))
        status, _ = modality.send_n_set(incomplete, ModalityPerformedProcedureStep, uid)
        assert status.Status == 0x0121
        status, _ = modality.send_n_set(Dataset.from_json(finished()), ModalityPerformedProcedureStep, uid)
        assert status.Status == 0
        status, _ = modality.send_n_set(Dataset.from_json(finished()), ModalityPerformedProcedureStep, uid)
        assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
        assert status.ErrorComment == "Performed Procedure Step Object may no longer be updated"
        status, _ = modality.send_n_set(Dataset.from_json(finished()), ModalityPerformedProcedureStep, new_uid())
        assert status.Status == 0x0112
    assert findscu(port, tmp_path / "after", dcmtk, {"PatientID": patient}) == []
    with association(port, ModalityPerformedProcedureStepRetrieve) as reader:
        status, found = reader.send_n_get([0x00400252, 0x00400253], ModalityPerformedProcedureStepRetrieve, uid)
        assert status.Status == 0
        assert (found.PerformedProcedureStepStatus, found.PerformedProcedureStepID) == ("COMPLETED", "PPS1")
