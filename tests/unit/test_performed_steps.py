"""PS3.4 table F.7.2-1, row by row: what a performed step needs, and what may change of it."""

import pytest

from dicomweb.errors import WorkitemConflict, WorkitemRefused
from dicomweb.performed_steps import create, update
from dicomweb.tags import tag_named, vr_of
from tests.modality_worklist import Dataset, dataset, finished, performed

# Attribute, type of N-CREATE, whether N-SET may change it, type that the final state asks for.
TABLE = [
    ("ScheduledStepAttributesSequence", "1", False, ""),
    ("PatientName", "2", False, ""),
    ("PatientID", "2", False, ""),
    ("IssuerOfPatientID", "3", False, ""),
    ("IssuerOfPatientIDQualifiersSequence", "3", False, ""),
    ("OtherPatientIDsSequence", "3", False, ""),
    ("PatientBirthDate", "2", False, ""),
    ("PatientSex", "2", False, ""),
    ("ReferencedPatientSequence", "2", False, ""),
    ("AdmissionID", "3", False, ""),
    ("IssuerOfAdmissionIDSequence", "3", False, ""),
    ("ServiceEpisodeID", "3", False, ""),
    ("IssuerOfServiceEpisodeIDSequence", "3", False, ""),
    ("ServiceEpisodeDescription", "3", False, ""),
    ("PerformedProcedureStepID", "1", False, ""),
    ("PerformedStationAETitle", "1", False, ""),
    ("PerformedStationName", "2", False, ""),
    ("PerformedLocation", "2", False, ""),
    ("PerformedProcedureStepStartDate", "1", False, ""),
    ("PerformedProcedureStepStartTime", "1", False, ""),
    ("PerformedProcedureStepStatus", "1", True, ""),
    ("PerformedProcedureStepDescription", "2", True, ""),
    ("PerformedProcedureTypeDescription", "2", True, ""),
    ("ProcedureCodeSequence", "2", True, ""),
    ("ReasonForPerformedProcedureCodeSequence", "3", True, ""),
    ("PerformedProcedureStepEndDate", "2", True, "1"),
    ("PerformedProcedureStepEndTime", "2", True, "1"),
    ("CommentsOnThePerformedProcedureStep", "3", True, ""),
    ("PerformedProcedureStepDiscontinuationReasonCodeSequence", "3", True, ""),
    ("Modality", "1", False, ""),
    ("StudyID", "2", False, ""),
    ("PerformedProtocolCodeSequence", "2", True, ""),
    ("PerformedSeriesSequence", "2", True, "1"),
]
UID = "1.2.3"


def tag(keyword: str) -> str:
    found = tag_named(keyword)
    assert found is not None
    return found


def another(keyword: str) -> Dataset:
    """A value that the step does not have."""
    values = {"SQ": {"CodeValue": "X"}, "DA": "20300101", "TM": "235959", "PN": "Other^Name", "CS": "XX"}
    return dataset(**{keyword: values.get(vr_of(tag(keyword)), "X")})


def reason(error: pytest.ExceptionInfo[WorkitemRefused]) -> tuple[int | None, str]:
    return error.value.failure_reason, error.value.attribute


@pytest.mark.parametrize(("keyword", "kind"), [row[:2] for row in TABLE])
def test_n_create(keyword: str, kind: str) -> None:
    without, empty = performed(**{keyword: ...}), performed(**{keyword: None})
    if kind == "1":
        for given, code in ((without, 0x0120), (empty, 0x0121)):
            with pytest.raises(WorkitemRefused) as error:
                create(given, UID)
            assert reason(error) == (code, tag(keyword))
        return
    for given in (without, empty):
        made = create(given, UID)
        assert (tag(keyword) in made) is (kind == "2" or given is empty)
        assert "Value" not in made.get(tag(keyword), {})


@pytest.mark.parametrize(("keyword", "may_change"), [(row[0], row[2]) for row in TABLE])
def test_n_set(keyword: str, may_change: bool) -> None:
    step, change = create(performed(), UID), another(keyword)
    if keyword == "PerformedProcedureStepStatus":
        change = dataset(PerformedProcedureStepStatus="IN PROGRESS")
    if may_change:
        assert update(step, change)[tag(keyword)] == change[tag(keyword)]
        return
    with pytest.raises(WorkitemRefused) as error:
        update(step, change)
    assert reason(error) == (0x0106, tag(keyword))
    if tag(keyword) in step:  # sent again as it is, it changes nothing
        assert update(step, {tag(keyword): step[tag(keyword)]}) == step


@pytest.mark.parametrize("keyword", [row[0] for row in TABLE if row[3] == "1"])
def test_final_state(keyword: str) -> None:
    step = create(performed(), UID)
    with pytest.raises(WorkitemRefused) as error:
        update(step, finished(**{keyword: ...}))
    assert reason(error) == (0x0121, tag(keyword))
    before = update(step, {tag(keyword): finished()[tag(keyword)]})  # it may have come before
    assert update(before, finished(**{keyword: ...}))[tag(keyword)] == finished()[tag(keyword)]


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_a_finished_step_stays_as_it_is(status: str) -> None:
    done = update(create(performed(), UID), finished(status))
    with pytest.raises(WorkitemConflict) as error:
        update(done, dataset(PerformedProcedureStepDescription="late"))
    assert error.value.failure_reason == 0x0110
    assert error.value.message == "Performed Procedure Step Object may no longer be updated"
