"""WADO-RS: frames and bulk data, each one range read (PS3.18 10.4.1.1.5 and 10.4.1.1.6)."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

from api.exchange import Exchange
from api.parts import parts_of
from api.responses import (
    Header,
    accepted,
    client_has,
    ranged,
    send_bytes,
    send_stream,
    versioned,
)
from api.routes.wado import IF_NONE_MATCH, WHOLE, planned, uids_of
from api.routing import INSTANCE, STUDY, Answer, Content, Operation, Parameter, instance_url
from dicomweb.errors import BadPixels, BadRequest, NotAcceptable, NotFound, RangeNotSatisfiable, TooLarge, Unavailable
from dicomweb.media import EXPLICIT_LE, FRAME_MEDIA_TYPE_OF, NATIVE, OCTET_STREAM
from dicomweb.multipart import Writer, content_length, part_headers
from dicomweb.negotiation import MediaRange, RetrievePlan, plan_bulk, plan_frames
from dicomweb.pixels.syntaxes import REVISION
from dicomweb.wado import etag, parse_bulk_path, parse_frame_list
from storage.pixels import Image
from storage.retrieve import Instance, Located


async def retrieve_frames(http: Exchange) -> None:
    """The frames of the path's list, in its order."""
    study, series, sop = uids_of(http)
    assert series is not None
    assert sop is not None
    numbers = parse_frame_list(http.path["frames"], http.settings.max_frames_per_request)
    await _send_frames(http, study, series, sop, numbers)


async def _send_frames(
    http: Exchange, study: str, series: str, sop: str, numbers: tuple[int, ...], *, whole: bool = False
) -> None:
    """`whole`: the frames are all there are, and may leave as one native value where multipart is not accepted."""
    ranges = accepted(http)
    located = await http.archive.retrieve.frames(http.access, study, series, sop, numbers)
    instance = located.instance
    several = len(numbers) > 1
    try:
        plan = await planned(
            http, instance, lambda **more: plan_frames(ranges, instance.transfer_syntax, several=several, **more)
        )
    except NotAcceptable:
        if whole and several and await _takes_native(http, instance, ranges):
            await _send_native(http, instance)
            return
        # Where attributes that contradict each other are the reason, BadPixels says so.
        await http.archive.pixels.described(http.access, located, numbers)
        raise
    tag = etag(instance.version, str(numbers), plan.identity)
    headers = versioned(http, tag, instance.version)
    if await client_has(http, headers):
        return
    if plan.reencode == "transcode":
        image = await http.archive.pixels.described(http.access, located, numbers)
        await _send_transcoded(http, headers, plan, image)
    elif not plan.multipart:
        await send_single(http, headers, plan, located)
    else:
        await _send_parts(http, headers, plan, located, numbers)


async def _takes_native(http: Exchange, instance: Instance, ranges: tuple[MediaRange, ...]) -> bool:
    with suppress(NotAcceptable):
        wanted = not plan_bulk(ranges).multipart
        return wanted and EXPLICIT_LE in await http.archive.pixels.targets(http.access, instance)
    return False


async def _send_native(http: Exchange, instance: Instance) -> None:
    """Compressed pixel data as the one value that they are when they are not compressed."""
    tag = etag(instance.version, "native", str(REVISION))
    headers = versioned(http, tag, instance.version)
    if await client_has(http, headers):
        return
    headers.append((b"content-type", f"{OCTET_STREAM}; transfer-syntax={EXPLICIT_LE}".encode()))
    await send_stream(http, 200, headers, None, http.archive.transcode.pixel_data(http.access, instance))


def frame_location(http: Exchange, instance: Instance, number: int) -> str:
    """The URL of a frame."""
    return f"{instance_url(http.root_url, instance.study, instance.series, instance.sop)}/frames/{number}"


def bulk_location(http: Exchange, instance: Instance, path: str) -> str:
    """The URL of a bulk value, which its BulkDataURI means."""
    return f"{instance_url(http.root_url, instance.study, instance.series, instance.sop)}/bulkdata/{path}"


def _part_headers(http: Exchange, plan: RetrievePlan, instance: Instance, number: int) -> tuple[tuple[str, str], ...]:
    return part_headers(plan.media_type, plan.transfer_syntax, frame_location(http, instance, number))


async def _send_parts(
    http: Exchange, headers: list[Header], plan: RetrievePlan, located: Located, numbers: tuple[int, ...]
) -> None:
    """Frames as stored, one part each."""
    instance = located.instance
    writer = Writer(f"anor-{instance.version}")
    parts = [_part_headers(http, plan, instance, number) for number in numbers]
    headers.append((b"content-type", writer.content_type(plan.media_type).encode()))
    if len(numbers) == 1:
        value = await _value(http, located)
        await send_bytes(http, 200, headers, (writer.part_head(parts[0]), value, writer.tail()))
        return
    length = content_length(writer.boundary, ((part, located.size(i)) for i, part in enumerate(parts)))
    await send_stream(http, 200, headers, length, _frame_parts(http.archive.retrieve.values(located), parts, writer))


async def _send_transcoded(http: Exchange, headers: list[Header], plan: RetrievePlan, image: Image) -> None:
    """Frames in another transfer syntax than the stored one."""
    transcode, instance = http.archive.transcode, image.instance
    if not plan.multipart:
        headers.append((b"content-type", plan.part_type.encode()))
        await _send_part_of(http, headers, await transcode.frame(image, plan.transfer_syntax))
        return
    writer = Writer(f"anor-{instance.version}")
    headers.append((b"content-type", writer.content_type(plan.media_type).encode()))
    parts = [(frame_location(http, instance, n), _part_headers(http, plan, instance, n)) for n in image.frames]
    if len(parts) == 1:
        value = await transcode.frame(image, plan.transfer_syntax)
        await send_bytes(http, 200, headers, (writer.part_head(parts[0][1]), value, writer.tail()))
        return
    outcomes = transcode.outcomes(image, plan.transfer_syntax)
    await send_stream(http, 200, headers, None, parts_of(http, writer, outcomes, parts))


async def _send_part_of(http: Exchange, headers: list[Header], value: bytes) -> None:
    """A value that is in memory, or the range of it that was asked for."""
    status, offset, length = ranged(http, headers, len(value))
    await send_bytes(http, status, headers, value if status == 200 else value[offset : offset + length])


async def _value(http: Exchange, located: Located) -> bytes:
    """The one value of `located`."""
    return (await http.archive.retrieve.read_all(located))[0]


async def _frame_parts(
    frames: AsyncGenerator[bytes, None], parts: list[tuple[tuple[str, str], ...]], writer: Writer
) -> AsyncIterator[bytes]:
    """The multipart body."""
    position = 0
    async with aclosing(frames):
        async for frame in frames:
            yield writer.part_head(parts[position])
            yield frame
            position += 1
    yield writer.tail()


async def send_single(http: Exchange, headers: list[Header], plan: RetrievePlan, located: Located) -> None:
    """One value as the whole body, or the part of it that Range asks for."""
    headers.append((b"content-type", plan.part_type.encode()))
    extents = located.extents[0]
    plain = len(extents) == 1 and not located.instance.deflated and located.word == 1
    if not plain or any(located.bits):
        await _send_part_of(http, headers, await _value(http, located))
        return
    size = located.size(0)
    status, offset, length = ranged(http, headers, size)
    extent = (extents[0][0] + offset, length)
    if length <= WHOLE:
        await send_bytes(http, status, headers, await http.archive.retrieve.read(located.instance, (extent,)))
    else:
        await send_stream(http, status, headers, length, http.archive.retrieve.stream(located.instance, extent))


async def retrieve_bulk(http: Exchange) -> None:
    """A bulk value, by the path that its BulkDataURI names."""
    study, series, sop = uids_of(http)
    assert sop is not None
    if http.path.get("again", sop) != sop:
        raise NotFound("the URI names two instances")
    retrieve = http.archive.retrieve
    path = parse_bulk_path(http.path["path"])
    located = await retrieve.bulk(http.access, study, series, sop, path)
    instance = located.instance
    if located.encapsulated:
        # Encapsulated pixel data as a bulk value is its frames, one part each (PS3.18 10.4.1.1.5).
        count = await retrieve.frame_count(http.access, instance)
        if not 0 < count <= http.settings.max_frames_per_request:
            raise TooLarge(f"the pixel data have {count} frames: ask for them by /frames")
        await _send_frames(http, study, instance.series, sop, tuple(range(1, count + 1)), whole=True)
        return
    ranges = accepted(http)
    plan = plan_bulk(ranges, instance.transfer_syntax if instance.transfer_syntax in NATIVE else EXPLICIT_LE)
    tag = etag(instance.version, path, plan.identity)
    headers = versioned(http, tag, instance.version)
    if await client_has(http, headers):
        return
    if not plan.multipart:
        await send_single(http, headers, plan, located)
        return
    boundary = f"anor-{instance.version}"
    location = bulk_location(http, instance, http.path["path"])
    part = part_headers(plan.media_type, plan.transfer_syntax, location)
    headers.append((b"content-type", Writer(boundary).content_type(plan.media_type).encode()))
    length = content_length(boundary, [(part, located.size(0))])
    await send_stream(http, 200, headers, length, _bulk_part(http, located, part, boundary))


async def _bulk_part(
    http: Exchange, located: Located, part: tuple[tuple[str, str], ...], boundary: str
) -> AsyncIterator[bytes]:
    writer = Writer(boundary)
    head = writer.part_head(part)
    async for chunk in value_of(http, located):
        yield head + chunk
        head = b""
    yield head + writer.tail()


async def value_of(http: Exchange, located: Located) -> AsyncIterator[bytes]:
    """The one value of `located` in little endian, a large one in chunks."""
    instance = located.instance
    if instance.deflated or located.word > 1 or located.size(0) <= WHOLE:
        yield await _value(http, located)
        return
    async for chunk in http.archive.retrieve.stream(instance, located.extents[0][0]):
        yield chunk


_V = Parameter("v", "query", "version of the bytes, for immutable caching", "4f1c2a9be07d3388")
_RANGE = Parameter("Range", "header", "a range of a single part body", "bytes=0-65535")
_ACCEPT = Parameter(
    "Accept",
    "header",
    "multipart/related or a single part; application/octet-stream or an image type; transfer-syntax, `*`: as stored",
    'multipart/related; type="application/octet-stream"; transfer-syntax=*',
)
_BODY = (
    Content(
        'multipart/related; type="application/octet-stream"', "--anor\r\nContent-Type: application/octet-stream...\r\n"
    ),
    Content("application/octet-stream", "(the bytes of one frame or value)"),
    *(
        Content(kind, "(one compressed frame)")
        for kind in sorted({m for m in FRAME_MEDIA_TYPE_OF.values() if "image" in m})
    ),
)
_PART = (Content("application/octet-stream", "(the bytes of the range)"),)
ERRORS = (BadRequest, BadPixels, NotFound, NotAcceptable, RangeNotSatisfiable, TooLarge, Unavailable)
ANSWERS = (
    Answer(200, "The values.", _BODY),
    Answer(206, "A range of one value.", _PART),
    Answer(304, "Not modified."),
)
_BULK_TEXT = (
    "A value that the metadata name by BulkDataURI, also inside sequences. Native values leave in little endian; "
    "encapsulated pixel data leave frame by frame, or decompressed as one value where only a single part is accepted."
)


def _bulk(path: str, note: str) -> Operation:
    return Operation(
        "GET",
        f"{path}/bulkdata/{{path:path}}",
        "dicom.read",
        "WADO-RS",
        f"Retrieve bulk data{note}",
        _BULK_TEXT,
        retrieve_bulk,
        ANSWERS,
        (_ACCEPT, _RANGE, IF_NONE_MATCH, _V),
        errors=ERRORS,
    )


_FRAMES_TEXT = (
    "Frames by their 1-based numbers, comma-separated: as stored where the client takes that, else transcoded to what "
    "it names, each frame by itself. One frame may be a single part body, with Range. Of several transcoded frames, "
    "one that cannot be decoded is a part with a problem document in its place."
)
OPERATIONS = (
    Operation(
        "GET",
        INSTANCE + "/frames/{frames}",
        "dicom.read",
        "WADO-RS",
        "Retrieve frames",
        _FRAMES_TEXT,
        retrieve_frames,
        ANSWERS,
        (_ACCEPT, _RANGE, IF_NONE_MATCH, _V),
        errors=ERRORS,
    ),
    _bulk(INSTANCE, ""),
    # What a BulkDataURI resolves to (RFC 3986) from the metadata of a study, and of an instance.
    _bulk(STUDY + "/instances/{instance}", ", relative to a study"),
    _bulk(INSTANCE + "/instances/{again}", ", relative to an instance"),
)
