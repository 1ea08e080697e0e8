"""The front door: every request passes here once, before anything is parsed or looked up.

One ASGI callable instead of a stack, because each layer of a stack costs a hot route 5-10 microseconds. In this
order: request identifier, header limits, CORS, the route table, the caller's right, then the handler; what the
handler raises is answered by the one error table.
"""

import itertools
import os
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.capabilities import WADL, describe
from api.deps import access_of, allowed_origins
from api.errors import HEADERS_TOO_LARGE, METHOD_NOT_ALLOWED, UPGRADE_REQUIRED, HttpRefusal, problem_of
from api.exchange import Exchange, Services
from api.logs import log_access, log_crash
from api.responses import Header, accepted, send_bytes, send_problem
from api.routing import PUBLIC, Answer, Operation, RouteTree, split_path
from api.websocket import handshake
from dicomweb.errors import ArchiveError, BadQuery, BadRequest, Forbidden, NotFound
from dicomweb.negotiation import plan_rendered

_EXPOSED = b"Content-Range, Content-Length, Content-Location, ETag, Location, Warning, X-Request-Id"
_METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
_PREFLIGHT_AGE = b"7200"
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})


async def _nothing(http: Exchange) -> None:
    await send_bytes(http, 204, [])


# Stands in where no declared operation answers: unknown paths, refused headers, OPTIONS.
_UNROUTED = Operation("GET", "(none)", PUBLIC, "", "No route", "", handler=_nothing, answers=(Answer(204, "Nothing"),))


class FrontDoor:
    """Takes HTTP requests; `inner` is FastAPI's stack, which serves the operations that are not hot."""

    def __init__(self, tree: RouteTree, services: Services, inner: ASGIApp) -> None:
        self._tree = tree
        self._services = services
        self._inner = inner
        self._origins = allowed_origins(services.settings.cors_origins)
        self._any_origin = b"*" in self._origins
        self._prefix = os.urandom(5).hex()
        self._count = itertools.count(1)
        self._log_access = services.settings.log_level == "debug"
        self._max_headers = services.settings.max_headers
        self._max_header_bytes = services.settings.max_header_bytes
        self._max_query_bytes = services.settings.max_query_bytes
        self._max_query_parameters = services.settings.max_query_parameters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        began = time.perf_counter()
        request_id = f"{self._prefix}-{next(self._count):x}"
        socket = scope["type"] == "websocket"
        if socket:  # a GET until it is accepted
            scope["method"], scope["scheme"] = "GET", "https" if scope["scheme"] == "wss" else "http"
        http = Exchange(
            scope,
            receive,
            handshake(send) if socket else send,
            services=self._services,
            access=access_of(scope),
            operation=_UNROUTED,
            request_id=request_id,
        )
        try:
            await self._serve(http)
        except (ArchiveError, HttpRefusal) as error:
            await self._fail(http, error)
        except Exception as error:  # noqa: BLE001 - the last place: it must be answered and must not say what it was
            log_crash(request_id, http.operation.path, error)
            await self._fail(http, error)
        finally:
            self._finished(http, time.perf_counter() - began)

    async def _serve(self, http: Exchange) -> None:
        scope = http.scope
        origin = self._check_headers(scope["headers"])
        if scope["query_string"]:
            self._check_query(scope["query_string"])
        if origin is not None and self._origins:
            self._allow_origin(origin, http.extra)
        method = http.method
        if method == "OPTIONS":
            await self._options(http)
            return
        found = self._tree.find(method, scope["path"])
        operation = found.operation
        if operation is None:
            if found.allowed:
                allow = ", ".join((*found.allowed, "OPTIONS")).encode()
                if found.orthanc:  # as Orthanc answers: nothing but the header
                    await send_bytes(http, METHOD_NOT_ALLOWED[1].status, [(b"allow", allow)])
                    return
                raise HttpRefusal(METHOD_NOT_ALLOWED, "the path has other methods", headers=((b"allow", allow),))
            raise NotFound("nothing is served under this path")
        http.operation = operation
        http.path = found.parameters
        _check_upgrade(operation, scope)
        # No browser asks before it opens a WebSocket to another site: it is refused like a write.
        if origin is not None and (operation.websocket or method not in _SAFE_METHODS):
            self._refuse_foreign(http, origin)
        if operation.scope is not PUBLIC:
            http.access.require(operation.scope)
        if operation.hot:
            await operation.handler(http)
        else:
            await self._cold(http)

    async def _cold(self, http: Exchange) -> None:
        """Through FastAPI; its answer gets the headers that every answer has."""
        scope = http.scope
        scope["path"] = "/" + "/".join(split_path(scope["path"]))
        scope["anor"] = http

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                http.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff"), *http.extra]
            await http.send(message)

        await self._inner(scope, http.receive, send)

    def _check_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """Refuse header floods and a body that is framed twice (RFC 9112 6.1: smuggling); gives the Origin."""
        count = size = 0
        origin = None
        framing = 0
        for name, value in headers:
            count += 1
            size += len(name) + len(value)
            if name == b"origin":
                origin = value
            elif name == b"content-length":
                framing |= 1
            elif name == b"transfer-encoding":
                framing |= 2
        if count > self._max_headers or size > self._max_header_bytes:
            raise HttpRefusal(
                HEADERS_TOO_LARGE,
                f"at most {self._max_headers} header fields (max_headers)"
                f" of {self._max_header_bytes} bytes together (max_header_bytes)",
                headers=((b"connection", b"close"),),
            )
        if framing == 3:
            raise BadRequest("a request has Content-Length or Transfer-Encoding, not both")
        return origin

    def _check_query(self, text: bytes) -> None:
        if len(text) > self._max_query_bytes:
            raise BadQuery(f"the query string is longer than {self._max_query_bytes} bytes (max_query_bytes)")
        if text.count(b"&") >= self._max_query_parameters:
            raise BadQuery(f"more than {self._max_query_parameters} query parameters (max_query_parameters)")

    def _allow_origin(self, origin: bytes, extra: list[Header]) -> None:
        """CORS (Fetch standard): never with credentials, so that `*` is safe; the header varies by origin else."""
        if self._any_origin:
            extra.append((b"access-control-allow-origin", b"*"))
        else:
            extra.append((b"vary", b"Origin"))
            if origin not in self._origins:
                return
            extra.append((b"access-control-allow-origin", origin))
        extra.append((b"access-control-expose-headers", _EXPOSED))

    def _refuse_foreign(self, http: Exchange, origin: bytes) -> None:
        """Forbidden for a write or a WebSocket that a page of another site had the browser send.

        No preflight guards a form or a WebSocket (row 57). Programs send no Origin. A page of our own is known by
        `Sec-Fetch-Site`, which no script can set, or because its origin is the host that was asked or the one that is
        configured.
        """
        if self._any_origin or origin in self._origins or http.header(b"sec-fetch-site") == "same-origin":
            return
        host = http.header(b"host") or ""
        base = urlsplit(self._services.address.base(http.scope))
        text = origin.decode("latin-1")
        if text not in {f"http://{host}", f"https://{host}", f"{base.scheme}://{base.netloc}"}:
            raise Forbidden(
                "pages of this origin may not write here; `cors_origins` would allow it", attribute="Origin"
            )

    async def _options(self, http: Exchange) -> None:
        """OPTIONS never needs a right: a preflight carries none (dicomweb.md: viewers' most common failure)."""
        if split_path(http.scope["path"]) == split_path(http.settings.dicomweb_root) and not _is_preflight(http):
            await self._capabilities(http)
            return
        found = self._tree.find("OPTIONS", http.scope["path"])
        if not found.allowed and http.scope["path"] not in {"*", "/"}:
            raise NotFound("nothing is served under this path")
        headers: list[Header] = [(b"allow", ", ".join((*found.allowed, "OPTIONS")).encode())]
        wanted = http.header(b"access-control-request-method")
        if wanted is not None and any(name == b"access-control-allow-origin" for name, _ in http.extra):
            asked = http.header(b"access-control-request-headers") or "Accept, Authorization, Content-Type, Range"
            headers.append((b"access-control-allow-methods", _METHODS))
            headers.append((b"access-control-allow-headers", asked.encode("latin-1")))
            headers.append((b"access-control-max-age", _PREFLIGHT_AGE))
        await send_bytes(http, 204, headers)

    async def _capabilities(self, http: Exchange) -> None:
        """What the service can do (PS3.18 8.9): WADL, or the OpenAPI document for who asks for JSON."""
        ranges = accepted(http)
        kind = plan_rendered(ranges, (WADL, "application/xml", "application/json")).media_type
        if kind == "application/json":
            body = orjson.dumps(self._services.document())
        else:
            body = describe(self._tree.operations, http.settings.dicomweb_root, http.root_url)
        headers: list[Header] = [(b"content-type", kind.encode()), (b"allow", b"OPTIONS"), (b"vary", b"Accept")]
        await send_bytes(http, 200, headers, body)

    async def _fail(self, http: Exchange, error: Exception) -> None:
        if http.status:
            return  # the answer has begun: ending here makes the server cut the connection
        await send_problem(http, problem_of(error))

    def _finished(self, http: Exchange, seconds: float) -> None:
        method = http.method if http.method in _KNOWN_METHODS else "other"
        if http.status == 101:
            seconds = 0.0  # how long a socket stays open says nothing of the time an answer takes
        self._services.metrics.request(http.operation.path, method, http.status, seconds)
        if self._log_access:
            log_access(http.request_id, http.operation.path, method, http.status, seconds)


def _is_preflight(http: Exchange) -> bool:
    return http.header(b"access-control-request-method") is not None


def _check_upgrade(operation: Operation, scope: Scope) -> None:
    """A WebSocket is asked for where there is one, and nowhere else."""
    if operation.websocket == (scope["type"] == "websocket"):
        return
    if operation.websocket:
        raise HttpRefusal(UPGRADE_REQUIRED, "connect with a WebSocket", headers=((b"upgrade", b"websocket"),))
    raise BadRequest("the path is no WebSocket", attribute="Upgrade")
