"""pydicom data sets -> DICOM JSON (PS3.18 Annex F): for data that no scan has seen, and where a scan needs help."""

import warnings
from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import orjson
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from dicomweb.errors import BadDicom
from dicomweb.notes import Notes
from dicomweb.structure import Coding
from dicomweb.values import BINARY_VRS, number_json

_SWAP = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_SAFE_INTEGER = 2**53 - 1
_FLOATS = frozenset(("DS", "FL", "FD"))
_INTEGERS = frozenset(("IS", "SL", "SS", "SV", "UL", "US", "UV"))
_NOTHING: Mapping[str, bytes] = {}


def dataset_json(dataset: Dataset, bulk: Mapping[str, bytes] = _NOTHING) -> bytes:
    """The JSON object of `dataset`; `bulk` has finished attribute objects by path ("00480105/0/00282000")."""
    return _object(dataset, "", bulk, Notes())


def members(data: bytes | bytearray, coding: Coding, bulk: Mapping[str, bytes], notes: Notes) -> dict[str, bytes]:
    """The attribute objects of an encoded data set by tag.

    Only for `data` whose structure has been walked: pydicom recurses into sequences and believes lengths.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = read_dataset(BytesIO(data), not coding.explicit, not coding.big)
        except Exception as error:
            raise BadDicom("the data set cannot be read") from error
        return {
            f"{tag:08X}": _attribute(dataset, tag, "", bulk, notes) for tag in sorted(dataset.keys()) if tag.element
        }


def _object(dataset: Dataset, prefix: str, bulk: Mapping[str, bytes], notes: Notes) -> bytes:
    parts = [
        b'"%08X":%s' % (tag, _attribute(dataset, tag, prefix, bulk, notes))
        for tag in sorted(dataset.keys())
        if tag.element
    ]
    return b"{" + b",".join(parts) + b"}"


def _attribute(dataset: Dataset, tag: BaseTag, prefix: str, bulk: Mapping[str, bytes], notes: Notes) -> bytes:
    path = f"{prefix}{tag:08X}"
    if (known := bulk.get(path)) is not None:
        return known
    raw = b""
    try:
        stored: Any = dataset.get_item(tag)
        if stored.is_raw:
            raw = stored.value or b""
            if stored.VR == "UN":
                # What its writer called unknown stays so: pydicom would look into it, and nobody has checked it.
                return _binary("UN", raw)
        big = stored.is_raw and not stored.is_little_endian
        return _element(dataset[tag], path, bulk, notes, big=big)
    except Exception:  # noqa: BLE001 - pydicom raises what it likes; the bytes are shown instead
        notes.add(f"({tag.group:04X},{tag.element:04X}) does not fit its VR")
        return _binary("UN", raw)


def _binary(vr: str, value: bytes) -> bytes:
    if not value:
        return b'{"vr":"%s"}' % vr.encode()
    return b'{"vr":"%s","InlineBinary":"%s"}' % (vr.encode(), b64encode(value))


def _element(element: DataElement, path: str, bulk: Mapping[str, bytes], notes: Notes, *, big: bool) -> bytes:
    vr = str(element.VR)
    value = element.value
    if vr == "SQ":
        items = [_object(item, f"{path}/{index}/", bulk, notes) for index, item in enumerate(value)]
        return b'{"vr":"SQ","Value":[' + b",".join(items) + b"]}" if items else b'{"vr":"SQ"}'
    if " or " in vr:
        vr = "US" if vr == "US or SS" and not isinstance(value, bytes) else "OW"
    if vr in BINARY_VRS:
        return _binary(vr, _swapped(value or b"", _SWAP.get(vr, 1)) if big else value or b"")
    if element.is_empty:
        return b'{"vr":"%s"}' % vr.encode()
    values = list(value) if element.VM > 1 else [value]
    return b'{"vr":"%s","Value":%s}' % (vr.encode(), orjson.dumps([_value(vr, one) for one in values]))


def _swapped(value: bytes, width: int) -> bytes:
    """Words of big endian data in little endian order, as web services exchange them (PS3.18 8.7.3)."""
    if width == 1 or len(value) % width:
        return value
    return b"".join([value[at : at + width][::-1] for at in range(0, len(value), width)])


def _value(vr: str, value: object) -> object:
    """One value as JSON holds it."""
    if value is None or value == "":
        return None
    if vr == "PN":
        groups = str(value).replace("\0", "").split("=")
        return {name: text for name, text in zip(_GROUPS, groups, strict=False) if text} or None
    if vr == "AT":
        return f"{int(value):08X}"  # type: ignore[call-overload]
    if vr in _FLOATS:
        number = float(value)  # type: ignore[arg-type]
        return number_json(number) if vr != "DS" or abs(number) != float("inf") else str(value)
    if vr in _INTEGERS:
        if isinstance(value, float) and not value.is_integer():
            return float(value)
        whole = int(value)  # type: ignore[call-overload]
        return whole if -_SAFE_INTEGER <= whole <= _SAFE_INTEGER else str(whole)
    return str(value).replace("\0", "")
