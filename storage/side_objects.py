"""Metadata that are too long for their row: an object beside that of the instance."""

from typing import Any, Final

from dicomweb.deflate import DeflatedJson
from storage.objects import ObjectStore

# Behind the key of the instance's object.
SIDE: Final = ".json"


async def stored_metadata(objects: ObjectStore, key: str, row: Any) -> DeflatedJson:
    """The DICOM JSON that a row with the columns `metadata`, `metadata_crc` and `metadata_length` has, or points to.

    `key`: of the instance's object. Raises ObjectMissing, Unavailable.
    """
    data = row["metadata"]
    if data is None:
        data = await objects.get(key + SIDE)
    return DeflatedJson(data, row["metadata_crc"], row["metadata_length"])
