"""Files and archives by Orthanc's identifiers, as stored or in another transfer syntax."""

import functools
from dataclasses import replace

from api.examples import DICOM
from api.exchange import Exchange
from api.responses import send_bytes
from api.routes.wado import IF_NONE_MATCH, plan_of, send_files
from api.routing import Answer, Content, Operation, Parameter
from api.zips import attachment_header, send_zip
from dicomweb.errors import BadPixels, BadQuery, NotAcceptable, NotFound, RangeNotSatisfiable, TooLarge, Unavailable
from dicomweb.media import DICOM_JSON as DICOM_JSON_TYPE
from dicomweb.media import DICOM_XML
from dicomweb.negotiation import WRITABLE, parse_accept
from dicomweb.pixels.encode import quality_of
from dicomweb.tags import Level
from storage.archives import Kind
from storage.resource import Resource
from storage.zipped import Packing

_MAX_RESOURCES = 1000  # longer URLs than those of so many are refused before
_LEVELS: tuple[tuple[Kind, str], ...] = (("patient", "patients"), ("study", "studies"), ("series", "series"))


async def file(http: Exchange) -> None:
    """The file of an instance, or its attributes as DICOM JSON or XML where only these are accepted."""
    wanted = (http.query_value("accept") or http.header(b"accept") or "").partition(";")[0].strip().lower()
    if wanted in (DICOM_JSON_TYPE, DICOM_XML):
        resource, tags = Resource.of(Level.INSTANCE, http.path["id"]), http.archive.tags
        document = await (tags.native if wanted == DICOM_XML else tags.document)(http.access, resource)
        await send_bytes(http, 200, [(b"content-type", wanted.encode())], document)
        return
    target, quality = _target(http), _quality(http)
    instance = await http.archive.archives.instance(http.access, http.path["id"])
    ranges = parse_accept(f"{DICOM}; transfer-syntax={target or '*'}")
    plan = replace(await plan_of(http, instance, ranges, single=True), quality=quality)
    await send_files(http, [instance], [plan], instance.version, attachment_header(http, f"{instance.sop}.dcm"))


async def archive(http: Exchange, level: Kind, *, medium: bool) -> None:
    """A resource as a ZIP file."""
    await send_zip(http, [http.path["id"]], level, _packing(http, medium=medium))


async def archive_of_several(http: Exchange, *, medium: bool, extended: bool = False) -> None:
    """Resources of any level as one ZIP file."""
    wanted = [each for each in (http.query_value("resources") or "").split(",") if each]
    if not wanted:
        raise BadQuery("resources is a list of Orthanc identifiers", attribute="resources")
    if len(wanted) > _MAX_RESOURCES:
        raise BadQuery(f"resources are {_MAX_RESOURCES} at most", attribute="resources")
    await send_zip(http, wanted, None, _packing(http, medium=medium, extended=extended))


def _packing(http: Exchange, *, medium: bool, extended: bool = False) -> Packing:
    extended = extended or http.query_value("extended") is not None
    return Packing(_target(http), quality_of(_quality(http)), medium, extended)


def _target(http: Exchange) -> str | None:
    return target_of(http.query_value("transcode"), "transcode")


def target_of(target: str | None, attribute: str) -> str | None:
    """The UID of a transfer syntax that can be written, None for none. Raises BadQuery."""
    if target and target not in WRITABLE:
        raise BadQuery(f"{attribute} is the UID of a transfer syntax that can be written", attribute=attribute)
    return target or None


def _quality(http: Exchange) -> int | None:
    text = http.query_value("lossy-quality")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:4]) <= 100):
        raise BadQuery("lossy-quality is a number from 1 to 100", attribute="lossy-quality")
    return int(text)


_TRANSCODE = (
    Parameter("transcode", "query", "UID of a transfer syntax", "1.2.840.10008.1.2.4.80"),
    Parameter("lossy-quality", "query", "of JPEG, 1 to 100", "85", kind="integer"),
    Parameter("filename", "query", "name for the download", "study.zip"),
)


_BYTES = (Content("application/zip", "(the bytes of a ZIP file)"),)
_ZIPPED = (Answer(200, "The ZIP file.", _BYTES),)
_RANGED = (
    Answer(200, "The ZIP file.", _BYTES, ("ETag", "Content-Disposition")),
    Answer(206, "The part that Range asks for.", _BYTES, ("ETag", "Content-Disposition")),
    Answer(304, "Not modified."),
)
_RANGE = Parameter("Range", "header", "a part of the ZIP file", "bytes=1000000-")
_IF_RANGE = Parameter("If-Range", "header", "the ETag of what was received before", '"4cb2d1e4a8"')
_ERRORS = (BadPixels, BadQuery, NotFound, RangeNotSatisfiable, TooLarge, Unavailable)
_FOLDERS = (
    "One folder for each patient, study and series, streamed while it is read. With `transcode`, images that can be "
    "written in that transfer syntax are; all others come as stored. Without, Content-Length and ETag are known, and "
    "Range is taken, so that a download can go on where it broke off."
)
_MEDIUM = (
    "The files as on a medium (PS3.10), with a DICOMDIR at the end. With `extended`, its records hold more than the "
    "standard asks for. `transcode` as for archives."
)
_EXTENDED = Parameter("extended", "query", "more attributes in the DICOMDIR", "true")
_RESOURCES = Parameter(
    "resources",
    "query",
    "Orthanc identifiers of any level, with commas between them",
    "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15",
    required=True,
)


def _archive(level: Kind, plural: str, *, medium: bool) -> Operation:
    return Operation(
        "GET",
        f"/{plural}/{{id}}/{'media' if medium else 'archive'}",
        "dicom.read",
        "Orthanc",
        f"Download a {level} as {'a medium' if medium else 'ZIP'}",
        _MEDIUM if medium else _FOLDERS,
        functools.partial(archive, level=level, medium=medium),
        _ZIPPED if medium else _RANGED,
        (*_TRANSCODE, _EXTENDED) if medium else (*_TRANSCODE, _RANGE, _IF_RANGE, IF_NONE_MATCH),
        errors=_ERRORS,
        orthanc=True,
    )


def _archive_of_several(name: str, *, medium: bool, extended: bool = False) -> Operation:
    return Operation(
        "GET",
        f"/tools/{name}",
        "dicom.read",
        "Orthanc",
        f"Download resources as {'an extended medium' if extended else 'a medium' if medium else 'ZIP'}",
        _MEDIUM if medium else _FOLDERS,
        functools.partial(archive_of_several, medium=medium, extended=extended),
        _ZIPPED if medium else _RANGED,
        (_RESOURCES, *_TRANSCODE) if medium else (_RESOURCES, *_TRANSCODE, _RANGE, _IF_RANGE, IF_NONE_MATCH),
        errors=_ERRORS,
        orthanc=True,
    )


_FILE_ANSWERS = (
    Answer(
        200,
        "The file, or what is in it.",
        (
            Content(DICOM, "(the bytes of a DICOM file)"),
            Content(DICOM_JSON_TYPE, {"00100020": {"vr": "LO", "Value": ["P-1"]}}),
            Content(DICOM_XML, "<NativeDicomModel>...</NativeDicomModel>"),
        ),
        ("ETag", "Content-Disposition"),
    ),
    Answer(206, "The part that Range asks for.", (Content(DICOM, "(bytes)"),), ("ETag",)),
)

OPERATIONS = (
    Operation(
        "GET",
        "/instances/{id}/file",
        "dicom.read",
        "Orthanc",
        "Download a DICOM file",
        "As stored, or in the transfer syntax that `transcode` names; lossy ones give a derived instance with a UID of "
        "its own. A compression that the pixels do not allow is a 406, which names what is available.",
        file,
        _FILE_ANSWERS,
        (Parameter("Accept", "header", f"{DICOM} (default), {DICOM_JSON_TYPE} or {DICOM_XML}", DICOM), *_TRANSCODE),
        errors=(BadPixels, BadQuery, NotAcceptable, NotFound, Unavailable),
        orthanc=True,
    ),
    *(_archive(level, plural, medium=medium) for level, plural in _LEVELS for medium in (False, True)),
    _archive_of_several("create-archive", medium=False),
    _archive_of_several("create-media", medium=True),
    _archive_of_several("create-media-extended", medium=True, extended=True),
)
