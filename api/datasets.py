"""Data sets as bodies of requests and answers: in the DICOM JSON Model, or the Native DICOM Model in XML."""

import asyncio
from collections.abc import Sequence
from typing import Final

import orjson

from api.exchange import Exchange
from api.responses import DICOM_JSON, JSON, Header, accepted, send_bytes, warning
from api.routing import Parameter
from api.uploads import whole_body
from dicomweb import media, qido
from dicomweb.errors import ArchiveError, BadRequest, TooLarge, UnsupportedMediaType, WorkitemRefused
from dicomweb.multipart import Writer, part_headers
from dicomweb.native_xml import native_xml
from dicomweb.native_xml_reader import read_native_xml
from dicomweb.negotiation import RetrievePlan, plan_documents
from dicomweb.query import Query
from dicomweb.ups_model import Dataset, dataset_of, parse
from storage.search import SearchResult

CONTENT_TYPE: Final = Parameter(
    "Content-Type", "header", "application/dicom+json, application/json or application/dicom+xml", media.DICOM_JSON
)
BODY_ERRORS: Final[tuple[type[ArchiveError], ...]] = (BadRequest, WorkitemRefused, TooLarge, UnsupportedMediaType)


async def read_dataset(http: Exchange, limit: int, what: str, *, optional: bool = False) -> Dataset:
    """The dataset in the body; nothing where a body is optional and there is none. `what` names it in a refusal."""
    kind = http.header(b"content-type")
    if kind is None and optional and not await whole_body(http, limit):
        return {}
    essence = None if kind is None else media.parse_media_type(kind).essence
    if essence not in {media.DICOM_JSON, media.JSON, media.DICOM_XML}:
        raise UnsupportedMediaType(
            f"{what} is sent as {media.DICOM_JSON} or {media.DICOM_XML}", attribute="Content-Type"
        )
    body = await whole_body(http, limit)
    if not body and optional:
        return {}
    if essence == media.DICOM_XML:
        return dataset_of(await asyncio.to_thread(read_native_xml, body))
    return parse(body)


def document_plan(http: Exchange, *, single: bool) -> RetrievePlan:
    """In what one data set (`single`), or any number of them, is answered. Raises NotAcceptable."""
    return plan_documents(accepted(http), single=single)


async def send_document(http: Exchange, plan: RetrievePlan, body: bytes, *headers: Header) -> None:
    """Answer with one data set; `body` is its DICOM JSON, alone or in an array."""
    if plan.media_type == media.DICOM_XML:
        found = orjson.loads(body)
        elements = found[0] if isinstance(found, list) else found
        if plan.multipart:
            await _send_parts(http, list(headers), [elements])
        else:
            kind = (b"content-type", media.DICOM_XML.encode())
            await send_bytes(http, 200, [kind, *headers], await asyncio.to_thread(native_xml, elements))
        return
    await send_bytes(http, 200, [(b"content-type", plan.media_type.encode()), *headers], body)


async def send_documents(http: Exchange, plan: RetrievePlan, rows: Sequence[bytes], headers: list[Header]) -> None:
    """Answer with data sets: a JSON array, or a part in XML for each (PS3.18 8.7.3.2)."""
    if plan.multipart:
        await _send_parts(http, headers, [orjson.loads(row) for row in rows])
        return
    kind = DICOM_JSON if plan.media_type == media.DICOM_JSON else JSON
    await send_bytes(http, 200, [*headers, kind], b"[" + b",".join(rows) + b"]")


async def _send_parts(http: Exchange, headers: list[Header], found: Sequence[Dataset]) -> None:
    writer = Writer(f"anor-{http.request_id}")
    head = part_headers(media.DICOM_XML)

    def made() -> list[bytes]:
        return [*(writer.part_head(head) + native_xml(each) for each in found), writer.tail()]

    headers.append((b"content-type", writer.content_type(media.DICOM_XML).encode()))
    await send_bytes(http, 200, headers, await asyncio.to_thread(made))


async def send_found(http: Exchange, plan: RetrievePlan, query: Query, found: SearchResult) -> None:
    """Answer a search, with a Warning where our own limit cut it."""
    headers = [warning(http.root_url, text) for text in query.warnings]
    own_limit = any(name == "limit" for name, _ in http.query()) and query.limit < http.settings.qido_max_limit
    if found.more and not own_limit:
        headers.append(warning(http.root_url, qido.MORE_RESULTS))
    await send_documents(http, plan, found.rows, headers)
