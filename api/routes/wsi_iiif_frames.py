"""IIIF (Image API 3.0, level 2) of single frames, at both addresses that Orthanc's WSI plug-in has for them."""

import functools
from collections.abc import Sequence

import orjson

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, Header, client_has, send_bytes
from api.routes.wado import IF_NONE_MATCH
from api.routes.wsi import PICTURE_ANSWERS
from api.routes.wsi_dialects import COMPLIANCE, IIIF_REQUEST, INFORMATION, INFORMATION_TYPE
from api.routes.wsi_frames import pyramid_of
from api.routing import Answer, Content, HotHandler, Operation, Parameter
from dicomweb.errors import BadPixels, BadQuery, NotFound, Unavailable
from dicomweb.wado import etag
from wsi.dialects import Canvas, iiif_information, iiif_manifest, parse_iiif

MANIFEST_TYPE: Header = (
    b"content-type",
    b'application/ld+json;profile="http://iiif.io/api/presentation/3/context.json"',
)
_TILE = (512, 512)


def iiif_root(http: Exchange) -> str:
    """The absolute URI below which Orthanc's addresses of IIIF are."""
    return f"{http.services.address.base(http.scope)}/wsi/iiif"


def frame_image(http: Exchange, instance: str, number: int, place: str = "frames") -> str:
    """The identifier of a frame (from 0) of an instance as an image."""
    return f"{iiif_root(http)}/{place}/{instance}/{number}"


def _image(http: Exchange, place: str) -> str:
    return frame_image(http, http.path["orthanc_instance"], int(http.path["frame"]), place)


async def base(http: Exchange, place: str) -> None:
    """The URI of the image leads to its description (IIIF Image API 3.0, 2.2)."""
    await pyramid_of(http)
    await send_bytes(http, 303, [(b"location", f"{_image(http, place)}/info.json".encode()), CACHE_REVALIDATE])


async def information(http: Exchange, place: str) -> None:
    """info.json."""
    frame = await pyramid_of(http)
    sizes = [(max(1, frame.size[0] >> n), max(1, frame.size[1] >> n)) for n in range(len(frame.levels))]
    found = iiif_information(_image(http, place), *frame.size, _TILE, sizes)
    await _send(http, [INFORMATION_TYPE, COMPLIANCE], orjson.dumps(found))


async def image(http: Exchange) -> None:
    """A picture by region, size, rotation, quality and format."""
    frame, path = await pyramid_of(http), http.path
    asked = parse_iiif(*frame.size, path["region"], path["size"], path["rotation"], path["picture"])
    tag = etag(frame.name, str(asked)).encode()
    headers: list[Header] = [
        (b"content-type", asked.media_type.encode()), (b"etag", tag), CACHE_REVALIDATE, COMPLIANCE
    ]  # fmt: skip
    if not await client_has(http, headers):
        await send_bytes(http, 200, headers, await http.services.tiles.frames.picture(http.access, frame, asked))


async def frame_manifest(http: Exchange) -> None:
    """manifest.json of one frame."""
    frame, image_of = await pyramid_of(http), _image(http, "frames-pyramids")
    label = f"{frame.number + 1}"
    await send_manifest(http, f"{image_of}/manifest.json", label, [Canvas(image_of, label, *frame.size)])


async def send_manifest(http: Exchange, place: str, label: str, canvases: Sequence[Canvas]) -> None:
    """A manifest, or 304."""
    await _send(http, [MANIFEST_TYPE], orjson.dumps(iiif_manifest(place, label, canvases)))


async def _send(http: Exchange, headers: list[Header], body: bytes) -> None:
    headers = [*headers, (b"etag", etag(body.decode()).encode()), CACHE_REVALIDATE]
    if not await client_has(http, headers):
        await send_bytes(http, 200, headers, body)


_INSTANCE = "66a662ce-7430e543-bad44d47-0dc5a943-ec7a538d"
_PLACE = f"https://archive.example/wsi/iiif/frames-pyramids/{_INSTANCE}/0"
_DOCUMENT = iiif_manifest(f"{_PLACE}/manifest.json", "1", [Canvas(_PLACE, "1", 2048, 1536)])
_NAMED = "The instance is named by its Orthanc identifier; frames count from 0. Any image will do."
_ERRORS = (BadPixels, NotFound, Unavailable)


def _get(
    path: str, summary: str, about: str, handler: HotHandler, answers: tuple[Answer, ...], *more: Parameter
) -> Operation:
    errors = (*_ERRORS, BadQuery) if handler is image else _ERRORS
    return Operation(
        "GET", path, "dicom.read", "Slides", summary, about, handler, answers, more, (), errors, orthanc=True
    )


def _operations(place: str, named: str) -> tuple[Operation, ...]:
    at = f"/wsi/iiif/{place}/{{orthanc_instance}}/{{frame}}"
    described = Answer(200, "The description.", (Content("application/ld+json", INFORMATION),))
    return (
        _get(at, f"Find the description of {named}", f"{_NAMED} Redirects to `info.json`.",
             functools.partial(base, place=place), (Answer(303, "The place of the description."),)),
        _get(f"{at}/info.json", f"Describe {named} for IIIF",
             f"{_NAMED} Image information of the IIIF Image API 3.0, level 2.",
             functools.partial(information, place=place), (described, Answer(304, "Not modified.")), IF_NONE_MATCH),
        _get(f"{at}/{{region}}/{{size}}/{{rotation}}/{{picture}}", f"Retrieve a picture of {named} by IIIF",
             f"{_NAMED} {IIIF_REQUEST}", image, PICTURE_ANSWERS, IF_NONE_MATCH),
    )  # fmt: skip


OPERATIONS = (
    *_operations("frames", "a frame"),
    *_operations("frames-pyramids", "a frame, as a pyramid,"),
    _get("/wsi/iiif/frames-pyramids/{orthanc_instance}/{frame}/manifest.json", "Retrieve the IIIF manifest of a frame",
         f"{_NAMED} A manifest of the IIIF Presentation API 3.0, whose one canvas is the frame.", frame_manifest,
         (Answer(200, "The manifest.", (Content("application/ld+json", _DOCUMENT),)), Answer(304, "Not modified.")),
         IF_NONE_MATCH),
)  # fmt: skip
