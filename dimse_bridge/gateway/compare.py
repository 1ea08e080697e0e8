"""Whether an archive that says "there already" has what we hold: the same data set, whatever file meta group it has."""

import asyncio
import mmap
from pathlib import Path
from typing import Final

from dicomweb.errors import ArchiveError, BadDicom
from dicomweb.part10 import identifiers
from dimse_bridge.gateway.client import Client
from storage.data_set_digest import AS_STORED, DataSetDigest, digest_of_answer

_OK: Final = 200


async def is_stored(client: Client, path: Path, size: int) -> bool:
    """Whether the archive has the data set of this file under its UIDs. Raises Unreachable."""
    try:
        resource, ours = await asyncio.to_thread(_ours, path)
        async with client.stream(resource, AS_STORED, size) as response:
            if response.status_code != _OK:
                return False
            return await digest_of_answer(response.headers.get("content-type", ""), response.aiter_raw()) == ours
    except ArchiveError:  # no multipart message, no DICOM file
        return False


def _ours(path: Path) -> tuple[str, tuple[str, bytes]]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as source:
        who = identifiers(source)
        if not (who.study and who.series and who.sop_instance):
            raise BadDicom("the file does not name its study and series")
        data = DataSetDigest()
        for start in range(0, len(source), 1 << 20):
            data.feed(source[start : start + (1 << 20)])
    return f"studies/{who.study}/series/{who.series}/instances/{who.sop_instance}", data.finish()
