"""Whether two files hold the same data set in the same transfer syntax, whatever file meta group they have."""

import hashlib
from collections.abc import AsyncIterator
from typing import Final

from dicomweb.media import parse_media_type
from dicomweb.meta import read_file_meta
from dicomweb.multipart import Parser, PartData, PartEnd, boundary_of

# What asks an archive for an instance as it is stored (PS3.18 8.7.3.5.2).
AS_STORED: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_META_MAX: Final = 64 << 10


class DataSetDigest:
    """Transfer syntax, and SHA-256 of what follows the file meta group, of a file that comes in pieces."""

    def __init__(self) -> None:
        self._syntax = ""
        self._head = bytearray()
        self._digest = hashlib.sha256()

    def feed(self, piece: bytes | memoryview) -> None:
        """The next bytes of the file. Raises BadDicom where there is no file meta group."""
        if self._syntax:
            self._digest.update(piece)
            return
        self._head += piece
        if len(self._head) >= _META_MAX:
            self._begin()

    def _begin(self) -> None:
        meta = read_file_meta(bytes(self._head))
        self._syntax = meta.transfer_syntax
        self._digest.update(self._head[meta.size :])

    def finish(self) -> tuple[str, bytes]:
        """No more bytes: the two to compare. Raises BadDicom where there is no file meta group."""
        if not self._syntax:
            self._begin()
        return self._syntax, self._digest.digest()


async def digest_of_answer(content_type: str, chunks: AsyncIterator[bytes]) -> tuple[str, bytes] | None:
    """The same of the first part of a multipart message, None where it has none.

    Raises BadRequest for what is no such message, BadDicom for what is no DICOM file.
    """
    found = DataSetDigest()
    parser = Parser(boundary_of(parse_media_type(content_type)))
    async for chunk in chunks:
        for event in parser.feed(chunk):
            if isinstance(event, PartData):
                found.feed(event.data)
            elif isinstance(event, PartEnd):
                return found.finish()
    return None
