"""STOW-RS (PS3.18 10.5): what a request body is, and outcomes -> status and response dataset (Annex I)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from dicomweb import store_answer
from dicomweb.errors import ArchiveError, BadRequest, UnsupportedMediaType
from dicomweb.media import DICOM, parse_media_type
from dicomweb.multipart import boundary_of

PROCESSING_FAILURE = 0x0110
# PS3.18 table I.2-1.
COERCED = 0xB000
ELEMENTS_DISCARDED = 0xB006


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance of a store request. No `failure_reason`: it is stored (or was stored already)."""

    sop_class: str | None = None
    sop_instance: str | None = None
    study: str | None = None
    series: str | None = None
    failure_reason: int | None = None
    warning_reason: int | None = None
    comment: str | None = None
    sha256: bytes | None = None  # that the sender shall know: of the file that is held; b"" where it is another one


def failed(
    error: ArchiveError,
    sop_class: str | None = None,
    sop_instance: str | None = None,
    study: str | None = None,
    series: str | None = None,
) -> Outcome:
    """The outcome of an instance that was not stored; errors without a reason of their own are processing failures."""
    reason = PROCESSING_FAILURE if error.failure_reason is None else error.failure_reason
    return Outcome(sop_class, sop_instance, study, series, failure_reason=reason, comment=error.message)


def request_boundary(content_type: str | None) -> bytes | None:
    """The boundary of a multipart/related store request; None: the body is one application/dicom file.

    UnsupportedMediaType (415) for other types and for parts other than application/dicom, BadRequest when malformed.
    """
    if not content_type:
        raise UnsupportedMediaType("a store request needs a Content-Type: multipart/related or application/dicom")
    media = parse_media_type(content_type)
    if media.essence == DICOM:
        return None
    if media.essence != "multipart/related":
        raise UnsupportedMediaType("a store request takes multipart/related or application/dicom")
    inner = media.get("type")
    if inner is not None and not is_dicom(inner):
        raise UnsupportedMediaType("a store request takes parts of type application/dicom")
    return boundary_of(media)


def part_is_dicom(headers: Mapping[str, str]) -> bool:
    """Whether a part (header names in lower case) is a DICOM file; one without Content-Type is taken for one."""
    kind = headers.get("content-type")
    return kind is None or is_dicom(kind)


def is_dicom(content_type: str) -> bool:
    """Whether a media type is application/dicom; parameters do not matter, a malformed one is not."""
    try:
        return parse_media_type(content_type).essence == DICOM
    except BadRequest:
        return False


def status(outcomes: Sequence[Outcome]) -> int:
    """200 all stored, 202 some failed or stored with warnings, 409 none stored (PS3.18 table 10.5.3-1).

    BadRequest without any outcome: the request held no instance.
    """
    if not outcomes:
        raise BadRequest("the request holds no instance")
    stored = sum(outcome.failure_reason is None for outcome in outcomes)
    if not stored:
        return 409
    return 200 if stored == len(outcomes) and all(outcome.warning_reason is None for outcome in outcomes) else 202


_Element = dict[str, Any]


def _element(vr: str, *values: object) -> _Element:
    present = [value for value in values if value not in (None, "")]
    return {"vr": vr, "Value": present} if present else {"vr": vr}


def _item(outcome: Outcome, base_url: str) -> dict[str, _Element]:
    item: dict[str, _Element] = {}
    if outcome.comment:
        item["00000902"] = _element("LO", _comment(outcome.comment))
    if outcome.sop_instance:
        item["00081150"] = _element("UI", outcome.sop_class)
        item["00081155"] = _element("UI", outcome.sop_instance)
    if outcome.failure_reason is not None:
        item["00081197"] = _element("US", outcome.failure_reason)
        return item
    item["00081190"] = _element("UR", _instance_url(outcome, base_url))
    if outcome.warning_reason is not None:
        item["00081196"] = _element("US", outcome.warning_reason)
    if outcome.sha256 is not None:
        item |= store_answer.digest_block(outcome.sha256)
    return item


def _comment(text: str) -> str:
    """ErrorComment, an LO: one line of 64 characters at most, no value separator; longer ones end with a word."""
    words = " ".join(text.replace("\\", "/").split())
    return words if len(words) <= 64 else words[:63].rsplit(" ", 1)[0] + "\u2026"


def _instance_url(outcome: Outcome, base_url: str) -> str | None:
    if not (outcome.study and outcome.series and outcome.sop_instance):
        return None
    return f"{base_url}/studies/{outcome.study}/series/{outcome.series}/instances/{outcome.sop_instance}"


def response(outcomes: Sequence[Outcome], base_url: str, study: str | None) -> tuple[int, bytes]:
    """HTTP status and the Store Instances Response Module as DICOM JSON (PS3.18 annex I).

    `base_url` is the DICOMweb root, absolute; `study` the study of the resource. Items keep the order of `outcomes`.
    A part that failed before its SOP Instance UID was known is in OtherFailuresSequence, with its number. BadRequest
    when there is no outcome.
    """
    code = status(outcomes)
    base_url = base_url.rstrip("/")
    stored = [outcome for outcome in outcomes if outcome.failure_reason is None]
    lost = [outcome for outcome in outcomes if outcome.failure_reason is not None]
    sequences = {
        "00081198": [_item(outcome, base_url) for outcome in lost if outcome.sop_instance],
        "00081199": [_item(outcome, base_url) for outcome in stored],
        "0008119A": [
            _item(replace(outcome, comment=f"part {number}: {outcome.comment or 'not stored'}"), base_url)
            for number, outcome in enumerate(outcomes, 1)
            if outcome.failure_reason is not None and not outcome.sop_instance
        ],
    }
    # One URL, so only where all that was stored is of one study (type 2: empty otherwise).
    studies = {outcome.study for outcome in stored} if stored else set()
    target = study if stored and study else next(iter(studies)) if len(studies) == 1 else None
    dataset = {"00081190": _element("UR", f"{base_url}/studies/{target}" if target else None)}
    dataset.update({tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items})
    return code, orjson.dumps(dataset)
