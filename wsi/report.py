"""Measurements on a slide as a Comprehensive 3D SR (PS3.16 TID 1500 with TID 1410)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

import numpy as np

from dicomweb.slides.coordinates import SlideCoordinates
from wsi.drawn import Drawn, encoded, measured, series_of, source_of

_SERIES_NUMBER: Final = 900


def report(
    image: Mapping[str, Any], coordinates: SlideCoordinates, drawn: Sequence[Drawn], observer: str, number: int
) -> bytes:
    """The Part 10 file of a report about an instance of a slide, given by its DICOM JSON.

    All reports on one series of images share a series of their own, in which this is instance `number`. Takes tens of
    milliseconds: for a thread.
    """
    import highdicom as hd  # noqa: PLC0415 - a third of a second and 20 MB, for those who write reports
    from pydicom.sr.codedict import codes  # noqa: PLC0415 - half of that time

    source = source_of(image)
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
        series_instance_uid=series_of(str(source.SeriesInstanceUID), "SR"),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=f"2.25.{uuid4().int}",
        instance_number=number,
        manufacturer="Anor",
        is_complete=True,
    )
    made.SeriesDescription = "Measurements"
    return encoded(made)
