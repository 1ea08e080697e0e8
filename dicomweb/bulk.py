"""Bulk data: where the bytes behind each BulkDataURI of an instance are (PS3.18 F.2.6)."""

from collections.abc import Iterator
from dataclasses import dataclass

from dicomweb.errors import CorruptObject


def bulk_uri(sop_uid: str, path: str, version: str) -> str:
    """The URI, relative to the series: `path` is tags and 0-based item numbers, "00480105/0/00282000"."""
    return f"instances/{sop_uid}/bulkdata/{path}?v={version}"


@dataclass(frozen=True, slots=True)
class BulkEntry:
    """`length` bytes at `offset` of the file (of the inflated data set for deflated syntaxes).

    `encapsulated`: the bytes are fragment items (PS3.5 A.4) and not a plain value.
    """

    path: str
    offset: int
    length: int
    vr: str
    encapsulated: bool = False


@dataclass(frozen=True, slots=True)
class BulkTable:
    """All bulk values of an instance, as one line of text each: compact, and searched without being parsed."""

    text: bytes = b""

    @classmethod
    def of(cls, entries: list[BulkEntry]) -> "BulkTable":
        """The table of `entries`."""
        lines = [f"{e.path} {e.offset} {e.length} {e.vr}{'*' if e.encapsulated else ''}\n" for e in entries]
        return cls("".join(lines).encode("ascii"))

    @classmethod
    def from_bytes(cls, data: bytes) -> "BulkTable":
        """The inverse of `to_bytes`."""
        return cls(data)

    def to_bytes(self) -> bytes:
        """For the index; b"" when the instance has no bulk values."""
        return self.text

    def lookup(self, path: str) -> BulkEntry | None:
        """The value at `path`, None when there is none; linear in the table, without parsing it."""
        if not path or not path.isascii() or " " in path or "\n" in path:
            return None
        start = path.encode("ascii") + b" "
        at = 0 if self.text.startswith(start) else self.text.find(b"\n" + start) + 1
        if at == 0 and not self.text.startswith(start):
            return None
        return _entry(self.text[at : self.text.index(b"\n", at)])

    def __iter__(self) -> Iterator[BulkEntry]:
        return map(_entry, self.text.splitlines())

    def __len__(self) -> int:
        return self.text.count(b"\n")


def _entry(line: bytes) -> BulkEntry:
    fields = line.decode("ascii").split(" ")
    if len(fields) != 4:
        raise CorruptObject("the bulk data table is damaged")
    path, offset, length, vr = fields
    return BulkEntry(path, int(offset), int(length), vr.rstrip("*"), vr.endswith("*"))
