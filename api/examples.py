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
MULTIPART_BODY = f"--b\r\nContent-Type: {DICOM}\r\n\r\n(the bytes of a DICOM file)\r\n--b--\r\n"

IDENTIFIERS = {
    "study": STUDY_UID,
    "series": SERIES_UID,
    "instance": SOP_UID,
    "again": SOP_UID,
    "frames": "1,2",
    "path": "7FE00010",
    "file": "site.css",
    "build": "8a6c94f84d410dbe",
    "name": "app.bundle.css",
    "page": "viewer",
}
JSON_ACCEPT = Parameter("Accept", "header", "application/dicom+json (default), application/json", DICOM_JSON)


def json_body(example: Any) -> tuple[Content, ...]:
    """An answer in the DICOM JSON model."""
    return (Content(DICOM_JSON, example),)
