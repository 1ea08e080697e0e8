"""Rendered instances: images, reports as HTML, documents and video (PS3.18 10.4.1.1.3)."""

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dicomweb.errors import BadPixels, NotFound
from dicomweb.media import EXPLICIT_BE, FRAME_MEDIA_TYPE_OF
from dicomweb.reencode import swapped, word_size
from dicomweb.rendered.attributes import references
from dicomweb.rendered.encode import GIF, IMAGE_TYPES, check_animation, encode_gif, frame_time_of
from dicomweb.rendered.image import Source, picture, render_image
from dicomweb.rendered.parameters import Rendering
from storage.access import Access
from storage.pixels import Image, PixelService
from storage.retrieve import Instance, RetrieveService
from storage.settings import Settings

Kind = Literal["image", "video"]

# Look-up tables, profiles and overlays that are kept, and the largest one that is taken.
_BULK: Final = 16 << 20
_LARGEST_BULK: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """What a resource shows and the media types that it can be rendered as, the preferred one first."""

    kind: Kind
    types: tuple[str, ...]
    image: Image

    @property
    def instance(self) -> Instance:
        """Where it lies."""
        return self.image.instance


class RenderingService:
    """Renders what the caller may read: every method that reads the index takes their rights, and raises NotFound."""

    def __init__(self, settings: Settings, retrieve: RetrieveService, pixels: PixelService) -> None:
        self._settings = settings
        self._retrieve = retrieve
        self._pixels = pixels
        # Frames that are decoded and worked on at a time: memory, and fairness to requests that need no thread.
        self._slots = asyncio.Semaphore(2 * len(os.sched_getaffinity(0)))
        self._bulk: OrderedDict[tuple[int, str], bytes] = OrderedDict()
        self._held = 0

    async def subject(
        self, access: Access, study: str, series: str, sop: str, frames: Sequence[int] | None = None
    ) -> Subject:
        """What an instance, or the named frames of it (from 1), can be rendered as. Raises NotFound, BadPixels."""
        image = await self._pixels.image(access, study, series, sop, frames or (1,))
        media_type = FRAME_MEDIA_TYPE_OF.get(image.instance.transfer_syntax, "")
        if media_type.startswith("video/"):
            return Subject("video", (media_type,), image)
        return Subject("image", IMAGE_TYPES, image)

    async def whole(self, access: Access, image: Image) -> Image:
        """The image with all its frames."""
        count = image.pixel.number_of_frames
        if len(image.frames) == count:
            return image
        instance = image.instance
        return await self._pixels.image(access, instance.study, instance.series, instance.sop, range(1, count + 1))

    async def one(self, access: Access, image: Image, wanted: Rendering, media_type: str) -> bytes:
        """The frames of `image` as one file: GIF holds all, other types have one. Raises BadPixels, BadQuery."""
        if media_type == GIF and len(image.frames) > 1:
            return await self._animation(access, image, wanted)
        async for body in self.each(access, image, wanted, media_type):
            return body
        raise NotFound("no frame was asked for")

    async def each(self, access: Access, image: Image, wanted: Rendering, media_type: str) -> AsyncIterator[bytes]:
        """The frames of `image` in its order, a file for each."""
        async for source in self._sources(access, image):
            async with self._slots:
                body = await asyncio.to_thread(render_image, source, wanted, media_type)
            yield body

    async def _animation(self, access: Access, image: Image, wanted: Rendering) -> bytes:
        check_animation(len(image.frames), 0)
        frames, pixels = [], 0
        async for source in self._sources(access, image):
            async with self._slots:
                shown, _ = await asyncio.to_thread(picture, source, wanted)
            frames.append(shown)
            pixels += shown.shape[0] * shown.shape[1]
            check_animation(len(frames), pixels)
        async with self._slots:
            return await asyncio.to_thread(encode_gif, frames, frame_time_of(image.dataset))

    async def _sources(self, access: Access, image: Image) -> AsyncIterator[Source]:
        bulk = await self._referenced(access, image)
        position = 0
        async for pixels in self._pixels.decoded(image):
            yield Source(pixels, image.pixel, image.dataset, image.frames[position], bulk)
            position += 1

    async def _referenced(self, access: Access, image: Image) -> dict[str, bytes]:
        """The tables, profiles and overlays that the image refers to, little endian; kept for the next frame."""
        found: dict[str, bytes] = {}
        for uri, vr in references(image.dataset, image.frames):
            key = (image.instance.tenant, uri)
            value = self._bulk.get(key)
            if value is None:
                value = await self._read_bulk(access, image.instance, uri, vr)
                self._bulk[key] = value
                self._held += len(value)
                while self._held > _BULK:
                    self._held -= len(self._bulk.popitem(last=False)[1])
            else:
                self._bulk.move_to_end(key)
            found[uri] = value
        return found

    async def _read_bulk(self, access: Access, instance: Instance, uri: str, vr: str) -> bytes:
        path = uri.rpartition("/bulkdata/")[2].partition("?")[0]
        located = await self._retrieve.bulk(access, instance.study, instance.series, instance.sop, path)
        if located.size(0) > _LARGEST_BULK:
            raise BadPixels(f"a value that the image needs is above {_LARGEST_BULK} bytes", attribute=path)
        (value,) = await self._retrieve.read_all(located)
        word = word_size(vr) if instance.transfer_syntax == EXPLICIT_BE else 1
        return swapped(value, word) if len(value) % word == 0 else value
