"""What a series repeats: raw elements -> finished JSON, and whole runs of them -> finished JSON and deflate.

A series repeats nearly all its elements byte for byte. An element that has been seen costs one dictionary lookup;
elements that keep coming together become a run, which costs one comparison and brings its compressed form along.
Nothing here changes what a scan yields, except that the compressed metadata may be put together from other pieces (it
inflates to the same text).
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import count
from operator import attrgetter
from typing import Final

from dicomweb.charset import Codecs
from dicomweb.deflate import deflate_after
from dicomweb.dictionary import Need, State

# Elements larger than this are not kept: what is that large is hardly ever the same twice.
MAX_RAW: Final = 16384
_RUN_LEVEL = 6
_RUNS_PER_ELEMENT = 4
_PIECES_PER_RUN = 32
# First bytes of a sequence without a length, by which it is found again: its header and that of its first item, the
# least that a sequence has. How many may share them.
_PROBE = 20
_ALIKE = 32
# An element that was new so often in about the last so many scans (a quarter of them) has no place in a run. One that
# was not met for `RECENT` scans is as good as new: slice 7 of another series has the same number, and a run with it in
# would never be seen again.
VOLATILE: Final = 8
RECENT: Final = 16
_WINDOW = 32
AVAILABLE: Final = 0x00083002
_tag = attrgetter("tag")
_numbers = count(1)


class Entry:
    """One element: `raw` header and value, `text` the JSON member, `count` elements including nested ones.

    `needs` are facts about the data set that the text rests on, `sets` what the element tells about those after it.
    `met`: the last scan that met it outside of runs.
    """

    __slots__ = ("count", "key", "met", "needs", "raw", "runs", "sets", "tag", "text")

    def __init__(
        self, raw: bytes, tag: int, key: str, text: bytes, count: int, needs: tuple[Need, ...], sets: State | None
    ) -> None:
        self.raw = raw
        self.tag = tag
        self.key = key
        self.text = text
        self.count = count
        self.needs = needs
        self.sets = sets
        self.met = 0
        self.runs: Sequence[Run] = ()


class Piece:
    """A run's text, `lead` in front, as deflate that may refer back to what comes before it in the same instance.

    Back references are distances, so a piece is right wherever the same pieces came before it with gaps of the same
    lengths between them, whatever the gaps contain. `number` stands for the piece and all of that; what came before is
    not kept, so that pieces hold nothing but themselves.
    """

    __slots__ = ("data", "number", "text")

    def __init__(self, text: bytes, history: bytes) -> None:
        self.text = text
        self.number = next(_numbers)
        self.data = deflate_after(history, text, _RUN_LEVEL)


class Run:
    """Several consecutive elements as one."""

    __slots__ = ("_pieces", "count", "elements", "last", "needs", "raw", "sets", "size", "text")

    def __init__(self, raw: bytes, entries: Sequence[Entry]) -> None:
        self.raw = raw
        self.size = len(raw)
        self.elements = {entry.key: entry.text for entry in entries if entry.text}
        self.text = b",".join(self.elements.values())
        self.last = entries[-1].tag
        self.count = sum(entry.count for entry in entries)
        self.sets: State = {}
        needs: dict[int, str | int | None] = {}
        for entry in entries:
            needs.update({key: value for key, value in entry.needs if key not in self.sets})
            if entry.sets:
                self.sets.update(entry.sets)
        self.needs: tuple[Need, ...] = tuple(needs.items())
        self._pieces: dict[tuple[bytes, int, int], Piece] = {}

    def piece(self, lead: bytes, before: Piece | None, gap: int, history: Sequence[bytes]) -> Piece:
        """The run after `before` and `gap` bytes of other text; `lead` is "{" or ",". Few variants are kept.

        `history`: the texts of the pieces so far with their gaps, these as NUL, which JSON text never contains, so that
        nothing can refer to them.
        """
        key = (lead, before.number if before else 0, gap)
        known = self._pieces.get(key)
        if known is None:
            if len(self._pieces) >= _PIECES_PER_RUN:
                self._pieces = {}
            known = self._pieces[key] = Piece(lead + self.text, b"".join(history))
        return known


class Context:
    """The memo of one coding and character set."""

    __slots__ = ("_limit", "_old", "_old_noted", "_size", "known", "learnt", "noted", "scans", "unmeasured")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self.known: dict[bytes, Entry] = {}
        # Sequences without a length, by their first bytes.
        self.unmeasured: dict[bytes, list[Entry]] = {}
        # How often each tag has been new lately.
        self.learnt: dict[int, int] = {}
        self.noted: set[int] = set()
        self.scans = 0
        self._old: dict[bytes, Entry] = {}
        self._old_noted: set[int] = set()

    def begin(self) -> None:
        """Another scan uses this context: what was learnt long ago counts less and less."""
        self.scans += 1
        if not self.scans % _WINDOW:
            self.learnt = {tag: count // 2 for tag, count in self.learnt.items() if count > 1}

    def recall(self, raw: bytes) -> Entry | None:
        """An entry that `known` lost to the change of generations."""
        entry = self._old.get(raw)
        if entry is not None:
            self.keep(raw, entry)
        return entry

    def keep(self, raw: bytes, entry: Entry) -> None:
        """Remember. Two generations bound what is held: `limit` bytes of raw elements and about twice that of text."""
        if self._size > self._limit:
            self._old, self.known, self._size = self.known, {}, 0
            self._old_noted, self.noted = self.noted, set()
            self.unmeasured = {}
        self.known[raw] = entry
        entry.met = self.scans
        self.learnt[entry.tag] = self.learnt.get(entry.tag, 0) + 1
        self._size += len(raw) + 400

    def keep_unmeasured(self, entry: Entry) -> None:
        """Remember a sequence that has no length of its own."""
        self.keep(entry.raw, entry)
        alike = self.unmeasured.setdefault(entry.raw[:_PROBE], [])
        alike.insert(0, entry)
        del alike[_ALIKE:]

    def find_unmeasured(self, buffer: bytes, pos: int) -> Entry | None:
        """A known sequence without a length at `pos`: the walk of equal bytes ends in the same place."""
        for entry in self.unmeasured.get(buffer[pos : pos + _PROBE], ()):
            if buffer[pos : pos + len(entry.raw)] == entry.raw:
                return entry
        return None

    def offer(self, raw: bytes, entries: list[Entry]) -> None:
        """Elements that were all known and came one after the other; the second time they become a run.

        Two where AvailableTransferSyntaxUID belongs between them, which the metadata have and a data set has not.
        """
        cut = bisect_left(entries, AVAILABLE, key=_tag)
        if 0 < cut < len(entries):
            size = sum([len(entry.raw) for entry in entries[:cut]])
            self._offer(raw[:size], entries[:cut])
            self._offer(raw[size:], entries[cut:])
        else:
            self._offer(raw, entries)

    def _offer(self, raw: bytes, entries: list[Entry]) -> None:
        if sum([bool(entry.text) for entry in entries]) < 2:
            return
        raw = bytes(raw)
        mark = hash(raw)
        if mark not in self.noted and mark not in self._old_noted:
            self.noted.add(mark)
            return
        runs = entries[0].runs
        if all(run.raw != raw for run in runs):
            run = Run(raw, entries)
            self._size += len(raw) + len(run.text)
            entries[0].runs = sorted([run, *runs][:_RUNS_PER_ELEMENT], key=lambda one: -one.size)


class Memo:
    """Shared by any number of scans with the same limits, from any thread: entries are complete when they are put in.

    `limit` is about the bytes of raw elements held for each coding and character set; the whole is bounded by three
    times that.
    """

    __slots__ = ("_contexts", "_key", "_limit")

    def __init__(self, limit: int = 4 << 20) -> None:
        self._limit = limit
        self._key: object = None
        self._contexts: dict[tuple[bool, Codecs], Context] = {}

    def context(self, explicit: bool, codecs: Codecs, key: object) -> Context:
        """The memo for a coding and character set; another `key` (the limits that texts depend on) starts afresh."""
        if key != self._key:
            self._key = key
            self._contexts = {}
        context = self._contexts.get((explicit, codecs))
        if context is None:
            if len(self._contexts) >= 16:
                self._contexts = {}
            context = self._contexts[explicit, codecs] = Context(self._limit)
        return context
