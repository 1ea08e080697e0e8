"""AE titles of ours with labels: what is stored by one gets them, and nothing else is seen by it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve

from dicomweb.errors import BadRequest, NotFound
from dicomweb.query import Query
from dicomweb.tags import Level
from dimse_bridge import commitment
from dimse_bridge.contexts import COMMITMENT, MODALITY_WORKLIST
from dimse_bridge.scu import COMMITMENT_INSTANCE, Requestor
from storage.access import LOCAL
from storage.archive import Archive
from storage.job_runner import JobRunner
from storage.modalities import LocalTitle, Modality
from storage.resource import Resource
from tests.dimse.conftest import Bridge
from tests.dimse.peers import association, find, instance, store
from tests.dimse.test_commitment import Receiver, asking, uids
from tests.dimse.wire import CT, EXPLICIT_LE, PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from tests.files import new_uid
from tests.modality_worklist import finished, item, performed
from tests.support import free_port

STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"


@pytest.fixture
async def titles(archive: Archive) -> AsyncIterator[None]:
    await archive.modalities.put_title(LOCAL, LocalTitle("TRIAL", ("trial",)))
    await archive.modalities.put_title(LOCAL, LocalTitle("BOTH", ("trial", "blind")))
    yield
    for aet in ("TRIAL", "BOTH"):
        await archive.modalities.delete_title(LOCAL, aet)


async def study_of(archive: Archive, dataset: Dataset) -> Resource:
    [row] = await archive.db.fetch_sql("SELECT orthanc_id FROM study WHERE study_uid = $1", dataset.StudyInstanceUID)
    return Resource(Level.STUDY, row["orthanc_id"])


async def labels_of(archive: Archive, dataset: Dataset) -> list[str]:
    return await archive.labels.of(LOCAL, await study_of(archive, dataset))


@pytest.mark.usefixtures("titles")
async def test_what_is_stored_by_a_title_gets_its_labels(bridge: Bridge, archive: Archive) -> None:
    first, second = instance(), instance()
    store(bridge.port, first, called="TRIAL")
    store(bridge.port, second)
    assert [await labels_of(archive, each) for each in (first, second)] == [["trial"], []]
    store(bridge.port, second, called="BOTH")  # the very same again
    assert await labels_of(archive, second) == ["blind", "trial"]


@pytest.mark.usefixtures("titles")
async def test_a_title_shows_its_own_studies_only(bridge: Bridge, archive: Archive) -> None:
    patient = f"T{generate_uid()[-12:]}"
    other = f"O{generate_uid()[-12:]}"
    ours, theirs, blind = instance(PatientID=patient), instance(PatientID=patient), instance(PatientID=patient)
    store(bridge.port, ours, called="TRIAL")
    store(bridge.port, theirs, instance(PatientID=other))
    store(bridge.port, blind, called="BOTH")

    def found(called: str, level: str, key: str, model: str = STUDY_ROOT_FIND) -> set[str]:
        code, matches, _ = find(bridge.port, level, model, called=called, PatientID=patient, **{key: ""})
        assert code == 0
        return {str(match[key].value) for match in matches}

    for level, key in (("STUDY", "StudyInstanceUID"), ("SERIES", "SeriesInstanceUID"), ("IMAGE", "SOPInstanceUID")):
        assert found("ANOR", level, key) == {str(each[key].value) for each in (ours, theirs, blind)}
        assert found("TRIAL", level, key) == {str(each[key].value) for each in (ours, blind)}
        assert found("BOTH", level, key) == {str(blind[key].value)}
    for wanted, expected in ((patient, {patient}), (other, set())):
        _, matches, _ = find(bridge.port, "PATIENT", PATIENT_ROOT_FIND, called="TRIAL", PatientID=wanted)
        assert {match.PatientID for match in matches} == expected

    await archive.modalities.put(LOCAL, Modality("trialist", "TRIALIST", "127.0.0.1", 1))
    try:
        got = [_got(bridge.port, each.StudyInstanceUID) for each in (ours, theirs)]
    finally:
        await archive.modalities.delete(LOCAL, "trialist")
    assert got == [[ours.SOPInstanceUID], []]


@pytest.mark.usefixtures("titles")
async def test_a_patient_is_seen_by_a_study_that_has_all_labels(bridge: Bridge, archive: Archive) -> None:
    patient = f"P{generate_uid()[-12:]}"
    trial, blind, plain, both = (instance(PatientID=patient) for _ in range(4))
    store(bridge.port, trial, called="TRIAL")
    store(bridge.port, blind, plain)
    await archive.labels.put(LOCAL, await study_of(archive, blind), "blind")

    def studies(called: str) -> list[int]:
        keys = {"PatientID": patient, "NumberOfPatientRelatedStudies": ""}
        _, matches, _ = find(bridge.port, "PATIENT", PATIENT_ROOT_FIND, called=called, **keys)
        return [int(match.NumberOfPatientRelatedStudies) for match in matches]

    assert [studies(called) for called in ("ANOR", "TRIAL", "BOTH")] == [[3], [1], []]
    store(bridge.port, both, called="BOTH")
    assert [studies(called) for called in ("ANOR", "TRIAL", "BOTH")] == [[4], [2], [1]]


def _got(port: int, study: str) -> list[str]:
    received: list[str] = []

    def stored(event: evt.Event) -> int:
        received.append(event.request.AffectedSOPInstanceUID)
        return 0

    ae = AE("TRIALIST")
    ae.add_requested_context(STUDY_ROOT_GET)
    ae.add_requested_context(CT, EXPLICIT_LE)
    roles, handlers = [build_role(CT, scp_role=True)], [(evt.EVT_C_STORE, stored)]
    peer = ae.associate("127.0.0.1", port, ae_title="TRIAL", ext_neg=roles, evt_handlers=handlers)
    assert peer.is_established
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study
    codes = [status.Status for status, _ in peer.send_c_get(identifier, STUDY_ROOT_GET)]
    peer.release()
    assert codes[-1] == 0
    return received


async def test_titles_are_checked(archive: Archive) -> None:
    service = archive.modalities
    for wrong in (LocalTitle(""), LocalTitle("A", ("not a label",)), LocalTitle("A", tuple(map(str, range(17))))):
        with pytest.raises(BadRequest):
            await service.put_title(LOCAL, wrong)
    await service.put_title(LOCAL, LocalTitle("A", ("y", "x", "y")))
    assert await service.titles(LOCAL) == [LocalTitle("A", ("x", "y"))]
    await archive.db.fetch_sql("INSERT INTO tenant VALUES (77, 'other') ON CONFLICT DO NOTHING")
    await archive.db.fetch_sql("INSERT INTO local_aet VALUES ('THEIRS', 77)")
    with pytest.raises(BadRequest, match="another tenant"):
        await service.put_title(LOCAL, LocalTitle("THEIRS"))
    await service.delete_title(LOCAL, "A")
    with pytest.raises(NotFound):
        await service.delete_title(LOCAL, "A")


@pytest.fixture
async def modality(archive: Archive) -> AsyncIterator[Modality]:
    declared = Modality(
        "labelled", "LABELLED", "127.0.0.1", free_port(), allow=frozenset({"worklist", "commitment", "mpps"})
    )
    await archive.modalities.put(LOCAL, declared)
    yield declared
    await archive.modalities.delete(LOCAL, declared.name)


@pytest.mark.usefixtures("titles")
async def test_a_title_shows_its_own_worklist(bridge: Bridge, archive: Archive, modality: Modality) -> None:
    service, patient = archive.modality_worklist, f"W{generate_uid()[-12:]}"
    wanted = {"plain": (), "trial": ("trial",), "both": ("blind", "trial")}
    ids = {
        name: await service.create(LOCAL, item(PatientID=patient, AccessionNumber=name), labels=labels)
        for name, labels in wanted.items()
    }

    def found(called: str) -> list[str]:
        asked = Dataset()
        asked.PatientID, asked.AccessionNumber = patient, ""
        with association(bridge.port, MODALITY_WORKLIST, calling=modality.aet, called=called) as peer:
            answers = [answer for _, answer in peer.send_c_find(asked, MODALITY_WORKLIST) if answer is not None]
        return sorted(answer.AccessionNumber for answer in answers)

    assert found("ANOR") == ["both", "plain", "trial"]
    assert found("TRIAL") == ["both", "trial"]
    assert found("BOTH") == ["both"]
    await service.replace(LOCAL, ids["both"], item(PatientID=patient, AccessionNumber="both"))
    assert found("BOTH") == ["both"]  # the labels have stayed
    await service.replace(LOCAL, ids["both"], item(PatientID=patient, AccessionNumber="both"), labels=["blind"])
    assert found("BOTH") == []

    trial = replace(LOCAL, labels=("trial",))
    for call in (service.get(trial, ids["plain"]), service.delete(trial, ids["plain"])):
        with pytest.raises(NotFound):
            await call
    added = await service.create(trial, item(PatientID=patient, AccessionNumber="added"), labels=["blind"])
    assert (await service.get(LOCAL, added)).labels == ("blind", "trial")
    for each in (*ids.values(), added):  # others compare the whole worklist
        await service.delete(LOCAL, each)


@pytest.mark.usefixtures("titles")
async def test_a_title_moves_its_own_worklist_on(bridge: Bridge, archive: Archive, modality: Modality) -> None:
    """Performed steps belong to the part by which they were reported, and so do the scheduled ones that follow them."""
    service, study = archive.modality_worklist, new_uid()
    wanted = {"plain": (), "trial": ("trial",), "both": ("blind", "trial")}
    ids = {
        name: await service.create(LOCAL, item(StudyInstanceUID=study, AccessionNumber=name), labels=labels)
        for name, labels in wanted.items()
    }
    whole = {"request_AccessionNumber": ..., "request_ScheduledProcedureStepID": ...}  # all of the study
    reported = Dataset.from_json(performed(request_StudyInstanceUID=study, **whole))
    uid, other = new_uid(), new_uid()

    def ask(called: str, request: str, uid: str, given: Dataset | list[int]) -> int:
        classes = (ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve)
        with association(bridge.port, *classes, calling=modality.aet, called=called) as peer:
            if request == "create":
                return peer.send_n_create(given, classes[0], uid)[0].Status
            if request == "get":
                return peer.send_n_get(given, classes[1], uid)[0].Status
            return peer.send_n_set(given, classes[0], uid)[0].Status

    async def states() -> list[str]:
        found = [orjson.loads((await service.get(LOCAL, each)).attributes) for each in ids.values()]
        return [each["00400100"]["Value"][0]["00400020"]["Value"][0] for each in found]

    end = Dataset.from_json(finished())
    assert ask("TRIAL", "create", uid, reported) == 0
    assert await states() == ["SCHEDULED", "STARTED", "STARTED"]
    assert ask("BOTH", "create", uid, reported) == 0x0111
    assert [ask(called, "get", uid, [0x00400252]) for called in ("TRIAL", "BOTH", "ANOR")] == [0, 0x0112, 0]
    assert ask("BOTH", "set", uid, end) == 0x0112
    assert await states() == ["SCHEDULED", "STARTED", "STARTED"]
    assert ask("ANOR", "set", uid, end) == 0  # the whole archive sees it, and it moves on what it has begun
    assert await states() == ["SCHEDULED", "COMPLETED", "COMPLETED"]
    assert ask("ANOR", "create", other, reported) == 0
    assert ask("TRIAL", "get", other, [0x00400252]) == 0x0112
    assert await states() == ["STARTED"] * 3
    seen = await archive.performed_steps.search(replace(LOCAL, labels=("trial",)), Query(Level.STUDY, limit=50))
    assert uid in b"".join(seen.rows).decode()
    assert other not in b"".join(seen.rows).decode()
    for each in ids.values():
        await service.delete(LOCAL, each)


@pytest.mark.usefixtures("titles")
@pytest.mark.parametrize("stays", [True, False])
async def test_a_title_commits_itself_to_its_own_studies(
    bridge: Bridge, archive: Archive, modality: Modality, stays: bool
) -> None:
    """On the association of the request, and by the job that answers later."""
    ours, theirs, receiver = instance(), instance(), Receiver()
    store(bridge.port, ours, called="TRIAL")
    store(bridge.port, theirs)
    references = [(CT, each.SOPInstanceUID) for each in (ours, theirs)]
    ae = AE(ae_title=modality.aet)
    ae.add_requested_context(COMMITMENT)
    with receiver.listening(modality.aet, modality.port):
        taken = [(evt.EVT_N_EVENT_REPORT, receiver.take)]
        made = ae.associate("127.0.0.1", bridge.port, ae_title="TRIAL", evt_handlers=taken)
        asked = made.send_n_action(asking(generate_uid(), *references), 1, COMMITMENT, COMMITMENT_INSTANCE)
        assert asked[0].Status == 0
        if not stays:
            made.release()
            requestor = Requestor(archive)
            runner = JobRunner(archive, commitment.handlers(requestor))
            for _ in range(100):
                if await runner.step():
                    break
                await asyncio.sleep(0.1)
            await requestor.close()
        assert await asyncio.to_thread(receiver.came.wait, 10)
        made.release()
    [(event, report)] = receiver.reports
    assert event == 2
    assert report.RetrieveAETitle == "TRIAL"
    assert uids(report.ReferencedSOPSequence) == [ours.SOPInstanceUID]
    [failed] = report.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (theirs.SOPInstanceUID, 0x0112)
