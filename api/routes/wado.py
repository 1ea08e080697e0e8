"""WADO-RS: metadata and instances of studies, series and instances (PS3.18 10.4.1.1)."""

import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

from api.examples import DICOM, MULTIPART_DICOM
from api.exchange import Exchange
from api.responses import (
    CACHE_REVALIDATE,
    Header,
    accepted,
    cache_control,
    client_has,
    ranged,
    send_bytes,
    send_stream,
)
from api.routing import INSTANCE, SERIES, STUDY, Answer, Content, HotHandler, Operation, Parameter, instance_url
from api.zips import send_folders
from dicomweb.errors import BadPixels, BadRequest, NotAcceptable, NotFound, Unavailable
from dicomweb.media import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, ZIP
from dicomweb.multipart import Writer, content_length, part_headers
from dicomweb.negotiation import WRITABLE, MediaRange, RetrievePlan, plan_instances, zip_syntax
from dicomweb.pixels.encode import quality_of
from dicomweb.pixels.syntaxes import LOSSY
from dicomweb.uids import checked_uid
from storage.retrieve import Instance
from storage.rewriting import as_native
from storage.zipped import Packing

ACCEPT_INSTANCES = Parameter(
    "Accept",
    "header",
    "multipart/related; type=application/dicom, application/dicom or application/zip",
    MULTIPART_DICOM,
)
IF_NONE_MATCH = Parameter("If-None-Match", "header", "an ETag of an earlier answer", '"4f1c"')
_VERSION_PARAMETER = Parameter("v", "query", "version of the bytes, for immutable caching", "4f1c2a9be07d3388")
# Below this a single instance is read at once; above, it is streamed.
WHOLE = 1 << 20


def uids_of(http: Exchange) -> tuple[str, str | None, str | None]:
    """Study, series and SOP Instance UID of the path, checked."""
    path = http.path
    series, sop = path.get("series"), path.get("instance")
    return (
        checked_uid(path["study"], "study"),
        None if series is None else checked_uid(series, "series"),
        None if sop is None else checked_uid(sop, "instance"),
    )


async def retrieve_instances(http: Exchange) -> None:
    """The files of a study or series, or one file."""
    study, series, sop = uids_of(http)
    ranges = accepted(http)
    if (syntax := zip_syntax(ranges, first=True)) is not None:
        await _send_zip(http, study, series, sop, syntax)
        return
    try:
        await _send_as_files(http, study, series, sop, ranges)
    except NotAcceptable as error:
        if (syntax := zip_syntax(ranges, first=False)) is None:
            raise NotAcceptable(f"{error.message}, {ZIP}") from None
        await _send_zip(http, study, series, sop, syntax)


async def _send_zip(http: Exchange, study: str, series: str | None, sop: str | None, syntax: str) -> None:
    """Files in folders (PS3.18 8.7.3.1); what cannot be had in `syntax` is in it as stored."""
    if syntax != "*" and syntax not in WRITABLE:
        available = ", ".join(f"{ZIP}; transfer-syntax={uid}" for uid in ("*", *sorted(WRITABLE)))
        raise NotAcceptable(f"files cannot be written in that transfer syntax; available: {available}")
    folders = await http.archive.archives.folders_of(http.access, study, series, sop)
    await send_folders(http, folders, Packing(None if syntax == "*" else syntax), f"{sop or series or study}.zip")


async def _send_as_files(
    http: Exchange, study: str, series: str | None, sop: str | None, ranges: tuple[MediaRange, ...]
) -> None:
    if sop is not None:
        instance = await http.archive.retrieve.instance(http.access, study, series, sop)
        await send_files(http, [instance], [await plan_of(http, instance, ranges, single=True)], instance.version)
        return
    version, instances = await http.archive.retrieve.instances(http.access, study, series)
    known: dict[Hashable, RetrievePlan] = {}
    plans = []
    for each in instances:
        kind = each.series, each.sop_class, each.transfer_syntax, each.bits_allocated
        plan = known.get(kind)
        if plan is None or _is_particular(plan):
            plan = known[kind] = await plan_of(http, each, ranges)
        plans.append(plan)
    await send_files(http, instances, plans, f"{version:x}")


def _is_particular(plan: RetrievePlan) -> bool:
    """Whether instances of the same kind may need another plan: lossy codecs do not take every image."""
    return plan.reencode == "transcode" and plan.transfer_syntax in LOSSY


async def plan_of(
    http: Exchange, instance: Instance, ranges: tuple[MediaRange, ...], *, single: bool = False
) -> RetrievePlan:
    """How to send one instance."""
    return await planned(
        http, instance, lambda **more: plan_instances(ranges, instance.transfer_syntax, single=single, **more)
    )


async def planned(http: Exchange, instance: Instance, plan: Callable[..., RetrievePlan]) -> RetrievePlan:
    """What `plan` says. What the pixels allow (`targets`) is looked up only where that decides.

    Raises NotAcceptable, which names what can be had of this very instance.
    """
    with suppress(NotAcceptable):
        found = plan()
        if found.reencode != "transcode":
            return found
    return plan(targets=await http.archive.pixels.targets(http.access, instance))


async def send_files(
    http: Exchange, instances: Sequence[Instance], plans: Sequence[RetrievePlan], version: str, *more: Header
) -> None:
    """Answer with files, each by its plan; `version` is that of the resource."""
    signature = zlib.crc32(";".join(p.identity for p in plans).encode())
    tag = f'"{version}-{signature:08x}"'
    cache = cache_control(http.query_value("v"), version) if len(instances) == 1 else CACHE_REVALIDATE
    headers: list[Header] = [(b"etag", tag.encode()), (b"vary", b"Accept"), cache, *more]
    if await client_has(http, headers):
        return
    if not plans[0].multipart:
        headers.append((b"content-type", plans[0].part_type.encode()))
        instance = instances[0]
        if plans[0].reencode != "none":
            await send_stream(http, 200, headers, None, _alone(http, instance, plans[0]))
        else:
            await _send_stored(http, headers, instance)
        return
    writer = Writer(f"anor-{version}")
    headers.append((b"content-type", writer.content_type(plans[0].media_type).encode()))
    root = http.root_url
    length = None
    if all(plan.reencode == "none" for plan in plans):
        parts = ((_part(root, i, p), i.size) for i, p in zip(instances, plans, strict=True))
        length = content_length(writer.boundary, parts)
    await send_stream(http, 200, headers, length, _parts(http, instances, plans, writer))


async def _send_stored(http: Exchange, headers: list[Header], instance: Instance) -> None:
    """A file as it is stored, or the part of it that Range asks for: a large download can go on where it broke off."""
    retrieve = http.archive.retrieve
    status, offset, length = ranged(http, headers, instance.size)
    if length <= WHOLE:
        await send_bytes(http, status, headers, await retrieve.part(instance, (offset, length)))
    else:
        await send_stream(http, status, headers, length, retrieve.stream(instance, (offset, length)))


def _part(root: str, instance: Instance, plan: RetrievePlan) -> tuple[tuple[str, str], ...]:
    location = instance_url(root, instance.study, instance.series, instance.sop)
    return part_headers(plan.media_type, plan.transfer_syntax, location)


def _rewritten(http: Exchange, instance: Instance, plan: RetrievePlan) -> AsyncGenerator[bytes, None]:
    if plan.reencode == "transcode":
        return http.archive.transcode.instance(http.access, instance, plan.transfer_syntax, quality_of(plan.quality))
    return as_native(http.archive.retrieve, instance)


async def _alone(http: Exchange, instance: Instance, plan: RetrievePlan) -> AsyncIterator[bytes]:
    """The rewritten file. What turns out to be broken among its first frames is an error, not a cut connection."""
    async with aclosing(http.archive.transcode.ahead([_rewritten(http, instance, plan)])) as made:
        begun = await anext(made)
        if begun.fault is not None:
            raise begun.fault
        async for chunk in begun.chunks():
            yield chunk


async def _parts(
    http: Exchange, instances: Sequence[Instance], plans: Sequence[RetrievePlan], writer: Writer
) -> AsyncIterator[bytes]:
    """The multipart body; files are read and rewritten ahead.

    One of several that cannot be transcoded leaves as it is stored: that costs the others nothing, and its part says
    what it is.
    """
    both = list(zip(instances, plans, strict=True))
    retrieve, root = http.archive.retrieve, http.root_url
    made = http.archive.transcode.ahead(_rewritten(http, each, plan) for each, plan in both if plan.reencode != "none")
    files = retrieve.files([each for each, plan in both if plan.reencode == "none"])
    async with aclosing(files), aclosing(made):
        for instance, plan in both:
            if plan.reencode == "none":
                _, body = await anext(files)
                yield writer.part_head(_part(root, instance, plan))
                if isinstance(body, bytes):
                    yield body
                    continue
                chunks = body
            else:
                begun = await anext(made)
                if begun.fault is not None and len(both) == 1:
                    raise begun.fault
                sent, chunks = (plan, begun.chunks()) if begun.fault is None else _untouched(http, instance, plan)
                yield writer.part_head(_part(root, instance, sent))
            async for chunk in chunks:
                yield chunk
    yield writer.tail()


def _untouched(http: Exchange, instance: Instance, plan: RetrievePlan) -> tuple[RetrievePlan, AsyncIterator[bytes]]:
    """An instance with the pixels that it has, in an encoding that may leave (PS3.18 8.7.3)."""
    retrieve = http.archive.retrieve
    if instance.transfer_syntax in (IMPLICIT_LE, EXPLICIT_BE):
        return replace(plan, transfer_syntax=EXPLICIT_LE), as_native(retrieve, instance)
    return replace(plan, transfer_syntax=instance.transfer_syntax), retrieve.file(instance)


_ERRORS = (BadRequest, BadPixels, NotFound, NotAcceptable, Unavailable)
_INSTANCES_TEXT = (
    "The files as stored where the client takes that, else transcoded to the transfer syntax that it names. Without a "
    "transfer-syntax parameter: Explicit VR Little Endian, and as stored where the pixels are lossy already. Lossy "
    "transcoding gives a derived instance with a UID of its own. 406 names what is available. Of several instances, "
    "one whose pixels cannot be decoded comes as stored. `Accept: application/zip` gives a ZIP file, with Range."
)
_ZIP_BODY = Content(ZIP, "(the bytes of a ZIP file)")
_DICOM_BODY = (Content(MULTIPART_DICOM, "--anor\r\nContent-Type: application/dicom; transfer-syntax=...\r\n\r\n..."),)


def _instances(path: str, what: str, handler: HotHandler, *, single: bool = False) -> Operation:
    bodies = (*_DICOM_BODY, *((Content(DICOM, "(the bytes of a DICOM file)"),) if single else ()), _ZIP_BODY)
    return Operation(
        "GET",
        path,
        "dicom.read",
        "WADO-RS",
        f"Retrieve {what}",
        _INSTANCES_TEXT,
        handler,
        (Answer(200, "DICOM files.", bodies), Answer(304, "Not modified.")),
        (ACCEPT_INSTANCES, IF_NONE_MATCH, *((_VERSION_PARAMETER,) if single else ())),
        errors=_ERRORS,
    )


OPERATIONS = (
    _instances(STUDY, "a study", retrieve_instances),
    _instances(SERIES, "a series", retrieve_instances),
    _instances(INSTANCE, "an instance", retrieve_instances, single=True),
)
