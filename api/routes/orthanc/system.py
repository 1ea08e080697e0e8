"""What Orthanc says of itself: GET /statistics and GET /system."""

from typing import Any

import orjson

from api.exchange import Exchange
from api.responses import JSON, send_bytes
from api.routes.orthanc.dialect import send_json
from api.routing import Answer, Content, Operation
from dicomweb.errors import Unavailable
from dicomweb.orthanc_tags import MAIN_TAGS, spelled_tag
from storage.resources import title

_MIB = 1 << 20
# What Orthanc's clients compare before they use a feature: we answer as the version whose routes these follow.
_API_VERSION = 31
_ORTHANC_VERSION = "1.12.11"
# Of the schema of Orthanc's index that this API describes: clients compare it, nobody opens the database by it.
_DATABASE_VERSION = 6


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
        "DatabaseVersion": _DATABASE_VERSION,
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
