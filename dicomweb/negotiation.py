"""Content negotiation (PS3.18 8.7): what the client accepts x how the instance is stored -> what is sent.

Two rules go beyond the letter of the standard, both because no stored stream is decoded or transcoded here:

* Without a transfer-syntax parameter PS3.18 8.7.3 asks for Explicit VR Little Endian. Native data is sent so.
  Compressed data is sent as stored and labelled with its transfer syntax: that is what viewers expect of an archive,
  and 8.7.3 itself allows it where the pixels exist in lossy form only. A client that names another syntax gets
  NotAcceptable with the stored one.
* A frame asked for as application/octet-stream with `transfer-syntax=*` is the stored stream under that media type,
  because that is the one type the client said it takes (OHIF, Slim).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from dicomweb.errors import BadRequest, NotAcceptable
from dicomweb.media import (
    ALIASES,
    DEFLATED_LE,
    DICOM,
    DICOM_JSON,
    EXPLICIT_BE,
    EXPLICIT_LE,
    FRAME_MEDIA_TYPE_OF,
    IMPLICIT_LE,
    JSON,
    NATIVE,
    OCTET_STREAM,
    MediaType,
    parse_media_type,
    parse_media_types,
)

Reencode = Literal["none", "explicit-le"]

_Q_VALUE = re.compile(r"(?:0?\.[0-9]{1,3}|0\.?|1(?:\.0{0,3})?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One alternative of an Accept header. For multipart/related, `media` is the type of the parts."""

    media: MediaType
    multipart: bool
    q: float

    @property
    def transfer_syntaxes(self) -> tuple[str, ...]:
        """The transfer-syntax parameters in order; empty: none given."""
        return self.media.all("transfer-syntax")


@dataclass(frozen=True, slots=True)
class RetrievePlan:
    """What to send; `reencode`: "explicit-le" when stored bytes must be changed (byte order, VRs, inflation)."""

    multipart: bool
    media_type: str
    transfer_syntax: str
    reencode: Reencode

    @property
    def part_type(self) -> str:
        """Content-Type of a part, or of the whole single-part body."""
        if not self.transfer_syntax:
            return self.media_type
        return f"{self.media_type}; transfer-syntax={self.transfer_syntax}"


ANYTHING = (MediaRange(MediaType("*", "*"), multipart=False, q=1.0),)


def _range(media: MediaType) -> MediaRange:
    q_text = media.get("q")
    q = 1.0
    if q_text is not None:
        if not _Q_VALUE.fullmatch(q_text):
            raise BadRequest("a q value in Accept is not a number from 0 to 1")
        q = float(q_text)
    parameters = tuple(pair for pair in media.parameters if pair[0] != "q")
    if media.type != "multipart":
        return MediaRange(MediaType(media.type, media.subtype, parameters), multipart=False, q=q)
    inner = next((value for name, value in parameters if name == "type"), "*/*")
    part = parse_media_type(inner)
    # Parameters may stand inside the quoted type or behind it: type="image/jls; transfer-syntax=*".
    parameters = part.parameters + tuple(pair for pair in parameters if pair[0] != "type")
    return MediaRange(MediaType(part.type, part.subtype, parameters), multipart=True, q=q)


@lru_cache(maxsize=512)
def parse_accept(header: str | None, accept_param: str | None = None) -> tuple[MediaRange, ...]:
    """The alternatives by falling q, equal ones in the order given. Nothing given accepts anything.

    The `accept` query parameter (PS3.18 8.3.3.1) replaces the header. BadRequest when either is malformed.
    """
    text = header
    if accept_param and accept_param.strip():
        # A "+" that was not percent-encoded arrives as a blank: "application/dicom json".
        text = re.sub(r"(?<=[a-z]) (?=(?:json|xml)\b)", "+", accept_param)
    if text is None or not text.strip():
        return ANYTHING
    ranges = [_range(media) for media in parse_media_types(text)]
    return tuple(sorted(ranges, key=lambda item: -item.q)) or ANYTHING


@dataclass(frozen=True, slots=True)
class _Offer:
    """One representation that the archive can make."""

    media_type: str
    transfer_syntax: str = ""
    reencode: Reencode = "none"
    multipart: bool = False
    # Whether it may answer a request that names no transfer syntax.
    default: bool = True
    # The standard would want something else here: chosen only when no other alternative fits.
    last_resort: bool = False

    def __str__(self) -> str:
        syntax = f"; transfer-syntax={self.transfer_syntax}" if self.transfer_syntax else ""
        return (
            f'multipart/related; type="{self.media_type}"{syntax}' if self.multipart else f"{self.media_type}{syntax}"
        )


def _names(media: MediaType, media_type: str) -> bool:
    """Whether the range's type and subtype cover `media_type`."""
    if media.type == "*":
        return True
    if media.subtype == "*":
        return media_type.startswith(f"{media.type}/")
    return ALIASES.get(media.essence, media.essence).lower() == media_type.lower()


def _rank(wanted: MediaRange, offer: _Offer) -> int | None:
    """How well `offer` meets `wanted`: 0 is best, None not at all."""
    anything = wanted.media.type == "*" and not wanted.multipart
    if not _names(wanted.media, offer.media_type) or not (anything or wanted.multipart == offer.multipart):
        return None
    syntaxes = wanted.transfer_syntaxes
    if offer.transfer_syntax in syntaxes:
        return 0
    if syntaxes and "*" not in syntaxes and offer.transfer_syntax:
        return None
    if not syntaxes and not offer.default:
        return None
    if "*" in (wanted.media.type, wanted.media.subtype):
        return 3
    if offer.last_resort:
        return 2 if syntaxes else 4
    return 1


def _choose(ranges: Iterable[MediaRange], offers: tuple[_Offer, ...]) -> RetrievePlan:
    """The best pair of range and offer: highest q, then closest match, then the client's order, then ours."""
    refused = {
        offer
        for wanted in ranges
        if wanted.q == 0 and wanted.media.subtype != "*"
        for offer in offers
        if _rank(wanted, offer) is not None
    }
    best: tuple[tuple[float, int, int, int], MediaRange, _Offer] | None = None
    for position, wanted in enumerate(ranges):
        if wanted.q == 0:
            continue
        for order, offer in enumerate(offers):
            rank = _rank(wanted, offer)
            if rank is None or offer in refused:
                continue
            key = (-wanted.q, rank, position, order)
            if best is None or key < best[0]:
                best = (key, wanted, offer)
    if best is None:
        available = ", ".join(str(offer) for offer in offers)
        raise NotAcceptable(f"none of the accepted media types can be sent; available: {available}")
    _, wanted, offer = best
    named = wanted.media.essence
    media_type = named if named in ALIASES else offer.media_type
    return RetrievePlan(offer.multipart, media_type, offer.transfer_syntax, offer.reencode)


@lru_cache(maxsize=2048)
def plan_frames(ranges: tuple[MediaRange, ...], stored_ts: str, *, several: bool = False) -> RetrievePlan:
    """How to send frames (PS3.18 10.4.1.1.6). `several`: more than one was asked for, which only multipart can carry.

    Implicit VR LE needs no re-encoding: the bytes of a frame are those of Explicit VR LE. NotAcceptable names what
    there is.
    """
    if stored_ts in NATIVE:
        swap: Reencode = "explicit-le" if stored_ts in (EXPLICIT_BE, DEFLATED_LE) else "none"
        kinds: tuple[_Offer, ...] = (_Offer(OCTET_STREAM, EXPLICIT_LE, swap),)
    else:
        media_type = FRAME_MEDIA_TYPE_OF.get(stored_ts)
        kinds = (_Offer(OCTET_STREAM, stored_ts, last_resort=True),)
        if media_type is not None:
            kinds = (_Offer(media_type, stored_ts), *kinds)
    return _choose(ranges, _packaged(kinds, single=not several))


@lru_cache(maxsize=1024)
def plan_instances(ranges: tuple[MediaRange, ...], stored_ts: str, *, single: bool = False) -> RetrievePlan:
    """How to send one instance of a study, series or instance resource (PS3.18 10.4.1.1.1-3).

    `single`: the resource is one instance, so that a single part body is possible. A study holds instances in several
    syntaxes: ask once for each. Implicit VR LE and Explicit VR BE never leave (8.7.3); deflated leaves as stored
    where `*` or its own UID was asked for, else inflated.
    """
    if stored_ts in (IMPLICIT_LE, EXPLICIT_BE):
        kinds: tuple[_Offer, ...] = (_Offer(DICOM, EXPLICIT_LE, "explicit-le"),)
    elif stored_ts == DEFLATED_LE:
        # For `*` both fit equally well and the first one is taken.
        kinds = (_Offer(DICOM, DEFLATED_LE, default=False), _Offer(DICOM, EXPLICIT_LE, "explicit-le"))
    else:
        kinds = (_Offer(DICOM, stored_ts),)
    return _choose(ranges, _packaged(kinds, single=single))


@lru_cache(maxsize=1024)
def plan_bulk(
    ranges: tuple[MediaRange, ...], stored_ts: str = EXPLICIT_LE, *, media_type: str = OCTET_STREAM
) -> RetrievePlan:
    """How to send one bulk data value (PS3.18 10.4.1.1.5). Anything accepted: single part, so that `Range` works.

    `media_type` is what the value is, when it is more than bytes: the MIME type of an encapsulated document, or the
    video or image type of encapsulated pixel data (then `stored_ts` is its transfer syntax).
    """
    swap: Reencode = "explicit-le" if stored_ts in (EXPLICIT_BE, DEFLATED_LE) else "none"
    syntax = EXPLICIT_LE if stored_ts in NATIVE else stored_ts
    kinds: tuple[_Offer, ...] = (_Offer(OCTET_STREAM, syntax, swap, last_resort=media_type != OCTET_STREAM),)
    if media_type != OCTET_STREAM:
        kinds = (_Offer(media_type, stored_ts if stored_ts in FRAME_MEDIA_TYPE_OF else "", swap), *kinds)
    return _choose(ranges, (*kinds, *(_as_multipart(kind) for kind in kinds)))


@lru_cache(maxsize=512)
def plan_metadata(ranges: tuple[MediaRange, ...]) -> str:
    """The Content-Type of metadata and search results: DICOM JSON, or plain JSON where only that is accepted."""
    return _choose(ranges, (_Offer(DICOM_JSON), _Offer(JSON))).media_type


@lru_cache(maxsize=1024)
def plan_rendered(ranges: tuple[MediaRange, ...], available: tuple[str, ...], *, several: bool = False) -> RetrievePlan:
    """How to send a rendered resource (PS3.18 8.7.4); `available` types in the order of preference.

    A single part is the default and multipart is for whoever asks for it. `several`: only multipart can carry the
    answer, and an alternative like image/jpeg then names the type of the parts (PS3.18 10.4.4).
    """
    kinds = tuple(_Offer(media_type) for media_type in available)
    multipart = tuple(_as_multipart(kind) for kind in kinds)
    if several:
        return _choose([MediaRange(r.media, multipart=True, q=r.q) for r in ranges], multipart)
    return _choose(ranges, (*kinds, *multipart))


def _as_multipart(offer: _Offer) -> _Offer:
    return _Offer(offer.media_type, offer.transfer_syntax, offer.reencode, True, offer.default, offer.last_resort)


def _packaged(kinds: tuple[_Offer, ...], *, single: bool) -> tuple[_Offer, ...]:
    """Each kind as multipart, which is the default, and as a single part where one is possible."""
    multipart = tuple(_as_multipart(kind) for kind in kinds)
    return (*multipart, *kinds) if single else multipart
