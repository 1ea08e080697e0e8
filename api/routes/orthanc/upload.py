"""Orthanc's upload: POST /instances with a DICOM file, a ZIP file with any number of them, or a form with files."""

import asyncio
from contextlib import closing
from typing import Any, Final

import orjson

from api.examples import DICOM
from api.exchange import Exchange
from api.identity import identity_of, readable
from api.responses import JSON, send_bytes
from api.routing import Answer, Content, Operation, Parameter
from api.uploads import Body, BodyReader, Gunzipped, Upload, collected, part_limits
from dicomweb.errors import (
    ArchiveError,
    BadDicom,
    BadRequest,
    Conflict,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from dicomweb.media import parse_media_type
from dicomweb.meta import is_dicom, is_dicomdir
from dicomweb.multipart import Parser, PartBegin, PartData, boundary_of
from dicomweb.uids import OrthancIds, orthanc_ids
from storage.parallel import side_by_side
from storage.provenance import Provenance
from storage.spool import Spooled
from storage.zip_members import MEMBER_ERRORS, SIGNATURES, Member, ZipLimits, ZipMembers

_HEAD: Final = 1024
_CHUNK: Final = 1 << 20
_AT_ONCE: Final = 8  # members of a ZIP file that are stored at a time
_FORM: Final = "multipart/form-data"

_Result = dict[str, str]


async def upload(http: Exchange) -> None:
    """Store what is sent. An identical file, and one that the policy refuses, is `AlreadyStored` as in Orthanc."""
    kind = http.header(b"content-type") or ""
    with BodyReader(http, http.settings.max_body, "max_body") as reader:
        body = _decoded(http, reader)
        if kind.lower().startswith("multipart/"):
            found = await _form(http, body, kind)
        else:
            length = http.header(b"content-length") if isinstance(body, BodyReader) else None
            found = await _take(http, await collected(http, body, length))
    await send_bytes(http, 200, [JSON], orjson.dumps(found, option=orjson.OPT_INDENT_2))


def _decoded(http: Exchange, reader: BodyReader) -> Body:
    settings = http.settings
    match (http.header(b"content-encoding") or "identity").strip().lower():
        case "identity":
            return reader
        case "gzip":
            return Gunzipped(reader, limit=settings.max_instance, ratio=settings.max_inflate_ratio)
        case _:
            raise UnsupportedMediaType("Content-Encoding may be gzip", attribute="Content-Encoding")


async def _form(http: Exchange, body: Body, kind: str) -> Any:
    """Store the files of a form in turn; the first that cannot be stored ends it. Of one file the answer is plain."""
    media = parse_media_type(kind)
    if media.essence != _FORM:
        raise UnsupportedMediaType(f"a multipart body is {_FORM} here", attribute="Content-Type")
    parser = Parser(boundary_of(media), part_limits(http))
    entry: Upload | None = None
    found: list[Any] = []
    try:
        while (chunk := await body.read()) is not None:
            for event in parser.feed(chunk):
                if isinstance(event, PartBegin):
                    entry = Upload(http) if "filename" in event.headers.get("content-disposition", "") else None
                elif entry is None:
                    continue  # a field of the form that is no file
                elif isinstance(event, PartData):
                    await entry.spool.write(event.data)
                else:
                    complete, entry = entry, None
                    found.append(await _take(http, complete))
        parser.close()
    finally:
        if entry is not None:
            entry.drop()
    if not found:
        raise BadDicom("the form has no file")
    if len(found) == 1:
        return found[0]
    return [each for one in found for each in (one if isinstance(one, list) else [one])]


async def _take(http: Exchange, entry: Upload) -> _Result | list[_Result]:
    """Store an uploaded file: what it is, its first bytes tell. Of a ZIP file there is one answer for each instance."""
    spooled = await entry.finish()
    try:
        if _begins(spooled) not in SIGNATURES:
            return await store_file(http, spooled)
        with closing(await _opened(http, spooled)) as members:
            return await _store_members(http, members)
    finally:
        spooled.release()
        entry.memory.release()


def _begins(spooled: Spooled) -> bytes:
    if spooled.data is not None:
        return spooled.data[:4]
    assert spooled.path is not None
    with spooled.path.open("rb") as file:
        return file.read(4)


async def _opened(http: Exchange, spooled: Spooled) -> ZipMembers:
    settings = http.settings
    limits = ZipLimits(
        max_members=settings.max_parts, max_member=settings.max_instance, max_ratio=settings.max_inflate_ratio
    )
    source = spooled.path if spooled.data is None else spooled.data
    assert source is not None
    return await asyncio.to_thread(ZipMembers, source, limits)


async def _store_members(http: Exchange, members: ZipMembers) -> list[_Result]:
    """What is no DICOM file is passed over; one that cannot be stored says why, and does not touch the others."""
    found: dict[int, _Result] = {}

    async def store(numbered: tuple[int, Member]) -> None:
        number, member = numbered
        try:
            result = await _store_member(http, members, member)
        except Unavailable:
            raise
        except ArchiveError as error:
            result = _failure(member, error.message)
        except MEMBER_ERRORS:
            result = _failure(member, "the member of the ZIP file is damaged")
        if result is not None:
            found[number] = result

    await side_by_side(store, list(enumerate(members)), _AT_ONCE)
    return [found[number] for number in sorted(found)]


async def _store_member(http: Exchange, members: ZipMembers, member: Member) -> _Result | None:
    if member.refused:
        raise TooLarge(member.refused)
    entry = Upload(http)
    try:
        with closing(await asyncio.to_thread(members.open, member)) as stream:
            head = await asyncio.to_thread(stream.read, _HEAD)
            if not is_dicom(head) or is_dicomdir(head):
                return None
            await entry.spool.write(head)
            while chunk := await asyncio.to_thread(stream.read, _CHUNK):
                await entry.spool.write(chunk)
        return await store_file(http, await entry.finish())
    finally:
        entry.drop()


async def store_file(http: Exchange, spooled: Spooled) -> _Result:
    """Store one file, and say what became of it. Releases the spool."""
    with readable(spooled) as buffer:
        try:
            stored = await http.archive.ingest.store(http.access, spooled, Provenance("rest", http.peer))
        except Conflict:
            found = await identity_of(buffer)
            ids = orthanc_ids(found.patient_id, found.study, found.series, found.sop_instance)
            return _result(ids, "AlreadyStored")
    return _result(stored.orthanc, "Success" if stored.status in {"stored", "replaced"} else "AlreadyStored")


def _result(ids: OrthancIds, status: str) -> _Result:
    return {
        "ID": ids.instance,
        "ParentPatient": ids.patient,
        "ParentSeries": ids.series,
        "ParentStudy": ids.study,
        "Path": f"/instances/{ids.instance}",
        "Status": status,
    }


def _failure(member: Member, reason: str) -> _Result:
    return {"ID": "", "Path": "", "Status": "Failure", "Name": member.name, "Details": reason}


UPLOADED = {
    "ID": "66c8e41e-ac3a9029-0b85e42a-8195ee0a-92c2e62e",
    "ParentPatient": "f2f0c0b4-5f3b1d2b-7bd0a7a4-95b4b2d2-0b0f1d6e",
    "ParentSeries": "0d0f8b3c-6a1f9d7f-4a4e7a37-7c9c0f0a-8a0e7b55",
    "ParentStudy": "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15",
    "Path": "/instances/66c8e41e-ac3a9029-0b85e42a-8195ee0a-92c2e62e",
    "Status": "Success",
}

OPERATIONS = (
    Operation(
        "POST",
        "/instances",
        "dicom.write",
        "Orthanc",
        "Upload DICOM files",
        "The body is a DICOM file, whatever its Content-Type, or a ZIP file with DICOM files; gzip is taken with "
        "Content-Encoding. A form's files are taken as well. `AlreadyStored` is the answer for a file that is stored, "
        "and for other bytes under a stored SOP Instance UID. A ZIP file is answered with an array: what is no DICOM "
        "file in it is passed over, and one that cannot be stored has the status `Failure` and says why.",
        upload,
        (
            Answer(
                200,
                "Stored, or stored already; an array for a ZIP file and for a form with several files.",
                (Content("application/json", UPLOADED),),
            ),
        ),
        (Parameter("Content-Encoding", "header", "`gzip` for a compressed body", "gzip"),),
        (
            Content(DICOM, "(the bytes of a DICOM file)"),
            Content("application/zip", "(the bytes of a ZIP file)"),
            Content(_FORM, "(a form with files)"),
        ),
        (BadDicom, BadRequest, TooLarge, UnsupportedMediaType, Unavailable),
        orthanc=True,
    ),
)
