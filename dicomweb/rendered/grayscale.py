"""From stored values to shades: the grayscale pipeline (PS3.4 N.2, PS3.3 C.11.1, C.11.2, C.7.6.3.1.2).

Modality LUT, VOI LUT, polarity. For integers up to 16 bits it is worked out once for every pattern of bits that a pixel
can hold, and an image is one look-up; the table belongs to the values of the attributes, so that the images of a series
share it.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.pixels.image import ImagePixel
from dicomweb.rendered.attributes import Bulk, Item, items, keyword, macro, number, numbers
from dicomweb.rendered.parameters import Function, Window
from dicomweb.rendered.tables import BLOCK, Lut, looked_up, lut_in

Shades = NDArray[np.uint8]
Reals = NDArray[np.float64]

_FUNCTIONS: Final[dict[str, Function]] = {"LINEAR_EXACT": "LINEAR_EXACT", "SIGMOID": "SIGMOID"}


@dataclass(frozen=True, slots=True)
class Grayscale:
    """All that decides the shade of a stored value; hashable.

    `voi` None: the least value of the frame is black, the greatest white. `padding`: stored values (from, to) that are
    background, which is black whatever the polarity.
    """

    allocated: int
    stored: int
    signed: bool
    integers: bool
    slope: float
    intercept: float
    modality: Lut | None
    voi: Window | Lut | None
    inverse: bool
    padding: tuple[float, float] | None

    @classmethod
    def of(cls, dataset: Item, frame: int, image: ImagePixel, bulk: Bulk, window: Window | None) -> "Grayscale":
        """The pipeline of a frame (from 1); `window` is the one asked for.

        Attributes of the frame's functional groups precede the shared ones, those precede the top level. Without a
        window asked for: the first usable one of the image, else its first VOI LUT, else the full range of up to 8
        bits, else None. Raises BadPixels for a table that is not as described.
        """
        slope, intercept, modality = _modality(dataset, frame, image, bulk)
        voi = window or _voi(dataset, frame, signed=image.signed or intercept < 0 or slope < 0, bulk=bulk)
        if voi is None and image.kind == "integer" and image.bits_stored <= 8 and modality is None:
            voi = _full_range(image, slope, intercept)
        return cls(
            allocated=max(8, image.bits_allocated),
            stored=image.bits_stored,
            signed=image.signed,
            integers=image.kind == "integer",
            slope=slope,
            intercept=intercept,
            modality=modality,
            voi=voi,
            inverse=image.photometric == "MONOCHROME1" or keyword(dataset, "20500020") == "INVERSE",
            padding=_padding(dataset, image),
        )

    def values(self, patterns: NDArray[Any]) -> NDArray[Any]:
        """Stored values of what pixels hold: bits above Bits Stored are no part of them, the sign is extended."""
        if not self.integers:
            return patterns
        spare = self.allocated - self.stored
        values: NDArray[Any] = patterns.view(f"<{'i' if self.signed else 'u'}{patterns.dtype.itemsize}")
        if spare:
            values = (values << spare) >> spare
        return values

    def outputs(self, values: NDArray[Any]) -> Reals:
        """Modality LUT: values of the unit that windows are in."""
        if self.modality is not None:
            return self.modality.at(values).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(np.float64) * self.slope + self.intercept

    def shades(self, patterns: NDArray[Any]) -> Shades:
        """The whole pipeline for an array of any shape; `voi` is set. Takes 24 bytes of memory a pixel."""
        assert self.voi is not None
        values = self.values(patterns)
        outputs = self.outputs(values)
        with np.errstate(over="ignore", invalid="ignore"):
            if isinstance(self.voi, Lut):
                parts = self.voi.at(outputs) / ((1 << self.voi.bits) - 1)
            else:
                parts = _windowed(outputs, self.voi)
            if self.inverse:
                parts = 1.0 - parts
            out: Shades = np.nan_to_num(np.rint(parts * 255.0)).astype(np.uint8)
        if not self.integers:
            out[~np.isfinite(values)] = 0
        if self.padding is not None:
            out[self.is_padding(values)] = 0
        return out

    def is_padding(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Which stored values are background."""
        assert self.padding is not None
        with np.errstate(over="ignore"):
            return np.asarray((values >= self.padding[0]) & (values <= self.padding[1]))


def render_grayscale(array: NDArray[Any], gray: Grayscale) -> Shades:
    """(rows, columns) of shades from 0 (black) to 255 (white). Linear; 0.4 ms for 512 x 512 of up to 16 bits."""
    if gray.voi is None:
        gray = replace(gray, voi=extremes_window(array, gray))
    if gray.integers and gray.allocated <= 16:
        return looked_up(shade_table(gray), array)
    flat, out = array.reshape(-1), np.empty(array.size, np.uint8)
    for start in range(0, flat.size, BLOCK):
        out[start : start + BLOCK] = gray.shades(flat[start : start + BLOCK])
    return out.reshape(array.shape)


@lru_cache(maxsize=128)
def shade_table(gray: Grayscale) -> Shades:
    """The shade of each of the 256 or 65536 patterns of bits; read only. Kept: 128 tables, 8 MiB."""
    table = gray.shades(np.arange(1 << gray.allocated, dtype=f"<u{gray.allocated // 8}"))
    table.flags.writeable = False
    return table


def extremes_window(array: NDArray[Any], gray: Grayscale) -> Window:
    """The window from the least to the greatest output of a frame; padding and what is no number do not count."""
    least, greatest = np.inf, -np.inf
    flat = array.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        values = gray.values(flat[start : start + BLOCK])
        if gray.padding is not None:
            values = values[~gray.is_padding(values)]
        if not gray.integers:
            values = values[np.isfinite(values)]
        if not values.size:
            continue
        ends = values if gray.modality is not None else np.array((values.min(), values.max()))
        outputs = gray.outputs(ends)
        least, greatest = min(least, float(outputs.min())), max(greatest, float(outputs.max()))
    if least >= greatest:  # nothing, or one value everywhere: black
        return Window(0.0 if least == np.inf else least + 1.0, 1.0)
    return Window(least / 2 + greatest / 2, greatest - least, "LINEAR_EXACT")


def _windowed(values: Reals, window: Window) -> Reals:
    """The functions of PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, from 0 to 1."""
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -500.0, 500.0)))
    if window.function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if width == 1.0:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def _modality(dataset: Item, frame: int, image: ImagePixel, bulk: Bulk) -> tuple[float, float, Lut | None]:
    """Rescale Slope and Intercept, or a table (PS3.3 C.11.1, C.7.6.16.2.9)."""
    scope = macro(dataset, frame, "00289145") or dataset
    tables = items(scope, "00283000")
    if tables and image.kind == "integer":
        return 1.0, 0.0, lut_in(tables[0], signed=image.signed, bulk=bulk)
    slope, intercept = number(scope, "00281053"), number(scope, "00281052")
    # A slope of 0 is invalid and would make the image one shade.
    return slope or 1.0, intercept or 0.0, None


def _voi(dataset: Item, frame: int, *, signed: bool, bulk: Bulk) -> Window | Lut | None:
    """The first usable window, else the first table (PS3.3 C.11.2, C.7.6.16.2.10)."""
    for scope in (macro(dataset, frame, "00289132"), dataset):
        if scope is None:
            continue
        function = _FUNCTIONS.get(keyword(scope, "00281056"), "LINEAR")
        for center, width in zip(numbers(scope, "00281050"), numbers(scope, "00281051"), strict=False):
            window = Window(center, width, function)
            if window.usable:
                return window
        tables = items(scope, "00283010")
        if tables:
            return lut_in(tables[0], signed=signed, bulk=bulk)
    return None


def _full_range(image: ImagePixel, slope: float, intercept: float) -> Window | None:
    """The window of every value that so few bits can hold: what a screen shows of such an image as it is."""
    least = -(1 << (image.bits_stored - 1)) if image.signed else 0
    ends = [value * slope + intercept for value in (least, least + (1 << image.bits_stored) - 1)]
    return Window(sum(ends) / 2, abs(ends[1] - ends[0]), "LINEAR_EXACT")


def _padding(dataset: Item, image: ImagePixel) -> tuple[float, float] | None:
    """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2); their VR may be of the wrong sign."""
    tags = {"integer": ("00280120", "00280121"), "float": ("00280122", "00280124"), "double": ("00280123", "00280125")}
    first, limit = (number(dataset, tag) for tag in tags[image.kind])
    if first is None:
        return None
    limit = first if limit is None else limit
    if image.kind == "integer" and image.bits_allocated == 16:
        first, limit = (_resigned(value, signed=image.signed) for value in (first, limit))
    return min(first, limit), max(first, limit)


def _resigned(value: float, *, signed: bool) -> float:
    if signed and value >= 1 << 15:
        return value - (1 << 16)
    return value + (1 << 16) if not signed and value < 0 else value
