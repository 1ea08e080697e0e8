"""Coarse levels that a slide lacks: which they are, how their tiles are numbered, and the slide that has them.

Each level is a quarter of the one below it. All tiles of all levels of a slide lie in one object, in one table:
level by level from the finest, path and plane by path and plane, row by row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dicomweb.pixels.image import MONOCHROME, ImagePixel
from dicomweb.pixels.syntaxes import JPEG_BASELINE
from dicomweb.slides.levels import FACTOR, Key, Level, lacks_coarser, ladder
from dicomweb.slides.pyramid import Slide
from dicomweb.slides.tiled import Tiled
from dicomweb.slides.tilemap import FullMap, Grid, Part

# Changes whenever the same slide gives other tiles than before: from 1 to 255. The worker makes those of others anew.
REVISION: Final = 1
JPEG_LS: Final = "1.2.840.10008.1.2.4.80"
# Tiles of a stored level, of all its paths and planes, that are looked at: 500,000 x 500,000 pixels in tiles of 256.
_MAX_TILES: Final = 1 << 22
# Pixels of sixteen tiles that cannot be made smaller one by one.
_MAX_CANVAS: Final = 1 << 23


@dataclass(frozen=True, slots=True, eq=False)
class Planned(Grid):
    """A level to be made: 1 / 4 ** `steps` of the stored level `source`, a place in the slide's levels.

    `first`: the number of the first tile of each path and plane.
    """

    source: int
    steps: int
    first: Mapping[Key, int]


def plan(slide: Slide) -> tuple[Planned, ...]:
    """The levels that a slide lacks, from the finest; none for what cannot be averaged, or has too many tiles."""
    found: list[Planned] = []
    count = 0
    for index, level in enumerate(slide.levels):
        coarser = slide.levels[index + 1] if index + 1 < len(slide.levels) else None
        width, height, steps = level.width, level.height, 0
        while lacks_coarser(width, height, coarser) and (steps or _can_be_made(slide, level)):
            width, height, steps = -(-width // FACTOR), -(-height // FACTOR), steps + 1
            grid = Grid(width, height, level.columns, level.rows)
            first: dict[Key, int] = {}
            for key in level.maps:
                first[key] = count
                count += grid.across * grid.down
            found.append(Planned(width, height, level.columns, level.rows, index, steps, first))
    return tuple(found)


def tiles_of(planned: Sequence[Planned]) -> int:
    """How many tiles these levels have."""
    return sum(level.across * level.down * len(level.first) for level in planned)


def _can_be_made(slide: Slide, level: Level) -> bool:
    if level.across * level.down * len(level.maps) > _MAX_TILES:
        return False
    whole = not (level.columns % FACTOR or level.rows % FACTOR)
    small = FACTOR * FACTOR * level.columns * level.rows <= _MAX_CANVAS
    for tile_map in level.maps.values():
        images = [slide.instances[place].image for place in tile_map.instances]
        if not (small or (whole and tile_map.aligned)) or not all(map(_averages, images)):
            return False
        # Shades are averaged as they are stored: they must mean the same in all instances of the map.
        if images[0].photometric in MONOCHROME and len({_meaning(image) for image in images}) > 1:
            return False
    return True


def _averages(image: ImagePixel) -> bool:
    return image.kind == "integer" and (image.photometric not in MONOCHROME or image.bits_allocated in (8, 16))


def _meaning(image: ImagePixel) -> tuple[int, int, bool, str]:
    return image.bits_allocated, image.bits_stored, image.signed, image.photometric


def derived_image(image: ImagePixel) -> ImagePixel:
    """How tiles made of frames like this are stored: colour with 8 bits, shades as the frames."""
    if image.photometric in MONOCHROME:
        return image
    return ImagePixel(image.rows, image.columns, 3, 8, 8, False, 0, "YBR_FULL", image.number_of_frames)


def derived_syntax(image: ImagePixel) -> str:
    """The transfer syntax of such tiles: JPEG for 8 bits, JPEG-LS without loss for the window of deeper shades."""
    return JPEG_BASELINE if (image.bits_allocated, image.bits_stored, image.signed) == (8, 8, False) else JPEG_LS


def without_derived(slide: Slide) -> Slide:
    """The slide with its stored levels only."""
    levels = tuple(level for level in slide.levels if not level.derived)
    return replace(slide, levels=levels, rungs=ladder(levels))


def with_derived(slide: Slide, planned: Sequence[Planned]) -> tuple[Slide, tuple[int, ...]]:
    """The slide with levels that were made; and for each instance that it has more, the one that it was made of."""
    total = tiles_of(planned)
    instances: list[Tiled] = []
    sources: list[int] = []
    levels = list(slide.levels)
    for made in planned:
        below = slide.levels[made.source]
        maps = {}
        for key, first in made.first.items():
            source = below.maps[key].instances[0]
            place = len(slide.instances) + len(instances)
            parts = (Part(0, total, place),)
            maps[key] = FullMap(made.across, made.down, made.columns, made.rows, first, parts)
            sources.append(source)
            instances.append(_instance(slide.instances[source], made, total))
        spacing = None
        if below.spacing is not None:
            spacing = below.spacing[0] * below.height / made.height, below.spacing[1] * below.width / made.width
        levels.append(
            Level(made.width, made.height, made.columns, made.rows, spacing, maps, below.sample, derived=True)
        )
    ordered = tuple(sorted(levels, key=lambda level: (level.width, level.height), reverse=True))
    whole = replace(slide, instances=(*slide.instances, *instances), levels=ordered, rungs=ladder(ordered))
    return whole, tuple(sources)


def _instance(source: Tiled, made: Planned, frames: int) -> Tiled:
    image = derived_image(source.image)
    return replace(
        source, width=made.width, height=made.height, frames=frames, places=None, image=image, resampled=True
    )
