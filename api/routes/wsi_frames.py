"""Pyramids of single frames, as Orthanc's WSI plug-in has them for images that are no slides."""

import orjson

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, JSON, Header, client_has, send_bytes
from api.routes.wado import IF_NONE_MATCH
from api.routes.wsi import PICTURE_ANSWERS, place_of
from api.routing import Answer, Content, Operation, Parameter
from dicomweb.errors import BadPixels, NotAcceptable, NotFound, Unavailable
from dicomweb.negotiation import parse_accept, plan_rendered
from dicomweb.rendered.encode import JPEG, PNG
from dicomweb.wado import etag
from wsi.frames import FramePyramid
from wsi.tiles import MediaType


async def pyramid_of(http: Exchange) -> FramePyramid:
    """The frame that the path names. Raises NotFound, BadPixels."""
    (frame,) = place_of(http, "frame")
    return await http.services.tiles.frames.pyramid(http.access, http.path["orthanc_instance"], frame)


async def frame_pyramid(http: Exchange) -> None:
    """The levels of a frame."""
    found = await pyramid_of(http)
    headers: list[Header] = [JSON, (b"etag", etag(found.name, found.identifier).encode()), CACHE_REVALIDATE]
    if not await client_has(http, headers):
        await send_bytes(http, 200, headers, orjson.dumps(found.described()))


async def frame_tile(http: Exchange) -> None:
    """A tile of a frame: PNG, or what Accept asks for."""
    z, x, y = place_of(http, "z", "x", "y")
    found = await pyramid_of(http)
    found.level(z, x, y)
    wanted = plan_rendered(parse_accept(http.header(b"accept"), None), (PNG, JPEG)).media_type
    headers: list[Header] = [
        (b"content-type", wanted.encode()),
        (b"etag", etag(found.name, str((z, x, y)), wanted).encode()),
        CACHE_REVALIDATE,
        (b"vary", b"Accept"),
    ]
    if await client_has(http, headers):
        return
    media_type: MediaType = "image/png" if wanted == PNG else "image/jpeg"
    body = await http.services.tiles.frames.tile(http.access, found, (z, x, y), media_type)
    await send_bytes(http, 200, headers, body)


_PYRAMID = {
    "ID": "66a662ce-7430e543-bad44d47-0dc5a943-ec7a538d",
    "FrameNumber": 0,
    "Resolutions": [1.0, 2.0, 4.0],
    "Sizes": [[2048, 1536], [1024, 768], [512, 384]],
    "TilesCount": [[4, 3], [2, 2], [1, 1]],
    "TilesSizes": [[512, 512], [512, 512], [512, 512]],
    "TotalWidth": 2048,
    "TotalHeight": 1536,
    "BackgroundColor": "#000000",
}
_ERRORS = (BadPixels, NotFound, Unavailable)
OPERATIONS = (
    Operation(
        "GET",
        "/wsi/frames-pyramids/{orthanc_instance}/{frame}",
        "dicom.read",
        "Slides",
        "Describe a frame as a pyramid, as Orthanc does",
        "The instance is named by its Orthanc identifier; frames count from 0. Any image will do; slides have "
        "a pyramid of their own. The picture is padded to multiples of 64 pixels, and each level is half of the one "
        "before.",
        frame_pyramid,
        (Answer(200, "The pyramid.", (Content("application/json", _PYRAMID),)), Answer(304, "Not modified.")),
        (IF_NONE_MATCH,),
        errors=_ERRORS,
        orthanc=True,
    ),
    Operation(
        "GET",
        "/wsi/frames-tiles/{orthanc_instance}/{frame}/{z}/{x}/{y}",
        "dicom.read",
        "Slides",
        "Retrieve a tile of a frame as Orthanc does",
        "z counts levels, 0 is the frame itself. PNG, unless Accept asks for JPEG.",
        frame_tile,
        PICTURE_ANSWERS,
        (Parameter("Accept", "header", "image/png or image/jpeg", "image/jpeg"), IF_NONE_MATCH),
        errors=(*_ERRORS, NotAcceptable),
        orthanc=True,
    ),
)
