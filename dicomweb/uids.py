"""Unique identifiers (PS3.5 chapter 9) and the identifiers that Orthanc's REST API derives from them."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NewType

from dicomweb.errors import BadRequest, NotFound

StudyUID = NewType("StudyUID", str)
SeriesUID = NewType("SeriesUID", str)
SopUID = NewType("SopUID", str)

# Components with leading zeros break PS3.5 9.1 but are common in the field; they are told apart byte by byte, so they
# do no harm.
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*", re.ASCII)
MAX_UID_LENGTH = 64
_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}", re.ASCII)


def is_uid(text: str) -> bool:
    """Whether `text` is a UID: digits and single dots, 64 characters at most."""
    return len(text) <= MAX_UID_LENGTH and _UID.fullmatch(text) is not None


def checked_uid(text: str, name: str) -> str:
    """`text` if it is a UID, else BadRequest that names the parameter `name`."""
    if not is_uid(text):
        raise BadRequest(f"{name} is not a valid UID (digits and dots, at most 64 characters)", attribute=name)
    return text


@dataclass(frozen=True, slots=True)
class OrthancIds:
    """Orthanc's identifiers of one instance and its parents: SHA-1, five groups of eight hex digits."""

    patient: str
    study: str
    series: str
    instance: str


def _orthanc_id(*parts: str) -> str:
    digest = hashlib.sha1("|".join(parts).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[i : i + 8] for i in range(0, 40, 8))


def is_orthanc_id(text: str) -> bool:
    """Whether `text` is an Orthanc identifier."""
    return _ORTHANC_ID.fullmatch(text) is not None


def parse_orthanc_id(text: str) -> bytes:
    """The digest that an Orthanc identifier spells; NotFound when it spells none: there is no such resource."""
    if not is_orthanc_id(text):
        raise NotFound("no resource has such an identifier")
    return bytes.fromhex(text.replace("-", ""))


def orthanc_ids(patient_id: str, study: str, series: str, instance: str) -> OrthancIds:
    """The four identifiers; a missing PatientID is the empty string."""
    return OrthancIds(*_parents(patient_id, study, series), _orthanc_id(patient_id, study, series, instance))


@lru_cache(maxsize=256)
def _parents(patient_id: str, study: str, series: str) -> tuple[str, str, str]:
    return _orthanc_id(patient_id), _orthanc_id(patient_id, study), _orthanc_id(patient_id, study, series)
