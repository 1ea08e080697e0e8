"""Media types as HTTP headers carry them (RFC 9110 8.3, 12.5.1), and the transfer syntaxes of each (PS3.18 8.7.3)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dicomweb.errors import BadRequest

MAX_HEADER = 8192

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
# Pixel data in these is a plain run of bytes; everything else is encapsulated.
NATIVE = frozenset((IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE))

OCTET_STREAM = "application/octet-stream"
ZIP = "application/zip"
DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
JSON = "application/json"

_PREFIX = "1.2.840.10008.1.2."

# PS3.18 table 8.7.3-5: the media type of one compressed frame, and the transfer syntaxes it stands for. The one such
# table.
FRAME_MEDIA_TYPES: dict[str, tuple[str, ...]] = {
    media: tuple(_PREFIX + end for end in ends.split())
    for media, ends in {
        "image/jpeg": "4.50 4.51 4.57 4.70",
        "image/jls": "4.80 4.81",
        "image/jp2": "4.90 4.91",
        "image/jpx": "4.92 4.93",
        "image/jphc": "4.201 4.202 4.203",
        "image/jxl": "4.110 4.111 4.112",
        "image/dicom-rle": "5",
        "video/mpeg2": "4.100 4.100.1 4.101 4.101.1",
        "video/mp4": "4.102 4.102.1 4.103 4.103.1 4.104 4.104.1 4.105 4.105.1 4.106 4.106.1",
        "video/H265": "4.107 4.108",
    }.items()
}
FRAME_MEDIA_TYPE_OF: dict[str, str] = {uid: media for media, uids in FRAME_MEDIA_TYPES.items() for uid in uids}

# Names that clients use for the same thing; the answer repeats the name that was asked for.
ALIASES: dict[str, str] = {
    "image/x-jls": "image/jls",
    "image/x-dicom-rle": "image/dicom-rle",
    "image/rle": "image/dicom-rle",
    "image/jph": "image/jphc",
    "video/mpeg": "video/mpeg2",
    "video/h265": "video/H265",
}

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
# An unquoted value is a token by the grammar; clients leave the quotes away round `application/dicom` and `*/*`.
_LOOSE_VALUE = re.compile(r"[!-~]*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class MediaType:
    """`type/subtype` in lower case and the parameters in order of appearance, names in lower case, repeats kept."""

    type: str
    subtype: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def essence(self) -> str:
        """`type/subtype` without parameters."""
        return f"{self.type}/{self.subtype}"

    @property
    def params(self) -> dict[str, str]:
        """The parameters by name; of a repeated one the first."""
        return dict(reversed(self.parameters))

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first parameter called `name`."""
        return next((value for key, value in self.parameters if key == name), default)

    def all(self, name: str) -> tuple[str, ...]:
        """Every parameter called `name`, in order."""
        return tuple(value for key, value in self.parameters if key == name)


def _outside_quotes(text: str, separator: str) -> Iterable[str]:
    """`text` cut at each `separator` that is not inside a quoted string. Linear."""
    if '"' not in text:
        yield from text.split(separator)
        return
    start = index = 0
    quoted = False
    while index < len(text):
        character = text[index]
        if quoted and character == "\\":
            index += 1
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            yield text[start:index]
            start = index + 1
        index += 1
    if quoted:
        raise BadRequest("a quoted string in a media type has no closing quote")
    yield text[start:]


def _value(raw: str) -> str:
    if not raw.startswith('"'):
        if not _LOOSE_VALUE.fullmatch(raw):
            raise BadRequest("a media type parameter has a malformed value")
        return raw
    if len(raw) < 2 or not raw.endswith('"'):
        raise BadRequest("a media type parameter has text after its closing quote")
    inner = raw[1:-1]
    return re.sub(r"\\(.)", r"\1", inner) if "\\" in inner else inner


def parse_media_type(text: str) -> MediaType:
    """One media type or media range. BadRequest when it has no subtype or a parameter is malformed."""
    if len(text) > MAX_HEADER:
        raise BadRequest("a media type header is too long")
    if _CONTROL.search(text):
        raise BadRequest("a media type header holds control characters")
    first, *rest = _outside_quotes(text, ";")
    main, slash, sub = first.strip().lower().partition("/")
    if not slash and main == "*":  # Java's URLConnection: "text/html, image/gif, *; q=.2, */*; q=.2"
        sub = "*"
    if not _TOKEN.fullmatch(main) or not _TOKEN.fullmatch(sub):
        raise BadRequest("a media type is not of the form type/subtype")
    parameters: list[tuple[str, str]] = []
    for part in rest:
        if not part.strip():  # a trailing or doubled semicolon
            continue
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if not equals or not _TOKEN.fullmatch(name):
            raise BadRequest("a media type parameter is not of the form name=value")
        parameters.append((name, _value(value.strip())))
    return MediaType(main, sub, tuple(parameters))


def parse_media_types(text: str, limit: int = 100) -> list[MediaType]:
    """A comma-separated list of media ranges; empty members are skipped (RFC 9110 5.6.1)."""
    if len(text) > MAX_HEADER:
        raise BadRequest("a media type header is too long")
    members = [member for member in _outside_quotes(text, ",") if member.strip()]
    if len(members) > limit:
        raise BadRequest(f"a header lists more than {limit} media types")
    return [parse_media_type(member) for member in members]
