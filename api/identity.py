"""Which instance an upload was that could not be stored.

FailedSOPSequence and Orthanc's `AlreadyStored` have to name it.
"""

from dataclasses import dataclass

from dicomweb.errors import ArchiveError
from dicomweb.part10 import scan
from dicomweb.uids import OrthancIds, orthanc_ids
from storage.spool import Spooled


@dataclass(frozen=True, slots=True)
class Identity:
    """The identifiers of one instance."""

    sop_class: str
    sop_instance: str
    study: str
    series: str
    orthanc: OrthancIds


def identity_of(spooled: Spooled) -> Identity | None:
    """The identifiers as far as they can be told.

    From the bytes that are still in memory. None when they cannot be read.
    """
    if spooled.data is None:
        return None
    try:
        found = scan(spooled.data)
    except ArchiveError:
        return None
    return Identity(
        found.sop_class_uid,
        found.sop_instance_uid,
        found.study_uid,
        found.series_uid,
        orthanc_ids(found.patient_id, found.study_uid, found.series_uid, found.sop_instance_uid),
    )
