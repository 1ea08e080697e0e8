"""The query parameters of rendered resources (PS3.18 8.3.5.1)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from dicomweb.errors import BadQuery

WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
IccProfile = Literal["no", "yes", "srgb", "adobergb", "rommrgb"]

DEFAULT_QUALITY: Final = 90
# Rendered pixels of one image: a screen wall, not an attack.
MAX_SIDE: Final = 8192
_FUNCTIONS: Final[dict[str, WindowFunction]] = {
    "linear": "LINEAR",
    "linear-exact": "LINEAR_EXACT",
    "sigmoid": "SIGMOID",
}
_PROFILES: Final = frozenset(("no", "yes", "srgb", "adobergb", "rommrgb"))
_ANNOTATIONS: Final = frozenset(("patient", "technique"))


@dataclass(frozen=True, slots=True)
class Viewport:
    """The size to scale into, and the region of the source; None: to its edge. A negative extent flips (8.3.5.1.3)."""

    width: int
    height: int
    x: float = 0.0
    y: float = 0.0
    columns: float | None = None
    rows: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window (PS3.3 C.11.2.1.2-3)."""

    center: float
    width: float
    function: WindowFunction = "LINEAR"

    def check(self) -> "Window":
        """Raises BadQuery for a width that the function does not have."""
        if not math.isfinite(self.center) or not math.isfinite(self.width):
            raise BadQuery("a window has a finite center and width", attribute="window")
        if self.width <= 0 or (self.function == "LINEAR" and self.width < 1):
            raise BadQuery("the width of a window is 1 or more, or above 0 for the exact functions", attribute="window")
        return self


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How an image is to be rendered; hashable, so that it can name a cached result."""

    viewport: Viewport | None = None
    window: Window | None = None
    quality: int = DEFAULT_QUALITY
    annotation: frozenset[str] = frozenset()
    icc: IccProfile = "no"


def parse_options(query: Iterable[tuple[str, str]], *, thumbnail: bool = False) -> RenderOptions:
    """The rendering parameters among the query parameters; a thumbnail takes the size of a viewport only.

    Raises BadQuery, naming the parameter.
    """
    found = {name: value for name, value in reversed(list(query)) if value.strip()}
    viewport = _viewport(found["viewport"], size_only=thumbnail) if "viewport" in found else None
    if thumbnail:
        return RenderOptions(viewport=viewport)
    return RenderOptions(
        viewport=viewport,
        window=_window(found["window"]) if "window" in found else None,
        quality=_quality(found["quality"]) if "quality" in found else DEFAULT_QUALITY,
        annotation=_annotation(found.get("annotation", "")),
        icc=_profile(found.get("iccprofile", "no")),
    )


def _viewport(text: str, *, size_only: bool) -> Viewport:
    members = [member.strip() for member in text.split(",")]
    if len(members) not in ((2,) if size_only else (2, 6)):
        raise BadQuery("a viewport is width,height or width,height,x,y,width,height", attribute="viewport")
    width, height = (_number(member, "viewport") for member in members[:2])
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width.is_integer() and height.is_integer()):
        raise BadQuery(f"a viewport has 1 to {MAX_SIDE} pixels a side", attribute="viewport")
    if len(members) == 2:
        return Viewport(int(width), int(height))
    x, y = (_number(member, "viewport") if member else 0.0 for member in members[2:4])
    columns, rows = (_number(member, "viewport") if member else None for member in members[4:])
    if x < 0 or y < 0 or columns == 0 or rows == 0:
        raise BadQuery("the region of a viewport begins inside the image and has an area", attribute="viewport")
    return Viewport(int(width), int(height), x, y, columns, rows)


def _window(text: str) -> Window:
    members = [member.strip() for member in text.split(",")]
    if len(members) not in (2, 3):
        raise BadQuery("a window is center,width or center,width,function", attribute="window")
    name = members[2].lower().replace("_", "-") if len(members) == 3 else "linear"
    if name not in _FUNCTIONS:
        raise BadQuery("a window function is linear, linear-exact or sigmoid", attribute="window")
    center, width = (_number(member, "window") for member in members[:2])
    return Window(center, width, _FUNCTIONS[name]).check()


def _quality(text: str) -> int:
    value = _number(text, "quality")
    if not (1 <= value <= 100 and value.is_integer()):
        raise BadQuery("quality is 1 to 100", attribute="quality")
    return int(value)


def _annotation(text: str) -> frozenset[str]:
    wanted = frozenset(member.strip() for member in text.split(",") if member.strip())
    if not wanted <= _ANNOTATIONS:
        raise BadQuery("annotation is patient, technique, or both", attribute="annotation")
    return wanted


def _profile(text: str) -> IccProfile:
    name = text.strip().lower()
    if name not in _PROFILES:
        raise BadQuery("iccprofile is no, yes, srgb, adobergb or rommrgb", attribute="iccprofile")
    return name  # type: ignore[return-value]  # one of the closed set


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadQuery(f"{name} holds something that is no number", attribute=name) from None
    if not math.isfinite(value):
        raise BadQuery(f"{name} holds something that is no finite number", attribute=name)
    return value
