"""What is said in requests: identifiers of queries and retrievals (PS3.4 C.4), and answers as bytes to be kept."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pydicom.config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag

from dicomweb.errors import BadRequest
from dimse_bridge.scu import FIND, GET, MOVE, PATIENT_ROOT, STUDY_ROOT
from storage.selection import UniqueKeys

_TAG: Final = re.compile(r"([0-9A-Fa-f]{4})[,-]?([0-9A-Fa-f]{4})")
_BINARY: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_MAX_DEPTH: Final = 8
_MAX_KEYS: Final = 1000
_LEVELS: Final = {
    "patient": "PATIENT", "patients": "PATIENT", "study": "STUDY", "studies": "STUDY", "series": "SERIES",
    "instance": "IMAGE", "instances": "IMAGE", "image": "IMAGE", "images": "IMAGE",
}  # fmt: skip
UNIQUE: Final = {
    "PATIENT": ("PatientID",),
    "STUDY": ("PatientID", "StudyInstanceUID"),
    "SERIES": ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    "IMAGE": ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}
# What is asked for at each level beside what was, so that the answers can be shown (PS3.4 C.6.1.1, C.6.2.1).
_USUAL: Final = {
    "PATIENT": ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    "STUDY": (
        "PatientID", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyDescription",
        "ModalitiesInStudy", "PatientName", "PatientBirthDate", "PatientSex",
    ),
    "SERIES": ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription"),
    "IMAGE": ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber", "SOPClassUID"),
}  # fmt: skip
_LEVEL_OF: Final = {
    "PatientName": 0, "PatientID": 0, "PatientBirthDate": 0, "PatientSex": 0,
    "StudyInstanceUID": 1, "StudyDate": 1, "StudyTime": 1, "StudyID": 1, "AccessionNumber": 1,
    "StudyDescription": 1, "ModalitiesInStudy": 1, "ReferringPhysicianName": 1, "StudyStatusID": 1,
    "SeriesInstanceUID": 2, "Modality": 2, "SeriesNumber": 2, "SeriesDescription": 2, "BodyPartExamined": 2,
    "SOPInstanceUID": 3, "InstanceNumber": 3, "SOPClassUID": 3,
}  # fmt: skip
_ORDER: Final = ("PATIENT", "STUDY", "SERIES", "IMAGE")


def level_of(text: Any) -> str:
    """The value of QueryRetrieveLevel that a name of a level stands for. Raises BadRequest."""
    found = _LEVELS.get(text.strip().lower()) if isinstance(text, str) else None
    if found is None:
        raise BadRequest("Level is Patient, Study, Series or Instance", attribute="Level")
    return found


def tag_of(name: str) -> BaseTag:
    """The tag that a keyword or a number (`0010,0010`, `0010-0010`, `00100010`) names. Raises BadRequest."""
    match = _TAG.fullmatch(name)
    if match is not None:
        return Tag(int(match[1], 16), int(match[2], 16))
    number = tag_for_keyword(name) if name else None
    if number is None:
        raise BadRequest("there is no such DICOM tag", attribute=name[:64])
    return Tag(number)


# How text becomes a value of these VRs.
_NUMBERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "US": int, "SS": int, "UL": int, "SL": int, "UV": int, "SV": int, "FL": float, "FD": float,
    "AT": tag_of,
}  # fmt: skip


def data_set(keys: Any, depth: int = 0, *, utf8: bool = False) -> Dataset:
    """A data set of a JSON object: tags to text, or to lists of such objects for sequences. Raises BadRequest.

    `utf8`: it says that its text is in UTF-8, unless the tags say otherwise.
    """
    if not isinstance(keys, Mapping):
        raise BadRequest("the tags of a query are a JSON object")
    if len(keys) > _MAX_KEYS or depth > _MAX_DEPTH:
        raise BadRequest(f"a query has at most {_MAX_KEYS} tags, and sequences {_MAX_DEPTH} levels deep")
    made = Dataset()
    for name, value in keys.items():
        tag = tag_of(name)
        if tag.element == 0 or tag.group < 8:
            continue
        made[tag] = _element(tag, name, value, depth)
    if utf8 and "SpecificCharacterSet" not in made:
        made.SpecificCharacterSet = "ISO_IR 192"
    return made


def _element(tag: BaseTag, name: str, value: Any, depth: int) -> DataElement:
    try:
        vr = "LO" if tag.is_private else dictionary_VR(tag)
    except KeyError:
        vr = "UN"
    vr = vr.split(" or ")[0]
    if isinstance(value, list) and (vr == "SQ" or all(isinstance(each, Mapping) for each in value)):
        return DataElement(tag, "SQ", Items([data_set(each, depth + 1) for each in value]))
    if isinstance(value, bool | list | Mapping):
        raise BadRequest("the value of a tag is text, or a list of objects for a sequence", attribute=name[:64])
    text = "" if value is None else str(value)
    if vr == "SQ":
        if text:
            raise BadRequest("the value of a sequence is a list of objects", attribute=name[:64])
        return DataElement(tag, "SQ", Items())
    try:
        value = [_NUMBERS[vr](each) for each in text.split("\\")] if text and vr in _NUMBERS else text or None
        if text and vr in _BINARY:
            raise BadRequest("no query can be made for binary values", attribute=name[:64])
        return DataElement(tag, vr, value, validation_mode=pydicom.config.IGNORE)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest("the value does not suit the tag", attribute=name[:64]) from error


def query_of(level: str, keys: Any, *, normalise: bool, usual: bool = False) -> Dataset:
    """The identifier of a C-FIND, with the unique keys of its level and those above.

    Normalised: without keys of lower levels, which confuse many archives. `usual`: with what is mostly asked for.
    """
    found = data_set(keys, utf8=True)
    if normalise:
        for keyword, lowest in _LEVEL_OF.items():
            if lowest > _ORDER.index(level) and keyword in found:
                del found[keyword]
    for keyword in (*UNIQUE[level], *(_USUAL[level] if usual else ())):
        if keyword not in found:
            setattr(found, keyword, "")
    if level != "PATIENT" and "AccessionNumber" not in found:
        found.AccessionNumber = ""
    found.QueryRetrieveLevel = level
    return found


def retrieval(level: str, keys: Mapping[str, Any]) -> Dataset:
    """The identifier of a C-MOVE or C-GET (PS3.4 C.4.2.1.4): the unique keys alone. Raises BadRequest."""
    made = Dataset()
    made.QueryRetrieveLevel = level
    for keyword in UNIQUE[level]:
        if value := _joined(keys.get(keyword)):
            setattr(made, keyword, value)
    if UNIQUE[level][-1] not in made:
        # No unique key, but many archives take it, and Orthanc's clients send it.
        accessions = _joined(keys.get("AccessionNumber"))
        if level != "STUDY" or not accessions:
            raise BadRequest(f"{UNIQUE[level][-1]} is missing", attribute=UNIQUE[level][-1])
        made.AccessionNumber = accessions
    return made


def _joined(value: Any) -> str:
    return "\\".join(map(str, value)) if isinstance(value, list) else str(value or "")


def keys_named(identifier: Dataset) -> UniqueKeys:
    """What an identifier of `retrieval` names."""
    keywords = (*UNIQUE["IMAGE"], "AccessionNumber")
    patients, studies, series, instances, accessions = (_values(identifier.get(each)) for each in keywords)
    return UniqueKeys(patients, studies, series, instances, accessions)


def _values(value: Any) -> tuple[str, ...]:
    return () if not value else (str(value),) if isinstance(value, str) else tuple(map(str, value))


def find_model(level: str) -> str:
    """The SOP class of a C-FIND at a level: patients are in the Patient Root model only."""
    return (PATIENT_ROOT if level == "PATIENT" else STUDY_ROOT) + FIND


def move_model(level: str) -> str:
    """The same for C-MOVE."""
    return (PATIENT_ROOT if level == "PATIENT" else STUDY_ROOT) + MOVE


def get_model(level: str) -> str:
    """The same for C-GET."""
    return (PATIENT_ROOT if level == "PATIENT" else STUDY_ROOT) + GET


def references(items: Sequence[Dataset] | None) -> list[tuple[str, int]]:
    """SOP instances of a sequence of references with their failure reason, 0 without one."""
    return [
        (str(each.get("ReferencedSOPInstanceUID", "")), int(each.get("FailureReason", 0) or 0)) for each in items or ()
    ]
