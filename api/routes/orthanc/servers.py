"""`/dicom-web/servers`: DICOMweb servers that are declared, and what they can be asked, as by Orthanc's plug-in."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

import orjson

from api.examples import SERIES_UID, SOP_UID, STUDY_UID
from api.exchange import Exchange
from api.responses import Header, send_bytes, send_stream
from api.routes.orthanc.dialect import NOTHING, SUBMITTED, field, flag, json_of, object_of, route, send_json, submit
from api.routes.orthanc.remotes import DECLARED, HOW, configuration_of, declared, headers_in
from api.routes.orthanc.requests import log_exports, resources_of
from api.routing import ROOT, Content, Parameter
from dicomweb.errors import BadRequest, NotFound, PeerFailed
from dicomweb.media import parse_media_type
from dicomweb.orthanc_answers import simplified
from dicomweb.tags import Level
from dicomweb.uids import checked_uid
from storage.destinations import has_dots
from storage.outbound import refusal
from storage.remote_retrieval import RETRIEVE
from storage.remote_sending import STOW
from storage.remotes import Remote, check_headers
from storage.resource import PLURAL, spelled

_BELOW: Final = ("get", "retrieve", "stow", "wado", "qido")
_MAX_INSTANCES: Final = 1_000_000
_MAX_RESOURCES: Final = 10_000
_ANSWER_MAX: Final = 16 << 20
_MAX_URI: Final = 2048
_MAX_ARGUMENTS: Final = 4096  # characters of all names and values
_LEVELS: Final = (("Study", "studies"), ("Series", "series"), ("Instance", "instances"))
# What other servers send is passed on as nothing that a browser would run in our name.
_PASSED_ON: Final = frozenset(
    (
        "application/dicom", "application/dicom+json", "application/dicom+xml", "application/json", "application/pdf",
        "application/zip", "image/gif", "image/jpeg", "image/jls", "image/jp2", "image/jpx", "image/png",
        "multipart/related", "text/plain", "video/mp4", "video/mpeg",
    )
)  # fmt: skip
_SANDBOX: Final[tuple[Header, ...]] = (
    (b"content-security-policy", b"sandbox; default-src 'none'"),
    (b"cache-control", b"no-store"),
)


async def servers(http: Exchange) -> None:
    """The names of all, or with `expand` what is known of them."""
    found = await http.archive.remotes.list(http.access, "dicomweb")
    if flag(http, "expand"):
        await send_json(http, {each.name: configuration_of(each) for each in found})
    else:
        await send_json(http, [each.name for each in found])


async def below(http: Exchange) -> None:
    """What can be done with one."""
    server = await _server(http)
    await send_json(http, [*_BELOW, *(["delete"] if server.says("HasDelete") else [])])


async def put(http: Exchange) -> None:
    """Declare one, or change it."""
    await http.archive.remotes.put(http.access, declared("dicomweb", http.path["server"], await json_of(http)))
    await send_json(http, {})


async def delete(http: Exchange) -> None:
    """Forget one."""
    await http.archive.remotes.delete(http.access, "dicomweb", http.path["server"])
    await send_json(http, {})


async def get(http: Exchange) -> None:
    """GET of what the request names, as the server answers it."""
    given = await object_of(http)
    path, params, headers = _uri(given), _arguments(given), headers_in(given)
    check_headers(headers)
    async with (
        http.archive.remotes.caller(http.access, "dicomweb", http.path["server"]) as caller,
        caller.open("GET", path, params=params, headers=headers) as response,
    ):
        _check(response.status_code)
        length = response.headers.get("content-length", "")
        fields = [(b"content-type", _media_type(response.headers.get("content-type", ""))), *_SANDBOX]
        chunks = caller.chunks(response, http.settings.outgoing_answer_max)
        if response.status_code == 204:
            await send_bytes(http, 200, fields)
            return
        async with aclosing(chunks):
            await send_stream(http, 200, fields, int(length) if length.isdecimal() else None, chunks)


async def qido(http: Exchange) -> None:
    """A query; its answers as simple objects."""
    given = await object_of(http)
    headers = {"accept": "application/dicom+json", **headers_in(given)}
    check_headers(headers)
    async with http.archive.remotes.caller(http.access, "dicomweb", http.path["server"]) as caller:
        answer = await caller.ask("GET", _uri(given), params=_arguments(given), headers=headers, limit=_ANSWER_MAX)
    _check(answer.status)
    await send_json(http, await asyncio.to_thread(_answers, answer.body))


def _answers(body: bytes) -> list[dict[str, Any]]:
    try:
        return simplified(orjson.loads(body)) if body.strip() else []
    except (orjson.JSONDecodeError, BadRequest):
        raise PeerFailed("the remote server did not answer with DICOM JSON") from None


async def stow(http: Exchange) -> None:
    """Send resources by STOW-RS."""
    given = await object_of(http)
    resources, headers = resources_of(given), headers_in(given)
    check_headers(headers)
    server = await _server(http)
    access = http.access.with_scope("dicom.read")
    instances = await http.archive.archives.instances(access, resources, _MAX_INSTANCES)
    named: dict[str, list[str]] = {}
    for each in await http.archive.archives.known(access, resources):
        named.setdefault(PLURAL[each.resource.level].capitalize(), []).append(spelled(each.resource.id))
    await log_exports(http, server.name, resources)
    content = {"remote": server.name, "headers": headers, "said": {"Resources": named, "Server": server.name}}
    await submit(http, STOW, content, [uid for _, uid in instances], given)


async def retrieve(http: Exchange) -> None:
    """Retrieve studies, series and instances by WADO-RS, and store them here."""
    given = await object_of(http)
    found = given.get("Resources")
    if not isinstance(found, list) or len(found) > _MAX_RESOURCES:
        raise BadRequest(f"Resources is a list of at most {_MAX_RESOURCES} objects", attribute="Resources")
    paths = [_resource(each) for each in found]
    named = [{level: each[level] for level, _ in _LEVELS if each.get(level)} for each in found]
    await _submit_retrieval(http, given, paths, {"Resources": named})


async def wado(http: Exchange) -> None:
    """Retrieve any resource of WADO-RS, and store what comes."""
    given = await object_of(http)
    path = _uri(given)
    if "Synchronous" not in given and "Asynchronous" not in given:
        given = given | {"Asynchronous": True}
    await _submit_retrieval(http, given, [path], {})


async def _submit_retrieval(http: Exchange, given: Mapping[str, Any], paths: list[str], said: dict[str, Any]) -> None:
    arguments, headers = dict(_arguments(given)), headers_in(given)
    check_headers(headers)
    server = await _server(http)
    content = {"remote": server.name, "headers": headers, "arguments": arguments}
    await submit(http, RETRIEVE, content | {"said": said | {"Server": server.name}}, paths, given)


async def delete_there(http: Exchange) -> None:
    """Have a server delete a study, series or instance, where its declaration says that it can."""
    given = await object_of(http)
    server = await _server(http)
    if not server.says("HasDelete"):
        raise BadRequest("the declaration of the server does not say HasDelete", attribute="HasDelete")
    level = field(given, "Level", str, "").capitalize()
    if level not in {name for name, _ in _LEVELS}:
        raise BadRequest("Level is one of Study, Series, Instance", attribute="Level")
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    depth = [name for name, _ in _LEVELS].index(level) + 1
    path = "/".join(
        f"{plural}/{checked_uid(field(given, uid, str, ''), uid)}"
        for uid, (_, plural) in zip(uids[:depth], _LEVELS, strict=False)
    )
    access = http.access.with_scope("remotes.run")
    async with http.archive.remotes.caller(access, "dicomweb", server.name) as caller:
        answer = await caller.ask("DELETE", path, limit=_ANSWER_MAX)
    _check(answer.status)
    await send_json(http, {})


async def info(http: Exchange) -> None:
    """Where DICOMweb and Orthanc's API are, seen from each other."""
    root = http.settings.dicomweb_root
    await send_json(http, {"DicomWebRoot": f"{root}/", "OrthancApiRoot": "./" + "../" * root.count("/")})


async def update_cache(http: Exchange) -> None:
    """Nothing: what DICOMweb answers with was made when the study was stored."""
    found = await http.archive.archives.known(http.access, [http.path["id"]])
    if not any(each.resource.level is Level.STUDY for each in found):
        raise NotFound("no such study")
    await send_json(http, {})


async def _server(http: Exchange) -> Remote:
    return await http.archive.remotes.get(http.access.with_scope("remotes.read"), "dicomweb", http.path["server"])


def _uri(given: Mapping[str, Any]) -> str:
    """The path below the server's URL that a request names. Raises BadRequest."""
    uri = field(given, "Uri", str, "")
    if not uri.strip("/"):
        raise BadRequest("Uri is a path below the URL of the server", attribute="Uri")
    if "?" in uri or "#" in uri:
        raise BadRequest("the arguments of a request are given as Arguments, not in Uri", attribute="Uri")
    if len(uri) > _MAX_URI or not uri.isprintable() or has_dots(uri):
        raise BadRequest("Uri does not lead out of the URL of the server", attribute="Uri")
    return uri.strip("/")


def _arguments(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = field(given, "Arguments", dict, {})
    if not all(isinstance(value, str | int | float) for value in found.values()):
        raise BadRequest("Arguments is an object of names and texts", attribute="Arguments")
    arguments = [(name, str(value)) for name, value in found.items()]
    if sum(len(name) + len(value) for name, value in arguments) > _MAX_ARGUMENTS:
        raise BadRequest(f"Arguments has at most {_MAX_ARGUMENTS} characters in all", attribute="Arguments")
    return arguments


def _resource(named: Any) -> str:
    """The path of a study, series or instance. Raises BadRequest."""
    if not isinstance(named, dict) or not named.get("Study") or (named.get("Instance") and not named.get("Series")):
        raise BadRequest("each of Resources has a Study, an Instance has a Series as well", attribute="Resources")
    return "/".join(
        f"{plural}/{checked_uid(field(named, name, str, ''), name)}" for name, plural in _LEVELS if named.get(name)
    )


def _media_type(text: str) -> bytes:
    """The Content-Type that is passed on: what a browser would run, or nobody understands, is a stream of octets."""
    try:
        known = parse_media_type(text).essence in _PASSED_ON
    except BadRequest:
        known = False
    return text.encode("ascii", "replace") if known else b"application/octet-stream"


def _check(status: int) -> None:
    if status == 404:
        raise NotFound("the remote server has no such resource")
    if not 200 <= status < 300:
        raise refusal(status)


_ID: Final = "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15"
_SENT: Final = {
    "InstancesCount": "120", "NetworkSizeMB": "60", "Resources": {"Studies": [_ID]}, "Server": "north",
}  # fmt: skip
_WANTED: Final = {"Resources": [{"Study": STUDY_UID, "Series": SERIES_UID, "Instance": SOP_UID}]}
_RECEIVED: Final = {"ReceivedInstancesCount": "1", "Server": "north"} | _WANTED
_FOUND: Final = [{"0020000D": {"Group": 32, "Element": 13, "Name": "StudyInstanceUID", "vr": "UI", "Value": STUDY_UID}}]
_QUERY: Final = {"Uri": "/studies", "Arguments": {"PatientID": "P-1"}, "HttpHeaders": {}}
_EXPAND: Final = Parameter("expand", "query", "what is known of each", "true", kind="boolean")
_JOBS: Final = "Synchronous unless `Asynchronous` is true."
_ALL: Final = f"{ROOT}/servers"
_ONE: Final = f"{_ALL}/{{server}}"

OPERATIONS = (
    route("GET", _ALL, "remotes.read", ("List DICOMweb servers", "Those that are declared."), servers,
          ["north", "south"], parameters=(_EXPAND,)),
    route("GET", _ONE, "remotes.read", ("List what a DICOMweb server can be asked", "Names of the routes below."),
          below, list(_BELOW)),
    route("PUT", _ONE, "remotes.admin", ("Declare a DICOMweb server", f"{HOW} `HasDelete`: it can delete."), put,
          NOTHING, DECLARED),
    route("DELETE", _ONE, "remotes.admin",
          ("Forget a DICOMweb server", "Jobs for it that wait fail; one that runs goes on."), delete, NOTHING),
    route("POST", f"{_ONE}/get", "remotes.run",
          ("GET from a DICOMweb server", "The answer is passed on, up to the setting `outgoing_answer_max`."), get,
          Content("application/dicom+json", [{}]), _QUERY),
    route("POST", f"{_ONE}/qido", "remotes.run", ("Query a DICOMweb server", "Answers as simple objects."), qido,
          _FOUND, _QUERY),
    route("POST", f"{_ONE}/stow", "remotes.run",
          ("Send resources to a DICOMweb server", f"By STOW-RS. {_JOBS}"), stow,
          _SENT, {"Resources": [_ID], "HttpHeaders": {}}),
    route("POST", f"{_ONE}/retrieve", "remotes.run",
          ("Retrieve from a DICOMweb server", f"By WADO-RS into the archive. {_JOBS}"),
          retrieve, _RECEIVED, _WANTED),
    route("POST", f"{_ONE}/wado", "remotes.run",
          ("Retrieve any resource of a DICOMweb server", "Into the archive, as a job unless `Synchronous`."),
          wado, SUBMITTED, {"Uri": f"/studies/{STUDY_UID}", "Arguments": {}}),
    route("POST", f"{_ONE}/delete", "dicom.delete",
          ("Delete on a DICOMweb server", "Where its declaration says `HasDelete`."), delete_there, NOTHING,
          {"Level": "Series", "StudyInstanceUID": STUDY_UID, "SeriesInstanceUID": SERIES_UID}),
    route("POST", "/studies/{id}/update-dicomweb-cache", "dicom.read",
          ("Prepare a study for DICOMweb", "It is prepared since it was stored."), update_cache, NOTHING, NOTHING),
    route("GET", f"{ROOT}/info", "remotes.read", ("See the roots", "Of DICOMweb and of Orthanc's API."), info,
          {"DicomWebRoot": "/dicom-web/", "OrthancApiRoot": "./../"}),
)  # fmt: skip
