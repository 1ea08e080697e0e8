"""What worklist items and performed procedure steps have in common: checks of values in the DICOM JSON Model."""

import re
from collections.abc import Iterable
from typing import Final

from dicomweb import tags
from dicomweb.errors import WorkitemConflict, WorkitemRefused
from dicomweb.fold import fold_name
from dicomweb.temporal import period
from dicomweb.uids import is_uid
from dicomweb.ups_model import Dataset, text

# PS3.7 annex C.
NO_SUCH_ATTRIBUTE: Final = 0x0105
INVALID_VALUE: Final = 0x0106
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_INSTANCE: Final = 0x0111
NO_SUCH_INSTANCE: Final = 0x0112
MISSING_ATTRIBUTE: Final = 0x0120
MISSING_VALUE: Final = 0x0121

# What an index takes: PS3.5 6.2 gives 64 characters to all of these and to each component group of a name.
_LONGEST: Final = {"AE": 16, "CS": 16, "SH": 64, "LO": 64, "UI": 64}
_LONGEST_NAME = 2000  # bytes, folded
_DATE = re.compile(r"\d{8}", re.ASCII)
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?", re.ASCII)


def refusal(tag: str, problem: str, reason: int = INVALID_VALUE) -> WorkitemRefused:
    """The error for an attribute that is missing or wrong."""
    return WorkitemRefused(f"{tags.keyword_of(tag) or tag} {problem}", attribute=tag, failure_reason=reason)


def conflict(tag: str, problem: str, reason: int) -> WorkitemConflict:
    """The error for an attribute that does not fit what is stored."""
    return WorkitemConflict(f"{tags.keyword_of(tag) or tag} {problem}", attribute=tag, failure_reason=reason)


def check_text(dataset: Dataset, *names: str) -> None:
    """Raise WorkitemRefused unless each first value is text that fits its VR; absent and empty values do."""
    for tag in names:
        element = dataset.get(tag)
        if element is None:
            continue
        vr = tags.vr_of(tag)
        for value in element.get("Value", ()):
            if value is not None and not isinstance(value, str):
                raise refusal(tag, "has a value that is not text")
            found = (value or "").strip()
            if found and not _fits(vr, found):
                raise refusal(tag, f"has a value that does not fit its VR, {vr}")


def _fits(vr: str, value: str) -> bool:
    match vr:
        case "UI":
            return is_uid(value)
        case "DA":
            return _DATE.fullmatch(value) is not None and period("DA", value) is not None
        case "TM":
            return _TIME.fullmatch(value) is not None and period("TM", value) is not None
        case _:
            return len(value) <= _LONGEST.get(vr, 1024) and "\\" not in value


def folded_name(dataset: Dataset, tag: str) -> str:
    """A person name as it is compared: all its groups, folded. Raises WorkitemRefused for one that is no name."""
    values = dataset.get(tag, {}).get("Value") or [None]
    if values[0] is None:
        return ""
    if not isinstance(values[0], dict):
        raise refusal(tag, "is not a person name: an object with Alphabetic, Ideographic, Phonetic")
    groups = (values[0].get(name, "") for name in ("Alphabetic", "Ideographic", "Phonetic"))
    folded = fold_name("=".join(groups))
    if len(folded.encode()) > _LONGEST_NAME:
        raise refusal(tag, "is too long")
    return folded


def trimmed(dataset: Dataset, names: Iterable[str]) -> Dataset:
    """The attributes without padding around their texts: what is compared is what is stored."""
    found: Dataset = {}
    for tag in names:
        values = dataset.get(tag, {}).get("Value")
        if values and all(isinstance(value, str) for value in values):
            found[tag] = dataset[tag] | {"Value": [value.strip() for value in values]}
    return found


def texts(dataset: Dataset, tag: str) -> list[str]:
    """All values as text without padding, empty ones left out."""
    values = dataset.get(tag, {}).get("Value") or ()
    return [value.strip() for value in values if isinstance(value, str) and value.strip()]


def date_of(dataset: Dataset, date: str, time: str) -> str:
    """Date and time as one text in the form of a DT."""
    return text(dataset, date) + text(dataset, time) if text(dataset, date) else ""
