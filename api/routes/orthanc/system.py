"""The first of Orthanc's REST routes.

POST /instances, GET /statistics, GET /system. Errors have Orthanc's own JSON here.
"""

from mmap import mmap
from typing import Any

import orjson

from api.examples import DICOM
from api.exchange import Exchange
from api.identity import identity_of, readable
from api.responses import JSON, send_bytes
from api.routes.orthanc.dialect import send_json
from api.routing import Answer, Content, Operation, Parameter
from api.uploads import Body, BodyReader, Gunzipped, Upload
from dicomweb.errors import BadDicom, BadRequest, Conflict, TooLarge, Unavailable, UnsupportedMediaType
from dicomweb.orthanc_tags import MAIN_TAGS, spelled_tag
from dicomweb.uids import OrthancIds, orthanc_ids
from storage.ingest import Provenance
from storage.resources import title
from storage.spool import Spooled

_MIB = 1 << 20
_ZIP = b"PK\x03\x04"
# What Orthanc's clients compare before they use a feature: we answer as the version whose routes these follow.
_API_VERSION = 31
_ORTHANC_VERSION = "1.12.11"


async def upload(http: Exchange) -> None:
    """Store one DICOM file. An identical one, and one that the policy refuses, is `AlreadyStored` as in Orthanc."""
    with BodyReader(http, http.settings.max_body) as reader:
        entry = await _receive(http, _decoded(http, reader))
    spooled = await entry.finish()
    try:
        with readable(spooled) as buffer:
            ids, status = await _store(http, spooled, buffer)
    finally:
        entry.memory.release()
    await send_bytes(http, 200, [JSON], _upload_answer(ids, status))


async def _store(http: Exchange, spooled: Spooled, buffer: bytes | mmap) -> tuple[OrthancIds, str]:
    try:
        stored = await http.archive.ingest.store(http.access, spooled, Provenance("rest", http.peer))
    except Conflict:
        found = await identity_of(buffer)
        ids = orthanc_ids(found.patient_id, found.study, found.series, found.sop_instance)
        return ids, "AlreadyStored"
    return stored.orthanc, "Success" if stored.status in {"stored", "replaced"} else "AlreadyStored"


def _decoded(http: Exchange, reader: BodyReader) -> Body:
    settings = http.settings
    match (http.header(b"content-encoding") or "identity").strip().lower():
        case "identity":
            return reader
        case "gzip":
            return Gunzipped(reader, limit=settings.max_instance, ratio=settings.max_inflate_ratio)
        case _:
            raise UnsupportedMediaType("Content-Encoding may be gzip", attribute="Content-Encoding")


async def _receive(http: Exchange, body: Body) -> Upload:
    """The body in a spool; the first bytes tell what it is, because Orthanc's clients seldom send a Content-Type."""
    if (http.header(b"content-type") or "").lower().startswith("multipart/"):
        raise UnsupportedMediaType("send the DICOM file as the body itself", attribute="Content-Type")
    entry = Upload(http, http.header(b"content-length") if isinstance(body, BodyReader) else None)
    try:
        while (chunk := await body.read()) is not None:
            _refuse_zip(entry.spool.size, chunk)
            await entry.spool.write(chunk)
    except BaseException:
        entry.drop()
        raise
    return entry


def _refuse_zip(offset: int, chunk: bytes) -> None:
    if offset == 0 and chunk.startswith(_ZIP):
        raise UnsupportedMediaType("ZIP archives are not taken here; `anor import` reads them")


def _upload_answer(ids: OrthancIds, status: str) -> bytes:
    return orjson.dumps(
        {
            "ID": ids.instance,
            "ParentPatient": ids.patient,
            "ParentSeries": ids.series,
            "ParentStudy": ids.study,
            "Path": f"/instances/{ids.instance}",
            "Status": status,
        },
        option=orjson.OPT_INDENT_2,
    )


async def statistics(http: Exchange) -> None:
    """Counts of resources and bytes of stored files; Orthanc spells the bytes as text."""
    counts = await http.archive.statistics(http.access)
    answer: dict[str, Any] = {
        "CountInstances": counts.instances,
        "CountPatients": counts.patients,
        "CountSeries": counts.series,
        "CountStudies": counts.studies,
        "TotalDiskSize": str(counts.bytes),
        "TotalDiskSizeMB": counts.bytes // _MIB,
        "TotalUncompressedSize": str(counts.bytes),
        "TotalUncompressedSizeMB": counts.bytes // _MIB,
    }
    await send_bytes(http, 200, [JSON], orjson.dumps(answer, option=orjson.OPT_INDENT_2))


async def system(http: Exchange) -> None:
    """Who answers: what Orthanc's clients ask first."""
    settings = http.settings
    answer: dict[str, Any] = {
        "ApiVersion": _API_VERSION,
        "Capabilities": {
            "HasExtendedChanges": True,
            "HasExtendedFind": True,
            "HasKeyValueStores": False,
            "HasQueues": False,
            "HasReserveQueueValue": False,
        },
        "CheckRevisions": settings.check_revisions,
        "DatabaseBackendPlugin": None,
        "DatabaseServerIdentifier": "",
        "DicomAet": settings.aet,
        "DicomDefaultRetrieveMethod": "C-MOVE",
        "DicomPort": settings.dimse_port,
        "HasLabels": True,
        "HttpPort": settings.http_port,
        "IngestTranscoding": "",
        "IsHttpServerSecure": not settings.insecure,
        "MainDicomTags": {title(level): ";".join(map(spelled_tag, tags)) for level, tags in MAIN_TAGS.items()},
        "MaximumPatientCount": settings.maximum_patient_count,
        "MaximumStorageMode": settings.maximum_storage_mode.capitalize(),
        "MaximumStorageSize": settings.maximum_storage_size // _MIB,
        "Name": "Anor",
        "OverwriteInstances": settings.duplicates == "replace",
        "OverwriteInstancesMode": "Always" if settings.duplicates == "replace" else "Never",
        "PatientLevelEnabled": True,
        "PluginsEnabled": True,
        "ReadOnly": False,
        "StorageAreaPlugin": None,
        "StorageCompression": False,
        "StoreMD5ForAttachments": False,
        "UserMetadata": dict(http.archive.metadata.kinds.user),
        "Version": _ORTHANC_VERSION,
    }
    await send_json(http, answer)


_UPLOADED = {
    "ID": "66c8e41e-ac3a9029-0b85e42a-8195ee0a-92c2e62e",
    "ParentPatient": "f2f0c0b4-5f3b1d2b-7bd0a7a4-95b4b2d2-0b0f1d6e",
    "ParentSeries": "0d0f8b3c-6a1f9d7f-4a4e7a37-7c9c0f0a-8a0e7b55",
    "ParentStudy": "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15",
    "Path": "/instances/66c8e41e-ac3a9029-0b85e42a-8195ee0a-92c2e62e",
    "Status": "Success",
}
_COUNTS = {
    "CountInstances": 4000,
    "CountPatients": 40,
    "CountSeries": 40,
    "CountStudies": 40,
    "TotalDiskSize": "2120000000",
    "TotalDiskSizeMB": 2021,
    "TotalUncompressedSize": "2120000000",
    "TotalUncompressedSizeMB": 2021,
}
_SYSTEM = {
    "ApiVersion": _API_VERSION,
    "DicomAet": "ANOR",
    "DicomPort": 4242,
    "HttpPort": 8042,
    "Name": "Anor",
    "Version": _ORTHANC_VERSION,
}

OPERATIONS = (
    Operation(
        "POST",
        "/instances",
        "dicom.write",
        "Orthanc",
        "Upload a DICOM file",
        "The body is the file, whatever its Content-Type; gzip is taken with Content-Encoding. "
        "`AlreadyStored` is the answer for a file that is stored, and for other bytes under a stored SOP Instance UID.",
        upload,
        (Answer(200, "Stored, or stored already.", (Content("application/json", _UPLOADED),)),),
        (Parameter("Content-Encoding", "header", "`gzip` for a compressed body", "gzip"),),
        (Content(DICOM, "(the bytes of a DICOM file)"),),
        (BadDicom, BadRequest, TooLarge, UnsupportedMediaType, Unavailable),
        orthanc=True,
    ),
    Operation(
        "GET",
        "/statistics",
        "system.read",
        "Orthanc",
        "Count resources and bytes",
        "Resources at each level and the size of all stored files.",
        statistics,
        (Answer(200, "Counts.", (Content("application/json", _COUNTS),)),),
        errors=(Unavailable,),
        orthanc=True,
    ),
    Operation(
        "GET",
        "/system",
        "system.read",
        "Orthanc",
        "Identify the server",
        "Name, ports and the version of Orthanc's REST API that is followed.",
        system,
        (Answer(200, "The server.", (Content("application/json", _SYSTEM),)),),
        orthanc=True,
    ),
)
