"""How Orthanc's clients ask and are answered: flags in the query, JSON whatever the Content-Type, text."""

from typing import Any, Final

import orjson

from api.exchange import Exchange
from api.responses import JSON, Header, send_bytes
from api.uploads import whole_body
from dicomweb.errors import BadJson, BadQuery
from dicomweb.orthanc_tags import Format
from dicomweb.tags import Level, tag_named
from storage.resource import Resource

TEXT: Final[Header] = (b"content-type", b"text/plain")
NO_STORE: Final[Header] = (b"cache-control", b"no-store")
MAX_JSON: Final = 16 << 20


async def send_json(http: Exchange, value: Any, *headers: Header) -> None:
    """An answer in JSON."""
    await send_bytes(http, 200, [JSON, *headers], orjson.dumps(value))


async def send_text(http: Exchange, text: str, *headers: Header) -> None:
    """An answer in plain text."""
    await send_bytes(http, 200, [TEXT, *headers], text.encode())


def has(http: Exchange, name: str) -> bool:
    """Whether a flag is in the query: there is no need for a value, and `false` takes it back."""
    value = http.query_value(name)
    return value is not None and value.lower() not in ("false", "0")


def flag_value(http: Exchange, name: str) -> bool | None:
    """Whether a flag is set, taken back, or (None) not in the query."""
    return None if http.query_value(name) is None else has(http, name)


def number(http: Exchange, name: str, default: int) -> int:
    """A whole number of the query. Raises BadQuery."""
    text = http.query_value(name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 17):
        raise BadQuery(f"{name} is a whole number", attribute=name)
    return int(text)


def format_of(http: Exchange, default: Format = "Human") -> Format:
    """The form in which tags are wanted: `full`, `short`, `simplify`."""
    for name, form in (("full", "Full"), ("short", "Short"), ("simplify", "Human")):
        if has(http, name):
            return form  # type: ignore[return-value]  # one of the three
    return default


def tags_of(text: str, attribute: str) -> tuple[str, ...]:
    """The tags of a list that is separated by semicolons. Raises BadQuery."""
    return tuple(dict.fromkeys(tag_of(name.strip(), attribute) for name in text.split(";") if name.strip()))


def tag_of(name: str, attribute: str) -> str:
    """The tag of a keyword, `gggg,eeee`, `gggg-eeee` or `ggggeeee`. Raises BadQuery."""
    plain = name[:4] + name[5:] if len(name) == 9 and name[4] in ",-" else name
    tag = tag_named(plain)
    if tag is None:
        raise BadQuery("there is no such attribute", attribute=attribute)
    return tag


def resource_of(http: Exchange, level: Level) -> Resource:
    """The resource that the path names. Raises NotFound."""
    return Resource.of(level, http.path["id"])


async def json_body(http: Exchange) -> Any:
    """The body as JSON, whatever its Content-Type. Raises BadJson, TooLarge."""
    return parse_json(await whole_body(http, MAX_JSON))


def parse_json(body: bytes) -> Any:
    """A JSON document. Raises BadJson."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadJson("the body is not JSON") from None
