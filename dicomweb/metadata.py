"""The finished, compressed DICOM JSON of one instance, put together from the members that a scan yields in order."""

from bisect import bisect_left
from typing import Final
from zlib import crc32

from dicomweb.deflate import DeflatedJson, Deflater, deflate, stored
from dicomweb.memo import Piece, Run

# Below so many bytes of repeated text compressing is cheap, and pieces cost more space than they save time.
_WORTH: Final = 2048


class MetadataBuilder:
    """Takes members (`"00100020":{...}`) and known runs of them; what is streamed goes straight into a compressor.

    `available` is the one member that the data set does not have, AvailableTransferSyntaxUID of the file: it goes to
    its place among the others, instead of one that a data set should have after all. What is streamed comes behind it.
    """

    __slots__ = ("_available", "_sink", "parts")

    def __init__(self, available: bytes) -> None:
        # Members and runs that have not been compressed yet; the hot loop appends to it directly.
        self.parts: list[bytes | Run] = []
        self._available = available
        self._sink: Deflater | None = None

    def stream(self) -> Deflater:
        """A compressor for one more member of any size, with all that came before in it."""
        if self._sink is None:
            self._complete()
        texts = self._texts()
        self.parts.clear()
        if self._sink is None:
            self._sink = Deflater()
            self._sink.write(b"{" + b",".join([*texts, b""]))
        else:
            self._sink.write(b",".join([b"", *texts, b""]))
        return self._sink

    def finish(self) -> DeflatedJson:
        """The JSON object: from the pieces of known runs where these are most of it, else compressed in one go."""
        if self._sink is not None:
            self._sink.write(b",".join([b"", *self._texts()]) + b"}")
            return self._sink.finish()
        self._complete()
        repeated = single = 0
        for part in self.parts:
            if isinstance(part, Run):
                repeated += len(part.text)
            else:
                single += len(part)
        if repeated > _WORTH and repeated > 3 * single:
            return self._assembled()
        return deflate(b"{" + b",".join(self._texts()) + b"}")

    def _complete(self) -> None:
        """Set the member in that the data set does not have; no run reaches over its place (`Context.offer`)."""
        key = _key(self._available)
        at = bisect_left(self.parts, key, key=_key)
        end = at + 1 if at < len(self.parts) and _key(self.parts[at]) == key else at
        self.parts[at:end] = [self._available]

    def _texts(self) -> list[bytes]:
        return [part if isinstance(part, bytes) else part.text for part in self.parts]

    def _assembled(self) -> DeflatedJson:
        """Runs as they were compressed before, what differs between them as stored blocks."""
        data: list[bytes] = []
        literal: list[bytes] = []
        history: list[bytes] = []
        crc = length = gap = 0
        before: Piece | None = None
        lead = b"{"
        for part in self.parts:
            if isinstance(part, Run):
                if literal:
                    text = b"".join(literal)
                    literal.clear()
                    crc, gap = crc32(text, crc), len(text)
                    data.append(stored(text))
                    if before:
                        history.append(bytes(gap))
                before = part.piece(lead, before, gap if before else 0, history)
                text = before.text
                history.append(text)
                crc, length, gap = crc32(text, crc), length + gap + len(text), 0
                data.append(before.data)
            else:
                literal.append(lead)
                literal.append(part)
            lead = b","
        literal.append(b"}")
        text = b"".join(literal)
        data.append(stored(text))
        return DeflatedJson(b"".join(data), crc32(text, crc), length + len(text))


def _key(part: bytes | Run) -> bytes:
    """The tag that a member or run begins with, as JSON text; texts of ascending tags ascend."""
    return (part if isinstance(part, bytes) else part.text)[:10]
