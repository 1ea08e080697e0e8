"""Data sets in the DICOM JSON Model as bodies of requests, and the type in which they are answered."""

from api.exchange import Exchange
from api.responses import DICOM_JSON, JSON, Header
from api.uploads import whole_body
from dicomweb import media
from dicomweb.errors import UnsupportedMediaType
from dicomweb.negotiation import parse_accept, plan_metadata
from dicomweb.ups_model import Dataset, parse


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
