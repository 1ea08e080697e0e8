"""WADO-RS: all bulk data or all pixel data of a study, series or instance in one answer (PS3.18 10.4.1.1.5)."""

import functools
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import aclosing, suppress
from typing import Final

from api.exchange import Exchange
from api.parts import broken_part
from api.responses import CACHE_REVALIDATE, Header, accepted, client_has, send_stream
from api.routes.frames import bulk_location, frame_location, value_of
from api.routes.wado import IF_NONE_MATCH, planned, uids_of
from api.routing import INSTANCE, SERIES, STUDY, Answer, Content, Operation, Parameter
from dicomweb.errors import BadPixels, BadRequest, NotAcceptable, NotFound, Unavailable
from dicomweb.multipart import Writer, part_headers
from dicomweb.negotiation import MediaRange, RetrievePlan, in_parts, plan_bulk, plan_frames
from dicomweb.wado import etag
from storage.retrieve import PIXEL_DATA, Instance

# Frames that are located by one statement.
_PAGE: Final = 200

Plans = dict[Hashable, RetrievePlan]


async def retrieve_all(http: Exchange, *, pixels: bool) -> None:
    """Every bulk value below the path, or every pixel data: compressed frames in a part each, all else by value."""
    study, series, sop = uids_of(http)
    ranges = in_parts(accepted(http))
    retrieve = http.archive.retrieve
    if sop is None:
        version, instances = await retrieve.instances(http.access, study, series)
        name = f"{version:x}"
    else:
        instances = [await retrieve.instance(http.access, study, series, sop)]
        name = instances[0].version
    values = None
    with suppress(*((NotAcceptable,) if pixels else ())):  # of pixels a type of images may be accepted only
        values = plan_bulk(ranges)
    plans = await _plans(http, instances, ranges)
    kinds = sorted({plan.identity for plan in plans.values()})
    headers: list[Header] = [
        (b"etag", etag(name, str(pixels), *kinds).encode()),
        (b"vary", b"Accept"),
        CACHE_REVALIDATE,
    ]
    if await client_has(http, headers):
        return
    writer = Writer(f"anor-{name}")
    first = next(iter(plans.values()), None) or values or plan_bulk(ranges)
    headers.append((b"content-type", writer.content_type(first.media_type).encode()))
    await send_stream(http, 200, headers, None, _parts(http, instances, plans, values, writer, pixels=pixels))


def _kind(instance: Instance) -> Hashable:
    return instance.sop_class, instance.transfer_syntax, instance.bits_allocated


async def _plans(http: Exchange, instances: Sequence[Instance], ranges: tuple[MediaRange, ...]) -> Plans:
    """How frames leave, for each kind of instance that has some. Raises NotAcceptable."""
    plans: Plans = {}
    for instance in instances:
        if instance.has_frames and _kind(instance) not in plans:
            plan = functools.partial(plan_frames, ranges, instance.transfer_syntax, several=True)
            plans[_kind(instance)] = await planned(http, instance, plan)
    return plans


async def _parts(
    http: Exchange,
    instances: Sequence[Instance],
    plans: Plans,
    values: RetrievePlan | None,
    writer: Writer,
    *,
    pixels: bool,
) -> AsyncIterator[bytes]:
    """The body. `values`: how plain values leave, None: not at all. Raises NotFound where there is no part."""
    empty = True
    for instance in instances:
        for entry in await http.archive.retrieve.bulk_table(instance):
            if pixels and entry.path not in PIXEL_DATA:
                continue
            plan = plans.get(_kind(instance)) if instance.has_frames and entry.path in PIXEL_DATA else None
            if plan is not None and (entry.encapsulated or plan.reencode == "transcode"):
                chunks = _frames(http, instance, plan, writer)
            elif (simple := plan or values) is None or entry.encapsulated:  # not accepted, or no frame was found in it
                continue
            else:
                chunks = _value(http, instance, entry.path, simple, writer)
            async for chunk in chunks:
                empty = False
                yield chunk
    if empty:
        raise NotFound("there is no pixel data here" if pixels else "there are no bulk data here")
    yield writer.tail()


async def _value(
    http: Exchange, instance: Instance, path: str, plan: RetrievePlan, writer: Writer
) -> AsyncIterator[bytes]:
    located = await http.archive.retrieve.bulk(http.access, instance.study, instance.series, instance.sop, path)
    location = bulk_location(http, instance, path)
    head = writer.part_head(part_headers(plan.media_type, plan.transfer_syntax, location))
    async for chunk in value_of(http, located):
        yield head + chunk
        head = b""


async def _frames(http: Exchange, instance: Instance, plan: RetrievePlan, writer: Writer) -> AsyncIterator[bytes]:
    """The frames of an instance, a part each; in place of a broken one a problem document."""
    retrieve = http.archive.retrieve
    count = await retrieve.frame_count(http.access, instance)
    for start in range(1, count + 1, _PAGE):
        numbers = range(start, min(start + _PAGE, count + 1))
        located = await retrieve.frames(http.access, instance.study, instance.series, instance.sop, numbers)
        if plan.reencode == "transcode":
            image = await http.archive.pixels.described(http.access, located, numbers)
            outcomes = http.archive.transcode.outcomes(image, plan.transfer_syntax)
        else:
            outcomes = retrieve.values(located)
        places = iter(numbers)
        async with aclosing(outcomes):
            async for outcome in outcomes:
                location = frame_location(http, instance, next(places))
                if isinstance(outcome, BadPixels):
                    yield broken_part(http, writer, location, outcome)
                else:
                    head = writer.part_head(part_headers(plan.media_type, plan.transfer_syntax, location))
                    yield head + outcome


_BODY: Final = (
    Content(
        'multipart/related; type="application/octet-stream"',
        "--anor\r\nContent-Type: application/octet-stream...\r\nContent-Location: ...\r\n\r\n...",
    ),
)
_ACCEPT: Final = Parameter(
    "Accept",
    "header",
    "types of the parts: application/octet-stream, for pixels image types too; transfer-syntax, `*`: as stored",
    'multipart/related; type="application/octet-stream"; transfer-syntax=*',
)
_TEXT: Final = (
    "Every value in a part of its own, whose Content-Location is its BulkDataURI; of compressed pixel data a part for "
    "each frame, with the URI of that. One that cannot be decoded is a part with a problem document."
)


def _all(path: str, what: str, *, pixels: bool) -> Operation:
    return Operation(
        "GET",
        f"{path}/{'pixeldata' if pixels else 'bulkdata'}",
        "dicom.read",
        "WADO-RS",
        f"Retrieve all {'pixel data' if pixels else 'bulk data'} of {what}",
        _TEXT,
        functools.partial(retrieve_all, pixels=pixels),
        (Answer(200, "The values.", _BODY), Answer(304, "Not modified.")),
        (_ACCEPT, IF_NONE_MATCH),
        errors=(BadRequest, BadPixels, NotFound, NotAcceptable, Unavailable),
    )


_LEVELS: Final = (
    (STUDY, "a study"),
    (SERIES, "a series"),
    (INSTANCE, "an instance"),
)
OPERATIONS = tuple(_all(path, what, pixels=pixels) for path, what in _LEVELS for pixels in (False, True))
