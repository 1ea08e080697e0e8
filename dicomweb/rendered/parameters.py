"""How an image is asked to look: viewport, window, quality, annotation, iccprofile (PS3.18 8.3.5.1).

Every value is read from the query string alone, so that it is known before anything of the image is.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from dicomweb.errors import BadQuery
from dicomweb.lists import split_list

Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
Profile = Literal["no", "yes", "srgb", "adobergb", "rommrgb"]

# What one rendered image may have: 64 megapixels, which is 192 MB of RGB.
MAX_SIDE: Final = 16384
MAX_PIXELS: Final = 1 << 26
DEFAULT_QUALITY: Final = 90
THUMBNAIL_SIDE: Final = 256

_NUMBER = re.compile(r"[+-]?(?:\d{1,16}(?:\.\d{0,16})?|\.\d{1,16})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_FUNCTIONS: Final[dict[str, Function]] = {
    "linear": "LINEAR",
    "linear-exact": "LINEAR_EXACT",
    "linear_exact": "LINEAR_EXACT",
    "sigmoid": "SIGMOID",
}
_PROFILES: Final[dict[str, Profile]] = {
    "no": "no",
    "yes": "yes",
    "srgb": "srgb",
    "adobergb": "adobergb",
    "rommrgb": "rommrgb",
}
_ANNOTATIONS: Final = ("patient", "technique")


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the source image, in its pixels: left and top corner, width and height, and whether it is mirrored.

    `width` or `height` None: up to the right or lower edge.
    """

    left: float = 0.0
    top: float = 0.0
    width: float | None = None
    height: float | None = None
    mirrored: bool = False
    flipped: bool = False


@dataclass(frozen=True, slots=True)
class Viewport:
    """The box that the image is scaled into, in pixels; a side that is None follows from the other."""

    width: int | None
    height: int | None
    region: Region = Region()


@dataclass(frozen=True, slots=True)
class Window:
    """A window in modality units, with its function (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: Function = "LINEAR"

    @property
    def usable(self) -> bool:
        """Whether the function is defined: a width of at least 1 for LINEAR, above 0 for the others."""
        if not (math.isfinite(self.center) and math.isfinite(self.width)):
            return False
        return self.width >= 1 if self.function == "LINEAR" else self.width > 0


@dataclass(frozen=True, slots=True)
class Rendering:
    """The parameters of one rendered resource; hashable: equal ones give equal bytes of the same image.

    `fraction` (left, top, right, bottom from 0 to 1) is the region of WADO-URI, which does not know the image's size.
    """

    viewport: Viewport | None = None
    window: Window | None = None
    quality: int = DEFAULT_QUALITY
    annotation: tuple[str, ...] = ()
    iccprofile: Profile = "no"
    fraction: tuple[float, float, float, float] | None = None


def parse_rendering(query: Iterable[tuple[str, str]], *, thumbnail: bool = False) -> Rendering:
    """The parameters in a decoded query string; others (`accept`, `v`) are passed over.

    A thumbnail has `viewport` with a width and a height at most (PS3.18 8.3.5.1.3). Raises BadQuery, which names the
    parameter, for what is malformed, out of range or given twice.
    """
    given: dict[str, str] = {}
    for name, value in query:
        if name in given:
            raise BadQuery("the parameter is given twice", attribute=name)
        if name in {"viewport", "window", "quality", "annotation", "iccprofile"}:
            given[name] = value
    box = Viewport(THUMBNAIL_SIDE, THUMBNAIL_SIDE) if thumbnail else None
    return Rendering(
        viewport=parse_viewport(given["viewport"], region=not thumbnail) if "viewport" in given else box,
        window=parse_window(given["window"]) if "window" in given else None,
        quality=parse_quality(given["quality"], "quality") if "quality" in given else DEFAULT_QUALITY,
        annotation=parse_annotation(given["annotation"]) if "annotation" in given else (),
        iccprofile=parse_profile(given["iccprofile"]) if "iccprofile" in given else "no",
    )


def parse_viewport(text: str, *, region: bool = True) -> Viewport:
    """`vw,vh` or `vw,vh,sx,sy,sw,sh`; empty members have their defaults, a negative sw or sh mirrors. BadQuery."""
    members = [member.strip() for member in text.split(",", 7)]
    if len(members) not in ((2, 3, 4, 5, 6) if region else (2,)):
        raise BadQuery("a viewport is vw,vh" + (" or vw,vh,sx,sy,sw,sh" if region else ""), attribute="viewport")
    width, height = (_side(member, "viewport") if member else None for member in members[:2])
    if (width or 1) * (height or 1) > MAX_PIXELS:
        raise BadQuery(f"a viewport has {MAX_PIXELS} pixels at most", attribute="viewport")
    left, top, across, down = (parse_number(m, "viewport") if m else None for m in (*members[2:], *([""] * 4))[:4])
    if (left or 0.0) < 0 or (top or 0.0) < 0 or across == 0 or down == 0:
        raise BadQuery("sx and sy are not negative, sw and sh not 0", attribute="viewport")
    return Viewport(
        width,
        height,
        Region(
            left or 0.0,
            top or 0.0,
            None if across is None else abs(across),
            None if down is None else abs(down),
            mirrored=across is not None and across < 0,
            flipped=down is not None and down < 0,
        ),
    )


def parse_window(text: str) -> Window:
    """`center,width,function`; a missing function is linear. BadQuery for a width that the function does not take."""
    members = [member.strip() for member in text.split(",", 3)]
    if len(members) not in (2, 3):
        raise BadQuery("a window is center,width,function", attribute="window")
    function = _FUNCTIONS.get(members[2].lower()) if len(members) == 3 and members[2] else "LINEAR"
    if function is None:
        raise BadQuery("the function of a window is linear, linear-exact or sigmoid", attribute="window")
    return checked_window(parse_number(members[0], "window"), parse_number(members[1], "window"), function, "window")


def checked_window(center: float, width: float, function: Function, name: str) -> Window:
    """A window that its function is defined for. BadQuery names the parameter `name`."""
    window = Window(center, width, function)
    if not window.usable:
        least = "at least 1 (linear)" if function == "LINEAR" else "above 0"
        raise BadQuery(f"the width of a window is {least}", attribute=name)
    return window


def parse_quality(text: str, name: str) -> int:
    """1 (worst) to 100 (best). BadQuery names the parameter `name`."""
    if not re.fullmatch(r"\d{1,3}", text.strip(), re.ASCII) or not 1 <= int(text) <= 100:
        raise BadQuery("the quality is an integer from 1 to 100", attribute=name)
    return int(text)


def parse_annotation(text: str) -> tuple[str, ...]:
    """`patient`, `technique` or both, in this order. BadQuery for another keyword."""
    members = set(split_list(text.lower()))
    if not members <= set(_ANNOTATIONS):
        raise BadQuery("an annotation is patient, technique or both", attribute="annotation")
    return tuple(sorted(members))


def parse_profile(text: str) -> Profile:
    """One of the values of PS3.18 8.3.5.1.5 in any case. BadQuery for another one."""
    found = _PROFILES.get(text.strip().lower())
    if found is None:
        raise BadQuery(f"iccprofile is one of {', '.join(_PROFILES)}", attribute="iccprofile")
    return found


def _side(text: str, name: str) -> int:
    number = parse_number(text, name)
    if number != int(number) or not 1 <= number <= MAX_SIDE:
        raise BadQuery(f"the sides of a viewport are integers from 1 to {MAX_SIDE}", attribute=name)
    return int(number)


def parse_number(text: str, name: str) -> float:
    """A decimal number. BadQuery names the parameter `name`."""
    if not _NUMBER.fullmatch(text):
        raise BadQuery("a member is no decimal number of at most 16 digits and an exponent of two", attribute=name)
    return float(text)
