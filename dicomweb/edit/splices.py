"""An edit as a list of splices: what of a source is replaced by what. Whatever no splice touches is never copied."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from dicomweb.structure import Buffer

# A run of untouched bytes from here on is handed out as a range of the source; shorter ones are copied.
_RANGE: Final = 64 * 1024
# Copied and new bytes are handed out together, in pieces of about this size.
_PIECE: Final = 256 * 1024


class Extent(NamedTuple):
    """Bytes of the source that are taken over as they are."""

    offset: int
    length: int


Segment = bytes | Extent


class Splice(NamedTuple):
    """`data` in place of the source's bytes from `start` up to `stop`; both are equal where something is inserted."""

    start: int
    stop: int
    data: bytes


class Splices:
    """Splices that wait to be handed out, and how far the source has been handed out."""

    __slots__ = ("_buffer", "_done", "_waiting")

    def __init__(self, buffer: Buffer, done: int) -> None:
        self._buffer = buffer
        self._done = done
        self._waiting: list[Splice] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, start: int, stop: int, data: bytes) -> int:
        """Add a splice; by how many bytes it makes the output longer than the source."""
        self._waiting.append(Splice(start, stop, data))
        return len(data) - (stop - start)

    def segments(self, prefix: bytes = b"", *, end: int | None = None) -> Iterator[Segment]:
        """`prefix` and everything up to the last splice, or up to `end` of the source.

        Splices are sorted by where they start: the length of a sequence is known after what is in it. Those that start
        at the same byte stay in the order in which they came.
        """
        buffer, done = self._buffer, self._done
        waiting, self._waiting = self._waiting, []
        waiting.sort(key=lambda splice: splice.start)
        if end is not None:
            waiting.append(Splice(end, end, b""))
        parts = [prefix]
        size = len(prefix)
        for start, stop, data in waiting:
            run = start - done
            if run >= _RANGE or size >= _PIECE:
                if size:
                    yield b"".join(parts)
                parts, size = [], 0
            if run >= _RANGE:
                yield Extent(done, run)
            elif run:
                parts.append(bytes(buffer[done:start]))
                size += run
            parts.append(data)
            size += len(data)
            done = stop
        self._done = done
        if size:
            yield b"".join(parts)
