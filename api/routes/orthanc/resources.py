"""Patients, studies, series and instances: lists, one, what is in it and what it is in, and its deletion."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import orjson

from api.exchange import Exchange
from api.responses import JSON, send_bytes, send_stream
from api.routes.orthanc.addressing import flag_value, form_of, number, resource_of, tags_of
from api.routes.orthanc.dialect import flag, send_json, send_text
from api.routing import Answer, Content, Operation, Parameter
from api.uploads import whole_body
from dicomweb.errors import BadQuery, BadRequest, NotFound, Unavailable
from dicomweb.tags import Level
from storage.resource import PLURAL, Resource
from storage.resource_sql import Parts
from storage.resources import PLAIN, View, reference

_RANK: Final = tuple(Level)
_MIB: Final = 1 << 20
_SMALL_BODY: Final = 1024
# What ResponseContent names, and the parts that it stands for.
CONTENT: Final = {
    "MainDicomTags": "main_tags",
    "Metadata": "metadata",
    "Children": "children",
    "Parent": "parent",
    "Labels": "labels",
    "Status": "status",
    "IsStable": "stable",
    "IsProtected": "protected",
    "Attachments": "attachments",
}


def parts_of(names: list[str]) -> Parts:
    """The parts that ResponseContent names. Raises BadQuery."""
    unknown = set(names) - {*CONTENT, "RequestedTags"}
    if unknown:
        raise BadQuery("there is no such response content", attribute="ResponseContent")
    wanted = {CONTENT[name]: True for name in names if name in CONTENT}
    return Parts(**wanted)  # type: ignore[arg-type]  # none of them is `requested`


def view_of(http: Exchange) -> View:
    """How the query wants resources to be described."""
    content = http.query_value("response-content")
    parts = parts_of([name.strip() for name in content.split(";") if name.strip()]) if content else PLAIN
    asked = http.query_value("requested-tags") or http.query_value("requestedTags") or ""
    if asked:
        parts = replace(parts, requested=tags_of(asked, "requested-tags"))
    return View(parts, form_of(http))


async def every(http: Exchange, level: Level) -> None:
    """The resources of a level."""
    expanded = flag(http, "expand") or http.query_value("response-content") is not None
    view = view_of(http) if expanded else None
    since, limit = number(http, "since", 0), number(http, "limit", 0)
    batches = http.archive.resources.each(http.access, level, view, since, limit)
    await send_array(http, batches)


async def send_array(http: Exchange, batches: AsyncIterator[list[Any]]) -> None:
    """Lists as one JSON array: one list at once, more as they come. A stream costs as much again as a small search."""
    first: list[Any] = await anext(batches, [])
    second = await anext(batches, None)
    if second is None:
        await send_bytes(http, 200, [JSON], orjson.dumps(first))
    else:
        await send_stream(http, 200, [JSON], None, _array([first, second], batches))


async def _array(begun: list[list[Any]], batches: AsyncIterator[list[Any]]) -> AsyncIterator[bytes]:
    yield orjson.dumps([each for batch in begun for each in batch])[:-1]
    before = b"," if any(begun) else b""
    async for batch in batches:
        if batch:
            yield before + orjson.dumps(batch)[1:-1]
            before = b","
    yield b"]"


async def one(http: Exchange, level: Level) -> None:
    """One resource."""
    await send_json(http, await http.archive.resources.one(http.access, resource_of(http, level), view_of(http)))


async def parent(http: Exchange, level: Level, above: Level) -> None:
    """The resource that it is in."""
    service = http.archive.resources
    await send_json(http, await service.parent(http.access, resource_of(http, level), above, view_of(http)))


async def children(http: Exchange, level: Level, below: Level) -> None:
    """What is in it."""
    view = None if flag_value(http, "expand") is False else view_of(http)
    service = http.archive.resources
    await send_json(http, await service.children(http.access, resource_of(http, level), below, view))


async def delete(http: Exchange, level: Level) -> None:
    """Delete it, with all that is in it."""
    remaining = await http.archive.lifecycle.remove(http.access, resource_of(http, level))
    await send_json(http, {"RemainingAncestor": None if remaining is None else reference(remaining)})


async def statistics(http: Exchange, level: Level) -> None:
    """How many there are in it, and how many bytes they take."""
    found = await http.archive.resources.statistics(http.access, resource_of(http, level))
    answer: dict[str, Any] = {}
    for name, count in (("Studies", found.studies), ("Series", found.series), ("Instances", found.instances)):
        below = Level({"Studies": "study", "Series": "series", "Instances": "instance"}[name])
        if _RANK.index(below) > _RANK.index(level):
            answer[f"Count{name}"] = count
    for name, size in (("", found.bytes + found.attached), ("Dicom", found.bytes)):
        answer |= {f"{name}DiskSize": str(size), f"{name}DiskSizeMB": size // _MIB}
        answer |= {f"{name}UncompressedSize": str(size), f"{name}UncompressedSizeMB": size // _MIB}
    await send_json(http, answer)


async def protected(http: Exchange) -> None:
    """Whether a patient is kept when others are recycled."""
    found = await http.archive.lifecycle.protected(http.access, _patient(http).id)
    await send_text(http, "1" if found else "0")


async def protect(http: Exchange) -> None:
    """Keep a patient when others are recycled (1), or not any more (0)."""
    body = (await whole_body(http, _SMALL_BODY)).strip().lower()
    if body not in (b"0", b"1", b"true", b"false"):
        raise BadRequest("the body is 0, 1, true or false")
    await http.archive.lifecycle.protect(http.access, _patient(http).id, protected=body in (b"1", b"true"))
    await send_text(http, "")


def _patient(http: Exchange) -> Resource:
    return resource_of(http, Level.PATIENT)


# -- the table

_EXAMPLE: Final = {
    "ID": "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15",
    "IsStable": True,
    "Labels": ["urgent"],
    "LastUpdate": "20240131T101530",
    "MainDicomTags": {"StudyDate": "20240131", "StudyInstanceUID": "2.25.1"},
    "ParentPatient": "f2f0c0b4-5f3b1d2b-7bd0a7a4-95b4b2d2-0b0f1d6e",
    "PatientMainDicomTags": {"PatientID": "P-1", "PatientName": "Doe^Jane"},
    "Series": ["0d0f8b3c-6a1f9d7f-4a4e7a37-7c9c0f0a-8a0e7b55"],
    "Type": "Study",
}
_JSON: Final = "application/json"
_TAGS: Final = Parameter(
    "requested-tags", "query", "more tags, separated by semicolons", "ModalitiesInStudy;PatientName"
)
_FULL: Final = Parameter("full", "query", "tags by number, with their names and types", "true", kind="boolean")
_SHORT: Final = Parameter("short", "query", "tags by number", "true", kind="boolean")
_EXPAND: Final = Parameter("expand", "query", "resources instead of identifiers", "true", kind="boolean")
_CONTENT: Final = Parameter("response-content", "query", "parts, separated by semicolons", "MainDicomTags;Metadata")
_SINCE: Final = Parameter("since", "query", "how many are passed over", "0", kind="integer")
_LIMIT: Final = Parameter("limit", "query", "how many at most; 0: all", "100", kind="integer")
_ERRORS: Final = (BadQuery, BadRequest, NotFound, Unavailable)
_MANY: Final = {
    Level.PATIENT: "patients",
    Level.STUDY: "studies",
    Level.SERIES: "series",
    Level.INSTANCE: "instances",
}


def _a(level: Level) -> str:
    return f"{'an' if level is Level.INSTANCE else 'a'} {level}"


def _get(path: str, summary: str, about: str, handler: Callable[..., Awaitable[None]], *more: Parameter) -> Operation:
    return Operation(
        "GET",
        path,
        "dicom.search",
        "Orthanc",
        summary,
        about,
        handler,
        (Answer(200, "What was asked for.", (Content(_JSON, _EXAMPLE),)),),
        more,
        errors=_ERRORS,
        orthanc=True,
    )


def _operations(level: Level) -> list[Operation]:
    at = f"/{PLURAL[level]}/{{id}}"
    rank = _RANK.index(level)
    bind = functools.partial
    found = [
        _get(
            f"/{PLURAL[level]}",
            f"List {_MANY[level]}",
            "Identifiers in the order in which the resources came, or what they are; sent while it is read.",
            bind(every, level=level),
            *(_EXPAND, _TAGS, _CONTENT, _SINCE, _LIMIT, _FULL, _SHORT),
        ),
        _get(
            at, f"Describe {_a(level)}", "Its tags, parents and children.", bind(one, level=level), _TAGS, _FULL, _SHORT
        ),
        _get(
            f"{at}/statistics",
            f"Count what is in {_a(level)}",
            "Resources and bytes; spelled as text, as Orthanc does.",
            bind(statistics, level=level),
        ),
        Operation(
            "DELETE",
            at,
            "dicom.delete",
            "Orthanc",
            f"Delete {_a(level)}",
            "With all that is in it, and the parents that become empty; the nearest one that remains is named.",
            bind(delete, level=level),
            (Answer(200, "Deleted.", (Content(_JSON, {"RemainingAncestor": None}),)),),
            errors=(NotFound, Unavailable),
            orthanc=True,
        ),
    ]
    found += [
        _get(
            f"{at}/{above}",
            f"Describe the {above} of {_a(level)}",
            "The resource that it is in.",
            bind(parent, level=level, above=above),
            *(_TAGS, _FULL, _SHORT),
        )
        for above in _RANK[:rank]
    ]
    found += [
        _get(
            f"{at}/{PLURAL[below]}",
            f"List the {_MANY[below]} of {_a(level)}",
            "Described, or (`expand=false`) by identifier.",
            bind(children, level=level, below=below),
            *(_EXPAND, _TAGS, _CONTENT, _FULL, _SHORT),
        )
        for below in _RANK[rank + 1 :]
    ]
    return found


OPERATIONS = (
    *(operation for level in Level for operation in _operations(level)),
    Operation(
        "GET",
        "/patients/{id}/protected",
        "dicom.search",
        "Orthanc",
        "Tell whether a patient is protected",
        "A protected patient stays when others are recycled.",
        protected,
        (Answer(200, "`1` or `0`.", (Content("text/plain", "0"),)),),
        errors=(NotFound, Unavailable),
        orthanc=True,
    ),
    Operation(
        "PUT",
        "/patients/{id}/protected",
        "dicom.write",
        "Orthanc",
        "Protect a patient",
        "A protected patient stays when others are recycled.",
        protect,
        (Answer(200, "Done.", (Content("text/plain", "(empty)"),)),),
        body=(Content("text/plain", "1"),),
        errors=(BadRequest, NotFound, Unavailable),
        orthanc=True,
    ),
)
