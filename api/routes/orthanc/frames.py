"""Frames of instances as images, arrays and stored bytes; encapsulated documents; the order of a series."""

import asyncio
import functools
import zlib
from collections.abc import AsyncIterator
from typing import Final

import numpy as np

from api.exchange import Exchange
from api.responses import Header, ranged, send_bytes, send_stream
from api.routes.frames import send_single
from api.routes.orthanc.addressing import flag_value, number
from api.routes.orthanc.dialect import flag, send_json
from api.routing import Answer, Content, HotHandler, Operation, Parameter
from api.zips import attachment_header
from dicomweb.errors import (
    BadPixels,
    BadQuery,
    NotAcceptable,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from dicomweb.media import FRAME_MEDIA_TYPE_OF, OCTET_STREAM
from dicomweb.negotiation import RetrievePlan, parse_accept
from dicomweb.rendered.arrays import Kind, numpy_archive, numpy_file
from dicomweb.rendered.document import PDF
from dicomweb.rendered.encode import JPEG, PAM, PNG, encode_png
from dicomweb.rendered.parameters import DEFAULT_QUALITY, Rendering, Viewport, Window, parse_number, parse_quality
from storage.retrieve import Instance, Located

_TYPES: Final = (PNG, JPEG, PAM)
_OCTETS: Final[Header] = (b"content-type", OCTET_STREAM.encode())
_LARGEST_SIDE: Final = 16384
_BELOW: Final = (
    "image-int16", "image-uint16", "image-uint8", "matlab", "numpy", "preview", "raw", "raw.gz", "rendered",
)  # fmt: skip
# What stands for an image that cannot be shown, where that is asked for.
_UNSUPPORTED: Final = encode_png(np.full((64, 64), 128, np.uint8))


async def frames(http: Exchange) -> None:
    """The numbers of the frames, from 0."""
    instance = await _instance(http)
    await send_json(http, list(range(await http.archive.retrieve.frame_count(http.access, instance))))


async def frame(http: Exchange) -> None:
    """What can be asked of a frame."""
    await _located(http)
    await send_json(http, _BELOW)


async def picture(http: Exchange, kind: Kind) -> None:
    """A frame as an image."""
    instance, media_type = await _instance(http), _media_type(http)
    quality = _quality(http)
    try:
        body = await http.archive.arrays.picture(http.access, instance, _frame(http), kind, media_type, quality)
    except (BadPixels, NotFound) as error:
        await _refuse(http, error)
        return
    await send_bytes(http, 200, [(b"content-type", media_type.encode())], body)


async def rendered(http: Exchange) -> None:
    """A frame as a viewer shows it."""
    instance, media_type = await _instance(http), _media_type(http)
    wanted = Rendering(_viewport(http), _window(http), _quality(http))
    try:
        image = await http.archive.arrays.image(http.access, instance, _frame(http))
        body = await http.archive.rendering.one(http.access, image, wanted, media_type)
    except (BadPixels, NotFound) as error:
        await _refuse(http, error)
        return
    await send_bytes(http, 200, [(b"content-type", media_type.encode())], body)


async def _refuse(http: Exchange, error: BadPixels | NotFound) -> None:
    """415 for what cannot be shown, or a grey image; 404 for a frame that is not there."""
    if isinstance(error, NotFound) and _frame(http) > 0:
        raise error
    if not flag(http, "returnUnsupportedImage"):
        raise UnsupportedMediaType(error.message) from error
    await send_bytes(http, 200, [(b"content-type", PNG.encode())], _UNSUPPORTED)


async def raw(http: Exchange) -> None:
    """A frame as it is stored."""
    located = await _located(http)
    media_type = FRAME_MEDIA_TYPE_OF.get(located.instance.transfer_syntax, OCTET_STREAM)
    plan = RetrievePlan(False, media_type, "", "none")
    headers: list[Header] = [(b"etag", f'"{located.instance.version}-{_frame(http)}"'.encode())]
    await send_single(http, headers, plan, located)


async def raw_gzip(http: Exchange) -> None:
    """The same as a gzip file."""
    located = await _located(http)
    headers = [(b"content-type", b"application/gzip"), attachment_header(http, "frame.gz")]
    await send_stream(http, 200, headers, None, _gzipped(http.archive.retrieve.values(located)))


async def _gzipped(values: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    async for value in values:
        yield await asyncio.to_thread(packer.compress, value)
    yield packer.flush()


async def matlab(http: Exchange) -> None:
    """A frame as text that Matlab reads."""
    body = await http.archive.arrays.matlab(http.access, await _instance(http), _frame(http))
    await send_bytes(http, 200, [(b"content-type", b"text/plain")], body)


async def numpy_frame(http: Exchange) -> None:
    """A frame as a file of NumPy."""
    instance = await _instance(http)
    array = await http.archive.arrays.one(http.access, instance, _frame(http), rescale=_rescales(http))
    write = numpy_archive if flag(http, "compress") else numpy_file
    await send_bytes(http, 200, [_OCTETS], await asyncio.to_thread(write, array))


async def numpy_instance(http: Exchange) -> None:
    """All frames of an instance as a file of NumPy."""
    await _send_stack(http, [await _instance(http)])


async def numpy_series(http: Exchange) -> None:
    """All frames of a series as a file of NumPy, in the order of its slices."""
    await _send_stack(http, await http.archive.arrays.ordered(http.access, http.path["id"]))


async def _send_stack(http: Exchange, instances: list[Instance]) -> None:
    service, rescale = http.archive.arrays, _rescales(http)
    if flag(http, "compress"):
        await send_bytes(http, 200, [_OCTETS], await service.archive(http.access, instances, rescale=rescale))
    else:
        await send_stream(http, 200, [_OCTETS], None, service.stack(http.access, instances, rescale=rescale))


async def slices(http: Exchange) -> None:
    """The images of a series in the order in which they lie in space."""
    kind, found = await http.archive.arrays.slices(http.access, http.path["id"])
    answer = {
        "Type": kind,
        "Dicom": [f"/instances/{identifier}/file" for identifier, _ in found],
        "Slices": [f"/instances/{identifier}/frames/{n}" for identifier, count in found for n in range(count)],
        "SlicesShort": [[identifier, 0, count] for identifier, count in found],
    }
    await send_json(http, answer)


async def pdf(http: Exchange) -> None:
    """The PDF that an instance holds."""
    instance = await _instance(http)
    rendering = http.archive.rendering
    subject = await rendering.subject(http.access, instance.study, instance.series, instance.sop)
    if subject.kind != "document" or subject.types[0] != PDF:
        raise NotFound("the instance holds no PDF")
    headers = [(b"content-type", PDF.encode()), (b"etag", f'"{instance.version}"'.encode())]
    status, offset, length = ranged(http, headers, subject.size)
    await send_stream(http, status, headers, length, rendering.document(subject, offset, length))


async def _instance(http: Exchange) -> Instance:
    return await http.archive.archives.instance(http.access, http.path["id"])


async def _located(http: Exchange) -> Located:
    instance = await _instance(http)
    place = instance.study, instance.series, instance.sop
    return await http.archive.retrieve.frames(http.access, *place, (_frame(http) + 1,))


def _frame(http: Exchange) -> int:
    text = http.path.get("frame", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise NotFound("a frame is named by its number, from 0")
    return int(text)


def _media_type(http: Exchange) -> str:
    """The first of our types that the client takes best. Raises NotAcceptable."""
    ranges = parse_accept(http.header(b"accept"), None)
    best = max(
        _TYPES, key=lambda kind: max((r.q for r in ranges if _takes(r.media.type, r.media.subtype, kind)), default=0)
    )
    if not any(r.q > 0 and _takes(r.media.type, r.media.subtype, best) for r in ranges):
        raise NotAcceptable("available: " + ", ".join(_TYPES))
    return best


def _takes(main: str, sub: str, kind: str) -> bool:
    return f"{main}/{sub}" == kind or (main in ("*", "image") and sub == "*")


def _quality(http: Exchange) -> int:
    text = http.query_value("quality")
    return DEFAULT_QUALITY if text is None else parse_quality(text, "quality")


def _viewport(http: Exchange) -> Viewport | None:
    width, height = (number(http, name, 0) for name in ("width", "height"))
    if width > _LARGEST_SIDE or height > _LARGEST_SIDE:
        raise BadQuery(f"width and height are {_LARGEST_SIDE} at most", attribute="width")
    return Viewport(width or None, height or None) if width or height else None


def _window(http: Exchange) -> Window | None:
    center, width = http.query_value("window-center"), http.query_value("window-width")
    if center is None or width is None:
        return None
    window = Window(parse_number(center, "window-center"), parse_number(width, "window-width"))
    if not window.usable:
        raise BadQuery("a window is at least 1 wide", attribute="window-width")
    return window


def _rescales(http: Exchange) -> bool:
    return flag_value(http, "rescale") is not False


# -- the table

_INSTANCE: Final = "/instances/{id}"
_FRAME: Final = f"{_INSTANCE}/frames/{{frame}}"
_ACCEPT: Final = Parameter("Accept", "header", "image/png (default), image/jpeg or " + PAM, PNG)
_QUALITY: Final = Parameter("quality", "query", "of JPEG, 1 to 100", "90", kind="integer")
_GREY: Final = Parameter("returnUnsupportedImage", "query", "a grey image instead of 415", "true", kind="boolean")
_LOOK: Final = (
    Parameter("window-center", "query", "middle of the window", "40"),
    Parameter("window-width", "query", "width of the window", "400"),
    Parameter("width", "query", "columns at most", "512", kind="integer"),
    Parameter("height", "query", "rows at most", "512", kind="integer"),
    Parameter("smooth", "query", "taken, as the picture is always smooth", "1"),
)
_PACKED: Final = (
    Parameter("compress", "query", "a compressed .npz file", "true", kind="boolean"),
    Parameter(
        "rescale", "query", "in the unit of the modality, floating point; `false`: as stored", "true", kind="boolean"
    ),
)
_IMAGE: Final = tuple(Content(kind, "(an image)") for kind in _TYPES)
_BYTES: Final = Content(OCTET_STREAM, "(bytes)")
_LIST: Final = Content("application/json", ["preview"])
_ERRORS: Final = (BadPixels, BadQuery, NotAcceptable, NotFound, TooLarge, Unavailable, UnsupportedMediaType)


def _get(
    path: str, about: tuple[str, str], handler: HotHandler, contents: tuple[Content, ...], *parameters: Parameter
) -> Operation:
    return Operation(
        "GET", path, "dicom.read", "Orthanc", *about, handler, (Answer(200, "It.", contents, ("ETag",)),), parameters,
        errors=_ERRORS, orthanc=True,
    )  # fmt: skip


def _pictures(at: str, of: str) -> tuple[Operation, ...]:
    shown: dict[str, tuple[Kind, str]] = {
        "preview": ("preview", "From the least value, black, to the greatest, white."),
        "image-uint8": ("uint8", "Values beyond 0 to 255 are clipped."),
        "image-uint16": ("uint16", "Values beyond 0 to 65535 are clipped."),
        "image-int16": ("int16", "Values beyond -32768 to 32767 are clipped."),
    }
    return (
        *(
            _get(
                f"{at}/{name}",
                (f"Show {of} as {name}", text),
                functools.partial(picture, kind=kind),
                _IMAGE,
                *(_ACCEPT, _QUALITY, _GREY),
            )
            for name, (kind, text) in shown.items()
        ),
        _get(
            f"{at}/rendered",
            (f"Render {of}", "Windowed as the image says, or as asked, and scaled down."),
            rendered,
            _IMAGE,
            *(_ACCEPT, _QUALITY, _GREY, *_LOOK),
        ),
        _get(f"{at}/matlab", (f"Read {of} in Matlab", "An expression for the stored values."), matlab,
             (Content("text/plain", "double([ 1 2 ; 3 4 ])"),)),
    )  # fmt: skip


OPERATIONS = (
    _get(f"{_INSTANCE}/frames", ("List frames", "Their numbers, from 0."), frames, (Content("application/json", [0]),)),
    _get(_FRAME, ("List what can be asked of a frame", "The names of the routes below it."), frame, (_LIST,)),
    *_pictures(_INSTANCE, "an instance"),
    *_pictures(_FRAME, "a frame"),
    _get(f"{_INSTANCE}/numpy", ("Read an instance in NumPy", "(frames, rows, columns, channels); a stream."),
         numpy_instance, (_BYTES,), *_PACKED),
    _get(f"{_FRAME}/numpy", ("Read a frame in NumPy", "(rows, columns, channels)."), numpy_frame, (_BYTES,), *_PACKED),
    _get("/series/{id}/numpy", ("Read a series in NumPy", "All frames of all instances, in the order of the slices."),
         numpy_series, (_BYTES,), *_PACKED),
    _get(f"{_FRAME}/raw", ("Read the stored bytes of a frame", "With the media type of their compression."), raw,
         (_BYTES,)),
    _get(f"{_FRAME}/raw.gz", ("Read the stored bytes of a frame, gzipped", "A gzip file."), raw_gzip,
         (Content("application/gzip", "(bytes)"),)),
    _get(f"{_INSTANCE}/pdf", ("Read the PDF in an instance", "Of encapsulated documents."), pdf,
         (Content(PDF, "(bytes)"),)),
    _get("/series/{id}/ordered-slices", ("Order the slices of a series", "Along their normal, where they have one."),
         slices, (Content("application/json", {"Type": "Volume", "Dicom": [], "Slices": [], "SlicesShort": []}),)),
)  # fmt: skip
