"""From a scanned file to the rows of the index: which attribute goes into which column."""

import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from dicomweb.fold import fold, fold_name, trigrams
from dicomweb.part10 import Scan
from dicomweb.tags import PATIENT_TAGS, SERIES_TAGS, STUDY_TAGS
from dicomweb.uids import OrthancIds, orthanc_ids
from dicomweb.values import first_value

_UPPER_TAGS = PATIENT_TAGS | STUDY_TAGS | SERIES_TAGS
# Kept in a column of its own, different in each instance.
_NOT_IN_ATTRIBUTES = frozenset({"00080018"})
# A value that nobody matches against: long texts and encoded binary stay in the metadata alone.
_MAX_SEARCHABLE = 8192

# Returned by QIDO-RS without being asked (PS3.18 10.6.3.3), beside what is computed. The cuts are where computed
# attributes go: the summary is stored as finished JSON text in four pieces, in ascending tag order.
STUDY_SUMMARY = [
    "00080020",
    "00080030",
    "00080050",
    "00080090",
    "00080201",
    "00081030",
    "00100010",
    "00100020",
    "00100021",
    "00100030",
    "00100032",
    "00100040",
    "0020000D",
    "00200010",
]
STUDY_CUTS = ("00080056", "00081190", "00201206")
SERIES_SUMMARY = [
    "00080021",
    "00080031",
    "00080060",
    "00080201",
    "0008103E",
    "00081090",
    "00180015",
    "0020000E",
    "00200011",
    "00400244",
    "00400245",
    "00400275",
]
SERIES_CUTS = ("00080056", "00081190", "00201209")
# Not in any dataset or metadata, but in the row of every instance: InstanceAvailability, RetrieveURL.
INSTANCE_COMPUTED = ("00080056", "00081190")
CHARACTER_SET = b'"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'  # DICOM JSON is UTF-8 whatever the file was

FLAG_DEFLATED = 2  # 1 is set by ingest_commit: another PatientID than that of the study


@dataclass(frozen=True, slots=True)
class Shared:
    """The instance-level attributes of a series' first instance, which the others are compared with."""

    id: uuid.UUID
    members: Mapping[str, bytes]

    def difference(self, elements: Mapping[str, bytes]) -> str:
        """JSON object text: members that differ from the shared ones; null for those that are absent."""
        mine = self.members
        parts = [
            fragment
            for tag, fragment in elements.items()
            if tag not in _UPPER_TAGS and mine.get(tag) != fragment and _searchable(tag, fragment)
        ]
        parts += [b'"%s":null' % tag.encode() for tag in mine if tag not in elements]
        return _clean(b"{" + b",".join(parts) + b"}")

    def text(self) -> str:
        """One member a line: JSON strings hold no raw line feeds, so that members can be told apart again exactly."""
        return _clean(b"\n".join(self.members.values()))

    @classmethod
    def parse(cls, shared_id: uuid.UUID, text: str) -> "Shared":
        """The inverse of `text`."""
        return cls(shared_id, {line[1:9].decode(): line for line in text.encode().split(b"\n") if line})

    @classmethod
    def of(cls, elements: Mapping[str, bytes]) -> "Shared":
        """What a first instance shares with those that follow."""
        members = {t: f for t, f in elements.items() if t not in _UPPER_TAGS and _searchable(t, f)}
        return cls(uuid.uuid4(), members)


def _searchable(tag: str, fragment: bytes) -> bool:
    return (
        len(fragment) <= _MAX_SEARCHABLE
        and tag not in _NOT_IN_ATTRIBUTES
        and b'"InlineBinary":' not in fragment
        and b'"BulkDataURI":' not in fragment
    )


def _clean(text: bytes) -> str:
    # PostgreSQL's text and jsonb hold no NUL; the metadata keep it.
    return text.replace(b"\\u0000", b"").decode("utf-8", "replace")


def members_object(elements: Mapping[str, bytes], tags: Iterable[str]) -> str:
    """A JSON object of the searchable members among `tags`, in ascending order."""
    picked = [elements[t] for t in sorted(tags) if t in elements and _searchable(t, elements[t])]
    return _clean(b"{" + b",".join(picked) + b"}")


def summary_pieces(elements: Mapping[str, bytes], tags: Iterable[str], cuts: tuple[str, str, str]) -> list[str]:
    """The stored part of a QIDO-RS answer in four pieces.

    The first three end with a comma, the last begins with one, unless they are empty.
    """
    groups: list[list[bytes]] = [[CHARACTER_SET], [], [], []]
    for tag in sorted(tags):
        if tag in elements and _searchable(tag, elements[tag]):
            groups[sum(tag > cut for cut in cuts)].append(elements[tag])
    texts = [b",".join(g) for g in groups]
    return [_clean(t + b"," if t else b"") for t in texts[:3]] + [_clean(b"," + texts[3] if texts[3] else b"")]


def metadata_cuts(elements: Mapping[str, bytes]) -> str | None:
    """Where the computed attributes of an instance belong in its metadata: offsets as a PostgreSQL array.

    None when the dataset holds one of them itself: then they have to be merged.
    """
    if any(tag in elements for tag in INSTANCE_COMPUTED):
        return None
    cuts, at, position = [], 1, 0
    tags = list(elements)
    for wanted in INSTANCE_COMPUTED:
        while position < len(tags) and tags[position] < wanted:
            at += len(elements[tags[position]]) + 1
            position += 1
        cuts.append(str(at))
    return "{" + ",".join(cuts) + "}"


def text_value(elements: Mapping[str, bytes], tag: str) -> str:
    """The first value as text without NUL, "" when there is none; of a person name the alphabetic group."""
    value = first_value(elements[tag]) if tag in elements else None
    if isinstance(value, dict):
        value = "=".join(value.get(k, "") for k in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    return "" if value is None else str(value).replace("\0", "")


def integer_value(elements: Mapping[str, bytes], tag: str, limit: int = 2**31 - 1) -> int | None:
    """The first value as an integer within +-limit, else None."""
    if tag not in elements:
        return None
    value = first_value(elements[tag])
    try:
        number = int(value) if value is not None else None
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and -limit <= number <= limit else None


def expected_count(elements: Mapping[str, bytes]) -> int | None:
    """How many instances a series has when it is complete, as one of them tells; None where it does not."""
    for tags in (("00201002", "00200105"), ("00540081", "00540101"), ("00181090",)):
        numbers = [integer_value(elements, tag, 2**15 - 1) for tag in tags]
        if all(tag in elements for tag in tags):
            return math.prod(n for n in numbers if n) if all(n and n > 0 for n in numbers) else None
    return None


def time_key(text: str) -> str:
    """A TM value as a key that compares as time: HHMMSS.FFFFFF, missing parts as zero."""
    digits, _, fraction = text.replace(":", "").strip().partition(".")
    if not digits.isdigit():
        return ""
    return digits[:6].ljust(6, "0") + "." + fraction[:6].ljust(6, "0")


@dataclass(frozen=True, slots=True)
class Prepared:
    """One instance ready for the index; `key` names its object, which is durable by the time of the commit."""

    scan: Scan
    ids: OrthancIds
    key: str
    size: int
    file_sha256: bytes
    dataset_sha256: bytes | None
    source: str
    instance_number: int | None
    number_of_frames: int | None
    rows: int | None
    columns: int | None
    bits_allocated: int | None
    metadata_inline: bool

    @classmethod
    def of(cls, scan: Scan, *, key: str, size: int, sha256: bytes, source: str, inline_max: int) -> "Prepared":
        """Read the columns out of the scanned attributes."""
        e = scan.elements
        return cls(
            scan=scan,
            ids=orthanc_ids(scan.patient_id, scan.study_uid, scan.series_uid, scan.sop_instance_uid),
            key=key,
            size=size,
            file_sha256=sha256,
            dataset_sha256=None,
            source=source,
            instance_number=integer_value(e, "00200013", 2**62),
            number_of_frames=integer_value(e, "00280008"),
            rows=integer_value(e, "00280010"),
            columns=integer_value(e, "00280011"),
            bits_allocated=integer_value(e, "00280100"),
            metadata_inline=len(scan.metadata.data) <= inline_max,
        )

    @property
    def frame_records(self) -> bytes | None:
        """The frame table, None when no frames can be served."""
        frames = self.scan.frames
        return frames.records if frames is not None and frames.count else None

    @property
    def frame_overflow(self) -> bytes | None:
        """Extents of fragmented frames, None when there are none."""
        frames = self.scan.frames
        return frames.overflow if frames is not None and frames.overflow else None

    @property
    def metadata_column(self) -> bytes | None:
        """The compressed metadata, None when they are an object of their own."""
        return self.scan.metadata.data if self.metadata_inline else None

    @property
    def described(self) -> "Described":
        """What the rows above the instance say, should this be their first one."""
        return Described.of_scan(self.scan)


@dataclass(frozen=True, slots=True)
class Described:
    """The attributes of an instance, for the rows of its patient, study and series."""

    elements: Mapping[str, bytes]
    patient_id: str
    study_uid: str
    series_uid: str
    ids: OrthancIds

    @classmethod
    def of_scan(cls, scan: Scan) -> "Described":
        """Those of a scanned file."""
        uids = scan.study_uid, scan.series_uid
        return cls(scan.elements, scan.patient_id, *uids, orthanc_ids(scan.patient_id, *uids, scan.sop_instance_uid))

    @classmethod
    def of(cls, metadata: bytes) -> "Described":
        """Those of finished DICOM JSON metadata."""
        members = orjson.loads(metadata)
        elements = {tag: b'"%s":%s' % (tag.encode(), orjson.dumps(members[tag])) for tag in sorted(members)}
        patient, study, series, sop = (
            text_value(elements, tag) for tag in ("00100020", "0020000D", "0020000E", "00080018")
        )
        return cls(elements, patient, study, series, orthanc_ids(patient, study, series, sop))

    def study_proposal(self) -> dict[str, object]:
        """The study and patient rows, should this be their first instance (argument of ingest_study)."""
        e = self.elements
        name = fold_name(text_value(e, "00100010"))
        referring = fold_name(text_value(e, "00080090"))
        description = fold(text_value(e, "00081030"))
        patient_id = self.patient_id.replace("\0", "")
        accession, study_id = text_value(e, "00080050"), text_value(e, "00200010")
        grams = {
            *trigrams(name, "n"),
            *trigrams(description, "d"),
            *trigrams(fold(patient_id), "i"),
            *trigrams(fold(accession), "a"),
            *trigrams(referring, "r"),
        }
        return {
            "uid": self.study_uid,
            "orthanc": hex_id(self.ids.study),
            "patient_orthanc": hex_id(self.ids.patient),
            "patient_id": patient_id,
            "issuer": text_value(e, "00100021"),
            "name_fold": name,
            "birth_date": text_value(e, "00100030"),
            "patient_attributes": orjson.Fragment(members_object(e, PATIENT_TAGS)),
            "study_date": text_value(e, "00080020").replace(".", ""),
            "study_time": time_key(text_value(e, "00080030")),
            "accession": accession,
            "study_id": study_id,
            "referring_fold": referring,
            "description_fold": description,
            "summary": summary_pieces(e, STUDY_SUMMARY, STUDY_CUTS),
            "attributes": orjson.Fragment(members_object(e, PATIENT_TAGS | STUDY_TAGS)),
            "grams": sorted(grams),
        }

    def series_proposal(self, shared: Shared) -> dict[str, object]:
        """The series row, should this be its first instance (argument of ingest_series)."""
        e = self.elements
        return {
            "uid": self.series_uid,
            "study_uid": self.study_uid,
            "orthanc": hex_id(self.ids.series),
            "modality": text_value(e, "00080060"),
            "number": integer_value(e, "00200011", 2**62),
            "summary": summary_pieces(e, SERIES_SUMMARY, SERIES_CUTS),
            "attributes": orjson.Fragment(members_object(e, SERIES_TAGS)),
            "shared": shared.text(),
            "shared_id": str(shared.id),
            "expected": expected_count(e),
        }


def hex_id(orthanc_id: str) -> str:
    """An Orthanc identifier without its dashes, as stored."""
    return orthanc_id.replace("-", "")
