"""Slides for clients of other servers: DeepZoom, and the IIIF Image API 3.0 at level 2."""

import orjson

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, Header, client_has, send_bytes
from api.routes.wsi import CHANNEL, ERRORS, PICTURE_ANSWERS, described, send_picture, slide_of, tile_query
from api.routing import Answer, Content, Operation
from dicomweb.errors import NotFound, TooLarge
from dicomweb.uids import checked_uid
from dicomweb.wado import etag
from storage.slides import StoredSlide
from wsi.dialects import (
    DEEPZOOM_SUFFIX,
    FILES_SUFFIX,
    deepzoom_document,
    iiif_information,
    parse_deepzoom,
    parse_iiif,
)

_XML: Header = (b"content-type", b"application/xml")
INFORMATION_TYPE: Header = (
    b"content-type",
    b'application/ld+json;profile="http://iiif.io/api/image/3/context.json"',
)
COMPLIANCE: Header = (b"link", b'<http://iiif.io/api/image/3/level2.json>;rel="profile"')
# Frames that one tile of a viewer may be made of: eight to a side, which a base level alone gives three levels.
_TILE_FRAMES = 64


def _tile_size(stored: StoredSlide) -> tuple[int, int]:
    """Width and height of tiles of the finest level, within what viewers ask for."""
    base = stored.slide.base
    return min(max(base.columns, 64), 2048), min(max(base.rows, 64), 2048)


async def _slide_named(http: Exchange, name: str, suffix: str) -> StoredSlide:
    """The slide whose Series Instance UID is in `name`, in front of `suffix`."""
    if not name.endswith(suffix):
        raise NotFound("there is no such document")
    return await http.services.tiles.slide(http.access, checked_uid(name.removesuffix(suffix), "series"))


async def deepzoom(http: Exchange) -> None:
    """The `.dzi` document."""
    stored = await _slide_named(http, http.path["document"], DEEPZOOM_SUFFIX)
    base = stored.slide.base
    body = deepzoom_document(base.width, base.height, _tile_size(stored)[0])
    await send_document(http, stored, [_XML], body)


async def send_document(http: Exchange, stored: StoredSlide, headers: list[Header], body: bytes) -> None:
    """A document that is made of a slide, or 304."""
    tag = etag(stored.name, body.decode())
    headers = [*headers, (b"etag", tag.encode()), CACHE_REVALIDATE]
    if not await client_has(http, headers):
        await send_bytes(http, 200, headers, body)


async def deepzoom_tile(http: Exchange) -> None:
    """A tile of a DeepZoom level."""
    query = tile_query(http.scope["query_string"])
    stored = await _slide_named(http, http.path["files"], FILES_SUFFIX)
    base = stored.slide.base
    asked = parse_deepzoom(base.width, base.height, _tile_size(stored)[0], http.path["level"], http.path["tile"])
    try:
        await send_picture(http, stored, asked, query, limit=_TILE_FRAMES)
    except TooLarge:
        raise NotFound("the slide has no level that this tile can be made of on the way") from None


async def iiif_base(http: Exchange) -> None:
    """The URI of the image leads to its description (IIIF Image API 3.0, 2.2)."""
    stored = await slide_of(http)
    await send_bytes(http, 303, [(b"location", f"{_identifier(http, stored)}/info.json".encode()), CACHE_REVALIDATE])


def _identifier(http: Exchange, stored: StoredSlide) -> str:
    return f"{http.services.address.base(http.scope)}/wsi/iiif/{stored.series}"


async def iiif_information_document(http: Exchange) -> None:
    """info.json."""
    stored = await slide_of(http)
    await send_information(http, stored, _identifier(http, stored))


async def send_information(http: Exchange, stored: StoredSlide, identifier: str) -> None:
    """info.json of a slide that is known by this identifier."""
    base = stored.slide.base
    sizes = [(rung.width, rung.height) for rung in stored.slide.rungs]
    found = iiif_information(identifier, base.width, base.height, _tile_size(stored), sizes)
    await send_document(http, stored, [INFORMATION_TYPE, COMPLIANCE], orjson.dumps(found))


async def iiif_image(http: Exchange) -> None:
    """A picture by region, size, rotation, quality and format."""
    await send_image(http, await slide_of(http))


async def send_image(http: Exchange, stored: StoredSlide) -> None:
    """The picture of a slide that the path describes."""
    query = tile_query(http.scope["query_string"])
    base, path = stored.slide.base, http.path
    asked = parse_iiif(base.width, base.height, path["region"], path["size"], path["rotation"], path["picture"])
    await send_picture(http, stored, asked, query, COMPLIANCE)


_EXAMPLE = "1.2.826.0.1.3680043.8.498.1"
IIIF_REQUEST = (
    "region: full, square, x,y,w,h or pct:x,y,w,h. size: max, w, ,h pct:n w,h !w,h, with ^ to enlarge. rotation: "
    "0, 90, 180 or 270, with ! to mirror. picture: default, color, gray or bitonal, with .jpg or .png."
)
INFORMATION = {
    "@context": "http://iiif.io/api/image/3/context.json",
    "id": f"https://archive.example/wsi/iiif/{_EXAMPLE}",
    "type": "ImageService3",
    "protocol": "http://iiif.io/api/image",
    "profile": "level2",
    "width": 6000,
    "height": 5000,
    "tiles": [{"width": 256, "height": 256, "scaleFactors": [1, 2, 4, 8, 16]}],
}
_DOCUMENT = deepzoom_document(6000, 5000, 256).decode()
OPERATIONS = (
    described(
        "/wsi/deepzoom/{document}",
        "Describe a slide for DeepZoom",
        "The Series Instance UID with `.dzi` at its end, as viewers expect.",
        deepzoom,
        Answer(200, "The document.", (Content("application/xml", _DOCUMENT),)),
    ),
    Operation(
        "GET",
        "/wsi/deepzoom/{files}/{level}/{tile}",
        "dicom.read",
        "Slides",
        "Retrieve a DeepZoom tile",
        "The Series Instance UID with `_files` at its end; `tile` is x_y.jpeg or x_y.png. Levels that are "
        "not stored are made from the next finer one as long as that takes no more than 64 frames a tile.",
        deepzoom_tile,
        PICTURE_ANSWERS,
        CHANNEL,
        errors=ERRORS,
    ),
    described(
        "/wsi/iiif/{series}",
        "Find the description of an image",
        "Redirects to `info.json`.",
        iiif_base,
        Answer(303, "The place of the description."),
    ),
    described(
        "/wsi/iiif/{series}/info.json",
        "Describe a slide for IIIF",
        "Image information of the IIIF Image API 3.0, level 2.",
        iiif_information_document,
        Answer(200, "The description.", (Content("application/ld+json", INFORMATION),)),
    ),
    Operation(
        "GET",
        "/wsi/iiif/{series}/{region}/{size}/{rotation}/{picture}",
        "dicom.read",
        "Slides",
        "Retrieve a picture by IIIF",
        IIIF_REQUEST,
        iiif_image,
        PICTURE_ANSWERS,
        CHANNEL,
        errors=ERRORS,
    ),
)
