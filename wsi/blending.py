"""Several optical paths in one picture: each is windowed and tinted, and their light is added."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import BadQuery
from dicomweb.rendered.parameters import Window
from dicomweb.slides.background import Rgb

Shown = NDArray[np.uint8]

MAX_COMPONENTS: Final = 8
_NUMBER: Final = re.compile(r"[+-]?\d{1,10}(?:\.\d{1,10})?", re.ASCII)
_COLOUR: Final = re.compile(r"#?([0-9A-Fa-f]{6})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Component:
    """An optical path in a blended picture; `window` and `colour` None: the defaults of the path."""

    path: str
    window: Window | None
    colour: Rgb | None


def parse_components(texts: Sequence[str]) -> tuple[Component, ...]:
    """Each text is PATH:LOW:HIGH:RRGGBB; LOW and HIGH, and the colour, may be empty. Raises BadQuery.

    The path is what is in front of the last three colons, so that it may have colons itself.
    """
    if len(texts) > MAX_COMPONENTS:
        raise BadQuery(f"at most {MAX_COMPONENTS} channels are blended", attribute="channel")
    return tuple(_component(text) for text in texts)


def _component(text: str) -> Component:
    parts = text.rsplit(":", 3)
    if len(parts) != 4:
        raise BadQuery("a channel is path:low:high:rrggbb", attribute="channel")
    path, low, high, colour = parts
    tint = _COLOUR.fullmatch(colour)
    if colour and tint is None:
        raise BadQuery("the colour of a channel is rrggbb, in hexadecimal digits", attribute="channel")
    return Component(path, _window(low, high), _rgb(tint[1]) if tint else None)


def _window(low: str, high: str) -> Window | None:
    if not low and not high:
        return None
    if not (_NUMBER.fullmatch(low) and _NUMBER.fullmatch(high)) or float(low) >= float(high):
        raise BadQuery("low and high of a channel are decimal numbers, the first below the second", attribute="channel")
    return window_between(float(low), float(high))


def window_between(low: float, high: float) -> Window:
    """`low` and what is below it becomes black, `high` and what is above it white (PS3.3 C.11.2.1.3.2)."""
    return Window((low + high) / 2, high - low, "LINEAR_EXACT")


def _rgb(digits: str) -> Rgb:
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


class Light:
    """Adds up shades in their colours; what is brighter than white is white."""

    def __init__(self) -> None:
        self._sum: NDArray[np.uint32] | None = None

    def add(self, shades: Shown, colour: Rgb) -> None:
        """Add (rows, columns) of shades."""
        tinted = shades[..., None].astype(np.uint32) * np.array(colour, np.uint32)
        self._sum = tinted if self._sum is None else self._sum + tinted

    def shown(self) -> Shown:
        """(rows, columns, 3)."""
        assert self._sum is not None
        return np.minimum((self._sum + 127) // 255, 255).astype(np.uint8)
