"""Thumbnails of studies, series, instances and frames (PS3.18 10.4.1.1.4)."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, Header, accepted, cache_control, client_has, send_bytes
from api.routes.rendered import ACCEPT, CACHE, IMAGE_BODIES, LOOK, NOT_MODIFIED, RENDERED_ERRORS
from api.routes.wado import uids_of
from api.routing import INSTANCE, SERIES, STUDY, Answer, Operation, Parameter
from dicomweb.errors import BadPixels, BadQuery, NotFound, TooLarge
from dicomweb.negotiation import plan_rendered
from dicomweb.rendered.encode import IMAGE_TYPES
from dicomweb.rendered.parameters import Rendering, parse_rendering
from dicomweb.slides.tiled import PYRAMIDAL
from dicomweb.wado import etag, parse_frame_list
from storage.retrieve import Instance
from storage.slides import StoredSlide


async def thumbnail(http: Exchange) -> None:
    """A small picture that stands for a study, series, instance or frame."""
    study, series, sop = uids_of(http)
    wanted = parse_rendering(http.query(), thumbnail=True)
    missing = http.query_value("missing")
    if missing not in (None, "empty"):
        raise BadQuery("the only value is empty", attribute="missing")
    frame = None
    if "frames" in http.path:
        numbers = parse_frame_list(http.path["frames"], http.settings.max_frames_per_request)
        frame = numbers[len(numbers) // 2]
    try:
        shown = await http.archive.rendering.representatives(http.access, study, series, sop)
        await _send_thumbnail(http, shown, frame, wanted)
    except (NotFound, BadPixels):
        if missing is None:
            raise
        await send_bytes(http, 204, [CACHE_REVALIDATE])


async def _send_thumbnail(http: Exchange, shown: Sequence[Instance], frame: int | None, wanted: Rendering) -> None:
    # Where nothing can be shown no type helps: NotFound comes before NotAcceptable.
    plan = plan_rendered(accepted(http), IMAGE_TYPES)
    single = "instance" in http.path
    slide = None if single else await _slide_of(http, shown)
    versions = " ".join(f"{instance.sop} {instance.version}" for instance in shown)
    named = versions if slide is None else f"{slide.series} {slide.name}"
    tag = etag(named, str(frame), plan.media_type, http.archive.rendering.look(wanted))
    cache = cache_control(http.query_value("v"), shown[0].version) if single else CACHE_REVALIDATE
    headers: list[Header] = [(b"etag", tag.encode()), (b"vary", b"Accept"), cache]
    if await client_has(http, headers):
        return
    headers.append((b"content-type", plan.media_type.encode()))
    body = None if slide is None else await _slide_thumbnail(http, slide, wanted, plan.media_type)
    if body is None:
        body = await http.archive.rendering.thumbnail(http.access, shown, frame, wanted, plan.media_type)
    await send_bytes(http, 200, headers, body)


async def _slide_of(http: Exchange, shown: Sequence[Instance]) -> StoredSlide | None:
    """The slide that the first image is a part of: one frame of it, the middle one even, may show nothing but glass.

    Where that is a label or an overview in a series of its own, the slide of another series.
    """
    if shown[0].sop_class not in PYRAMIDAL:
        return None
    for series in dict.fromkeys(each.series for each in shown if each.sop_class in PYRAMIDAL):
        with suppress(NotFound, TooLarge):
            return await http.services.tiles.slide(http.access, series)
    return None


async def _slide_thumbnail(http: Exchange, slide: StoredSlide, wanted: Rendering, media_type: str) -> bytes | None:
    """The whole slide; None where no level is coarse enough yet, or its frames cannot be read."""
    tiles, name = http.services.tiles, f"{slide.series} {slide.name}"
    dataset = slide.slide.instances[slide.slide.base.sample].dataset
    try:
        return await http.archive.rendering.composed_thumbnail(
            http.access, name, dataset, wanted, media_type, lambda: tiles.whole(http.access, slide, wanted)
        )
    except (BadPixels, TooLarge):
        return None


_BOX: Final = Parameter("viewport", "query", "width and height to fit into; 256,256 without it", "128,128")
_MISSING: Final = Parameter(
    "missing", "query", "`empty`: 204 instead of an error where nothing can be shown, for pages that only try", "empty"
)


def _thumbnail(path: str, what: str) -> Operation:
    return Operation(
        "GET",
        f"{path}/thumbnail",
        "dicom.read",
        "Rendered",
        f"Thumbnail of {what}",
        "One small picture: the middle frame of the middle image, or a slide as a whole. Reports and presentation "
        "states are passed over. "
        "Finished thumbnails are kept. 404 where nothing can be shown, whatever Accept says.",
        thumbnail,
        (
            Answer(200, "A picture.", IMAGE_BODIES),
            Answer(204, "Nothing can be shown, and `missing=empty` was asked."),
            NOT_MODIFIED,
        ),
        (*ACCEPT, _BOX, *LOOK, *CACHE, _MISSING),
        errors=RENDERED_ERRORS,
    )


OPERATIONS = (
    _thumbnail(STUDY, "a study"),
    _thumbnail(SERIES, "a series"),
    _thumbnail(INSTANCE, "an instance"),
    _thumbnail(INSTANCE + "/frames/{frames}", "frames"),
)
