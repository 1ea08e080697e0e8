"""Makes the coarse levels that slides lack, in the background: from the finest frames up, each level of the one below.

A tile of the coarsest level asks for the sixteen below it, and so on down to frames: every frame is decoded once, what
is in memory is a canvas for each level, and tiles are written as they are finished.
"""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import ArchiveError, BadPixels, CorruptObject, NotFound, ObjectMissing, Unavailable
from dicomweb.frames import RECORD_SIZE
from dicomweb.pixels.encode import encode_frame
from dicomweb.pixels.image import MONOCHROME, ImagePixel, Pixels
from dicomweb.pixels.syntaxes import JPEG_BASELINE
from dicomweb.rendered.encode import encode_jpeg
from dicomweb.rendered.parameters import DEFAULT_QUALITY, Rendering
from dicomweb.slides.derived import Planned, derived_image, derived_syntax, plan, tiles_of
from dicomweb.slides.levels import FACTOR, Key
from dicomweb.slides.tilemap import FrameRef, TileMap
from storage.access import Access
from storage.archive import Archive
from storage.derived import LEASE, DerivedLevels, Due
from storage.leases import renewed
from storage.slides import StoredSlide
from storage.spool import Spool, Spooled
from storage.worker import Step
from wsi.compose import Composer, averaged, put

log = logging.getLogger(__name__)

_SECONDS: Final = 5.0
# Workers that died over a slide before it is left as it is.
_MOST_TRIES: Final = 3
_RECORD: Final = struct.Struct("<QI")
_MAX_OBJECT: Final = 1 << 40
_SCOPES: Final = frozenset(("dicom.read",))
_PLAIN: Final = Rendering()

Tile = NDArray[Any]
# With the left and top edge.
Piece = tuple[Tile, int, int]


class CoarseLevels:
    """One worker's part. Any number of workers may run; each slide is made by one of them."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._due = DerivedLevels(archive.settings, archive.db, archive.objects)
        self._composer = Composer(archive)
        self._begun = False

    @property
    def step(self) -> Step:
        """For the worker."""
        return (_SECONDS, "derive_levels", self.run)

    async def run(self) -> None:
        """Make the levels of all slides that wait. Raises Unavailable; what was made until then stays."""
        if not self._archive.settings.derive_levels_after_s:
            return
        if not self._begun:
            await self._due.make_anew()
            self._begun = True
        while (due := await self._due.claim()) is not None:
            async with renewed(LEASE, lambda due=due: self._due.renew(due)):  # type: ignore[misc]
                try:
                    await self._one(due)
                except Unavailable:
                    await self._due.pause(due)
                    raise
                except ArchiveError as error:  # the slide changed meanwhile: its turn comes again
                    log.warning("the levels of a slide were not made: %s", error.message)

    async def _one(self, due: Due) -> None:
        if due.tries > _MOST_TRIES:
            log.error("a slide stays without coarse levels: making them failed too often")
            await self._due.drop(due)
            return
        access = Access(due.tenant, "levels", _SCOPES)
        try:
            stored = await self._archive.slides.slide(access, due.series)
        except ObjectMissing:
            raise
        except NotFound:
            await self._due.drop(due)
            return
        if any(level.derived for level in stored.slide.levels):
            await self._due.keep(due)
            return
        planned = plan(stored.slide)
        if not planned:
            await self._due.drop(due)
            return
        table, spooled = await made_levels(self._archive, self._composer, access, stored, planned)
        await self._due.publish(due, stored.fingerprint, spooled, table)


async def made_levels(
    archive: Archive,
    composer: Composer,
    access: Access,
    stored: StoredSlide,
    planned: tuple[Planned, ...],
    progress: Callable[[float], None] | None = None,
) -> tuple[bytes, Spooled]:
    """The tiles of the levels that were planned, and the table of where they lie; `progress` goes up to 1."""
    spool = Spool(archive.objects.spool_dir, memory_limit=archive.settings.spool_memory, max_size=_MAX_OBJECT)
    try:
        table = await _LevelMaker(archive, composer, access, stored, spool, progress).all(planned)
        return table, await spool.finish()
    except BaseException:
        spool.discard()
        raise


@dataclass(slots=True)
class _Column:
    """A stored level at one path and plane, and the levels above it: `planned[k]` is k + 1 steps up.

    `image`: of the tiles that are written. `small`: how much smaller pieces can be made before they are put together.
    `blank`: the pixels of a tile where nothing was scanned.
    """

    source: TileMap
    key: Key
    planned: list[Planned]
    image: ImagePixel
    small: int
    blank: Tile

    def canvas(self) -> Tile:
        """Room for four by four blank tiles, of which pieces may be smaller."""
        side = FACTOR // self.small
        return np.tile(self.blank, (side, side, *[1] * (self.blank.ndim - 2)))


class _LevelMaker:
    """Makes the levels of one slide and writes their tiles to a spool; `progress` is told how far it is, up to 1."""

    def __init__(
        self,
        archive: Archive,
        composer: Composer,
        access: Access,
        stored: StoredSlide,
        spool: Spool,
        progress: Callable[[float], None] | None,
    ) -> None:
        self._progress = progress
        self._composer = composer
        self._access = access
        self._stored = stored
        self._spool = spool
        self._at_once = asyncio.Semaphore(archive.decoders.size + 1)
        self._blanks: dict[tuple[int, Key], bytes] = {}
        self._records = bytearray()
        self._left = 0
        self._lost = 0

    async def all(self, planned: tuple[Planned, ...]) -> bytes:
        """Make all tiles; the table of where they lie."""
        self._records = bytearray(RECORD_SIZE * tiles_of(planned))
        self._left = tiles_of(planned)
        for source in sorted({level.source for level in planned}):
            levels = [level for level in planned if level.source == source]
            for key in levels[0].first:
                column = self._column(levels, key)
                for y in range(levels[-1].down):
                    for x in range(levels[-1].across):
                        await self._tile(column, len(levels), x, y)
        if self._lost:
            log.warning("%d frames of a slide cannot be read, and are empty in its coarse levels", self._lost)
        return bytes(self._records)

    def _column(self, levels: list[Planned], key: Key) -> _Column:
        slide = self._stored.slide
        tile_map = slide.levels[levels[0].source].maps[key]
        source = slide.instances[tile_map.instances[0]].image
        image = derived_image(source)
        shape = levels[0].rows, levels[0].columns
        blank: Tile
        if image.samples == 3:
            blank = np.full((*shape, 3), slide.background, np.uint8)
        else:
            low = -(1 << image.bits_stored - 1) if image.signed else 0
            high = low + (1 << image.bits_stored) - 1
            blank = np.full(shape, high if image.photometric == "MONOCHROME1" else low, image.dtype)
        whole = tile_map.aligned and not (shape[0] % FACTOR or shape[1] % FACTOR)
        return _Column(tile_map, key, levels, image, FACTOR if whole else 1, blank)

    async def _tile(self, column: _Column, steps: int, x: int, y: int) -> Tile | None:
        """Make and write the tile of the level `steps` above the stored one, and those below it.

        What lies within the level, (rows, columns) or (rows, columns, 3); None where nothing was scanned.
        """
        level = column.planned[steps - 1]
        number = level.first[column.key] + y * level.across + x
        canvas: Tile | None = None
        pieces = self._frames(column, x, y) if steps == 1 else self._tiles(column, steps - 1, x, y)
        async for piece, left, top in pieces:
            canvas = column.canvas() if canvas is None else canvas
            put(canvas, piece, left // column.small, top // column.small)
        if canvas is None:
            await self._write_blank(column, number)
            return None
        tile = await asyncio.to_thread(_smaller, canvas, FACTOR // column.small)
        rows = min(level.rows, level.height - y * level.rows)
        columns = min(level.columns, level.width - x * level.columns)
        tile[rows:] = column.blank[rows:]
        tile[:, columns:] = column.blank[:, columns:]
        await self._write(number, await asyncio.to_thread(_encoded, tile, column.image))
        return tile[:rows, :columns]

    async def _tiles(self, column: _Column, steps: int, x: int, y: int) -> AsyncIterator[Piece]:
        """Tiles of the level below, made smaller, with their left and top edges on four by four of them."""
        level = column.planned[steps - 1]
        for down in range(FACTOR * y, min(FACTOR * y + FACTOR, level.down)):
            for across in range(FACTOR * x, min(FACTOR * x + FACTOR, level.across)):
                tile = await self._tile(column, steps, across, down)
                if tile is not None:
                    left, top = (across - FACTOR * x) * level.columns, (down - FACTOR * y) * level.rows
                    yield _smaller(tile, column.small), left, top

    async def _frames(self, column: _Column, x: int, y: int) -> AsyncIterator[Piece]:
        """The same of the frames of the stored level, in their order: later ones cover earlier ones."""
        stored = self._stored.slide.levels[column.planned[0].source]
        left, top = FACTOR * x * stored.columns, FACTOR * y * stored.rows
        right, bottom = left + FACTOR * stored.columns, top + FACTOR * stored.rows
        placed = column.source.within(left, top, min(right, stored.width), min(bottom, stored.height))
        for start in range(0, len(placed), FACTOR * FACTOR):
            some = placed[start : start + FACTOR * FACTOR]
            frames = await asyncio.gather(*(self._frame(column, ref) for ref, _, _ in some))
            for frame, (_, at_left, at_top) in zip(frames, some, strict=True):
                if frame is not None:
                    yield frame, at_left - left, at_top - top

    async def _frame(self, column: _Column, ref: FrameRef) -> Tile | None:
        try:
            async with self._at_once:
                if column.image.photometric in MONOCHROME:
                    return await self._composer.values(self._access, self._stored, ref, column.small)
                return await self._composer.frame(self._access, self._stored, ref, _PLAIN, column.small)
        except (BadPixels, CorruptObject):
            self._lost += 1
            return None

    async def _write(self, number: int, data: bytes) -> bytes:
        record = _RECORD.pack(self._spool.size, len(data))
        self._records[RECORD_SIZE * number : RECORD_SIZE * number + RECORD_SIZE] = record
        await self._spool.write(data)
        self._left -= 1
        if self._progress is not None:
            self._progress(1 - self._left * RECORD_SIZE / len(self._records))
        return record

    async def _write_blank(self, column: _Column, number: int) -> None:
        """All blank tiles of a kind are one."""
        key = column.planned[0].source, column.key
        record = self._blanks.get(key)
        if record is None:
            data = await asyncio.to_thread(_encoded, column.blank, column.image)
            record = self._blanks[key] = await self._write(number, data)
        self._records[RECORD_SIZE * number : RECORD_SIZE * number + RECORD_SIZE] = record


def _smaller(tile: Tile, factor: int) -> Tile:
    return np.array(averaged(np.ascontiguousarray(tile), factor))


def _encoded(tile: Tile, image: ImagePixel) -> bytes:
    if derived_syntax(image) == JPEG_BASELINE:
        return encode_jpeg(np.ascontiguousarray(tile), DEFAULT_QUALITY, None)
    return encode_frame(derived_syntax(image), Pixels(np.ascontiguousarray(tile), image.photometric), image)
