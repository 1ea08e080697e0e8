"""A slide: the tiled instances of a series put together as levels, optical paths and focal planes.

Levels are told apart by the size of their total pixel matrix, whatever Image Type says, and each holds frames of many
instances: of concatenations (PS3.3 C.7.6.16.1), and of slides that have an instance for each path or plane. What does
not fit is left out and named; the rest is still a slide.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.pixels.image import MONOCHROME
from dicomweb.slides.background import absent_colour
from dicomweb.slides.levels import Key, Level, Rung, ladder
from dicomweb.slides.tiled import OpticalPath, Problem, Tiled
from dicomweb.slides.tilemap import Frames, FullMap, Part, TileMap, placed_map

# Levels of one slide have the same proportions, but for what is lost by rounding to whole pixels or tiles.
_PROPORTIONS: Final = 0.03
_ROUNDING: Final = 4

# Optical paths times focal planes of one instance; each has a map of its own.
_MAX_GROUPS: Final = 4096

Ints = NDArray[np.int32]
Placed = tuple[Ints, Ints, Ints]


@dataclass(frozen=True, slots=True, eq=False)
class Slide:
    """What a series shows. `levels` and `rungs` from the finest.

    `label`, `overview`, `thumbnail`: places in `instances`, or None. `depths`: Z offsets of the focal planes in µm,
    ascending. `background`: RGB of what was not scanned.
    """

    instances: tuple[Tiled, ...]
    levels: tuple[Level, ...]
    rungs: tuple[Rung, ...]
    paths: tuple[OpticalPath, ...]
    depths: tuple[float, ...]
    background: tuple[int, int, int]
    problems: tuple[Problem, ...]
    label: int | None = None
    overview: int | None = None
    thumbnail: int | None = None

    @property
    def base(self) -> Level:
        """The finest level."""
        return self.levels[0]

    @property
    def focal(self) -> int:
        """The focal plane that is shown unless another is asked for: the middle one."""
        return len(self.depths) // 2

    @property
    def weight(self) -> int:
        """Bytes that the maps take in memory, about."""
        return sum(tile_map.weight for level in self.levels for tile_map in level.maps.values())


def assemble(instances: Sequence[Tiled], problems: Iterable[Problem] = ()) -> Slide:
    """Put the instances of a series together, in their reading order; `problems` are those found before.

    Without any volume image the slide has no levels.
    """
    notes = list(problems)
    flavored: dict[str, int] = {}
    volumes: list[int] = []
    for index, each in enumerate(instances):
        if each.flavor == "VOLUME":
            volumes.append(index)
        else:
            flavored.setdefault(each.flavor, index)
    thumbnail = flavored.get("THUMBNAIL")
    sizes = {(instances[index].width, instances[index].height) for index in volumes}
    candidates = list(volumes)
    # The apex of the pyramid, where no volume image has the same size.
    if thumbnail is not None and volumes and (instances[thumbnail].width, instances[thumbnail].height) not in sizes:
        candidates.append(thumbnail)
    chosen = _of_one_slide(instances, candidates, notes)
    by_size: dict[tuple[int, int], list[int]] = {}
    for index in chosen:
        by_size.setdefault((instances[index].width, instances[index].height), []).append(index)
    ordered = sorted(by_size.items(), key=lambda item: item[0], reverse=True)
    levels = tuple(_level(instances, members, notes) for _, members in ordered)
    if levels and all(instances[index].resampled for index in ordered[0][1]):
        notes.append(Problem("no-base-level", "the finest level is a resampled one: the original is missing"))
    return Slide(
        tuple(instances),
        levels,
        ladder(levels),
        _paths(instances, [index for _, members in ordered for index in members], levels),
        tuple(sorted({depth for level in levels for _, depth in level.maps})),
        absent_colour(instances[levels[0].sample].dataset, instances[levels[0].sample].image) if levels else (255,) * 3,
        tuple(notes),
        label=flavored.get("LABEL"),
        overview=flavored.get("OVERVIEW"),
        thumbnail=thumbnail,
    )


def _of_one_slide(instances: Sequence[Tiled], candidates: Sequence[int], notes: list[Problem]) -> list[int]:
    """Those that show what the largest one shows: the same container, frame of reference and proportions."""
    if not candidates:
        return []
    base = instances[max(candidates, key=lambda index: instances[index].width * instances[index].height)]
    kept = []
    for index in candidates:
        each = instances[index]
        if (each.frame_of_reference, each.container) != (base.frame_of_reference, base.container):
            notes.append(Problem("other-slide", "the instance shows another slide than the base level", each.sop))
        elif not _proportional(base, each):
            notes.append(Problem("other-shape", "the matrix has other proportions than the base level", each.sop))
        else:
            kept.append(index)
    return kept


def _proportional(base: Tiled, each: Tiled) -> bool:
    wanted = each.width * base.height / base.width
    return abs(wanted - each.height) <= _ROUNDING + _PROPORTIONS * max(wanted, each.height)


def _level(instances: Sequence[Tiled], members: Sequence[int], notes: list[Problem]) -> Level:
    """The level of instances whose matrices have one size."""
    sample = instances[members[0]]
    alike = []
    for index in members:
        each = instances[index]
        if _form(each) == _form(sample):
            alike.append(index)
        else:
            notes.append(Problem("other-tiles", "the tiles differ in size or colour from those of the level", each.sop))
    maps: dict[Key, TileMap] = {}
    wholes: dict[str, list[int]] = {}
    for index in alike:
        each = instances[index]
        if each.places is None:
            wholes.setdefault(each.concatenation or each.sop, []).append(index)
    for whole in wholes.values():
        _add_full(instances, whole, maps, notes)
    _add_sparse(instances, [index for index in alike if instances[index].places is not None], maps, notes)
    spacing = next((instances[index].spacing for index in alike if instances[index].spacing), None)
    return Level(sample.width, sample.height, sample.columns, sample.rows, spacing, maps, members[0])


def _form(each: Tiled) -> tuple[int, int, bool]:
    """What the frames of a level have in common: their size, and whether they are shades."""
    return each.columns, each.rows, each.image.photometric in MONOCHROME


def _add_full(instances: Sequence[Tiled], whole: Sequence[int], maps: dict[Key, TileMap], notes: list[Problem]) -> None:
    """The maps of a TILED_FULL instance, or of the parts of one."""
    parts, have = [], 0
    for index in sorted(whole, key=lambda index: (instances[index].part, instances[index].first or 0)):
        each = instances[index]
        first = have if each.first is None else each.first
        parts.append(Part(first, each.frames, index))
        have = first + each.frames
    sample = instances[whole[0]]
    plane = sample.across * sample.down
    if sum(part.count for part in parts) < plane * len(sample.paths) * len(sample.planes):
        name = "concatenation-incomplete" if sample.concatenation else "frames-missing"
        notes.append(
            Problem(name, "there are fewer frames than the matrix has tiles: the others are empty", sample.sop)
        )
    base = 0
    for path in sample.paths:
        for depth in sample.planes:
            key = (path.identifier, depth)
            if base >= have:
                return
            if key in maps:
                notes.append(Problem("duplicate", "an optical path and focal plane is there twice", sample.sop))
            else:
                maps[key] = FullMap(sample.across, sample.down, sample.columns, sample.rows, base, tuple(parts))
            base += plane


def _add_sparse(
    instances: Sequence[Tiled], members: Sequence[int], maps: dict[Key, TileMap], notes: list[Problem]
) -> None:
    """The maps of TILED_SPARSE instances, whose frames may be mixed in any way."""
    found: dict[Key, list[Placed]] = {}
    firsts: list[tuple[int, int]] = []
    count = 0
    for index in members:
        firsts.append((count, index))
        for key, left, top, frame in _groups(instances[index], notes):
            found.setdefault(key, []).append((left, top, frame + np.int32(count)))
        count += instances[index].frames
    sample = instances[members[0]] if members else None
    for key, pieces in found.items():
        assert sample is not None
        if key in maps:
            notes.append(Problem("duplicate", "an optical path and focal plane is there twice", sample.sop))
            continue
        left, top, order = (np.concatenate(column) for column in zip(*pieces, strict=True))
        maps[key] = placed_map(sample.across, sample.columns, sample.rows, Frames(left, top, order, tuple(firsts)))


def _groups(each: Tiled, notes: list[Problem]) -> Iterator[tuple[Key, Ints, Ints, Ints]]:
    """The frames of a sparse instance by path and plane: their places, and their numbers from 0."""
    places = each.places
    assert places is not None
    left, top = places.left[: each.frames], places.top[: each.frames]
    inside = np.flatnonzero((left >= 0) & (top >= 0) & (left < each.width) & (top < each.height)).astype(np.int32)
    if len(inside) < len(left):
        lost = len(left) - len(inside)
        notes.append(Problem("outside", f"{lost} frames lie outside the matrix, and are not shown", each.sop))
    if not len(inside):
        return
    kinds = (places.path.astype(np.int64) << 16 | places.depth)[inside]
    ordered = inside[np.argsort(kinds, kind="stable")]
    groups, starts = np.unique(np.sort(kinds), return_index=True)
    if len(groups) > _MAX_GROUPS:
        notes.append(Problem("too-many-planes", f"the frames lie in {len(groups)} paths and planes", each.sop))
        return
    for group, frames in zip(groups.tolist(), np.split(ordered, starts[1:]), strict=True):
        yield _key(each, group >> 16, group & 0xFFFF), left[frames], top[frames], frames


def _key(each: Tiled, path: int, depth: int) -> Key:
    places = each.places
    assert places is not None
    name = places.paths[path] if places.paths else each.paths[0].identifier
    return name, round(places.depths[depth], 3) if places.depths else each.planes[0]


def _paths(instances: Sequence[Tiled], members: Sequence[int], levels: Sequence[Level]) -> tuple[OpticalPath, ...]:
    """The optical paths of which there are frames, those of the finest level first."""
    known: dict[str, OpticalPath] = {}
    for index in members:
        for path in instances[index].paths:
            known.setdefault(path.identifier, path)
        places = instances[index].places
        for name in places.paths if places is not None else ():
            known.setdefault(name, OpticalPath(name))
    shown = {path for level in levels for path, _ in level.maps}
    return tuple(path for path in known.values() if path.identifier in shown)
