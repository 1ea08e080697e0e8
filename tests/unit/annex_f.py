"""pydicom's DICOM JSON, and what PS3.18 Annex F makes of it: the reference that the scanner is compared with."""

import io
import json
import math
import warnings
from base64 import b64decode, b64encode

from pydicom import dcmread

BINARY = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "UN"])
_SAFE = 2**53 - 1
_SWAP = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
THRESHOLD = 768  # bytes; pydicom's 1024 counts base64


def pydicom_json(data: bytes) -> dict:
    """What pydicom's `to_json` says of a file, and its transfer syntax as AvailableTransferSyntaxUID.

    Bulk values as {"vr", "BulkDataURI": "bulk"}.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(io.BytesIO(data))
        found = dataset.to_json_dict(bulk_data_threshold=1024, bulk_data_element_handler=lambda _: "bulk")
        return found | {"00083002": {"vr": "UI", "Value": [str(dataset.file_meta.TransferSyntaxUID)]}}


def annex_f(dataset: dict, *, big_endian: bool = False) -> dict:
    """pydicom's JSON with the points put right in which it departs from Annex F, each with the section that says so."""
    return {
        tag: _attribute(tag, value, big_endian) for tag, value in dataset.items() if not tag.endswith("0000")
    }  # F.2.2


def _attribute(tag: str, attribute: dict, big_endian: bool) -> dict:
    vr = attribute["vr"]
    if tag in ("7FE00008", "7FE00009", "7FE00010") and "InlineBinary" in attribute:
        return {"vr": vr, "BulkDataURI": "bulk"}  # pixel data is bulk data whatever its size
    if big_endian and vr in _SWAP and "InlineBinary" in attribute:
        # Explicit VR Big Endian never leaves over the web (8.7.3)
        width, value = _SWAP[vr], b64decode(attribute["InlineBinary"])
        swapped = b"".join(value[at : at + width][::-1] for at in range(0, len(value), width))
        return {"vr": vr, "InlineBinary": b64encode(swapped).decode()}
    if "Value" not in attribute:
        return attribute
    values = [_value(tag, vr, value, big_endian) for value in attribute["Value"]]
    if vr == "SQ" and not values:
        return {"vr": vr}  # F.2.5
    return {"vr": vr, "Value": values}


def _value(tag: str, vr: str, value: object, big_endian: bool) -> object:
    if vr == "SQ":
        return annex_f(value, big_endian=big_endian)
    if vr == "PN":
        return {
            group: text.replace("\0", "") for group, text in value.items() if text.replace("\0", "")
        } or None  # F.2.2
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, int) and abs(value) > _SAFE and vr in ("IS", "SV", "UV"):
        return str(value)  # F.2.3, note
    if isinstance(value, str):
        return value.replace("\0", "") or None  # F.2.5
    return value


def without_uris(dataset: dict) -> dict:
    """Ours, with the content of bulk data URIs taken out."""
    out = {}
    for tag, attribute in dataset.items():
        if "BulkDataURI" in attribute:
            out[tag] = {"vr": attribute["vr"], "BulkDataURI": "bulk"}
        elif attribute["vr"] == "SQ" and "Value" in attribute:
            out[tag] = {"vr": "SQ", "Value": [without_uris(item) for item in attribute["Value"]]}
        else:
            out[tag] = attribute
    return out


def plain(value: dict) -> dict:
    """Through JSON once, so that subclasses of str and float compare as what they are written as."""
    return json.loads(json.dumps(value))
