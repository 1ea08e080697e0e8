"""The state machine of a Unified Procedure Step (PS3.4 tables CC.1.1-2 and CC.2.5-3; PS3.18 11.7 and 11.8)."""

from collections.abc import Iterator
from typing import Final

from dicomweb import tags
from dicomweb.errors import WorkitemConflict, WorkitemRefused
from dicomweb.uids import is_uid
from dicomweb.ups_events import cancel_requested, state_report
from dicomweb.ups_model import (
    CANCELED,
    CANCELLATION_REASON,
    COMPLETED,
    CONTACT_NAME,
    CONTACT_URI,
    DISCONTINUATION_REASONS,
    FINAL_STATES,
    IN_PROGRESS,
    MODIFIED,
    PERFORMED,
    PROGRESS_INFORMATION,
    SCHEDULED,
    STATE,
    TRANSACTION_UID,
    Change,
    Dataset,
    Step,
    element_of,
    is_valued,
    items,
    text,
)

# PS3.18 11.7.3.2 and 11.8.3.2.
ALREADY_CANCELED: Final = "The UPS is already in the requested state of CANCELED."
ALREADY_COMPLETED: Final = "The UPS is already in the requested state of COMPLETED."
TRANSACTION_MISSING: Final = "The Transaction UID is missing."
TRANSACTION_INCORRECT: Final = "The Transaction UID is incorrect."
INCONSISTENT: Final = "The submitted request is inconsistent with the state of the UPS Instance."
COMPLETED_BEFORE: Final = "The UPS is already COMPLETED."
NOBODY_LISTENS: Final = "The performer cannot be contacted."

_CANCELLED_AT, _COMMUNICATIONS = "00404052", "00741008"
# Final state code P: what has to be known of a completed step. The outputs may be none, but that has to be said.
_PERFORMED_VALUED: Final = ("00404028", "00404050", "00404019", "00404051")
_OUTPUTS = "00404033"
# CID 9300: the reason where the archive itself cancels and nobody gave one.
_UNSPECIFIED: Final = {
    "00080100": {"vr": "SH", "Value": ["110513"]},
    "00080102": {"vr": "SH", "Value": ["DCM"]},
    "00080104": {"vr": "LO", "Value": ["Discontinued for unspecified reason"]},
}


def change_state(step: Step, request: Dataset, now: str) -> Change:
    """Claim, complete or cancel a step: ProcedureStepState and Transaction UID of `request`; `now` is a DT.

    A step that is already where it should be is left alone, with a warning. Raises WorkitemRefused and
    WorkitemConflict.
    """
    wanted, transaction_uid = text(request, STATE), text(request, TRANSACTION_UID)
    if wanted == "CANCELLED":  # PS3.18 11.7.1.4 itself spells it so
        wanted = CANCELED
    if wanted not in {IN_PROGRESS, COMPLETED, CANCELED}:
        message = "ProcedureStepState is none of IN PROGRESS, COMPLETED, CANCELED"
        raise WorkitemRefused(message, warning=INCONSISTENT, attribute=STATE, failure_reason=0xC303)
    if not transaction_uid:
        raise _wrong_transaction("the Transaction UID is missing", TRANSACTION_MISSING)
    if not is_uid(transaction_uid):
        raise _wrong_transaction("the Transaction UID is not a UID", TRANSACTION_INCORRECT)
    if wanted == IN_PROGRESS:
        return _claim(step, transaction_uid, now)
    if step.state == SCHEDULED:
        raise _inconsistent("the workitem is not claimed: it has to be IN PROGRESS first", 0xC310)
    # A step that was cancelled before anybody claimed it has no Transaction UID to know.
    if step.transaction_uid not in (None, transaction_uid):
        raise _wrong_transaction("the Transaction UID is incorrect", TRANSACTION_INCORRECT)
    if step.state == wanted:
        warning = ALREADY_COMPLETED if wanted == COMPLETED else ALREADY_CANCELED
        return Change(step, warning=warning, stored=False)
    if step.state in FINAL_STATES:
        raise _inconsistent(f"the workitem is {step.state}", 0xC300)
    return _finish(step, wanted, now)


def _wrong_transaction(message: str, warning: str) -> WorkitemRefused:
    return WorkitemRefused(message, warning=warning, attribute=TRANSACTION_UID, failure_reason=0xC301)


def _inconsistent(message: str, reason: int, attribute: str | None = None) -> WorkitemConflict:
    return WorkitemConflict(message, warning=INCONSISTENT, attribute=attribute, failure_reason=reason)


def _claim(step: Step, transaction_uid: str, now: str) -> Change:
    if step.state != SCHEDULED:
        reason = 0xC302 if step.state == IN_PROGRESS else 0xC300
        raise _inconsistent(f"the workitem is already {step.state}", reason)
    claimed = _in_state(step.attributes, IN_PROGRESS, now)
    return Change(Step(step.uid, claimed, transaction_uid), (state_report(claimed),))


def _in_state(attributes: Dataset, state: str, now: str) -> Dataset:
    return attributes | {STATE: element_of(STATE, state), MODIFIED: element_of(MODIFIED, now)}


def _finish(step: Step, state: str, now: str) -> Change:
    attributes = step.attributes
    if state == CANCELED:
        attributes = _with_time_of_cancellation(attributes, now)
    missing = next(_missing(attributes, state), None)
    if missing is not None:
        name = tags.keyword_of(missing)
        raise _inconsistent(f"the final state {state} needs {name}: update the workitem first", 0xC304, missing)
    attributes = _in_state(attributes, state, now)
    return Change(Step(step.uid, attributes, step.transaction_uid), (state_report(attributes),))


def _missing(attributes: Dataset, state: str) -> Iterator[str]:
    """What the final state needs and the step lacks (PS3.4 CC.2.5.1.1)."""
    if state == CANCELED:
        for item in items(attributes, PROGRESS_INFORMATION)[:1]:
            if not is_valued(item, DISCONTINUATION_REASONS):
                yield DISCONTINUATION_REASONS
        return
    if not is_valued(attributes, PERFORMED):
        yield PERFORMED
    for item in items(attributes, PERFORMED):
        yield from (tag for tag in _PERFORMED_VALUED if not is_valued(item, tag))
        if _OUTPUTS not in item:
            yield _OUTPUTS


def _with_time_of_cancellation(attributes: Dataset, now: str) -> Dataset:
    """The archive fills in the time where the performer did not (PS3.4 table CC.2.5-3)."""
    first: Dataset = next(iter(items(attributes, PROGRESS_INFORMATION)), {})
    if not is_valued(first, _CANCELLED_AT):
        first = first | {_CANCELLED_AT: element_of(_CANCELLED_AT, now)}
    return attributes | {PROGRESS_INFORMATION: element_of(PROGRESS_INFORMATION, first)}


def request_cancel(step: Step, request: Dataset, requester: str, now: str) -> Change:
    """Somebody who does not perform the step wants it cancelled; `requester` names the caller.

    What nobody has claimed is cancelled at once, over IN PROGRESS, with the reasons of the request. Of a claimed step
    its subscribers are told: whether it ends is up to the performer. Raises WorkitemConflict for a completed one.
    """
    match step.state:
        case "CANCELED":
            return Change(step, warning=ALREADY_CANCELED, stored=False)
        case "COMPLETED":
            raise WorkitemConflict("the workitem is COMPLETED", warning=COMPLETED_BEFORE, failure_reason=0xC311)
        case "IN PROGRESS":
            return Change(step, (cancel_requested(request, requester),), told=True)
        case _:
            return _cancel_unclaimed(step, request, now)


def nobody_listens() -> WorkitemConflict:
    """The performer of a claimed step cannot learn of a request: nobody is subscribed to it (PS3.4 CC.2.2.3)."""
    return WorkitemConflict(
        "nobody is subscribed to the workitem, so that its performer cannot be told",
        warning=NOBODY_LISTENS,
        failure_reason=0xC312,
    )


def _cancel_unclaimed(step: Step, request: Dataset, now: str) -> Change:
    item: Dataset = {
        _CANCELLED_AT: element_of(_CANCELLED_AT, now),
        DISCONTINUATION_REASONS: element_of(DISCONTINUATION_REASONS, _UNSPECIFIED),
    }
    item |= {tag: request[tag] for tag in (CANCELLATION_REASON, DISCONTINUATION_REASONS) if is_valued(request, tag)}
    contact = {tag: request[tag] for tag in (CONTACT_URI, CONTACT_NAME) if is_valued(request, tag)}
    if CONTACT_URI in contact:
        item[_COMMUNICATIONS] = element_of(_COMMUNICATIONS, contact)
    between = _in_state(step.attributes, IN_PROGRESS, now)
    attributes = _in_state(step.attributes, CANCELED, now)
    attributes[PROGRESS_INFORMATION] = element_of(PROGRESS_INFORMATION, dict(sorted(item.items())))
    return Change(Step(step.uid, attributes), (state_report(between), state_report(attributes)))
