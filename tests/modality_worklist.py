"""Worklist items and performed steps for tests, as an information system and a modality send them."""

from typing import Any

from dicomweb.tags import tag_named, vr_of

Dataset = dict[str, Any]


def element(keyword: str, value: Any) -> Dataset:
    """An element in the DICOM JSON Model; None is an empty one, a dictionary the item of a sequence."""
    vr = vr_of(tag_named(keyword) or "")
    if value is None:
        return {"vr": vr}
    values = value if isinstance(value, list) else [value]
    if vr == "PN":
        names = ("Alphabetic", "Ideographic", "Phonetic")
        values = [dict(zip(names, each.split("="), strict=False)) if isinstance(each, str) else each for each in values]
    if vr == "SQ":
        values = [dataset(**each) for each in values]
    return {"vr": vr, "Value": values}


def dataset(**keywords: Any) -> Dataset:
    """A data set by keywords."""
    return {tag_named(keyword) or keyword: element(keyword, value) for keyword, value in keywords.items()}


def item(**replaced: Any) -> Dataset:
    """A worklist item; keywords of the step begin with `step_`. `...` leaves an attribute out."""
    step: Dataset = {
        "ScheduledStationAETitle": "CT1",
        "ScheduledProcedureStepStartDate": "20260114",
        "ScheduledProcedureStepStartTime": "103000",
        "Modality": "CT",
        "ScheduledPerformingPhysicianName": "House^Gregory",
        "ScheduledProcedureStepDescription": "Thorax",
        "ScheduledProcedureStepID": "SPS1",
        "ScheduledProtocolCodeSequence": {
            "CodeValue": "CT7",
            "CodingSchemeDesignator": "99ANOR",
            "CodeMeaning": "Chest",
        },
    }
    outer: Dataset = {
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "Who^Doctor",
        "PatientName": "Doe^Jane",
        "PatientID": "P-1",
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "StudyInstanceUID": "1.2.3.4",
        "RequestedProcedureID": "RP1",
        "RequestedProcedureDescription": "CT of the thorax",
    }
    for name, value in replaced.items():
        target, keyword = (step, name.removeprefix("step_")) if name.startswith("step_") else (outer, name)
        if value is ...:
            target.pop(keyword, None)
        else:
            target[keyword] = value
    return dataset(**outer, ScheduledProcedureStepSequence=step)


def performed(**replaced: Any) -> Dataset:
    """What a modality sends when it begins (PS3.4 table F.7.2-1); keywords of the request begin with `request_`."""
    request: Dataset = {
        "StudyInstanceUID": "1.2.3.4",
        "AccessionNumber": "A1",
        "RequestedProcedureID": "RP1",
        "RequestedProcedureDescription": "CT of the thorax",
        "ScheduledProcedureStepID": "SPS1",
        "ScheduledProcedureStepDescription": "Thorax",
        "ScheduledProtocolCodeSequence": None,
        "ReferencedStudySequence": None,
    }
    outer: Dataset = {
        "PatientName": "Doe^Jane",
        "PatientID": "P-1",
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "ReferencedPatientSequence": None,
        "PerformedProcedureStepID": "PPS1",
        "PerformedStationAETitle": "CT1",
        "PerformedStationName": None,
        "PerformedLocation": None,
        "PerformedProcedureStepStartDate": "20260114",
        "PerformedProcedureStepStartTime": "103512",
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "PerformedProcedureStepDescription": None,
        "PerformedProcedureTypeDescription": None,
        "ProcedureCodeSequence": None,
        "PerformedProcedureStepEndDate": None,
        "PerformedProcedureStepEndTime": None,
        "Modality": "CT",
        "StudyID": None,
        "PerformedProtocolCodeSequence": None,
        "PerformedSeriesSequence": None,
        "ScheduledStepAttributesSequence": request,
    }
    for name, value in replaced.items():
        target, keyword = (request, name.removeprefix("request_")) if name.startswith("request_") else (outer, name)
        if value is ...:
            target.pop(keyword, None)
        else:
            target[keyword] = value
    return dataset(**outer)


def finished(status: str = "COMPLETED", **more: Any) -> Dataset:
    """What it sends when it ends."""
    series: Dataset = {
        "SeriesInstanceUID": "1.2.3.4.5",
        "ProtocolName": "Thorax",
        "PerformingPhysicianName": None,
        "OperatorsName": None,
        "SeriesDescription": None,
        "RetrieveAETitle": None,
        "ReferencedImageSequence": {
            "ReferencedSOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
            "ReferencedSOPInstanceUID": "1.2.9",
        },
        "ReferencedNonImageCompositeSOPInstanceSequence": None,
    }
    values = {
        "PerformedProcedureStepStatus": status,
        "PerformedProcedureStepEndDate": "20260114",
        "PerformedProcedureStepEndTime": "105000",
        "PerformedSeriesSequence": series,
    }
    return dataset(**{name: value for name, value in (values | more).items() if value is not ...})
