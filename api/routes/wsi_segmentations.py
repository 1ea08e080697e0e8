"""Segmentations that lie on slides, as layers of tiles."""

from typing import Any, Final

import orjson

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, JSON, Header, cache_control, client_has, send_bytes
from api.routes.wado import IF_NONE_MATCH
from api.routes.wsi import place_of, rung_at, slide_of
from api.routing import Answer, Content, Operation, Parameter
from dicomweb.errors import BadPixels, BadQuery, BadRequest, NotFound, TooLarge, Unavailable
from dicomweb.rendered.encode import PNG
from dicomweb.slides.segmentation import Segment
from dicomweb.uids import checked_uid
from dicomweb.wado import etag
from wsi.overlay import Overlay
from wsi.segmentations import REVISION


async def segmentations(http: Exchange) -> None:
    """A list of the segmentations on a slide."""
    stored = await slide_of(http)
    service = http.services.segmentations
    found = await service.find(http.access, stored)
    tag = etag("segmentations", stored.name, f"{found.version:x}")
    headers: list[Header] = [JSON, (b"etag", tag.encode()), CACHE_REVALIDATE]
    if not await client_has(http, headers):
        await send_bytes(http, 200, headers, orjson.dumps(await service.listed(http.access, stored, found)))


async def tile(http: Exchange) -> None:
    """One tile of a segmentation, in the grid of the slide."""
    level, x, y = place_of(http, "level", "x", "y")
    version = http.query_value("v")
    series = checked_uid(http.path["series"], "series")
    stored = await http.services.tiles.slide(http.access, series, (version or "").partition("-")[0])
    rung = rung_at(stored.slide.rungs, level)
    if x >= rung.across or y >= rung.down:
        raise NotFound(f"the level has {rung.across} x {rung.down} tiles")
    sop = checked_uid(http.path["instance"], "instance")
    overlay = await http.services.segmentations.overlay(http.access, stored, sop, version)
    shown = _shown(overlay, http.query_value("segments"))
    tag = etag(overlay.name, sop, f"{level}-{x}-{y}-{REVISION}", ",".join(str(each.number) for each in shown))
    headers: list[Header] = [
        (b"content-type", PNG.encode()),
        (b"etag", tag.encode()),
        cache_control(version, overlay.name),
    ]
    if not await client_has(http, headers):
        body = await http.services.segmentations.tile(http.access, overlay, (level, x, y), shown)
        await send_bytes(http, 200, headers, body)


def _shown(overlay: Overlay, given: str | None) -> list[Segment]:
    """The segments that a query names, in their own order; all of them without one. Raises BadQuery."""
    if given is None:
        return list(overlay.segments)
    wanted = {text for text in given.split(",") if text}
    found = [each for each in overlay.segments if str(each.number) in wanted]
    if len(found) != len(wanted):
        raise BadQuery("segments are Segment Numbers of the segmentation, separated by commas", attribute="segments")
    return found


_BASE: Final = "/wsi/slides/{series}/segmentations"
_LISTED: Final[dict[str, Any]] = {
    "segmentations": [
        {
            "instance": "1.2.826.0.1.3680043.8.498.7",
            "series": "1.2.826.0.1.3680043.8.498.8",
            "label": "Tumour",
            "type": "binary",
            "version": "2a-7",
            "bounds": [0.0, 0.0, 6000.0, 5000.0],
            "coarsest": 3,
            "segments": [{"number": 1, "label": "Tumour", "type": "Neoplasm", "colour": "#ff5d5d"}],
        }
    ],
    "left_out": 0,
}

OPERATIONS: Final = (
    Operation(
        "GET",
        _BASE,
        "dicom.read",
        "Slides",
        "List the segmentations of a slide",
        "Tiled segmentations and label maps of the study in the slide's frame of reference, or that refer to its "
        "images. Those of one pyramid are one. `bounds` (left, top, right, bottom) are pixels of level 0; levels up to "
        "`coarsest` have tiles.",
        segmentations,
        (Answer(200, "The segmentations.", (Content("application/json", _LISTED),)), Answer(304, "Not modified.")),
        (IF_NONE_MATCH,),
        errors=(BadRequest, NotFound, Unavailable),
    ),
    Operation(
        "GET",
        _BASE + "/{instance}/tiles/{level}/{x}/{y}",
        "dicom.read",
        "Slides",
        "Retrieve a tile of a segmentation",
        "A tile of the slide in the colours of the segments: opaque where a segment is, transparent elsewhere; of "
        "fractional segmentations, and where pixels are put together, the alpha is the part that is covered. The "
        "instance is that of the list.",
        tile,
        (Answer(200, "The tile.", (Content(PNG, "(a PNG file)"),)), Answer(304, "Not modified.")),
        (
            Parameter("segments", "query", "Segment Numbers; all without it", "1,3"),
            Parameter("v", "query", "version in the list, for immutable caching", "2a-7"),
            IF_NONE_MATCH,
        ),
        errors=(BadPixels, BadQuery, NotFound, TooLarge, Unavailable),
    ),
)
