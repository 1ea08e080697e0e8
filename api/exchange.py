"""One HTTP request and its answer, as the hot routes see it: the ASGI triple with lazily parsed parts.

Hot handlers are `async def name(http: Exchange) -> None`. They read `http.path`, `http.query()`, `http.header()`,
call one service and answer once with `responses.send_bytes` or `responses.send_stream`. An ArchiveError that leaves
the handler becomes a problem document.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from dicomweb.errors import BadQuery
from storage.access import Access
from storage.settings import Settings

if TYPE_CHECKING:
    from api.deps import PublicAddress
    from api.metrics import Metrics
    from api.routing import Operation
    from api.uploads import MemoryBudget
    from api.websocket import Sockets
    from dimse_bridge.scu import Requestor
    from storage.archive import Archive
    from wsi.annotations import AnnotationService
    from wsi.segmentations import SegmentationService
    from wsi.tiles import TileService


def parse_query(raw: bytes) -> list[tuple[str, str]]:
    """The decoded parameters of a query string in their order, repeated ones kept; BadQuery when it is not UTF-8.

    How many there may be is checked before, at the front door.
    """
    if not raw:
        return []
    try:
        return parse_qsl(raw.decode("latin-1"), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise BadQuery("the query string is not UTF-8") from None


@dataclass(frozen=True, slots=True)
class Services:
    """What every request of this process shares; `document` gives the OpenAPI document."""

    settings: Settings
    archive: "Archive"
    address: "PublicAddress"
    metrics: "Metrics"
    uploads: "MemoryBudget"
    document: Callable[[], dict[str, Any]]
    sockets: "Sockets"
    tiles: "TileService"
    annotations: "AnnotationService"
    segmentations: "SegmentationService"
    requestor: "Requestor"


class Exchange:
    """`extra` are headers that every answer to this request carries (CORS, request id).

    `status` is 0 until the answer has begun. `body_read` is set by whoever has read the request body to its end.
    """

    __slots__ = (
        "_headers",
        "access",
        "body_read",
        "extra",
        "method",
        "operation",
        "path",
        "receive",
        "request_id",
        "scope",
        "send",
        "services",
        "status",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        services: Services,
        access: Access,
        operation: "Operation",
        request_id: str,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.services = services
        self.access = access
        self.operation = operation
        self.path: dict[str, str] = {}
        self.request_id = request_id
        self.extra: list[tuple[bytes, bytes]] = [(b"x-request-id", request_id.encode())]
        self.status = 0
        self.body_read = False
        self._headers: dict[bytes, bytes] | None = None

    def header(self, name: bytes) -> str | None:
        """The value of a request header (lower-case name); repeated fields are joined by a comma (RFC 9110 5.3)."""
        headers = self._headers
        if headers is None:
            headers = self._headers = {}
            for key, value in self.scope["headers"]:
                headers[key] = headers[key] + b", " + value if key in headers else value
        found = headers.get(name)
        return None if found is None else found.decode("latin-1")

    @property
    def ends_connection(self) -> bool:
        """Whether an answer now leaves a body half read: the connection cannot carry another request (RFC 9112 9.3).

        The server closes it then in any case. A client that is not told may send its next request into the void.
        """
        if self.body_read or self.method in {"GET", "HEAD"}:
            return False
        length = self.header(b"content-length")
        return length != "0" if length is not None else self.header(b"transfer-encoding") is not None

    def query(self) -> list[tuple[str, str]]:
        """The decoded query parameters in their order, repeated ones kept."""
        return parse_query(self.scope["query_string"])

    def query_value(self, name: str) -> str | None:
        """The first value of one query parameter."""
        return next((value for key, value in self.query() if key == name), None) if self.scope["query_string"] else None

    @property
    def archive(self) -> "Archive":
        """The archive of this process."""
        return self.services.archive

    @property
    def settings(self) -> Settings:
        """The settings of this process."""
        return self.services.settings

    @property
    def root_url(self) -> str:
        """The absolute DICOMweb root for URLs in answers, without a slash at its end; see `deps.PublicAddress`."""
        return self.services.address.base(self.scope) + self.services.settings.dicomweb_root

    @property
    def peer(self) -> str:
        """The address of the TCP peer, for provenance."""
        client = self.scope.get("client")
        return client[0] if client else ""
