"""Where a pixel of a slide is on the glass: the slide coordinate system (PS3.3 C.8.12.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomweb.rendered.attributes import Item, items, number, numbers

Points = NDArray[np.float64]

# Directions that make less of an angle than this are none.
_FLATTEST = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class SlideCoordinates:
    """An affine map between places in the total pixel matrix and millimetres in a frame of reference.

    Places are counted from the outer corner of the first pixel, so that its middle is at (0.5, 0.5).
    `origin`: the middle of the first pixel. `axes`, 2 x 3: a step of one pixel along a row, and along a column.
    """

    frame_of_reference: str
    origin: Points
    axes: Points

    @classmethod
    def of(cls, dataset: Item, spacing: Sequence[float]) -> "SlideCoordinates | None":
        """Of an instance with pixels of `spacing` (across, down) in mm; None when it does not say where it is."""
        frame = dataset.get("00200052", {}).get("Value") or ()
        cosines = numbers(dataset, "00480102")
        if not frame or len(cosines) != 6 or min(spacing) <= 0:
            return None
        place = next(iter(items(dataset, "00480008")), {})
        origin = np.array([number(place, tag) or 0.0 for tag in ("0040072A", "0040073A", "0040074A")])
        axes = np.array(cosines).reshape(2, 3) * np.array(spacing)[:, None]
        if np.linalg.norm(np.cross(*np.array(cosines).reshape(2, 3))) < _FLATTEST:
            return None
        return cls(str(frame[0]), origin, axes)

    @property
    def pixel_area(self) -> float:
        """In mm²."""
        return float(np.linalg.norm(np.cross(*self.axes)))

    def to_mm(self, places: Points) -> Points:
        """N x 2 places in the matrix as N x 3 millimetres."""
        return np.asarray(self.origin + (places - 0.5) @ self.axes)

    def to_pixels(self, points: Points) -> Points:
        """N x 3 (or N x 2, in the plane of the glass) millimetres as N x 2 places in the matrix: the nearest ones."""
        columns = points.shape[1]
        return np.asarray((points - self.origin[:columns]) @ np.linalg.pinv(self.axes[:, :columns]) + 0.5)
