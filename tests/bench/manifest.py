"""What is in the benchmark's data folder: the studies, so that every test builds its URLs from data that exist."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pydicom

from dicomweb.uids import orthanc_ids

KINDS = ("ct", "small", "multiframe")
FOLDERS = {"ct": ("ct",), "small": ("small",), "multiframe": ("multiframe", "mf")}
_NAME = "manifest.json"
_TAGS = [
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "PatientName",
    "StudyDate",
    "NumberOfFrames",
    "InstanceNumber",
]


@dataclass(frozen=True, slots=True)
class Instance:
    """One file; `path` is relative to the data folder, `frames` is 1 for single-frame images."""

    uid: str
    path: str
    frames: int
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Series:
    """A series with its instances by InstanceNumber."""

    uid: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """A study and the attributes that the search tests ask for."""

    uid: str
    patient_id: str
    patient_name: str
    date: str
    series: tuple[Series, ...]

    @property
    def orthanc_id(self) -> str:
        """Its name in Orthanc's REST API."""
        return orthanc_ids(self.patient_id, self.uid, "", "").study

    def instances(self) -> Iterator[Instance]:
        """All instances, series by series."""
        for series in self.series:
            yield from series.instances


@dataclass(frozen=True, slots=True)
class Manifest:
    """The data folder's content by kind (`KINDS`)."""

    root: Path
    ct: tuple[Study, ...]
    small: tuple[Study, ...]
    multiframe: tuple[Study, ...]

    def studies(self, kind: str) -> tuple[Study, ...]:
        """The studies of one kind."""
        return {"ct": self.ct, "small": self.small, "multiframe": self.multiframe}[kind]

    def files(self, kind: str) -> list[Path]:
        """All files of one kind, in study order."""
        return [self.root / instance.path for study in self.studies(kind) for instance in study.instances()]

    def count(self) -> int:
        """Instances of all kinds."""
        return sum(len(series.instances) for kind in KINDS for study in self.studies(kind) for series in study.series)

    def part(self, ct: int, small: int) -> "Manifest":
        """The first `ct` and `small` studies, and all multi-frame ones."""
        return Manifest(self.root, self.ct[:ct], self.small[:small], self.multiframe)

    def save(self) -> None:
        """Write `manifest.json` into the data folder."""
        content = {kind: [asdict(study) for study in self.studies(kind)] for kind in KINDS}
        (self.root / _NAME).write_text(json.dumps(content, separators=(",", ":")))


def load(root: Path) -> Manifest:
    """Read `manifest.json`; made from the files themselves where it is missing."""
    path = root / _NAME
    if not path.exists():
        manifest = scan(root)
        manifest.save()
        return manifest
    content = json.loads(path.read_text())
    return Manifest(root, *(tuple(_study(entry) for entry in content[kind]) for kind in KINDS))


def _study(entry: dict[str, object]) -> Study:
    series = entry["series"]
    assert isinstance(series, list)
    fields = {name: str(entry[name]) for name in ("uid", "patient_id", "patient_name", "date")}
    return Study(**fields, series=tuple(Series(s["uid"], tuple(Instance(**i) for i in s["instances"])) for s in series))


def scan(root: Path) -> Manifest:
    """Read the headers of every `.dcm` file below the folders of each kind (about a millisecond a file)."""
    groups = []
    for kind in KINDS:
        paths = [path for folder in FOLDERS[kind] for path in sorted((root / folder).glob("**/*.dcm"))]
        groups.append(grouped(root, paths))
    manifest = Manifest(root, *groups)
    if not manifest.count():
        raise FileNotFoundError(
            f"no .dcm files in {root}/{{{','.join(KINDS)}}}: make them with `python -m tests.bench data`"
        )
    return manifest


def grouped(root: Path, paths: Iterable[Path]) -> tuple[Study, ...]:
    """The studies that files below `root` are of."""
    heads: dict[str, tuple[str, str, str]] = {}
    tree: dict[str, dict[str, list[tuple[int, Instance]]]] = {}
    for path in paths:
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        study = str(ds.StudyInstanceUID)
        heads.setdefault(study, (str(ds.PatientID), str(ds.PatientName), str(ds.StudyDate)))
        instance = Instance(
            str(ds.SOPInstanceUID),
            str(path.relative_to(root)),
            int(ds.get("NumberOfFrames") or 1),
            str(ds.file_meta.TransferSyntaxUID),
        )
        of_series = tree.setdefault(study, {}).setdefault(str(ds.SeriesInstanceUID), [])
        of_series.append((int(ds.get("InstanceNumber") or 0), instance))
    return tuple(
        Study(
            uid,
            *heads[uid],
            series=tuple(
                Series(series, tuple(instance for _, instance in sorted(members, key=lambda member: member[0])))
                for series, members in by_series.items()
            ),
        )
        for uid, by_series in tree.items()
    )
