"""Pixels in another transfer syntax than the stored one: frame by frame, whatever the size of the instance."""

import asyncio
import zlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Final

from dicomweb.errors import BadPixels, NotAcceptable
from dicomweb.media import DEFLATED_LE, EXPLICIT_LE, IMPLICIT_LE, NATIVE
from dicomweb.meta import read_file_meta
from dicomweb.pixels.encode import DEFAULT_QUALITY, BitString, Quality, encode_frame, native_bytes, packed_bits
from dicomweb.pixels.header import (
    ENCAPSULATED_HEAD,
    ENCAPSULATED_TAIL,
    Lossy,
    derived_uid,
    item_head,
    transcoded_head,
    with_transfer_syntax,
)
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.pixels.syntaxes import JPEG_XL_RECOMPRESSION, SYNTAXES, can_encode, encoded_form, is_repacked
from dicomweb.reencode import pixel_head
from storage.access import Access
from storage.ahead import Begun, begun_ahead
from storage.cache import AnswerCache
from storage.decoders import DecoderPool
from storage.pixels import LARGE, Image, PixelService, unbroken
from storage.retrieve import Instance, RetrieveService
from storage.rewriting import as_implicit, as_native, header_of
from storage.settings import Settings

# Frames of an instance that are located by one statement.
_PAGE: Final = 200
_NATIVE_MAX: Final = (1 << 32) - 2
_DEFLATE_LEVEL: Final = 6


class TranscodeService:
    """Transcodes what RetrieveService and PixelService read. The last frames that were asked for alone are kept."""

    def __init__(
        self, settings: Settings, retrieve: RetrieveService, pixels: PixelService, decoders: DecoderPool
    ) -> None:
        self._retrieve = retrieve
        self._pixels = pixels
        self._decoders = decoders
        self._cache = AnswerCache(settings.cache_bytes)
        self._large = asyncio.Lock()
        self.cache_use: Counter[str] = Counter()

    async def frame(self, image: Image, target: str) -> bytes:
        """The only frame of `image`. `target` is one of `syntaxes.targets`. Raises BadPixels."""
        instance = image.instance
        key = (*instance.state, image.frames[0], target)
        kept = self._cache.get(key, 0)
        self.cache_use["miss" if kept is None else "hit"] += 1
        if kept is not None:
            return kept[0]
        stored = [value async for value in self._pixels.stored(image)]
        frame = await self._transcoded(image, stored[0], target)
        self._cache.put(key, 0, (frame,))
        return frame

    def frames(self, image: Image, target: str, quality: Quality = DEFAULT_QUALITY) -> AsyncGenerator[bytes, None]:
        """The frames of `image` in its order. Raises BadPixels."""
        return unbroken(self.outcomes(image, target, quality))

    async def outcomes(
        self, image: Image, target: str, quality: Quality = DEFAULT_QUALITY
    ) -> AsyncGenerator[bytes | BadPixels, None]:
        """The frames of `image` in its order, a few worked on at a time; in place of a broken one its error."""
        ahead: deque[asyncio.Task[bytes | BadPixels]] = deque()
        try:
            async for value in self._pixels.stored(image):
                ahead.append(asyncio.create_task(self._outcome(image, value, target, quality)))
                if len(ahead) > self._decoders.size:
                    yield await ahead.popleft()
            while ahead:
                yield await ahead.popleft()
        finally:
            for task in ahead:
                task.cancel()

    async def _outcome(self, image: Image, value: bytes, target: str, quality: Quality) -> bytes | BadPixels:
        try:
            return await self._transcoded(image, value, target, quality)
        except BadPixels as error:
            return error

    async def _transcoded(self, image: Image, value: bytes, target: str, quality: Quality = DEFAULT_QUALITY) -> bytes:
        if image.pixel.decoded_bytes <= LARGE:
            return await self._made(image, value, target, quality)
        async with self._large:
            return await self._made(image, value, target, quality)

    async def _made(self, image: Image, value: bytes, target: str, quality: Quality) -> bytes:
        stored = image.instance.transfer_syntax
        if is_repacked(stored, target):
            if target == JPEG_XL_RECOMPRESSION:
                return await self._decoders.recompress(value)
            return await self._decoders.restore(value, image.pixel)
        pixels = await self._pixels.decode(image, value)
        if target == EXPLICIT_LE:
            return _native(pixels, image.pixel)
        return await asyncio.to_thread(encode_frame, target, pixels, image.pixel, quality)

    def ahead(self, files: Iterable[AsyncGenerator[bytes, None]]) -> AsyncGenerator[Begun, None]:
        """Files that this service makes, in their order, begun while earlier ones are sent."""
        return begun_ahead(files, self._decoders.size)

    # -- instances ---------------------------------------------------------------------------------------------

    async def file(
        self, access: Access, instance: Instance, target: str, quality: Quality = DEFAULT_QUALITY
    ) -> AsyncGenerator[bytes, None]:
        """The Part 10 file of an instance in `target`, whatever has to be done for that. Raises as `instance`.

        What is no image has no pixels that a compression could be for, and comes as stored.
        """
        stored = instance.transfer_syntax
        if target == stored or not (instance.has_frames or target in (EXPLICIT_LE, IMPLICIT_LE)):
            chunks: AsyncIterator[bytes] = self._retrieve.file(instance)
        elif target == EXPLICIT_LE:
            chunks = self._explicit(access, instance)
        elif target == IMPLICIT_LE:
            chunks = self._implicit(access, instance)
        else:
            chunks = self.instance(access, instance, target, quality)
        async for chunk in chunks:
            yield chunk

    async def instance(
        self, access: Access, instance: Instance, target: str, quality: Quality = DEFAULT_QUALITY
    ) -> AsyncGenerator[bytes, None]:
        """The whole instance as a Part 10 file in `target`; lossy ones are derived instances with a UID of their own.

        Raises NotAcceptable for pixels that the target cannot carry, BadPixels for what cannot be decoded.
        """
        if target == DEFLATED_LE:
            async for chunk in _deflated(self._explicit(access, instance)):
                yield chunk
            return
        count = await self._retrieve.frame_count(access, instance)
        first = await self._page(access, instance, 1, count)
        stored = instance.transfer_syntax
        if not can_encode(first.pixel, stored, target):
            raise NotAcceptable("the pixels of this instance cannot be sent in that transfer syntax")
        form = encoded_form(first.pixel, stored, target)
        native = _native_size(form, count) if target == EXPLICIT_LE else None
        frames = self._all_frames(access, instance, first, count, target, quality)
        try:
            opening = await anext(frames)
            lossy = None
            if target in SYNTAXES and not SYNTAXES[target].lossless and not is_repacked(stored, target):
                uid = derived_uid(instance.sop, instance.version, target, quality)
                lossy = Lossy(form.decoded_bytes / len(opening), uid)
            head = await header_of(self._retrieve, instance)
            yield await asyncio.to_thread(transcoded_head, head, target, form, lossy)
            yield ENCAPSULATED_HEAD if native is None else pixel_head(_native_vr(form), native)
            if native is None:
                yield _item(opening)
                async for frame in frames:
                    yield _item(frame)
                yield ENCAPSULATED_TAIL
                return
            async for piece in _joined(opening, frames, form, native):
                yield piece
        finally:
            await frames.aclose()  # its tasks end with the answer

    async def pixel_data(self, access: Access, instance: Instance) -> AsyncGenerator[bytes, None]:
        """All frames of a compressed instance one behind the other, as native pixel data have them.

        Raises NotAcceptable for what would be too long for one value, BadPixels for what cannot be decoded.
        """
        count = await self._retrieve.frame_count(access, instance)
        first = await self._page(access, instance, 1, count)
        form = encoded_form(first.pixel, instance.transfer_syntax, EXPLICIT_LE)
        native = _native_size(form, count)
        frames = self._all_frames(access, instance, first, count, EXPLICIT_LE, DEFAULT_QUALITY)
        try:
            async for piece in _joined(await anext(frames), frames, form, native):
                yield piece
        finally:
            await frames.aclose()

    async def _page(self, access: Access, instance: Instance, start: int, count: int) -> Image:
        if count == 0:
            raise BadPixels("the image has no frame that can be read", attribute="PixelData")
        numbers = range(start, min(start + _PAGE, count + 1))
        return await self._pixels.image(access, instance.study, instance.series, instance.sop, numbers)

    async def _all_frames(
        self, access: Access, instance: Instance, page: Image, count: int, target: str, quality: Quality
    ) -> AsyncGenerator[bytes, None]:
        start = 1
        while True:
            async for frame in self.frames(page, target, quality):
                yield frame
            start += _PAGE
            if start > count:
                return
            page = await self._page(access, instance, start, count)

    def _explicit(self, access: Access, instance: Instance) -> AsyncIterator[bytes]:
        if instance.transfer_syntax == EXPLICIT_LE:
            return self._retrieve.file(instance)
        if instance.transfer_syntax in NATIVE:
            return as_native(self._retrieve, instance)
        return self.instance(access, instance, EXPLICIT_LE)

    def _implicit(self, access: Access, instance: Instance) -> AsyncIterator[bytes]:
        if instance.transfer_syntax in NATIVE:
            return as_native(self._retrieve, instance, IMPLICIT_LE)
        return as_implicit(self.instance(access, instance, EXPLICIT_LE))


async def _joined(
    opening: bytes, frames: AsyncIterator[bytes], form: ImagePixel, native: int
) -> AsyncGenerator[bytes, None]:
    """Native frames as one value of `native` bytes; `opening` is the first, `frames` gives the others."""
    string, sent, frame = BitString(_frame_bits(form)), 0, opening
    while frame:
        data = string.add(frame)
        sent += len(data)
        yield data
        frame = await anext(frames, b"")
    yield string.end().ljust(native - sent, b"\0")


def _item(frame: bytes) -> bytes:
    padded = frame + b"\0" if len(frame) % 2 else frame
    return item_head(len(padded)) + padded


def _native(pixels: Pixels, image: ImagePixel) -> bytes:
    return packed_bits(pixels) if image.bits_allocated == 1 else native_bytes(pixels)


def _frame_bits(form: ImagePixel) -> int:
    return form.rows * form.columns * form.samples * form.bits_allocated


def _native_vr(form: ImagePixel) -> str:
    return "OB" if form.bits_allocated <= 8 else "OW"


def _native_size(form: ImagePixel, count: int) -> int:
    """Bytes of native pixel data, padded to even length."""
    size = (_frame_bits(form) * count + 7) // 8
    size += size % 2
    if size > _NATIVE_MAX:
        raise NotAcceptable("the uncompressed pixel data would exceed 4 GiB; ask for the frames")
    return size


async def _deflated(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """An Explicit VR Little Endian file with everything behind its file meta information deflated (PS3.5 A.5)."""
    first = await anext(source)
    meta = read_file_meta(first).size
    yield with_transfer_syntax(first[:meta], DEFLATED_LE)
    packer = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -15)
    size = 0
    rest = first[meta:]
    while True:
        packed = await asyncio.to_thread(packer.compress, rest)
        size += len(packed)
        if packed:
            yield packed
        nxt = await anext(source, None)
        if nxt is None:
            break
        rest = nxt
    end = packer.flush()
    yield end + b"\0" * ((size + len(end)) % 2)
