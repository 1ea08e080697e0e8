"""Unified Procedure Steps as values (PS3.3 C.30): a step, an event, a change, and datasets in the DICOM JSON Model."""

import re
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from dicomweb import tags
from dicomweb.errors import BadRequest, WorkitemRefused

Dataset: TypeAlias = dict[str, Any]

UPS_PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"  # every step is an instance of this class (PS3.4 CC.3.1)
MAX_DEPTH: Final = 16

CHARACTER_SET, SOP_CLASS, SOP_INSTANCE, TRANSACTION_UID = "00080005", "00080016", "00080018", "00081195"
PRIORITY, LABEL, WORKLIST_LABEL, STATE = "00741200", "00741204", "00741202", "00741000"
START, MODIFIED, EXPECTED, EXPIRES = "00404005", "00404010", "00404011", "00404008"
READINESS, WORKITEM_CODES, COMMENTS = "00404041", "00404018", "00400400"
STATIONS, HUMAN_PERFORMERS, PATIENT_ID = "00404025", "00404034", "00100020"
PROGRESS_INFORMATION, PERFORMED = "00741002", "00741216"
AFFECTED_INSTANCE = "00001000"
CANCELLATION_REASON, CONTACT_URI, CONTACT_NAME, DISCONTINUATION_REASONS = "00741238", "0074100A", "0074100C", "0074100E"

SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED = "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"
FINAL_STATES: Final = frozenset({COMPLETED, CANCELED})

_AET = re.compile(r"(?! )[ -\[\]-~]{1,16}(?<! )", re.ASCII)
_TAG = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)
_VR = re.compile(r"A[EST]|CS|D[AST]|F[DL]|IS|L[OT]|O[BDFLVW]|PN|S[HLQSTV]|TM|U[CILNRSTV]")
_MEMBERS = frozenset(("vr", "Value", "InlineBinary", "BulkDataURI"))
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Event:
    """One event report (PS3.4 table CC.2.4-1): its Event Type ID and its attributes."""

    kind: int
    content: Dataset


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it is stored; `attributes` never hold the Transaction UID."""

    uid: str
    attributes: Dataset
    transaction_uid: str | None = None

    @property
    def state(self) -> str:
        """Procedure Step State."""
        return text(self.attributes, STATE)


@dataclass(frozen=True, slots=True)
class Change:
    """The step after a request, the events that tell of it, and a text for the Warning header of the answer.

    `stored`: whether anything has to be written. `told`: somebody must get the events, or the request fails.
    """

    step: Step
    events: tuple[Event, ...] = ()
    warning: str = ""
    stored: bool = True
    told: bool = False


def parse(body: bytes) -> Dataset:
    """The dataset of a request: one DICOM JSON object, alone or as the one item of an array (PS3.18 F.2).

    Tags become upper-case, groups 0000 and 0002 are left out except AffectedSOPInstanceUID. BadRequest when it is not
    JSON, WorkitemRefused when it is not DICOM JSON.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest("the body is not JSON") from None
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        raise BadRequest("the body is not one DICOM JSON object, alone or in an array")
    return _dataset(found, 0)


def dataset_of(members: Dataset) -> Dataset:
    """A data set that came another way, checked and written as `parse` does it. Raises WorkitemRefused."""
    return _dataset(members, 0)


def _dataset(members: Dataset, depth: int) -> Dataset:
    if depth > MAX_DEPTH:
        raise WorkitemRefused(f"sequences are nested more than {MAX_DEPTH} levels deep")
    dataset: Dataset = {}
    for name, element in members.items():
        if not _TAG.fullmatch(name):
            raise WorkitemRefused("a member is not named by a tag of eight hexadecimal digits")
        tag = name.upper()
        if tag[:4] in ("0000", "0002") and tag != AFFECTED_INSTANCE:
            continue
        dataset[tag] = _element(tag, element, depth)
    return dataset


def _element(tag: str, element: object, depth: int) -> Dataset:
    if not isinstance(element, dict) or not element.keys() <= _MEMBERS or not _is_vr(element.get("vr")):
        raise WorkitemRefused(f"{tag} is not an element with `vr` and at most `Value`", attribute=tag)
    vr, known = element["vr"], tags.vr_of(tag)
    if known != "UN" and (vr == "SQ") != (known == "SQ"):
        raise WorkitemRefused(f"{tag} has the value representation {known}", attribute=tag)
    if "Value" not in element:
        if not all(_is_text(member) for member in element.values()):
            raise WorkitemRefused(f"{tag} has a member that is not text", attribute=tag)
        return dict(element)
    values = element["Value"]
    if not isinstance(values, list):
        raise WorkitemRefused(f"the Value of {tag} is not an array", attribute=tag)
    if not values:
        return {"vr": vr}
    return {"vr": vr, "Value": [_value(tag, vr, value, depth) for value in values]}


def _is_vr(value: object) -> bool:
    return isinstance(value, str) and _VR.fullmatch(value) is not None


def _value(tag: str, vr: str, value: object, depth: int) -> object:
    if vr == "SQ":
        if isinstance(value, dict):
            return _dataset(value, depth + 1)
    elif vr == "PN":
        if value is None or (isinstance(value, dict) and all(_is_text(group) for group in value.values())):
            return value
    elif value is None or _is_text(value) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise WorkitemRefused(f"{tag} has a value that a {vr} cannot have", attribute=tag)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not _CONTROL.search(value)


def text(dataset: Dataset, tag: str) -> str:
    """The first value as text without padding; "" when there is none."""
    values = dataset.get(tag, {}).get("Value") or [""]
    return values[0].strip() if isinstance(values[0], str) else ""


def items(dataset: Dataset, tag: str) -> list[Dataset]:
    """The items of a sequence."""
    return dataset.get(tag, {}).get("Value") or []


def is_valued(dataset: Dataset, tag: str) -> bool:
    """Whether the attribute has a value that is not empty; for a sequence, an item."""
    values = dataset.get(tag, {}).get("Value", ())
    return any(value.strip() if isinstance(value, str) else value not in (None, {}) for value in values)


def element_of(tag: str, *values: object) -> Dataset:
    """An element in the DICOM JSON Model with the data dictionary's VR."""
    vr = tags.vr_of(tag)
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def checked_aet(aet: str) -> str:
    """`aet` if it is an application entity title (PS3.5 6.2), else BadRequest."""
    if not _AET.fullmatch(aet):
        raise BadRequest("an AE title is 1 to 16 printable characters without a backslash", attribute="aet")
    return aet
