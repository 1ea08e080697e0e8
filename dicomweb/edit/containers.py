"""What is open around a place in a file: data sets, sequences, items, and how much longer they have become."""

from dicomweb.dictionary import INHERITED, PIXEL_REPRESENTATION, State
from dicomweb.edit.changes import TextCoding
from dicomweb.edit.rules import Scope
from dicomweb.edit.skipping import CUT
from dicomweb.structure import UNDEFINED, Coding, refuse


class Container:
    """A sequence or a data set. `end` is -1 up to a delimiter, `bound` where that must have come.

    `length_at` is where a defined length stands, else -1; `delimited` says that it gets a delimiter in place of one.
    `grown` is how many bytes longer its content has become.
    """

    __slots__ = ("bound", "delimited", "end", "grown", "length_at", "start")

    def __init__(self, start: int, length: int, bound: int) -> None:
        self.start = start
        self.end = -1 if length == UNDEFINED else start + length
        self.bound = bound if self.end < 0 else self.end
        self.length_at = -1 if self.end < 0 else start - 4
        self.grown = 0
        self.delimited = False


class DataSet(Container):
    """A data set whose elements are being walked: that of an item or, without `sequence`, that of the file."""

    __slots__ = ("additions", "coding", "depth", "last", "scope", "sequence", "state", "text")

    def __init__(self, start: int, length: int, bound: int, scope: Scope, coding: Coding, text: TextCoding) -> None:
        super().__init__(start, length, bound)
        self.scope = scope
        self.coding = coding
        self.text = text
        # What is still to be inserted, in descending order.
        self.additions = list(scope.additions)
        self.last = -1
        self.depth = 0
        self.sequence: Sequence | None = None
        self.state: State = {}

    def enter(self, sequence: "Sequence") -> None:
        """Make this an item of `sequence`."""
        owner = sequence.owner
        self.sequence = sequence
        self.depth = owner.depth + 1
        signed = owner.state.get(PIXEL_REPRESENTATION, owner.state.get(INHERITED))
        if signed is not None:
            self.state[INHERITED] = signed


class Sequence(Container):
    """A sequence whose items are being walked; `mode` is what the rules said about it."""

    __slots__ = ("index", "mode", "owner", "tag")

    def __init__(self, owner: DataSet, tag: int, mode: str, start: int, length: int) -> None:
        super().__init__(start, length, owner.bound)
        if self.bound > owner.bound:
            refuse(tag, start, f"the sequence ends past its parent: {CUT}")
        self.owner = owner
        self.tag = tag
        self.mode = mode
        self.index = -1
