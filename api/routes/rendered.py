"""Rendered resources (PS3.18 10.4.1.1.3)."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from api.exchange import Exchange
from api.parts import parts_of
from api.responses import (
    CACHE_REVALIDATE,
    Header,
    accepted,
    client_has,
    ranged,
    send_bytes,
    send_stream,
    versioned,
    warning,
)
from api.routes.wado import IF_NONE_MATCH, uids_of
from api.routing import INSTANCE, SERIES, STUDY, Answer, Content, HotHandler, Operation, Parameter, instance_url
from dicomweb.errors import (
    ArchiveError,
    BadPixels,
    BadQuery,
    BadRequest,
    NotAcceptable,
    NotFound,
    RangeNotSatisfiable,
    TooLarge,
    Unavailable,
)
from dicomweb.multipart import Writer, part_headers
from dicomweb.negotiation import MediaRange, RetrievePlan, plan_rendered
from dicomweb.rendered.document import PDF
from dicomweb.rendered.encode import GIF
from dicomweb.rendered.parameters import Rendering, parse_rendering
from dicomweb.rendered.report import HTML, PLAIN, REPORT_TYPES, XML
from dicomweb.wado import etag, parse_frame_list
from storage.retrieve import Instance
from storage.subject import Subject, types_of

# What a stranger wrote is shown without scripts, forms or an origin; a browser's own PDF viewer needs more than that.
_SANDBOX: Final[Header] = (b"content-security-policy", b"default-src 'none'; sandbox")
_ATTACHMENT: Final[Header] = (b"content-disposition", b"attachment")


async def rendered_instance(http: Exchange) -> None:
    """An instance, or frames of it."""
    study, series, sop = uids_of(http)
    assert series is not None
    assert sop is not None
    wanted, ranges = parse_rendering(http.query()), accepted(http)
    frames = None
    if "frames" in http.path:
        frames = parse_frame_list(http.path["frames"], http.settings.max_frames_per_request)
    subject = await http.archive.rendering.subject(http.access, study, series, sop, frames)
    await send_rendered(http, subject, ranges, wanted, whole=frames is None)


async def send_rendered(
    http: Exchange, subject: Subject, ranges: tuple[MediaRange, ...], wanted: Rendering, *, whole: bool
) -> None:
    """Answer with a subject. `whole`: GIF and multipart carry every frame of the instance, not only those located."""
    frames = () if subject.kind != "image" else subject.picture.frames
    # An animation is one picture of many frames; every other type has one frame in a part.
    plan = plan_rendered(ranges, subject.types, several=len(frames) > 1 and not _wants_gif(ranges, subject.types))
    version = subject.instance.version
    tag = etag(
        version,
        "all" if whole else str(frames),
        str(plan.multipart),
        plan.media_type,
        http.archive.rendering.look(wanted),
    )
    headers = versioned(http, tag, version)
    if await client_has(http, headers):
        return
    if plan.multipart:
        writer = Writer(f"anor-{version}")
        headers.append((b"content-type", writer.content_type(plan.media_type).encode()))
        await send_stream(http, 200, headers, None, _frame_parts(http, subject, plan, wanted, writer, whole=whole))
    elif subject.kind in {"video", "document"}:
        await _send_stored(http, headers, subject, plan)
    else:
        headers.append((b"content-type", _content_type(plan.media_type)))
        if subject.kind == "report":
            headers.append(_SANDBOX)
        await send_bytes(http, 200, headers, await _body(http, subject, plan, wanted, whole=whole))


def _wants_gif(ranges: tuple[MediaRange, ...], available: tuple[str, ...]) -> bool:
    plan = plan_rendered(ranges, available)
    return plan.media_type == GIF and not plan.multipart


def _content_type(media_type: str) -> bytes:
    return f"{media_type}; charset=utf-8".encode() if media_type in REPORT_TYPES else media_type.encode()


async def _body(http: Exchange, subject: Subject, plan: RetrievePlan, wanted: Rendering, *, whole: bool) -> bytes:
    """The one picture or page of a subject."""
    rendering = http.archive.rendering
    if subject.kind == "report":
        return await rendering.report(http.access, subject, wanted, plan.media_type)
    image = subject.picture
    if whole and plan.media_type == GIF:
        image = await rendering.whole(http.access, image)
    return await rendering.one(http.access, image, wanted, plan.media_type)


async def _send_stored(http: Exchange, headers: list[Header], subject: Subject, plan: RetrievePlan) -> None:
    """A document or video as it is stored, or the part of it that Range asks for."""
    size = subject.size
    headers.append((b"content-type", plan.media_type.encode()))
    if subject.kind == "document" and plan.media_type != PDF:
        headers += [_SANDBOX, _ATTACHMENT]
    status, offset, length = ranged(http, headers, size)
    body = http.archive.rendering.document(subject, offset, length)
    await send_stream(http, status, headers, length, body)


async def _frame_parts(
    http: Exchange, subject: Subject, plan: RetrievePlan, wanted: Rendering, writer: Writer, *, whole: bool
) -> AsyncIterator[bytes]:
    """A part for each frame of an image, one part for anything else."""
    rendering, location = http.archive.rendering, _location(http, subject.instance)
    if subject.kind != "image" or (whole and plan.media_type == GIF):
        yield writer.part_head(part_headers(plan.media_type, location=f"{location}/rendered"))
        async for chunk in _whole_body(http, subject, plan, wanted):
            yield chunk
        yield writer.tail()
    else:
        image = await rendering.whole(http.access, subject.picture) if whole else subject.picture
        places = [f"{location}/frames/{number}/rendered" for number in image.frames]
        parts = [(place, part_headers(plan.media_type, location=place)) for place in places]
        async for chunk in parts_of(http, writer, rendering.each(http.access, image, wanted, plan.media_type), parts):
            yield chunk


async def _whole_body(http: Exchange, subject: Subject, plan: RetrievePlan, wanted: Rendering) -> AsyncIterator[bytes]:
    if subject.kind in {"image", "report"}:
        yield await _body(http, subject, plan, wanted, whole=True)
        return
    async for chunk in http.archive.rendering.document(subject, 0, subject.size):
        yield chunk


def _location(http: Exchange, instance: Instance) -> str:
    return instance_url(http.root_url, instance.study, instance.series, instance.sop)


# -- studies and series


async def rendered_instances(http: Exchange) -> None:
    """The instances of a study or series that have a rendered form of an accepted type, a part each."""
    study, series, _ = uids_of(http)
    wanted, ranges = parse_rendering(http.query()), accepted(http)
    version, every = await http.archive.rendering.instances(http.access, study, series)
    plans = [(instance, _plan_of(instance, ranges)) for instance in every]
    chosen = [(instance, plan) for instance, plan in plans if plan is not None]
    if not chosen:
        available = sorted({media_type for instance in every for media_type in types_of(instance)})
        if not available:
            raise NotFound("nothing here has a rendered form")
        raise NotAcceptable(f"nothing here has an accepted rendered form; available: {', '.join(available)}")
    limit = http.settings.max_frames_per_request
    if len(chosen) > limit:
        raise TooLarge(f"one answer has {limit} rendered instances at most, not {len(chosen)}: ask by series")
    types = {plan.media_type for _, plan in chosen}
    tag = etag(f"{version:x}", ",".join(sorted(types)), http.archive.rendering.look(wanted))
    headers: list[Header] = [(b"etag", tag.encode()), (b"vary", b"Accept"), CACHE_REVALIDATE]
    if await client_has(http, headers):
        return
    if left_out := len(every) - len(chosen):
        headers.append(
            warning(http.root_url, f"{left_out} of {len(every)} instances have no accepted rendered form. Left out.")
        )
    writer = Writer(f"anor-{version:x}")
    headers.append((b"content-type", writer.content_type(chosen[0][1].media_type).encode()))
    await send_stream(http, 200, headers, None, _instance_parts(http, chosen, wanted, writer))


def _plan_of(instance: Instance, ranges: tuple[MediaRange, ...]) -> RetrievePlan | None:
    try:
        return plan_rendered(ranges, types_of(instance), several=True)
    except NotAcceptable:
        return None


async def _instance_parts(
    http: Exchange, chosen: Sequence[tuple[Instance, RetrievePlan]], wanted: Rendering, writer: Writer
) -> AsyncIterator[bytes]:
    """Instances that turn out to have nothing to show are left out; when none is left, the first one's error counts."""
    rendering, refused, sent = http.archive.rendering, None, False
    for instance, plan in chosen:
        try:
            subject = await rendering.subject(http.access, instance.study, instance.series, instance.sop)
            if plan.media_type not in subject.types:
                continue
            chunks = _whole_body(http, subject, plan, wanted)
            first = await anext(chunks, b"")
        except (BadPixels, BadQuery, NotAcceptable, NotFound, TooLarge) as error:
            refused = refused or error
            continue
        head = part_headers(plan.media_type, location=f"{_location(http, instance)}/rendered")
        sent = True
        yield writer.part_head(head) + first
        async for chunk in chunks:
            yield chunk
    if not sent:
        raise refused or NotAcceptable("nothing here has an accepted rendered form")
    yield writer.tail()


IMAGE_BODIES: Final = (
    Content("image/jpeg", "(a JPEG image)"),
    Content("image/png", "(a PNG image)"),
    Content("image/gif", "(a GIF image, animated for several frames)"),
)
_OTHER_BODIES: Final = (
    Content(HTML, "<!DOCTYPE html>..."),
    Content(PLAIN, "Chest report\n============\nCompletion: COMPLETE\n\nFinding: clear lungs\n"),
    Content(XML, "<NativeDicomModel>...</NativeDicomModel>"),
    Content(PDF, "(the bytes of the document)"),
    Content("video/mp4", "(the bytes of the video)"),
)
_MULTIPART: Final = Content('multipart/related; type="image/jpeg"', "--anor-4f1c\r\nContent-Type: image/jpeg\r\n...")
ACCEPT: Final = (
    Parameter("Accept", "header", "image/jpeg (default), image/png or image/gif", "image/png, image/jpeg;q=0.5"),
    Parameter("accept", "query", "the same, for who cannot set a header", "image/png"),
)
LOOK: Final = (
    Parameter("window", "query", "center, width and linear, linear-exact or sigmoid", "40,400,linear"),
    Parameter("quality", "query", "of JPEG, 1 to 100", "90"),
    Parameter("annotation", "query", "patient, technique or both; overlays are drawn too", "technique"),
    Parameter("iccprofile", "query", "no (default), yes, srgb, adobergb or rommrgb", "yes"),
)
CACHE: Final = (
    IF_NONE_MATCH,
    Parameter("v", "query", "version of the bytes, for immutable caching", "4f1c2a9be07d3388"),
)
_REGION: Final = Parameter(
    "viewport", "query", "width, height and region: vw,vh or vw,vh,sx,sy,sw,sh; a negative sw or sh mirrors", "512,512"
)
RENDERED_ERRORS: Final = (BadRequest, BadQuery, NotFound, NotAcceptable, BadPixels, TooLarge, Unavailable)
NOT_MODIFIED: Final = Answer(304, "Not modified.")


def _rendered(path: str, what: str, text: str, handler: HotHandler, *answers: Answer) -> Operation:
    errors: tuple[type[ArchiveError], ...] = RENDERED_ERRORS
    if any(answer.status == 206 for answer in answers):
        errors += (RangeNotSatisfiable,)
    return Operation(
        "GET",
        f"{path}/rendered",
        "dicom.read",
        "Rendered",
        f"Rendered {what}",
        text,
        handler,
        (*answers, NOT_MODIFIED),
        (*ACCEPT, _REGION, *LOOK, *CACHE),
        errors=errors,
    )


_INSTANCE_TEXT: Final = (
    "An image as JPEG, PNG or GIF: its first frame, as GIF all of them; with Accept multipart/related every frame in a "
    "part. A structured report as HTML, plain text or XML, an encapsulated PDF or a video as it is stored, with Range."
)
_FRAMES_TEXT: Final = (
    "Frames by their numbers from 1, comma-separated: one as a single part, several as parts of a multipart."
)
_SEVERAL_TEXT: Final = (
    "Every instance that has a rendered form of an accepted type, a part each; an image is shown by its first frame."
)
_FRAMES: Final = INSTANCE + "/frames/{frames}"
_PARTS: Final = Answer(200, "The rendered instances.", (_MULTIPART,), ("Warning",))
OPERATIONS = (
    _rendered(STUDY, "study", _SEVERAL_TEXT, rendered_instances, _PARTS),
    _rendered(SERIES, "series", _SEVERAL_TEXT, rendered_instances, _PARTS),
    _rendered(
        INSTANCE,
        "instance",
        _INSTANCE_TEXT,
        rendered_instance,
        Answer(200, "The rendered instance.", (*IMAGE_BODIES, *_OTHER_BODIES, _MULTIPART)),
        Answer(206, "A range of a document or video."),
    ),
    _rendered(
        _FRAMES,
        "frames",
        _FRAMES_TEXT,
        rendered_instance,
        Answer(200, "The rendered frames.", (*IMAGE_BODIES, _MULTIPART)),
    ),
)
