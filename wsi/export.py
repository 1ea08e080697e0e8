"""A series back as one file: pyramidal OME-TIFF, or a generic pyramid (BigTIFF, a directory for each level).

Frames of JPEG baseline are copied; all others are decoded in the sandboxed processes and compressed without loss. The
file is written level by level, a batch of frames in memory.
"""

import asyncio
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dicomweb.errors import BadRequest, NotFound
from dicomweb.rendered.profiles import profile_of
from dicomweb.slides.jpeg import JPEG_SYNTAXES, jpeg_frames
from dicomweb.slides.levels import Level
from dicomweb.slides.tilemap import FrameRef, TileMap
from storage.access import Access
from storage.archive import Archive
from storage.pixels import Image
from storage.retrieve import Located
from storage.slides import StoredSlide
from wsi.compose import map_of, read_frame
from wsi.manifest import mpp_of

Layout = Literal["ome", "tiff"]
LAYOUTS: Final[dict[str, Layout]] = {"ome": "ome", "tiff": "tiff"}
Frame = bytes | NDArray[Any]
Progress = Callable[[int, int], None]

_BATCH: Final = 64
_AT_ONCE: Final = 8
_MICRONS: Final = 10_000.0  # in a centimetre
_SUBSAMPLING: Final = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}
_DECODED: Final = frozenset(("RGB", "MONOCHROME2"))


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the frames of a level go into the file; `subsampling` of chroma where JPEG is copied."""

    copied: bool
    rgb: bool
    samples: int
    dtype: np.dtype[Any]
    subsampling: tuple[int, int] = (1, 1)


class Export:
    """One file. Raises NotFound for what is no slide, BadRequest for a slide that cannot be a TIFF file."""

    def __init__(self, archive: Archive, access: Access, stored: StoredSlide, layout: Layout) -> None:
        self._archive = archive
        self._access = access
        self._stored = stored
        self._slide = stored.slide
        self._layout = layout
        # A thumbnail is no level: its one frame has any size.
        self._levels = [level for level in self._slide.levels if level.sample != self._slide.thumbnail]
        if not self._levels:
            raise NotFound("the series has no image that can be shown as a slide")
        self._channels = [path.identifier for path in self._slide.paths]
        if layout == "tiff":
            self._channels, self._depths = self._channels[:1], [self._slide.depths[self._slide.focal]]
        else:
            self._depths = list(self._slide.depths)
        self._total = sum(level.across * level.down for level in self._levels) * len(self._channels) * len(self._depths)
        self._done = 0

    async def write(self, path: Path, progress: Progress) -> None:
        """Write the file; a broken one never stands under its name. Raises BadPixels for a frame that is none."""
        kinds = [await self._kind(level) for level in self._levels]
        profile = await self._profile()
        part = path.with_name(f".{path.name}.part")
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._write, part, kinds, profile, progress, loop)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _write(
        self, path: Path, kinds: list[_Kind], profile: bytes | None, progress: Progress, loop: asyncio.AbstractEventLoop
    ) -> None:
        """In a thread: the library pulls frames, which the event loop reads."""
        import tifffile  # noqa: PLC0415 - of exports alone

        with tifffile.TiffWriter(path, bigtiff=True, ome=self._layout == "ome") as tiff:
            for number, (level, kind) in enumerate(zip(self._levels, kinds, strict=True)):
                frames: Iterator[Any] = self._frames(level, kind, progress, loop)
                more: dict[str, Any] = {"iccprofile": profile} if profile is not None and number == 0 else {}
                if self._layout == "ome":
                    more |= {"subifds": len(self._levels) - 1, "metadata": self._ome()} if number == 0 else {}
                else:
                    more["metadata"] = None
                if number:
                    more["subfiletype"] = 1
                tiff.write(frames, **self._described(level, kind), **more)

    def _described(self, level: Level, kind: _Kind) -> dict[str, Any]:
        shape: tuple[int, ...] = (level.height, level.width)
        if kind.samples > 1:
            shape = (*shape, kind.samples)
        elif self._layout == "ome":
            shape = (len(self._channels), len(self._depths), *shape)
        said: dict[str, Any] = {
            "shape": shape,
            "dtype": kind.dtype,
            "tile": (level.rows, level.columns),
            "photometric": "minisblack" if kind.samples == 1 else "rgb" if kind.rgb else "ycbcr",
            "compression": "jpeg" if kind.copied else "zlib",
            "resolutionunit": 3,
        }
        mpp = self._mpp(level)
        if mpp is not None:
            said["resolution"] = (_MICRONS / mpp[0], _MICRONS / mpp[1])
        if kind.copied and kind.samples > 1:
            said |= {"compressionargs": {"outcolorspace": "rgb"}} if kind.rgb else {"subsampling": kind.subsampling}
        return said

    def _mpp(self, level: Level) -> list[float] | None:
        place = self._slide.levels.index(level)
        return mpp_of(self._slide, next(rung for rung in self._slide.rungs if (rung.level, rung.factor) == (place, 1)))

    def _ome(self) -> dict[str, Any]:
        mpp = self._mpp(self._levels[0])
        colour = self._slide.instances[self._levels[0].sample].image.samples > 1
        said: dict[str, Any] = {"axes": "YXS" if colour else "CZYX"}
        if mpp is not None:
            said |= {"PhysicalSizeX": mpp[0], "PhysicalSizeY": mpp[1]}
            said |= {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
        if not colour:
            said["Channel"] = {"Name": [path.description or path.identifier for path in self._slide.paths]}
            if len(self._depths) > 1:
                said |= {"PhysicalSizeZ": self._depths[1] - self._depths[0], "PhysicalSizeZUnit": "µm"}
        return said

    # -- frames

    def _frames(
        self, level: Level, kind: _Kind, progress: Progress, loop: asyncio.AbstractEventLoop
    ) -> Iterator[Frame]:
        places = product(self._channels, self._depths, range(level.down), range(level.across))
        place = self._slide.levels.index(level)
        hole = self._hole(level, kind)
        while batch := list(islice(places, _BATCH)):
            refs = [map_of(self._slide, place, path, depth).at(x, y) for path, depth, y, x in batch]
            for frame in asyncio.run_coroutine_threadsafe(self._read(refs, kind), loop).result():
                yield hole if frame is None else frame
            self._done += len(batch)
            progress(self._done, self._total)

    async def _read(self, refs: list[FrameRef | None], kind: _Kind) -> list[Frame | None]:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(ref: FrameRef | None) -> Frame | None:
            if ref is None:
                return None
            async with turn:
                return await self._frame(ref, kind)

        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(one(ref)) for ref in refs]
        return [task.result() for task in reading]

    async def _frame(self, ref: FrameRef, kind: _Kind) -> Frame:
        located, value = await self._stored_frame(ref)
        tiled = self._slide.instances[ref.instance]
        if kind.copied:
            sent = jpeg_frames(tiled.image).sent(value)
            if sent is None:
                raise BadRequest("a frame of the slide has another size than the others: it cannot be copied")
            return sent
        pixels = await self._archive.pixels.decode(Image(located, (ref.frame + 1,), tiled.dataset, tiled.image), value)
        if pixels.photometric not in _DECODED:
            raise BadRequest(f"{pixels.photometric} is not written to TIFF files")
        return pixels.array

    async def _stored_frame(self, ref: FrameRef) -> tuple[Located, bytes]:
        located = await self._archive.frames.frame(self._access, self._stored.instances[ref.instance], ref.frame)
        return located, await read_frame(self._archive, located)

    def _hole(self, level: Level, kind: _Kind) -> Frame:
        shape = (level.rows, level.columns) if kind.samples == 1 else (level.rows, level.columns, kind.samples)
        array = np.zeros(shape, kind.dtype)
        if kind.samples > 1:
            array[:] = self._slide.background
        if not kind.copied:
            return array
        if kind.samples == 1:
            return bytes(simplejpeg.encode_jpeg(array[..., None], 90, "GRAY"))
        # Read as RGB where it is, and as YCbCr else; white and shades are the same in both.
        return bytes(simplejpeg.encode_jpeg(array, 90, "RGB", _SUBSAMPLING.get(kind.subsampling, "422")))

    # -- what is there

    async def _kind(self, level: Level) -> _Kind:
        """How the frames of a level can be written. Raises BadRequest."""
        if level.rows % 16 or level.columns % 16:
            raise BadRequest(
                f"tiles of TIFF files have sides that are multiples of 16, not {level.columns}, {level.rows}"
            )
        maps = list(level.maps.values())
        if not all(found.aligned for found in maps):
            raise BadRequest("frames lie off the grid of tiles: the slide cannot be a tiled TIFF file")
        image = self._slide.instances[level.sample].image
        ref = _first(level, maps)
        stored = self._stored.instances[ref.instance]
        if stored.transfer_syntax not in JPEG_SYNTAXES or image.bits_allocated != 8:
            return _Kind(False, True, image.samples, image.dtype)
        sent = jpeg_frames(image).sent((await self._stored_frame(ref))[1])
        if sent is None:
            return _Kind(False, True, image.samples, image.dtype)
        return _Kind(True, image.photometric == "RGB", image.samples, image.dtype, _sampling(sent))

    async def _profile(self) -> bytes | None:
        sample = self._levels[0].sample
        tiled = self._slide.instances[sample]
        if tiled.image.samples == 1:
            return None
        located = await self._archive.frames.frame(self._access, self._stored.instances[sample], 0)
        image = Image(located, (1,), tiled.dataset, tiled.image)
        return profile_of(tiled.dataset, await self._archive.rendering.referenced(self._access, image))


def _first(level: Level, maps: list[TileMap]) -> FrameRef:
    """Some frame of a level. Raises NotFound."""
    for found in maps:
        for y, x in product(range(level.down), range(level.across)):
            ref = found.at(x, y)
            if ref is not None:
                return ref
    raise NotFound("a level of the slide has no frame")


def _sampling(jpeg: bytes) -> tuple[int, int]:
    """How many samples of Y stand for one of chroma, across and down: the factors of the first component."""
    at = jpeg.find(b"\xff\xc0")
    (factors,) = struct.unpack_from(">B", jpeg, at + 11) if 0 < at < len(jpeg) - 12 else (0x11,)
    return factors >> 4, factors & 15


async def export(archive: Archive, access: Access, series: str, path: Path, layout: Layout, progress: Progress) -> None:
    """Write a slide to a file. `progress` is told, in a thread, how many frames of how many are written."""
    stored = await archive.slides.slide(access, series)
    try:
        await Export(archive, access, stored, layout).write(path, progress)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
