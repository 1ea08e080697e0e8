"""Whether an archive that says "there already" has what we hold: the same data set, whatever file meta group it has."""

import asyncio
import hashlib
import mmap
from pathlib import Path
from typing import Final

from dicomweb.errors import ArchiveError, BadDicom
from dicomweb.media import parse_media_type
from dicomweb.meta import read_file_meta
from dicomweb.multipart import Parser, PartData, PartEnd, boundary_of
from dicomweb.part10 import identifiers
from dimse_bridge.gateway.client import Client

_ACCEPT: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_META_MAX: Final = 64 << 10
_OK: Final = 200


class _DataSet:
    """Transfer syntax, and digest of what follows the file meta group, of a file that comes in pieces."""

    def __init__(self) -> None:
        self.syntax = ""
        self._head = bytearray()
        self._digest = hashlib.sha256()

    def feed(self, piece: bytes | memoryview) -> None:
        if self.syntax:
            self._digest.update(piece)
            return
        self._head += piece
        if len(self._head) >= _META_MAX:
            self._begin()

    def _begin(self) -> None:
        meta = read_file_meta(bytes(self._head))
        self.syntax = meta.transfer_syntax
        self._digest.update(self._head[meta.size :])

    def finish(self) -> tuple[str, bytes]:
        """Raises BadDicom where there is no file meta group."""
        if not self.syntax:
            self._begin()
        return self.syntax, self._digest.digest()


async def is_stored(client: Client, path: Path, size: int) -> bool:
    """Whether the archive has the data set of this file under its UIDs. Raises Unreachable."""
    theirs = _DataSet()
    try:
        resource, ours = await asyncio.to_thread(_ours, path)
        async with client.stream(resource, _ACCEPT, size) as response:
            if response.status_code != _OK:
                return False
            parser = Parser(boundary_of(parse_media_type(response.headers.get("content-type", ""))))
            async for chunk in response.aiter_raw():
                for event in parser.feed(chunk):
                    if isinstance(event, PartData):
                        theirs.feed(event.data)
                    elif isinstance(event, PartEnd):
                        return theirs.finish() == ours
    except ArchiveError:  # no multipart message, no DICOM file
        return False
    return False


def _ours(path: Path) -> tuple[str, tuple[str, bytes]]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as source:
        who = identifiers(source)
        if not (who.study and who.series and who.sop_instance):
            raise BadDicom("the file does not name its study and series")
        data = _DataSet()
        for start in range(0, len(source), 1 << 20):
            data.feed(source[start : start + (1 << 20)])
    return f"studies/{who.study}/series/{who.series}/instances/{who.sop_instance}", data.finish()
