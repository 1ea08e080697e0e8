"""Data sets as they go over an association: without file meta information, in a transfer syntax that the peer takes."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Final

from dicomweb.errors import BadPixels, NotAcceptable
from dicomweb.media import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, NATIVE
from dicomweb.meta import read_file_meta
from dicomweb.pixels.syntaxes import SYNTAXES, can_decode
from storage.access import Access
from storage.objects import STREAM_CHUNK
from storage.retrieve import PIXEL_DATA, Instance, RetrieveService
from storage.rewriting import as_native
from storage.transcoding import TranscodeService

# Deflated bytes may be odd in a file, not in a message (PS3.5 A.5, PS3.8 annex E.2).
_PADDING: Final = b"\0"


class DataSetService:
    """Reads instances for C-STORE, from the object store to the network in bounded pieces."""

    def __init__(self, retrieve: RetrieveService, transcode: TranscodeService) -> None:
        self._retrieve = retrieve
        self._transcode = transcode

    async def open(
        self, access: Access, instance: Instance, accepted: Collection[str]
    ) -> tuple[str, bytes | AsyncGenerator[bytes, None]]:
        """One of the transfer syntaxes `accepted`, and the data set in it: whole where it is small, or in pieces.

        As stored where that is accepted, else without loss; never as another instance. The first piece has been read.
        Raises NotAcceptable where it cannot be sent in any of them, BadPixels, and what reading it raises.
        """
        stored, size = instance.transfer_syntax, instance.size - instance.meta_size
        if stored in accepted and size <= STREAM_CHUNK:
            return stored, _even(await self._retrieve.part(instance, (instance.meta_size, size)))
        failed: NotAcceptable | BadPixels = NotAcceptable("no transfer syntax was accepted that this can be sent in")
        for target in targets(instance, accepted):
            pieces = self._pieces(access, instance, target)
            try:
                return target, _behind(await anext(pieces), pieces)
            except (NotAcceptable, BadPixels) as error:
                failed = error
        raise failed

    async def _pieces(self, access: Access, instance: Instance, target: str) -> AsyncGenerator[bytes, None]:
        if target == instance.transfer_syntax:
            size = instance.size - instance.meta_size
            async for chunk in self._retrieve.stream(instance, (instance.meta_size, size)):
                yield chunk
            if size % 2:
                yield _PADDING
            return
        async with aclosing(await self._file(access, instance, target)) as file:
            first = await anext(file)
            yield first[read_file_meta(first).size :]
            async for chunk in file:
                yield chunk

    async def _file(self, access: Access, instance: Instance, target: str) -> AsyncGenerator[bytes, None]:
        """A Part 10 file whose data set is encoded as `target` asks for."""
        native = instance.transfer_syntax in NATIVE
        if instance.has_frames or (native and target in NATIVE):
            return self._transcode.file(access, instance, target)
        table = await self._retrieve.bulk_table(instance)
        if any(table.lookup(path) for path in PIXEL_DATA):
            raise NotAcceptable("the pixels of this instance cannot be read, so that they go as they are stored only")
        # Without pixels a compressed syntax is Explicit VR Little Endian (PS3.5 A.4).
        plain = IMPLICIT_LE if target == IMPLICIT_LE else EXPLICIT_LE
        return self._transcode.file(access, instance, plain) if native else as_native(self._retrieve, instance, plain)


def _even(data: bytes) -> bytes:
    return data + _PADDING if len(data) % 2 else data


def targets(instance: Instance, accepted: Collection[str]) -> list[str]:
    """Which of the transfer syntaxes `accepted` are worth a try, best first: as stored, native, compressed again."""
    stored = instance.transfer_syntax
    found = [syntax for syntax in (stored, EXPLICIT_LE, IMPLICIT_LE) if syntax in accepted]
    if can_decode(stored) or not instance.has_frames:
        found += [syntax for syntax in accepted if syntax in SYNTAXES and SYNTAXES[syntax].lossless]
    if not instance.has_frames:  # nothing to be encoded at all
        found += [syntax for syntax in accepted if syntax not in (DEFLATED_LE, EXPLICIT_BE)]
    return list(dict.fromkeys(found))


async def _behind(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece
