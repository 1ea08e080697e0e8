"""Frames of instances and series as numbers: for NumPy, Matlab, and images that are not windowed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from io import BytesIO
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dicomweb.errors import BadPixels, NotFound, TooLarge
from dicomweb.rendered.arrays import Kind, as_array, image_file, matlab_text, numpy_archive, numpy_head, stored_values
from dicomweb.rendered.image import Source
from dicomweb.uids import parse_orthanc_id
from storage.access import Access
from storage.db import Database
from storage.pixels import Image, PixelService
from storage.rendering import RenderingService
from storage.resource import spelled
from storage.retrieve import Instance, RetrieveService, instance_of
from storage.tag_sets import ordered_slices

Made = TypeVar("Made")

# A compressed archive and a text are made in memory.
_LARGEST: Final = 512 << 20


class ArrayService:
    """Frames as arrays. Methods take the caller's rights; frames count from 0 here, as in Orthanc's API."""

    def __init__(
        self, db: Database, retrieve: RetrieveService, pixels: PixelService, rendering: RenderingService
    ) -> None:
        self._db = db
        self._retrieve = retrieve
        self._pixels = pixels
        self._rendering = rendering

    async def image(self, access: Access, instance: Instance, frame: int) -> Image:
        """A frame that can be decoded. Raises NotFound, BadPixels."""
        return await self._pixels.image(access, instance.study, instance.series, instance.sop, (frame + 1,))

    async def picture(
        self, access: Access, instance: Instance, frame: int, kind: Kind, media_type: str, quality: int
    ) -> bytes:
        """A frame as an image whose numbers are those of the pixels. Raises NotFound, BadPixels."""
        image = await self.image(access, instance, frame)
        return await self._first(access, image, lambda source: image_file(source, kind, media_type, quality))

    async def matlab(self, access: Access, instance: Instance, frame: int) -> bytes:
        """A frame as a Matlab expression."""
        image = await self.image(access, instance, frame)
        if image.pixel.decoded_bytes > _LARGEST // 16:
            raise TooLarge("the frame is too large to be spelled out")
        return await self._first(access, image, lambda source: matlab_text(stored_values(source)))

    async def one(self, access: Access, instance: Instance, frame: int, *, rescale: bool) -> NDArray[Any]:
        """A frame as (rows, columns, channels)."""
        image = await self.image(access, instance, frame)
        return await self._first(access, image, lambda source: as_array(source, rescale=rescale))

    async def stack(self, access: Access, instances: Sequence[Instance], *, rescale: bool) -> AsyncIterator[bytes]:
        """A .npy file of all frames, (frames, rows, columns, channels), one frame in memory.

        Raises BadPixels where they differ in size or type.
        """
        counts = [await self._retrieve.frame_count(access, instance) for instance in instances]
        if not sum(counts):
            raise NotFound("there is no frame that can be decoded")
        like: NDArray[Any] | None = None
        for instance, count in zip(instances, counts, strict=True):
            for frame in range(count):
                array = await self.one(access, instance, frame, rescale=rescale)
                head = b""
                if like is None:
                    like = array
                    head = numpy_head(array.dtype, (sum(counts), *array.shape))
                elif (array.shape, array.dtype) != (like.shape, like.dtype):
                    raise BadPixels("the images differ in size or type", attribute="Rows")
                yield head + array.tobytes()

    async def archive(self, access: Access, instances: Sequence[Instance], *, rescale: bool) -> bytes:
        """The same as a compressed .npz file, made in memory. Raises TooLarge."""
        pieces: list[bytes] = []
        size = 0
        async for piece in self.stack(access, instances, rescale=rescale):
            size += len(piece)
            if size > _LARGEST:
                raise TooLarge("the images are too many for a compressed file")
            pieces.append(piece)
        return await asyncio.to_thread(_archived, b"".join(pieces))

    async def slices(self, access: Access, series: str) -> tuple[str, list[tuple[str, int]]]:
        """The images of a series in their order, see `ordered_slices`. Raises NotFound."""
        access.require("dicom.read")
        rows = await self._db.fetch("orthanc_slices", access.tenant, parse_orthanc_id(series))
        if not rows:
            raise NotFound("no such series")
        return ordered_slices(rows)

    async def ordered(self, access: Access, series: str) -> list[Instance]:
        """The instances of a series in the order of its slices. Raises NotFound, BadPixels where their sizes differ."""
        _, order = await self.slices(access, series)
        rows = await self._db.fetch("orthanc_series_instances", access.tenant, parse_orthanc_id(series))
        if len({(row["rows"], row["columns"], row["bits_allocated"]) for row in rows}) > 1:
            raise BadPixels("the images of the series differ in size", attribute="Rows")
        found = {spelled(row["orthanc_id"]): instance_of(access.tenant, row["study_uid"], row) for row in rows}
        return [found[identifier] for identifier, _ in order if identifier in found]

    async def _first(self, access: Access, image: Image, work: Callable[[Source], Made]) -> Made:
        async for made in self._rendering.worked(access, image, work):
            return made
        raise NotFound("there is no such frame")


def _archived(npy: bytes) -> bytes:
    return numpy_archive(np.load(BytesIO(npy), allow_pickle=False))
