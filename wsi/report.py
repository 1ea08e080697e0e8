"""Measurements that somebody drew on a slide, as a Comprehensive 3D SR (PS3.16 TID 1500 with TID 1410)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal
from uuid import NAMESPACE_OID, uuid4, uuid5

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from dicomweb.errors import BadRequest
from dicomweb.slides.coordinates import Points, SlideCoordinates

Shape = Literal["polyline", "polygon"]

MAX_MEASUREMENTS: Final = 1000
MAX_POINTS: Final = 2000
_MAX_NAME: Final = 64
_LEAST: Final[Mapping[Shape, int]] = {"polyline": 2, "polygon": 3}
# What a report says of patient and study is what the slide says; and which image it is about.
_COPIED: Final = frozenset(
    (
        "00080016", "00080018", "00080020", "00080030", "00080050", "00080060", "00080090", "00081030", "00100010",
        "00100020", "00100030", "00100040", "0020000D", "0020000E", "00200010", "00200011", "00200052", "00080070",
    )
)  # fmt: skip
_SERIES_NUMBER: Final = 900


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A shape to measure; `points`: N x 2 places in the matrix of the finest level. A polygon is not closed here."""

    name: str
    shape: Shape
    points: Points


def parse_drawn(body: Any) -> tuple[Drawn, ...]:
    """What a request holds: `{"measurements": [{"name", "shape", "points": [[x, y], ...]}]}`. Raises BadRequest."""
    given = body.get("measurements") if isinstance(body, dict) else None
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_MEASUREMENTS:
        raise BadRequest(f"`measurements` is a list of 1 to {MAX_MEASUREMENTS}", attribute="measurements")
    return tuple(_drawn(each, f"measurements[{index}]") for index, each in enumerate(given))


def _drawn(given: Any, place: str) -> Drawn:
    if not isinstance(given, dict):
        raise BadRequest("a measurement is an object", attribute=place)
    name, points = given.get("name"), given.get("points")
    if not isinstance(name, str) or not 1 <= len(name.strip()) <= _MAX_NAME or not name.isprintable() or "\\" in name:
        raise BadRequest(f"a name is 1 to {_MAX_NAME} characters of text", attribute=f"{place}.name")
    shape = next((shape for shape in _LEAST if shape == given.get("shape")), None)
    if shape is None:
        raise BadRequest("a shape is polyline or polygon", attribute=f"{place}.shape")
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


def report(
    image: Mapping[str, Any], coordinates: SlideCoordinates, drawn: Sequence[Drawn], observer: str, number: int
) -> bytes:
    """The Part 10 file of a report about an instance of a slide, given by its DICOM JSON.

    All reports on one series of images share a series of their own, in which this is instance `number`. Takes tens of
    milliseconds: for a thread.
    """
    import highdicom as hd  # noqa: PLC0415 - a third of a second and 20 MB, for those who write reports
    from pydicom.sr.codedict import codes  # noqa: PLC0415 - half of that time

    source = Dataset.from_json({tag: image[tag] for tag in _COPIED.intersection(image)})
    person = hd.sr.ObserverContext(codes.DCM.Person, hd.sr.PersonObserverIdentifyingAttributes(name=observer))
    groups = []
    for each in drawn:
        points = coordinates.to_mm(each.points)
        line = each.shape == "polyline"
        # The first point again ends a polygon (PS3.3 C.18.9.1.2).
        closed = points if line else np.vstack([points, points[:1]])
        groups.append(
            hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                hd.sr.TrackingIdentifier(hd.UID(), each.name),
                hd.sr.ImageRegion3D(each.shape.upper(), closed, coordinates.frame_of_reference),
                measurements=[
                    hd.sr.Measurement(
                        codes.SCT.Length if line else codes.SCT.Area,
                        measured(each, coordinates),
                        codes.UCUM.Millimeter if line else codes.UCUM.SquareMillimeter,
                    )
                ],
            )
        )
    content = hd.sr.MeasurementReport(
        hd.sr.ObservationContext(person),
        hd.sr.CodedConcept("112703", "DCM", "Whole Slide Imaging"),
        groups,
    )
    made = hd.sr.Comprehensive3DSR(
        [source],
        content,
        series_instance_uid=report_series(str(source.SeriesInstanceUID)),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=f"2.25.{uuid4().int}",
        instance_number=number,
        manufacturer="Anor",
        is_complete=True,
    )
    made.SeriesDescription = "Measurements"
    return _encoded(made)


def report_series(series: str) -> str:
    """The UID of the series of reports on a series of images: always the same one."""
    return f"2.25.{uuid5(NAMESPACE_OID, f'anor measurements {series}').int}"


def _encoded(made: Dataset) -> bytes:
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = BytesIO()
    dcmwrite(out, made, enforce_file_format=True)
    return out.getvalue()
