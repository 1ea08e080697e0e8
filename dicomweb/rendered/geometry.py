"""Cropping, flipping and scaling into a viewport (PS3.18 8.3.5.1.3)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicomweb.errors import BadQuery
from dicomweb.rendered.attributes import Item, numbers
from dicomweb.rendered.parameters import MAX_SIDE, Viewport

Picture = NDArray[np.uint8]

# Where rows and columns are not equally spaced: aspect ratio, and the spacings that may say the same.
_ASPECT: Final = "00280034"
_SPACINGS: Final = ("00280030", "00181164", "00182010")


def aspect_of(dataset: Item) -> float:
    """Height of a pixel over its width (PS3.3 C.7.6.3.1.7, 10.7.1.3); 1 where it is not said or makes no sense."""
    for tag in (_ASPECT, *_SPACINGS):
        ends = numbers(dataset, tag)
        if len(ends) == 2 and ends[0] > 0 and ends[1] > 0:
            return ends[0] / ends[1] if 0.05 < ends[0] / ends[1] < 20 else 1.0
    return 1.0


def fitted(picture: Picture, viewport: Viewport | None, aspect: float) -> Picture:
    """The region of the viewport, scaled to fit into it as a whole, with square pixels.

    Without a viewport the picture stays as it is, pixel by pixel, unless it is larger than any may be.
    """
    rows, columns = picture.shape[:2]
    if viewport is None:
        if max(rows, columns) <= MAX_SIDE:
            return picture
        viewport, aspect = Viewport(MAX_SIDE, MAX_SIDE), 1.0
    box, flip_x, flip_y = _region(viewport, rows, columns)
    width, height = box[2] - box[0], (box[3] - box[1]) * aspect
    scale = min(viewport.width / width, viewport.height / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size != (columns, rows) or box != (0.0, 0.0, float(columns), float(rows)):
        image = Image.fromarray(picture)
        picture = np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))
    if flip_x:
        picture = picture[:, ::-1]
    if flip_y:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _region(viewport: Viewport, rows: int, columns: int) -> tuple[tuple[float, float, float, float], bool, bool]:
    """Left, top, right and bottom edge, and whether each axis is flipped."""
    if viewport.x >= columns or viewport.y >= rows:
        raise BadQuery("the region of the viewport lies outside the image", attribute="viewport")
    across = columns - viewport.x if viewport.columns is None else viewport.columns
    down = rows - viewport.y if viewport.rows is None else viewport.rows
    right, bottom = min(columns, viewport.x + abs(across)), min(rows, viewport.y + abs(down))
    return (viewport.x, viewport.y, right, bottom), across < 0, down < 0
