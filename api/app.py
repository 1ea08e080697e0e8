"""The application: FastAPI, with the hot routes answered before its stack is entered."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.deps import PublicAddress
from api.errors import problem_json, problem_of
from api.exchange import Exchange, Services
from api.metrics import Metrics
from api.middleware import FrontDoor
from api.openapi import document, product_version
from api.routes import (
    bulk_sets,
    commitments,
    delete,
    downloads,
    frames,
    health,
    imports,
    jobs,
    metadata,
    ohif,
    orthanc,
    pages,
    qido,
    rendered,
    steps,
    stow,
    thumbnails,
    ups,
    viewer,
    wado,
    wado_uri,
    wsi,
    wsi_annotations,
    wsi_dialects,
    wsi_frames,
    wsi_iiif_frames,
    wsi_orthanc,
    wsi_segmentations,
)
from api.routing import Operation, RouteTree
from api.uploads import MemoryBudget
from api.websocket import Sockets
from dicomweb.errors import ArchiveError, BadRequest, NotFound
from dimse_bridge.scu import Requestor
from storage.archive import Archive, open_archive
from storage.settings import Settings
from wsi.annotations import AnnotationService
from wsi.segmentations import SegmentationService
from wsi.tiles import TileService

OPERATIONS: tuple[Operation, ...] = (
    *qido.OPERATIONS,
    *commitments.OPERATIONS,
    *metadata.OPERATIONS,
    *bulk_sets.OPERATIONS,
    *wado.OPERATIONS,
    *frames.OPERATIONS,
    *rendered.OPERATIONS,
    *thumbnails.OPERATIONS,
    *wado_uri.OPERATIONS,
    *stow.OPERATIONS,
    *delete.OPERATIONS,
    *ups.OPERATIONS,
    *steps.OPERATIONS,
    *wsi.OPERATIONS,
    *wsi_annotations.OPERATIONS,
    *wsi_segmentations.OPERATIONS,
    *wsi_dialects.OPERATIONS,
    *wsi_orthanc.OPERATIONS,
    *imports.OPERATIONS,
    *wsi_frames.OPERATIONS,
    *wsi_iiif_frames.OPERATIONS,
    *jobs.OPERATIONS,
    *orthanc.OPERATIONS,
    *downloads.OPERATIONS,
    *health.OPERATIONS,
    *pages.OPERATIONS,
    *viewer.OPERATIONS,
    *ohif.OPERATIONS,
)
# Uploads of one process may hold this many times `spool_memory`; beyond it they are spooled to disk.
_UPLOADS_IN_MEMORY = 32


class Anor(FastAPI):
    """One FastAPI application.

    Every HTTP request and every WebSocket enters by the front door, which sends on to FastAPI's own stack what is not
    hot: the stack costs more than most hot operations do.
    """

    front: FrontDoor | None = None
    sockets: Sockets  # stop them before the server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] in {"http", "websocket"} and self.front is not None:
            await self.front(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def open_front(self, settings: Settings, archive: Archive, requestor: Requestor, metrics: Metrics) -> None:
        """Begin to answer from `archive`."""

        @cache
        def described() -> dict[str, Any]:
            return document(OPERATIONS, settings.dicomweb_root, settings.public_url)

        tiles = TileService(archive)
        services = Services(
            settings,
            archive,
            PublicAddress.of(settings),
            metrics,
            MemoryBudget(_UPLOADS_IN_MEMORY * settings.spool_memory),
            described,
            self.sockets,
            tiles,
            AnnotationService(archive),
            SegmentationService(archive, tiles),
            requestor,
        )
        self.front = FrontDoor(RouteTree(OPERATIONS, settings.dicomweb_root), services, super().__call__)


def create_app(settings: Settings) -> Anor:
    """The application of these settings; the archive is opened when it starts and closed when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        archive = await open_archive(settings)
        requestor = Requestor(archive)
        metrics = Metrics(
            settings.data / "metrics", os.getppid(), requestor.counters, archive.times, requestor.traffic.levels
        )
        metrics.start()
        try:
            await archive.slides.prepare()
            cast("Anor", app).open_front(settings, archive, requestor, metrics)
            yield
        finally:
            await metrics.stop()
            await requestor.close()
            await archive.close()

    app = Anor(
        title="Anor",
        version=product_version(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.sockets = Sockets()
    for operation in OPERATIONS:
        _declare(app, operation, settings.dicomweb_root)
    for kind in (ArchiveError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)
    return app


def _declare(app: Anor, operation: Operation, root: str) -> None:
    """Put the operation among the application's routes.

    A hot one as a plain route, another with FastAPI's dependency solver.
    """
    path = operation.at(root)
    methods: list[str] = ["GET", "HEAD"] if operation.method == "GET" else [operation.method]
    if operation.hot:
        app.router.routes.append(Route(path, _Hot(operation), methods=methods, name=operation.summary))
    else:
        app.add_api_route(path, operation.handler, methods=methods, name=operation.summary, include_in_schema=False)


class _Hot:
    """A hot operation as an endpoint; the front door calls the handler directly, with the exchange it made."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """ASGI, for whoever calls the route itself."""
        await self.operation.handler(scope["anor"])


async def _answer_error(request: Request, error: Exception) -> Response:
    """Whatever a cold operation raises, by the one table."""
    http = cast("Exchange", request.scope["anor"])
    if isinstance(error, HTTPException):
        error = NotFound("nothing is served under this path") if error.status_code == 404 else BadRequest(error.detail)
    elif isinstance(error, RequestValidationError):
        error = BadRequest("a parameter is missing or malformed")
    problem = problem_of(error)
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(
        problem_json(problem, http.request_id),
        problem.status,
        {"cache-control": "no-store", **headers},
        "application/problem+json",
    )
