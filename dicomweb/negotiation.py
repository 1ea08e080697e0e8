"""Content negotiation (PS3.18 8.7): what the client accepts x how the instance is stored -> what is sent.

What is stored is sent as it is wherever the client takes it; else it is transcoded to the best that the client names:

* Without a transfer-syntax parameter application/dicom and application/octet-stream mean Explicit VR Little Endian
  (PS3.18 8.7.3), an image type its default transfer syntax, the lossless one (8.7.3.3). An instance whose pixels exist
  in lossy form only is sent as stored then, as 8.7.3 allows.
* `transfer-syntax=*` is what is stored, also for a frame asked for as application/octet-stream, because that is the one
  type the client said it takes (OHIF, Slim).
* Lossy transcoding happens only where its transfer syntax is named.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from dicomweb.errors import BadRequest, NotAcceptable
from dicomweb.media import (
    ALIASES,
    DEFLATED_LE,
    DICOM,
    DICOM_JSON,
    DICOM_XML,
    EXPLICIT_BE,
    EXPLICIT_LE,
    FRAME_MEDIA_TYPE_OF,
    IMPLICIT_LE,
    JSON,
    NATIVE,
    OCTET_STREAM,
    ZIP,
    MediaType,
    parse_media_type,
    parse_media_types,
)
from dicomweb.pixels.syntaxes import LOSSY, REVISION, SYNTAXES, can_decode

Reencode = Literal["none", "explicit-le", "transcode"]

# What an image type means without a transfer-syntax parameter (PS3.18 table 8.7.3-5).
_DEFAULT_SYNTAXES = frozenset(f"1.2.840.10008.1.2.{end}" for end in ("4.70", "4.80", "4.90", "4.201", "4.110", "5"))
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
    """What to send; `reencode`: "explicit-le" when byte order, VRs or inflation change, "transcode" when pixels do.

    `quality`: of JPEG, 1 to 100, where one was asked for.
    """

    multipart: bool
    media_type: str
    transfer_syntax: str
    reencode: Reencode
    quality: int | None = None

    @property
    def part_type(self) -> str:
        """Content-Type of a part, or of the whole single-part body."""
        if not self.transfer_syntax:
            return self.media_type
        return f"{self.media_type}; transfer-syntax={self.transfer_syntax}"

    @property
    def identity(self) -> str:
        """What decides the bytes beside the instance, for entity tags: also how rewriting is done nowadays."""
        made = "" if self.reencode == "none" else f" {REVISION}"
        return f"{self.multipart} {self.part_type}{made}" + (f" {self.quality}" if self.quality else "")


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
    # What it answers beside its own transfer syntax: "all" that its media type covers, "wild" media types such as */*,
    # or "none" but a `transfer-syntax=*`, which means what is stored.
    unasked: Literal["all", "wild", "none"] = "all"
    # The standard would want something else here: chosen only when no other alternative fits.
    last_resort: bool = False

    @property
    def transcoded(self) -> bool:
        return self.reencode == "transcode"

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
    """How well `offer` meets `wanted`: 0 is best, None not at all. What is stored comes before what must be made."""
    wild = "*" in (wanted.media.type, wanted.media.subtype)
    anything = wanted.media.type == "*" and not wanted.multipart
    if not _names(wanted.media, offer.media_type) or not (anything or wanted.multipart == offer.multipart):
        return None
    syntaxes = wanted.transfer_syntaxes
    if offer.transfer_syntax in syntaxes:
        return 3 if offer.transcoded else 0
    if syntaxes and "*" not in syntaxes and offer.transfer_syntax:
        return None
    if offer.transcoded:
        return (8 if wild else 7 if syntaxes else 6) if offer.unasked == "all" else None
    if not syntaxes and (offer.unasked == "none" or (offer.unasked == "wild" and not wild)):
        return None
    if wild:
        return 5
    if len(syntaxes) > 1:  # the names beside `*` are what the client would rather have
        return 4
    if offer.last_resort:
        return 2 if syntaxes else 9
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


# Every transfer syntax that some image could be transcoded to: what an image allows is asked when it comes to that.
ALL_TARGETS = frozenset((EXPLICIT_LE, *SYNTAXES))
# What whole files can be written in.
WRITABLE = ALL_TARGETS | {DEFLATED_LE}


@lru_cache(maxsize=4096)
def plan_frames(
    ranges: tuple[MediaRange, ...], stored_ts: str, *, several: bool = False, targets: frozenset[str] = ALL_TARGETS
) -> RetrievePlan:
    """How to send frames (PS3.18 10.4.1.1.6). `several`: more than one was asked for, which only multipart can carry.

    `targets`: what they can be transcoded to; when the answer is to transcode, ask again with those of the image.
    Implicit VR LE needs no re-encoding: the bytes of a frame are those of Explicit VR LE. NotAcceptable names what
    there is.
    """
    possible = targets if can_decode(stored_ts) else frozenset()
    if stored_ts in NATIVE:
        swap: Reencode = "explicit-le" if stored_ts in (EXPLICIT_BE, DEFLATED_LE) else "none"
        kinds: tuple[_Offer, ...] = (_Offer(OCTET_STREAM, EXPLICIT_LE, swap),)
        possible -= {EXPLICIT_LE}
    else:
        media_type = FRAME_MEDIA_TYPE_OF.get(stored_ts)
        kinds = (_Offer(OCTET_STREAM, stored_ts, last_resort=True),)
        if media_type is not None:
            kinds = (_Offer(media_type, stored_ts), *kinds)
        possible -= {stored_ts}
    return _choose(ranges, _packaged((*kinds, *_transcoded_frames(possible)), single=not several))


def _transcoded_frames(targets: frozenset[str]) -> Iterable[_Offer]:
    if EXPLICIT_LE in targets:
        yield _Offer(OCTET_STREAM, EXPLICIT_LE, "transcode")
    for uid in (each for each in SYNTAXES if each in targets):
        media_type = FRAME_MEDIA_TYPE_OF.get(uid)
        if media_type is not None:
            yield _Offer(media_type, uid, "transcode", unasked="all" if uid in _DEFAULT_SYNTAXES else "none")
        yield _Offer(OCTET_STREAM, uid, "transcode", unasked="none")


@lru_cache(maxsize=4096)
def plan_instances(
    ranges: tuple[MediaRange, ...], stored_ts: str, *, single: bool = False, targets: frozenset[str] = ALL_TARGETS
) -> RetrievePlan:
    """How to send one instance of a study, series or instance resource (PS3.18 10.4.1.1.1-3).

    `single`: the resource is one instance, so that a single part body is possible. A study holds instances in several
    syntaxes: ask once for each. Implicit VR LE and Explicit VR BE never leave (8.7.3); deflated leaves as stored
    where `*` or its own UID was asked for, else inflated. `targets`: as for `plan_frames`; without any, an instance
    that is not compressed has no pixels, and no name of a compression keeps it back.
    """
    if not targets and stored_ts in NATIVE:
        ranges = tuple(_without_syntaxes(each) for each in ranges)
    possible = targets | {DEFLATED_LE} if can_decode(stored_ts) else frozenset()
    if stored_ts in (IMPLICIT_LE, EXPLICIT_BE):
        kinds: tuple[_Offer, ...] = (_Offer(DICOM, EXPLICIT_LE, "explicit-le"),)
    elif stored_ts == DEFLATED_LE:
        # For `*` both fit equally well and the first one is taken.
        kinds = (_Offer(DICOM, DEFLATED_LE, unasked="none"), _Offer(DICOM, EXPLICIT_LE, "explicit-le"))
    elif stored_ts == EXPLICIT_LE or stored_ts in LOSSY or EXPLICIT_LE not in possible:
        kinds = (_Offer(DICOM, stored_ts),)
    else:
        kinds = (_Offer(DICOM, stored_ts, unasked="wild"), _Offer(DICOM, EXPLICIT_LE, "transcode"))
    offered = {kind.transfer_syntax for kind in kinds}
    more = (uid for uid in (EXPLICIT_LE, DEFLATED_LE, *SYNTAXES) if uid in possible and uid not in offered)
    kinds += tuple(_Offer(DICOM, uid, "transcode", unasked="none") for uid in more)
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
def plan_documents(ranges: tuple[MediaRange, ...], *, single: bool) -> RetrievePlan:
    """How to send metadata and results: DICOM JSON, plain JSON where only that is accepted, or XML (PS3.18 8.7.3.2).

    XML is the Native DICOM Model, a part for each data set.
    `single`: there is one data set, which may be the whole body; else a name of XML alone means that of the parts.
    """
    xml = _Offer(DICOM_XML)
    kinds = (_Offer(DICOM_JSON), _Offer(JSON), _as_multipart(xml))
    if single:
        return _choose(ranges, (*kinds, xml))
    return _choose([replace(r, multipart=r.multipart or r.media.essence == DICOM_XML) for r in ranges], kinds)


@lru_cache(maxsize=1024)
def plan_rendered(ranges: tuple[MediaRange, ...], available: tuple[str, ...], *, several: bool = False) -> RetrievePlan:
    """How to send a rendered resource (PS3.18 8.7.4); `available` types in the order of preference.

    A single part is the default and multipart is for whoever asks for it. `several`: only multipart can carry the
    answer, and an alternative like image/jpeg then names the type of the parts (PS3.18 10.4.4).
    """
    kinds = tuple(_Offer(media_type) for media_type in available)
    multipart = tuple(_as_multipart(kind) for kind in kinds)
    if several:
        return _choose(in_parts(ranges), multipart)
    return _choose(ranges, (*kinds, *multipart))


def zip_syntax(ranges: tuple[MediaRange, ...], *, first: bool) -> str | None:
    """The transfer syntax of the files where a ZIP file of them is accepted (PS3.18 8.7.3.1): `*` for as stored.

    `first`: only where nothing is accepted sooner. None: no ZIP file.
    """
    for wanted in ranges[:1] if first else ranges:
        if wanted.media.essence == ZIP and not wanted.multipart and wanted.q > 0:
            return next(iter(wanted.transfer_syntaxes), "*")
    return None


def in_parts(ranges: tuple[MediaRange, ...]) -> tuple[MediaRange, ...]:
    """The same, where the answer has many parts whatever is accepted: their types."""
    return tuple(replace(each, multipart=True) for each in ranges)


def _as_multipart(offer: _Offer) -> _Offer:
    return _Offer(offer.media_type, offer.transfer_syntax, offer.reencode, True, offer.unasked, offer.last_resort)


def _without_syntaxes(wanted: MediaRange) -> MediaRange:
    media = wanted.media
    parameters = tuple(pair for pair in media.parameters if pair[0] != "transfer-syntax")
    return MediaRange(MediaType(media.type, media.subtype, parameters), wanted.multipart, wanted.q)


def _packaged(kinds: tuple[_Offer, ...], *, single: bool) -> tuple[_Offer, ...]:
    """Each kind as multipart, which is the default, and as a single part where one is possible."""
    multipart = tuple(_as_multipart(kind) for kind in kinds)
    return (*multipart, *kinds) if single else multipart
