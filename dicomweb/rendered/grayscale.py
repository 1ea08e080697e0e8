"""The grayscale pipeline: Modality LUT, VOI LUT, Presentation LUT (PS3.3 C.11.1, C.11.2, C.11.6; PS3.4 N.2).

Values of up to 16 bits go through one table that holds the whole pipeline; wider and floating ones are computed.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import BadPixels
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.rendered.attributes import Bulk, Item, items, macro, number, numbers, text, words
from dicomweb.rendered.parameters import Window, WindowFunction

Floats = NDArray[np.float64]
Display = NDArray[np.uint8]

_PIXEL_VALUE_TRANSFORMATION: Final = "00289145"
_FRAME_VOI: Final = "00289132"
_TABLE_BITS: Final = 16
_FUNCTIONS: Final[dict[str, WindowFunction]] = {
    "LINEAR": "LINEAR",
    "LINEAR_EXACT": "LINEAR_EXACT",
    "SIGMOID": "SIGMOID",
}


@dataclass(frozen=True, slots=True, eq=False)
class Lut:
    """A LUT sequence item: output values, and the input value of the first (C.11.1.1.1)."""

    first: int
    bits: int
    values: Floats

    def apply(self, x: Floats) -> Floats:
        """Inputs outside the table take its ends."""
        index = np.clip(np.nan_to_num(x) - self.first, 0, len(self.values) - 1).astype(np.intp)
        return self.values[index]


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """From stored value to display value. `window` and `voi` None: the range of the values themselves."""

    slope: float
    intercept: float
    modality: Lut | None
    window: Window | None
    voi: Lut | None
    inverse: bool
    padding: tuple[float, float] | None

    def modality_values(self, stored: Floats) -> Floats:
        """The Modality LUT's output, in its units."""
        return self.modality.apply(stored) if self.modality is not None else stored * self.slope + self.intercept

    def display(self, x: Floats, low: float, high: float) -> Display:
        """Modality values as 0 to 255; `low` and `high` bound them where nothing else does."""
        if self.voi is not None:
            y = self.voi.apply(x) / ((1 << self.voi.bits) - 1)
        else:
            y = windowed(x, self.window) if self.window is not None else _stretched(x, low, high)
        y = np.clip(np.nan_to_num(y), 0.0, 1.0)
        return np.rint((1.0 - y if self.inverse else y) * 255).astype(np.uint8)


def windowed(x: Floats, window: Window) -> Floats:
    """0 to 1 (PS3.3 C.11.2.1.2.1, C.11.2.1.3.1-2)."""
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -700, 700)))
    if window.function == "LINEAR_EXACT":
        return np.clip((x - center) / width + 0.5, 0, 1)
    if width <= 1:
        return np.where(x > center - 0.5, 1.0, 0.0)
    return np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _stretched(x: Floats, low: float, high: float) -> Floats:
    return (x - low) / (high - low) if high > low else np.zeros_like(x)


def pipeline_of(dataset: Item, frame: int, image: ImagePixel, window: Window | None, bulk: Bulk) -> Pipeline:
    """The pipeline of a frame (1-based). `window` replaces what the instance says. Raises BadPixels."""
    rescale = macro(dataset, frame, _PIXEL_VALUE_TRANSFORMATION)
    slope, intercept = number(rescale, "00281053"), number(rescale, "00281052")
    luts = items(dataset, "00283000")
    modality = _lut(luts[0], image.signed, bulk) if luts and image.kind == "integer" else None
    voi = None
    if window is None:
        source = macro(dataset, frame, _FRAME_VOI)
        window = _window(source)
        tables = items(source, "00283010") or items(dataset, "00283010")
        if window is None and tables:
            below = modality is None and (image.signed or (intercept or 0) < 0)
            voi = _lut(tables[0], below, bulk)
    shape = text(dataset, "20500020")
    inverse = shape == "INVERSE" if shape in ("INVERSE", "IDENTITY") else image.photometric == "MONOCHROME1"
    return Pipeline(
        slope=1.0 if slope is None else slope,
        intercept=intercept or 0.0,
        modality=modality,
        window=window,
        voi=voi,
        inverse=inverse,
        padding=_padding(dataset, image),
    )


def table_of(pipeline: Pipeline, image: ImagePixel, stored: Pixels) -> Display:
    """The pipeline for every stored value of up to 16 bits, indexed by the value's bits."""
    bits = image.bits_stored
    values = np.arange(1 << bits, dtype=np.float64)
    if image.signed:
        values[1 << (bits - 1) :] -= 1 << bits
    low, high = _range(pipeline, image, stored)
    table = pipeline.display(pipeline.modality_values(values), low, high)
    if pipeline.padding is not None:
        first, last = pipeline.padding
        table[(values >= first) & (values <= last)] = 0
    return table


def by_table(image: ImagePixel, stored: Pixels, table: Display) -> Display:
    """(rows, columns) of display values. Bits above Bits Stored do not count."""
    array = stored.array.view(f"<u{stored.array.dtype.itemsize}")
    if image.bits_stored < image.bits_allocated:
        array = array & np.array((1 << image.bits_stored) - 1, array.dtype)
    return table.take(array)


def has_table(image: ImagePixel) -> bool:
    """Whether all stored values fit into a table."""
    return image.kind == "integer" and image.bits_stored <= _TABLE_BITS and image.bits_allocated <= _TABLE_BITS


def is_fixed(pipeline: Pipeline) -> bool:
    """Whether the pipeline is the same for every frame that has its attributes: nothing is taken from the pixels."""
    return pipeline.window is not None or pipeline.voi is not None


def computed(pipeline: Pipeline, image: ImagePixel, stored: Pixels) -> Display:
    """(rows, columns) of display values for wide integers and floating point."""
    values = _true_values(image, stored)
    low, high = _range(pipeline, image, stored)
    return pipeline.display(pipeline.modality_values(values), low, high)


def _true_values(image: ImagePixel, stored: Pixels) -> Floats:
    array = stored.array
    if image.kind == "integer" and image.bits_stored < image.bits_allocated:
        unused = image.bits_allocated - image.bits_stored
        array = array << unused >> unused
    return array.astype(np.float64)


def _range(pipeline: Pipeline, image: ImagePixel, stored: Pixels) -> tuple[float, float]:
    """The extreme modality values of a frame, padding apart; not looked for where a window or LUT says them."""
    if is_fixed(pipeline):
        return 0.0, 0.0
    values = _true_values(image, stored)
    usable = np.isfinite(values)
    if pipeline.padding is not None:
        first, last = pipeline.padding
        usable &= (values < first) | (values > last)
    values = values[usable]
    if not values.size:
        return 0.0, 0.0
    ends = pipeline.modality_values(np.array([values.min(), values.max()]))
    return float(ends.min()), float(ends.max())


def _window(source: Item) -> Window | None:
    """The first window; None without one, or where it is not usable."""
    centers, widths = numbers(source, "00281050"), numbers(source, "00281051")
    if not centers or not widths:
        return None
    function = _FUNCTIONS.get(text(source, "00281056").strip(), "LINEAR")
    center, width = centers[0], widths[0]
    if not (math.isfinite(center) and math.isfinite(width)) or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return Window(center, width, function)


def _padding(dataset: Item, image: ImagePixel) -> tuple[float, float] | None:
    """Pixel Padding Value, and its range's other end (PS3.3 C.7.5.1.1.2)."""
    value = number(dataset, "00280120")
    if value is None or image.kind != "integer":
        return None
    limit = number(dataset, "00280121")
    ends = (value, value if limit is None else limit)
    return min(ends), max(ends)


def _lut(item: Item, signed: bool, bulk: Bulk) -> Lut:
    """A LUT Descriptor and its data (PS3.3 C.11.1.1.1): 0 entries are 65536, 8-bit entries may be packed in words."""
    descriptor = [int(value) for value in numbers(item, "00283002")]
    data = words(item, "00283006", bulk)
    if len(descriptor) != 3 or data is None:
        raise BadPixels("a LUT has a descriptor of three values and data", attribute="LUTDescriptor")
    count, first, bits = descriptor
    count = (count & 0xFFFF) or 1 << 16
    first &= 0xFFFF
    if signed and first >= 1 << 15:
        first -= 1 << 16
    if not 8 <= bits <= 16:
        raise BadPixels("the entries of a LUT have 8 to 16 bits", attribute="LUTDescriptor")
    values: NDArray[Any] = data
    if len(data) < count <= 2 * len(data) and bits == 8:
        values = data.view(np.uint8)
    if len(values) < count:
        raise BadPixels(f"the LUT has {len(values)} entries of {count}", attribute="LUTData")
    return Lut(first, bits, (values[:count] & ((1 << bits) - 1)).astype(np.float64))
