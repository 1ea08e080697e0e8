"""Requests for storage commitment and what is answered, in DICOM JSON (PS3.18 chapter 13, PS3.3 C.14)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dicomweb.errors import BadRequest
from dicomweb.uids import is_uid

_TRANSACTION: Final = "00081195"
_REFERENCED, _FAILED = "00081199", "00081198"
_SOP_CLASS, _SOP_INSTANCE, _REASON = "00081150", "00081155", "00081197"


def references_of(dataset: Mapping[str, Any], transaction: str) -> list[tuple[str, str]]:
    """SOP class and SOP instance of what is asked for, each once. Raises BadRequest that names the attribute.

    `transaction`: the UID in the path, which that of the data set has to be, where it has one.
    """
    if _first(dataset, _TRANSACTION) not in (None, transaction):
        raise BadRequest("TransactionUID is not that of the path", attribute="TransactionUID")
    found: dict[tuple[str, str], None] = {}
    for item in dataset.get(_REFERENCED, {}).get("Value") or ():
        reference = _first(item or {}, _SOP_CLASS), _first(item or {}, _SOP_INSTANCE)
        if not all(isinstance(uid, str) and is_uid(uid) for uid in reference):
            raise BadRequest("ReferencedSOPSequence has an item without UIDs", attribute="ReferencedSOPSequence")
        found[reference] = None
    if not found:
        raise BadRequest("ReferencedSOPSequence is missing or empty", attribute="ReferencedSOPSequence")
    return list(found)


def response(transaction: str, answers: Iterable[tuple[str, str, int]], root: str) -> dict[str, Any]:
    """The data set of an answer. `answers`: SOP class, SOP instance and failure reason, 0 for what is committed."""
    committed, failed = list[dict[str, Any]](), list[dict[str, Any]]()
    for sop_class, sop, reason in answers:
        item: dict[str, Any] = {
            _SOP_CLASS: {"vr": "UI", "Value": [sop_class]},
            _SOP_INSTANCE: {"vr": "UI", "Value": [sop]},
        }
        if reason:
            item[_REASON] = {"vr": "US", "Value": [reason]}
        (failed if reason else committed).append(item)
    found: dict[str, Any] = {
        "00081190": {"vr": "UR", "Value": [root]},  # Retrieve URL
        _TRANSACTION: {"vr": "UI", "Value": [transaction]},
    }
    for tag, items in ((_FAILED, failed), (_REFERENCED, committed)):
        if items:
            found[tag] = {"vr": "SQ", "Value": items}
    return found


def _first(dataset: Mapping[str, Any], tag: str) -> Any:
    values: Sequence[Any] = dataset.get(tag, {}).get("Value") or (None,)
    return values[0]
