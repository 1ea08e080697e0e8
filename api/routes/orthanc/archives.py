"""Archives and media that are asked for by POST: streamed at once, or written by a job."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from api.exchange import Exchange
from api.routes.downloads import target_of
from api.routes.orthanc.dialect import SUBMITTED, field, is_synchronous, json_of, route, submit
from api.routing import Content, Operation
from api.zips import send_zip, zip_name
from dicomweb.errors import BadQuery, BadRequest
from dicomweb.folders import safe_name
from dicomweb.pixels.encode import quality_of
from dicomweb.tags import Level
from storage.archive_jobs import ARCHIVE, MEDIA, content
from storage.archives import Kind
from storage.resource import PLURAL
from storage.zipped import Packing

_MAX_RESOURCES: Final = 100_000


async def archive(http: Exchange, level: Kind, *, medium: bool) -> None:
    """A patient, study or series as a ZIP file."""
    given = await json_of(http)
    if given is None or isinstance(given, str):
        raise BadRequest("the body is a JSON object")
    options = given if isinstance(given, dict) else {}
    await _answer(http, [http.path["id"]], level, options, _packing(options, medium=medium))


async def archive_of_several(http: Exchange, *, medium: bool, extended: bool = False) -> None:
    """Resources of any level as one ZIP file."""
    given = await json_of(http)
    options = {"Resources": given} if isinstance(given, list) else given
    if not isinstance(options, dict) or "Resources" not in options:
        raise BadRequest("the body is a JSON object with Resources, or their list", attribute="Resources")
    resources = field(options, "Resources", list, [])
    if not all(isinstance(each, str) for each in resources):
        raise BadRequest("Resources is a list of identifiers", attribute="Resources")
    if len(resources) > _MAX_RESOURCES:
        raise BadRequest(f"at most {_MAX_RESOURCES} resources", attribute="Resources")
    await _answer(http, resources, None, options, _packing(options, medium=medium, extended=extended))


def _packing(given: Mapping[str, Any], *, medium: bool, extended: bool = False) -> Packing:
    quality = field(given, "LossyQuality", int, 0) if given.get("LossyQuality") is not None else None
    if quality is not None and not 1 <= quality <= 100:
        raise BadQuery("LossyQuality is a number from 1 to 100", attribute="LossyQuality")
    target = target_of(field(given, "Transcode", str, ""), "Transcode")
    return Packing(target, quality_of(quality), medium, medium and (extended or field(given, "Extended", bool, False)))


async def _answer(
    http: Exchange, resources: Sequence[str], level: Kind | None, given: Mapping[str, Any], packing: Packing
) -> None:
    name = safe_name(field(given, "Filename", str, ""))
    if is_synchronous(given):
        await send_zip(http, resources, level, packing, name or None)
        return
    work = await content(http.archive, http.access, resources, level, packing, name or zip_name(resources))
    await submit(http, MEDIA if packing.medium else ARCHIVE, work, resources, given)


_ID: Final = "6b9e19d9-62094390-5f9ddb01-4a191ae7-9766b715"
_ANSWERS: Final = (Content("application/zip", "(the bytes of a ZIP file)"), SUBMITTED)
_BODY: Final = {
    "Asynchronous": True, "Priority": 0, "UserData": {"for": "the tumour board"}, "Filename": "study.zip",
    "Transcode": "1.2.840.10008.1.2.4.80", "LossyQuality": 85,
}  # fmt: skip
_WHEN: Final = (
    "Streamed while it is read, unless `Asynchronous` is true: then the answer names a job, whose file "
    "`/jobs/{id}/archive` is. Images that can be written in `Transcode` are; all others come as stored."
)
_TOOLS: Final = (("create-archive", False, False), ("create-media", True, False), ("create-media-extended", True, True))


def _about(what: str, *, medium: bool) -> tuple[str, str]:
    return f"Make {'a medium' if medium else 'an archive'} of {what}", _WHEN


OPERATIONS: tuple[Operation, ...] = (
    *(
        route("POST", f"/{PLURAL[Level(level)]}/{{id}}/{'media' if medium else 'archive'}", "dicom.read",
              _about(f"a {level}", medium=medium), functools.partial(archive, level=level, medium=medium),
              _ANSWERS, _BODY | ({"Extended": True} if medium else {}))
        for level in ("patient", "study", "series")
        for medium in (False, True)
    ),
    *(
        route("POST", f"/tools/{name}", "dicom.read", _about("resources of any level", medium=medium),
              functools.partial(archive_of_several, medium=medium, extended=extended),
              _ANSWERS, {"Resources": [_ID]} | _BODY)
        for name, medium, extended in _TOOLS
    ),
)  # fmt: skip
