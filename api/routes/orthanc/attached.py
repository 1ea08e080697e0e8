"""Labels, metadata and attachments of patients, studies, series and instances, as Orthanc's REST API has them."""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, JSON, Header, client_has, ranged, send_bytes, send_stream
from api.routes.orthanc.addressing import resource_of
from api.routes.orthanc.dialect import TEXT, flag, send_json, send_text
from api.routing import Answer, Content, Operation, Parameter
from api.uploads import BodyReader, Upload, refuse_encoding, whole_body
from api.zips import attachment_header
from dicomweb.errors import (
    BadRequest,
    CorruptObject,
    Forbidden,
    NotFound,
    RangeNotSatisfiable,
    RevisionConflict,
    TooLarge,
    Unavailable,
)
from dicomweb.orthanc_kinds import DICOM_FILE, FIRST_USER, Kinds
from dicomweb.tags import Level
from storage.attachments import Attachment
from storage.labels import checked_label
from storage.resource import PLURAL
from storage.resources import attachment_info
from storage.revisions import Condition, entity_tag, text_md5
from storage.user_metadata import MAX_VALUE

_BYTES: Final[Header] = (b"content-type", b"application/octet-stream")
_ROUTES: Final = (
    "compress", "compressed-data", "compressed-md5", "compressed-size", "data", "info", "is-compressed", "md5",
    "size", "uncompress", "uuid", "verify-md5",
)  # fmt: skip


# -- labels


async def labels(http: Exchange, level: Level) -> None:
    """The labels of a resource."""
    await send_json(http, await http.archive.labels.of(http.access, resource_of(http, level)))


async def label(http: Exchange, level: Level) -> None:
    """Nothing, where the resource has the label; 404 where it has not."""
    if checked_label(http.path["label"]) not in await http.archive.labels.of(http.access, resource_of(http, level)):
        raise NotFound("the resource has no such label")
    await send_text(http, "")


async def put_label(http: Exchange, level: Level) -> None:
    """Add a label; the body does not matter."""
    await whole_body(http, MAX_VALUE)
    await http.archive.labels.put(http.access, resource_of(http, level), http.path["label"])
    await send_text(http, "")


async def delete_label(http: Exchange, level: Level) -> None:
    """Take a label away."""
    await http.archive.labels.delete(http.access, resource_of(http, level), http.path["label"])
    await send_text(http, "")


async def every_label(http: Exchange) -> None:
    """Every label that is in use."""
    await send_json(http, await http.archive.labels.every(http.access))


# -- metadata


async def metadata(http: Exchange, level: Level) -> None:
    """The names of a resource's metadata, or (`expand`) their values."""
    found = await http.archive.resources.metadata(http.access, resource_of(http, level))
    kinds = http.archive.metadata.kinds
    numeric = flag(http, "numeric")
    if flag(http, "expand"):
        await send_json(http, {str(kind) if numeric else kinds.name(kind): value for kind, value in found.items()})
    else:
        await send_json(http, sorted(found) if numeric else sorted(map(kinds.name, found)))


async def one_metadata(http: Exchange, level: Level) -> None:
    """One value."""
    kind = _number(http, http.archive.metadata.kinds)
    resource = resource_of(http, level)
    if kind >= FIRST_USER:
        (entry,) = await http.archive.metadata.of(http.access, resource, kind) or (None,)
        value, tag = (entry.value, entry.tag) if entry else (None, "")
    else:
        value = (await http.archive.resources.metadata(http.access, resource)).get(kind)
        tag = entity_tag(0, text_md5(value or ""))
    if value is None:
        raise NotFound("the resource has no such metadata")
    headers = [TEXT, _etag(tag), CACHE_REVALIDATE]
    if not await client_has(http, headers):
        await send_bytes(http, 200, headers, value.encode())


async def put_metadata(http: Exchange, level: Level) -> None:
    """Set one value, which is the body."""
    kind = _writable(http, http.archive.metadata.kinds)
    value = await whole_body(http, MAX_VALUE)
    tag = await http.archive.metadata.put(http.access, resource_of(http, level), kind, value, _condition(http))
    await send_bytes(http, 200, [TEXT, _etag(tag)])


async def delete_metadata(http: Exchange, level: Level) -> None:
    """Remove one value."""
    kind = _writable(http, http.archive.metadata.kinds)
    await http.archive.metadata.delete(http.access, resource_of(http, level), kind, _condition(http))
    await send_text(http, "")


# -- attachments


async def attachments(http: Exchange, level: Level) -> None:
    """The names of a resource's attachments, or (`full`) their numbers, too."""
    found = await _attached(http, level, None)
    names = {http.archive.attachments.kinds.name(each.kind): each.kind for each in found}
    await send_json(http, names if flag(http, "full") else sorted(names))


async def attachment(http: Exchange, level: Level) -> None:
    """What can be asked of an attachment."""
    found = await _one(http, level)
    await send_json(http, _ROUTES, _etag(found.tag))


async def put_attachment(http: Exchange, level: Level) -> None:
    """Attach the body, whatever it is."""
    kind = _writable(http, http.archive.attachments.kinds)
    refuse_encoding(http)
    entry = Upload(http, http.header(b"content-length"), raw=True)
    try:
        with BodyReader(http, http.settings.max_body, "max_body") as body:
            while (chunk := await body.read()) is not None:
                await entry.spool.write(chunk)
    except BaseException:
        entry.drop()
        raise
    content = await entry.finish()
    try:
        service = http.archive.attachments
        tag = await service.put(http.access, resource_of(http, level), kind, content, _condition(http))
    finally:
        entry.memory.release()
    await send_bytes(http, 200, [JSON, _etag(tag)], b"{}")


async def delete_attachment(http: Exchange, level: Level) -> None:
    """Remove an attachment."""
    kind = _writable(http, http.archive.attachments.kinds)
    await http.archive.attachments.delete(http.access, resource_of(http, level), kind, _condition(http))
    await send_text(http, "")


async def data(http: Exchange, level: Level) -> None:
    """The bytes, or a part of them."""
    found = await _one(http, level)
    headers = [_BYTES, _etag(found.tag), CACHE_REVALIDATE, attachment_header(http, found.uuid)]
    if await client_has(http, headers):
        return
    status, offset, length = ranged(http, headers, found.size)
    await send_stream(http, status, headers, length, http.archive.attachments.read(found, offset, length))


async def fact(http: Exchange, level: Level, what: str) -> None:
    """One fact of an attachment as text."""
    found = await _one(http, level)
    match what:
        case "size" | "compressed-size":
            text = str(found.size)
        case "md5" | "compressed-md5":
            text = (found.md5 or await http.archive.attachments.digest(found)).hex()
        case "uuid":
            text = found.uuid
        case _:
            text = "0"
    await send_text(http, text, _etag(found.tag))


async def info(http: Exchange, level: Level) -> None:
    """All facts of an attachment."""
    found = await _one(http, level)
    md5 = found.md5 or await http.archive.attachments.digest(found)
    await send_json(http, attachment_info(found.kind, found.uuid, found.size, md5.hex()), _etag(found.tag))


async def verify(http: Exchange, level: Level) -> None:
    """Read the bytes and compare them with what is known of them. Raises CorruptObject."""
    await whole_body(http, MAX_VALUE)
    found = await _one(http, level)
    digest = await http.archive.attachments.digest(found)
    if found.md5 is not None and digest != found.md5:
        raise CorruptObject("the stored bytes differ from what was attached")
    await send_json(http, {})


async def unchanged(http: Exchange, level: Level) -> None:
    """Attachments are kept as they came: there is nothing to compress or uncompress."""
    await whole_body(http, MAX_VALUE)
    await _one(http, level)
    await send_json(http, {})


async def _attached(http: Exchange, level: Level, kind: int | None) -> list[Attachment]:
    resource = resource_of(http, level)
    found = await http.archive.attachments.of(http.access, resource, kind) if kind != DICOM_FILE else []
    if level is Level.INSTANCE and kind in (None, DICOM_FILE):
        instance = await http.archive.archives.instance(http.access, http.path["id"])
        found.insert(
            0,
            Attachment(DICOM_FILE, instance.key, instance.base, instance.size, 0, None, instance.tenant, instance.sop),
        )
    return found


async def _one(http: Exchange, level: Level) -> Attachment:
    found = await _attached(http, level, _number(http, http.archive.attachments.kinds))
    if not found:
        raise NotFound("the resource has no such attachment")
    return found[0]


def _number(http: Exchange, kinds: Kinds) -> int:
    kind = kinds.number(http.path["name"])
    if kind is None:
        raise NotFound("there is no such name; numbers from 1024 on need none")
    return kind


def _writable(http: Exchange, kinds: Kinds) -> int:
    kind = _number(http, kinds)
    if kind < FIRST_USER:
        raise Forbidden("what belongs to the archive cannot be written")
    return kind


def _condition(http: Exchange) -> Condition:
    match = http.header(b"if-match")
    return Condition(
        None if match is None else match.strip().removeprefix("W/").strip('"'), http.settings.check_revisions
    )


def _etag(tag: str) -> Header:
    return b"etag", f'"{tag}"'.encode()


# -- the table

_ETAG_OF: Final = '"0-5d41402abc4b2a76b9719d911017c592"'
_IF_NONE_MATCH: Final = Parameter("If-None-Match", "header", "entity tag that the client has", _ETAG_OF)
_IF_MATCH: Final = Parameter("If-Match", "header", "entity tag of the revision that is replaced", _ETAG_OF)
_FILENAME: Final = Parameter("filename", "query", "name for the download", "report.pdf")
_TEXT: Final = "text/plain"
_JSON: Final = "application/json"
_INFO: Final = attachment_info(1024, "9669e0b5-97aa-4953-88ef-5a0559e96cd2", 5, "5d41402abc4b2a76b9719d911017c592")

Handler = Callable[..., Awaitable[None]]
_Method = Literal["GET", "PUT", "POST", "DELETE"]
_ERRORS: Final = (BadRequest, Forbidden, NotFound, RangeNotSatisfiable, RevisionConflict, TooLarge, Unavailable)


@dataclass(frozen=True, slots=True)
class _Row:
    """One method of one path below a resource; what it does is the first line of its handler's documentation."""

    method: _Method
    path: str
    summary: str
    handler: Handler
    answer: Content
    parameters: tuple[Parameter, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def at(self, level: Level) -> Operation:
        """The operation at a level."""
        writes = self.method != "GET" and not self.path.endswith("verify-md5")
        return Operation(
            self.method,
            f"/{PLURAL[level]}/{{id}}/{self.path}",
            "dicom.write" if writes else "dicom.read",
            "Orthanc",
            f"{self.summary} of {'an' if level is Level.INSTANCE else 'a'} {level}",
            (self.handler.__doc__ or self.summary).splitlines()[0],
            functools.partial(self.handler, level=level, **dict(self.options)),
            (Answer(200, "Done.", (self.answer,), ("ETag",)),),
            self.parameters,
            (Content("application/octet-stream", "(any bytes)"),) if self.method in ("PUT", "POST") else (),
            _ERRORS,
            orthanc=True,
        )


_NAMED: Final = "attachments/{name}"
_LIST: Final = Content(_JSON, ["urgent"])
_EMPTY: Final = Content(_TEXT, "(empty)")
_DONE: Final = Content(_JSON, {"Status": "(empty)"})
_FILE: Final = Content("application/octet-stream", "(bytes)")
_EXPAND: Final = Parameter("expand", "query", "values, too", "true", kind="boolean")
_NUMERIC: Final = Parameter("numeric", "query", "numbers instead of names", "true", kind="boolean")
_FULL: Final = Parameter("full", "query", "numbers, too", "true", kind="boolean")


def _told(what: str, summary: str, example: str) -> _Row:
    return _Row("GET", f"{_NAMED}/{what}", summary, fact, Content(_TEXT, example), options=(("what", what),))


_ROWS: Final = (
    _Row("GET", "labels", "List labels", labels, _LIST),
    _Row("GET", "labels/{label}", "Look for a label", label, _EMPTY),
    _Row("PUT", "labels/{label}", "Add a label", put_label, _EMPTY),
    _Row("DELETE", "labels/{label}", "Take away a label", delete_label, _EMPTY),
    _Row(
        "GET",
        "metadata",
        "List metadata",
        metadata,
        Content(_JSON, {"LastUpdate": "20240131T101530"}),
        (_EXPAND, _NUMERIC),
    ),
    _Row("GET", "metadata/{name}", "Read metadata", one_metadata, Content(_TEXT, "Ward 7"), (_IF_NONE_MATCH,)),
    _Row("PUT", "metadata/{name}", "Set metadata", put_metadata, _EMPTY, (_IF_MATCH,)),
    _Row("DELETE", "metadata/{name}", "Remove metadata", delete_metadata, _EMPTY, (_IF_MATCH,)),
    _Row("GET", "attachments", "List attachments", attachments, Content(_JSON, ["dicom"]), (_FULL,)),
    _Row("GET", _NAMED, "List what can be asked of an attachment", attachment, Content(_JSON, list(_ROUTES))),
    _Row("PUT", _NAMED, "Set an attachment", put_attachment, _DONE, (_IF_MATCH,)),
    _Row("DELETE", _NAMED, "Remove an attachment", delete_attachment, _EMPTY, (_IF_MATCH,)),
    _Row("GET", f"{_NAMED}/data", "Download an attachment", data, _FILE, (_IF_NONE_MATCH, _FILENAME)),
    _Row(
        "GET",
        f"{_NAMED}/compressed-data",
        "Download the stored form of an attachment",
        data,
        _FILE,
        (_IF_NONE_MATCH, _FILENAME),
    ),
    _Row("GET", f"{_NAMED}/info", "Describe an attachment", info, Content(_JSON, _INFO)),
    _told("size", "Give the size of an attachment", "5"),
    _told("compressed-size", "Give the stored size of an attachment", "5"),
    _told("md5", "Give the MD5 of an attachment", "5d41402abc4b2a76b9719d911017c592"),
    _told("compressed-md5", "Give the MD5 of the stored form of an attachment", "5d41402abc4b2a76b9719d911017c592"),
    _told("uuid", "Give the UUID of an attachment", "9669e0b5-97aa-4953-88ef-5a0559e96cd2"),
    _told("is-compressed", "Tell whether an attachment is compressed", "0"),
    _Row("POST", f"{_NAMED}/verify-md5", "Verify an attachment", verify, _DONE),
    _Row("POST", f"{_NAMED}/compress", "Compress an attachment", unchanged, _DONE),
    _Row("POST", f"{_NAMED}/uncompress", "Uncompress an attachment", unchanged, _DONE),
)

OPERATIONS = (
    *(row.at(level) for level in Level for row in _ROWS),
    Operation(
        "GET",
        "/tools/labels",
        "dicom.search",
        "Orthanc",
        "List the labels in use",
        "Every label of any resource.",
        every_label,
        (Answer(200, "Labels, sorted.", (Content(_JSON, ["checked", "urgent"]),)),),
        errors=(Unavailable,),
        orthanc=True,
    ),
)
