"""Names of the folders and files of an archive for download: patient, study, series, instance.

The names are those that Orthanc's archives have, so that scripts which unpack them go on. Values of attributes come
from strangers: nothing in them may become a path, a drive, a device or a control character.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from dicomweb.zip_stream import EPOCH, Moment

_MAX_NAME: Final = 100
# What a path, Windows or a shell would understand, and the separator of a person's name components (PS3.5 6.2.1).
_REPLACED: Final = re.compile(r'[\\/:*?"<>|^=]')
_DEVICES: Final = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


def patient_folder(attributes: Mapping[str, Any]) -> str:
    """PatientID - PatientName, of DICOM JSON members."""
    return _name("00100020", "00100010", of=attributes, otherwise="Unknown Patient")


def study_folder(attributes: Mapping[str, Any]) -> str:
    """AccessionNumber - StudyDescription."""
    return _name("00080050", "00081030", of=attributes, otherwise="Unknown Study")


def series_folder(attributes: Mapping[str, Any]) -> str:
    """SeriesNumber - Modality - SeriesDescription."""
    return _name("00200011", "00080060", "0008103E", of=attributes, otherwise="Unknown Series")


def file_name(modality: str, number: int) -> str:
    """The file of the `number`-th instance of a series: MR000001.dcm."""
    return f"{re.sub('[^A-Za-z0-9]', '', modality)[:16] or 'IM'}{number:06d}.dcm"


def file_moment(attributes: Mapping[str, Any]) -> Moment:
    """When files of a study were last changed, for who unpacks them: date and time of the study, which never change."""
    date, time = (_text(attributes.get(tag)) for tag in ("00080020", "00080030"))
    for text, form in ((date + time[:6], "%Y%m%d%H%M%S"), (date, "%Y%m%d")):
        try:
            found = datetime.strptime(text, form)  # noqa: DTZ007 - a ZIP file knows no zones either
        except ValueError:
            continue
        if EPOCH[0] <= found.year < EPOCH[0] + 128:
            return found.year, found.month, found.day, found.hour, found.minute, found.second
    return EPOCH


def safe_name(text: str) -> str:
    """`text` as one component of a path on any system; empty when nothing is left of it."""
    kept = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in _REPLACED.sub(" ", text))
    name = " ".join(kept.split())[:_MAX_NAME].strip(" .")
    return f"_{name}" if _DEVICES.fullmatch(name) else name


def _name(*tags: str, of: Mapping[str, Any], otherwise: str) -> str:
    parts = (safe_name(_text(of.get(tag))) for tag in tags)
    return safe_name(" - ".join(part for part in parts if part)) or otherwise


def _text(member: Any) -> str:
    value = next(iter((member or {}).get("Value") or ()), "")
    if isinstance(value, dict):  # a person's name, PS3.18 F.2.2
        value = value.get("Alphabetic") or value.get("Ideographic") or ""
    return str(value or "")
