"""What a scan noticed and went on from: the warnings of an instance."""

from typing import Final

_KEPT: Final = 64


class Notes:
    """A bounded set of texts; `count` counts every addition, so that one can tell whether something was noted."""

    __slots__ = ("count", "texts")

    def __init__(self) -> None:
        self.count = 0
        self.texts: set[str] = set()

    def add(self, text: str) -> None:
        """Note `text`, once; beyond 64 different ones only the count goes on."""
        self.count += 1
        if len(self.texts) < _KEPT:
            self.texts.add(text)
