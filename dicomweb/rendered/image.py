"""One frame as a picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomweb.pixels.image import MONOCHROME, ImagePixel, Pixels
from dicomweb.rendered.annotation import lines_of, overlays, written
from dicomweb.rendered.attributes import Bulk, Item
from dicomweb.rendered.colour import converted, palette_rgb, profile_of, to_rgb
from dicomweb.rendered.geometry import aspect_of, fitted
from dicomweb.rendered.grayscale import (
    Display,
    Pipeline,
    by_table,
    computed,
    has_table,
    is_fixed,
    pipeline_of,
    table_of,
)
from dicomweb.rendered.parameters import RenderOptions

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What rendering a frame needs beside its pixels, worked out once. `table`: the gray scale, where it is fixed."""

    pipeline: Pipeline | None
    table: Display | None


def prepare(dataset: Item, frame: int, image: ImagePixel, options: RenderOptions, bulk: Bulk) -> Prepared:
    """The gray scale of a frame (1-based). Raises BadPixels."""
    if image.photometric not in MONOCHROME:
        return Prepared(None, None)
    pipeline = pipeline_of(dataset, frame, image, options.window, bulk)
    if not (has_table(image) and is_fixed(pipeline)):
        return Prepared(pipeline, None)
    nothing = Pixels(np.empty((0, 0), image.dtype), image.photometric)
    return Prepared(pipeline, table_of(pipeline, image, nothing))


def render(
    stored: Pixels, dataset: Item, frame: int, image: ImagePixel, options: RenderOptions, bulk: Bulk, prepared: Prepared
) -> tuple[Picture, bytes | None]:
    """The picture of a frame (rows, columns[, 3]) and the ICC profile to embed. Raises BadPixels, BadQuery."""
    profile = None
    if prepared.pipeline is not None:
        picture = _gray(stored, image, prepared.pipeline, prepared.table)
    else:
        is_palette = image.photometric == "PALETTE COLOR"
        picture = palette_rgb(dataset, image, stored, bulk) if is_palette else to_rgb(image, stored)
        if options.icc != "no":
            own = profile_of(dataset, bulk)
            if options.icc == "yes":
                profile = own
            else:
                picture, profile = converted(picture, own, options.icc)
    if options.annotation:
        white: int | tuple[int, int, int] = 255 if picture.ndim == 2 else (255, 255, 255)
        picture = picture.copy()
        for mask in overlays(dataset, image.rows, image.columns, frame, bulk):
            picture[mask] = white
    picture = fitted(picture, options.viewport, aspect_of(dataset))
    return written(picture, lines_of(dataset, options.annotation)), profile


def _gray(stored: Pixels, image: ImagePixel, pipeline: Pipeline, table: Display | None) -> Picture:
    if table is not None:
        return by_table(image, stored, table)
    if has_table(image):
        return by_table(image, stored, table_of(pipeline, image, stored))
    return computed(pipeline, image, stored)
