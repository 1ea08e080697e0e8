"""What a request addresses and how it wants to see it: resources, tags, formats, flags and numbers."""

from typing import Final

from api.exchange import Exchange
from api.responses import Header
from api.routes.orthanc.dialect import flag
from dicomweb.errors import BadQuery
from dicomweb.orthanc_tags import Format
from dicomweb.tags import Level, tag_named
from storage.resource import Resource

NO_STORE: Final[Header] = (b"cache-control", b"no-store")
_FORMS: Final[tuple[tuple[str, Format], ...]] = (("full", "Full"), ("short", "Short"), ("simplify", "Human"))


def flag_value(http: Exchange, name: str) -> bool | None:
    """Whether a flag is set, taken back, or (None) not in the query."""
    return None if http.query_value(name) is None else flag(http, name)


def number(http: Exchange, name: str, default: int) -> int:
    """A whole number of the query. Raises BadQuery."""
    text = http.query_value(name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 17):
        raise BadQuery(f"{name} is a whole number", attribute=name)
    return int(text)


def form_of(http: Exchange, default: Format = "Human") -> Format:
    """The form in which tags are wanted: `full`, `short`, `simplify`."""
    return next((form for name, form in _FORMS if flag(http, name)), default)


def tags_of(text: str, attribute: str) -> tuple[str, ...]:
    """The tags of a list that is separated by semicolons. Raises BadQuery."""
    return tuple(dict.fromkeys(tag_of(name.strip(), attribute) for name in text.split(";") if name.strip()))


def tag_of(name: str, attribute: str) -> str:
    """The tag of a keyword, `gggg,eeee`, `gggg-eeee` or `ggggeeee`. Raises BadQuery."""
    tag = tag_named(name[:4] + name[5:] if len(name) == 9 and name[4] in ",-" else name)
    if tag is None:
        raise BadQuery("there is no such attribute", attribute=attribute)
    return tag


def resource_of(http: Exchange, level: Level) -> Resource:
    """The resource that the path names. Raises NotFound."""
    return Resource.of(level, http.path["id"])
