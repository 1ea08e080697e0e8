"""What was drawn on slides: measurements in structured reports, and bulk annotations by the part of the slide seen."""

import asyncio
from typing import Any, Final

import orjson

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, JSON, Header, cache_control, client_has, send_bytes
from api.routes.wado import IF_NONE_MATCH
from api.routes.wsi import place_of, rung_at, slide_of
from api.routing import Answer, Content, Operation, Parameter, instance_url
from api.uploads import Upload, whole_body
from dicomweb.errors import BadDicom, BadQuery, BadRequest, NotFound, TooLarge, Unavailable, UnsupportedMediaType
from dicomweb.uids import checked_uid
from dicomweb.wado import etag
from storage.ingest import Stored
from storage.provenance import Provenance
from wsi.annotations import MAX_SIDE
from wsi.drawn import parse_drawn

_MAX_BODY: Final = 4 << 20


async def annotations(http: Exchange) -> None:
    """All measurements, and a list of the groups of bulk annotations."""
    stored = await slide_of(http)
    service = http.services.annotations
    found = await service.find(http.access, stored)
    tag = etag(stored.name, f"{found.version:x}")
    headers: list[Header] = [JSON, (b"etag", tag.encode()), CACHE_REVALIDATE]
    if not await client_has(http, headers):
        await send_bytes(http, 200, headers, orjson.dumps(await service.listed(http.access, stored, found)))


async def shapes(http: Exchange) -> None:
    """The shapes of a group within a rectangle."""
    stored = await slide_of(http)
    sop = checked_uid(http.path["instance"], "instance")
    [number] = place_of(http, "group")
    box, level = _asked(dict(http.query()))
    rungs = stored.slide.rungs
    pixel = stored.slide.base.width / rung_at(rungs, level).width
    if max(box[2] - box[0], box[3] - box[1]) > MAX_SIDE * pixel:
        raise BadQuery(f"a rectangle has at most {MAX_SIDE} pixels of its level to a side", attribute="bbox")
    service = http.services.annotations
    version, found = await service.shapes(http.access, stored, sop, number)
    tag = etag(version, str(number), str(box), str(level))
    headers: list[Header] = [JSON, (b"etag", tag.encode()), cache_control(http.query_value("v"), version)]
    if await client_has(http, headers):
        return
    await send_bytes(
        http,
        200,
        headers,
        await asyncio.to_thread(lambda: orjson.dumps(found.within(box, pixel), option=orjson.OPT_SERIALIZE_NUMPY)),
    )


async def measure(http: Exchange) -> None:
    """Store what was drawn as a structured report, or as bulk annotations."""
    if (http.header(b"content-type") or "").partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("the body is JSON", attribute="Content-Type")
    data = await whole_body(http, _MAX_BODY)
    try:
        given = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is no JSON: {error}") from None
    stored = await slide_of(http)
    made = await http.services.annotations.written(http.access, stored, *parse_drawn(given))
    kept = await _store(http, made, stored.study)
    names = {"study": kept.study, "series": kept.series, "instance": kept.sop_instance}
    location = instance_url(http.root_url, kept.study, kept.series, kept.sop_instance)
    await send_bytes(http, 201, [JSON, (b"location", location.encode())], orjson.dumps(names))


async def _store(http: Exchange, file: bytes, study: str) -> Stored:
    upload = Upload(http, str(len(file)))
    try:
        await upload.spool.write(file)
        spooled = await upload.finish()
        source = Provenance("rest", http.peer)
        return await http.archive.ingest.store(http.access, spooled, source, expect_study=study)
    finally:
        upload.memory.release()


def _asked(given: dict[str, str]) -> tuple[tuple[float, float, float, float], int]:
    try:
        left, top, right, bottom = (float(each) for each in given["bbox"].split(","))
    except (KeyError, ValueError):
        raise BadQuery("a rectangle is left,top,right,bottom in pixels of level 0", attribute="bbox") from None
    if not (-(2**32) < left < right < 2**32 and -(2**32) < top < bottom < 2**32):
        raise BadQuery("the rectangle is empty or far outside", attribute="bbox")
    level = given.get("level", "0")
    if not (level.isascii() and level.isdigit() and len(level) < 6):
        raise BadQuery("a level is a number from 0", attribute="level")
    return (left, top, right, bottom), int(level)


_BASE: Final = "/wsi/slides/{series}/annotations"
_INSTANCE: Final = "1.2.826.0.1.3680043.8.498.7"
_LISTED: Final[dict[str, Any]] = {
    "measurements": [
        {
            "instance": _INSTANCE,
            "series": "1.2.826.0.1.3680043.8.498.6",
            "name": "Length 1",
            "finding": None,
            "shape": "polyline",
            "points": [[1000.0, 800.0], [1400.0, 1100.0]],
            "values": [{"name": "Length", "value": 0.125, "unit": "mm"}],
        }
    ],
    "groups": [
        {
            "instance": "1.2.826.0.1.3680043.8.498.8",
            "series": "1.2.826.0.1.3680043.8.498.9",
            "number": 1,
            "label": "Nuclei",
            "type": "Nucleus",
            "shape": "polygon",
            "count": 100000,
            "colour": "#4a6bff",
            "version": "2a-4f1c2a9be07d3388",
        }
    ],
    "left_out": 0,
}
_SHAPES: Final = {"unit": 1.0, "square": 24.0, "lengths": [3], "points": [10, 12, 8, 0, -4, 8], "squares": [100, 76, 3]}
_DRAWN: Final = {
    "modality": "SR",
    "measurements": [
        {"name": "Length 1", "shape": "polyline", "points": [[1000, 800], [1400, 1100]]},
        {"name": "Area 1", "shape": "polygon", "points": [[0, 0], [200, 0], [200, 100]]},
    ],
}
_STORED: Final = {"study": "1.2.826.0.1.3680043.8.498.2", "series": "2.25.1", "instance": "2.25.2"}

OPERATIONS: Final = (
    Operation(
        "GET",
        _BASE,
        "dicom.read",
        "Slides",
        "List the annotations of a slide",
        "Measurements in Comprehensive 3D SR objects of the study that refer to the slide's frame of reference, in "
        "pixels of level 0; groups of Microscopy Bulk Simple Annotations, whose shapes are retrieved by rectangles.",
        annotations,
        (Answer(200, "What was drawn.", (Content("application/json", _LISTED),)), Answer(304, "Not modified.")),
        (IF_NONE_MATCH,),
        errors=(BadRequest, NotFound, Unavailable),
    ),
    Operation(
        "GET",
        _BASE + "/{instance}/{group}",
        "dicom.read",
        "Slides",
        "Retrieve shapes of a group of annotations",
        "Those that meet a rectangle, for a view at the size of a level. Coordinates are whole numbers of `unit` "
        "(pixels of level 0) from the corner of the rectangle: x and y in turns, each point as the step from the one "
        "before it; `lengths` says how many points each shape has. Shapes too small to be seen are counted by squares: "
        "x, y, number in turns.",
        shapes,
        (Answer(200, "The shapes.", (Content("application/json", _SHAPES),)), Answer(304, "Not modified.")),
        (
            Parameter("bbox", "query", "left,top,right,bottom in pixels of level 0", "0,0,2048,2048", required=True),
            Parameter("level", "query", "the level at whose size it is shown; 0 without it", "1"),
            Parameter("v", "query", "version in the list of groups, for immutable caching", "2a-4f1c2a9be07d3388"),
            IF_NONE_MATCH,
        ),
        errors=(BadDicom, BadQuery, NotFound, TooLarge, Unavailable),
    ),
    Operation(
        "POST",
        _BASE,
        "dicom.write",
        "Slides",
        "Store measurements of a slide",
        "Polylines and polygons in pixels of level 0 become a Comprehensive 3D SR (TID 1500; `modality` SR, as without "
        "it) or Microscopy Bulk Simple Annotations (`modality` ANN: shapes of one name and kind are one group) in the "
        "slide's study, with their lengths in mm and areas in mm².",
        measure,
        (Answer(201, "Stored; Location names the instance.", (Content("application/json", _STORED),)),),
        body=(Content("application/json", _DRAWN),),
        errors=(BadRequest, NotFound, TooLarge, Unavailable, UnsupportedMediaType),
    ),
)
