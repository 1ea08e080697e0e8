"""The index of a medium: DICOMDIR (PS3.3 annex F, PS3.10 8.6), made of what the archive knows of its instances."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
# Record types by what follows the common root of the SOP Class UIDs: the longest prefix counts, all others are images.
_TYPES: Final[Mapping[str, str]] = {
    "4.2": "SPECTROSCOPY",
    "9": "WAVEFORM",
    "11": "PRESENTATION",
    "66": "RAW DATA",
    "66.1": "REGISTRATION",
    "66.2": "FIDUCIAL",
    "66.3": "REGISTRATION",
    "66.4": "IMAGE",
    "66.5": "SURFACE",
    "66.6": "TRACT",
    "66.7": "IMAGE",
    "67": "VALUE MAP",
    "68": "SURFACE SCAN",
    "77.1.5.3": "STEREOMETRIC",
    "78": "MEASUREMENT",
    "78.6": "SR DOCUMENT",
    "79.1": "SR DOCUMENT",
    "80.1": "MEASUREMENT",
    "81.1": "MEASUREMENT",
    "82.1": "MEASUREMENT",
    "88": "SR DOCUMENT",
    "88.59": "KEY OBJECT DOC",
    "90.1": "ASSESSMENT",
    "104": "ENCAP DOC",
    "131": "PRESENTATION",
    "481.2": "RT DOSE",
    "481.3": "RT STRUCTURE SET",
    "481.4": "RT TREAT RECORD",
    "481.5": "RT PLAN",
    "481.6": "RT TREAT RECORD",
    "481.7": "RT TREAT RECORD",
    "481.8": "RT PLAN",
    "481.9": "RT TREAT RECORD",
    "481.10": "RADIOTHERAPY",
}
_LABEL: Final = ("InstanceNumber", "ContentLabel", "ContentDescription", "ContentCreatorName")
_CONTENT: Final = ("InstanceNumber", "ContentDate", "ContentTime")
# What a record holds of its instance (F.5); an attribute that the instance lacks is written without a value.
_OF_INSTANCE: Final[Mapping[str, tuple[str, ...]]] = {
    "ASSESSMENT": ("InstanceNumber", "InstanceCreationDate", "InstanceCreationTime"),
    "ENCAP DOC": (*_CONTENT, "DocumentTitle", "ConceptNameCodeSequence", "MIMETypeOfEncapsulatedDocument"),
    "FIDUCIAL": (*_CONTENT, *_LABEL[1:]),
    "IMAGE": ("ImageType", "InstanceNumber"),
    "KEY OBJECT DOC": (*_CONTENT, "ConceptNameCodeSequence"),
    "MEASUREMENT": _CONTENT,
    "PRESENTATION": ("PresentationCreationDate", "PresentationCreationTime", *_LABEL),
    "RADIOTHERAPY": ("InstanceNumber", "UserContentLabel", "UserContentLongLabel", "ContentDescription"),
    "RAW DATA": _CONTENT,
    "REGISTRATION": (*_CONTENT, *_LABEL[1:]),
    "RT DOSE": ("InstanceNumber", "DoseSummationType"),
    "RT PLAN": ("InstanceNumber", "RTPlanLabel", "RTPlanDate", "RTPlanTime"),
    "RT STRUCTURE SET": ("InstanceNumber", "StructureSetLabel", "StructureSetDate", "StructureSetTime"),
    "RT TREAT RECORD": ("InstanceNumber", "TreatmentDate", "TreatmentTime"),
    "SPECTROSCOPY": ("ImageType", *_CONTENT, "NumberOfFrames", "Rows", "Columns", "DataPointRows", "DataPointColumns"),
    "SR DOCUMENT": (*_CONTENT, "CompletionFlag", "VerificationFlag", "VerificationDateTime", "ConceptNameCodeSequence"),
    "STEREOMETRIC": (),
    "SURFACE": (*_CONTENT, *_LABEL[1:]),
    "SURFACE SCAN": _CONTENT,
    "TRACT": (*_CONTENT, *_LABEL[1:]),
    "VALUE MAP": (*_CONTENT, *_LABEL[1:]),
    "WAVEFORM": _CONTENT,
}
# Their absence is right where there is nothing to say.
_OPTIONAL: Final = frozenset({"ImageType", "VerificationDateTime", "MIMETypeOfEncapsulatedDocument"})
_PATIENT: Final = ("PatientName", "PatientID")
_STUDY: Final = ("StudyDate", "StudyTime", "StudyDescription", "StudyInstanceUID", "StudyID", "AccessionNumber")
_SERIES: Final = ("Modality", "SeriesInstanceUID", "SeriesNumber")
# What Orthanc's "extended" media have beside it.
_EXTENDED: Final[Mapping[str, tuple[str, ...]]] = {
    "PATIENT": ("PatientBirthDate", "PatientSex"),
    "STUDY": ("ReferringPhysicianName",),
    "SERIES": ("InstitutionName", "SeriesDescription", "SeriesDate", "SeriesTime"),
    "IMAGE": ("Rows", "Columns", "NumberOfFrames"),
}
_NEXT, _LOWER = 0x00041400, 0x00041420
_FIRST, _LAST, _RECORDS = 0x00041200, 0x00041202, 0x00041220
_ITEM: Final = struct.Struct("<HHI")
_LONG: Final = struct.Struct("<HH2sHI")


def record_fields(extended: bool = False) -> tuple[tuple[str, ...], ...]:
    """The attributes of an instance that its record may hold, as paths of a query."""
    keywords = {keyword for each in _OF_INSTANCE.values() for keyword in each}
    if extended:
        keywords.update(_EXTENDED["IMAGE"])
    return tuple((f"{tag_for_keyword(keyword):08X}",) for keyword in sorted(keywords))


def record_type(sop_class: str) -> str:
    """The type of the directory record that an instance has."""
    tail = sop_class.removeprefix(_STORAGE) if sop_class.startswith(_STORAGE) else ""
    parts = tail.split(".")
    if parts[0] == "481" and len(parts) > 1 and parts[1].isdigit() and int(parts[1]) >= 10:
        return "RADIOTHERAPY"
    for length in range(len(parts), 0, -1):
        found = _TYPES.get(".".join(parts[:length]))
        if found:
            return found
    return "IMAGE"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the medium: its components, and its instance; `attributes` as DICOM JSON, those of all levels."""

    file_id: tuple[str, ...]
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class _Record:
    encoded: bytearray  # the item's content; both offsets are zero as yet
    next_at: int  # where in it the offsets stand
    lower_at: int
    children: "dict[str, _Record]" = field(default_factory=dict)


class Directory:
    """Collects entries, then `encode`s the file. A record of an image takes about 400 bytes of memory."""

    def __init__(self, *, extended: bool = False) -> None:
        """`extended`: with attributes that the standard does not ask for, for programs that show a list."""
        self._extended = extended
        self._root: dict[str, _Record] = {}

    def add(self, entry: Entry) -> None:
        """One more file. A value that no data element can hold is missing in its record."""
        source = _readable(entry.attributes)
        level = self._root
        for kind, keywords, key in (
            ("PATIENT", _PATIENT, "PatientID"),
            ("STUDY", _STUDY, "StudyInstanceUID"),
            ("SERIES", _SERIES, "SeriesInstanceUID"),
        ):
            name = str(source.get(key, ""))
            if name not in level:
                level[name] = _encoded(self._record(kind, source, keywords))
            level = level[name].children
        kind = record_type(entry.sop_class)
        record = self._record(kind, source, _OF_INSTANCE[kind])
        record.ReferencedFileID = list(entry.file_id)
        record.ReferencedSOPClassUIDInFile = entry.sop_class
        record.ReferencedSOPInstanceUIDInFile = entry.sop_instance
        record.ReferencedTransferSyntaxUIDInFile = entry.transfer_syntax
        level[entry.sop_instance] = _encoded(record)

    def encode(self, uid: str) -> bytes:
        """The whole file, in Explicit VR Little Endian as it has to be; `uid` is that of the file-set."""
        head, first_at, last_at = _head(uid)
        position = len(head) + _LONG.size
        places: list[tuple[_Record, int]] = []
        for record in _walk(self._root.values()):
            places.append((record, position))
            position += _ITEM.size + len(record.encoded)
        offsets = {id(record): place for record, place in places}
        _link(self._root, offsets)
        if places:
            struct.pack_into("<I", head, first_at, places[0][1])
            struct.pack_into("<I", head, last_at, offsets[id(list(self._root.values())[-1])])
        items = b"".join(_ITEM.pack(0xFFFE, 0xE000, len(each.encoded)) + each.encoded for each, _ in places)
        return bytes(head) + _LONG.pack(_RECORDS >> 16, _RECORDS & 0xFFFF, b"SQ", 0, len(items)) + items

    def _record(self, kind: str, source: Dataset, keywords: Iterable[str]) -> Dataset:
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = 0
        record.RecordInUseFlag = 0xFFFF
        record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
        record.DirectoryRecordType = kind
        record.SpecificCharacterSet = "ISO_IR 192"
        for keyword in (*keywords, *(_EXTENDED.get(kind, ()) if self._extended else ())):
            if keyword in source:
                record[keyword] = source[keyword]
            elif keyword in keywords and keyword not in _OPTIONAL:
                setattr(record, keyword, [] if keyword.endswith("Sequence") else None)
        return record


def _readable(attributes: Mapping[str, Any]) -> Dataset:
    found = Dataset()
    for tag, member in attributes.items():
        with suppress(ValueError, TypeError, OverflowError, KeyError):
            found.update(Dataset.from_json({tag: member}))
    return found


def _encoded(record: Dataset) -> _Record:
    encoded = bytearray(_bytes(record))
    return _Record(encoded, _value_at(encoded, _NEXT), _value_at(encoded, _LOWER))


def _target() -> DicomBytesIO:
    target = DicomBytesIO()
    target.is_implicit_VR, target.is_little_endian = False, True
    return target


def _bytes(dataset: Dataset) -> bytes:
    target = _target()
    write_dataset(target, dataset, "utf8")
    return target.getvalue()


def _value_at(encoded: bytes | bytearray, tag: int) -> int:
    """Where the value of an UL stands, which is among the first elements."""
    header = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"UL", 4)
    return encoded.index(header) + len(header)


def _walk(records: Iterable[_Record]) -> Iterator[_Record]:
    """Every record before those below it."""
    for record in records:
        yield record
        yield from _walk(record.children.values())


def _link(records: Mapping[str, _Record], offsets: Mapping[int, int]) -> None:
    """Write into each record where its neighbour and its first child stand."""
    row = list(records.values())
    for record, neighbour in pairwise(row):
        struct.pack_into("<I", record.encoded, record.next_at, offsets[id(neighbour)])
    for record in row:
        if record.children:
            struct.pack_into("<I", record.encoded, record.lower_at, offsets[id(next(iter(record.children.values())))])
            _link(record.children, offsets)


def _head(uid: str) -> tuple[bytearray, int, int]:
    """All before the records, and where the offsets of the first and of the last record of the root stand."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    target = _target()
    target.write(bytes(128) + b"DICM")
    write_file_meta_info(target, meta)
    dataset = Dataset()
    dataset.FileSetID = "ANOR"
    dataset.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    dataset.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    dataset.FileSetConsistencyFlag = 0
    encoded = bytearray(target.getvalue() + _bytes(dataset))
    return encoded, _value_at(encoded, _FIRST), _value_at(encoded, _LAST)
