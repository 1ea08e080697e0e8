"""Data sets as clients of Orthanc's REST API send them: text by keyword or tag, and as DICOM JSON from here on."""

import binascii
from base64 import b64decode, b64encode
from typing import Any, Final

from dicomweb import tags
from dicomweb.errors import BadDicom
from dicomweb.ups_model import MAX_DEPTH, Dataset
from dicomweb.values import BINARY_VRS

_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_INTEGERS: Final = frozenset(("IS", "SL", "SS", "SV", "UL", "US", "UV"))
_DECIMALS: Final = frozenset(("DS", "FD", "FL"))
# A backslash is a character of their values.
_SINGLE: Final = frozenset(("LT", "ST", "UR", "UT"))
_DATA_URI: Final = "data:application/octet-stream;base64,"


def from_orthanc(members: object, depth: int = 0) -> Dataset:
    """The attributes that a client names by keyword or tag, in the DICOM JSON Model. BadDicom names what is wrong."""
    if not isinstance(members, dict):
        raise BadDicom("the tags are not a JSON object")
    if depth > MAX_DEPTH:
        raise BadDicom(f"sequences are nested more than {MAX_DEPTH} levels deep")
    found: Dataset = {}
    for name, value in members.items():
        tag = tags.tag_named(name.replace(",", "").replace("-", "")) if len(name) <= 64 else None
        if tag is None or tag[:4] in ("0000", "0002"):
            raise BadDicom("a tag is neither a keyword of the data dictionary nor a group and an element")
        found[tag] = _element(tag, value, depth)
    return found


def _element(tag: str, value: object, depth: int) -> dict[str, Any]:
    vr, name = tags.vr_of(tag), tags.keyword_of(tag) or tag
    if isinstance(value, list) or (vr == "SQ" and value in (None, "")):
        if vr != "SQ":
            raise BadDicom(f"{name} is no sequence", attribute=name)
        items = [from_orthanc(each, depth + 1) for each in value or ()]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if vr == "SQ" or isinstance(value, dict):
        raise BadDicom(f"{name} is {'a sequence: an array of objects' if vr == 'SQ' else 'text'}", attribute=name)
    if vr in BINARY_VRS:
        return _binary(name, vr, value)
    text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
    texts = [text] if vr in _SINGLE else text.split("\\")
    values = [_typed(name, vr, each) for each in texts]
    return {"vr": vr, "Value": values} if text else {"vr": vr}


def _typed(name: str, vr: str, text: str) -> object:
    if not text:
        return None
    if vr == "PN":
        groups = zip(_GROUPS, text.split("="), strict=False)
        return {group: part for group, part in groups if part}
    if vr not in _INTEGERS and vr not in _DECIMALS:
        return text
    try:
        return int(text) if vr in _INTEGERS else float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise BadDicom(f"{name} is a number", attribute=name) from None


def _binary(name: str, vr: str, value: object) -> dict[str, Any]:
    if value in (None, ""):
        return {"vr": vr}
    if not isinstance(value, str) or not value.startswith(_DATA_URI):
        raise BadDicom(f"{name} is binary: {_DATA_URI}...", attribute=name)
    try:
        data = b64decode(value[len(_DATA_URI) :], validate=True)
    except binascii.Error:
        raise BadDicom(f"{name} is not base64", attribute=name) from None
    return {"vr": vr, "InlineBinary": b64encode(data).decode()}
