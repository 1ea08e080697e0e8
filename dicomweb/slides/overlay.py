"""Segments as colours over a slide: frames of a segmentation laid on a canvas, which becomes a picture with alpha.

On the canvas colours are multiplied by their alpha: so they can be reduced, laid over each other and scaled.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicomweb.slides.background import Rgb
from dicomweb.slides.segmentation import Segment

Coloured = NDArray[np.uint8]

_OPAQUE: Final = 255
_MODE: Final = "RGBa"


def covered(values: NDArray[Any], greatest: int, colour: Rgb, factor: int) -> Coloured:
    """A frame of one segment, each side divided by `factor`: `greatest` is full cover, 0 none.

    Returns (rows, columns, 4).
    """
    cover = np.asarray(Image.fromarray(_covers(greatest)[_unsigned(values)]).reduce(factor))
    coloured = cover[..., None].astype(np.uint16) * np.array((*colour, _OPAQUE), np.uint16)
    return np.asarray((coloured + 127) // 255, np.uint8)


@lru_cache(maxsize=16)
def _covers(greatest: int) -> NDArray[np.uint8]:
    """The alpha of each stored value."""
    return np.rint(np.minimum(np.arange(1 << 16), greatest) * _OPAQUE / greatest).astype(np.uint8)


def _unsigned(values: NDArray[Any]) -> NDArray[Any]:
    return values.view(f"u{values.dtype.itemsize}")


def label_colours(segments: Iterable[Segment]) -> Coloured:
    """The colour of each value of a label map: (65536, 4), nothing for values of no segment."""
    table = np.zeros((1 << 16, 4), np.uint8)
    for segment in segments:
        table[segment.number] = (*segment.colour, _OPAQUE)
    return table


def labelled(values: NDArray[Any], colours: Coloured, factor: int) -> Coloured:
    """A frame of a label map in the colours of its values, each side divided by `factor`: (rows, columns, 4)."""
    # Four bytes as one number: looked up in a fifth of the time.
    coloured = colours.view(np.uint32)[:, 0][_unsigned(values)].view(np.uint8).reshape(*values.shape, 4)
    return np.asarray(_image(coloured).reduce(factor))


def lay(canvas: Coloured, piece: Coloured, left: int, top: int) -> None:
    """Put a picture over another one, as far as it lies within."""
    rows, columns = canvas.shape[:2]
    part = piece[max(0, -top) : max(0, rows - top), max(0, -left) : max(0, columns - left)]
    if not part[..., 3].any():
        return
    left, top = max(0, left), max(0, top)
    under = canvas[top : top + part.shape[0], left : left + part.shape[1]]
    rest = (under * (_OPAQUE - part[..., 3:].astype(np.uint16)) + 127) // 255
    under[...] = part + rest.astype(np.uint8)


def scaled(
    canvas: Coloured, box: tuple[float, float, float, float], size: tuple[int, int], *, smooth: bool
) -> Coloured:
    """A part of the canvas (left, top, right, bottom) as a picture of `size` (columns, rows), with plain colours.

    What is enlarged keeps its pixels unless it is `smooth`.
    """
    form = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return np.asarray(_image(canvas).resize(size, form, box=box).convert("RGBA"))


def turned(
    canvas: Coloured, affine: tuple[float, float, float, float, float, float], size: tuple[int, int], *, smooth: bool
) -> Coloured:
    """A picture of `size` (columns, rows) with plain colours: its place (x, y) shows (a x + b y + c, d x + e y + f).

    Both are counted from the outer corners. What is enlarged keeps its pixels unless it is `smooth`.
    """
    form = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    shown = _image(canvas).transform(size, Image.Transform.AFFINE, affine, resample=form)
    return np.asarray(shown.convert("RGBA"))


def _image(coloured: Coloured) -> Image.Image:
    rows, columns = coloured.shape[:2]
    return Image.frombuffer(_MODE, (columns, rows), np.ascontiguousarray(coloured), "raw", _MODE, 0, 1)
