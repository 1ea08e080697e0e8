"""What subscribers are told of a step (PS3.4 CC.2.4, PS3.18 11.13)."""

from collections.abc import Iterator
from typing import Final

import orjson

from dicomweb.ups_model import (
    CANCELED,
    CANCELLATION_REASON,
    CONTACT_NAME,
    CONTACT_URI,
    DISCONTINUATION_REASONS,
    HUMAN_PERFORMERS,
    PROGRESS_INFORMATION,
    READINESS,
    STATE,
    STATIONS,
    UPS_PUSH,
    Dataset,
    Event,
    element_of,
    is_valued,
    items,
    text,
)

STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = 1, 2, 3, 4, 5
# The well-known UIDs of the whole worklist: what a status change of the archive itself is about.
WORKLIST: Final = "1.2.840.10008.5.1.4.34.5"
FILTERED_WORKLIST: Final = "1.2.840.10008.5.1.4.34.5.1"

_REQUESTING_AE, _PERFORMER_CODES, _ORGANIZATION = "00741236", "00404009", "00404036"
_SCP_STATUS, _SUBSCRIPTION_LIST, _STEP_LIST = "00741242", "00741244", "00741246"
# What in the progress information others are told of: progress, description, parameters, communication URIs.
_PROGRESS: Final = ("00741004", "00741006", "00741007", "00741008")
_AE_LENGTH = 16


def state_report(attributes: Dataset) -> Event:
    """State and readiness, and why it was cancelled."""
    content = {tag: attributes.get(tag, element_of(tag)) for tag in (READINESS, STATE)}
    if text(attributes, STATE) == CANCELED:
        for item in items(attributes, PROGRESS_INFORMATION)[:1]:
            reasons = (CANCELLATION_REASON, DISCONTINUATION_REASONS)
            content |= {tag: item[tag] for tag in reasons if is_valued(item, tag)}
    return Event(STATE_REPORT, content)


def cancel_requested(request: Dataset, requester: str) -> Event:
    """Somebody wants the step cancelled; the AE is the one that the request names, or `requester`."""
    asked_by = text(request, _REQUESTING_AE) or requester
    content = {_REQUESTING_AE: element_of(_REQUESTING_AE, asked_by[:_AE_LENGTH])}
    reasons = (CANCELLATION_REASON, DISCONTINUATION_REASONS, CONTACT_URI, CONTACT_NAME)
    return Event(CANCEL_REQUESTED, content | {tag: request[tag] for tag in reasons if is_valued(request, tag)})


def assigned(attributes: Dataset) -> Event:
    """To whom the step is assigned now: stations and human performers."""
    content: Dataset = {STATIONS: attributes[STATIONS]} if is_valued(attributes, STATIONS) else {}
    performers = items(attributes, HUMAN_PERFORMERS)
    codes = [code for performer in performers for code in items(performer, _PERFORMER_CODES)]
    if codes:
        content[_PERFORMER_CODES] = element_of(_PERFORMER_CODES, *codes)
    organizations = [performer for performer in performers if is_valued(performer, _ORGANIZATION)]
    if organizations:
        content[_ORGANIZATION] = organizations[0][_ORGANIZATION]
    return Event(ASSIGNED, content)


def is_assigned(attributes: Dataset) -> bool:
    """Whether stations or human performers are named."""
    return is_valued(attributes, STATIONS) or is_valued(attributes, HUMAN_PERFORMERS)


def of_update(before: Dataset, after: Dataset) -> Iterator[Event]:
    """The events of an update (PS3.4 CC.2.4.3)."""
    if before.get(READINESS) != after.get(READINESS):
        yield state_report(after)
    if any(before.get(tag) != after.get(tag) for tag in (STATIONS, HUMAN_PERFORMERS)):
        yield assigned(after)
    if _progress(before) != _progress(after):
        yield Event(PROGRESS_REPORT, {PROGRESS_INFORMATION: after[PROGRESS_INFORMATION]})


def _progress(attributes: Dataset) -> list[Dataset]:
    found: list[Dataset] = []
    for item in items(attributes, PROGRESS_INFORMATION):
        said: Dataset = {tag: item[tag] for tag in _PROGRESS if tag in item}
        if said:
            found.append(said)
    return found


def going_down() -> Event:
    """The connection ends because the archive is being stopped; both lists are kept."""
    kept = {tag: element_of(tag, "WARM START") for tag in (_SUBSCRIPTION_LIST, _STEP_LIST)}
    return Event(SCP_STATUS_CHANGE, {_SCP_STATUS: element_of(_SCP_STATUS, "GOING DOWN")} | kept)


def restarted() -> Event:
    """The archive was started again; both lists are kept."""
    kept = {tag: element_of(tag, "WARM START") for tag in (_SUBSCRIPTION_LIST, _STEP_LIST)}
    return Event(SCP_STATUS_CHANGE, {_SCP_STATUS: element_of(_SCP_STATUS, "RESTARTED")} | kept)


def report(message_id: int, uid: str, event: Event) -> bytes:
    """The event as one DICOM JSON object, as a subscriber gets it; `message_id` is cut to a US."""
    command = {
        "00000002": {"vr": "UI", "Value": [UPS_PUSH]},
        "00000110": {"vr": "US", "Value": [message_id % 0xFFFF + 1]},
        "00001000": {"vr": "UI", "Value": [uid]},
        "00001002": {"vr": "US", "Value": [event.kind]},
    }
    return orjson.dumps(command | dict(sorted(event.content.items())))
