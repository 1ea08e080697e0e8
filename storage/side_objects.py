"""Metadata that are too long for their row: an object beside that of the instance."""

from typing import TYPE_CHECKING, Any, Final

from dicomweb.deflate import DeflatedJson
from storage.objects import ObjectStore

if TYPE_CHECKING:
    from storage.damage import Damage

# Behind the key of the instance's object.
SIDE: Final = ".json"


async def stored_metadata(objects: ObjectStore, damage: "Damage", tenant: int, row: Any) -> DeflatedJson:
    """The DICOM JSON of an instance, which its row has, or points to.

    `row` has the columns `sop_uid`, `object_key`, `metadata`, `metadata_crc` and `metadata_length`. Raises
    ObjectMissing, Unavailable.
    """
    data = row["metadata"]
    if data is None:
        key = row["object_key"]
        data = await damage.reading(tenant, row["sop_uid"], key, objects.get(key + SIDE))
    return DeflatedJson(data, row["metadata_crc"], row["metadata_length"])
