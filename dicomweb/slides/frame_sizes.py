"""Frames of a slide whose JPEG streams have another size than Rows and Columns say: found while the file is at hand.

A tile is checked again when it is sent; this is for who looks at a slide, and wants to know before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicomweb.errors import BadPixels
from dicomweb.frames import FrameTable
from dicomweb.pixels.codestream import jpeg_markers
from dicomweb.pixels.syntaxes import SYNTAXES
from dicomweb.structure import Buffer

_FAMILIES: Final = frozenset(("jpeg", "jpeg-lossless", "jpeg-ls"))
# Frames that are named.
_NAMED: Final = 5
# The start of a frame, in which nearly all have their start of frame segment, and where all must have it.
_START: Final = 4096
_LONGEST: Final = 1 << 18
_HEADS: Final = 8


@dataclass(frozen=True, slots=True)
class OtherSizes:
    """How many frames have another size; `first`: (number from 1, rows, columns) of some, 0 x 0 for what is no JPEG."""

    count: int
    first: tuple[tuple[int, int, int], ...]

    def as_json(self) -> dict[str, Any]:
        """For the index."""
        return {"count": self.count, "first": self.first}

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> "OtherSizes":
        """The inverse of `as_json`."""
        return cls(held["count"], tuple((number, rows, columns) for number, rows, columns in held["first"]))

    def told(self, rows: int, columns: int) -> str:
        """For who reads of the slide's problems; `rows`, `columns`: what the attributes say."""
        named = ", ".join(
            f"{number} ({f'{height} x {width}' if height and width else 'no JPEG'})"
            for number, height, width in self.first
        )
        more = f", and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return f"frames have another size than Rows and Columns say, {rows} x {columns}: {named}{more}"


def other_sizes(buffer: Buffer, syntax: str, frames: FrameTable, rows: int, columns: int) -> OtherSizes | None:
    """Frames of another size than `rows` x `columns` in a file; None where there are none, and for other formats.

    Linear in the number of frames: of each, as much is looked at as is needed to tell its size.
    """
    if syntax not in SYNTAXES or SYNTAXES[syntax].family not in _FAMILIES:
        return None
    count, first = 0, list[tuple[int, int, int]]()
    # Encoders write the same segments in front of every frame: those that were looked at are only compared.
    heads: list[tuple[bytes, tuple[int, int]]] = []
    for number in range(frames.count):
        offset = frames.locate(number)[0][0]
        size = next((size for head, size in heads if buffer[offset : offset + len(head)] == head), None)
        if size is None:
            size, head = _size(buffer, frames, number)
            if head:
                heads = [(head, size), *heads[: _HEADS - 1]]
        if size != (rows, columns):
            count += 1
            if len(first) < _NAMED:
                first.append((number + 1, *size))
    return OtherSizes(count, tuple(first)) if count else None


def _size(buffer: Buffer, frames: FrameTable, number: int) -> tuple[tuple[int, int], bytes]:
    """Rows and columns of a frame, 0 x 0 for what is no JPEG; and the segments that say so."""
    for most in (_START, _LONGEST):
        data, left = b"", most
        for offset, length in frames.locate(number):
            data += bytes(buffer[offset : offset + min(length, left)])
            left = most - len(data)
        try:
            markers = jpeg_markers(data)
        except BadPixels:
            continue
        return (markers.size.rows, markers.size.columns), data[: markers.end]
    return (0, 0), b""
