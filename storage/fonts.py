"""Fonts of this machine for text on images. None comes with the archive."""

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from PIL import ImageFont

from dicomweb.rendered.lettering import Face

_DIRECTORIES: Final = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
# The first found of each group is used: Latin, Greek, Cyrillic, Hebrew, Arabic; then Chinese, Japanese, Korean.
_GROUPS: Final = (
    ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf"),
    ("NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "ipag.ttf"),
)


class Fonts:
    """The faces to draw with, the preferred one first; `name` changes with them."""

    def __init__(self, own: Path | None) -> None:
        """`own` is preferred to what is installed."""
        paths = [path for path in ((own,) if own else ()) + tuple(_installed()) if _opens(path)]
        self.faces: tuple[Face, ...] = tuple(partial(_at, path) for path in paths)
        self.name = " ".join(f"{path.name}:{path.stat().st_size}" for path in paths)


def _installed() -> Iterator[Path]:
    for group in _GROUPS:
        found = {path.name: path for directory in _DIRECTORIES for name in group for path in directory.rglob(name)}
        if first := next((found[name] for name in group if name in found), None):
            yield first


def _opens(path: Path) -> bool:
    with suppress(OSError):
        _at(path, 12)
        return True
    return False


@lru_cache(maxsize=64)
def _at(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
