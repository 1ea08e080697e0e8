"""A day in a department: who sends, asks, finds, moves and gets, each with the software that people have."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from storage.access import LOCAL
from storage.archive import Archive
from storage.modalities import Modality
from tests import orthanc as peer
from tests.dimse.conftest import Bridge
from tests.dimse.in_memory import stored
from tests.dimse.programs import DCMTK, storescp
from tests.dimse.test_commitment import Receiver, asking
from tests.dimse.test_retrieve import files_in, run, study_of
from tests.dimse.wire import CT, STUDY_ROOT_FIND
from tests.files import ct, dataset, encoded, new_uid
from tests.support import free_port

COMMITMENT, COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"

Declare = Callable[..., Any]


@pytest.fixture
async def declare(archive: Archive) -> AsyncIterator[Declare]:
    """Declares an application entity until the test ends."""
    made = []

    async def put(aet: str, *allow: str, port: int | None = None) -> Modality:
        declared = Modality(aet.lower(), aet, "127.0.0.1", port or free_port(), allow=frozenset(allow))
        await archive.modalities.put(LOCAL, declared)
        made.append(declared)
        return declared

    yield put
    for each in made:
        await archive.modalities.delete(LOCAL, each.name)


async def test_from_the_modality_to_the_workstation(
    bridge: Bridge, archive: Archive, declare: Declare, dcmtk: dict[str, str], tmp_path: Path
) -> None:
    """storescu sends a study, commitment is asked for, findscu finds it with wildcards, movescu fetches it."""
    modality = await declare("CT1", "echo", "store", "commitment")
    workstation = await declare("WS1", "echo", "find", "move")
    study, patient = new_uid(), f"DAY{new_uid()[-9:]}"
    sent = [
        dataset(StudyInstanceUID=study, PatientID=patient, PatientName="Ñandú^José", InstanceNumber=i) for i in range(4)
    ]
    files = [tmp_path / f"{number}.dcm" for number in range(len(sent))]
    for file, ds in zip(files, sent, strict=True):
        file.write_bytes(encoded(ds))
    call = ("-aec", "ANOR", "127.0.0.1", bridge.port)
    done = run(dcmtk, "storescu", "-aet", modality.aet, *call, *files)
    assert done.returncode == 0, done.stderr

    receiver = Receiver()
    ae = AE(ae_title=modality.aet)
    ae.add_requested_context(COMMITMENT)
    made = ae.associate(
        "127.0.0.1", bridge.port, ae_title="ANOR", evt_handlers=[(evt.EVT_N_EVENT_REPORT, receiver.take)]
    )
    references = [(CT, ds.SOPInstanceUID) for ds in sent]
    assert made.send_n_action(asking(new_uid(), *references), 1, COMMITMENT, COMMITMENT_INSTANCE)[0].Status == 0
    assert await asyncio.to_thread(receiver.came.wait, 10)
    made.release()
    assert receiver.reports[0][0] == 1
    assert len(receiver.reports[0][1].ReferencedSOPSequence) == 4

    keys = ("QueryRetrieveLevel=STUDY", "PatientName=*jos?", f"PatientID={patient[:-2]}*", "StudyInstanceUID")
    (tmp_path / "found").mkdir()
    asked = [text for key in keys for text in ("-k", key)]
    done = run(dcmtk, "findscu", "-X", "-S", "-aet", workstation.aet, *call, "-od", tmp_path / "found", *asked)
    assert done.returncode == 0, done.stderr
    [answer] = (tmp_path / "found").iterdir()
    assert pydicom.dcmread(answer, force=True).StudyInstanceUID == study

    with storescp(tmp_path / "came", port=workstation.port):
        asked = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
        done = run(dcmtk, "movescu", "-S", "-aet", workstation.aet, "-aem", workstation.aet, *call, *asked)
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / "came").keys() == {ds.SOPInstanceUID for ds in sent}


@pytest.fixture(scope="module")
def orthanc(bridge: Bridge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[peer.Orthanc]:
    base = tmp_path_factory.mktemp("orthanc")
    with peer.running_orthanc(base, {"anor": ("ANOR", bridge.port)}, "ORTHDAY") as running:
        yield running


async def test_orthanc_finds_and_has_it_moved_to_itself(
    orthanc: peer.Orthanc, archive: Archive, declare: Declare
) -> None:
    await declare(orthanc.aet, "echo", "store", "find", "move", "get", port=orthanc.dimse_port)
    study, files = await study_of(archive)

    def ask(method: str, path: str, body: object = None) -> Any:
        return orthanc.request(method, path, None if body is None else json.dumps(body).encode())

    query = {"Level": "Study", "Query": {"StudyInstanceUID": study, "PatientName": ""}}
    asked = await asyncio.to_thread(ask, "POST", "/modalities/anor/query", query)
    answers = await asyncio.to_thread(ask, "GET", f"/queries/{asked['ID']}/answers?expand&simplify")
    assert [answer["PatientName"] for answer in answers] == ["Müller^Änne"]
    await asyncio.to_thread(orthanc.request, "POST", f"/queries/{asked['ID']}/retrieve", orthanc.aet.encode())
    found = await asyncio.to_thread(
        ask, "POST", "/tools/find", {"Level": "Instance", "Query": {"StudyInstanceUID": study}, "Expand": True}
    )
    assert {each["MainDicomTags"]["SOPInstanceUID"] for each in found} == files.keys()


@contextlib.contextmanager
def dcmqrscp(folder: Path) -> Iterator[int]:
    """DCMTK's archive, empty."""
    folder.mkdir()
    port = free_port()
    (folder / "dcmqrscp.cfg").write_text(
        f"""NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
DCMTK {folder}/db RW (200, 1024mb) ANY
AETable END
"""
    )
    (folder / "db").mkdir()
    process = subprocess.Popen(
        ["dcmqrscp", "-c", folder / "dcmqrscp.cfg"],
        env=DCMTK,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            done = run(DCMTK, "echoscu", "-aec", "DCMTK", "127.0.0.1", port)
            if done.returncode == 0:
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


QUERIES = [
    {"PatientID": "CMP-1"},
    {"PatientID": "CMP-*"},
    {"PatientID": "CMP-?"},
    {"PatientID": "*-1"},
    {"PatientName": "Smith^John"},
    {"PatientName": "Smith*"},
    {"PatientName": "*John"},
    {"PatientName": "S?ith*"},
    {"StudyDate": "19980102"},
    {"StudyDate": "19980102-19980103"},
    {"StudyDate": "-19980102", "PatientID": "CMP-*"},
    {"StudyDate": "19980103-", "PatientID": "CMP-*"},
    {"StudyDate": "19980101-19980103", "StudyTime": "1000-1200"},
    {"AccessionNumber": "A*", "PatientID": "CMP-2"},
    {"StudyDescription": "Head*"},
    {"PatientID": "cmp-1"},
    {"PatientID": "CMP-1", "AccessionNumber": "nothing"},
]


@pytest.fixture(scope="module")
async def compared(
    bridge: Bridge, archive: Archive, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[int, int, set[str]]]:
    """The same studies in both archives: ports, and Study Instance UIDs."""
    folder = tmp_path_factory.mktemp("dcmqrscp")
    studies = set()
    with dcmqrscp(folder / "peer") as port:
        for number, (name, patient) in enumerate(
            [("Smith^John", "CMP-1"), ("Smith^Jane", "CMP-2"), ("Smyth^John", "CMP-3"), ("Jones^John", "CMP-10")] * 2
        ):
            file = ct(
                PatientName=name,
                PatientID=patient,
                StudyDate=f"1998010{number % 4 + 1}",
                StudyTime=f"{8 + number}0000",
                AccessionNumber=f"A{number}",
                StudyDescription="Head and neck" if number % 2 else "Chest",
            )
            path = folder / f"{number}.dcm"
            path.write_bytes(file)
            studies.add(pydicom.dcmread(path).StudyInstanceUID)
            await stored(archive, file)
            done = run(DCMTK, "storescu", "-aec", "DCMTK", "127.0.0.1", port, path)
            assert done.returncode == 0, done.stderr
        yield bridge.port, port, studies


@pytest.mark.parametrize("keys", QUERIES, ids=str)
def test_the_same_studies_are_found_as_by_dcmqrscp(compared: tuple[int, int, set[str]], keys: dict[str, str]) -> None:
    ours, theirs, studies = compared

    def found(port: int, aet: str) -> set[str]:
        ae = AE()
        ae.add_requested_context(STUDY_ROOT_FIND)
        made = ae.associate("127.0.0.1", port, ae_title=aet)
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", ""
        asked.StudyDate = "19980101-19980131"  # other tests have stored studies here, too
        for name, value in keys.items():
            setattr(asked, name, value)
        answers = list(made.send_c_find(asked, STUDY_ROOT_FIND))
        made.release()
        assert answers[-1][0].Status == 0
        return {answer.StudyInstanceUID for _, answer in answers if answer is not None}

    assert found(ours, "ANOR") & studies == found(theirs, "DCMTK")
