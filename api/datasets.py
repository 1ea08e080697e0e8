"""Data sets in the DICOM JSON Model as bodies of requests, and the type in which they are answered."""

from typing import Final

from api.exchange import Exchange
from api.responses import DICOM_JSON, JSON, Header, send_bytes, warning
from api.routing import Parameter
from api.uploads import whole_body
from dicomweb import media, qido
from dicomweb.errors import ArchiveError, BadRequest, TooLarge, UnsupportedMediaType, WorkitemRefused
from dicomweb.negotiation import parse_accept, plan_metadata
from dicomweb.query import Query
from dicomweb.ups_model import Dataset, parse
from storage.search import SearchResult

CONTENT_TYPE: Final = Parameter(
    "Content-Type", "header", "application/dicom+json or application/json", media.DICOM_JSON
)
BODY_ERRORS: Final[tuple[type[ArchiveError], ...]] = (BadRequest, WorkitemRefused, TooLarge, UnsupportedMediaType)


async def read_dataset(http: Exchange, limit: int, what: str, *, optional: bool = False) -> Dataset:
    """The dataset in the body; nothing where a body is optional and there is none. `what` names it in a refusal."""
    kind = http.header(b"content-type")
    if kind is None and optional and not await whole_body(http, limit):
        return {}
    if kind is None or media.parse_media_type(kind).essence not in {media.DICOM_JSON, media.JSON}:
        raise UnsupportedMediaType(f"{what} is sent as {media.DICOM_JSON}", attribute="Content-Type")
    body = await whole_body(http, limit)
    return parse(body) if body or not optional else {}


def json_type(http: Exchange) -> Header:
    """The Content-Type of an answer. Raises NotAcceptable."""
    accepted = parse_accept(http.header(b"accept"), http.query_value("accept"))
    return DICOM_JSON if plan_metadata(accepted) == media.DICOM_JSON else JSON


async def send_found(http: Exchange, kind: Header, query: Query, found: SearchResult) -> None:
    """Answer a search with a JSON array, and a Warning where our own limit cut it."""
    headers = [kind, *(warning(http.root_url, text) for text in query.warnings)]
    own_limit = any(name == "limit" for name, _ in http.query()) and query.limit < http.settings.qido_max_limit
    if found.more and not own_limit:
        headers.append(warning(http.root_url, qido.MORE_RESULTS))
    await send_bytes(http, 200, headers, b"[" + b",".join(found.rows) + b"]")
