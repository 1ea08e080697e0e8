"""The OHIF viewer under /ohif/: its page, its settings and its files (see `wsi.ohif` for what is installed)."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any, Final
from urllib.parse import quote, urlsplit

from api.exchange import Exchange
from api.responses import Header, accepts_gzip, client_has, send_bytes, send_stream
from api.routing import PUBLIC, Answer, Content, HotHandler, Operation
from dicomweb.errors import NotFound
from wsi.ohif import MEDIA_TYPES, Viewer, load

BASE: Final = "/ohif"
_PAGES: Final = Path(__file__).parent.parent / "pages"
_CHUNK: Final = 1 << 18

# What the viewer may do: its own origin and nothing else, no inline script. Decoders (in workers) and the reader of
# segmentations make functions from text; components set styles by themselves; `blob:` and `data:` are images, documents
# and fonts that it makes.
_POLICY: Final = (
    b"default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' blob: data:; font-src 'self' data:; connect-src 'self' blob: data:; media-src 'self' blob:; "
    b"worker-src 'self' blob:; object-src 'self' blob:; frame-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'"
)
# Isolated from other origins in both directions: what browsers ask for before they give SharedArrayBuffer.
_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)
_REVALIDATE: Final[Header] = (b"cache-control", b"no-cache")
_IMMUTABLE: Final[Header] = (b"cache-control", b"public, max-age=31536000, immutable")
_PAGE_HEADERS: Final[list[Header]] = [
    (b"content-type", b"text/html; charset=utf-8"),
    _REVALIDATE,
    *_HEADERS,
]


async def page(http: Exchange) -> None:
    """The one page of the viewer, whatever route of its own the path names."""
    if "." in http.path.get("page", "").rpartition("/")[2]:
        raise NotFound("there is no such file; the viewer's are below /ohif/files")
    viewer, home = load(), home_of(http)
    names = {"home": home, "static": f"{home}/static", "base": home + BASE}
    if viewer is None:
        await send_bytes(http, 404, _PAGE_HEADERS, _template("ohif-missing.html").substitute(names).encode())
        return
    names |= {"files": _files(home, viewer), "script": viewer.script, "style": viewer.style}
    await send_bytes(http, 200, _PAGE_HEADERS, _template("ohif.html").substitute(names).encode())


async def configuration(http: Exchange) -> None:
    """What the viewer has to know, as the script that its page loads first."""
    viewer, home = _installed(), home_of(http)
    script = (
        f"window.PUBLIC_URL = {json.dumps(_files(home, viewer) + '/')};\n"
        "window.browserImportFunction = (name) => import(name);\n"
        f"window.config = {json.dumps(_configuration(home, http.settings.dicomweb_root), indent=1)};\n"
    )
    headers = [(b"content-type", MEDIA_TYPES[".js"].encode()), _REVALIDATE, *_HEADERS]
    await send_bytes(http, 200, headers, script.encode())


async def file(http: Exchange) -> None:
    """A file of the viewer, compressed for whoever takes gzip. The build in the path makes it immutable."""
    viewer, name = _installed(), http.path["name"]
    asset = viewer.assets.get(name)
    if asset is None:
        raise NotFound("the viewer has no such file")
    packed = asset.packed_size > 0 and accepts_gzip(http.header(b"accept-encoding"))
    tag = f'"{asset.digest}{"-gzip" if packed else ""}"'
    headers = _file_headers(name, tag, current=http.path["build"] == viewer.build)
    if await client_has(http, headers):
        return
    if packed:
        headers.append((b"content-encoding", b"gzip"))
    size = asset.packed_size if packed else asset.size
    await send_stream(http, 200, headers, size, _read(viewer.path(name, packed=packed)))


def _installed() -> Viewer:
    viewer = load()
    if viewer is None:
        raise NotFound("OHIF is not installed: `python -m wsi.ohif` fetches it")
    return viewer


def _file_headers(name: str, tag: str, *, current: bool) -> list[Header]:
    return [
        (b"content-type", MEDIA_TYPES[PurePosixPath(name).suffix].encode()),
        (b"etag", tag.encode()),
        (b"vary", b"Accept-Encoding"),
        _IMMUTABLE if current else _REVALIDATE,
        *_HEADERS,
    ]


async def _read(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as content:
        while chunk := await asyncio.to_thread(content.read, _CHUNK):
            yield chunk


def home_of(http: Exchange) -> str:
    """The path of this server's root as the browser knows it, without a slash at its end, fit for HTML."""
    return quote(urlsplit(http.services.address.base(http.scope)).path.rstrip("/"), safe="/%~")


def _files(home: str, viewer: Viewer) -> str:
    return f"{home}{BASE}/files/{viewer.build}"


@cache
def _template(name: str) -> Template:
    return Template((_PAGES / name).read_text("utf-8"))


def _configuration(home: str, root: str) -> dict[str, Any]:
    """OHIF's settings: this archive as its only source, nothing that calls elsewhere or that the address can change."""
    source = {
        "friendlyName": "Anor",
        "name": "anor",
        "qidoRoot": home + root,
        "wadoRoot": home + root,
        "qidoSupportsIncludeField": True,
        "supportsFuzzyMatching": True,
        "supportsWildcard": True,
        "supportsReject": False,
        "dicomUploadEnabled": True,
        "imageRendering": "wadors",
        "thumbnailRendering": "thumbnailDirect",
        "enableStudyLazyLoad": True,
        "omitQuotationForMultipartRequest": True,
        "singlepart": "bulkdata,video",
        "bulkDataURI": {"enabled": True},
    }
    return {
        "routerBasename": home + BASE,
        "extensions": [],
        "modes": [],
        "customizationService": {},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 4,
        "maxNumRequests": {"interaction": 100, "thumbnail": 5, "prefetch": 25},
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": True,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "groupEnabledModesFirst": True,
        "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "anor",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "anor",
                "configuration": source,
            }
        ],
    }


def _operation(
    path: str, summary: str, description: str, handler: HotHandler, contents: tuple[Content, ...], *more: Answer
) -> Operation:
    return Operation(
        "GET",
        path,
        PUBLIC,
        "Pages",
        summary,
        description,
        handler,
        (Answer(200, "The document.", contents), *more),
        errors=(NotFound,),
    )


_PAGE: Final = (Content("text/html", "<!doctype html>"),)
_SCRIPT: Final = (Content("text/javascript", "window.config = { ... }"),)
OPERATIONS: Final = (
    _operation(BASE, "OHIF viewer", "The viewer's own list of studies; 404 when it is not installed.", page, _PAGE),
    _operation(
        BASE + "/{page:path}",
        "OHIF viewer, at a route of its own",
        "The same page: `/ohif/viewer?StudyInstanceUIDs=UID` opens a study, `/ohif/microscopy?...` a slide.",
        page,
        _PAGE,
    ),
    _operation(
        BASE + "/app-config.js", "Settings of the OHIF viewer", "This archive as its source.", configuration, _SCRIPT
    ),
    _operation(
        BASE + "/files/{build}/{name:path}",
        "File of the OHIF viewer",
        "Out of a closed list; compressed for whoever takes gzip, and immutable under the installed build.",
        file,
        tuple(Content(kind, "(a file)") for kind in sorted({each.split(";")[0] for each in MEDIA_TYPES.values()})),
        Answer(304, "Not modified."),
    ),
)
