"""Whole slides: manifests, tiles, regions; and the routes of Orthanc's WSI plug-in."""

from dataclasses import dataclass
from functools import lru_cache

import orjson

from api.exchange import Exchange, parse_query
from api.responses import JSON, Header, cache_control, client_has, send_bytes
from api.routes.wado import IF_NONE_MATCH
from api.routing import Answer, Content, HotHandler, Operation, Parameter
from dicomweb.errors import BadPixels, BadQuery, BadRequest, NotAcceptable, NotFound, TooLarge, Unavailable
from dicomweb.negotiation import parse_accept, plan_rendered
from dicomweb.rendered.encode import JPEG, PNG, TIFF
from dicomweb.rendered.parameters import parse_profile, parse_window
from dicomweb.slides.jpeg import JPEG_SYNTAXES
from dicomweb.slides.levels import Rung
from dicomweb.uids import checked_uid
from dicomweb.wado import etag
from storage.slides import StoredSlide
from wsi.blending import parse_components
from wsi.compose import MAX_FRAMES
from wsi.dialects import Asked, PictureType, parse_region
from wsi.manifest import manifest, mpp_of, orthanc_pyramid
from wsi.tiles import Channel, MediaType, Tile

_FORMATS: dict[str, PictureType] = {"jpeg": JPEG, "jpg": JPEG, "png": PNG, "tiff": TIFF, "tif": TIFF}
_REGION = frozenset(("region", "unit", "width", "height", "mpp", "format"))
_THUMBNAIL_SIDE = 256
_SHORT_QUERY = 256


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters of a tile: which picture of the place, its type, and the version that the URL names."""

    channel: Channel
    media_type: PictureType | None
    version: str | None


def tile_query(raw: bytes) -> Query:
    """The parameters in a query string; viewers send the same one with every tile. Raises BadQuery."""
    return _known_query(raw) if len(raw) <= _SHORT_QUERY else _parsed_query(raw)


@lru_cache(maxsize=1024)
def _known_query(raw: bytes) -> Query:
    return _parsed_query(raw)


def _parsed_query(raw: bytes) -> Query:
    pairs = parse_query(raw)
    given = dict(pairs)
    blend = parse_components([value for name, value in pairs if name == "channel"])
    if blend and not given.keys().isdisjoint(("path", "window")):
        raise BadQuery("a channel says its path and window itself", attribute="channel")
    focal, name = given.get("focal"), given.get("format")
    if focal is not None and not (focal.isascii() and focal.isdigit() and len(focal) < 6):
        raise BadQuery("a focal plane is a number from 0", attribute="focal")
    if name is not None and name not in _FORMATS:
        raise BadQuery("a format is jpeg or png, and tiff of regions", attribute="format")
    window = parse_window(given["window"]) if "window" in given else None
    profile = parse_profile(given.get("iccprofile", "no"))
    channel = Channel(given.get("path"), None if focal is None else int(focal), window, profile, blend)
    return Query(channel, None if name is None else _FORMATS[name], given.get("v"))


async def slide_of(http: Exchange) -> StoredSlide:
    """The slide of the series in the path."""
    return await http.services.tiles.slide(http.access, checked_uid(http.path["series"], "series"))


def place_of(http: Exchange, *names: str) -> list[int]:
    """Numbers in the path; what is none names no tile. Raises NotFound."""
    texts = [http.path[name] for name in names]
    if not all(text.isascii() and text.isdigit() and len(text) <= 10 for text in texts):
        raise NotFound("there is no such tile")
    return [int(text) for text in texts]


def rung_at(rungs: tuple[Rung, ...], level: int) -> Rung:
    """A level by its number, 0 is the finest. Raises NotFound."""
    if level >= len(rungs):
        raise NotFound(f"the slide has {len(rungs)} levels, numbered from 0, the finest one")
    return rungs[level]


async def slide(http: Exchange) -> None:
    """The manifest."""
    stored = await slide_of(http)
    base = f"{http.services.address.base(http.scope)}/wsi/slides/{stored.series}"
    manifests, key = http.services.tiles.manifests, (http.access.tenant, base)
    held = manifests.get(key, stored.version)
    if held is None:
        held = (orjson.dumps(manifest(stored, base, http.root_url)),)
        manifests.put(key, stored.version, held)
    await send_described(http, stored, held[0], base)


async def send_described(http: Exchange, stored: StoredSlide, answer: bytes, *parts: str) -> None:
    """A JSON document about a slide; `parts` of what decides it, beside the version of the series."""
    tag = etag(stored.name, http.operation.path, *parts)
    headers: list[Header] = [
        JSON,
        (b"etag", tag.encode()),
        cache_control(http.query_value("v"), stored.name),
    ]
    if not await client_has(http, headers):
        await send_bytes(http, 200, headers, answer)


async def tile(http: Exchange) -> None:
    """One tile."""
    level, x, y = place_of(http, "level", "x", "y")
    query = tile_query(http.scope["query_string"])
    if query.media_type == TIFF:
        raise BadQuery("a tile is jpeg or png", attribute="format")
    series = checked_uid(http.path["series"], "series")
    stored = await http.services.tiles.slide(http.access, series, query.version)
    rung = rung_at(stored.slide.rungs, level)
    await send_tile(http, http.services.tiles.tile(stored, rung, x, y, query.channel, query.media_type), query.version)


async def send_tile(http: Exchange, found: Tile, version: str | None, *more: Header) -> None:
    """The tile, or 304."""
    tag = etag(found.tag)
    headers: list[Header] = [
        (b"content-type", found.media_type.encode()),
        (b"etag", tag.encode()),
        cache_control(version, found.stored.name),
        *more,
    ]
    if not await client_has(http, headers):
        await send_bytes(http, 200, headers, await http.services.tiles.body(http.access, found))


async def region(http: Exchange) -> None:
    """A part of the slide at any size."""
    await _send_region(http, {})


async def thumbnail(http: Exchange) -> None:
    """The whole slide, small."""
    await _send_region(http, {"width": str(_THUMBNAIL_SIDE)})


async def _send_region(http: Exchange, default: dict[str, str]) -> None:
    given = dict(http.query())
    query = tile_query(http.scope["query_string"])
    stored = await slide_of(http)
    base = stored.slide.base
    wanted = {name: value for name, value in given.items() if name in _REGION}
    if not {"width", "height", "mpp"} & set(wanted):
        wanted |= default
    asked = parse_region(base.width, base.height, wanted, mpp_of(stored.slide, stored.slide.rungs[0]))
    await send_picture(http, stored, asked, query)


async def send_picture(
    http: Exchange, stored: StoredSlide, asked: Asked, query: Query, *more: Header, limit: int = MAX_FRAMES
) -> None:
    """A picture of a slide, made of `limit` frames at most, or 304."""
    tag = etag(stored.name, str(asked), str(query.channel))
    headers: list[Header] = [
        (b"content-type", asked.media_type.encode()),
        (b"etag", tag.encode()),
        cache_control(query.version, stored.name),
        *more,
    ]
    if await client_has(http, headers):
        return
    body = await http.services.tiles.picture(http.access, stored, asked, query.channel, limit)
    await send_bytes(http, 200, headers, body)


# -- Orthanc


async def orthanc_slide(http: Exchange, version: str | None = None) -> StoredSlide:
    """The slide of the series whose Orthanc identifier is in the path."""
    series = await http.archive.slides.series_of(http.access, http.path["orthanc"])
    return await http.services.tiles.slide(http.access, series, version)


async def orthanc_pyramids(http: Exchange) -> None:
    """The levels, as Orthanc describes them."""
    stored = await orthanc_slide(http)
    answer = orjson.dumps(orthanc_pyramid(stored, http.path["orthanc"]))
    await send_described(http, stored, answer, http.path["orthanc"])


async def orthanc_tile(http: Exchange) -> None:
    """A tile of the pyramid: as it is stored where that is JPEG, else PNG, or what Accept asks for."""
    z, x, y = place_of(http, "z", "x", "y")
    query = tile_query(http.scope["query_string"])
    stored = await orthanc_slide(http, query.version)
    rung = rung_at(tuple(rung for rung in stored.slide.rungs if rung.factor == 1), z)
    level = stored.slide.levels[rung.level]
    place = next(iter(level.maps.values())).instances[0]
    types = (JPEG, PNG) if stored.instances[place].transfer_syntax in JPEG_SYNTAXES else (PNG, JPEG)
    plan = plan_rendered(parse_accept(http.header(b"accept"), None), types)
    media_type: MediaType = "image/png" if plan.media_type == PNG else "image/jpeg"
    found = http.services.tiles.tile(stored, rung, x, y, query.channel, media_type)
    await send_tile(http, found, query.version, (b"vary", b"Accept"))


_SERIES = "1.2.826.0.1.3680043.8.498.1"
_LEVEL = {
    "level": 0, "width": 6000, "height": 5000, "tile_width": 256, "tile_height": 256, "columns": 24, "rows": 20,
    "downsample": 1.0, "mpp": [0.25, 0.25], "stored": True, "derived": False,
}  # fmt: skip
_MANIFEST = {
    "series": _SERIES,
    "study": "1.2.826.0.1.3680043.8.498.2",
    "version": "2a",
    "width": 6000,
    "height": 5000,
    "mpp": [0.25, 0.25],
    "objective_power": 40.0,
    "background": "#ffffff",
    "levels": [_LEVEL],
    "tiles": f"https://archive.example/wsi/slides/{_SERIES}/tiles/{{level}}/{{x}}/{{y}}?v=2a",
    "blended": None,
    "optical_paths": [
        {
            "identifier": "1",
            "description": "Brightfield",
            "wavelength_nm": None,
            "icc_profile": True,
            "colour": None,
            "window": None,
        }
    ],
    "shades": None,
    "focal_planes": {"z_um": [0.0], "default": 0},
    "images": {},
    "icc": ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    "coordinates": {
        "frame_of_reference": "1.2.826.0.1.3680043.8.498.3",
        "origin_mm": [5.0, 5.0],
        "orientation": [0, 1, 0, 1, 0, 0],
    },
    "problems": [],
}
_PYRAMID = {
    "ID": "0d0f8b3c-6a1f9d7f-4a4e7a37-7c9c0f0a-8a0e7b55",
    "Resolutions": [1.0, 2.0],
    "Sizes": [[6000, 5000], [3000, 2500]],
    "TilesCount": [[24, 20], [12, 10]],
    "TilesSizes": [[256, 256], [256, 256]],
    "TotalWidth": 6000,
    "TotalHeight": 5000,
    "BackgroundColor": "#ffffff",
}
VERSION = Parameter("v", "query", "version in the manifest, for immutable caching", "2a")
CHANNEL = (
    Parameter("path", "query", "Optical Path Identifier; the first one without it", "1"),
    Parameter("focal", "query", "focal plane by its place in the manifest; the middle one without it", "0"),
    Parameter("window", "query", "center,width,function of shades, as of rendered images", "2048,4096,linear"),
    Parameter(
        "channel",
        "query",
        "path:low:high:rrggbb, up to 8 times: these paths are blended; empty parts: as the manifest says",
        "DAPI:0:4000:0000ff",
    ),
    Parameter("iccprofile", "query", "no, yes (embedded), srgb, adobergb or rommrgb (converted)", "srgb"),
    VERSION,
    IF_NONE_MATCH,
)
_FORMAT = Parameter("format", "query", "jpeg or png", "jpeg")
_REGION_FORMAT = Parameter("format", "query", "jpeg, png or tiff", "tiff")
_SIZE = (
    Parameter("width", "query", "width of the picture in pixels", "800"),
    Parameter("height", "query", "height of the picture in pixels", "600"),
)
PICTURES = (Content(JPEG, "(a JPEG file)"), Content(PNG, "(a PNG file)"))
PICTURE_ANSWERS = (Answer(200, "The picture.", PICTURES), Answer(304, "Not modified."))
_REGION_ANSWERS = (
    Answer(200, "The picture.", (*PICTURES, Content(TIFF, "(a TIFF file)"))),
    Answer(304, "Not modified."),
)
ERRORS = (BadPixels, BadQuery, NotFound, TooLarge, Unavailable)


def described(
    path: str, summary: str, description: str, handler: HotHandler, answer: Answer, *, orthanc: bool = False
) -> Operation:
    """An operation that describes a slide."""
    answers = (answer, Answer(304, "Not modified."))
    parameters = (VERSION, IF_NONE_MATCH)
    return Operation(
        "GET", path, "dicom.read", "Slides", summary, description, handler, answers, parameters,
        errors=(BadRequest, NotFound, Unavailable), orthanc=orthanc,
    )  # fmt: skip


def _pictured(
    path: str, summary: str, description: str, handler: HotHandler, parameters: tuple[Parameter, ...]
) -> Operation:
    answers = _REGION_ANSWERS if _REGION_FORMAT in parameters else PICTURE_ANSWERS
    return Operation(
        "GET", path, "dicom.read", "Slides", summary, description, handler, answers, parameters, errors=ERRORS
    )


_BASE = "/wsi/slides/{series}"
OPERATIONS = (
    described(
        _BASE,
        "Describe a slide",
        "Levels with the size of their tiles, micrometres a pixel, optical paths, focal planes, label, overview and "
        "thumbnail, and the problems that were found. The template of tile URLs carries the version.",
        slide,
        Answer(200, "The manifest.", (Content("application/json", _MANIFEST),)),
    ),
    _pictured(
        _BASE + "/tiles/{level}/{x}/{y}",
        "Retrieve a tile",
        "Level 0 is the finest. A baseline JPEG frame leaves as it is stored; other frames are decoded, encoded and "
        "kept. A tile that was not scanned has the background's colour; outside the level there is none.",
        tile,
        (*CHANNEL, _FORMAT),
    ),
    _pictured(
        _BASE + "/region",
        "Retrieve a region of a slide",
        "Any part at any size, from the level that is just fine enough. TIFF is compressed without loss and says how "
        "large its pixels are.",
        region,
        (
            Parameter("region", "query", "x,y,width,height in the unit; without it the whole", "1000,800,500,400"),
            Parameter("unit", "query", "px (of the finest level), um or percent", "um"),
            *_SIZE,
            Parameter("mpp", "query", "micrometres a pixel of the picture, instead of its size", "1.0"),
            *CHANNEL,
            _REGION_FORMAT,
        ),
    ),
    _pictured(
        _BASE + "/thumbnail",
        "Retrieve a small picture of a slide",
        "The whole slide, 256 pixels wide unless a size is given.",
        thumbnail,
        (*_SIZE, *CHANNEL, _REGION_FORMAT),
    ),
    described(
        "/wsi/pyramids/{orthanc}",
        "Describe a slide as Orthanc does",
        "The series is named by its Orthanc identifier. Levels that are stored, or were derived, are listed.",
        orthanc_pyramids,
        Answer(200, "The pyramid.", (Content("application/json", _PYRAMID),)),
        orthanc=True,
    ),
    Operation(
        "GET",
        "/wsi/tiles/{orthanc}/{z}/{x}/{y}",
        "dicom.read",
        "Slides",
        "Retrieve a tile as Orthanc does",
        "The series is named by its Orthanc identifier; z counts the levels of the pyramid, 0 is the finest. "
        "JPEG frames leave as they are stored, others as PNG, unless Accept asks for one of the two.",
        orthanc_tile,
        PICTURE_ANSWERS,
        (Parameter("Accept", "header", "image/jpeg or image/png", "image/png"), *CHANNEL),
        errors=(*ERRORS, NotAcceptable),
        orthanc=True,
    ),
)
