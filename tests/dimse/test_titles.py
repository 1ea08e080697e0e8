"""AE titles of ours with labels: what is stored by one gets them, and nothing else is seen by it."""

from collections.abc import AsyncIterator

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt

from dicomweb.errors import BadRequest, NotFound
from dicomweb.tags import Level
from storage.access import LOCAL
from storage.archive import Archive
from storage.modalities import LocalTitle, Modality
from storage.resource import Resource
from tests.dimse.conftest import Bridge
from tests.dimse.peers import find, instance, store
from tests.dimse.wire import CT, EXPLICIT_LE, PATIENT_ROOT_FIND, STUDY_ROOT_FIND

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
