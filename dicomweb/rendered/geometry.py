"""Crop, mirror and scale to a viewport (PS3.18 8.3.5.1.3)."""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicomweb.errors import BadPixels, BadQuery
from dicomweb.rendered.attributes import Item, macro, numbers
from dicomweb.rendered.parameters import MAX_PIXELS, MAX_SIDE, Region, Rendering

Shown = NDArray[np.uint8]

# Row spacing and column spacing: Pixel Spacing, Imager Pixel Spacing, Nominal Scanned Pixel Spacing.
_SPACINGS: Final = ("00280030", "00181164", "00182010")
# Further from square than this is a mistake of whoever wrote it.
_MAX_ASPECT: Final = 20.0


def aspect_of(dataset: Item, frame: int) -> float:
    """Height of a pixel over its width: Pixel Aspect Ratio, else from the spacing of rows and columns, else 1."""
    measures = macro(dataset, frame, "00289110")
    pairs = [numbers(dataset, "00280034"), numbers(measures, "00280030") if measures else []]
    pairs += [numbers(dataset, tag) for tag in _SPACINGS]
    for pair in pairs:
        if len(pair) >= 2 and pair[0] > 0 and pair[1] > 0:
            ratio = pair[0] / pair[1]
            return ratio if 1 / _MAX_ASPECT <= ratio <= _MAX_ASPECT and abs(ratio - 1) > 1e-3 else 1.0
    return 1.0


def fit(array: Shown, wanted: Rendering, aspect: float) -> Shown:
    """The asked part of an image, mirrored and scaled as large as the viewport allows with its proportions kept.

    `array`: (rows, columns) or (rows, columns, 3). Without a viewport pixels stay what they are, square or not. Raises
    BadQuery for a region outside the image, BadPixels for an image that is too large to be sent whole.
    """
    viewport = wanted.viewport
    region = Region() if viewport is None else viewport.region
    if wanted.fraction is not None:
        region = _of_fraction(wanted.fraction, array.shape)
    array = _cropped(array, region)
    rows, columns = array.shape[:2]
    width, height = (None, None) if viewport is None else (viewport.width, viewport.height)
    if width is None and height is None:
        if rows * columns > MAX_PIXELS or max(rows, columns) > MAX_SIDE:
            raise BadPixels(f"the image has more than {MAX_PIXELS} pixels: ask for a viewport", attribute="Rows")
        return array
    scale = min(
        math.inf if width is None else width / columns, math.inf if height is None else height / (rows * aspect)
    )
    size = (max(1, round(columns * scale)), max(1, round(rows * aspect * scale)))
    if size[0] * size[1] > MAX_PIXELS or max(size) > MAX_SIDE:
        raise BadQuery(f"the viewport would make an image of {size[0]} x {size[1]} pixels", attribute="viewport")
    if size == (columns, rows):
        return array
    shrinks = size[0] < columns
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    image = Image.fromarray(np.ascontiguousarray(array))
    return np.asarray(image.resize(size, method, reducing_gap=3.0 if shrinks else None))


def _cropped(array: Shown, region: Region) -> Shown:
    rows, columns = array.shape[:2]
    left, top = round(region.left), round(region.top)
    right = columns if region.width is None else round(region.left + region.width)
    bottom = rows if region.height is None else round(region.top + region.height)
    if left >= columns or top >= rows:
        raise BadQuery(f"the region lies outside the image of {columns} x {rows} pixels", attribute="viewport")
    array = array[top : max(top + 1, min(bottom, rows)), left : max(left + 1, min(right, columns))]
    return array[:: -1 if region.flipped else 1, :: -1 if region.mirrored else 1]


def _of_fraction(fraction: tuple[float, float, float, float], shape: tuple[Any, ...]) -> Region:
    left, top, right, bottom = fraction
    rows, columns = shape[:2]
    return Region(left * columns, top * rows, (right - left) * columns, (bottom - top) * rows)
