"""WADO-URI: one object by query parameters (PS3.18 chapter 9)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dicomweb.errors import BadQuery
from dicomweb.lists import split_list
from dicomweb.media import DICOM
from dicomweb.rendered.parameters import (
    DEFAULT_QUALITY,
    MAX_SIDE,
    Rendering,
    Viewport,
    checked_window,
    parse_annotation,
    parse_number,
    parse_quality,
)
from dicomweb.uids import checked_uid

_INTEGER = re.compile(r"\d{1,9}", re.ASCII)
_TRANSFER_SYNTAX = re.compile(r"[0-9.]{1,64}|\*", re.ASCII)
# What only makes sense for a rendered image (PS3.18 9.1.2.2).
_OF_IMAGES: Final = (
    "annotation",
    "rows",
    "columns",
    "region",
    "windowCenter",
    "windowWidth",
    "frameNumber",
    "imageQuality",
)
_REFUSED: Final = {
    "presentationUID": "presentation states are not applied",
    "presentationSeriesUID": "presentation states are not applied",
}


@dataclass(frozen=True, slots=True)
class UriRequest:
    """One WADO-URI request. `accept`: the media types as an Accept header, None when none was named.

    `stored`: the DICOM file itself is wanted; else `rendering` and `frame` (from 1; None: the object as a whole).
    """

    study: str
    series: str
    sop: str
    accept: str | None
    stored: bool
    frame: int | None
    rendering: Rendering


def parse_uri_request(query: Iterable[tuple[str, str]]) -> UriRequest:
    """The request in a decoded query string. Raises BadQuery naming the parameter, BadRequest."""
    given: dict[str, str] = {}
    for name, value in query:
        if name in given:
            raise BadQuery("the parameter is given twice", attribute=name)
        given[name] = value.strip()
    if given.get("requestType") != "WADO":
        raise BadQuery("requestType is WADO", attribute="requestType")
    for name in ("studyUID", "seriesUID", "objectUID"):
        if not given.get(name):
            raise BadQuery("the parameter is missing", attribute=name)
    for name, reason in _REFUSED.items():
        if given.get(name):
            raise BadQuery(reason, attribute=name)
    if given.get("anonymize", "no").lower() != "no":
        raise BadQuery("objects are not anonymized on their way out", attribute="anonymize")
    types = split_list(given.get("contentType", ""))
    stored = bool(types) and types[0].partition(";")[0].strip().lower() == DICOM
    return UriRequest(
        study=checked_uid(given["studyUID"], "study"),
        series=checked_uid(given["seriesUID"], "series"),
        sop=checked_uid(given["objectUID"], "instance"),
        accept=_stored_type(given) if stored else ", ".join(types) or None,
        stored=stored,
        frame=None if stored else _frame(given),
        rendering=Rendering() if stored else _rendering(given),
    )


def _stored_type(given: dict[str, str]) -> str:
    for name in _OF_IMAGES:
        if given.get(name):
            raise BadQuery("the parameter is for rendered images, not for application/dicom", attribute=name)
    syntax = given.get("transferSyntax")
    if not syntax:
        return DICOM
    if not _TRANSFER_SYNTAX.fullmatch(syntax):
        raise BadQuery("a transfer syntax is a UID", attribute="transferSyntax")
    return f"{DICOM}; transfer-syntax={syntax}"


def _frame(given: dict[str, str]) -> int | None:
    frame = _integer(given, "frameNumber", 1 << 30)
    if given.get("transferSyntax"):
        raise BadQuery("the parameter is for application/dicom, not for rendered images", attribute="transferSyntax")
    return frame


def _rendering(given: dict[str, str]) -> Rendering:
    rows, columns = _integer(given, "rows", MAX_SIDE), _integer(given, "columns", MAX_SIDE)
    window = None
    names = [name for name in ("windowCenter", "windowWidth") if given.get(name)]
    if len(names) == 1:
        raise BadQuery("windowCenter and windowWidth are given together", attribute=names[0])
    if names:
        center, width = (parse_number(given[name], name) for name in names)
        window = checked_window(center, width, "LINEAR", "windowWidth")
    return Rendering(
        viewport=None if rows is None and columns is None else Viewport(columns, rows),
        window=window,
        quality=parse_quality(given["imageQuality"], "imageQuality") if given.get("imageQuality") else DEFAULT_QUALITY,
        annotation=parse_annotation(given.get("annotation", "")),
        fraction=_region(given["region"]) if given.get("region") else None,
    )


def _region(text: str) -> tuple[float, float, float, float]:
    members = text.split(",", 4)
    if len(members) != 4:
        raise BadQuery("a region is xmin,ymin,xmax,ymax", attribute="region")
    left, top, right, bottom = (parse_number(member.strip(), "region") for member in members)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadQuery("xmin < xmax and ymin < ymax lie between 0 and 1", attribute="region")
    return left, top, right, bottom


def _integer(given: dict[str, str], name: str, largest: int) -> int | None:
    text = given.get(name)
    if not text:
        return None
    if not _INTEGER.fullmatch(text) or not 1 <= int(text) <= largest:
        raise BadQuery(f"an integer from 1 to {largest}", attribute=name)
    return int(text)
