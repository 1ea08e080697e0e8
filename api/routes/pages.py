"""The pages for people: study list, API documentation; plain files without a build step."""

import hashlib
from functools import lru_cache
from pathlib import Path

from fastapi import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from api.deps import CurrentServices
from api.routing import PUBLIC, Answer, Content, Operation
from dicomweb.errors import ArchiveError, BadRequest, NotFound
from dicomweb.uids import checked_uid
from wsi.ohif import load

_PAGES = Path(__file__).parent.parent / "pages"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STATIC = ("text/css", "text/javascript", "image/svg+xml", "text/html")
# Scripts and styles from files only: what a DICOM attribute contains can never run.
_POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "private, no-cache",
}


@lru_cache(maxsize=64)
def _load(path: Path, modified: int) -> tuple[bytes, str]:  # noqa: ARG001 - the time is part of the cache's key
    content = path.read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:20]}"'


def _file(path: Path, request: Request) -> Response:
    try:
        content, etag = _load(path, path.stat().st_mtime_ns)
    except OSError:
        raise NotFound("there is no such page") from None
    headers = _HEADERS | {"etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[path.suffix], headers=headers)


async def landing(request: Request) -> Response:
    """The list of studies."""
    return _file(_PAGES / "studies.html", request)


async def slide(series: str) -> Response:
    """Where the slide viewer was once."""
    return RedirectResponse(f"../wsi/viewer/?series={checked_uid(series, 'series')}", 308)


async def documentation(request: Request) -> Response:
    """The API, readable."""
    return _file(_PAGES / "api.html", request)


async def static(file: str, request: Request) -> Response:
    """A script or style of the pages: from a closed list, so that no path can be made up."""
    if file in _FILES:
        return _file(_PAGES / file, request)
    raise NotFound("there is no such file")


_FILES = frozenset(path.name for path in _PAGES.iterdir() if path.suffix in {".css", ".js", ".svg"})


async def openapi(services: CurrentServices) -> Response:
    """The OpenAPI document, made from the route table."""
    return JSONResponse(services.document(), headers={"cache-control": "private, no-cache"})


async def client_settings(services: CurrentServices) -> Response:
    """What the pages need to know."""
    known = {
        "root": services.settings.dicomweb_root,
        "ohif": load() is not None,
        "identifiers": services.settings.viewer_identifiers,
    }
    return JSONResponse(known, headers={"cache-control": "private, no-cache"})


def _page(
    path: str,
    summary: str,
    handler: object,
    scope: str = PUBLIC,
    kind: str = "text/html",
    answers: tuple[Answer, ...] = (),
    errors: tuple[type[ArchiveError], ...] = (NotFound,),
) -> Operation:
    example: object = "<!doctype html>" if kind == "text/html" else {"openapi": "3.1.0"}
    if kind.endswith(("css", "javascript")):
        example = "/* ... */"
    if path == "/settings.json":
        example = {"root": "/dicom-web", "ohif": True, "identifiers": True}
    return Operation(
        "GET",
        path,
        scope,
        "Pages",
        summary,
        summary + ".",
        handler,  # type: ignore[arg-type]
        answers or (Answer(200, "The document.", (Content(kind, example),)),),
        errors=errors if "{" in path else (),
        hot=False,
    )


OPERATIONS = (
    _page("/", "List of studies, for people", landing),
    _page(
        "/slides/{series}",
        "Redirection to the slide viewer",
        slide,
        answers=(Answer(308, "The place of the viewer.", headers=("Location",)),),
        errors=(BadRequest,),
    ),
    _page("/docs", "The API, readable", documentation),
    _page(
        "/static/{file}",
        "Script or style of a page",
        static,
        answers=(Answer(200, "The file.", tuple(Content(kind, "(a file)") for kind in _STATIC)),),
    ),
    _page("/settings.json", "What the pages need to know", client_settings, kind="application/json"),
    _page("/openapi.json", "The OpenAPI document", openapi, kind="application/json"),
)
