"""Which levels a slide gets, and where each comes from."""

from dataclasses import dataclass, replace
from typing import Final

from dicomweb.media import EXPLICIT_LE
from dicomweb.pixels.image import ImagePixel
from dicomweb.pixels.syntaxes import JPEG_BASELINE, SYNTAXES, can_encode, encoded_form
from wsi.convert.options import JPEG_2000_LOSSLESS, SYNTAX_OF, Format, Options
from wsi.convert.source import BadSlide, Copied, Scan, Source, SourceLevel

# The coarsest level, for viewers that begin with the whole slide.
_APEX: Final = 1024
_POWER: Final = 0.02
_MAX_LEVELS: Final = 40
# Bytes that a tile's own tables and its item's head take, at most.
_HEAD: Final = 1024


@dataclass(frozen=True, slots=True)
class PlannedLevel:
    """`source`: the level of the source, or None for one that is made by halving the level before.

    `copied`: frames are the source's tiles. `written`: whether it is asked for, and not only a step to one that is.
    """

    number: int
    shape: SourceLevel
    source: int | None
    copied: bool
    syntax: str
    pixel: ImagePixel
    written: bool = True

    @property
    def resampled(self) -> bool:
        """Whether it is not the finest level."""
        return self.number > 0

    @property
    def bytes_guess(self) -> int:
        """About how large its frames become."""
        return self._bytes(0.6, 0.1)

    @property
    def bytes_most(self) -> int:
        """How large its frames become at most; what cannot be compressed grows a little."""
        return self._bytes(1.1, 0.4)

    def _bytes(self, lossless: float, lossy: float) -> int:
        if self.copied:
            return self.shape.size + self.pixel.number_of_frames * _HEAD
        rate = 1.0 if self.syntax == EXPLICIT_LE else lossless if SYNTAXES[self.syntax].lossless else lossy
        return int(self.pixel.decoded_bytes * self.pixel.number_of_frames * rate)

    def described(self) -> dict[str, object]:
        """For a report."""
        return {
            "level": self.number,
            "width": self.shape.width,
            "height": self.shape.height,
            "tile": [self.shape.tile_width, self.shape.tile_height],
            "frames": self.pixel.number_of_frames,
            "made": "copied" if self.copied else "halved" if self.source is None else "encoded",
            "transfer_syntax": self.syntax,
            "bytes": self.bytes_guess,
        }


def plan(source: Source, options: Options) -> list[PlannedLevel]:
    """The levels, the finest first; those that are not `written` only lead to others. Raises BadSlide."""
    chain = _chain(source.levels, options)
    levels = [_planned(n, shape, origin, source.scan, options) for n, (shape, origin) in enumerate(chain)]
    wanted = set(options.levels) or set(range(len(levels)))
    if not wanted <= set(range(len(levels))):
        raise BadSlide(f"the slide has levels 0 to {len(levels) - 1}")
    last = max(wanted)
    return [replace(level, written=level.number in wanted) for level in levels[: last + 1]]


def _chain(given: tuple[SourceLevel, ...], options: Options) -> list[tuple[SourceLevel, int | None]]:
    """(shape, level of the source or None) in order of size."""
    side = options.tile
    shaped = [replace(level, tile_width=side, tile_height=side, copied=None) if side else level for level in given]
    kept = shaped[:1] if options.pyramid == "rebuilt" else shaped
    chain: list[tuple[SourceLevel, int | None]] = [(level, number) for number, level in enumerate(kept)]
    if options.pyramid == "source":
        return chain
    if options.pyramid == "full":
        chain = _filled(chain)
    while max(chain[-1][0].width, chain[-1][0].height) > _APEX and len(chain) < _MAX_LEVELS:
        chain.append((_half(chain[-1][0]), None))
    return chain


def _filled(chain: list[tuple[SourceLevel, int | None]]) -> list[tuple[SourceLevel, int | None]]:
    """With every power of two down to the coarsest level. One is made from the level before, if that is twice as large.

    Levels at other ratios stay, and begin a new series of halves.
    """
    found = chain[:1]
    for level, number in chain[1:]:
        while found[-1][0].width / level.width > 2 * (1 + _POWER):
            found.append((_half(found[-1][0]), None))
        if found[-1][1] is None and found[-1][0].width / level.width < 1 + 2 * _POWER:
            found.pop()  # a half that the source has itself
        found.append((level, number))
    return found


def _half(level: SourceLevel) -> SourceLevel:
    return SourceLevel(max(1, level.width // 2), max(1, level.height // 2), level.tile_width, level.tile_height)


def _planned(number: int, shape: SourceLevel, origin: int | None, scan: Scan, options: Options) -> PlannedLevel:
    count = shape.columns * shape.rows * len(scan.channels) * len(scan.depths)
    raw = ImagePixel(
        shape.tile_height, shape.tile_width, scan.samples, scan.bits, scan.bits, False, 0,
        "RGB" if scan.samples == 3 else "MONOCHROME2", count,
    )  # fmt: skip
    if origin is not None and shape.copied is not None and _may_copy(shape.copied, options):
        return PlannedLevel(
            number, shape, origin, True, shape.copied.syntax, replace(raw, photometric=shape.copied.photometric)
        )
    syntax = _target(options.format, raw, lossless=scan.lossless)
    return PlannedLevel(number, shape, origin, False, syntax, encoded_form(raw, EXPLICIT_LE, syntax))


def _may_copy(copied: Copied, options: Options) -> bool:
    wanted = options.format
    same = wanted == "keep" or (wanted in ("jpeg", "jpeg2000") and SYNTAX_OF[wanted] == copied.syntax)
    return options.copy and same


def _target(wanted: Format, raw: ImagePixel, *, lossless: bool) -> str:
    kept = JPEG_BASELINE if raw.bits_stored == 8 and not lossless else JPEG_2000_LOSSLESS
    syntax = SYNTAX_OF.get(wanted) or kept
    if not can_encode(raw, EXPLICIT_LE, syntax):
        raise BadSlide(f"samples of {raw.bits_stored} bits cannot be kept in the format {wanted}")
    return syntax


def raw_form(level: PlannedLevel) -> ImagePixel:
    """The Image Pixel attributes of a level's tiles before they are encoded."""
    photometric = "MONOCHROME2" if level.pixel.samples == 1 else "RGB"
    return replace(level.pixel, photometric=photometric)
