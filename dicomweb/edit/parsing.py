"""Values from JSON: Orthanc's form (text, arrays of objects) and the DICOM JSON model (PS3.18 F.2)."""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

from dicomweb.dictionary import is_creator, private_vr, public_vr
from dicomweb.edit.encoding import Value
from dicomweb.edit.paths import parse_tag
from dicomweb.errors import BadRequest
from dicomweb.structure import name_of
from dicomweb.uids import is_uid
from dicomweb.values import BINARY_VRS, LONG_VRS, SHORT_VRS

_MAX_DEPTH: Final = 32
# One text whatever backslashes are in it (PS3.5 6.2).
_SINGLE: Final = frozenset(("LT", "ST", "UT", "UR"))
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def vr_for(tag: int, creator: str = "") -> str:
    """The dictionary's VR of an attribute, maybe an ambiguous one; `creator` is that of private ones."""
    if not tag & 0x10000:
        return public_vr(tag)
    return "LO" if is_creator(tag) else private_vr(tag, creator)


def parse_value(tag: int, given: Any, creator: str = "", depth: int = 0) -> Value:
    """The value of an attribute; BadRequest that names it when there is none in `given`."""
    if depth >= _MAX_DEPTH:
        raise _wrong(tag, f"nested more than {_MAX_DEPTH} deep")
    vr = vr_for(tag, creator)
    if isinstance(given, dict) and "vr" in given:
        return _model(tag, given, creator, depth)
    if vr == "SQ" or (vr == "UN" and isinstance(given, list) and any(isinstance(each, dict) for each in given)):
        items = [given] if isinstance(given, dict) else given
        if items in ("", None):
            items = []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise _wrong(tag, "a sequence is an array of objects")
        return Value("SQ", items=tuple(_item(item, creator, depth) for item in items))
    if isinstance(given, str) and given.startswith("data:") and (vr in BINARY_VRS or " or " in vr):
        return Value(vr, data=_data_uri(tag, given))
    if given is None:
        return Value(vr)
    if isinstance(given, list):
        return _checked(tag, Value(vr, tuple(_scalar(tag, each) for each in given)))
    text = _scalar(tag, given)
    if not text:
        return Value(vr)
    return _checked(tag, Value(vr, (text,) if vr in _SINGLE else tuple(text.split("\\"))))


def _wrong(tag: int, why: str) -> BadRequest:
    return BadRequest(f"{name_of(tag)}: {why}", attribute=name_of(tag))


def _scalar(tag: int, given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return repr(given)
    raise _wrong(tag, "a value is text or a number")


def _checked(tag: int, value: Value) -> Value:
    """What would make an element unreadable is refused here; what is only unusual is the sender's business."""
    if any("\0" in text or "\x1b" in text for text in value.values):
        raise _wrong(tag, "control characters in text")
    if value.vr == "UI" and not all(is_uid(text) for text in value.values):
        raise _wrong(tag, "not a valid UID")
    if value.vr in BINARY_VRS and value.vr != "UN":
        raise _wrong(tag, "binary values come as data:...;base64, or as InlineBinary")
    return value


def _data_uri(tag: int, given: str) -> bytes:
    head, _, body = given.partition(",")
    if not head.endswith(";base64"):
        raise _wrong(tag, "binary values come as data:...;base64,")
    return _base64(tag, body)


def _base64(tag: int, text: Any) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (ValueError, TypeError) as wrong:
        raise _wrong(tag, "not base64") from wrong


def _item(given: Mapping[str, Any], creator: str, depth: int) -> tuple[tuple[int, Value], ...]:
    found: dict[int, Value] = {}
    for name, each in given.items():
        tag = parse_tag(name)
        if tag in found:
            raise _wrong(tag, "given twice")
        found[tag] = parse_value(tag, each, creator, depth + 1)
    return tuple(sorted(found.items(), key=lambda entry: entry[0]))


def _model(tag: int, given: Mapping[str, Any], creator: str, depth: int) -> Value:
    """An attribute object of the DICOM JSON model; its VR counts for what the dictionary does not know."""
    said, known = given["vr"], vr_for(tag, creator)
    if said not in SHORT_VRS and said not in LONG_VRS:
        raise _wrong(tag, "no such VR")
    if known != "UN" and said not in known.split(" or "):
        raise _wrong(tag, f"the VR is {known}")
    values = given.get("Value", [])
    if not isinstance(values, list):
        raise _wrong(tag, "Value is an array")
    if said == "SQ":
        if not all(isinstance(item, dict) for item in values):
            raise _wrong(tag, "a sequence is an array of objects")
        return Value("SQ", items=tuple(_item(item, creator, depth) for item in values))
    if "InlineBinary" in given:
        return Value(said, data=_base64(tag, given["InlineBinary"]))
    if "BulkDataURI" in given:
        raise _wrong(tag, "bulk data is not fetched")
    if said == "PN":
        return _checked(tag, Value(said, tuple(_person_name(tag, each) for each in values)))
    return _checked(tag, Value(said, tuple("" if each is None else _scalar(tag, each) for each in values)))


def _person_name(tag: int, given: Any) -> str:
    if given is None:
        return ""
    if isinstance(given, str):
        return given
    if not isinstance(given, dict) or not all(isinstance(given.get(name, ""), str) for name in _GROUPS):
        raise _wrong(tag, "a person name is an object of component groups")
    return "=".join(given.get(name, "") for name in _GROUPS).rstrip("=")
