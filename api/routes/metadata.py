"""WADO-RS: metadata of studies, series and instances (PS3.18 10.4.1.1.2), whole or in part, as JSON or XML."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import orjson

from api.datasets import document_plan
from api.examples import DOCUMENT_ACCEPT, STUDY_ROW, XML_PARTS, json_body
from api.exchange import Exchange
from api.responses import (
    CACHE_REVALIDATE,
    Header,
    accepts_gzip,
    client_has,
    send_bytes,
    send_not_modified,
    send_stream,
    warning,
)
from api.routes.wado import IF_NONE_MATCH, uids_of
from api.routing import INSTANCE, SERIES, STUDY, Answer, Operation, Parameter
from dicomweb.errors import BadQuery, BadRequest, NotAcceptable, NotFound, TooLarge, Unavailable
from dicomweb.media import DICOM_XML
from dicomweb.multipart import Writer, part_headers
from dicomweb.native_xml import native_xml
from dicomweb.negotiation import RetrievePlan
from dicomweb.selected import Selection, parse_selection
from dicomweb.wado import etag, etag_matches

_VARY: Final[Header] = (b"vary", b"Accept, Accept-Encoding")
# Attributes of one instance as JSON: the most that is parsed, and from where on a thread does it.
_LONGEST: Final = 64 << 20
_THREAD_FROM: Final = 256 << 10


async def metadata(http: Exchange) -> None:
    """The stored DICOM JSON, joined; for clients that take gzip without compressing anything."""
    study, series, sop = uids_of(http)
    plan = document_plan(http, single=sop is not None)
    selection = parse_selection(http.query()) if http.scope["query_string"] else None
    if selection is not None or plan.media_type == DICOM_XML:
        await _send_made(http, study, series, sop, plan, selection)
        return
    gzip = accepts_gzip(http.header(b"accept-encoding"))
    retrieve = http.archive.retrieve
    condition = http.header(b"if-none-match")
    if condition is not None:
        tag = _etag(await retrieve.version(http.access, study, series, sop), gzip)
        if etag_matches(condition, tag.decode()):
            await send_not_modified(http, [(b"etag", tag), _VARY, CACHE_REVALIDATE])
            return
    found = await retrieve.metadata(http.access, study, series, sop, gzip=gzip)
    headers: list[Header] = [
        (b"content-type", plan.media_type.encode()),
        (b"etag", _etag(found.version, gzip)),
        _VARY,
        CACHE_REVALIDATE,
    ]
    if gzip:
        headers.append((b"content-encoding", b"gzip"))
    if found.body is not None:
        await send_bytes(http, 200, headers, found.body)
    else:
        assert found.stream is not None
        await send_stream(http, 200, headers, None, found.stream)


def _etag(version: int, gzip: bool) -> bytes:
    return b'"%x%s"' % (version, b"g" if gzip else b"")


async def _send_made(
    http: Exchange, study: str, series: str | None, sop: str | None, plan: RetrievePlan, selection: Selection | None
) -> None:
    """Metadata that are made of the stored ones, an instance at a time."""
    version = await http.archive.retrieve.version(http.access, study, series, sop)
    tag = etag(f"{version:x}", plan.identity, repr(selection and selection.paths))
    headers: list[Header] = [(b"etag", tag.encode()), _VARY, CACHE_REVALIDATE]
    if await client_has(http, headers):
        return
    headers += [warning(http.root_url, text) for text in (selection.warnings if selection else ())]
    writer = Writer(f"anor-{version:x}") if plan.multipart else None
    kind = plan.media_type if writer is None else writer.content_type(plan.media_type)
    headers.append((b"content-type", kind.encode()))
    documents = _documents(http, study, series, sop, selection, xml=plan.media_type == DICOM_XML)
    await send_stream(http, 200, headers, None, _body(documents, plan, writer))


async def _documents(
    http: Exchange, study: str, series: str | None, sop: str | None, selection: Selection | None, *, xml: bool
) -> AsyncIterator[bytes]:
    def made(text: bytes) -> bytes:
        elements = orjson.loads(text)
        wanted = elements if selection is None else selection.of(elements)
        return native_xml(wanted) if xml else orjson.dumps(wanted)

    async for text in http.archive.retrieve.each_metadata(http.access, study, series, sop):
        if len(text) > _LONGEST:
            raise TooLarge("the attributes of an instance are too long for this: ask for all of them as JSON")
        yield await asyncio.to_thread(made, text) if len(text) > _THREAD_FROM else made(text)


async def _body(documents: AsyncIterator[bytes], plan: RetrievePlan, writer: Writer | None) -> AsyncIterator[bytes]:
    """A JSON array, one XML document, or a part for each."""
    array = plan.media_type != DICOM_XML
    before = b"["
    async for document in documents:
        if writer is not None:
            yield writer.part_head(part_headers(plan.media_type)) + document
        else:
            yield before + document if array else document
            before = b","
    if writer is not None:
        yield writer.tail()
    elif array:
        yield b"]"


_TEXT: Final = (
    "The DICOM JSON Model of every instance, made once at ingest, or the Native DICOM Model in XML. Bulk data are "
    "referenced by URIs relative to the series. Clients that accept gzip get the stored compression of all attributes. "
    "`includefield` asks for some of them."
)
_INCLUDE: Final = Parameter(
    "includefield", "query", "attributes to return: repeated or comma-separated, nested ones with a dot",
    "00081030,PatientSex",
)  # fmt: skip


def _metadata(path: str, what: str) -> Operation:
    return Operation(
        "GET",
        f"{path}/metadata",
        "dicom.metadata",
        "WADO-RS",
        f"Metadata of {what}",
        _TEXT,
        metadata,
        (
            Answer(200, "The attributes.", (*json_body([STUDY_ROW]), XML_PARTS), ("Warning",)),
            Answer(304, "Not modified."),
        ),
        (DOCUMENT_ACCEPT, _INCLUDE, IF_NONE_MATCH),
        errors=(BadRequest, BadQuery, NotFound, NotAcceptable, TooLarge, Unavailable),
    )


OPERATIONS = (
    _metadata(STUDY, "a study"),
    _metadata(SERIES, "a series"),
    _metadata(INSTANCE, "an instance"),
)
