"""WADO-RS request details: frame lists (PS3.18 10.4.1.1.6), bulk data paths, ranges, conditions (RFC 9110 13, 14)."""

import re
from hashlib import blake2b

from dicomweb.errors import BadRequest, NotFound, RangeNotSatisfiable, TooLarge

MAX_FRAMES = 1000
MAX_RANGES = 8

_FRAME = re.compile(r"\d+", re.ASCII)
_FRAME_DIGITS = 10
_BULK_PATH = re.compile(r"(?:[0-9A-Fa-f]{8}/\d{1,9}/){0,32}[0-9A-Fa-f]{8}", re.ASCII)
_RANGE = re.compile(r"(\d{0,19})-(\d{0,19})", re.ASCII)
_ETAG = re.compile(r'(?:W/)?("[^"]*")')


def parse_frame_list(text: str, limit: int = MAX_FRAMES) -> tuple[int, ...]:
    """Frame numbers from 1, in the order asked for, repeats kept: "1,3,2".

    BadRequest when one is no frame number, NotFound when it is beyond what Number of Frames (IS) can say, TooLarge for
    more than `limit`. Whether the frames exist is the caller's matter.
    """
    members = text.split(",", limit + 1)
    if len(members) > limit:
        raise TooLarge(f"a request may ask for {limit} frames at most (max_frames_per_request)")
    numbers: list[int] = []
    for member in members:
        number = member.strip()
        if not _FRAME.fullmatch(number) or not number.strip("0"):
            raise BadRequest("a frame list is numbers from 1, separated by commas", attribute="frames")
        if len(number) > _FRAME_DIGITS or int(number) >= 2**31:
            raise NotFound("no instance has a frame of so high a number")
        numbers.append(int(number))
    return tuple(numbers)


def parse_bulk_path(text: str) -> str:
    """The path of a bulk data value in the form in which it is stored: "00480105/0/00282000", items counted from 0."""
    if not _BULK_PATH.fullmatch(text):
        raise BadRequest("a bulk data path is tags and item numbers, separated by slashes", attribute="bulkdata")
    return text.upper()


def bulk_path_of(uri: str) -> str:
    """The path of a bulk data value from the BulkDataURI that the metadata have for it."""
    return parse_bulk_path(uri.partition("/bulkdata/")[2].partition("?")[0])


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The (offset, length) that a Range header asks of `size` bytes; None: send everything with 200.

    Everything is sent for other units, for a malformed header and for several ranges, as RFC 9110 14.2 allows.
    RangeNotSatisfiable (416) when the range lies outside, and for more than 8 ranges.
    """
    if header is None:
        return None
    unit, equals, text = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    members = text.split(",", MAX_RANGES + 1)
    if len(members) > MAX_RANGES:
        raise RangeNotSatisfiable(f"a request may ask for {MAX_RANGES} ranges at most", size=size)
    if len(members) > 1:
        return None
    match = _RANGE.fullmatch(text.strip())
    if match is None or match.group() == "-":
        return None
    first, last = match.groups()
    if not first:  # the last n bytes
        start, end = max(0, size - int(last)), size
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        end = min(size, int(last) + 1) if last else size
    if start >= end:
        raise RangeNotSatisfiable("the range lies outside the resource", size=size)
    return start, end - start


def content_range(offset: int, length: int, size: int) -> str:
    """The Content-Range header of a 206."""
    return f"bytes {offset}-{offset + length - 1}/{size}"


def etag(*parts: str) -> str:
    """A strong entity tag, quotes included, of what decides the bytes: version, frames, media type, encoding.

    Representations that differ must differ in a part. Cost: one short hash.
    """
    return f'"{blake2b(chr(0).join(parts).encode(), digest_size=12).hexdigest()}"'


def etag_matches(if_none_match: str | None, tag: str) -> bool:
    """Whether If-None-Match names `tag` (weak comparison, RFC 9110 13.1.2), so that GET and HEAD answer 304."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    bare = tag.removeprefix("W/")
    return any(match.group(1) == bare for match in _ETAG.finditer(if_none_match))


def range_applies(if_range: str | None, tag: str) -> bool:
    """Whether a Range header counts: If-Range is absent or is `tag`, compared strongly (RFC 9110 13.1.5)."""
    return if_range is None or (if_range.strip() == tag and not tag.startswith("W/"))
