"""Prepared answers in memory, bounded by bytes and used only for the version that they were made from."""

from collections import OrderedDict
from collections.abc import Hashable


class AnswerCache:
    """Least recently used answers of one process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Hashable, tuple[int, tuple[bytes, ...], int]] = OrderedDict()
        self._bytes = 0

    def holds(self, key: Hashable) -> bool:
        """Whether there is an answer of any version, which makes it worth asking for the current one."""
        return key in self._entries

    def get(self, key: Hashable, version: int) -> tuple[bytes, ...] | None:
        """The answer of exactly this version."""
        entry = self._entries.get(key)
        if entry is None or entry[0] != version:
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: Hashable, version: int, answer: tuple[bytes, ...]) -> None:
        """Keep an answer unless it would take more than a quarter of the cache."""
        size = sum(map(len, answer))
        if size * 4 > self._limit:
            return
        self.drop(key)
        self._entries[key] = (version, answer, size)
        self._bytes += size
        while self._bytes > self._limit:
            _, (_, _, freed) = self._entries.popitem(last=False)
            self._bytes -= freed

    def drop(self, key: Hashable) -> None:
        """Forget an answer."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[2]
