"""Attributes of resources: all, shared, by module; and parts of files by their paths."""

import functools
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson

from api.exchange import Exchange
from api.responses import JSON, send_bytes, send_stream
from api.routes.orthanc.addressing import form_of, resource_of, tag_of, tags_of
from api.routes.orthanc.dialect import flag, send_json
from api.routing import Answer, Content, HotHandler, Operation, Parameter
from dicomweb.errors import BadDicom, BadQuery, NotFound, TooLarge, Unavailable
from dicomweb.orthanc_tags import Format, formatted
from dicomweb.tags import Level
from storage.contents import Bytes
from storage.resource import PLURAL
from storage.tag_sets import Look

_OCTETS: Final = (b"content-type", b"application/octet-stream")


def look_of(http: Exchange, default: Format = "Full") -> Look:
    """The form of tags that the query wants."""
    keep = tags_of(http.query_value("ignore-length") or "", "ignore-length")
    return Look(form_of(http, default), keep, flag(http, "whole"))


async def tags(http: Exchange, form: Format) -> None:
    """All attributes of an instance."""
    resource, look = resource_of(http, Level.INSTANCE), look_of(http, form)
    await send_bytes(http, 200, [JSON], await http.archive.tags.instance(http.access, resource, look))


async def module(http: Exchange, level: Level, of: Level) -> None:
    """The attributes of a module."""
    await send_json(http, await http.archive.tags.module(http.access, resource_of(http, level), of, look_of(http)))


async def shared(http: Exchange, level: Level) -> None:
    """The attributes that are the same in all instances."""
    await send_json(http, await http.archive.tags.shared(http.access, resource_of(http, level), look_of(http)))


async def instances_tags(http: Exchange, level: Level) -> None:
    """All attributes of all instances, sent while they are read."""
    each = http.archive.tags.each(http.access, resource_of(http, level), look_of(http))
    await send_stream(http, 200, [JSON], None, _object(each))


async def _object(each: AsyncIterator[tuple[str, dict[str, Any]]]) -> AsyncIterator[bytes]:
    before = b"{"
    async for identifier, elements in each:
        yield before + orjson.dumps({identifier: elements})[1:-1]
        before = b","
    yield b"}"


async def header(http: Exchange) -> None:
    """The file meta information."""
    instance = await http.archive.archives.instance(http.access, http.path["id"])
    await send_json(http, formatted(await http.archive.contents.header(http.access, instance), form_of(http, "Full")))


async def content(http: Exchange) -> None:
    """A part of a file: what there is in a data set, how many items, or the bytes of a value."""
    instance = await http.archive.archives.instance(http.access, http.path["id"])
    service = http.archive.contents
    found = await service.at(http.access, instance, _path(http.path.get("path", "")))
    if isinstance(found, list):
        await send_json(http, found)
    elif isinstance(found, Bytes):
        await send_stream(http, 200, [_OCTETS], found.extent[1], service.stream(found))
    else:
        await send_bytes(http, 200, [_OCTETS], found)


def _path(text: str) -> list[str]:
    """Tags at even places, numbers of items (of pixel data: of fragments) at odd ones."""
    parts = [part for part in text.split("/") if part]
    if len(parts) > _DEEPEST:
        raise NotFound("there is nothing so deep")
    try:
        return [part if place % 2 else tag_of(part, "path") for place, part in enumerate(parts)]
    except BadQuery:
        raise NotFound("there is no such attribute") from None


# -- the table

_DEEPEST: Final = 64
_JSON: Final = "application/json"
_EXAMPLE: Final = {"0010,0010": {"Name": "PatientName", "Type": "String", "Value": "Doe^Jane"}}
_SHORT: Final = Parameter("short", "query", "values by tag", "true", kind="boolean")
_SIMPLIFY: Final = Parameter("simplify", "query", "values by keyword", "true", kind="boolean")
_LONG: Final = Parameter(
    "ignore-length", "query", "tags whose text may be longer than 256", "0020,4000;PatientComments"
)
_WHOLE: Final = Parameter("whole", "query", "also what is behind the pixel data", "true", kind="boolean")
_FORMS: Final = "`Full` with names and types, unless the query asks for less. Values are text; binary ones are null."
_INSTANCE: Final = "/instances/{id}"


def _get(path: str, about: tuple[str, str], handler: HotHandler, *parameters: Parameter) -> Operation:
    return Operation(
        "GET",
        path,
        "dicom.metadata",
        "Orthanc",
        *about,
        handler,
        (Answer(200, "Attributes.", (Content(_JSON, _EXAMPLE),)),),
        parameters,
        errors=(BadQuery, NotFound, TooLarge, Unavailable),
        orthanc=True,
    )


def _content(path: str, about: tuple[str, str]) -> Operation:
    bodies = (Content(_JSON, ["0010-0010"]), Content("application/octet-stream", "(bytes)"))
    return Operation(
        "GET",
        path,
        "dicom.read",
        "Orthanc",
        *about,
        content,
        (Answer(200, "A list, or bytes.", bodies),),
        errors=(BadDicom, NotFound, TooLarge, Unavailable),
        orthanc=True,
    )


def _a(level: Level) -> str:
    return f"{'an' if level is Level.INSTANCE else 'a'} {level}"


OPERATIONS = (
    _get(
        f"{_INSTANCE}/tags",
        ("Read all tags", _FORMS),
        functools.partial(tags, form="Full"),
        *(_SHORT, _SIMPLIFY, _LONG, _WHOLE),
    ),
    _get(
        f"{_INSTANCE}/simplified-tags",
        ("Read all tags by keyword", "Values are text; binary ones are null."),
        functools.partial(tags, form="Human"),
        *(_LONG, _WHOLE),
    ),
    _get(f"{_INSTANCE}/header", ("Read the file meta information", _FORMS), header, _SHORT, _SIMPLIFY),
    _content(f"{_INSTANCE}/content", ("List the elements of a file", "Tags, in their order.")),
    _content(
        f"{_INSTANCE}/content/{{path:path}}",
        ("Read an element", "Tags and item numbers in turns. The bytes of a value are those of the file."),
    ),
    *(
        _get(
            f"/{PLURAL[level]}/{{id}}/module",
            (f"Read the module of {_a(level)}", _FORMS),
            functools.partial(module, level=level, of=level),
            *(_SHORT, _SIMPLIFY, _LONG),
        )
        for level in Level
    ),
    _get(
        "/studies/{id}/module-patient",
        ("Read the patient module of a study", _FORMS),
        functools.partial(module, level=Level.STUDY, of=Level.PATIENT),
        *(_SHORT, _SIMPLIFY, _LONG),
    ),
    *(
        _get(
            f"/{PLURAL[level]}/{{id}}/shared-tags",
            (f"Read what all instances of {_a(level)} share", _FORMS),
            functools.partial(shared, level=level),
            *(_SHORT, _SIMPLIFY),
        )
        for level in (Level.PATIENT, Level.STUDY, Level.SERIES)
    ),
    *(
        _get(
            f"/{PLURAL[level]}/{{id}}/instances-tags",
            (f"Read the tags of all instances of {_a(level)}", _FORMS),
            functools.partial(instances_tags, level=level),
            *(_SHORT, _SIMPLIFY, _LONG),
        )
        for level in (Level.PATIENT, Level.STUDY, Level.SERIES)
    ),
)
