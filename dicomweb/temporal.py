"""Dates and times in queries (PS3.4 C.2.2.2.1, C.2.2.2.5; PS3.5 6.2): validated and made comparable as text.

Bounds are text for a byte-wise comparison (COLLATE "C") with stored values of any precision. The lower bound is cut
to its shortest form ("103000" -> "1030", so that a stored "1030" is not below it), the upper one filled up to its
last moment ("1030" -> "103060.999999"). A date or time without its last components stands for the whole of what it
names.
"""

import re
from dataclasses import dataclass
from datetime import date

_DA = re.compile(r"(\d{4})(\d{2})(\d{2})|(\d{4})\.(\d{2})\.(\d{2})", re.ASCII)
_TM = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?", re.ASCII)
_DT = re.compile(
    r"(\d{4})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:\.(\d{1,6}))?)?)?)?)?)?([+-]\d{4})?", re.ASCII
)
# Each component's first and last value; the second 60 is the leap second.
_FIRST = ("01", "01", "00", "00", "00")
_LAST = ("12", "31", "23", "59", "60")


@dataclass(frozen=True, slots=True)
class Period:
    """A closed interval of text; "" where it is open. `offset`: an offset from UTC was given (and is not applied)."""

    low: str
    high: str
    offset: bool = False


def period(vr: str, text: str, *, ordered: bool = True) -> Period | None:
    """The interval that `text` asks for: `a`, `a-b`, `a-`, `-b`; `-` alone is open at both ends. None: malformed.

    A DA gives eight digits at both ends. `vr` is DA, TM or DT. With `ordered` the end of a DA or TM range does not come
    before its beginning.
    """
    text = text.replace(" ", "")
    if vr == "DT":
        return _dt_period(text)
    single = _da if vr == "DA" else _tm
    low, hyphen, high = text.partition("-")
    if not hyphen:
        return single(low)
    return _join(single(low) if low else Period("", ""), single(high) if high else Period("", ""), ordered=ordered)


def _join(low: Period | None, high: Period | None, *, ordered: bool = True) -> Period | None:
    if low is None or high is None or (ordered and low.low and high.high and low.low > high.high):
        return None
    return Period(low.low, high.high, low.offset or high.offset)


def _da(text: str) -> Period | None:
    match = _DA.fullmatch(text)
    if match is None:
        return None
    year, month, day = (part for part in match.groups() if part is not None)
    if not _is_day(year, month, day):
        return None
    return Period(year + month + day, year + month + day)


def _is_day(year: str, month: str, day: str) -> bool:
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return False
    return True


def _is_time(hour: str | None, minute: str | None, second: str | None) -> bool:
    return (hour or "00") < "24" and (minute or "00") < "60" and (second or "00") <= "60"


def _tm(text: str) -> Period | None:
    match = _TM.fullmatch(text)
    if match is None:
        return None
    hour, minute, second, fraction = match.groups()
    if not _is_time(hour, minute, second):
        return None
    return _bounds((hour, minute, second), fraction, _FIRST[2:], _LAST[2:], keep=1)


def _bounds(
    given: tuple[str | None, ...], fraction: str | None, first: tuple[str, ...], last: tuple[str, ...], keep: int
) -> Period:
    """Shortest text of the first moment and longest of the last one; `keep` components are never cut."""
    parts = [part if part is not None else start for part, start in zip(given, first, strict=True)]
    digits = (fraction or "").rstrip("0")
    if digits:
        low = "".join(parts) + "." + digits
    else:
        while len(parts) > keep and parts[-1] == first[len(parts) - 1]:
            parts.pop()
        low = "".join(parts)
    high = "".join(part if part is not None else end for part, end in zip(given, last, strict=True))
    return Period(low, f"{high}.{'999999' if fraction is None else fraction.ljust(6, '0')}")


def _dt(text: str) -> Period | None:
    match = _DT.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if not _is_day(year, month or "01", day or "01") or not _is_time(hour, minute, second):
        return None
    if offset and not (-1200 <= int(offset) <= 1400 and offset[3:] < "60"):
        return None
    found = _bounds((year, month, day, hour, minute, second), fraction, ("", *_FIRST), ("", *_LAST), keep=1)
    return Period(found.low, found.high, offset is not None)


def _dt_period(text: str) -> Period | None:
    """A hyphen separates a range or begins a negative offset: an offset wins where it is one (-1200 to -0000)."""
    if text == "-":
        return Period("", "")
    if text.startswith("-"):
        return _join(Period("", ""), _dt(text[1:]))
    if text.endswith("-"):
        return _join(_dt(text[:-1]), Period("", ""))
    alone = _dt(text)
    if alone is not None:
        return alone
    for match in re.finditer("-", text[:64]):
        low, high = _dt(text[: match.start()]), _dt(text[match.end() :])
        if low is not None and high is not None:
            return _join(low, high)
    return None
