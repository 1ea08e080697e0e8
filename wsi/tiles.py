"""Tiles of slides: stored JPEG frames as they are, everything else decoded, encoded and kept.

A tile costs one index lookup (the version of its series, shared by requests that wait together) and one range read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from dicomweb.errors import BadQuery, NotFound
from dicomweb.rendered.encode import JPEG, PNG, TIFF, encode_image, with_icc_profile
from dicomweb.rendered.geometry import aspect_of
from dicomweb.rendered.parameters import DEFAULT_QUALITY, Profile, Rendering, Window
from dicomweb.slides.background import Rgb
from dicomweb.slides.channels import display_of, in_shades
from dicomweb.slides.jpeg import JPEG_SYNTAXES, jpeg_frames
from dicomweb.slides.levels import Rung
from dicomweb.slides.pyramid import Slide
from dicomweb.slides.tilemap import FrameRef
from storage.access import Access
from storage.archive import Archive
from storage.cache import AnswerCache
from storage.once import Once
from storage.slides import StoredSlide
from storage.thumbnails import ThumbnailStore
from wsi.blending import Component, Light, window_between
from wsi.compose import MAX_FRAMES, Composer, Shown, View, blank, finished, level_for, map_of, padded, read_frame
from wsi.dialects import Asked, fitting
from wsi.frames import FramePyramids
from wsi.manifest import mpp_of

# Changes whenever the same request gives other bytes than before: a part of entity tags and of the keys of the cache.
REVISION: Final = 1

_MANIFESTS: Final = 1 << 20

MediaType = Literal["image/jpeg", "image/png"]


@dataclass(frozen=True, slots=True)
class Channel:
    """Which picture of a place: `path` None is the first optical path, `focal` None the middle focal plane.

    `profile`: what becomes of the colours, as for rendered images (PS3.18 8.3.5.1.5). `blend`: optical paths that are
    shown together, in place of `path` and `window`.
    """

    path: str | None = None
    focal: int | None = None
    window: Window | None = None
    profile: Profile = "no"
    blend: tuple[Component, ...] = ()

    @property
    def wanted(self) -> Rendering:
        """The same as parameters of rendering."""
        return Rendering(window=self.window, iccprofile=self.profile)


DEFAULT: Final = Channel()


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A tile that is there. `tag` names its bytes; `frame` None with `view` None: nothing was scanned here.

    `parts`: the tiles that it is blended of, with their colours.
    """

    stored: StoredSlide
    rung: Rung
    media_type: MediaType
    channel: Channel
    tag: str
    frame: FrameRef | None = None
    view: View | None = None
    parts: tuple[tuple["Tile", Rgb], ...] = ()


class TileService:
    """The tiles and pictures of slides. Methods that look something up take the caller's rights."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._composer = Composer(archive)
        self._made = ThumbnailStore(archive.settings.data / "tiles", archive.settings.tile_bytes)
        self._making: Once[str, bytes] = Once()
        self.manifests = AnswerCache(_MANIFESTS)
        self.frames = FramePyramids(archive, self.kept)

    async def slide(self, access: Access, series: str, version: str | None = None) -> StoredSlide:
        """The slide of a series; see `SlideIndex.slide`. Raises NotFound, also for images that are no slide."""
        stored = await self._archive.slides.slide(access, series, version)
        if not stored.slide.levels:
            named = "; ".join(sorted({problem.detail for problem in stored.slide.problems}))
            raise NotFound(f"the series has no image that can be shown as a slide{': ' if named else ''}{named}")
        return stored

    # -- tiles

    def tile(
        self, stored: StoredSlide, rung: Rung, x: int, y: int, channel: Channel, media_type: MediaType | None
    ) -> Tile:
        """The tile in column `x` and row `y` of a level; `media_type` None: as it is stored, else JPEG.

        Raises NotFound outside the level, and for a path or plane that is not there.
        """
        if not (0 <= x < rung.across and 0 <= y < rung.down):
            raise NotFound(f"the level has {rung.across} x {rung.down} tiles")
        if channel.blend:
            return self._blended(stored, rung, x, y, channel, media_type or JPEG)
        slide = stored.slide
        path, depth = _key(slide, channel)
        tile_map = map_of(slide, rung.level, path, depth)
        media: MediaType = media_type or JPEG
        # The profile that is embedded may be that of another instance of the level.
        profile = f"{channel.profile}{stored.name}" if channel.profile == "yes" else channel.profile
        form = f"{REVISION}.{media[6:]}.{profile}{_named(channel.window)}"
        if rung.factor > 1 or not tile_map.aligned:
            view = _view_of_tile(slide, rung, x, y, View(rung.level, path, depth, 0, 0, 0, 0, 0, 0, channel.wanted))
            tag = f"{stored.name}-{rung.level}.{rung.factor}-{x}-{y}-{path!r}-{depth}-{form}"
            return Tile(stored, rung, media, channel, tag, view=view)
        frame = tile_map.at(x, y)
        if frame is None:
            return Tile(stored, rung, media, channel, f"{slide.background}-{rung.columns}-{rung.rows}-{form}")
        tag = f"{stored.instances[frame.instance].version}-{frame.frame}-{form}"
        return Tile(stored, rung, media, channel, tag, frame=frame)

    def _blended(
        self, stored: StoredSlide, rung: Rung, x: int, y: int, channel: Channel, media_type: MediaType
    ) -> Tile:
        parts = tuple(
            (self.tile(stored, rung, x, y, part, PNG), colour) for part, colour in _parts(stored.slide, channel)
        )
        tag = "+".join(f"{part.tag}*{colour}" for part, colour in parts)
        return Tile(stored, rung, media_type, channel, f"{media_type[6:]} {tag}", parts=parts)

    async def body(self, access: Access, tile: Tile) -> bytes:
        """The bytes of a tile. Raises BadPixels for a frame that is not what its attributes say."""
        access.require("dicom.read")
        if tile.frame is None and tile.view is None and not tile.parts:
            return self._hole(tile)
        channel = tile.channel
        if tile.frame and tile.media_type == JPEG and channel.window is None and channel.profile in {"no", "yes"}:
            sent = await self._as_stored(access, tile.stored, tile.frame)
            if sent is not None:
                profile = await self._composer.profile(access, tile.stored, tile.rung.level, channel.profile)
                return sent if profile is None else with_icc_profile(sent, profile)
        key = f"{access.tenant} {tile.stored.series} {tile.tag}"
        return await self.kept(key, lambda: self._make(access, tile))

    async def _as_stored(self, access: Access, stored: StoredSlide, frame: FrameRef) -> bytes | None:
        tiled, instance = stored.slide.instances[frame.instance], stored.instances[frame.instance]
        if instance.transfer_syntax not in JPEG_SYNTAXES:
            return None
        located = await self._archive.frames.frame(access, instance, frame.frame)
        return jpeg_frames(tiled.image).sent(await read_frame(self._archive, located))

    async def _make(self, access: Access, tile: Tile) -> bytes:
        light = Light()
        for part, colour in tile.parts:
            await asyncio.to_thread(light.add, await self._shown(access, part), colour)
        shown = light.shown() if tile.parts else await self._shown(access, tile)
        profile = await self._composer.profile(access, tile.stored, tile.rung.level, tile.channel.profile)
        return await asyncio.to_thread(encode_image, shown, tile.media_type, DEFAULT_QUALITY, profile)

    async def _shown(self, access: Access, tile: Tile) -> Shown:
        """(rows, columns) or (rows, columns, 3) of the whole tile."""
        slide, shape = tile.stored.slide, (tile.rung.rows, tile.rung.columns)
        if tile.frame is not None:
            return await self._composer.frame(access, tile.stored, tile.frame, tile.channel.wanted)
        if tile.view is None:
            return blank(shape, slide.background, gray=in_shades(slide))
        return padded(await self._composer.view(access, tile.stored, tile.view), shape, slide.background)

    def _hole(self, tile: Tile) -> bytes:
        return _blank_tile(tile.rung.rows, tile.rung.columns, tile.stored.slide.background, tile.media_type)

    # -- pictures

    async def picture(
        self, access: Access, stored: StoredSlide, asked: Asked, channel: Channel, limit: int = MAX_FRAMES
    ) -> bytes:
        """A picture of a part of the slide, made of `limit` frames at most.

        Raises NotFound for a path or plane that is not there, TooLarge for a part of too many frames.
        """
        access.require("dicom.read")
        slide = stored.slide
        level = level_for(slide, asked.scale)
        across, down = slide.levels[level].width / slide.base.width, slide.levels[level].height / slide.base.height
        place = asked.left * across, asked.top * down, asked.width * across, asked.height * down
        view = View(level, *_key(slide, channel), *place, asked.columns, asked.rows, channel.wanted)
        if (same := self._as_tile(stored, view, asked, channel)) is not None:
            return await self.body(access, same)

        mpp = mpp_of(slide, slide.rungs[0])
        spacing = (mpp[0] * asked.width / asked.columns, mpp[1] * asked.height / asked.rows) if mpp else None

        async def make() -> bytes:
            light = Light()
            for part, colour in _parts(slide, channel):
                path, depth = _key(slide, part)
                seen = await self._composer.view(
                    access, stored, replace(view, path=path, depth=depth, wanted=part.wanted), limit
                )
                await asyncio.to_thread(light.add, seen, colour)
            shown = light.shown() if channel.blend else await self._composer.view(access, stored, view, limit)
            profile = await self._composer.profile(access, stored, level, channel.profile)
            return await asyncio.to_thread(finished, shown, asked, profile, spacing)

        key = f"{access.tenant} {stored.series} {stored.name} {REVISION} {asked} {channel}"
        return await self.kept(key, make)

    async def whole(self, access: Access, stored: StoredSlide, wanted: Rendering) -> tuple[Shown, bytes | None]:
        """The slide within the viewport of `wanted`, and the ICC profile to embed: its thumbnail.

        Raises TooLarge for a slide without a level that is coarse enough, BadQuery for a large viewport.
        """
        slide = stored.slide
        aspect = aspect_of(slide.instances[slide.base.sample].dataset, 1)
        asked = fitting(slide.base.width, slide.base.height, aspect, wanted.viewport)
        level = level_for(slide, asked.scale)
        channel = Channel(window=wanted.window, profile=wanted.iccprofile)
        place = 0.0, 0.0, float(slide.levels[level].width), float(slide.levels[level].height)
        view = View(level, *_key(slide, channel), *place, asked.columns, asked.rows, channel.wanted)
        shown = await self._composer.view(access, stored, view)
        return shown, await self._composer.profile(access, stored, level, channel.profile)

    def _as_tile(self, stored: StoredSlide, view: View, asked: Asked, channel: Channel) -> Tile | None:
        """The tile that a picture is, pixel by pixel: viewers of other dialects ask for tiles too."""
        level = stored.slide.levels[view.level]
        whole = view.width == asked.columns == level.columns and view.height == asked.rows == level.rows
        if not whole or not asked.is_plain or asked.media_type == TIFF:
            return None
        x, y = view.left / level.columns, view.top / level.rows
        if x != int(x) or y != int(y):
            return None
        rung = next(rung for rung in stored.slide.rungs if rung.level == view.level)
        return self.tile(stored, rung, int(x), int(y), channel, asked.media_type)

    async def kept(self, key: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Bytes from the cache, or made by the one of those who ask at the same time that came first."""
        held = await self._made.get(key)
        if held is not None:
            return held
        return await self._making.do(key, lambda: self._make_and_keep(key, make))

    async def _make_and_keep(self, key: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        body = await make()
        await self._made.put(key, body)
        return body


def _key(slide: Slide, channel: Channel) -> tuple[str, float]:
    """Optical Path Identifier and Z offset. Raises NotFound."""
    path = slide.paths[0].identifier if channel.path is None else channel.path
    focal = slide.focal if channel.focal is None else channel.focal
    if not 0 <= focal < len(slide.depths):
        raise NotFound(f"the slide has {len(slide.depths)} focal planes, numbered from 0")
    return path, slide.depths[focal]


def _parts(slide: Slide, channel: Channel) -> list[tuple[Channel, Rgb]]:
    """The optical paths that are blended, each with its window, and their colours. Raises NotFound, BadQuery."""
    if channel.blend and not in_shades(slide):
        raise BadQuery("the slide is in colour: only shades are blended", attribute="channel")
    known = {path.identifier for path in slide.paths}
    parts = []
    for each in channel.blend:
        if each.path not in known:
            raise NotFound("the slide has no such optical path")
        display = display_of(slide, each.path)
        window = each.window or window_between(display.low, display.high)
        parts.append((Channel(each.path, channel.focal, window), each.colour or display.colour))
    return parts


def _view_of_tile(slide: Slide, rung: Rung, x: int, y: int, view: View) -> View:
    """The part of the stored level that a tile of a rung shows; smaller than a tile at the right and lower edges."""
    level, factor = slide.levels[rung.level], rung.factor
    left, top = x * rung.columns * factor, y * rung.rows * factor
    width, height = min(rung.columns * factor, level.width - left), min(rung.rows * factor, level.height - top)
    place = (float(left), float(top), float(width), float(height))
    return View(view.level, view.path, view.depth, *place, -(-width // factor), -(-height // factor), view.wanted)


def _named(window: Window | None) -> str:
    return "" if window is None else f".{window.center}.{window.width}.{window.function}"


@lru_cache(maxsize=256)
def _blank_tile(rows: int, columns: int, colour: tuple[int, int, int], media_type: str) -> bytes:
    return encode_image(blank((rows, columns), colour, gray=False), media_type, DEFAULT_QUALITY, None)
