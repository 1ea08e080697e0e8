"""WADO-RS: frames and bulk data, each one range read (PS3.18 10.4.1.1.5 and 10.4.1.1.6)."""

from collections.abc import AsyncIterator

from api.exchange import Exchange
from api.responses import Header, cache_control, etag_matches, send_bytes, send_not_modified, send_stream
from api.routes.wado import IF_NONE_MATCH, WHOLE, uids_of
from api.routing import Answer, Content, Operation, Parameter
from dicomweb.errors import BadRequest, NotAcceptable, NotFound, RangeNotSatisfiable, TooLarge, Unavailable
from dicomweb.media import EXPLICIT_BE, EXPLICIT_LE, FRAME_MEDIA_TYPE_OF, NATIVE
from dicomweb.multipart import Writer, content_length, part_headers
from dicomweb.negotiation import RetrievePlan, parse_accept, plan_bulk, plan_frames
from dicomweb.reencode import swapped, word_size
from dicomweb.wado import content_range, etag, parse_bulk_path, parse_frame_list, parse_range
from storage.retrieve import Located

# Frames that one read brings into memory.
_WINDOW = 8 << 20
_ACCEPT_RANGES: Header = (b"accept-ranges", b"bytes")


async def retrieve_frames(http: Exchange) -> None:
    """The frames of the path's list, in its order."""
    study, series, sop = uids_of(http)
    assert series is not None
    assert sop is not None
    numbers = parse_frame_list(http.path["frames"], http.settings.max_frames_per_request)
    await _send_frames(http, study, series, sop, numbers)


async def _send_frames(http: Exchange, study: str, series: str, sop: str, numbers: tuple[int, ...]) -> None:
    ranges = parse_accept(http.header(b"accept"), http.query_value("accept"))
    located = await http.archive.retrieve.frames(http.access, study, series, sop, numbers)
    instance = located.instance
    plan = plan_frames(ranges, instance.transfer_syntax, several=len(numbers) > 1)
    tag = etag(instance.version, str(numbers), str(plan.multipart), plan.part_type)
    headers: list[Header] = [
        (b"etag", tag.encode()),
        (b"vary", b"Accept"),
        cache_control(http.query_value("v"), instance.version),
    ]
    if etag_matches(http.header(b"if-none-match"), tag):
        await send_not_modified(http, headers)
        return
    if not plan.multipart:
        await _send_single(http, headers, plan, located)
        return
    boundary = f"anor-{instance.version}"
    base = f"{http.root_url}/studies/{study}/series/{series}/instances/{sop}/frames/"
    parts = [part_headers(plan.media_type, plan.transfer_syntax, f"{base}{number}") for number in numbers]
    headers.append((b"content-type", Writer(boundary).content_type(plan.media_type).encode()))
    if len(numbers) == 1:
        value = await _value(http, located)
        writer = Writer(boundary)
        await send_bytes(http, 200, headers, (writer.part_head(parts[0]), value, writer.tail()))
        return
    length = content_length(boundary, ((part, located.size(i)) for i, part in enumerate(parts)))
    await send_stream(http, 200, headers, length, _frame_parts(http, located, parts, boundary))


async def _value(http: Exchange, located: Located) -> bytes:
    """The one value of `located`, in little endian."""
    value = (await http.archive.retrieve.read_all(located))[0]
    return _little_endian(located, value)


def _little_endian(located: Located, value: bytes) -> bytes:
    instance = located.instance
    if instance.transfer_syntax != EXPLICIT_BE:
        return value
    vr = located.vr or ("OB" if (instance.bits_allocated or 8) <= 8 else "OW")
    word = word_size(vr)
    return swapped(value, word) if len(value) % word == 0 else value


async def _frame_parts(
    http: Exchange, located: Located, parts: list[tuple[tuple[str, str], ...]], boundary: str
) -> AsyncIterator[bytes]:
    """The multipart body, read in windows of bounded size."""
    writer = Writer(boundary)
    start = 0
    while start < len(parts):
        end, size = start + 1, located.size(start)
        while end < len(parts) and size + located.size(end) <= _WINDOW:
            size += located.size(end)
            end += 1
        window = Located(located.instance, located.extents[start:end], located.bits[start:end], located.vr)
        for part, value in zip(parts[start:end], await http.archive.retrieve.read_all(window), strict=True):
            yield writer.part_head(part)
            yield _little_endian(located, value)
        start = end
    yield writer.tail()


async def _send_single(http: Exchange, headers: list[Header], plan: RetrievePlan, located: Located) -> None:
    """One value as the whole body, or the part of it that Range asks for."""
    size = located.size(0)
    headers += [(b"content-type", plan.part_type.encode()), _ACCEPT_RANGES]
    wanted = parse_range(http.header(b"range"), size) if http.method == "GET" else None
    offset, length = (0, size) if wanted is None else wanted
    status = 200
    if wanted is not None:
        status = 206
        headers.append((b"content-range", content_range(offset, length, size).encode()))
    extents = located.extents[0]
    plain = len(extents) == 1 and not located.instance.deflated and located.instance.transfer_syntax != EXPLICIT_BE
    if plain and not any(located.bits):
        extent = (extents[0][0] + offset, length)
        if length <= WHOLE:
            await send_bytes(http, status, headers, await http.archive.retrieve.read(located.instance, (extent,)))
        else:
            await send_stream(http, status, headers, length, http.archive.retrieve.stream(located.instance, extent))
        return
    value = await _value(http, located)
    await send_bytes(http, status, headers, value if wanted is None else value[offset : offset + length])


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
        await _send_frames(http, study, instance.series, sop, tuple(range(1, count + 1)))
        return
    ranges = parse_accept(http.header(b"accept"), http.query_value("accept"))
    plan = plan_bulk(ranges, instance.transfer_syntax if instance.transfer_syntax in NATIVE else EXPLICIT_LE)
    tag = etag(instance.version, path, str(plan.multipart), plan.part_type)
    headers: list[Header] = [
        (b"etag", tag.encode()),
        (b"vary", b"Accept"),
        cache_control(http.query_value("v"), instance.version),
    ]
    if etag_matches(http.header(b"if-none-match"), tag):
        await send_not_modified(http, headers)
        return
    if not plan.multipart:
        await _send_single(http, headers, plan, located)
        return
    boundary = f"anor-{instance.version}"
    location = f"{http.root_url}/studies/{study}/series/{instance.series}/instances/{sop}/bulkdata/{http.path['path']}"
    part = part_headers(plan.media_type, plan.transfer_syntax, location)
    headers.append((b"content-type", Writer(boundary).content_type(plan.media_type).encode()))
    length = content_length(boundary, [(part, located.size(0))])
    await send_stream(http, 200, headers, length, _bulk_part(http, located, part, boundary))


async def _bulk_part(
    http: Exchange, located: Located, part: tuple[tuple[str, str], ...], boundary: str
) -> AsyncIterator[bytes]:
    writer = Writer(boundary)
    retrieve = http.archive.retrieve
    instance = located.instance
    swap = instance.transfer_syntax == EXPLICIT_BE
    if instance.deflated or swap or located.size(0) <= WHOLE:
        value = await _value(http, located)
        yield writer.part_head(part) + value
    else:
        stream = retrieve.stream(instance, located.extents[0][0])
        first = await anext(stream)
        yield writer.part_head(part)
        yield first
        async for chunk in stream:
            yield chunk
    yield writer.tail()


_V = Parameter("v", "query", "version of the bytes, for immutable caching", "4f1c2a9be07d3388")
_RANGE = Parameter("Range", "header", "a range of a single part body", "bytes=0-65535")
_ACCEPT = Parameter(
    "Accept",
    "header",
    "multipart/related or a single part; application/octet-stream or the image type of the stored syntax",
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
_ERRORS = (BadRequest, NotFound, NotAcceptable, RangeNotSatisfiable, TooLarge, Unavailable)
_ANSWERS = (Answer(200, "The values.", _BODY), Answer(206, "A range of one value."), Answer(304, "Not modified."))
_STUDY = "{root}/studies/{study}"
_SERIES = _STUDY + "/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"
_BULK_TEXT = (
    "A value that the metadata name by BulkDataURI, also inside sequences. Native values leave in little endian; "
    "encapsulated pixel data leave frame by frame."
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
        _ANSWERS,
        (_ACCEPT, _RANGE, IF_NONE_MATCH, _V),
        errors=_ERRORS,
    )


OPERATIONS = (
    Operation(
        "GET",
        _INSTANCE + "/frames/{frames}",
        "dicom.read",
        "WADO-RS",
        "Retrieve frames",
        "Frames by their 1-based numbers, comma-separated, as stored. One frame may be a single part body, with Range.",
        retrieve_frames,
        _ANSWERS,
        (_ACCEPT, _RANGE, IF_NONE_MATCH, _V),
        errors=_ERRORS,
    ),
    _bulk(_INSTANCE, ""),
    # What a BulkDataURI resolves to (RFC 3986) from the metadata of a study, and of an instance.
    _bulk(_STUDY + "/instances/{instance}", ", relative to a study"),
    _bulk(_INSTANCE + "/instances/{again}", ", relative to an instance"),
)
