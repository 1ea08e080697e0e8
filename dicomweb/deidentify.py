"""The Basic Application Level Confidentiality Profile (PS3.15 annex E) on the attributes of one instance.

A pure function of the file and a key: the same file gives the same bytes, and a UID or Patient ID the same stand-in,
whichever instance it comes with. Pixel data is copied as it is; what its pixels or its text may tell is refused.
"""

import hmac
from dataclasses import dataclass
from io import BytesIO
from mmap import mmap
from typing import Any, BinaryIO, Final, cast

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicomweb.confidentiality import ACTIONS
from dicomweb.errors import ArchiveError, BadDicom
from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dicomweb.structure import UNDEFINED, walk_fragments

METHOD: Final = "Basic Application Confidentiality Profile"
_DEFLATED: Final = frozenset(("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"))
_MAX_HEADER: Final = 64 << 20
_MAX_FRAMES: Final = 4_000_000
_PATIENT_ID: Final = 0x00100020

# What shows or says in words who the patient is, as often as not: ultrasound, secondary captures, presentation states,
# structured reports and key objects, waveforms, encapsulated documents, video of a room.
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_REFUSED: Final = frozenset(
    _STORAGE + tail
    for tail in (
        *("3", "3.1", "5", "6", "6.1", "6.2", "7", "7.1", "7.2", "7.3", "7.4"),
        *("77.1.1.1", "77.1.2.1", "77.1.4.1"),
    )
)
_REFUSED_BELOW: Final = tuple(_STORAGE + tail for tail in ("9.", "11.", "88.", "104."))

_DUMMIES: Final[dict[str, object]] = {
    "AS": "000Y", "DA": "19000101", "TM": "000000", "DT": "19000101000000", "DS": "0", "IS": "0", "UR": "urn:removed",
    "FL": 0.0, "FD": 0.0, "SL": 0, "SS": 0, "SV": 0, "UL": 0, "US": 0, "UV": 0, "AT": 0,
    "OB": b"\0\0", "OW": b"\0\0", "UN": b"\0\0", "OF": bytes(4), "OL": bytes(4), "OD": bytes(8), "OV": bytes(8),
}  # fmt: skip


class Identifying(ArchiveError):
    """The instance cannot be de-identified; the message says why, without a value of it."""

    slug = "identifying"


@dataclass(frozen=True, slots=True)
class Deidentified:
    """The new file: `head`, then the bytes of the original from `start` to `end` (its pixel data element)."""

    head: bytes
    start: int
    end: int
    sop_instance: str


def deidentify(file: mmap | BytesIO, size: int, key: bytes) -> Deidentified:
    """Treat a Part 10 file of `size` bytes. Raises Identifying, and BadDicom for what cannot be read."""
    try:
        dataset = dcmread(cast("BinaryIO", file), stop_before_pixels=True)
        start = file.tell()
        _refuse(dataset, start)
        end = _pixel_end(file, start, size, explicit=not dataset.is_implicit_VR, big=not dataset.is_little_endian)
        _Profile(key).treat(dataset)
        _say(dataset)
        dataset.file_meta = _meta(dataset)
        dataset.preamble = bytes(128)
        out = BytesIO()
        dcmwrite(
            out,
            dataset,
            implicit_vr=dataset.is_implicit_VR,
            little_endian=dataset.is_little_endian,
            enforce_file_format=True,
        )
    except ArchiveError:
        raise
    except Exception as error:  # pydicom raises nearly anything, RecursionError among it, for what a peer can send
        raise BadDicom(f"the attributes cannot be de-identified ({type(error).__name__})") from error
    return Deidentified(out.getvalue(), start, end, str(dataset.SOPInstanceUID))


def _refuse(dataset: Dataset, size: int) -> None:
    if dataset.file_meta.TransferSyntaxUID in _DEFLATED:
        raise Identifying("a deflated data set is not de-identified")
    if size > _MAX_HEADER:
        raise Identifying("the attributes are too large")
    sop_class = str(dataset.get("SOPClassUID", ""))
    if sop_class in _REFUSED or sop_class.startswith(_REFUSED_BELOW):
        raise Identifying("objects of its SOP class may show or say who the patient is")
    for keyword in ("BurnedInAnnotation", "RecognizableVisualFeatures"):
        if str(dataset.get(keyword, "NO")).strip().upper() not in ("NO", ""):
            raise Identifying(f"{keyword} is not NO")


def _pixel_end(file: mmap | BytesIO, start: int, size: int, *, explicit: bool, big: bool) -> int:
    """Where the pixel data element ends; `start` where there is none."""
    if start >= size:
        return start
    file.seek(start)
    header = file.read(12)
    length = int.from_bytes(header[8:12] if explicit else header[4:8], "big" if big else "little")
    value = start + (12 if explicit else 8)
    if length == UNDEFINED:
        buffer = file if isinstance(file, mmap) else file.getvalue()
        return walk_fragments(buffer, value, size, 0x7FE00010, _MAX_FRAMES)[1]
    if length > size - value:
        raise BadDicom("PixelData ends past the end of the file")
    return value + length


class _Profile:
    """The actions of the table, and stand-ins that a key makes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def treat(self, dataset: Dataset) -> None:
        """Change a data set and those in its sequences."""
        for tag in list(dataset.keys()):
            if tag.is_private or tag.group >> 8 == 0x50 or not dictionary_has_tag(tag) or _is_overlay(tag):
                del dataset[tag]
                continue
            action = ACTIONS.get(int(tag))
            vr = dataset.get_item(tag).VR  # what stays is not decoded
            if vr in (None, "UN"):
                vr = dictionary_VR(tag)
            if action == "X":
                del dataset[tag]
            elif action == "Z" or (action == "D" and vr == "SQ"):
                dataset[tag].value = Sequence() if vr == "SQ" else None
            elif action == "D":
                dataset[tag].value = self._dummy(tag, dataset[tag].VR, dataset[tag].value)
            elif action == "U":
                dataset[tag].value = self._uids(dataset[tag].value)
            elif vr == "SQ":
                for item in dataset[tag].value:
                    self.treat(item)

    def _uids(self, value: Any) -> Any:
        if not value:
            return value
        if isinstance(value, str):
            return self._uid(value)
        return [self._uid(each) for each in value]

    def _uid(self, value: str) -> str:
        """2.25. and 128 bits (PS3.5 B.2)."""
        return f"2.25.{int.from_bytes(self._digest('uid', value)[:16])}"

    def _dummy(self, tag: BaseTag, vr: str, value: Any) -> object:
        if tag == _PATIENT_ID:
            return self._digest("patient", str(value or "")).hex()[:16].upper()
        if vr == "UI":
            return self._uids(value) or self._uid("")
        return _DUMMIES.get(vr, "REMOVED")

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}:{value}".encode(), "sha256")


def _is_overlay(tag: BaseTag) -> bool:
    """Overlay Data and Overlay Comments of any overlay."""
    return tag.group >> 8 == 0x60 and tag.element in (0x3000, 0x4000)


def _say(dataset: Dataset) -> None:
    """What was done (PS3.15 E.1.1 6, PS3.3 C.12.1.1.7)."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", METHOD
    dataset.DeidentificationMethodCodeSequence = [code]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def _meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    return meta
