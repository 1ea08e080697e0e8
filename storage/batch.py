"""Group commit: items that wait together are flushed together, one flush at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# A transaction costs PostgreSQL and us about a millisecond whatever it holds. With eight clients and small instances on
# two workers this pause saves a quarter of all CPU time; longer ones save no more, and the clients wait.
_LINGER_S = 0.0005
_LINGER_STEPS = 2


class Batcher(Generic[T, R]):
    """Collects items from many tasks and hands them to `flush` in groups.

    While one flush runs, later items wait. An item alone is flushed at once, so that an idle archive adds no delay;
    while `expected` says that more are on their way, it lingers for them. Items with the same `key` never share a
    group. `flush` answers one result per item; what it raises, every caller of the group gets.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        limit: int,
        key: Callable[[T], Hashable],
        expected: Callable[[], int],
    ) -> None:
        self._flush = flush
        self._limit = limit
        self._key = key
        self._expected = expected
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Wait until `item` was flushed. A cancelled caller does not stop the flush."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await future

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        taken: list[tuple[T, asyncio.Future[R]]] = []
        left: list[tuple[T, asyncio.Future[R]]] = []
        keys: set[Hashable] = set()
        for entry in self._waiting:
            key = self._key(entry[0])
            if len(taken) < self._limit and key not in keys:
                keys.add(key)
                taken.append(entry)
            else:
                left.append(entry)
        self._waiting = left
        return taken

    async def _linger(self) -> None:
        for _ in range(_LINGER_STEPS):
            if len(self._waiting) >= min(self._expected(), self._limit):
                break
            await asyncio.sleep(_LINGER_S)

    async def _run(self) -> None:
        try:
            # At least one turn of the loop, so that what became ready together is flushed together.
            await asyncio.sleep(0)
            await self._linger()
            while self._waiting:
                group = self._take()
                # A caller that was cancelled has a future that is done.
                try:
                    results = await self._flush([item for item, _ in group])
                except BaseException as error:  # noqa: BLE001 - the error belongs to the callers, who wait for exactly this
                    for _, future in group:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, future), result in zip(group, results, strict=True):
                        if not future.done():
                            future.set_result(result)
        finally:
            self._runner = None
