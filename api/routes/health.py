"""Liveness, readiness, and what Prometheus reads."""

import asyncio

from starlette.responses import JSONResponse, Response

from api.deps import CurrentArchive, CurrentServices
from api.metrics import CONTENT_TYPE
from api.routing import PUBLIC, Answer, Content, Operation
from dicomweb.errors import Unavailable
from storage.archive import Archive

_CHECK_S = 5.0


async def healthz() -> Response:
    """The process answers; nothing else is asked."""
    return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})


async def readyz(archive: CurrentArchive) -> Response:
    """Database and object store take writes, within five seconds; else 503 with the reasons.

    Damaged objects are told, but are no reason: another server has no others.
    """
    reasons, damaged = await _state(archive)
    body: dict[str, object] = {"status": "unavailable", "reasons": reasons} if reasons else {"status": "ready"}
    if damaged:
        body["damaged_objects"] = damaged
    return JSONResponse(body, status_code=503 if reasons else 200, headers={"cache-control": "no-store"})


async def _state(archive: Archive) -> tuple[list[str], int]:
    try:
        async with asyncio.timeout(_CHECK_S):
            await archive.check()
            return [], await archive.damage.count()
    except Unavailable as error:
        return [error.message], 0
    except TimeoutError:
        return [f"the database or the object store did not answer within {_CHECK_S:g} s"], 0


async def metrics(services: CurrentServices) -> Response:
    """Counters of all processes together, in Prometheus' text format."""
    left, used = float(services.uploads.left), float(services.archive.db.connections_in_use)
    gauges = {
        "upload_memory_left_bytes": ("Memory left for uploads in the worker that answers.", left),
        "database_connections_in_use": ("Connections in use in the worker that answers.", used),
    }
    return Response(services.metrics.expose(gauges), media_type=CONTENT_TYPE.decode())


OPERATIONS = (
    Operation(
        "GET",
        "/healthz",
        PUBLIC,
        "Operation",
        "Liveness",
        "Answers while the process lives; asks neither the database nor the object store.",
        healthz,
        (Answer(200, "Alive.", (Content("application/json", {"status": "ok"}),)),),
        hot=False,
    ),
    Operation(
        "GET",
        "/readyz",
        PUBLIC,
        "Operation",
        "Readiness",
        "Whether the database and the object store take writes: what a load balancer asks. `damaged_objects`, where"
        " there are any: files that turned out missing or damaged, which `anor fsck` names.",
        readyz,
        (
            Answer(200, "Ready.", (Content("application/json", {"status": "ready", "damaged_objects": 1}),)),
            Answer(
                503,
                "Not ready.",
                (Content("application/json", {"status": "unavailable", "reasons": ["the database does not answer"]}),),
            ),
        ),
        hot=False,
    ),
    Operation(
        "GET",
        "/metrics",
        "metrics.read",
        "Operation",
        "Metrics for Prometheus",
        "Counters of all processes of this server together. Labels are route templates, operations, methods and codes, "
        "never identifiers.",
        metrics,
        (
            Answer(
                200,
                "Text format 0.0.4.",
                (
                    Content(
                        "text/plain", 'anor_http_requests_total{route="{root}/studies",method="GET",code="200"} 12.0\n'
                    ),
                ),
            ),
        ),
        hot=False,
    ),
)
