"""Rendered images of stored instances: what to show, from where, and what is kept of it."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dicomweb.errors import BadPixels, NotFound
from dicomweb.rendered.attributes import number, references
from dicomweb.rendered.encode import gif, jpeg, png
from dicomweb.rendered.image import Picture, Prepared, prepare, render
from dicomweb.rendered.parameters import RenderOptions, Viewport
from dicomweb.wado import bulk_path_of
from storage.access import Access
from storage.derived import DerivedStore
from storage.pixels import Dataset, Image, PixelService
from storage.retrieve import Instance, RetrieveService, instance_of
from storage.settings import Settings

GIF: Final = "image/gif"
JPEG: Final = "image/jpeg"
PNG: Final = "image/png"

# Prepared gray scales that are kept: a table each has 64 KiB at most.
_PREPARED: Final = 256
_BULK_MAX: Final = 8 << 20
_THUMBNAIL: Final = Viewport(200, 200)
_THUMBNAIL_QUALITY: Final = 80
# Frames of an animation at most; of a longer instance, evenly chosen ones.
_ANIMATED: Final = 200
_ANIMATED_SIDE: Final = 512
_FRAME_TIME: Final = 100.0
_REPORT_CLASSES: Final = "1.2.840.10008.5.1.4.1.1.88."


@dataclass(frozen=True, slots=True)
class _Ready:
    bulk: dict[str, bytes]
    prepared: Prepared


class RenderingService:
    """Renders what PixelService decodes. Every method takes the caller's rights."""

    def __init__(self, settings: Settings, retrieve: RetrieveService, pixels: PixelService) -> None:
        self._retrieve = retrieve
        self._pixels = pixels
        self._ready: OrderedDict[tuple[object, ...], _Ready] = OrderedDict()
        self._thumbnails = DerivedStore(settings.data / "thumbnails", settings.thumbnail_bytes)

    async def frame(self, access: Access, image: Image, options: RenderOptions, media_type: str) -> bytes:
        """The first of the frames of `image`, as JPEG or PNG. Raises BadPixels, BadQuery."""
        pictures = [each async for each in self._pictures(access, image, options)]
        picture, profile = pictures[0]
        return await asyncio.to_thread(_encoded, picture, profile, options.quality, media_type)

    async def frames(
        self, access: Access, image: Image, options: RenderOptions, media_type: str
    ) -> AsyncIterator[bytes]:
        """Each frame of `image`, as JPEG or PNG."""
        async for picture, profile in self._pictures(access, image, options):
            yield await asyncio.to_thread(_encoded, picture, profile, options.quality, media_type)

    async def animation(self, access: Access, image: Image, options: RenderOptions) -> bytes:
        """The frames of `image` as an animated GIF."""
        if options.viewport is None:
            side = Viewport(_ANIMATED_SIDE, _ANIMATED_SIDE)
            options = replace(
                options, viewport=side if max(image.pixel.rows, image.pixel.columns) > _ANIMATED_SIDE else None
            )
        pictures = [picture async for picture, _ in self._pictures(access, image, options)]
        return await asyncio.to_thread(gif, pictures, _frame_time(image.dataset))

    async def _pictures(
        self, access: Access, image: Image, options: RenderOptions
    ) -> AsyncIterator[tuple[Picture, bytes | None]]:
        position = 0
        async for stored in self._pixels.decoded(image):
            frame = image.frames[position]
            position += 1
            ready = await self._prepared(access, image, frame, options)
            yield await asyncio.to_thread(
                render, stored, image.dataset, frame, image.pixel, options, ready.bulk, ready.prepared
            )

    async def _prepared(self, access: Access, image: Image, frame: int, options: RenderOptions) -> _Ready:
        """The gray scale and bulk values of a frame; one for all frames where there are no functional groups."""
        instance = image.instance
        own = frame if "52009230" in image.dataset else 0
        key = (instance.tenant, instance.sop, instance.version, own, options.window)
        ready = self._ready.get(key)
        if ready is None:
            bulk = await self._bulk(access, instance, references(image.dataset, frame))
            prepared = await asyncio.to_thread(prepare, image.dataset, frame, image.pixel, options, bulk)
            ready = self._ready[key] = _Ready(bulk, prepared)
            while len(self._ready) > _PREPARED:
                self._ready.popitem(last=False)
        self._ready.move_to_end(key)
        return ready

    async def _bulk(self, access: Access, instance: Instance, uris: Sequence[str]) -> dict[str, bytes]:
        found = {}
        for uri in uris:
            path = bulk_path_of(uri)
            located = await self._retrieve.bulk(access, instance.study, instance.series, instance.sop, path)
            if located.size(0) > _BULK_MAX:
                raise BadPixels("a table of the display pipeline is too large", attribute=path)
            found[uri] = (await self._retrieve.read_all(located))[0]
        return found

    # -- what stands for a study, a series, an instance ------------------------------------------------------------

    async def representative(self, access: Access, study: str, series: str | None = None) -> Instance:
        """The middle image of a series, or of a study's first series with images. Raises NotFound."""
        access.require("dicom.read")
        row = await self._retrieve.row("representative", access.tenant, study, series)
        if row is None:
            raise NotFound("there is no image that could be shown")
        return instance_of(access.tenant, study, row)

    async def image(self, access: Access, instance: Instance, frames: Sequence[int]) -> Image:
        """Frames of an instance that was located before."""
        return await self._pixels.image(access, instance.study, instance.series, instance.sop, frames)

    async def all_frames(self, access: Access, instance: Instance) -> range:
        """Every frame number of an instance. Raises NotFound where it has no frames that can be shown."""
        count = await self._retrieve.frame_count(access, instance)
        if not count:
            raise NotFound("the instance has no image that could be shown")
        return range(1, count + 1)

    async def animated_frames(self, access: Access, instance: Instance) -> list[int]:
        """The frames of an animation."""
        numbers = await self.all_frames(access, instance)
        return list(numbers[:: -(-len(numbers) // _ANIMATED)])

    async def thumbnail(
        self, access: Access, instance: Instance, frame: int | None, options: RenderOptions, media_type: str
    ) -> bytes:
        """A small image of an instance: `frame`, or the middle one. Kept by content."""
        options = replace(options, viewport=options.viewport or _THUMBNAIL, quality=_THUMBNAIL_QUALITY)
        key = f"{instance.tenant}/{instance.sop}/{instance.version}/{frame}/{options.viewport}/{media_type}"
        kept = await asyncio.to_thread(self._thumbnails.get, key)
        if kept is not None:
            return kept
        if frame is None:
            numbers = await self.all_frames(access, instance)
            frame = numbers[(len(numbers) - 1) // 2]
        image = await self.image(access, instance, [frame])
        data = await self.frame(access, image, options, media_type)
        await asyncio.to_thread(self._thumbnails.put, key, data)
        return data

    async def dataset(self, access: Access, instance: Instance) -> Dataset:
        """The attributes of an instance that is shown as text."""
        return await self._pixels.dataset(access, instance)


def is_report(instance: Instance) -> bool:
    """Whether an instance is a structured report, which is shown as text."""
    return instance.sop_class.startswith(_REPORT_CLASSES)


def _encoded(picture: Picture, profile: bytes | None, quality: int, media_type: str) -> bytes:
    if media_type == PNG:
        return png(picture, profile)
    if media_type == GIF:
        return gif([picture], _FRAME_TIME)
    return jpeg(picture, quality, profile)


def _frame_time(dataset: Dataset) -> float:
    """Milliseconds a frame (PS3.3 C.7.6.5)."""
    time = number(dataset, "00181063")
    if time:
        return time
    rate = number(dataset, "00082144") or number(dataset, "00180040")
    return 1000 / rate if rate and rate > 0 else _FRAME_TIME
