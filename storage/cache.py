"""What a process remembers, bounded by bytes: values, and prepared answers that are used for one version only."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Least recently used values.

    `limit`: of their weights together. The last `kept` values stay, whatever they weigh.
    """

    def __init__(self, limit: int, *, kept: int = 0) -> None:
        self._limit = limit
        self._kept = kept
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._held = 0

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """The value, None when it is not held."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep a value in place of the one that was there."""
        self.drop(key)
        self._entries[key] = (value, weight)
        self._held += weight
        while self._held > self._limit and len(self._entries) > self._kept:
            _, (_, freed) = self._entries.popitem(last=False)
            self._held -= freed

    def drop(self, key: K) -> None:
        """Forget a value."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._held -= entry[1]


class AnswerCache:
    """Least recently used answers of one process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._answers: Cache[Hashable, tuple[int, tuple[bytes, ...]]] = Cache(limit)

    def holds(self, key: Hashable) -> bool:
        """Whether there is an answer of any version, which makes it worth asking for the current one."""
        return key in self._answers

    def get(self, key: Hashable, version: int) -> tuple[bytes, ...] | None:
        """The answer of exactly this version."""
        held = self._answers.get(key)
        return held[1] if held is not None and held[0] == version else None

    def put(self, key: Hashable, version: int, answer: tuple[bytes, ...]) -> None:
        """Keep an answer unless it would take more than a quarter of the cache."""
        size = sum(map(len, answer))
        if size * 4 <= self._limit:
            self._answers.put(key, (version, answer), size)

    def drop(self, key: Hashable) -> None:
        """Forget an answer."""
        self._answers.drop(key)
