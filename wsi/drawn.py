"""Shapes that somebody drew on a slide: as a request brings them, what they measure, what is stored of the slide."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from dicomweb.errors import BadRequest
from dicomweb.slides.coordinates import Points, SlideCoordinates

Shape = Literal["polyline", "polygon"]
Modality = Literal["SR", "ANN"]

_MODALITIES: Final[tuple[Modality, ...]] = ("SR", "ANN")
MAX_MEASUREMENTS: Final = 1000
MAX_POINTS: Final = 2000
_MAX_NAME: Final = 64
_LEAST: Final[Mapping[Shape, int]] = {"polyline": 2, "polygon": 3}
# What is said of patient, study and specimen is what the slide says; and which image it is about.
_COPIED: Final = frozenset(
    (
        "00080016", "00080018", "00080060", "00080070", "00080090", "00081030", "0020000D", "0020000E", "00200011",
        "00200052", "00400512", "00400513", "00400515", "00400518", "00400520", "00400560",
    )
)  # fmt: skip
# What may be empty, but not missing (type 2).
_EMPTY: Final[Mapping[str, str]] = {
    "00080020": "DA", "00080030": "TM", "00080050": "SH", "00100010": "PN", "00100020": "LO", "00100030": "DA",
    "00100040": "CS", "00200010": "SH",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A shape to measure; `points`: N x 2 places in the matrix of the finest level. A polygon is not closed here."""

    name: str
    shape: Shape
    points: Points


def parse_drawn(body: Any) -> tuple[Modality, tuple[Drawn, ...]]:
    """What a request holds: `{"modality", "measurements": [{"name", "shape", "points": [[x, y], ...]}]}`.

    Without a modality it is SR. Raises BadRequest.
    """
    asked = body if isinstance(body, dict) else {}
    modality = next((each for each in _MODALITIES if each == asked.get("modality", "SR")), None)
    if modality is None:
        raise BadRequest("what is stored is SR or ANN", attribute="modality")
    given = asked.get("measurements")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_MEASUREMENTS:
        raise BadRequest(f"`measurements` is a list of 1 to {MAX_MEASUREMENTS}", attribute="measurements")
    return modality, tuple(_drawn(each, f"measurements[{index}]") for index, each in enumerate(given))


def _drawn(given: Any, place: str) -> Drawn:
    if not isinstance(given, dict):
        raise BadRequest("a measurement is an object", attribute=place)
    name, points = given.get("name"), given.get("points")
    if not isinstance(name, str) or not 1 <= len(name.strip()) <= _MAX_NAME or not name.isprintable() or "\\" in name:
        raise BadRequest(f"a name is 1 to {_MAX_NAME} characters of text", attribute=f"{place}.name")
    shape = next((shape for shape in _LEAST if shape == given.get("shape")), None)
    if shape is None:
        raise BadRequest("a shape is polyline or polygon", attribute=f"{place}.shape")
    if shape == "polygon" and isinstance(points, list) and len(points) > 1 and points[0] == points[-1]:
        points = points[:-1]
    if not isinstance(points, list) or not _LEAST[shape] <= len(points) <= MAX_POINTS:
        raise BadRequest(f"a {shape} has {_LEAST[shape]} to {MAX_POINTS} points", attribute=f"{place}.points")
    if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(v, int | float) for v in p) for p in points):
        raise BadRequest("a point is [x, y]", attribute=f"{place}.points")
    array = np.array(points, float)
    # Single precision is what a report holds; and nobody draws further away from a slide than its own size.
    if not np.isfinite(array).all() or np.abs(array).max() > 2**32:
        raise BadRequest("a point is far outside the slide", attribute=f"{place}.points")
    return Drawn(name.strip(), shape, array)


def measured(drawn: Drawn, coordinates: SlideCoordinates) -> float:
    """The length of a polyline in mm, or the area of a polygon in mm²; of one that crosses itself the signed sum."""
    points = coordinates.to_mm(drawn.points)
    if drawn.shape == "polyline":
        return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    edges = points - points[0]
    return float(np.linalg.norm(np.cross(edges, np.roll(edges, -1, axis=0)).sum(axis=0)) / 2)


def source_of(image: Mapping[str, Any]) -> Dataset:
    """What objects about an instance of a slide, given by its DICOM JSON, say of it and of its patient and study."""
    kept = {tag: {"vr": vr} for tag, vr in _EMPTY.items()}
    return Dataset.from_json(kept | {tag: image[tag] for tag in (_COPIED | _EMPTY.keys()).intersection(image)})


def series_of(image_series: str, modality: Modality) -> str:
    """The UID of the series of reports, or of annotations, on a series of images: always the same one."""
    kind = {"SR": "measurements", "ANN": "annotations"}[modality]
    return f"2.25.{uuid5(NAMESPACE_OID, f'anor {kind} {image_series}').int}"


def encoded(made: Dataset) -> bytes:
    """The Part 10 file of an object that highdicom made."""
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = BytesIO()
    dcmwrite(out, made, enforce_file_format=True)
    return out.getvalue()
