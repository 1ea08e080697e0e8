"""Functional groups (PS3.3 C.7.6.16): thousands of items that differ in a few values only.

The first items are walked element by element. What was learnt of one, which bytes are headers and which are values, is
its shape: an item of the same shape has the same header bytes in the same places, so one unpack and one comparison
check all of its structure, and only its values are looked at. A slide of 180,000 frames has about two million elements;
this makes them a matter of a second.
"""

from struct import Struct
from typing import Final, NamedTuple

from dicomweb.charset import Codecs
from dicomweb.notes import Notes
from dicomweb.values import render

# Shapes kept for items of one length, and in all; how many items may fit no shape before no more are made.
_SHAPES_PER_HEADER: Final = 8
_SHAPES: Final = 256
_PATIENCE: Final = 512
_MAX_ITEM: Final = 32768
_KEPT: Final = 20_000
_MIN_ITEM: Final = 8


class Leaf(NamedTuple):
    """A value field met on the way: where it is in the buffer, and where its attribute object is in the output."""

    start: int
    length: int
    key: str
    vr: str
    codecs: Codecs
    out_at: int


Memory = dict[bytes, bytes]


class _Shape:
    """What one item teaches about others: constant bytes between its values, and constant text between theirs."""

    __slots__ = ("_constant", "_leaves", "_memories", "_pieces", "_unpack", "count", "size")

    def __init__(
        self,
        raw: bytes,
        origin: int,
        out: list[bytes],
        out_at: int,
        leaves: list[Leaf],
        memories: list[Memory],
        count: int,
    ) -> None:
        formats: list[str] = []
        pieces: list[bytes] = []
        at, text_at = origin, out_at
        for leaf in leaves:
            formats.append(f"{leaf.start - at}s{leaf.length}s")
            pieces += [b"".join(out[text_at : leaf.out_at]), b""]
            at, text_at = leaf.start + leaf.length, leaf.out_at + 1
        formats.append(f"{origin + len(raw) - at}s")
        pieces.append(b"".join(out[text_at:]))
        layout = Struct("<" + "".join(formats))
        self.size = layout.size
        self.count = count
        self._unpack = layout.unpack_from
        self._constant = layout.unpack(raw)[::2]
        self._pieces = pieces
        self._leaves = leaves
        self._memories = memories

    def read(self, buffer: bytes, pos: int, out: list[bytes], notes: Notes) -> bool:
        """Append the text of the item at `pos` to `out` if it has this shape."""
        fields = self._unpack(buffer, pos)
        if fields[::2] != self._constant:
            return False
        values = fields[1::2]
        texts = [memory.get(value) for memory, value in zip(self._memories, values, strict=True)]
        if None in texts:
            for index, value in enumerate(values):
                if texts[index] is None:
                    texts[index] = self._render(index, value, notes)
        pieces = self._pieces.copy()
        pieces[1::2] = texts  # type: ignore[assignment]
        out += pieces
        return True

    def _render(self, index: int, value: bytes, notes: Notes) -> bytes:
        leaf, memory = self._leaves[index], self._memories[index]
        text = render(leaf.key, leaf.vr, value, leaf.codecs, notes)
        if len(value) <= 64:
            if len(memory) > _KEPT:
                memory.clear()
            memory[value] = text
        return text


class Shapes:
    """The shapes of the items of one functional group sequence, by their first bytes: item header with its length."""

    __slots__ = ("_by_header", "_made", "_memories", "_patience")

    def __init__(self) -> None:
        self._by_header: dict[bytes, list[_Shape]] = {}
        self._memories: dict[tuple[str, str, Codecs], Memory] = {}
        self._made = 0
        self._patience = _PATIENCE

    def read(self, buffer: bytes, pos: int, bound: int, out: list[bytes], notes: Notes) -> tuple[int, int] | None:
        """Append the text of the item at `pos`; (its bytes, its elements), None when it is of no known shape."""
        shapes = self._by_header.get(buffer[pos : pos + _MIN_ITEM])
        if shapes is None:
            return None
        for rank, shape in enumerate(shapes):
            if pos + shape.size <= bound and shape.read(buffer, pos, out, notes):
                if rank:
                    shapes.insert(0, shapes.pop(rank))
                return shape.size, shape.count
        return None

    def learn(self, raw: bytes, origin: int, out: list[bytes], out_at: int, leaves: list[Leaf], count: int) -> None:
        """Make a shape of an item that has just been walked: `raw` from `origin`, its text in `out` from `out_at`."""
        if self._made >= _SHAPES or self._patience <= 0 or len(raw) > _MAX_ITEM:
            return
        self._patience -= 1
        self._made += 1
        memories = [self._memories.setdefault((leaf.key, leaf.vr, leaf.codecs), {}) for leaf in leaves]
        shapes = self._by_header.setdefault(raw[:_MIN_ITEM], [])
        shapes.insert(0, _Shape(raw, origin, out, out_at, leaves, memories, count))
        if len(shapes) > _SHAPES_PER_HEADER:
            shapes.pop()
            self._made -= 1
