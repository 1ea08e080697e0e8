"""Modality performed procedure steps (PS3.4 F.7 and F.8): what may be created, what may be changed, and when.

IN PROGRESS becomes COMPLETED or DISCONTINUED, and nothing changes any more. Missing attributes of type 2 are created
empty: many modalities leave some of them out. WorkitemRefused and WorkitemConflict carry the status of PS3.7.
"""

from dataclasses import dataclass
from typing import Final

from dicomweb import tags
from dicomweb.errors import WorkitemConflict
from dicomweb.ups_model import CHARACTER_SET, SOP_CLASS, SOP_INSTANCE, Dataset, element_of, is_valued, items, text
from dicomweb.worklist_model import (
    INVALID_VALUE,
    MISSING_ATTRIBUTE,
    MISSING_VALUE,
    PROCESSING_FAILURE,
    check_text,
    folded_name,
    refusal,
    trimmed,
)

MPPS: Final = "1.2.840.10008.3.1.2.3.3"
IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"
MAY_NO_LONGER_BE_UPDATED: Final = "Performed Procedure Step Object may no longer be updated"
MAX_REQUESTS: Final = 100  # items of ScheduledStepAttributesSequence

STATUS, REQUESTS, SERIES = "00400252", "00400270", "00400340"
_STUDY, _ACCESSION, _STEP_ID = "0020000D", "00080050", "00400009"
_PATIENT_NAME, _PATIENT_ID = "00100010", "00100020"
_STEP, _STATION, _MODALITY = "00400253", "00400241", "00080060"
_START_DATE, _START_TIME, _END_DATE, _END_TIME = "00400244", "00400245", "00400250", "00400251"

# PS3.4 table F.7.2-1, column N-CREATE.
_TYPE_1: Final = (REQUESTS, _STEP, _STATION, _START_DATE, _START_TIME, STATUS, _MODALITY)
_TYPE_2: Final = tuple(
    f"""{_PATIENT_NAME} {_PATIENT_ID} 00100030 00100040 00081120 00400242 00400243 00400254 00400255 00081032
    {_END_DATE} {_END_TIME} 00200010 00400260 {SERIES}""".split()
)
_CHECKED: Final = (
    *(STATUS, _STEP, _STATION, _START_DATE, _START_TIME, _MODALITY, _PATIENT_ID, _END_DATE, _END_TIME),
    *("00100030", "00200010"),
)
# Column N-SET: not allowed.
_FIXED: Final = frozenset(
    f"""{REQUESTS} {_PATIENT_NAME} {_PATIENT_ID} 00100021 00100024 00101002 00100030 00100040 00081120 00380010 00380014
    00380060 00380062 00380064 {_STEP} {_STATION} 00400242 00400243 {_START_DATE} {_START_TIME} {_MODALITY}
    00200010""".split()
)
_OURS: Final = frozenset({CHARACTER_SET, SOP_CLASS, SOP_INSTANCE})
# What the final state needs. A step that was discontinued before its first image has no series to tell of: the table
# asks for one, but to refuse would leave the work open for good.
_FINAL: Final = {COMPLETED: (_END_DATE, _END_TIME, SERIES), DISCONTINUED: (_END_DATE, _END_TIME)}


@dataclass(frozen=True, slots=True)
class Request:
    """What was scheduled, as the performed step names it: a study, and a step or an accession number or neither."""

    study: str
    step_id: str
    accession: str


def create(dataset: Dataset, uid: str) -> Dataset:
    """The attributes of a new instance (PS3.4 F.7.2.1). WorkitemRefused names what is missing or wrong."""
    for tag in _TYPE_1:
        if tag not in dataset:
            raise refusal(tag, "is required", MISSING_ATTRIBUTE)
        if not is_valued(dataset, tag):
            raise refusal(tag, "needs a value", MISSING_VALUE)
    if text(dataset, STATUS) != IN_PROGRESS:
        raise refusal(STATUS, f"of a new step is {IN_PROGRESS}", INVALID_VALUE)
    attributes = dataset | trimmed(dataset, _CHECKED)
    _check(attributes)
    requests_of(attributes)
    for tag in _TYPE_2:
        attributes.setdefault(tag, element_of(tag))
    attributes |= {
        CHARACTER_SET: element_of(CHARACTER_SET, "ISO_IR 192"),
        SOP_CLASS: element_of(SOP_CLASS, MPPS),
        SOP_INSTANCE: element_of(SOP_INSTANCE, uid),
    }
    return dict(sorted(attributes.items()))


def _check(attributes: Dataset) -> None:
    check_text(attributes, *_CHECKED)
    folded_name(attributes, _PATIENT_NAME)


def requests_of(attributes: Dataset) -> tuple[Request, ...]:
    """What was scheduled. WorkitemRefused for an item without a study, and beyond MAX_REQUESTS."""
    found = items(attributes, REQUESTS)
    if len(found) > MAX_REQUESTS:
        raise refusal(REQUESTS, f"has more than {MAX_REQUESTS} items")
    requests: dict[Request, None] = {}
    for each in found:
        check_text(each, _STUDY, _ACCESSION, _STEP_ID)
        if not text(each, _STUDY):
            reason = MISSING_VALUE if _STUDY in each else MISSING_ATTRIBUTE
            raise refusal(_STUDY, f"in {tags.keyword_of(REQUESTS)} is required", reason)
        requests[Request(text(each, _STUDY), text(each, _STEP_ID), text(each, _ACCESSION))] = None
    return tuple(requests)


def update(stored: Dataset, changes: Dataset) -> Dataset:
    """The attributes after an N-SET (PS3.4 F.7.2.2). Attributes are replaced one by one, sequences as a whole.

    WorkitemConflict where the step is finished; WorkitemRefused for what may not change or what the final state lacks.
    """
    if text(stored, STATUS) != IN_PROGRESS:
        raise WorkitemConflict(MAY_NO_LONGER_BE_UPDATED, attribute=STATUS, failure_reason=PROCESSING_FAILURE)
    changed = {tag: element for tag, element in changes.items() if tag not in _OURS}
    changed |= trimmed(changed, _CHECKED)
    for tag in _FIXED & changed.keys():
        # Modalities send the whole of it again: what is the same changes nothing.
        if changed.pop(tag) != stored.get(tag, element_of(tag)):
            raise refusal(tag, "cannot be changed", INVALID_VALUE)
    attributes = stored | changed
    _check(attributes)
    status = text(attributes, STATUS)
    if status != IN_PROGRESS and status not in _FINAL:
        raise refusal(STATUS, f"is none of {IN_PROGRESS}, {COMPLETED}, {DISCONTINUED}", INVALID_VALUE)
    for tag in _FINAL.get(status, ()):
        if not is_valued(attributes, tag):
            raise refusal(tag, f"needs a value for {status}", MISSING_VALUE)
    return dict(sorted(attributes.items()))


def scheduled_status(before: str, after: str) -> str:
    """The status of the scheduled steps when the performed one goes from `before` to `after`; "" leaves it."""
    return after if after in _FINAL and before != after else ""
