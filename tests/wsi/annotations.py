"""Bulk annotations of a slide, made by highdicom."""

from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes

from tests.files import encoded, new_uid


def bulk(
    image: Dataset, shape: str, shapes: list[NDArray[Any]], *, coordinates: str = "2D", label: str = "Nuclei"
) -> bytes:
    """One group of shapes (each N x 2 places, or N x 3 mm) as a file."""
    group = hd.ann.AnnotationGroup(
        1,
        new_uid(),
        label,
        codes.SCT.AnatomicalStructure,
        codes.SCT.Nucleus if hasattr(codes.SCT, "Nucleus") else hd.sr.CodedConcept("84640000", "SCT", "Nucleus"),
        shape,
        shapes,
        "MANUAL",
        display_color=hd.color.CIELabColor(60.0, 60.0, 40.0),
    )
    made = hd.ann.MicroscopyBulkSimpleAnnotations(
        [image], coordinates, [group], new_uid(), 300, new_uid(), 1, "Anor", "tests", "1", "1"
    )
    return encoded(made)


def circles(count: int, width: int, height: int, radius: float, points: int = 16, seed: int = 1) -> list[NDArray[Any]]:
    """Round polygons at random places within a matrix, N x 2 each."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform((radius, radius), (width - radius, height - radius), (count, 2))
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius
    return list((middles[:, None, :] + ring[None]).astype(np.float32))
