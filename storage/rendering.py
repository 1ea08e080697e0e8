"""Rendered instances: images, reports as HTML, documents and video (PS3.18 10.4.1.1.3, 10.4.1.1.4)."""

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final, TypeVar

from dicomweb.errors import BadPixels, NotFound, TooLarge
from dicomweb.media import FRAME_MEDIA_TYPE_OF
from dicomweb.rendered.annotation import draw_text
from dicomweb.rendered.attributes import binary, references
from dicomweb.rendered.document import document_type
from dicomweb.rendered.encode import GIF, IMAGE_TYPES, Shown, check_animation, encode_gif, encode_image, frame_time_of
from dicomweb.rendered.image import REVISION, Source, picture, render_image
from dicomweb.rendered.parameters import Rendering
from dicomweb.rendered.report import (
    LONGEST_TEXT,
    MAX_TEXTS,
    PLAIN,
    REPORT_TYPES,
    XML,
    is_report_class,
    long_texts,
    report_html,
    report_text,
    report_xml,
    text_of,
)
from dicomweb.wado import bulk_path_of
from storage.access import Access
from storage.cache import Cache
from storage.fonts import Fonts
from storage.pixels import LARGE, Dataset, Image, PixelService, unbroken
from storage.retrieve import PIXEL_DATA, Instance, RetrieveService
from storage.settings import Settings
from storage.subject import Subject, types_of
from storage.thumbnails import ThumbnailStore

Made = TypeVar("Made")

# Look-up tables, profiles and overlays that are kept, and the largest one that is taken.
_BULK: Final = 16 << 20
_LARGEST_BULK: Final = 16 << 20
# Studies and series whose representative instances are remembered, and how many images are tried where some are broken:
# of the series in the middle, and of the others.
_REPRESENTATIVES: Final = 4096
_MATES: Final = 3
_OTHERS: Final = 2
_DOCUMENT: Final = "00420011"
_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"


def _outwards(images: Sequence[Instance], count: int) -> list[Instance]:
    """The middle one and those around it, nearest first, `count` at most."""
    middle = len(images) // 2
    return [images[place] for place in sorted(range(len(images)), key=lambda place: abs(place - middle))[:count]]


def _only(image: Image, place: int) -> Image:
    """One of the frames of an image."""
    return replace(image, frames=image.frames[place : place + 1], located=image.located.part(place, place + 1))


async def _worked(source: Source | BadPixels, work: Callable[[Source], Made]) -> Made | BadPixels:
    if isinstance(source, BadPixels):
        return source
    try:
        return await asyncio.to_thread(work, source)
    except BadPixels as error:
        return error


class RenderingService:
    """Renders what the caller may read: every method that reads the index takes their rights, and raises NotFound."""

    def __init__(self, settings: Settings, retrieve: RetrieveService, pixels: PixelService) -> None:
        self._retrieve = retrieve
        self._pixels = pixels
        self._max_frames = settings.max_frames_per_request
        self._fonts = Fonts(settings.annotation_font)
        self.thumbnails = ThumbnailStore(settings.data / "thumbnails", settings.thumbnail_bytes)
        # Frames that are worked on at a time: memory, and fairness to requests that need no thread.
        self._slots = asyncio.Semaphore(2 * len(os.sched_getaffinity(0)))
        self._large = asyncio.Lock()
        self._shown: OrderedDict[tuple[int, str, str | None], tuple[int, tuple[Instance, ...]]] = OrderedDict()
        self._bulk: Cache[tuple[int, str], bytes] = Cache(_BULK)

    # -- what there is

    async def subject(
        self, access: Access, study: str, series: str, sop: str, frames: Sequence[int] | None = None
    ) -> Subject:
        """What an instance, or the named frames of it (from 1), is rendered from.

        Raises NotFound, also for what has no rendered form; BadPixels for pixel data without readable frames.
        """
        try:
            image = await self._pixels.image(access, study, series, sop, frames or (1,))
        except NotFound:
            if frames is not None:
                raise
            return await self._without_frames(access, study, series, sop)
        stored = FRAME_MEDIA_TYPE_OF.get(image.instance.transfer_syntax, "")
        if not stored.startswith("video/"):
            return Subject("image", IMAGE_TYPES, image.instance, image.dataset, image)
        if frames is not None:
            raise NotFound("frames of a video are not rendered, only the video as a whole")
        return Subject("video", (stored,), image.instance, image.dataset, image, image.located)

    async def _without_frames(self, access: Access, study: str, series: str, sop: str) -> Subject:
        instance = await self._retrieve.instance(access, study, series, sop)
        dataset = await self._pixels.dataset(access, instance)
        element = dataset.get(_DOCUMENT)
        if element is not None:
            types = (document_type(dataset, instance.sop_class),)
            if "BulkDataURI" not in element:
                return Subject("document", types, instance, dataset, inline=binary(element, {}) or b"")
            located = await self._retrieve.bulk(access, study, instance.series, sop, _DOCUMENT)
            return Subject("document", types, instance, dataset, located=located)
        if "0040A730" in dataset or is_report_class(instance.sop_class):
            return Subject("report", REPORT_TYPES, instance, dataset)
        if any(dataset.get(tag, {}).keys() & {"BulkDataURI", "InlineBinary"} for tag in PIXEL_DATA):
            raise BadPixels("the image has no frame that can be read", attribute="PixelData")
        raise NotFound("the instance has no rendered form: it holds no pixel data, report or document")

    async def instances(self, access: Access, study: str, series: str | None) -> tuple[int, list[Instance]]:
        """The version of a study or series and its instances in reading order. Raises NotFound."""
        return await self._retrieve.instances(access, study, series)

    async def representatives(
        self, access: Access, study: str, series: str | None = None, sop: str | None = None
    ) -> tuple[Instance, ...]:
        """What stands for a study, series or instance: the first one that can be decoded.

        The middle image of (the middle image's) series leads, a few around it follow. Without frames an instance is
        no image; segmentations count where there is nothing else. Remembered until the study or series changes.
        Raises NotFound where nothing can be shown; BadPixels for an instance whose frames cannot be read.
        """
        access.require("dicom.read")
        if sop is not None:
            instance = await self._retrieve.instance(access, study, series, sop)
            if types_of(instance) != IMAGE_TYPES:
                await self.subject(access, study, instance.series, sop)
                raise NotFound("nothing of this instance can be shown as a thumbnail")
            return (instance,)
        key = (access.tenant, study, series)
        version = await self._retrieve.version(access, study, series)
        known = self._shown.get(key)
        if known is not None and known[0] == version:
            self._shown.move_to_end(key)
            return known[1]
        version, every = await self._retrieve.instances(access, study, series)
        images = [instance for instance in every if types_of(instance) == IMAGE_TYPES]
        images = [instance for instance in images if instance.sop_class != _SEGMENTATION] or images
        if not images:
            raise NotFound("nothing in it can be shown as a thumbnail")
        middle = images[len(images) // 2].series
        mates = [instance for instance in images if instance.series == middle]
        others = [instance for instance in images if instance.series != middle]
        chosen = (*_outwards(mates, _MATES), *_outwards(others, _OTHERS))
        self._shown[key] = (version, chosen)
        if len(self._shown) > _REPRESENTATIVES:
            self._shown.popitem(last=False)
        return chosen

    def look(self, wanted: Rendering) -> str:
        """What decides the bytes of a picture beside the instance, for entity tags and caches."""
        return f"{REVISION} {wanted!r}" + (f" {self._fonts.name}" if wanted.annotation else "")

    # -- pictures

    async def whole(self, access: Access, image: Image) -> Image:
        """The image with all its frames: those that are stored, whatever Number of Frames says. Raises TooLarge."""
        count = await self._frame_count(access, image)
        if count > self._max_frames:
            raise TooLarge(f"the image has {count} frames, and one answer {self._max_frames} at most: name them")
        if len(image.frames) == count:
            return image
        instance = image.instance
        return await self._pixels.image(access, instance.study, instance.series, instance.sop, range(1, count + 1))

    async def _frame_count(self, access: Access, image: Image) -> int:
        if image.pixel.number_of_frames == 1:
            return 1
        return await self._retrieve.frame_count(access, image.instance)

    async def one(self, access: Access, image: Image, wanted: Rendering, media_type: str) -> bytes:
        """The frames of `image` as one file: GIF holds all, other types the first. Raises BadPixels, BadQuery."""
        if media_type == GIF and len(image.frames) > 1:
            return await self._animation(access, image, wanted)
        async with aclosing(unbroken(self.each(access, image, wanted, media_type))) as bodies:
            return await anext(bodies)

    def each(
        self, access: Access, image: Image, wanted: Rendering, media_type: str
    ) -> AsyncGenerator[bytes | BadPixels, None]:
        """The frames of `image` in its order, a file for each; in place of a broken one its error."""
        return self._outcomes(access, image, lambda source: render_image(source, wanted, media_type))

    async def _animation(self, access: Access, image: Image, wanted: Rendering) -> bytes:
        check_animation(len(image.frames), 0)
        frames, pixels = [], 0
        async for shown, _ in self.worked(access, image, lambda source: picture(source, wanted)):
            frames.append(shown)
            pixels += shown.shape[0] * shown.shape[1]
            check_animation(len(frames), pixels)
        async with self._slots:
            return await asyncio.to_thread(encode_gif, frames, frame_time_of(image.dataset))

    def worked(self, access: Access, image: Image, work: Callable[[Source], Made]) -> AsyncGenerator[Made, None]:
        """What `work` makes in a thread of each frame. Raises BadPixels."""
        return unbroken(self._outcomes(access, image, work))

    async def _outcomes(
        self, access: Access, image: Image, work: Callable[[Source], Made]
    ) -> AsyncGenerator[Made | BadPixels, None]:
        """In place of a broken frame its error. Of large frames a process holds one at a time in memory."""
        bulk = await self.referenced(access, image)
        if image.pixel.decoded_bytes <= LARGE:
            async for source in self._sources(image, bulk):
                async with self._slots:
                    made = await _worked(source, work)
                yield made
            return
        for place in range(len(image.frames)):
            async with self._large:
                [made] = [await _worked(source, work) async for source in self._sources(_only(image, place), bulk)]
            yield made

    async def thumbnail(
        self, access: Access, shown: Sequence[Instance], frame: int | None, wanted: Rendering, media_type: str
    ) -> bytes:
        """A small picture of the first instance that can be decoded, from the cache where it was made before.

        `frame` (from 1; None: the middle one). Raises NotFound, BadQuery; BadPixels (of the first) when none can be.
        """
        access.require("dicom.read")
        refused: BadPixels | None = None
        for instance in shown:
            try:
                return await self._thumbnail(access, instance, frame, wanted, media_type)
            except BadPixels as error:
                refused = refused or error
        raise refused or NotFound("nothing in it can be shown as a thumbnail")

    async def _thumbnail(
        self, access: Access, instance: Instance, frame: int | None, wanted: Rendering, media_type: str
    ) -> bytes:
        key = (*instance.state, frame, self.look(wanted), media_type)
        held = await self.thumbnails.get(key)
        if held is not None:
            return held
        place = instance.study, instance.series, instance.sop
        image = await self._pixels.image(access, *place, (frame or 1,))
        middle = 1 if frame is not None else await self._frame_count(access, image) // 2 + 1
        if middle != 1:
            image = await self._pixels.image(access, *place, (middle,))
        body = await self.one(access, image, wanted, media_type)
        await self.thumbnails.put(key, body)
        return body

    async def composed_thumbnail(
        self,
        access: Access,
        name: str,
        dataset: Dataset,
        wanted: Rendering,
        media_type: str,
        compose: Callable[[], Awaitable[tuple[Shown, bytes | None]]],
    ) -> bytes:
        """A small picture that `compose` makes, with the profile to embed, from the cache where it was made before.

        `name`: of its pixels. `dataset`: what is said of the patient and technique where that is asked for.
        """
        access.require("dicom.read")
        key = (access.tenant, name, self.look(wanted), media_type)
        held = await self.thumbnails.get(key)
        if held is not None:
            return held
        shown, profile = await compose()
        async with self._slots:
            if wanted.annotation:
                shown = await asyncio.to_thread(draw_text, shown, dataset, wanted.annotation, self._fonts.faces)
            body = await asyncio.to_thread(encode_image, shown, media_type, wanted.quality, profile)
        await self.thumbnails.put(key, body)
        return body

    # -- documents

    async def report(self, access: Access, subject: Subject, wanted: Rendering, media_type: str) -> bytes:
        """A structured report as HTML, plain text or XML, with the first 4 MiB of its long texts."""
        texts = await self._long_texts(access, subject)
        async with self._slots:
            if media_type == XML:
                return await asyncio.to_thread(report_xml, subject.dataset, texts)
            made = report_text if media_type == PLAIN else report_html
            return await asyncio.to_thread(made, subject.dataset, wanted.annotation, texts)

    async def _long_texts(self, access: Access, subject: Subject) -> dict[str, str]:
        instance, texts, room = subject.instance, dict[str, str](), MAX_TEXTS
        for uri, codecs in long_texts(subject.dataset):
            path = bulk_path_of(uri)
            located = await self._retrieve.bulk(access, instance.study, instance.series, instance.sop, path)
            [(offset, length)] = located.extents[0]
            size = min(length, LONGEST_TEXT, room)
            if size == 0:
                break
            value = await self._retrieve.read(instance, [(offset, size)])
            texts[uri] = text_of(value, codecs, cut=size < length)
            room -= size
        return texts

    async def document(self, subject: Subject, offset: int, length: int) -> AsyncIterator[bytes]:
        """`length` bytes at `offset` of a document or video, as stored, in bounded chunks."""
        located = subject.located
        if located is None:
            yield subject.inline[offset : offset + length]
            return
        if located.instance.deflated:
            (value,) = await self._retrieve.read_all(located)
            yield value[offset : offset + length]
            return
        for start, size in located.extents[0]:
            skipped = min(offset, size)
            taken = min(length, size - skipped)
            offset -= skipped
            length -= taken
            if taken:
                async for chunk in self._retrieve.stream(located.instance, (start + skipped, taken)):
                    yield chunk

    # -- reading

    async def _sources(self, image: Image, bulk: dict[str, bytes]) -> AsyncIterator[Source | BadPixels]:
        position = 0
        async for value in self._pixels.stored(image):
            try:
                pixels = await self._pixels.decode(image, value)
            except BadPixels as error:
                yield error
            else:
                yield Source(pixels, image.pixel, image.dataset, image.frames[position], bulk, self._fonts.faces)
            position += 1

    async def referenced(self, access: Access, image: Image) -> dict[str, bytes]:
        """The tables, profiles and overlays that the image refers to, little endian; kept for the next frame."""
        found: dict[str, bytes] = {}
        for uri in references(image.dataset, image.frames):
            key = (image.instance.tenant, uri)
            value = self._bulk.get(key)
            if value is None:
                value = await self._read_bulk(access, image.instance, uri)
                self._bulk.put(key, value, len(value))
            found[uri] = value
        return found

    async def _read_bulk(self, access: Access, instance: Instance, uri: str) -> bytes:
        path = bulk_path_of(uri)
        located = await self._retrieve.bulk(access, instance.study, instance.series, instance.sop, path)
        if located.size(0) > _LARGEST_BULK:
            raise BadPixels(f"a value that the image needs is above {_LARGEST_BULK} bytes", attribute=path)
        (value,) = await self._retrieve.read_all(located)
        return value
