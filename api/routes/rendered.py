"""Rendered resources and thumbnails (PS3.18 10.4.1.1.3, 10.4.1.1.4)."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from api.exchange import Exchange
from api.responses import Header, cache_control, etag_matches, send_bytes, send_not_modified, send_stream
from api.routes.wado import IF_NONE_MATCH, uids_of
from api.routing import Answer, Content, HotHandler, Operation, Parameter
from dicomweb.errors import BadPixels, BadQuery, BadRequest, NotAcceptable, NotFound, TooLarge, Unavailable
from dicomweb.multipart import Writer, part_headers
from dicomweb.negotiation import RetrievePlan, parse_accept, plan_rendered
from dicomweb.rendered.encode import GIF
from dicomweb.rendered.parameters import Rendering, parse_rendering
from dicomweb.wado import etag, parse_frame_list
from storage.rendering import Subject


async def rendered_instance(http: Exchange) -> None:
    """An instance, or frames of it, as pictures."""
    study, series, sop = uids_of(http)
    assert series is not None
    assert sop is not None
    wanted = parse_rendering(http.query())
    frames = None
    if "frames" in http.path:
        frames = parse_frame_list(http.path["frames"], http.settings.max_frames_per_request)
    ranges = parse_accept(http.header(b"accept"), http.query_value("accept"))
    subject = await http.archive.rendering.subject(http.access, study, series, sop, frames)
    several = frames is not None and len(frames) > 1
    plan = plan_rendered(ranges, subject.types, several=several)
    await _send(http, subject, plan, wanted, whole=frames is None)


async def _send(http: Exchange, subject: Subject, plan: RetrievePlan, wanted: Rendering, *, whole: bool) -> None:
    """`whole`: a type that holds several images, and multipart, get every frame of the instance."""
    version = subject.instance.version
    frames = "all" if whole else str(subject.image.frames)
    tag = etag(version, frames, str(plan.multipart), plan.media_type, repr(wanted))
    headers: list[Header] = [
        (b"etag", tag.encode()),
        (b"vary", b"Accept"),
        cache_control(http.query_value("v"), version),
    ]
    if etag_matches(http.header(b"if-none-match"), tag):
        await send_not_modified(http, headers)
        return
    rendering, image = http.archive.rendering, subject.image
    if whole and (plan.multipart or plan.media_type == GIF):
        image = await rendering.whole(http.access, image)
    if not plan.multipart:
        headers.append((b"content-type", plan.media_type.encode()))
        await send_bytes(http, 200, headers, await rendering.one(http.access, image, wanted, plan.media_type))
        return
    writer = Writer(f"anor-{version}")
    headers.append((b"content-type", writer.content_type(plan.media_type).encode()))
    instance = image.instance
    base = f"{http.root_url}/studies/{instance.study}/series/{instance.series}/instances/{instance.sop}/frames/"
    locations = [f"{base}{number}/rendered" for number in image.frames]
    bodies = rendering.each(http.access, image, wanted, plan.media_type)
    await send_stream(http, 200, headers, None, _parts(writer, plan.media_type, locations, bodies))


async def _parts(
    writer: Writer, media_type: str, locations: Sequence[str], bodies: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    places = iter(locations)
    async for body in bodies:
        yield writer.part_head(part_headers(media_type, location=next(places))) + body
    yield writer.tail()


_IMAGE: Final = (
    Content("image/jpeg", "(a JPEG image)"),
    Content("image/png", "(a PNG image)"),
    Content("image/gif", "(a GIF image, animated for several frames)"),
)
_PARAMETERS: Final = (
    Parameter("Accept", "header", "image/jpeg (default), image/png or image/gif", "image/png, image/jpeg;q=0.5"),
    Parameter("accept", "query", "the same for who cannot set a header", "image/png"),
    Parameter(
        "viewport", "query", "width, height and region: vw,vh[,sx,sy,sw,sh]; negative sw or sh mirrors", "512,512"
    ),
    Parameter("window", "query", "center, width and linear, linear-exact or sigmoid", "40,400,linear"),
    Parameter("quality", "query", "of lossy types, 1 to 100", "90"),
    Parameter("annotation", "query", "patient, technique or both; overlays are drawn too", "technique"),
    Parameter("iccprofile", "query", "no (default), yes, srgb, adobergb or rommrgb", "yes"),
    IF_NONE_MATCH,
    Parameter("v", "query", "version of the bytes, for immutable caching", "4f1c2a9be07d3388"),
)
_ERRORS: Final = (BadRequest, BadQuery, NotFound, NotAcceptable, BadPixels, TooLarge, Unavailable)
_STUDY: Final = "{root}/studies/{study}"
_SERIES: Final = _STUDY + "/series/{series}"
_INSTANCE: Final = _SERIES + "/instances/{instance}"


def _rendered(path: str, what: str, text: str, handler: HotHandler) -> Operation:
    return Operation(
        "GET",
        f"{path}/rendered",
        "dicom.read",
        "Rendered",
        f"Rendered {what}",
        text,
        handler,
        (Answer(200, "Pictures.", _IMAGE), Answer(304, "Not modified.")),
        _PARAMETERS,
        errors=_ERRORS,
    )


OPERATIONS = (
    _rendered(_INSTANCE, "instance", "A picture.", rendered_instance),
    _rendered(_INSTANCE + "/frames/{frames}", "frames", "Pictures of frames.", rendered_instance),
)
