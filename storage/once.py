"""Work that several ask for at the same time and one does."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """What is being made, by its key. Nothing is remembered: that is the caller's cache."""

    def __init__(self) -> None:
        self._making: dict[K, asyncio.Task[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._making

    def __len__(self) -> int:
        """How many are being made."""
        return len(self._making)

    async def do(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """What `make` gives, or what another one's does who came earlier. A caller that leaves does not stop it."""
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.ensure_future(make())
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    def _done(self, key: K, task: asyncio.Task[V]) -> None:
        del self._making[key]
        if not task.cancelled():
            task.exception()  # whoever asked may have gone
