"""The OpenAPI 3.1 document, made from the route table alone."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from api.errors import UPGRADE_REQUIRED, row_of
from api.examples import IDENTIFIERS
from api.routing import PUBLIC, Answer, Content, Operation, Parameter, split_path
from dicomweb.errors import (
    ArchiveError,
    Forbidden,
    RangeNotSatisfiable,
    Unavailable,
    WorkitemConflict,
    WorkitemRefused,
)

_PROBLEM = "application/problem+json"
_PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}
_TEXTS = {
    "answer": "number of an answer, from 0",
    "job": "identifier of a job",
    "plugin": "dicom-web or wsi",
    "label": "letters, digits, - and _",
    "key": "name of what a job left",
    "modality": "name of a declared application entity",
    "peer": "name of a declared Orthanc server",
    "server": "name of a declared DICOMweb server",
    "query": "identifier of a query",
    "transaction": "Transaction UID",
    "study": "Study Instance UID",
    "series": "Series Instance UID",
    "instance": "SOP Instance UID",
    "again": "the same SOP Instance UID",
    "frames": "frame numbers from 1, separated by commas",
    "path": "tag, then item index and tag for nested values, separated by slashes",
    "file": "name of the file",
    "workitem": "SOP Instance UID of the workitem",
    "worklist": "identifier of the worklist item",
    "step": "identifier of the worklist item",
    "mpps": "SOP Instance UID of the performed procedure step",
    "aet": "AE title of the subscriber",
    "build": "digest of the installed viewer",
    "name": "name of a file, of metadata or of an attachment",
    "page": "route of the viewer's own",
    "group": "Annotation Group Number",
    "level": "number of a level",
    "x": "column of the tile, from 0",
    "y": "row of the tile, from 0",
    "id": "Orthanc's identifier of the resource",
    "ids": "Orthanc's identifiers of instances, with dots between them",
    "transfer": "identifier of the push",
    "chunk": "number of the bucket, from 0",
    "z": "level of the pyramid, 0 is the finest",
    "orthanc": "Orthanc's identifier of the series",
    "orthanc_instance": "Orthanc's identifier of the instance",
    "frame": "number of a frame, from 0",
    "token_type": "kind of a token, as Orthanc names it",
    "document": "Series Instance UID and `.dzi`",
    "files": "Series Instance UID and `_files`",
    "tile": "column and row of the tile, and its format",
    "region": "part of the picture",
    "size": "size of the picture",
    "rotation": "degrees clockwise",
    "picture": "quality and format",
}

# What headers say, and an example of each.
_HEADERS = {
    "Cache-Control": ("immutable for a URL with the right `v`, else to be asked again", "private, no-cache"),
    "Content-Disposition": ("name for the download", 'attachment; filename="study.zip"'),
    "Content-Location": ("URL of the WebSocket", "ws://127.0.0.1:8042/dicom-web/subscribers/ANOR"),
    "Content-Range": ("the range that is sent, and the size of the whole", "bytes 0-65535/524288"),
    "ETag": ("version of this representation, for If-None-Match", '"4f1c2a9be07d3388"'),
    "Location": ("URL of what was created", f"http://127.0.0.1:8042/dicom-web/workitems/{IDENTIFIERS['workitem']}"),
    "Retry-After": ("seconds", "2"),
    "Link": ("what the page will ask for next", "</wsi/slides/1.2.3>; rel=preload; as=fetch; crossorigin=anonymous"),
    "Warning": (
        "what was done otherwise than asked, or left out; code 299",
        "299 http://127.0.0.1:8042/dicom-web: There are additional results that can be requested.",
    ),
}
_ERROR_HEADERS: dict[type[ArchiveError], tuple[str, ...]] = {
    RangeNotSatisfiable: ("Content-Range",),
    Unavailable: ("Retry-After",),
    WorkitemConflict: ("Warning",),
    WorkitemRefused: ("Warning",),
}


def product_version() -> str:
    """The installed version; a source tree that was never installed has none."""
    try:
        return version("anor")
    except PackageNotFoundError:
        return "0"


def document(operations: Iterable[Operation], root: str, server: str | None) -> dict[str, Any]:
    """The whole document; `root` is the DICOMweb root, `server` the configured public URL."""
    paths: dict[str, dict[str, Any]] = {}
    tags: dict[str, None] = {}
    for operation in operations:
        path = operation.at(root).replace(":path}", "}")
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, path)
        tags.setdefault(operation.tag)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Anor",
            "version": product_version(),
            "summary": "DICOM archive: QIDO-RS, WADO-RS, STOW-RS and UPS-RS, and the first of Orthanc's REST routes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server.rstrip("/") if server else "/"}],
        "tags": [{"name": name} for name in tags],
        "paths": paths,
        "components": {"schemas": {"Problem": _problem_schema()}},
    }


def _operation(operation: Operation, path: str) -> dict[str, Any]:
    name = f"{operation.method.lower()} {path}".replace("/", " ").replace("{", "").replace("}", "")
    result: dict[str, Any] = {
        "operationId": "_".join(name.replace("-", " ").replace(".", " ").split()),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "x-scope": operation.scope,
        "parameters": [
            *_path_parameters(path),
            *map(_parameter, operation.all_parameters),
        ],
        "responses": _responses(operation),
    }
    if operation.body:
        result["requestBody"] = {"required": True, "content": _contents(operation.body)}
    return result


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [segment[1:-1] for segment in split_path(path) if segment.startswith("{")]
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _TEXTS[name],
            "schema": {"type": "string"},
            "example": IDENTIFIERS[name],
        }
        for name in dict.fromkeys(names)
    ]


def _parameter(parameter: Parameter) -> dict[str, Any]:
    example: object = parameter.example
    if parameter.kind == "integer":
        example = int(parameter.example)
    elif parameter.kind == "boolean":
        example = parameter.example == "true"
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required,
        "description": parameter.summary,
        "schema": {"type": parameter.kind},
        "example": example,
    }


def _contents(contents: Iterable[Content]) -> dict[str, Any]:
    return {content.media_type: {"schema": _schema(content), "example": content.example} for content in contents}


def _schema(content: Content) -> dict[str, Any]:
    if not content.media_type.endswith("json"):
        return {"type": "string"} | ({} if content.media_type.startswith("text/") else {"format": "binary"})
    return {"type": "array"} if isinstance(content.example, list) else {"type": "object"}


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for answer in operation.answers:
        responses[str(answer.status)] = _answer(answer, operation.headers_of(answer))
    if operation.websocket:
        slug, row = UPGRADE_REQUIRED
        responses[str(row.status)] = {"description": f"`{slug}`", "content": {_PROBLEM: {"schema": _PROBLEM_SCHEMA}}}
    errors: tuple[type[ArchiveError], ...] = (
        operation.errors if operation.scope is PUBLIC else (*operation.errors, Forbidden)
    )
    for error in errors:
        status = str(row_of(error).status)
        if status in responses:
            responses[status]["description"] += f" `{error.slug}`"
            continue
        problem: dict[str, Any] = {"description": f"`{error.slug}`"}
        kind = "application/json" if operation.orthanc else _PROBLEM
        schema = {"type": "object"} if operation.orthanc else _PROBLEM_SCHEMA
        problem["content"] = {kind: {"schema": schema}}
        if named := _headers(_ERROR_HEADERS.get(error, ())):
            problem["headers"] = named
        responses[status] = problem
    return responses


def _answer(answer: Answer, headers: Iterable[str]) -> dict[str, Any]:
    result: dict[str, Any] = {"description": answer.summary}
    if named := _headers(headers):
        result["headers"] = named
    if answer.contents:
        result["content"] = _contents(answer.contents)
    return result


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {
        name: {"description": text, "schema": {"type": "string"}, "example": example}
        for name in names
        for text, example in (_HEADERS[name],)
    }


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "RFC 9457. `slug` is stable and listed in the documentation of errors.",
        "required": ["type", "title", "status", "detail", "slug", "request"],
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "slug": text,
            "request": text,
            "attribute": text,
        },
    }
