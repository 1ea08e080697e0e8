"""Frame lists, bulk data paths, ranges and conditional requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.errors import BadRequest, NotFound, RangeNotSatisfiable, TooLarge
from dicomweb.wado import (
    content_range,
    etag,
    etag_matches,
    parse_bulk_path,
    parse_frame_list,
    parse_range,
    range_applies,
)


def test_frame_lists_keep_order_and_repeats() -> None:
    assert parse_frame_list("1") == (1,)
    assert parse_frame_list("3,1,2,1") == (3, 1, 2, 1)
    assert parse_frame_list("1, 2") == (1, 2)
    assert parse_frame_list("2147483647") == (2_147_483_647,)


@pytest.mark.parametrize("text", ["", "0", "-1", "1,", ",1", "1-3", "a", "1.0", "+1", "²", "000", "1,,2"])
def test_bad_frame_lists(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_frame_list(text)


def test_frame_list_limit() -> None:
    assert len(parse_frame_list(",".join(["7"] * 1000))) == 1000
    with pytest.raises(TooLarge, match="1000"):
        parse_frame_list(",".join(["7"] * 1001))
    with pytest.raises(TooLarge):
        parse_frame_list("," * 1_000_000)
    assert parse_frame_list("1,2", limit=2) == (1, 2)
    with pytest.raises(TooLarge):
        parse_frame_list("1,2,3", limit=2)


def test_bulk_paths() -> None:
    assert parse_bulk_path("7fe00010") == "7FE00010"
    assert parse_bulk_path("00480105/0/00282000") == "00480105/0/00282000"
    for text in (
        "",
        "7FE0001",
        "00480105/00282000",
        "00480105/0",
        "../7FE00010",
        "00480105/0/",
        "00480105/-1/00282000",
    ):
        with pytest.raises(BadRequest):
            parse_bulk_path(text)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=0-65535", (0, 100)),
        ("Bytes = 10-", (10, 90)),
        ("bytes=-10", (90, 10)),
        ("bytes=-1000", (0, 100)),
        ("bytes=99-99", (99, 1)),
        ("bytes=0-0,5-6", None),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes", None),
        ("bytes=a-b", None),
        ("bytes=0x1-2", None),
        ("bytes=--5", None),
        ("items=0-1", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=" + ",".join(["0-1"] * 9), "bytes=" + "1-2," * 10_000]
)
def test_unsatisfiable_ranges(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(header, 100)
    assert caught.value.size == 100


def test_an_empty_resource_has_no_range() -> None:
    for header in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        with pytest.raises(RangeNotSatisfiable):
            parse_range(header, 0)


@settings(deadline=None)
@given(st.text(alphabet="bytes=0123456789-, ", max_size=30).map(lambda text: "bytes=" + text), st.integers(0, 10**6))
def test_any_range_is_inside(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except RangeNotSatisfiable:
        return
    if found is not None:
        offset, length = found
        assert 0 <= offset < offset + length <= size


def test_content_range() -> None:
    assert content_range(10, 5, 100) == "bytes 10-14/100"


def test_etags() -> None:
    tag = etag("a1", "frames", "1,2", "image/jls")
    assert tag.startswith('"')
    assert tag.endswith('"')
    assert tag == etag("a1", "frames", "1,2", "image/jls")
    assert tag != etag("a1", "frames", "1", "2,image/jls")
    assert tag != etag("a1", "frames1", ",2", "image/jls")


def test_if_none_match() -> None:
    tag = etag("v")
    assert not etag_matches(None, tag)
    assert not etag_matches("", tag)
    assert not etag_matches('"other", W/"x"', tag)
    assert not etag_matches(tag.strip('"'), tag)
    assert etag_matches(tag, tag)
    assert etag_matches(f'"other, {tag[1:-1]}", W/{tag}', tag)
    assert etag_matches(f'"o",{tag}', f"W/{tag}")
    assert etag_matches(" * ", tag)
    assert not etag_matches('"' * 10_001, tag)


def test_if_range() -> None:
    tag = etag("v")
    assert range_applies(None, tag)
    assert range_applies(f" {tag}", tag)
    assert not range_applies(f"W/{tag}", f"W/{tag}")
    assert not range_applies(f"W/{tag}", tag)
    assert not range_applies("Wed, 21 Oct 2015 07:28:00 GMT", tag)


@pytest.mark.parametrize("text", ["2147483648", "1,99999999999999999999", "1" * 5000])
def test_frame_numbers_that_no_instance_has(text: str) -> None:
    with pytest.raises(NotFound):
        parse_frame_list(text)
