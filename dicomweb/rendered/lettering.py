"""Text on images: which font has which character, and lines that fit into a width."""

import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# A font in any size (pixels).
Face = Callable[[int], Font]

# What no font has a glyph for is drawn as the glyph of this, which no font has.
_NO_CHARACTER: Final = "\U0010fffe"
_PROBE: Final = 16
_UNKNOWN: Final = "?"
_CUT: Final = "..."
_SPACING: Final = 1.25


@lru_cache(maxsize=32)
def built_in(size: int) -> Font:
    """Pillow's own font: Latin letters."""
    return ImageFont.load_default(size)


class Lettering:
    """Draws lines with the first of several fonts that has a character; `size` in pixels.

    What none of them has is drawn without its marks (NFKD), and else as a question mark: never as an empty box.
    """

    def __init__(self, faces: tuple[Face, ...], size: int) -> None:
        self._faces: tuple[Face, ...] = (*faces, built_in)
        self._fonts = [face(size) for face in self._faces]
        self._ascent = size
        self.height = round(size * _SPACING)

    def drawable(self, text: str) -> str:
        """`text` with every character that no font has replaced."""
        return "".join(map(self._drawable, text))

    def _drawable(self, char: str) -> str:
        if self._place(char) is not None:
            return char
        plain = "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
        return plain if plain and all(self._place(c) is not None for c in plain) else _UNKNOWN

    def _place(self, char: str) -> int | None:
        return next((place for place, face in enumerate(self._faces) if _has(face, char)), None)

    def _runs(self, text: str) -> list[tuple[Font, str]]:
        """Stretches of one font; blanks, and marks where it has them, stay in that of the character before."""
        runs: list[tuple[Font, str]] = []
        last: int | None = None
        for char in text:
            stays = (
                last is not None and (char.isspace() or unicodedata.combining(char)) and _has(self._faces[last], char)
            )
            place = last if stays and last is not None else self._place(char) or 0
            if place == last:
                runs[-1] = (runs[-1][0], runs[-1][1] + char)
            else:
                runs.append((self._fonts[place], char))
            last = place
        return runs

    def width(self, text: str) -> float:
        """Pixels that a drawable text takes."""
        return sum(font.getlength(run) for font, run in self._runs(text))

    def fitted(self, text: str, width: float) -> str:
        """A drawable text, cut where it is wider than `width` pixels."""
        if self.width(text) <= width:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle] + _CUT) <= width else (low, middle - 1)
        return text[:low] + _CUT

    def draw(self, draw: ImageDraw.ImageDraw, left: float, top: float, text: str) -> None:
        """One drawable line, white with a black outline, its upper left corner at the place."""
        for font, run in self._runs(text):
            draw.text((left, top + self._ascent), run, 255, font, anchor="ls", stroke_width=1, stroke_fill=0)
            left += font.getlength(run)


@lru_cache(maxsize=8192)
def _has(face: Face, char: str) -> bool:
    font = face(_PROBE)
    return char.isspace() or _picture(font, char) != _picture(font, _NO_CHARACTER)


def _picture(font: Font, char: str) -> tuple[Any, bytes]:
    mask = font.getmask(char)
    return mask.size, bytes(mask)
