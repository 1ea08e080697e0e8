"""multipart/related (RFC 2046 5.1, RFC 2387; PS3.18 8.6.1.2): a push parser and a part writer, both without I/O."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from dicomweb.errors import ArchiveError, BadRequest, TooLarge
from dicomweb.media import MediaType, parse_media_type

# RFC 2046 allows 70; clients that glue UUIDs together send more and do no harm.
MAX_BOUNDARY = 200
_BOUNDARY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_TEXT = re.compile(r"[\x20-\x7e]*")
_MAX_PADDING = 256
# What may follow a boundary on its line while it is not yet known whether the line closes, begins a part or is content.
_OPEN_LINE = re.compile(rb"-|[ \t]*\r?")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one body may hold; beyond it the parser raises TooLarge (the preamble: BadRequest). Sizes in bytes."""

    parts: int = 10_000
    headers: int = 16
    header_size: int = 8192
    preamble: int = 65_536


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part starts; header names in lower case, values without surrounding blanks."""

    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """The next bytes of the part's body: a view into the chunk that was fed, never empty."""

    data: memoryview | bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete: its closing delimiter was seen."""


Event = PartBegin | PartData | PartEnd

_PART_END = PartEnd()


class _State(Enum):
    PREAMBLE = 0
    DELIMITER = 1  # a delimiter was found; what follows on its line decides whether it is one
    HEADERS = 2
    BODY = 3
    DONE = 4


def content_type(header: str) -> MediaType:
    """A Content-Type header. BadRequest when malformed."""
    return parse_media_type(header)


def boundary_of(media: MediaType) -> bytes:
    """The boundary parameter of a multipart type. BadRequest when it is missing or unusable."""
    boundary = media.get("boundary")
    if not boundary:
        raise BadRequest("the multipart Content-Type has no boundary parameter")
    if len(boundary) > MAX_BOUNDARY or not _BOUNDARY.fullmatch(boundary):
        raise BadRequest(f"the multipart boundary is not 1 to {MAX_BOUNDARY} printable characters")
    return boundary.encode("ascii")


class Parser:
    """Push parser: `feed` bytes as they come, get events; `close` at the end of the body.

    Linear in the input however it is cut, and the cut never shows in the events (only in how a body is spread over
    PartData). Body bytes are not copied, except the few that could begin a delimiter at the end of a chunk.
    Events before a fault are always delivered: the error is raised by the next call then, and by every call after it.
    Line ends are CRLF; a delimiter after a bare LF is body content, so an LF-only message ends in BadRequest.
    """

    def __init__(self, boundary: bytes, limits: Limits = Limits()) -> None:
        if not 0 < len(boundary) <= MAX_BOUNDARY or b"\r" in boundary or b"\n" in boundary:
            raise BadRequest(f"the multipart boundary is not 1 to {MAX_BOUNDARY} printable characters")
        self._delimiter = b"\r\n--" + boundary
        self._limits = limits
        self._state = _State.PREAMBLE
        self._in_part = False
        self._parts = 0
        self._skipped = 0
        # Bytes seen but not yet decided on. They begin with a CRLF that is not content (`_virtual` bytes of them): it
        # lets the
        # first delimiter stand at the very start of the body, and lets one follow a part's blank line directly.
        self._held = b"\r\n"
        self._virtual = 2
        self._line = bytearray()
        self._events: list[Event] = []
        self._error: ArchiveError | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Events of the next bytes. BadRequest on broken framing, TooLarge over a limit."""
        if self._error is not None:
            raise self._error
        chunk = data if isinstance(data, bytes) else bytes(data)
        self._events = []
        try:
            self._run(chunk)
        except (BadRequest, TooLarge) as error:
            self._error = error
            if not self._events:
                raise
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """The body has ended. BadRequest unless the closing delimiter was seen."""
        if self._error is not None:
            raise self._error
        if self._state is _State.DONE:
            return
        if self._state is _State.PREAMBLE:
            self._error = BadRequest("the multipart body does not contain its boundary")
        else:
            self._error = BadRequest("the multipart body ends without its closing boundary")
        raise self._error

    def _run(self, chunk: bytes) -> None:
        position, end = 0, len(chunk)
        while position < end and self._state is not _State.DONE:
            if self._state is _State.DELIMITER:
                position = self._delimiter_line(chunk, position)
            elif self._state is _State.HEADERS:
                position = self._headers(chunk, position)
            else:
                position = self._content(chunk, position)

    def _content(self, chunk: bytes, position: int) -> int:
        """Body or preamble: up to the next delimiter, or to the end of the chunk."""
        delimiter = self._delimiter
        if self._held:
            joined = self._held + chunk[position : position + len(delimiter) - 1]
            found = joined.find(delimiter)
            if found >= 0:
                self._emit(joined[:found])
                position += found + len(delimiter) - len(self._held)
                return self._found(position)
            if len(chunk) - position < len(delimiter) - 1:
                keep = self._undecided(joined, 0)
                self._emit(joined[:keep])
                self._held = joined[keep:]
                return len(chunk)
            self._emit(self._held)
            self._held = b""
        found = chunk.find(delimiter, position)
        if found >= 0:
            self._emit_slice(chunk, position, found)
            return self._found(found + len(delimiter))
        keep = self._undecided(chunk, position)
        self._emit_slice(chunk, position, keep)
        self._held = chunk[keep:]
        return len(chunk)

    def _undecided(self, data: bytes, start: int) -> int:
        """Where the longest tail begins that may start a delimiter. A boundary has no CR: only the last one counts."""
        candidate = data.rfind(b"\r", max(start, len(data) - len(self._delimiter) + 1))
        if candidate >= 0 and self._delimiter.startswith(data[candidate:]):
            return candidate
        return len(data)

    def _found(self, position: int) -> int:
        self._held = b""
        self._line.clear()
        self._state = _State.DELIMITER
        return position

    def _delimiter_line(self, chunk: bytes, position: int) -> int:
        """What follows the boundary: `--` closes, blanks and CRLF begin a part, anything else was content after all."""
        while position < len(chunk):
            self._line.append(chunk[position])
            position += 1
            line = self._line
            if line == b"--":
                self._end_part()
                self._state = _State.DONE
                return position
            if line.endswith(b"\r\n"):
                self._end_part()
                self._state = _State.HEADERS
                self._line = bytearray(b"\r\n")
                return position
            if not _OPEN_LINE.fullmatch(line):
                return self._not_a_delimiter(position)
            if len(line) > _MAX_PADDING:
                raise BadRequest("a multipart boundary line has too much padding")
        return position

    def _not_a_delimiter(self, position: int) -> int:
        """A line that only begins like a delimiter ("--boundaryX"): give its bytes back to the content."""
        text = self._delimiter + bytes(self._line)
        self._line.clear()
        self._state = _State.BODY if self._in_part else _State.PREAMBLE
        keep = self._undecided(text, 0)
        self._emit(text[:keep])
        self._held = text[keep:]
        return position

    def _headers(self, chunk: bytes, position: int) -> int:
        line, limits = self._line, self._limits
        room = limits.headers * (limits.header_size + 2) + 4
        if len(line) == 2:  # the usual case: the whole head lies in this chunk
            if chunk.startswith(b"\r\n", position):
                self._begin_part(b"")
                return position + 2
            end = chunk.find(b"\r\n\r\n", position, position + room)
            if end >= 0:
                self._begin_part(chunk[position:end])
                return end + 4
        before = len(line)
        line += chunk[position : position + room - (before - 2)]
        end = line.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            if len(line) - 2 >= room:
                raise TooLarge(
                    f"part {self._parts + 1} has more than {self._limits.headers} headers (max_part_headers)"
                    f" of {self._limits.header_size} bytes (max_part_header_bytes)"
                )
            return len(chunk)
        self._begin_part(bytes(line[2:end]))
        line.clear()
        return position + end + 4 - before

    def _begin_part(self, head: bytes) -> None:
        self._parts += 1
        if self._parts > self._limits.parts:
            raise TooLarge(f"the multipart body has more than {self._limits.parts} parts (max_parts)")
        self._events.append(PartBegin(_parse_headers(head, self._limits, self._parts)))
        self._in_part = True
        self._state = _State.BODY
        self._held = b"\r\n"
        self._virtual = 2

    def _end_part(self) -> None:
        if self._in_part:
            self._events.append(_PART_END)
            self._in_part = False

    def _emit(self, data: bytes) -> None:
        if data:
            self._emit_slice(data, self._virtual, len(data))
            self._virtual = 0

    def _emit_slice(self, data: bytes, start: int, end: int) -> None:
        if end <= start:
            return
        if self._in_part:
            whole = start == 0 and end == len(data)
            self._events.append(PartData(data if whole else memoryview(data)[start:end]))
            return
        self._skipped += end - start
        if self._skipped > self._limits.preamble:
            raise BadRequest("the multipart body does not start with its boundary")


def _parse_headers(head: bytes, limits: Limits, part: int) -> dict[str, str]:
    if not head:
        return {}
    lines = head.split(b"\r\n", limits.headers * 2)
    headers: dict[str, str] = {}
    last = ""
    for line in lines:
        if len(line) > limits.header_size:
            raise _too_long(limits, part)
        if line[:1] in (b" ", b"\t") and last:  # RFC 5322 2.2.3: a folded line goes on with the header before it
            headers[last] = f"{headers[last]} {_text(line, part)}".strip()
            if len(headers[last]) > limits.header_size:
                raise _too_long(limits, part)
            continue
        name, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name.rstrip(b" \t")):
            raise BadRequest(f"part {part} of the multipart body has a malformed header")
        last = name.rstrip(b" \t").decode("ascii").lower()
        if last in headers:
            raise BadRequest(f"part {part} of the multipart body repeats a header")
        if len(headers) == limits.headers:
            raise TooLarge(f"part {part} has more than {limits.headers} headers (max_part_headers)")
        headers[last] = _text(value, part)
    return headers


def _too_long(limits: Limits, part: int) -> TooLarge:
    return TooLarge(f"a header of part {part} is longer than {limits.header_size} bytes (max_part_header_bytes)")


def _text(value: bytes, part: int) -> str:
    if b"\r" in value or b"\n" in value or b"\0" in value:
        raise BadRequest(f"part {part} of the multipart body has a control character in a header")
    return value.decode("latin-1").strip(" \t")


Headers = Mapping[str, str] | Sequence[tuple[str, str]]


def part_headers(media_type: str, transfer_syntax: str = "", location: str = "") -> tuple[tuple[str, str], ...]:
    """Headers of a response part. Where there is a transfer syntax it is named: without it cornerstone guesses."""
    kind = f"{media_type}; transfer-syntax={transfer_syntax}" if transfer_syntax else media_type
    return (("Content-Type", kind), ("Content-Location", location)) if location else (("Content-Type", kind),)


def _head(boundary: str, headers: Headers, *, first: bool) -> bytes:
    # The body begins with the boundary itself and header names go out as given: cornerstone matches `Content-Type:`
    # by case.
    lines = [f"--{boundary}" if first else f"\r\n--{boundary}"]
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if not _HEADER_TEXT.fullmatch(value):
            raise ValueError(f"the value of part header {name} is not printable ASCII")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class Writer:
    """Frames parts: `part_head`, the part's bytes, `part_head`, ..., `tail`. One writer per body."""

    def __init__(self, boundary: str | bytes) -> None:
        self.boundary = boundary.decode("ascii") if isinstance(boundary, bytes) else boundary
        if len(self.boundary) > 70 or not _BOUNDARY.fullmatch(self.boundary) or '"' in self.boundary:
            raise ValueError("a boundary is 1 to 70 printable ASCII characters")
        self._first = True

    def content_type(self, part_type: str) -> str:
        """The Content-Type of the whole body; `part_type` is the parts' media type without parameters."""
        return f'multipart/related; type="{part_type}"; boundary="{self.boundary}"'

    def part_head(self, headers: Headers) -> bytes:
        """What precedes the next part's bytes. ValueError when a value is not printable ASCII."""
        head = _head(self.boundary, headers, first=self._first)
        self._first = False
        return head

    def tail(self) -> bytes:
        """What follows the last part's bytes."""
        return f"--{self.boundary}--\r\n".encode() if self._first else f"\r\n--{self.boundary}--\r\n".encode()


def content_length(boundary: str | bytes, parts: Iterable[tuple[Headers, int]]) -> int:
    """Length in bytes of the whole body, known before any of it is written: (headers, size in bytes) of each part."""
    writer = Writer(boundary)
    total = sum(len(writer.part_head(headers)) + size for headers, size in parts)
    return total + len(writer.tail())
