"""Answers of QIDO-RS in the form that Orthanc's DICOMweb client gives to scripts: values are text."""

from typing import Any

from pydicom.datadict import keyword_for_tag

from dicomweb.errors import BadRequest


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
        try:
            number = int(tag, 16)
        except ValueError:
            raise BadRequest("an answer to a query has an element without a tag") from None
        if not isinstance(element, dict) or len(tag) != 8:
            raise BadRequest("an answer to a query has an element without a tag")
        shown = {
            "Group": number >> 16,
            "Element": number & 0xFFFF,
            "Name": keyword_for_tag(number) or "Unknown",
            "vr": str(element.get("vr", "")),
        }
        values = element.get("Value")
        if isinstance(values, list) and values and shown["vr"] != "SQ":
            shown["Value"] = "\\".join(map(_text, values))
        made[tag.upper()] = shown
    return made


def _text(value: Any) -> str:
    if isinstance(value, dict):  # a name (PS3.18 F.2.2): the first group that there is
        return next(
            (each for key in ("Alphabetic", "Ideographic", "Phonetic") if isinstance(each := value.get(key), str)), ""
        )
    return "" if value is None else str(value)
