"""Values that stand in for others: dummies, shifted dates, mapped UIDs."""

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

from dicomweb.edit.encoding import Value

# PS3.15 E.1.1: a dummy is of non-zero length and consistent with the VR.
_DUMMIES: Final = {
    "AE": "ANONYMIZED", "AS": "000Y", "AT": "00000000", "CS": "ANONYMIZED", "DA": "19000101", "DS": "0",
    "DT": "19000101000000", "FD": "0", "FL": "0", "IS": "0", "LO": "Anonymized", "LT": "Anonymized",
    "PN": "Anonymized", "SH": "Anonymized", "SL": "0", "SS": "0", "ST": "Anonymized", "SV": "0", "TM": "000000",
    "UC": "Anonymized", "UL": "0", "UR": "urn:anonymized", "US": "0", "UT": "Anonymized", "UV": "0",
}  # fmt: skip
_BINARY: Final = b"\0\0\0\0\0\0\0\0"
_DATE: Final = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})", re.ASCII)
_DATE_TIME: Final = re.compile(
    r"([0-9]{4})([0-9]{2})?([0-9]{2})?([0-9]{0,6}(?:\.[0-9]{1,6})?(?:[+-][0-9]{4})?)", re.ASCII
)
_TIME: Final = re.compile(r"[0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2}(?:\.[0-9]{1,6})?)?)?", re.ASCII)
_OFFSET: Final = re.compile(r"[+-][0-9]{4}", re.ASCII)
# UIDs that the standard itself registers mean the same for everybody (PS3.6 Annex A).
STANDARD_ROOT: Final = "1.2.840.10008."
_MAX_VALUES: Final = 65536


def dummy(vr: str, raw: bytes, uid: Callable[[str], str]) -> Value:
    """A value that says nothing; of as many numbers as there were, so that what counts them stays right."""
    if vr == "UI":
        return mapped(raw, uid) if raw.strip(b" \0") else Value("UI", (uid(""),))
    text = _DUMMIES.get(vr)
    if text is None:
        return Value(vr, data=bytes(len(raw)) if vr in {"OF", "OD", "OL", "OV"} and raw else _BINARY)
    size = {"FL": 4, "FD": 8}.get(vr)
    count = raw.count(b"\\") + 1 if vr in {"DS", "IS"} else len(raw) // size if size else 1
    return Value(vr, (text,) * min(max(count, 1), _MAX_VALUES))


def mapped(raw: bytes, uid: Callable[[str], str]) -> Value:
    """UIDs, each mapped; what the standard registers stays."""
    values = [text.strip() for text in raw.decode("latin-1").rstrip(" \0").split("\\")]
    return Value("UI", tuple(text if text.startswith(STANDARD_ROOT) or not text else uid(text) for text in values))


def shifted(vr: str, raw: bytes, days: int) -> Value | None:
    """Dates so many days later (or, negative, earlier); None when they are not what the VR says.

    Times of day and offsets from UTC stay: the distances within a day are what is measured.
    """
    move = {"DA": _shifted_date, "DT": _shifted_date_time, "TM": _time, "SH": _offset}.get(vr)
    if move is None:
        return None
    found = [move(text.strip(" \0"), days) for text in raw.decode("latin-1").split("\\")]
    return None if None in found else Value(vr, tuple(text for text in found if text is not None))


def _time(text: str, days: int) -> str | None:  # noqa: ARG001
    return text if not text or _TIME.fullmatch(text) else None


def _offset(text: str, days: int) -> str | None:  # noqa: ARG001
    return text if not text or _OFFSET.fullmatch(text) else None


def _shifted_date(text: str, days: int) -> str | None:
    if not text:
        return ""
    match = _DATE.fullmatch(text)
    return None if match is None else _moved(match[1], match[2], match[3], days)


def _shifted_date_time(text: str, days: int) -> str | None:
    """The date of a DT keeps its precision: of a year alone only the year is known."""
    if not text:
        return ""
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, rest = match.groups()
    found = _moved(year, month or "07", day or "01", days)
    if found is None:
        return None
    return found[: len(text) - len(rest)] + rest


def _moved(year: str, month: str, day: str, days: int) -> str | None:
    try:
        moved = date(int(year), int(month), int(day)) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"
