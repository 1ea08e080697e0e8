"""Unified Procedure Steps (PS3.4 annex CC): what may be created and what may be changed.

A step is held without its Transaction UID, which only the performer may know. Functions take the step and a request
and give a `Change`; who stores it decides nothing any more. Refusals carry the status codes of PS3.4 and the words of
PS3.18 for the Warning header.
"""

import re
from collections.abc import Iterable
from typing import Final

from dicomweb import tags
from dicomweb.errors import WorkitemConflict, WorkitemRefused
from dicomweb.temporal import period
from dicomweb.uids import is_uid
from dicomweb.ups_events import assigned, is_assigned, of_update, state_report
from dicomweb.ups_model import (
    AFFECTED_INSTANCE,
    CHARACTER_SET,
    COMMENTS,
    EXPECTED,
    EXPIRES,
    HUMAN_PERFORMERS,
    LABEL,
    MODIFIED,
    PATIENT_ID,
    PERFORMED,
    PRIORITY,
    PROGRESS_INFORMATION,
    READINESS,
    SCHEDULED,
    SOP_CLASS,
    SOP_INSTANCE,
    START,
    STATE,
    STATIONS,
    TRANSACTION_UID,
    UPS_PUSH,
    WORKITEM_CODES,
    WORKLIST_LABEL,
    Change,
    Dataset,
    Step,
    element_of,
    is_valued,
    text,
)

DEFAULT_WORKLIST_LABEL: Final = "DEFAULT"

# PS3.18 11.4.3.2 and 11.6.3.2.
CREATED_WITH_MODIFICATIONS: Final = "The Workitem was created with modifications."
NOT_CLAIMED: Final = "The target URI did not reference a claimed Workitem."
INCONSISTENT: Final = "The submitted request is inconsistent with the current state of the Workitem."

# PS3.4 table CC.2.5-3, column N-CREATE.
_TYPE_1: Final = (STATE, PRIORITY, LABEL, START, READINESS)
_TYPE_2: Final = tuple(
    f"""{WORKLIST_LABEL} 00741210 {STATIONS} 00404026 00404027 {WORKITEM_CODES} {COMMENTS} 00404021 00100010 00100021
    00100024 00101002 00100030 00100040 00380010 00380014 00081080 00081084 0040A370 {PROGRESS_INFORMATION}
    {PERFORMED}""".split()
)
# Type 1C of the client, 2 of the archive: their absence is nobody's mistake.
_FILLED_SILENTLY: Final = ("0020000D", PATIENT_ID)
_CREATED_EMPTY: Final = (TRANSACTION_UID, PROGRESS_INFORMATION, PERFORMED)
_ENUMERATED: Final = {
    PRIORITY: ("HIGH", "MEDIUM", "LOW"),
    READINESS: ("READY", "UNAVAILABLE", "INCOMPLETE"),
}
_DATE_TIMES: Final = (START, EXPECTED, EXPIRES)
_INDEXED_TEXTS: Final = (PATIENT_ID, WORKLIST_LABEL)
_LONGEST_LO = 64  # PS3.5 6.2
# Column N-SET: not allowed, or not the client's.
_FIXED: Final = frozenset(
    f"""{SOP_CLASS} {SOP_INSTANCE} {STATE} 00100010 00100020 00100021 00100024 00100030 00100040 00100041 00100043
    00100011 00100014 00380010 00380014 00081080 00081084 0040A370 00741224""".split()
)
_OURS: Final = (TRANSACTION_UID, CHARACTER_SET, MODIFIED, AFFECTED_INSTANCE)
_NEVER_EMPTIED: Final = (PRIORITY, LABEL, WORKLIST_LABEL, START, EXPECTED, WORKITEM_CODES, COMMENTS, READINESS)
# What an answer to a search holds unasked: return key types 1 and 2, and those of 1C and 2C that are set.
RETURNED: Final = frozenset(
    (*_TYPE_1, *_TYPE_2, *_FILLED_SILENTLY, HUMAN_PERFORMERS, CHARACTER_SET, SOP_CLASS, SOP_INSTANCE)
).union(("00102000", "001021C0", "00380050")) - {COMMENTS, PERFORMED}


def _refuse(tag: str, problem: str, *, reason: int = 0x0106) -> WorkitemRefused:
    return WorkitemRefused(f"{tags.keyword_of(tag) or tag} {problem}", attribute=tag, failure_reason=reason)


def _check_values(dataset: Dataset, present: Iterable[str]) -> None:
    for tag in present:
        if tag in _ENUMERATED and text(dataset, tag) not in _ENUMERATED[tag]:
            raise _refuse(tag, f"is none of {', '.join(_ENUMERATED[tag])}")
        if tag in _INDEXED_TEXTS and len(text(dataset, tag)) > _LONGEST_LO:
            raise _refuse(tag, f"is longer than {_LONGEST_LO} characters")
        if tag in _DATE_TIMES and is_valued(dataset, tag):
            value = text(dataset, tag)
            if period("DT", value) is None or not re.fullmatch(r"[0-9.]+([+-][0-9]{4})?", value):
                raise _refuse(tag, "is not a DT")


def uid_of(dataset: Dataset, given: str | None) -> str | None:
    """The UID for a new step, from the URL or from the dataset; None when neither has one.

    Raises WorkitemRefused when they differ or are no UIDs.
    """
    named = {given or "", text(dataset, SOP_INSTANCE), text(dataset, AFFECTED_INSTANCE)} - {""}
    if len(named) > 1:
        raise _refuse(SOP_INSTANCE, "is not the UID of the request")
    if not all(map(is_uid, named)):
        raise _refuse(SOP_INSTANCE, "is not a UID")
    return next(iter(named), None)


def create(dataset: Dataset, uid: str, now: str) -> Change:
    """A new step in the state SCHEDULED (PS3.4 CC.2.5.3); `now` is a DT.

    Attributes of type 2 that are missing are created empty and WorklistLabel gets a default, both with the warning that
    the standard has for it. WorkitemRefused names the attribute that is missing or wrong.
    """
    for tag in _TYPE_1:
        if not is_valued(dataset, tag):
            raise _refuse(tag, "is required", reason=0x0120)
    if text(dataset, STATE) != SCHEDULED:
        raise _refuse(STATE, "of a new workitem is SCHEDULED", reason=0xC309)
    for tag in _CREATED_EMPTY:
        if is_valued(dataset, tag):
            raise _refuse(tag, "of a new workitem is empty")
    if is_valued(dataset, SOP_CLASS) and text(dataset, SOP_CLASS) != UPS_PUSH:
        raise _refuse(SOP_CLASS, f"of a workitem is {UPS_PUSH}")
    _check_values(dataset, dataset)
    attributes = {tag: element for tag, element in dataset.items() if tag not in (TRANSACTION_UID, AFFECTED_INSTANCE)}
    missing = [tag for tag in _TYPE_2 if tag not in attributes]
    for tag in (*missing, *_FILLED_SILENTLY):
        attributes.setdefault(tag, element_of(tag))
    modified = bool(missing)
    if not is_valued(attributes, WORKLIST_LABEL):
        attributes[WORKLIST_LABEL] = element_of(WORKLIST_LABEL, DEFAULT_WORKLIST_LABEL)
        modified = True
    attributes |= {
        CHARACTER_SET: element_of(CHARACTER_SET, "ISO_IR 192"),  # what JSON is in
        SOP_CLASS: element_of(SOP_CLASS, UPS_PUSH),
        SOP_INSTANCE: element_of(SOP_INSTANCE, uid),
        MODIFIED: element_of(MODIFIED, now),
    }
    events = [state_report(attributes)]
    if is_assigned(attributes):
        events.append(assigned(attributes))
    return Change(Step(uid, attributes), tuple(events), CREATED_WITH_MODIFICATIONS if modified else "")


# --------------------------------------------------------------------------------------------------------- update


def update(step: Step, dataset: Dataset, transaction_uid: str | None, now: str) -> Change:
    """The step with the given attributes replaced (PS3.4 CC.2.6, PS3.18 11.6); one that is given empty is blanked.

    The Transaction UID is that of the URL or of the dataset. Raises WorkitemRefused and WorkitemConflict.
    """
    in_dataset = text(dataset, TRANSACTION_UID)
    if transaction_uid and in_dataset and transaction_uid != in_dataset:
        raise _not_owner("the Transaction UIDs of URL and dataset differ")
    _may_update(step, transaction_uid or in_dataset)
    changed: Dataset = {}
    for tag, element in dataset.items():
        if tag in _OURS or element == step.attributes.get(tag):
            continue
        if tag in _FIXED:
            raise _refuse(tag, "cannot be changed by an update", reason=0xC303 if tag == STATE else 0x0106)
        if tag in _NEVER_EMPTIED and not is_valued(dataset, tag):
            raise _refuse(tag, "cannot be emptied")
        changed[tag] = element
    _check_values(changed, changed)
    attributes = step.attributes | changed | {MODIFIED: element_of(MODIFIED, now)}
    return Change(Step(step.uid, attributes, step.transaction_uid), tuple(of_update(step.attributes, attributes)))


def _not_owner(message: str) -> WorkitemRefused:
    return WorkitemRefused(message, warning=INCONSISTENT, attribute=TRANSACTION_UID, failure_reason=0xC301)


def _may_update(step: Step, transaction_uid: str) -> None:
    match step.state:
        case "SCHEDULED":
            if transaction_uid:
                message = "the workitem is not claimed: it is updated without a Transaction UID"
                raise WorkitemConflict(message, warning=NOT_CLAIMED, attribute=TRANSACTION_UID, failure_reason=0xC310)
        case "IN PROGRESS":
            if not transaction_uid:
                raise _not_owner("the workitem is claimed: its Transaction UID is missing")
            if transaction_uid != step.transaction_uid:
                raise _not_owner("the Transaction UID is incorrect")
        case _:
            raise WorkitemRefused(f"the workitem is {step.state}", warning=INCONSISTENT, failure_reason=0xC300)
