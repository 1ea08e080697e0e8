"""Files that are begun while earlier ones are sent: order, bounds, faults and what is left when nobody reads on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from dicomweb.errors import BadPixels, Unavailable
from storage.ahead import begun_ahead

MIB = bytes(1 << 20)


class Kitchen:
    """Makes files of so many MiB, and knows how many are open, and how much was made of each."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.most = 0
        self.made: dict[int, int] = {}

    async def file(self, number: int, size: int, fault: Exception | None = None) -> AsyncGenerator[bytes, None]:
        self.open.add(number)
        self.most = max(self.most, len(self.open))
        try:
            for _ in range(size):
                await asyncio.sleep(0)
                self.made[number] = self.made.get(number, 0) + 1
                yield bytes([number]) + MIB[1:]
            if fault is not None:
                raise fault
        finally:
            self.open.discard(number)


async def test_files_come_whole_in_their_order_and_few_are_begun() -> None:
    kitchen = Kitchen()
    sizes = [1, 20, 0, 3, 20, 1]
    async with aclosing(begun_ahead((kitchen.file(n, size) for n, size in enumerate(sizes)), 3)) as ahead:
        found = []
        async for begun in ahead:
            found.append([chunk[0] async for chunk in begun.chunks()])
            await asyncio.sleep(0.01)
            assert len(kitchen.open) <= 4
    assert found == [[n] * size for n, size in enumerate(sizes)]
    assert kitchen.most > 1
    assert not kitchen.open


async def test_a_large_file_waits_for_its_turn_and_a_skipped_one_is_closed() -> None:
    kitchen = Kitchen()
    async with aclosing(begun_ahead((kitchen.file(n, 50) for n in range(9)), 2)) as ahead:
        await anext(ahead)
        await asyncio.sleep(0.05)
        assert kitchen.made == {0: 5, 1: 5, 2: 5}
        await anext(ahead)  # nobody read the first
        assert 0 not in kitchen.open
    assert not kitchen.open


async def test_a_fault_costs_its_own_file() -> None:
    kitchen = Kitchen()
    faults = {1: BadPixels("broken"), 2: None, 3: BadPixels("late")}
    files = (kitchen.file(n, 8 if n == 3 else 2, faults.get(n)) for n in range(4))
    seen = []
    async with aclosing(begun_ahead(files, 2)) as ahead:
        async for begun in ahead:
            seen.append(None if begun.fault is None else begun.fault.message)
            assert (begun.held == ()) == (begun.fault is not None)
    assert seen == [None, "broken", None, None]  # the last one breaks where it has been begun already
    assert not kitchen.open


async def test_what_is_no_fault_of_the_file_ends_everything() -> None:
    kitchen = Kitchen()
    files = (kitchen.file(n, 6, Unavailable("down") if n == 0 else None) for n in range(9))
    ahead = begun_ahead(files, 4)
    begun = await anext(ahead)
    try:
        async for _ in begun.chunks():
            pass
    except Unavailable:
        await ahead.aclose()
    assert not kitchen.open
