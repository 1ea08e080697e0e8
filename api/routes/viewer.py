"""The slide viewer under /wsi/viewer/: its page, its modules and styles, and OpenLayers."""

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from string import Template
from typing import Final

import wsi
from api.exchange import Exchange
from api.responses import Header, accepts_gzip, client_has, send_bytes
from api.routes.ohif import home_of
from api.routing import PUBLIC, Answer, Content, Operation, Parameter
from dicomweb.errors import NotFound
from dicomweb.uids import is_uid
from wsi.openlayers import LIBRARY_FILES, library_file

_FILES: Final = Path(wsi.__file__).parent / "viewer"
_TYPES: Final = {".css": b"text/css; charset=utf-8", ".js": b"text/javascript; charset=utf-8"}
_NAMES: Final = frozenset(path.name for path in _FILES.iterdir() if path.suffix in _TYPES)
# Scripts and styles from files only: what a DICOM attribute contains can never run. OpenLayers sets styles through the
# DOM, which no rule forbids; `data:` are its own symbols.
_POLICY: Final = (
    b"default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'"
)
_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Accept-Encoding"),
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    packed: bytes
    digest: str


async def page(http: Exchange) -> None:
    """The one page of the viewer; the series is in its query."""
    home, series = home_of(http), http.query_value("series")
    # The browser asks for the manifest before it has read a script.
    early = f"<{home}/wsi/slides/{series}>; rel=preload; as=fetch; crossorigin=anonymous"
    more: list[Header] = [(b"link", early.encode())] if series is not None and is_uid(series) else []
    await _send(http, b"text/html; charset=utf-8", _packed(_page().substitute(home=home).encode()), *more)


async def file(http: Exchange) -> None:
    """A module or style, out of a closed list, so that no path can be made up."""
    name = http.path["file"]
    path = library_file(name) if name in LIBRARY_FILES else _FILES / name if name in _NAMES else None
    if path is None:
        raise NotFound(
            "OpenLayers is not installed: `python -m wsi.openlayers` fetches it"
            if name in LIBRARY_FILES
            else "the viewer has no such file"
        )
    await _send(http, _TYPES[path.suffix], await asyncio.to_thread(_load, path, path.stat().st_mtime_ns))


async def _send(http: Exchange, media_type: bytes, found: _File, *more: Header) -> None:
    packed = accepts_gzip(http.header(b"accept-encoding"))
    tag = f'"{found.digest}{"-gzip" if packed else ""}"'
    headers: list[Header] = [(b"content-type", media_type), (b"etag", tag.encode()), *_HEADERS, *more]
    if await client_has(http, headers):
        return
    if packed:
        headers.append((b"content-encoding", b"gzip"))
    await send_bytes(http, 200, headers, found.packed if packed else found.content)


@cache
def _page() -> Template:
    return Template((_FILES / "index.html").read_text("utf-8"))


@lru_cache(maxsize=64)
def _load(path: Path, modified: int) -> _File:  # noqa: ARG001 - the time is part of the cache's key
    return _packed(path.read_bytes())


@lru_cache(maxsize=64)
def _packed(content: bytes) -> _File:
    return _File(content, gzip.compress(content, 9, mtime=0), hashlib.sha256(content).hexdigest()[:20])


OPERATIONS: Final = (
    Operation(
        "GET",
        "/wsi/viewer",
        PUBLIC,
        "Pages",
        "Slide viewer",
        "Shows the slide of a series; what is shown of it stands behind `#` in the address.",
        page,
        (
            Answer(200, "The document.", (Content("text/html", "<!doctype html>"),), ("Link",)),
            Answer(304, "Not modified."),
        ),
        (Parameter("series", "query", "Series Instance UID", "1.2.826.0.1.3680043.8.498.1"),),
    ),
    Operation(
        "GET",
        "/wsi/viewer/{file}",
        PUBLIC,
        "Pages",
        "File of the slide viewer",
        "A module, a style, or OpenLayers, where that is installed.",
        file,
        (
            Answer(200, "The file.", (Content("text/javascript", "export const ..."),)),
            Answer(304, "Not modified."),
        ),
        errors=(NotFound,),
    ),
)
