"""Examples for the OpenAPI document: small, made up, shared by the route modules."""

from typing import Any

from api.routing import Content, Parameter

STUDY_UID = "2.25.329800735698586629295641978511506172918"
SERIES_UID = "2.25.15403127846312098745120396712340985612"
SOP_UID = "2.25.98712340981236409812734098127340981273"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MULTIPART_DICOM = 'multipart/related; type="application/dicom"'
DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"

STUDY_ROW: dict[str, Any] = {
    "00080020": {"vr": "DA", "Value": ["20260114"]},
    "00080061": {"vr": "CS", "Value": ["CT"]},
    "00081190": {"vr": "UR", "Value": [f"http://127.0.0.1:8042/dicom-web/studies/{STUDY_UID}"]},
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
    "00100020": {"vr": "LO", "Value": ["P-1"]},
    "0020000D": {"vr": "UI", "Value": [STUDY_UID]},
}
STORED: dict[str, Any] = {
    "00081190": {"vr": "UR", "Value": [f"http://127.0.0.1:8042/dicom-web/studies/{STUDY_UID}"]},
    "00081199": {
        "vr": "SQ",
        "Value": [
            {
                "00081150": {"vr": "UI", "Value": [CT_IMAGE]},
                "00081155": {"vr": "UI", "Value": [SOP_UID]},
            }
        ],
    },
}
REFUSED: dict[str, Any] = {
    "00081198": {
        "vr": "SQ",
        "Value": [
            {
                "00081150": {"vr": "UI", "Value": [CT_IMAGE]},
                "00081155": {"vr": "UI", "Value": [SOP_UID]},
                "00081197": {"vr": "US", "Value": [273]},
            }
        ],
    }
}
WORKITEM_UID = "2.25.245092873098457203948572039485720394857"
TRANSACTION_UID = "2.25.48572039485702398457203498572034985"
WORKITEM: dict[str, Any] = {
    "00404005": {"vr": "DT", "Value": ["20260114103000"]},
    "00404018": {
        "vr": "SQ",
        "Value": [
            {
                "00080100": {"vr": "SH", "Value": ["LUNG-NODULES"]},
                "00080102": {"vr": "SH", "Value": ["99SITE"]},
                "00080104": {"vr": "LO", "Value": ["Find lung nodules"]},
            }
        ],
    },
    "00404041": {"vr": "CS", "Value": ["READY"]},
    "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
    "00741200": {"vr": "CS", "Value": ["MEDIUM"]},
    "00741202": {"vr": "LO", "Value": ["AI"]},
    "00741204": {"vr": "LO", "Value": ["Lung nodules, CT of 2026-01-14"]},
}
CLAIM: dict[str, Any] = {
    "00081195": {"vr": "UI", "Value": [TRANSACTION_UID]},
    "00741000": {"vr": "CS", "Value": ["IN PROGRESS"]},
}
PROGRESS: dict[str, Any] = {
    "00741002": {"vr": "SQ", "Value": [{"00741004": {"vr": "DS", "Value": ["40"]}}]},
}
CANCEL_REQUEST: dict[str, Any] = {"00741238": {"vr": "LT", "Value": ["The study was repeated"]}}
EVENT_REPORT: dict[str, Any] = {
    "00000002": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.34.6.1"]},
    "00000110": {"vr": "US", "Value": [23]},
    "00001000": {"vr": "UI", "Value": [WORKITEM_UID]},
    "00001002": {"vr": "US", "Value": [1]},
    "00404041": {"vr": "CS", "Value": ["READY"]},
    "00741000": {"vr": "CS", "Value": ["IN PROGRESS"]},
}
WORKLIST_ID = "5f1a7bd2-5c0c-4f60-9f0e-3f6b6a4f7d11"
SCHEDULED_STEP: dict[str, Any] = {
    "00080050": {"vr": "SH", "Value": ["A-1"]},
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
    "00100020": {"vr": "LO", "Value": ["P-1"]},
    "0020000D": {"vr": "UI", "Value": [STUDY_UID]},
    "00400100": {
        "vr": "SQ",
        "Value": [
            {
                "00080060": {"vr": "CS", "Value": ["CT"]},
                "00400001": {"vr": "AE", "Value": ["CT1"]},
                "00400002": {"vr": "DA", "Value": ["20260114"]},
                "00400003": {"vr": "TM", "Value": ["103000"]},
                "00400009": {"vr": "SH", "Value": ["SPS-1"]},
            }
        ],
    },
    "00401001": {"vr": "SH", "Value": ["RP-1"]},
}
MPPS_UID = "2.25.77150937420598237405982374059827340598"
PERFORMED_STEP: dict[str, Any] = {
    "00080060": {"vr": "CS", "Value": ["CT"]},
    "00400241": {"vr": "AE", "Value": ["CT1"]},
    "00400244": {"vr": "DA", "Value": ["20260114"]},
    "00400245": {"vr": "TM", "Value": ["103512"]},
    "00400252": {"vr": "CS", "Value": ["IN PROGRESS"]},
    "00400253": {"vr": "SH", "Value": ["PPS-1"]},
    "00400270": {
        "vr": "SQ",
        "Value": [
            {
                "0020000D": {"vr": "UI", "Value": [STUDY_UID]},
                "00400009": {"vr": "SH", "Value": ["SPS-1"]},
            }
        ],
    },
}
MULTIPART_BODY = f"--b\r\nContent-Type: {DICOM}\r\n\r\n(the bytes of a DICOM file)\r\n--b--\r\n"

IDENTIFIERS = {
    "study": STUDY_UID,
    "series": SERIES_UID,
    "instance": SOP_UID,
    "again": SOP_UID,
    "answer": "0",
    "key": "result",
    "modality": "pacs",
    "peer": "north",
    "server": "north",
    "query": "59a8b50f-5346-4d21-b476-beaeabd1dc21",
    "transaction": TRANSACTION_UID,
    "plugin": "dicom-web",
    "ids": "66a662ce-7430e543-bad44d47-0dc5a943-ec7a538d.0d0f8b3c-6a1f9d7f-4a4e7a37-7c9c0f0a-8a0e7b55",
    "chunk": "0",
    "transfer": "0b0f4b0e-5c0c-4f60-9f0e-3f6b6a4f7d11",
    "label": "urgent",
    "job": "0b0f4b0e-5c0c-4f60-9f0e-3f6b6a4f7d11",
    "frames": "1,2",
    "path": "7FE00010",
    "file": "site.css",
    "workitem": WORKITEM_UID,
    "worklist": WORKLIST_ID,
    "step": WORKLIST_ID,
    "mpps": MPPS_UID,
    "aet": "SCHEDULER",
    "build": "8a6c94f84d410dbe",
    "name": "app.bundle.css",
    "page": "viewer",
    "group": "1",
    "level": "0",
    "x": "3",
    "y": "2",
    "z": "0",
    "id": "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15",
    "orthanc": "0d0f8b3c-6a1f9d7f-4a4e7a37-7c9c0f0a-8a0e7b55",
    "orthanc_instance": "66a662ce-7430e543-bad44d47-0dc5a943-ec7a538d",
    "frame": "0",
    "token_type": "ohif-viewer-publication",
    "document": f"{SERIES_UID}.dzi",
    "files": f"{SERIES_UID}_files",
    "tile": "3_2.jpeg",
    "region": "1024,512,512,512",
    "size": "256,",
    "rotation": "0",
    "picture": "default.jpg",
}


def json_body(example: Any) -> tuple[Content, ...]:
    """An answer in the DICOM JSON model."""
    return (Content(DICOM_JSON, example),)


XML_PARTS = Content(
    'multipart/related; type="application/dicom+xml"',
    "--anor-4f1c\r\nContent-Type: application/dicom+xml\r\n\r\n<NativeDicomModel>...</NativeDicomModel>",
)
DOCUMENT_ACCEPT = Parameter(
    "Accept",
    "header",
    "application/dicom+json (default), application/json, or multipart/related of application/dicom+xml",
    DICOM_JSON,
)
