"""Decoded pixels of stored instances, with the attributes that tell what they mean."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson

from dicomweb.errors import BadPixels, NotFound
from dicomweb.media import NATIVE
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.pixels.native import native_pixels
from dicomweb.pixels.syntaxes import can_decode, targets
from storage.access import Access
from storage.cache import Cache
from storage.decoders import DecoderPool
from storage.retrieve import Instance, Located, RetrieveService

Dataset = dict[str, Any]
Made = TypeVar("Made")

# Bytes of a decoded frame above which it waits for its turn.
LARGE: Final = 64 << 20
# Parsed attributes that are kept, by the length of their JSON.
_DATASETS = 16 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """An instance with pixels. `dataset`: its DICOM JSON, bulk values by reference; not to be changed."""

    located: Located
    frames: tuple[int, ...]
    dataset: Dataset
    pixel: ImagePixel

    @property
    def instance(self) -> Instance:
        """Where it lies."""
        return self.located.instance


async def unbroken(outcomes: AsyncGenerator[Made | BadPixels, None]) -> AsyncGenerator[Made, None]:
    """What was made of frames. Raises the error that stands in the place of a broken one."""
    async with aclosing(outcomes):
        async for outcome in outcomes:
            if isinstance(outcome, BadPixels):
                raise outcome
            yield outcome


class PixelService:
    """Reads frames as arrays. Every method takes the caller's rights, as RetrieveService does."""

    def __init__(self, retrieve: RetrieveService, decoders: DecoderPool) -> None:
        self._retrieve = retrieve
        self._decoders = decoders
        self._datasets: Cache[tuple[int, str, str, int], Dataset] = Cache(_DATASETS)

    async def image(self, access: Access, study: str, series: str, sop: str, frames: Sequence[int]) -> Image:
        """Frames (1-based) of an instance. Raises NotFound, also for a frame that is not there; BadPixels."""
        return await self.described(access, await self._retrieve.frames(access, study, series, sop, frames), frames)

    async def described(self, access: Access, located: Located, frames: Sequence[int]) -> Image:
        """Frames that were located before, with the attributes of their instance. Raises NotFound, BadPixels."""
        dataset = await self.dataset(access, located.instance)
        return Image(located, tuple(frames), dataset, ImagePixel.of(dataset))

    async def dataset(self, access: Access, instance: Instance) -> Dataset:
        """The DICOM JSON of an instance, parsed; kept for the next frame.

        It takes the right to read, no other: whoever may have the pixels may have them explained.
        """
        access.require("dicom.read")
        found = self._datasets.get(instance.state)
        if found is not None:
            return found
        reader = access.with_scope("dicom.metadata")
        answer = await self._retrieve.metadata(reader, instance.study, instance.series, instance.sop, gzip=False)
        if answer.body is None:
            raise NotFound("no such instance")
        text = b"".join(answer.body)
        dataset: Dataset = orjson.loads(text)[0]
        self._datasets.put(instance.state, dataset, len(text))
        return dataset

    async def targets(self, access: Access, instance: Instance) -> frozenset[str]:
        """The transfer syntaxes that an instance can be transcoded to; without pixels there is nothing to compress."""
        try:
            pixel = ImagePixel.of(await self.dataset(access, instance))
        except BadPixels:
            return frozenset()
        return targets(pixel, instance.transfer_syntax)

    async def stored(self, image: Image) -> AsyncGenerator[bytes, None]:
        """The frames of `image` as they are stored, in little endian, a window of them in memory."""
        async with aclosing(self._retrieve.values(image.located)) as values:
            async for value in values:
                yield value

    async def decode(self, image: Image, value: bytes) -> Pixels:
        """One stored frame: native ones here, compressed ones in a sandboxed process. Raises BadPixels."""
        syntax = image.instance.transfer_syntax
        if syntax in NATIVE:
            return native_pixels(image.pixel, value)
        if not can_decode(syntax):
            raise BadPixels("pixels in this transfer syntax are served as stored only", attribute="TransferSyntaxUID")
        return await self._decoders.decode(syntax, value, image.pixel)
