"""Answers of QIDO-RS in the form that Orthanc's DICOMweb client gives to scripts: values are text."""

import re
from typing import Any, Final

from pydicom.datadict import keyword_for_tag

from dicomweb.errors import BadRequest

_TAG: Final = re.compile("[0-9A-Fa-f]{8}")


def simplified(datasets: Any) -> list[dict[str, Any]]:
    """Data sets of DICOM JSON (PS3.18 F.2), flat: of each element group, element, name, VR, and its values as one text.

    Sequences and bulk data have no value. Raises BadRequest for what is no list of data sets.
    """
    if not isinstance(datasets, list):
        raise BadRequest("an answer to a query is a list of data sets")
    return [_dataset(each) for each in datasets]


def _dataset(dataset: Any) -> dict[str, Any]:
    if not isinstance(dataset, dict):
        raise BadRequest("an answer to a query is a list of data sets")
    made = {}
    for tag, element in dataset.items():
        if not _TAG.fullmatch(tag) or not isinstance(element, dict):
            raise BadRequest("an answer to a query has an element without a tag")
        vr = element.get("vr", "")
        if not isinstance(vr, str):
            raise BadRequest("an answer to a query has an element whose VR is no text")
        number = int(tag, 16)
        shown = {
            "Group": number >> 16,
            "Element": number & 0xFFFF,
            "Name": keyword_for_tag(number) or "Unknown",
            "vr": vr,
        }
        values = element.get("Value")
        if isinstance(values, list) and values and vr != "SQ":
            shown["Value"] = "\\".join(map(_text, values))
        made[tag.upper()] = shown
    return made


def _text(value: Any) -> str:
    if isinstance(value, dict):  # a name (PS3.18 F.2.2): the first group that there is
        return next(
            (each for key in ("Alphabetic", "Ideographic", "Phonetic") if isinstance(each := value.get(key), str)), ""
        )
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise BadRequest("an answer to a query has a value that is neither text nor a number")
    return str(value)
