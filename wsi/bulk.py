"""Shapes on a slide as Microscopy Bulk Simple Annotations (PS3.3 A.87, C.37.1)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

import numpy as np

from dicomweb.implementation import IMPLEMENTATION_VERSION
from dicomweb.slides.coordinates import SlideCoordinates
from wsi.drawn import Drawn, Shape, encoded, measured, series_of, source_of

_SERIES_NUMBER: Final = 901


def bulk(
    image: Mapping[str, Any], coordinates: SlideCoordinates | None, drawn: Sequence[Drawn], observer: str, number: int
) -> bytes:
    """The Part 10 file of annotations on an instance of a slide's finest level, given by its DICOM JSON.

    Shapes of one name and kind are a group with that label, in places of the total pixel matrix (2D); with their
    lengths in mm or areas in mm² where there are `coordinates`. All annotations on one series of images share a series
    of their own, in which this is instance `number`. Takes tens of milliseconds: for a thread.
    """
    import highdicom as hd  # noqa: PLC0415 - a third of a second and 20 MB, for those who write annotations
    from pydicom.sr.codedict import codes  # noqa: PLC0415 - half of that time

    def measurements(shape: Shape, shapes: Sequence[Drawn]) -> list[hd.ann.Measurements]:
        if coordinates is None:
            return []
        values = np.array([measured(each, coordinates) for each in shapes])
        line = shape == "polyline"
        name, unit = (
            (codes.SCT.Length, codes.UCUM.Millimeter) if line else (codes.SCT.Area, codes.UCUM.SquareMillimeter)
        )
        return [hd.ann.Measurements(name, values, unit)]

    source = source_of(image)
    by_group: dict[tuple[str, Shape], list[Drawn]] = {}
    for each in drawn:
        by_group.setdefault((each.name, each.shape), []).append(each)
    groups = [
        hd.ann.AnnotationGroup(
            place,
            f"2.25.{uuid4().int}",
            name,
            # What the shapes surround nobody was asked: some tissue.
            codes.SCT.AnatomicalStructure,
            codes.SCT.Tissue,
            shape.upper(),
            [each.points.astype(np.float32) for each in shapes],
            "MANUAL",
            measurements=measurements(shape, shapes) or None,
        )
        for place, ((name, shape), shapes) in enumerate(by_group.items(), 1)
    ]
    made = hd.ann.MicroscopyBulkSimpleAnnotations(
        [source],
        "2D",
        groups,
        series_of(str(source.SeriesInstanceUID), "ANN"),
        _SERIES_NUMBER,
        f"2.25.{uuid4().int}",
        number,
        manufacturer="Anor",
        manufacturer_model_name="Anor",
        software_versions=IMPLEMENTATION_VERSION,
        device_serial_number="1",
        content_creator_name=observer,
        content_label="ANNOTATIONS",
    )
    made.SeriesDescription = "Annotations"
    return encoded(made)
