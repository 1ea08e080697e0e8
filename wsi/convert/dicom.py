"""Slides that are DICOM already: the instances of one series, to be de-identified. Frames are copied where they may be.

Nothing but pixels and what describes them is taken over: attributes are not cleared one by one, they are made anew.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from dicomweb.errors import ArchiveError, BadPixels
from dicomweb.frames import FrameTable
from dicomweb.media import EXPLICIT_LE, IMPLICIT_LE
from dicomweb.part10 import Scan as Scanned
from dicomweb.part10 import scan
from dicomweb.pixels.decode import decode_frame
from dicomweb.pixels.image import ImagePixel
from dicomweb.pixels.native import native_pixels
from dicomweb.pixels.syntaxes import JPEG_BASELINE, SYNTAXES
from dicomweb.rendered.attributes import items, number, text
from dicomweb.slides.levels import Level
from dicomweb.slides.places import read_places, split_metadata
from dicomweb.slides.pyramid import Slide, assemble
from dicomweb.slides.tiled import NotTiled, Tiled, is_tiled
from dicomweb.slides.tilemap import FrameRef
from wsi.convert.jpeg import Jpeg2000Tiles, JpegTiles
from wsi.convert.source import Array, BadSlide, Channel, PictureKind, Place, Scan, SourceLevel, blank, is_dicom

_MAX_FILES: Final = 1000
_NATIVE: Final = frozenset((EXPLICIT_LE, IMPLICIT_LE))
_JPEG_2000: Final = frozenset(uid for uid, syntax in SYNTAXES.items() if syntax.family in ("jpeg2000", "htj2k"))
# What most slides went through; for those that went through another, that they lost something is said rightly.
_METHOD: Final = "ISO_10918_1"
_PATHS, _PROFILE = "00480105", "00282000"


@dataclass(frozen=True, slots=True)
class _File:
    """One instance: where its frames are, and its ICC profile."""

    path: Path
    syntax: str
    frames: FrameTable
    icc: bytes | None


class DicomSource:
    """The files of one series, or a single one. Levels, optical paths and focal planes may be spread over them."""

    def __init__(self, path: Path) -> None:
        self._files: list[_File] = []
        self._slide = self._read(path)
        found = [level for level in self._slide.levels if level.sample != self._slide.thumbnail]
        if not found:
            said = "; ".join(sorted({problem.detail for problem in self._slide.problems}))
            raise BadSlide(f"there is no image of a slide{': ' if said else ''}{said}")
        self._places = found
        self._images = [self._slide.instances[level.sample].image for level in found]
        formed = [self._level(level, image) for level, image in zip(found, self._images, strict=True)]
        self.levels = tuple(level for level, _ in formed)
        self._tiles = [tiles for _, tiles in formed]
        self._pictures = self._found_pictures()
        self.pictures: frozenset[PictureKind] = frozenset(self._pictures)
        self.scan = self._scan()

    # -- reading

    def _read(self, path: Path) -> Slide:
        series: set[str] = set()
        tiled: list[Tiled] = []
        for file in _dicom_files(path):
            scanned, icc = _scanned(file)
            series.add(scanned.series_uid)
            each = _tiled(scanned)
            if each is not None and scanned.frames is not None:
                tiled.append(each)
                self._files.append(_File(file, scanned.transfer_syntax, scanned.frames, icc))
        if len(series) > 1:
            raise BadSlide(f"the files are of {len(series)} series: a slide is one")
        slide = assemble(tiled)
        for level in slide.levels:
            if any(_flag(slide.instances[ref.instance], "00280301") for ref in _each_instance(level)):
                raise BadSlide("Burned In Annotation of a level is YES: its pixels may show who the patient is")
        return slide

    def _level(self, level: Level, image: ImagePixel) -> tuple[SourceLevel, JpegTiles | Jpeg2000Tiles | None]:
        if image.bits_allocated not in (8, 16) or image.signed or image.samples not in (1, 3):
            raise BadSlide(
                f"samples of {image.bits_allocated} bits, signed or of {image.samples} planes, are not taken"
            )
        if not all(found.aligned for found in level.maps.values()):
            raise BadSlide("frames lie off the grid of tiles: the slide cannot be converted")
        shape = SourceLevel(level.width, level.height, level.columns, level.rows)
        shape.check()
        first = next((ref for ref in _refs(level)), None)
        if first is None:
            raise BadSlide("a level has no frame")
        syntaxes = {self._files[ref.instance].syntax for ref in _each_instance(level)}
        size = sum(self._bytes(ref.instance) for ref in _each_instance(level))
        tiles = self._copying(image, syntaxes.pop()) if len(syntaxes) == 1 else None
        copied = tiles.copied(self._stored(first)) if tiles is not None else None
        shape = SourceLevel(shape.width, shape.height, shape.tile_width, shape.tile_height, copied, size)
        return shape, tiles if copied else None

    def _copying(self, image: ImagePixel, syntax: str) -> JpegTiles | Jpeg2000Tiles | None:
        if image.bits_stored != image.bits_allocated:
            return None  # the frames that are made have all bits
        if syntax == JPEG_BASELINE and image.bits_allocated == 8:
            return JpegTiles(b"", image.rows, image.columns, image.samples, rgb=image.photometric == "RGB")
        if syntax in _JPEG_2000 and image.photometric not in {"PALETTE COLOR", "MONOCHROME1"}:
            return Jpeg2000Tiles(image.rows, image.columns, image.samples, syntax)
        return None

    def _bytes(self, instance: int) -> int:
        frames = self._files[instance].frames
        return sum(length for index in range(frames.count) for _, length in frames.locate(index))

    def _scan(self) -> Scan:
        base = self._places[0]
        sample = self._slide.instances[base.sample]
        dataset, image = sample.dataset, sample.image
        path = next(iter(items(dataset, _PATHS)), {})
        icc = self._files[base.sample].icc
        lossy = text(dataset, "00282110") == "01"
        return Scan(
            vendor="dicom",
            samples=3 if image.samples == 3 else 1,
            bits=image.bits_allocated,
            # What a laboratory calls a path tells channels apart; of colours there is nothing to tell.
            channels=tuple(
                Channel(each.description if image.samples == 1 else "", each.wavelength or 0.0)
                for each in self._slide.paths
            ),
            depths=self._slide.depths,
            mpp=(base.spacing[1] * 1000, base.spacing[0] * 1000) if base.spacing else None,
            objective_power=number(path, "00480112"),
            icc=icc,
            manufacturer=text(dataset, "00080070")[:64],
            model=text(dataset, "00081090")[:64],
            lossy=_METHOD if lossy else "",
            lossless=not lossy,
            background=self._slide.background,
        )

    # -- frames

    def _ref(self, level: int, place: Place) -> FrameRef | None:
        found = self._places[level].map_of(self._slide.paths[place.path].identifier, self._slide.depths[place.plane])
        return None if found is None else found.at(place.x, place.y)

    def _stored(self, ref: FrameRef) -> bytes:
        file = self._files[ref.instance]
        with file.path.open("rb") as stream:
            pieces = []
            for offset, length in file.frames.locate(ref.frame):
                stream.seek(offset)
                pieces.append(stream.read(length))
        return b"".join(pieces)

    def tile(self, level: int, place: Place) -> Array:
        """See `Source.tile`; where there is no frame, the background."""
        ref = self._ref(level, place)
        if ref is None:
            return blank(self.levels[level], self.scan)
        try:
            return self._decoded(ref)
        except BadPixels as error:
            raise BadSlide(f"level {level}, tile {place.x},{place.y}: {error.message}") from error

    def _decoded(self, ref: FrameRef) -> Array:
        syntax, image = self._files[ref.instance].syntax, self._slide.instances[ref.instance].image
        if syntax in _NATIVE:
            pixels = native_pixels(image, self._stored(ref))
        elif syntax in SYNTAXES:
            pixels = decode_frame(syntax, self._stored(ref), image)
        else:
            raise BadPixels(f"transfer syntax {syntax} is not decoded")
        if pixels.photometric not in ("RGB", "MONOCHROME2"):
            raise BadPixels(f"{pixels.photometric} is not converted")
        return pixels.array

    def copy(self, level: int, place: Place) -> bytes | None:
        """See `Source.copy`; without comments and application data."""
        ref, tiles = self._ref(level, place), self._tiles[level]
        assert tiles is not None
        try:
            return None if ref is None else tiles.frame(self._stored(ref))
        except BadSlide as error:
            raise BadSlide(f"level {level}, tile {place.x},{place.y}: {error}") from error

    # -- pictures

    def _found_pictures(self) -> dict[PictureKind, int]:
        """The places of thumbnail and overview. The label stays behind, and of the overview all that is not chosen."""
        named: tuple[tuple[PictureKind, int | None], ...] = (
            ("thumbnail", self._slide.thumbnail), ("overview", self._slide.overview)
        )  # fmt: skip
        found: dict[PictureKind, int] = {}
        for kind, place in named:
            each = None if place is None else self._slide.instances[place]
            if place is None or each is None or each.image.samples != 3:
                continue
            whole = each.frames == 1 and (each.width, each.height) == (each.columns, each.rows)
            if whole and (kind == "overview" or not _flag(each, "00280301")):
                found[kind] = place
        return found

    def picture(self, kind: PictureKind) -> Array:
        """See `Source.picture`."""
        try:
            return self._decoded(FrameRef(self._pictures[kind], 0))
        except BadPixels as error:
            raise BadSlide(f"the {kind} cannot be decoded: {error.message}") from error

    def close(self) -> None:
        """Nothing stays open."""


def _dicom_files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return (path,)
    found = [file for file in sorted(path.iterdir()) if file.is_file() and is_dicom(file)]
    if not found:
        raise BadSlide("there is no DICOM file in the folder")
    if len(found) > _MAX_FILES:
        raise BadSlide(f"there are more than {_MAX_FILES} files in the folder")
    return found


def _scanned(path: Path) -> tuple[Scanned, bytes | None]:
    """What an instance says, and its ICC profile. Raises BadSlide."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as buffer:
        try:
            found = scan(buffer)
        except ArchiveError as error:
            raise BadSlide(f"{path.name}: {error.message}") from None
        if found.deflated:
            raise BadSlide(f"{path.name}: deflated data sets are not taken")
        entry = found.bulk.lookup(f"{_PATHS}/0/{_PROFILE}")
        icc = None if entry is None else bytes(buffer[entry.offset : entry.offset + entry.length])
    return found, icc


def _tiled(scanned: Scanned) -> Tiled | None:
    """The instance as part of a slide; None where it is none."""
    json = scanned.metadata.inflate()
    header, where = split_metadata(json)
    dataset: dict[str, Any] = orjson.loads(header)
    if not is_tiled(dataset) or scanned.frames is None:
        return None
    places = read_places(json, where, int(number(dataset, "00280008") or 0)) if where[1] else None
    try:
        return Tiled.of(dataset, places, per_frame=where[1] > 0, frames=scanned.frames.count)
    except NotTiled as problem:
        raise BadSlide(problem.detail) from None


def _refs(level: Level) -> Iterator[FrameRef]:
    """The frames of a level, in no particular order of maps."""
    for found in level.maps.values():
        for y in range(level.down):
            for x in range(level.across):
                ref = found.at(x, y)
                if ref is not None:
                    yield ref


def _each_instance(level: Level) -> list[FrameRef]:
    """One frame of each instance that the level has frames of."""
    return list({ref.instance: ref for ref in _refs(level)}.values())


def _flag(each: Tiled, tag: str) -> bool:
    return text(each.dataset, tag).upper() == "YES"
