"""How optical paths in shades are shown together: a colour for each, and the window of its values."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dicomweb.errors import BadPixels
from dicomweb.pixels.image import MONOCHROME, ImagePixel
from dicomweb.rendered.attributes import Item, items, number
from dicomweb.rendered.colour import palette_end
from dicomweb.rendered.grayscale import Grayscale
from dicomweb.rendered.parameters import Window
from dicomweb.slides.background import Rgb
from dicomweb.slides.pyramid import Slide
from dicomweb.slides.tiled import Tiled

# By the place of the path, where the slide says no colour; the only one is shown in shades.
_COLOURS: Final[tuple[Rgb, ...]] = (
    (0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255), (255, 0, 255), (255, 255, 0), (255, 255, 255),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Display:
    """What an optical path is shown with unless something else is asked for; `low`, `high` after the Modality LUT."""

    colour: Rgb
    low: float
    high: float


def in_shades(slide: Slide) -> bool:
    """Whether the slide has shades, which can be blended."""
    return slide.instances[slide.base.sample].image.photometric in MONOCHROME


def display_of(slide: Slide, path: str) -> Display:
    """The colour and window of an optical path of a slide in shades.

    Colour: the end of the path's palette (Palette Color Lookup Table Sequence, PS3.3 C.8.12.5), else one by its place.
    Window: that of the instance, else its least and greatest values, else all values that can be stored.
    """
    tiled = slide.instances[_instance(slide, path)]
    low, high = _ends(tiled)
    place = next((index for index, each in enumerate(slide.paths) if each.identifier == path), 0)
    colour = (255, 255, 255) if len(slide.paths) == 1 else _COLOURS[place % len(_COLOURS)]
    return Display(_palette_colour(tiled, path) or colour, low, high)


def _instance(slide: Slide, path: str) -> int:
    for level in slide.levels:
        for (name, _), tile_map in level.maps.items():
            if name == path:
                return tile_map.instances[0]
    return slide.base.sample


def _palette_colour(tiled: Tiled, path: str) -> Rgb | None:
    for item in items(tiled.dataset, "00480105"):
        named = (item.get("00480106", {}).get("Value") or ("",))[0]
        for palette in items(item, "00480120") if str(named).strip() == path else ():
            try:
                return palette_end(palette)
            except BadPixels:
                return None
    return None


def _ends(tiled: Tiled) -> tuple[float, float]:
    try:
        gray = Grayscale.of(tiled.dataset, 1, tiled.image, {}, None)
    except BadPixels:  # a table that is not at hand
        return full_range(tiled.image, None)
    if isinstance(gray.voi, Window):
        half = (gray.voi.width - (1 if gray.voi.function == "LINEAR" else 0)) / 2
        center = gray.voi.center - (0.5 if gray.voi.function == "LINEAR" else 0)
        return (center - half, center + half) if half > 0 else full_range(tiled.image, gray)
    least, greatest = _extremes(tiled.dataset)
    if least < greatest:
        low, high = (float(gray.outputs(np.array([value]))[0]) for value in (least, greatest))
        return min(low, high), max(low, high)
    return full_range(tiled.image, gray)


def _extremes(dataset: Item) -> tuple[float, float]:
    return number(dataset, "00280106") or 0.0, number(dataset, "00280107") or 0.0


def full_range(image: ImagePixel, gray: Grayscale | None) -> tuple[float, float]:
    """The outputs of the Modality LUT for the least and greatest values that can be stored; without one the values."""
    low = -(1 << image.bits_stored - 1) if image.signed else 0
    ends = [float(low), float(low + (1 << image.bits_stored) - 1)]
    if gray is not None:
        ends = [float(gray.outputs(np.array([int(end)]))[0]) for end in ends]
    return min(ends), max(*ends, min(ends) + 1.0)
