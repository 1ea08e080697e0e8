"""Files and archives by Orthanc's identifiers, as stored or in another transfer syntax."""

import functools
from dataclasses import replace
from urllib.parse import quote

from api.examples import DICOM
from api.exchange import Exchange
from api.responses import DICOM_JSON, Header, send_bytes, send_stream
from api.routes.wado import plan_of, send_files
from api.routing import Answer, Content, Operation, Parameter
from dicomweb.errors import BadPixels, BadQuery, NotAcceptable, NotFound, Unavailable
from dicomweb.folders import safe_name
from dicomweb.media import DEFLATED_LE
from dicomweb.media import DICOM_JSON as DICOM_JSON_TYPE
from dicomweb.negotiation import ALL_TARGETS, parse_accept
from dicomweb.pixels.encode import quality_of
from dicomweb.tags import Level
from storage.archives import Level as ArchiveLevel
from storage.resource import Resource

_ZIP: Header = (b"content-type", b"application/zip")
_TARGETS = ALL_TARGETS | {DEFLATED_LE}


async def file(http: Exchange) -> None:
    """The file of an instance, or its attributes as DICOM JSON where only these are accepted."""
    if (http.header(b"accept") or "").partition(";")[0].strip().lower() == DICOM_JSON_TYPE:
        resource = Resource.of(Level.INSTANCE, http.path["id"])
        await send_bytes(http, 200, [DICOM_JSON], await http.archive.tags.document(http.access, resource))
        return
    target, quality = _target(http), _quality(http)
    instance = await http.archive.archives.instance(http.access, http.path["id"])
    ranges = parse_accept(f"{DICOM}; transfer-syntax={target or '*'}")
    plan = replace(await plan_of(http, instance, ranges, single=True), quality=quality)
    await send_files(http, [instance], [plan], instance.version, attachment_header(http, f"{instance.sop}.dcm"))


async def archive(http: Exchange, level: ArchiveLevel) -> None:
    """A ZIP file that is written while it is sent: the first bytes leave before the second file is read."""
    target, quality = _target(http), _quality(http)
    service = http.archive.archives
    folders = await service.folders(http.access, level, http.path["id"])
    headers = [_ZIP, (b"cache-control", b"no-store"), attachment_header(http, f"{http.path['id']}.zip")]
    await send_stream(http, 200, headers, None, service.zip(http.access, folders, target, quality_of(quality)))


def _target(http: Exchange) -> str | None:
    target = http.query_value("transcode")
    if target and target not in _TARGETS:
        raise BadQuery("transcode is the UID of a transfer syntax that can be written", attribute="transcode")
    return target or None


def _quality(http: Exchange) -> int | None:
    text = http.query_value("lossy-quality")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:4]) <= 100):
        raise BadQuery("lossy-quality is a number from 1 to 100", attribute="lossy-quality")
    return int(text)


def attachment_header(http: Exchange, name: str) -> Header:
    """Content-Disposition (RFC 6266); what `filename` asks for is a name only, never a path or another header."""
    wanted = safe_name(http.query_value("filename") or "") or name
    plain = "".join(c if c.isascii() else "_" for c in wanted)
    value = f'attachment; filename="{plain}"'
    if plain != wanted:
        value += f"; filename*=UTF-8''{quote(wanted)}"
    return b"content-disposition", value.encode()


_TRANSCODE = (
    Parameter("transcode", "query", "UID of a transfer syntax", "1.2.840.10008.1.2.4.80"),
    Parameter("lossy-quality", "query", "of JPEG, 1 to 100", "85", kind="integer"),
    Parameter("filename", "query", "name for the download", "study.zip"),
)


def _archive(level: ArchiveLevel, plural: str) -> Operation:
    return Operation(
        "GET",
        f"/{plural}/{{id}}/archive",
        "dicom.read",
        "Orthanc",
        f"Download a {level} as ZIP",
        "One folder for each patient, study and series, streamed while it is read. With `transcode`, images that can "
        "be written in that transfer syntax are; all others come as stored.",
        functools.partial(archive, level=level),
        (Answer(200, "The ZIP file.", (Content("application/zip", "(the bytes of a ZIP file)"),)),),
        _TRANSCODE,
        errors=(BadPixels, BadQuery, NotFound, Unavailable),
        orthanc=True,
    )


_FILE_ANSWERS = (
    Answer(200, "The file.", (Content(DICOM, "(the bytes of a DICOM file)"),), ("ETag", "Content-Disposition")),
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
        _TRANSCODE,
        errors=(BadPixels, BadQuery, NotAcceptable, NotFound, Unavailable),
        orthanc=True,
    ),
    _archive("patient", "patients"),
    _archive("study", "studies"),
    _archive("series", "series"),
)
