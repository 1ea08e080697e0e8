"""The colour of what was not scanned: Recommended Absent Pixel CIELab Value (PS3.3 C.8.12.4.1.7, C.10.7.1.1)."""

from collections.abc import Sequence
from typing import Final

from dicomweb.pixels.image import MONOCHROME, ImagePixel
from dicomweb.rendered.attributes import Item, numbers

Rgb = tuple[int, int, int]

_WHITE: Final[Rgb] = (255, 255, 255)
_BLACK: Final[Rgb] = (0, 0, 0)
_ABSENT: Final = "00480015"
# The white point of CIELab in ICC profiles, D50, and XYZ of it to linear sRGB (Bradford adapted).
_D50: Final = (0.9642, 1.0, 0.8249)
_TO_SRGB: Final = ((3.1339, -1.6169, -0.4906), (-0.9788, 1.9161, 0.0335), (0.0719, -0.2290, 1.4052))


def absent_colour(dataset: Item, image: ImagePixel) -> Rgb:
    """What the instance recommends; else black for shades of light that was emitted, white for all others."""
    lab = numbers(dataset, _ABSENT)
    if len(lab) == 3 and all(0 <= value <= 65535 for value in lab):
        return cielab_colour(lab)
    return _BLACK if image.photometric in MONOCHROME else _WHITE


def cielab_colour(lab: Sequence[float]) -> Rgb:
    """The sRGB colour of three values from 0 to 65535 (PS3.3 C.10.7.1.1); others are taken for the nearest of these."""
    lightness, a, b = (min(65535.0, max(0.0, value)) / 65535 for value in lab)
    return _from_lab(lightness * 100, a * 255 - 128, b * 255 - 128)


def _from_lab(lightness: float, a: float, b: float) -> Rgb:
    middle = (lightness + 16) / 116
    xyz = [white * _cubed(f) for white, f in zip(_D50, (middle + a / 500, middle, middle - b / 200), strict=True)]
    linear = [sum(weight * value for weight, value in zip(row, xyz, strict=True)) for row in _TO_SRGB]
    red, green, blue = (_byte(value) for value in linear)
    return red, green, blue


def _cubed(f: float) -> float:
    return f**3 if f > 6 / 29 else (f - 4 / 29) * 3 * (6 / 29) ** 2


def _byte(linear: float) -> int:
    value = min(1.0, max(0.0, linear))
    value = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * value)
