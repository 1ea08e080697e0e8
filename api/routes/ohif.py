"""The OHIF viewer under /ohif/: the installed pages, and the configuration that leads them to this archive."""

from typing import Any

import orjson
from fastapi import Request
from starlette.responses import FileResponse, Response

from api.deps import CurrentServices
from api.routes.wado import accepts_gzip
from api.routing import PUBLIC, Answer, Content, Operation
from dicomweb.errors import NotFound
from wsi.ohif import BASE, INDEX, assets, inline_hashes

# Volumes need SharedArrayBuffer, which browsers give to isolated pages only.
_ISOLATED = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}
_IMMUTABLE = "public, max-age=31536000, immutable"
_REVALIDATE = "private, no-cache"


def _policy() -> str:
    """Nothing from elsewhere. Its codecs are WebAssembly, some of its libraries compile templates."""
    scripts = " ".join(("'self'", "'unsafe-eval'", "blob:", *inline_hashes()))
    return (
        f"default-src 'self'; script-src {scripts}; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; media-src 'self' blob:; "
        "object-src 'self' blob:; frame-src 'self' blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    )


async def viewer(request: Request) -> Response:
    """The viewer's page, whose script finds its own way by the address."""
    return _asset(INDEX, request)


async def viewer_file(path: str, request: Request) -> Response:
    """A file of the viewer; an address that names none is a view of its page."""
    if path in assets():
        return _asset(path, request)
    if "." in path.rpartition("/")[2]:
        raise NotFound("the viewer has no such file")
    return _asset(INDEX, request)


def _asset(name: str, request: Request) -> Response:
    asset = assets().get(name)
    if asset is None:
        raise NotFound("OHIF is not installed: `python -m wsi.ohif` fetches it where npm is at hand")
    headers = {
        **_ISOLATED,
        "etag": asset.etag,
        "cache-control": _IMMUTABLE if asset.fixed else _REVALIDATE,
        "vary": "Accept-Encoding",
    }
    if name == INDEX:
        headers["content-security-policy"] = _policy()
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    if asset.zipped is not None and accepts_gzip(request.headers.get("accept-encoding")):
        return FileResponse(asset.zipped, headers=headers | {"content-encoding": "gzip"}, media_type=asset.media_type)
    return FileResponse(asset.path, headers=headers, media_type=asset.media_type)


async def configuration(services: CurrentServices) -> Response:
    """The viewer's settings: this archive is its only source."""
    text = b"window.config = " + orjson.dumps(_configuration(services.settings.dicomweb_root)) + b";\n"
    return Response(text, headers={"cache-control": _REVALIDATE}, media_type="text/javascript; charset=utf-8")


def _configuration(root: str) -> dict[str, Any]:
    source = {
        "friendlyName": "Anor",
        "name": "anor",
        "qidoRoot": root,
        "wadoRoot": root,
        "wadoUriRoot": "/wado",
        "qidoSupportsIncludeField": True,
        "supportsFuzzyMatching": True,
        "supportsWildcard": True,
        "supportsReject": False,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "dicomUploadEnabled": True,
        "omitQuotationForMultipartRequest": True,
        "singlepart": "bulkdata,video,pdf",
        "bulkDataURI": {"enabled": True, "relativeResolution": "series"},
    }
    return {
        "routerBasename": BASE.rstrip("/"),
        "extensions": [],
        "modes": [],
        "customizationService": {},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 3,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": True,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "investigationalUseDialog": {"option": "never"},
        "maxNumRequests": {"interaction": 100, "thumbnail": 25, "prefetch": 25},
        "defaultDataSourceName": "anor",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "anor",
                "configuration": source,
            }
        ],
    }


async def no_service_worker() -> Response:
    """The viewer asks for it; one that kept an old version alive would be a nuisance."""
    return Response(b"", headers={"cache-control": _REVALIDATE}, media_type="text/javascript; charset=utf-8")


def _operation(path: str, summary: str, handler: object, kind: str = "text/html") -> Operation:
    contents = (Content(kind, "<!doctype html>" if kind == "text/html" else "window.config = {...};"),)
    return Operation(
        "GET",
        path,
        PUBLIC,
        "Pages",
        summary,
        f"{summary}. Needs OHIF, which the set-up installs where npm is at hand.",
        handler,  # type: ignore[arg-type]
        (Answer(200, "The document.", contents), Answer(304, "Not modified.")),
        errors=(NotFound,),
        hot=False,
    )


OPERATIONS = (
    _operation("/ohif", "The OHIF viewer", viewer),
    _operation("/ohif/app-config.js", "Configuration of the OHIF viewer", configuration, "text/javascript"),
    _operation("/ohif/init-service-worker.js", "An empty script", no_service_worker, "text/javascript"),
    _operation("/ohif/{path:path}", "A file or a view of the OHIF viewer", viewer_file),
)
