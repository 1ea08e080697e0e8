"""Any frame of any instance as a pyramid of tiles, as Orthanc's WSI plug-in has it: for images that are no slides.

The frame is decoded once, and the picture of it stays in memory while its tiles are asked for.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal

from dicomweb.errors import NotFound, TooLarge
from dicomweb.rendered.encode import encode_image
from dicomweb.rendered.image import REVISION, Source, whole
from dicomweb.rendered.parameters import DEFAULT_QUALITY, Rendering
from dicomweb.slides.tilemap import Grid
from dicomweb.uids import parse_orthanc_id
from storage.access import Access
from storage.archive import Archive
from storage.cache import Cache
from storage.once import Once
from storage.pixels import Image
from storage.resource import spelled
from wsi.compose import Shown, finished, padded, reduced, scaled
from wsi.dialects import Asked

_TILE: Final = 512
# Pictures of one manifest, which takes about a kilobyte for each.
MAX_CANVASES: Final = 10_000
# Number of Frames is an IS: no instance has more.
_MAX_FRAMES: Final = (1 << 31) - 1
# Orthanc makes both sides of the picture multiples of this, so that levels are halves of each other to the pixel.
_PADDING: Final = 64
# Pictures in memory: one of 64 megapixels in shades, or a hundred of CT.
_HELD: Final = 64 << 20
# A decoded frame above this waits for its turn.
_LARGE: Final = 16 << 20

Keep = Callable[[str, Callable[[], Awaitable[bytes]]], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class FramePyramid:
    """A frame (from 0) of the instance with this Orthanc identifier; `name` names its pixels."""

    identifier: str
    number: int
    image: Image
    name: str

    @property
    def background(self) -> tuple[int, int, int]:
        """RGB of what is beyond the frame: what lies around the object in shades, else white."""
        return (0, 0, 0) if self.image.pixel.photometric == "MONOCHROME2" else (255, 255, 255)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the frame itself."""
        return self.image.pixel.columns, self.image.pixel.rows

    @property
    def levels(self) -> tuple[Grid, ...]:
        """From the frame itself, padded, to the one that is a single tile; each is half of the one before."""
        width, height = (-(-side // _PADDING) * _PADDING for side in self.size)
        found = [Grid(width, height, _TILE, _TILE)]
        while width > _TILE or height > _TILE:
            width, height = max(1, width // 2), max(1, height // 2)
            found.append(Grid(width, height, _TILE, _TILE))
        return tuple(found)

    def described(self) -> dict[str, Any]:
        """The answer of Orthanc's `/wsi/frames-pyramids/{instance}/{frame}`."""
        levels = self.levels
        base = levels[0]
        return {
            "ID": self.identifier,
            "FrameNumber": self.number,
            "Resolutions": [base.width / level.width for level in levels],
            "Sizes": [[level.width, level.height] for level in levels],
            "TilesCount": [[level.across, level.down] for level in levels],
            "TilesSizes": [[level.columns, level.rows] for level in levels],
            "TotalWidth": base.width,
            "TotalHeight": base.height,
            "BackgroundColor": "#{:02x}{:02x}{:02x}".format(*self.background),
        }

    def level(self, number: int, x: int, y: int) -> Grid:
        """A level that has a tile in column `x` and row `y`. Raises NotFound."""
        levels = self.levels
        if number >= len(levels):
            raise NotFound(f"the frame has {len(levels)} levels, numbered from 0, the finest one")
        level = levels[number]
        if not (x < level.across and y < level.down):
            raise NotFound(f"the level has {level.across} x {level.down} tiles")
        return level


@dataclass(frozen=True, slots=True)
class SeriesFrame:
    """A frame (from 0) of the instance with this Orthanc identifier, and its size in pixels."""

    identifier: str
    number: int
    columns: int
    rows: int


class FramePyramids:
    """The frames of instances as pyramids. Methods that look something up take the caller's rights."""

    def __init__(self, archive: Archive, keep: Keep) -> None:
        """`keep`: gives bytes from a cache by their key, or has them made."""
        self._archive = archive
        self._keep = keep
        self._pictures: Cache[str, Shown] = Cache(_HELD, kept=1)
        self._making: Once[str, Shown] = Once()
        self._slots = asyncio.Semaphore(2 * len(os.sched_getaffinity(0)))
        self._large = asyncio.Semaphore(1)

    async def pyramid(self, access: Access, identifier: str, number: int) -> FramePyramid:
        """A frame (from 0) by the Orthanc identifier of its instance. Raises NotFound, BadPixels for no image."""
        if number >= _MAX_FRAMES:
            raise NotFound("the instance has no such frame")
        found = await self._archive.archives.instance(access, identifier)
        image = await self._archive.pixels.image(access, found.study, found.series, found.sop, (number + 1,))
        return FramePyramid(identifier, number, image, f"{REVISION}.{found.sop}.{image.instance.version}.{number}")

    async def tile(
        self,
        access: Access,
        pyramid: FramePyramid,
        place: tuple[int, int, int],
        media_type: Literal["image/jpeg", "image/png"],
    ) -> bytes:
        """The tile at (level, column, row). Raises NotFound outside, BadPixels for a frame that cannot be decoded."""
        access.require("dicom.read")
        number, x, y = place
        level = pyramid.level(number, x, y)

        async def make() -> bytes:
            picture = await self._picture(access, pyramid)
            async with self._slots:
                shown = await asyncio.to_thread(_cut, picture, level, place, pyramid.background)
                return await asyncio.to_thread(encode_image, shown, media_type, DEFAULT_QUALITY, None)

        return await self._keep(f"{access.tenant} frame {pyramid.name} {place} {media_type}", make)

    async def picture(self, access: Access, pyramid: FramePyramid, asked: Asked) -> bytes:
        """A part of the frame itself, without padding, at any size. Raises BadPixels."""
        access.require("dicom.read")

        async def make() -> bytes:
            picture = await self._picture(access, pyramid)
            box = asked.left, asked.top, asked.left + asked.width, asked.top + asked.height
            async with self._slots:
                shown = await asyncio.to_thread(scaled, picture, box, (asked.columns, asked.rows))
                return await asyncio.to_thread(finished, shown, asked, None, None)

        return await self._keep(f"{access.tenant} frame {pyramid.name} {asked}", make)

    async def of_series(self, access: Access, series: str) -> tuple[str, list[SeriesFrame]]:
        """Description and frames of the images of a series, by its Orthanc identifier, in reading order.

        Raises NotFound where there are none, TooLarge where there are very many.
        """
        access.require("dicom.read")
        rows = await self._archive.db.fetch("series_frames", access.tenant, parse_orthanc_id(series), MAX_CANVASES + 1)
        if not rows:
            raise NotFound("no such series, or none with images")
        if sum(row["frames"] for row in rows) > MAX_CANVASES:
            raise TooLarge(f"the series has more than {MAX_CANVASES} frames")
        found = [
            SeriesFrame(spelled(row["orthanc_id"]), number, row["columns"], row["rows"])
            for row in rows
            for number in range(row["frames"])
        ]
        return rows[0]["description"], found

    async def _picture(self, access: Access, pyramid: FramePyramid) -> Shown:
        """The picture of the frame; who comes while it is made waits for it."""
        key = f"{access.tenant} {pyramid.name}"
        held = self._pictures.get(key)
        if held is not None:
            return held
        return await self._making.do(key, lambda: self._make(access, key, pyramid.image))

    async def _make(self, access: Access, key: str, image: Image) -> Shown:
        async with self._large if image.pixel.decoded_bytes > _LARGE else nullcontext():
            bulk = await self._archive.rendering.referenced(access, image)
            (value,) = await self._archive.retrieve.read_all(image.located)
            pixels = await self._archive.pixels.decode(image, value)
            source = Source(pixels, image.pixel, image.dataset, image.frames[0], bulk)
            async with self._slots:
                shown, _ = await asyncio.to_thread(whole, source, Rendering())
        self._pictures.put(key, shown, shown.nbytes)
        return shown


def _cut(picture: Shown, level: Grid, place: tuple[int, int, int], background: tuple[int, int, int]) -> Shown:
    """The tile of a level out of the whole picture: means of squares, on the background."""
    number, x, y = place
    factor = 1 << number
    left, top = x * _TILE * factor, y * _TILE * factor
    right, bottom = min((x + 1) * _TILE, level.width) * factor, min((y + 1) * _TILE, level.height) * factor
    # The padding belongs to the level: it is averaged with the frame.
    part = padded(picture[top:bottom, left:right], (bottom - top, right - left), background)
    return padded(reduced(part, factor), (_TILE, _TILE), background)
