"""The ONE route table: what an operation is, and how a path finds it.

Each module under `api/routes` declares `OPERATIONS`. From them come the dispatch (a tree of path segments, one
dictionary step per segment: a request pays for its own depth, not for the number of routes), the scope check, the
OpenAPI document and the metrics' label. A path that no operation declares does not exist.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from api.exchange import Exchange
from dicomweb.errors import ArchiveError

HotHandler = Callable[[Exchange], Awaitable[None]]
ColdHandler = Callable[..., Any]

# Operations that need no right at all: liveness, and the documents of the API itself.
PUBLIC: Final = "public"
ROOT: Final = "{root}"
# The paths of DICOMweb's resources.
STUDY: Final = ROOT + "/studies/{study}"
SERIES: Final = STUDY + "/series/{series}"
INSTANCE: Final = SERIES + "/instances/{instance}"


def instance_url(root: str, study: str, series: str, sop: str) -> str:
    """The URL of an instance below the DICOMweb root."""
    return f"{root}/studies/{study}/series/{series}/instances/{sop}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the query, the header or (made from the path by itself) the path."""

    name: str
    where: Literal["query", "header", "path"]
    summary: str
    example: str
    required: bool = False
    kind: Literal["string", "integer", "boolean"] = "string"


@dataclass(frozen=True, slots=True)
class Content:
    """A body of one media type with a short example: text, or a JSON value. `repr` of bytes is never shown."""

    media_type: str
    example: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One status that an operation gives when it succeeds, or when its answer says what failed.

    `headers`: the names of those that it may carry besides what `Operation.headers_of` knows by itself.
    """

    status: int
    summary: str
    contents: tuple[Content, ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path.

    `handler` of a hot operation takes an Exchange and sends the answer itself; one of a cold operation is a FastAPI
    endpoint. `{root}` in `path` stands for the DICOMweb root of the settings; `{name}` is one segment, `{name:path}`
    the rest. GET implies HEAD. A `websocket` operation takes only requests that ask for one.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    scope: str
    tag: str
    summary: str
    description: str
    handler: HotHandler | ColdHandler
    answers: tuple[Answer, ...]
    parameters: tuple[Parameter, ...] = ()
    body: tuple[Content, ...] = ()
    errors: tuple[type[ArchiveError], ...] = ()
    hot: bool = True
    orthanc: bool = False
    websocket: bool = False

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        """The declared ones, and the `accept` query parameter that stands for an Accept header (PS3.18 8.3.3.1)."""
        header = next((each for each in self.parameters if each.name == "Accept"), None)
        if header is None or any(each.name == "accept" for each in self.parameters):
            return self.parameters
        query = Parameter("accept", "query", "the same, for who cannot set a header", header.example)
        return (*self.parameters, query)

    def headers_of(self, answer: Answer) -> tuple[str, ...]:
        """The headers that an answer may carry: who takes If-None-Match gives an ETag, a 206 says which range it is."""
        found = answer.headers
        if answer.status in (200, 206, 304) and any(each.name == "If-None-Match" for each in self.parameters):
            found = ("ETag", "Cache-Control", *found)
        return (*found, "Content-Range") if answer.status == 206 else found

    def at(self, root: str) -> str:
        """The path with the DICOMweb root filled in: the template that documents, logs and metrics show."""
        return self.path.replace(ROOT, root)


class _Node:
    __slots__ = ("children", "operations", "parameter", "tail")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.tail: _Node | None = None
        self.operations: dict[str, tuple[Operation, tuple[str, ...]]] = {}


@dataclass(frozen=True, slots=True)
class Found:
    """Where a path leads: its operation and path parameters, or the methods that the path has.

    `orthanc`: of a path that has other methods, whether they are Orthanc's.
    """

    operation: Operation | None
    parameters: dict[str, str]
    allowed: tuple[str, ...]
    orthanc: bool = False


_NOWHERE: Final = Found(None, {}, ())


class RouteTree:
    """Finds the operation of a path. Doubled and trailing slashes do not matter (Orthanc's clients send both)."""

    def __init__(self, operations: Iterable[Operation], root: str) -> None:
        self._top = _Node()
        self.operations = tuple(operations)
        for operation in self.operations:
            self._add(operation, operation.at(root))

    def _add(self, operation: Operation, path: str) -> None:
        node, names = self._top, []
        for segment in split_path(path):
            if not segment.startswith("{"):
                node = node.children.setdefault(segment, _Node())
                continue
            name = segment[1:-1]
            if name.endswith(":path"):
                names.append(name.removesuffix(":path"))
                node.tail = node = node.tail or _Node()
            else:
                names.append(name)
                node.parameter = node = node.parameter or _Node()
        methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
        for method in methods:
            if method in node.operations:
                raise ValueError(f"{method} {path} is declared twice")
            node.operations[method] = (operation, tuple(names))

    def find(self, method: str, path: str) -> Found:
        """Look up a decoded path; `Found.allowed` is empty when nothing lies there."""
        segments = split_path(path)
        values: list[str] = []
        node = _descend(self._top, segments, 0, values)
        if node is None:
            return _NOWHERE
        entry = node.operations.get(method)
        if entry is None:
            orthanc = any(operation.orthanc for operation, _ in node.operations.values())
            return Found(None, {}, tuple(node.operations), orthanc)
        operation, names = entry
        return Found(operation, dict(zip(names, values, strict=True)), ())


def split_path(path: str) -> list[str]:
    """The segments of a path without empty ones."""
    return [segment for segment in path.split("/") if segment]


def _descend(node: _Node, segments: Sequence[str], at: int, values: list[str]) -> _Node | None:
    """A literal segment wins over a parameter, a parameter over a tail; only then is an alternative tried."""
    if at == len(segments):
        return node if node.operations else None
    segment = segments[at]
    child = node.children.get(segment)
    if child is not None and (found := _descend(child, segments, at + 1, values)) is not None:
        return found
    mark = len(values)
    if node.parameter is not None:
        values.append(segment)
        if (found := _descend(node.parameter, segments, at + 1, values)) is not None:
            return found
        del values[mark:]
    if node.tail is not None:
        values.append("/".join(segments[at:]))
        return node.tail
    return None
