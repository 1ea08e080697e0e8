"""Buckets of transfers: what is planned, and what is announced."""

from typing import Any

import pytest

from dicomweb.errors import BadRequest, TooLarge
from dicomweb.transfers import MAX_INSTANCES, Member, Plan, planned, read_members, read_plan

MIB = 1 << 20


def member(number: int, size: int) -> Member:
    digits = f"{number:040x}"
    return Member("-".join(digits[at : at + 8] for at in range(0, 40, 8)), size, bytes(16))


A, B = member(1, 10), member(2, 20)


def test_small_files_share_and_large_ones_are_divided() -> None:
    members = [member(n, size) for n, size in enumerate([100, 3 * MIB, MIB, 5 * MIB, 8 * MIB, 20 * MIB + 1, 7])]
    plan = planned(members)
    sizes = [sum(size for _, _, size in bucket) for bucket in plan.buckets]
    assert sum(sizes) == plan.size == sum(each.size for each in members)
    assert max(sizes) <= 8 * MIB
    assert [len(bucket) for bucket in plan.buckets].count(3) == 1  # 100 bytes, 3 MiB and 1 MiB
    assert [len(places) for places in plan.places()] == [1, 1, 1, 1, 1, 3, 1]
    again = read_plan(plan.shown("none"))
    assert (list(again.members), again.places()) == (members, plan.places())


def test_no_bucket_names_very_many() -> None:
    plan = planned([member(n, 10) for n in range(1000)])
    assert {len(bucket) for bucket in plan.buckets} == {40}
    assert planned([]).buckets == []


@pytest.mark.parametrize(
    "buckets",
    [
        [],
        [[(A.id, 0, 10)]],  # B is nowhere
        [[(A.id, 0, 10), (B.id, 0, 19)]],  # the last byte is missing
        [[(A.id, 0, 10), (B.id, 0, 10)], [(B.id, 11, 9)]],  # a gap
        [[(A.id, 0, 10), (B.id, 0, 11)], [(B.id, 10, 10)]],  # one byte twice
        [[(A.id, 0, 10), (B.id, 0, 20), (B.id, 0, 20)]],
        [[(A.id, 0, 10), (B.id, 0, 21)]],
        [[(A.id, 0, 10), (B.id, 0, 20), (member(3, 1).id, 0, 1)]],
    ],
)
def test_buckets_hold_every_byte_once(buckets: list[list[tuple[str, int, int]]]) -> None:
    with pytest.raises(BadRequest, match="bucket"):
        Plan([A, B], buckets).places()
    assert Plan([A, B], [[(B.id, 5, 15), (A.id, 0, 10)], [(B.id, 0, 5)]]).places() == [
        [(0, 15, 10)],
        [(1, 0, 5), (0, 0, 15)],
    ]


GOOD: dict[str, Any] = {"ID": A.id, "Size": "10", "MD5": "0" * 32}


@pytest.mark.parametrize(
    ("given", "attribute"),
    [
        (None, "Instances"), ({}, "Instances"), (["x"], "Instances"), ([GOOD, GOOD], "Instances"),
        ([GOOD | {"ID": "../x"}], "ID"), ([GOOD | {"ID": 7}], "ID"), ([GOOD | {"Size": 10}], "Size"),
        ([GOOD | {"Size": "0"}], "Size"), ([GOOD | {"Size": "-1"}], "Size"), ([GOOD | {"Size": "9" * 40}], "Size"),
        ([GOOD | {"Size": "٣"}], "Size"), ([GOOD | {"MD5": "0"}], "MD5"), ([{"ID": A.id, "Size": "10"}], "MD5"),
    ],
)  # fmt: skip
def test_instances_that_are_none(given: Any, attribute: str) -> None:
    with pytest.raises(BadRequest) as error:
        read_members(given)
    assert error.value.attribute == attribute


def test_buckets_that_are_none() -> None:
    piece = {"ID": A.id, "Offset": "0", "Size": "10"}
    for buckets in (None, {}, [piece], [[]], [[{}]], [[piece | {"Offset": "-1"}]], [[piece | {"Size": "0"}]]):
        with pytest.raises(BadRequest):
            read_plan({"Instances": [GOOD], "Buckets": buckets})
    assert read_plan({"Instances": [GOOD], "Buckets": [[piece]]}).places() == [[(0, 0, 10)]]


def test_too_many_instances() -> None:
    with pytest.raises(TooLarge):
        read_members([GOOD] * (MAX_INSTANCES + 1))
