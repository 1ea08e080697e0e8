"""WADO-RS: rendered resources and thumbnails (PS3.18 10.4.1.1.3 and 10.4.1.1.4)."""

from collections.abc import AsyncIterator, Sequence

from api.exchange import Exchange
from api.responses import (
    CACHE_REVALIDATE,
    Header,
    cache_control,
    etag_matches,
    send_bytes,
    send_not_modified,
    send_stream,
)
from api.routes.frames import send_single
from api.routes.wado import IF_NONE_MATCH, uids_of
from api.routing import Answer, Content, HotHandler, Operation, Parameter
from dicomweb.errors import BadPixels, BadQuery, BadRequest, NotAcceptable, NotFound, Unavailable
from dicomweb.media import FRAME_MEDIA_TYPE_OF
from dicomweb.multipart import Writer, part_headers
from dicomweb.negotiation import MediaRange, RetrievePlan, parse_accept, plan_rendered
from dicomweb.rendered.attributes import text
from dicomweb.rendered.parameters import RenderOptions, parse_options
from dicomweb.rendered.report import report_html
from dicomweb.wado import bulk_path_of, etag, parse_frame_list
from storage.pixels import Image
from storage.rendering import GIF, JPEG, PNG, is_report
from storage.retrieve import Instance

_STILL = (JPEG, PNG, GIF)
_HTML = "text/html"
_PDF = "application/pdf"
# Documents that a browser does not run; others are left to /bulkdata, as bytes.
_DOCUMENTS = frozenset((_PDF, "text/xml", "application/xml", "model/stl", "model/obj", "model/mtl"))
_DOCUMENT, _DOCUMENT_TYPE = "00420011", "00420012"
# What was stored by strangers runs nothing and loads nothing.
_HARMLESS: Header = (
    b"content-security-policy",
    b"default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; sandbox",
)


async def rendered_frames(http: Exchange) -> None:
    """Frames of the path's list: one as a single part, several as multipart."""
    study, series, sop = uids_of(http)
    numbers = parse_frame_list(http.path["frames"], http.settings.max_frames_per_request)
    options, ranges = parse_options(http.query()), _accepted(http)
    image = await http.archive.pixels.image(http.access, study, str(series), str(sop), numbers)
    await send_image(http, image, plan_rendered(ranges, _STILL, several=len(numbers) > 1), options)


async def rendered_instance(http: Exchange) -> None:
    """An instance in a form for people: image, animation, video, document or report."""
    study, series, sop = uids_of(http)
    instance = await http.archive.retrieve.instance(http.access, study, series, str(sop))
    await send_instance(http, instance, parse_options(http.query()), _accepted(http))


async def send_instance(
    http: Exchange, instance: Instance, options: RenderOptions, ranges: tuple[MediaRange, ...]
) -> None:
    """Answer with an instance in a form for people: image, animation, video, document or report."""
    rendering = http.archive.rendering
    video = FRAME_MEDIA_TYPE_OF.get(instance.transfer_syntax, "")
    if video.startswith("video/"):
        located = await http.archive.retrieve.frames(http.access, instance.study, instance.series, instance.sop, [1])
        plan = plan_rendered(ranges, (video,))
        await send_single(http, _headers(http, instance, plan.media_type), plan, located)
        return
    if is_report(instance):
        await _send_report(http, instance, ranges)
        return
    dataset = await rendering.dataset(http.access, instance)
    if _DOCUMENT in dataset:
        await _send_document(http, instance, dataset, ranges)
        return
    plan = plan_rendered(ranges, _STILL)
    if plan.media_type == GIF:
        numbers: Sequence[int] = await rendering.animated_frames(http.access, instance)
        image = await rendering.image(http.access, instance, numbers)
        headers = _headers(http, instance, GIF, repr(options))
        if not await _unchanged(http, headers):
            headers.append((b"content-type", GIF.encode()))
            await send_bytes(http, 200, headers, await rendering.animation(http.access, image, options))
        return
    numbers = await rendering.all_frames(http.access, instance) if plan.multipart else [1]
    await send_image(http, await rendering.image(http.access, instance, numbers), plan, options)


async def send_image(http: Exchange, image: Image, plan: RetrievePlan, options: RenderOptions) -> None:
    """Answer with frames as pictures, by `plan`."""
    rendering, instance = http.archive.rendering, image.instance
    headers = _headers(http, instance, plan.media_type, repr(options), str(image.frames), str(plan.multipart))
    if await _unchanged(http, headers):
        return
    if not plan.multipart:
        headers.append((b"content-type", plan.media_type.encode()))
        await send_bytes(http, 200, headers, await rendering.frame(http.access, image, options, plan.media_type))
        return
    writer = Writer(f"anor-{instance.version}")
    headers.append((b"content-type", writer.content_type(plan.media_type).encode()))
    frames = rendering.frames(http.access, image, options, plan.media_type)
    await send_stream(http, 200, headers, None, _parts(http, image, frames, plan.media_type, writer))


async def _parts(
    http: Exchange, image: Image, frames: AsyncIterator[bytes], media_type: str, writer: Writer
) -> AsyncIterator[bytes]:
    i = image.instance
    base = f"{http.root_url}/studies/{i.study}/series/{i.series}/instances/{i.sop}/frames/"
    position = 0
    async for frame in frames:
        location = f"{base}{image.frames[position]}/rendered"
        position += 1
        yield writer.part_head(part_headers(media_type, "", location)) + frame
    yield writer.tail()


async def _send_report(http: Exchange, instance: Instance, ranges: tuple[MediaRange, ...]) -> None:
    plan = plan_rendered(ranges, (_HTML,))
    headers = _headers(http, instance, plan.media_type)
    if not await _unchanged(http, headers):
        dataset = await http.archive.rendering.dataset(http.access, instance)
        headers += [(b"content-type", b"text/html; charset=utf-8"), _HARMLESS]
        await send_bytes(http, 200, headers, report_html(dataset))


async def _send_document(
    http: Exchange, instance: Instance, dataset: dict[str, object], ranges: tuple[MediaRange, ...]
) -> None:
    """An encapsulated document as what it is (PS3.3 C.24.2)."""
    kind = text(dataset, _DOCUMENT_TYPE).strip().lower()
    if kind not in _DOCUMENTS:
        raise NotAcceptable(
            "a document of this type is served as bulk data only", attribute="MIMETypeOfEncapsulatedDocument"
        )
    plan = plan_rendered(ranges, (kind,))
    element = dataset[_DOCUMENT]
    uri = element.get("BulkDataURI") if isinstance(element, dict) else None
    if uri is None:
        raise BadPixels("the document is empty", attribute="EncapsulatedDocument")
    retrieve = http.archive.retrieve
    path = bulk_path_of(uri)
    located = await retrieve.bulk(http.access, instance.study, instance.series, instance.sop, path)
    headers = [*_headers(http, instance, plan.media_type), _HARMLESS, (b"content-disposition", b"inline")]
    await send_single(http, headers, plan, located)


async def rendered_group(http: Exchange) -> None:
    """A study or series: its middle image as a single part, or every instance's first frame as multipart."""
    study, series, _ = uids_of(http)
    options, ranges = parse_options(http.query()), _accepted(http)
    rendering = http.archive.rendering
    plan = plan_rendered(ranges, _STILL)
    if not plan.multipart:
        instance = await rendering.representative(http.access, study, series)
        await send_instance(http, instance, options, ranges)
        return
    version, instances = await http.archive.retrieve.instances(http.access, study, series)
    shown = [each for each in instances if each.bits_allocated is not None]
    headers: list[Header] = [
        (b"etag", etag(f"{version:x}", plan.media_type, repr(options)).encode()),
        (b"vary", b"Accept"),
        CACHE_REVALIDATE,
    ]
    if await _unchanged(http, headers):
        return
    writer = Writer(f"anor-{version:x}")
    headers.append((b"content-type", writer.content_type(plan.media_type).encode()))
    await send_stream(http, 200, headers, None, _instances(http, shown, options, plan.media_type, writer))


async def _instances(
    http: Exchange, instances: Sequence[Instance], options: RenderOptions, media_type: str, writer: Writer
) -> AsyncIterator[bytes]:
    rendering = http.archive.rendering
    for i in instances:
        try:
            data = await rendering.frame(http.access, await rendering.image(http.access, i, [1]), options, media_type)
        except (BadPixels, NotFound):
            continue  # what cannot be shown does not keep back its neighbours
        location = f"{http.root_url}/studies/{i.study}/series/{i.series}/instances/{i.sop}/rendered"
        yield writer.part_head(part_headers(media_type, "", location)) + data
    yield writer.tail()


async def thumbnail(http: Exchange) -> None:
    """A small image that stands for a study, series, instance or frame."""
    study, series, sop = uids_of(http)
    options = parse_options(http.query(), thumbnail=True)
    plan = plan_rendered(_accepted(http), (JPEG, PNG))
    rendering = http.archive.rendering
    if sop is None:
        instance = await rendering.representative(http.access, study, series)
    else:
        instance = await http.archive.retrieve.instance(http.access, study, series, sop)
    frame = parse_frame_list(http.path["frames"], 1)[0] if "frames" in http.path else None
    headers = _headers(http, instance, plan.media_type, "thumbnail", repr(options), str(frame))
    if await _unchanged(http, headers):
        return
    data = await rendering.thumbnail(http.access, instance, frame, options, plan.media_type)
    headers.append((b"content-type", plan.media_type.encode()))
    await send_bytes(http, 200, headers, data)


def _accepted(http: Exchange) -> tuple[MediaRange, ...]:
    return parse_accept(http.header(b"accept"), http.query_value("accept"))


def _headers(http: Exchange, instance: Instance, *what: str) -> list[Header]:
    return [
        (b"etag", etag(instance.sop, instance.version, *what).encode()),
        (b"vary", b"Accept"),
        cache_control(http.query_value("v"), instance.version),
    ]


async def _unchanged(http: Exchange, headers: list[Header]) -> bool:
    """Answer 304 where the client has this very representation."""
    if not etag_matches(http.header(b"if-none-match"), headers[0][1].decode()):
        return False
    await send_not_modified(http, headers)
    return True


_ACCEPT = Parameter("Accept", "header", "image/jpeg (default), image/png, image/gif; or multipart/related", JPEG)
_VIEWPORT = Parameter("viewport", "query", "width,height to fit into; x,y,width,height of a region", "256,256")
_PARAMETERS = (
    _ACCEPT,
    Parameter("accept", "query", "replaces the Accept header", PNG),
    _VIEWPORT,
    Parameter("window", "query", "center,width and linear, linear-exact or sigmoid", "40,400,linear"),
    Parameter("quality", "query", "of JPEG, 1 to 100", "90"),
    Parameter("annotation", "query", "patient, technique: burned in, with overlays", "technique"),
    Parameter("iccprofile", "query", "no, yes, srgb, adobergb, rommrgb", "yes"),
    IF_NONE_MATCH,
)
_ERRORS = (BadRequest, BadQuery, BadPixels, NotFound, NotAcceptable, Unavailable)
_STUDY = "{root}/studies/{study}"
_SERIES = _STUDY + "/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"
_RENDERED_TEXT = (
    "Modality LUT, VOI window or LUT and Presentation LUT applied. Multi-frame instances as an animated GIF where that "
    "is asked for, reports as HTML, encapsulated documents and video as they are."
)
_THUMBNAIL_TEXT = "The middle frame of the middle image, 200 x 200 pixels at most unless `viewport` says another size."


def _operation(path: str, what: str, handler: HotHandler, summary: str, parameters: tuple[Parameter, ...]) -> Operation:
    bodies = tuple(Content(kind, "(the bytes of an image)") for kind in (JPEG, PNG))
    answers = (Answer(200, "The image.", bodies), Answer(304, "Not modified."))
    note = _THUMBNAIL_TEXT if handler is thumbnail else _RENDERED_TEXT
    return Operation(
        "GET", path, "dicom.read", "WADO-RS", f"{summary} of {what}", note, handler, answers, parameters, errors=_ERRORS
    )


def _both(path: str, what: str, handler: HotHandler) -> tuple[Operation, Operation]:
    return (
        _operation(f"{path}/rendered", what, handler, "Rendered image", _PARAMETERS),
        _operation(f"{path}/thumbnail", what, thumbnail, "Thumbnail", (_ACCEPT, _VIEWPORT, IF_NONE_MATCH)),
    )


OPERATIONS = (
    *_both(_STUDY, "a study", rendered_group),
    *_both(_SERIES, "a series", rendered_group),
    *_both(_INSTANCE, "an instance", rendered_instance),
    *_both(_INSTANCE + "/frames/{frames}", "frames", rendered_frames),
)
