"""Dates and times in queries, and that text comparison with the bounds is comparison of moments."""

from datetime import date, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.temporal import Period, period


@pytest.mark.parametrize(
    ("vr", "text", "low", "high"),
    [
        ("DA", "20240229", "20240229", "20240229"),
        ("DA", "2024.02.29", "20240229", "20240229"),
        ("DA", "20240101-20241231", "20240101", "20241231"),
        ("DA", "20240101 - 20241231", "20240101", "20241231"),
        ("DA", "20240101-", "20240101", ""),
        ("DA", "-20240101", "", "20240101"),
        ("DA", "-", "", ""),
        ("TM", "10", "10", "105960.999999"),
        ("TM", "1030", "1030", "103060.999999"),
        ("TM", "103000", "1030", "103000.999999"),
        ("TM", "10:30:15.5", "103015.5", "103015.500000"),
        ("TM", "000000.000000", "00", "000000.000000"),
        ("TM", "100000.250000", "100000.25", "100000.250000"),
        ("TM", "0800-1200", "08", "120060.999999"),
        ("TM", "-1200", "", "120060.999999"),
        ("TM", "235960", "235960", "235960.999999"),
        ("DT", "2024", "2024", "20241231235960.999999"),
        ("DT", "202402", "202402", "20240231235960.999999"),
        ("DT", "20240101", "2024", "20240101235960.999999"),
        ("DT", "20240229103015.123456", "20240229103015.123456", "20240229103015.123456"),
        ("DT", "20240101-20240201", "2024", "20240201235960.999999"),
        ("DT", "2023-2024", "2023", "20241231235960.999999"),
        ("DT", "20240102-", "20240102", ""),
        ("DT", "-20240102", "", "20240102235960.999999"),
        ("DT", "-", "", ""),
    ],
)
def test_periods(vr: str, text: str, low: str, high: str) -> None:
    assert period(vr, text) == Period(low, high)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("20240102120000+0100", "2024010212", "20240102120000.999999"),
        ("20240102120000-0500", "2024010212", "20240102120000.999999"),
        ("20240102-0500-20240103-0500", "20240102", "20240103235960.999999"),
        ("20240102-0500-20240103", "20240102", "20240103235960.999999"),
        ("20240102-20240103+1400", "20240102", "20240103235960.999999"),
        ("20240102+0100-", "20240102", ""),
        ("-20240102-0100", "", "20240102235960.999999"),
    ],
)
def test_offsets_are_recognised_and_reported(text: str, low: str, high: str) -> None:
    assert period("DT", text) == Period(low, high, offset=True)


_MALFORMED = {
    "DA": "2024 20230229 20241301 00000000 20240102-20240101 2024-01-02 20240101-x 2024* --",
    "TM": "24 1060 103061 1 10300 103000. 103000.1234567 1200-0800 10+0100 --",
    "DT": "20 20241301 20230229 2024010124 20240101+1500 20240101-1300 2024-2023 20240101.5 2024-2025-2026 -- "
    "20240101+0160",
}


@pytest.mark.parametrize(("vr", "text"), [(vr, text) for vr, texts in _MALFORMED.items() for text in texts.split()])
def test_malformed(vr: str, text: str) -> None:
    assert period(vr, text) is None


@settings(deadline=None)
@given(st.sampled_from(["DA", "TM", "DT"]), st.text(alphabet="0123456789-+.: ", max_size=60))
def test_any_text(vr: str, text: str) -> None:
    found = period(vr, text)
    assert found is None or not found.low or not found.high or found.low <= found.high


def _written(moment: time, precision: int) -> str:
    text = moment.strftime("%H%M%S") + f".{moment.microsecond:06}"
    return text[: (2, 4, 6, 8, 13)[precision]]


@settings(deadline=None)
@given(st.times(), st.integers(0, 4), st.times(), st.integers(0, 4))
def test_times_compare_as_moments(stored: time, stored_precision: int, asked: time, asked_precision: int) -> None:
    """A stored time is inside a query's period when its first moment is."""
    text, query = _written(stored, stored_precision), _written(asked, asked_precision)
    found = period("TM", query)
    assert found is not None

    def first(written: str) -> timedelta:
        full = written[:6].ljust(6, "0") + "." + written[7:].ljust(6, "0")
        moment = datetime.strptime(full, "%H%M%S.%f")  # noqa: DTZ007
        return timedelta(
            hours=moment.hour, minutes=moment.minute, seconds=moment.second, microseconds=moment.microsecond
        )

    size = (timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1), timedelta(), timedelta())[asked_precision]
    start, end = first(query), first(query) + max(size, timedelta(microseconds=1))
    if asked_precision == 3:  # one digit of the fraction is that very moment, not a tenth of a second
        end = start + timedelta(microseconds=1)
    assert (found.low <= text <= found.high) == (start <= first(text) < end)


@settings(deadline=None)
@given(st.dates(date(1000, 1, 1)), st.dates(date(1000, 1, 1)))
def test_dates_compare_as_days(one: date, other: date) -> None:
    found = period("DA", f"{min(one, other):%Y%m%d}-{max(one, other):%Y%m%d}")
    assert found == Period(f"{min(one, other):%Y%m%d}", f"{max(one, other):%Y%m%d}")
    both = period("DT", f"{min(one, other):%Y%m%d}-{max(one, other):%Y%m%d}")
    assert both is not None
    assert both.low <= f"{one:%Y%m%d}120000" <= both.high
