"""One piece of work for each of many items, a few at once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def side_by_side(work: Callable[[T], Awaitable[None]], items: Sequence[T], at_once: int) -> None:
    """Run `work` for each item, `at_once` of them at a time, begun in order; the first error ends all and is raised."""
    queue = iter(items)

    async def take() -> None:
        for item in queue:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(take())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
