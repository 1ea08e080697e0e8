"""What belongs to the images of a study without being one: reports, annotations, segmentations, with their metadata."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dicomweb.deflate import DeflatedJson
from storage.access import Access
from storage.db import Database
from storage.objects import ObjectStore
from storage.retrieve import Instance, instance_of

# Objects of one study that are looked at, the newest ones; and the text of the metadata of one.
MAX_OBJECTS: Final = 500
_MAX_METADATA: Final = 32 << 20


@dataclass(frozen=True, slots=True, eq=False)
class StudyObject:
    """An instance, and its metadata as the index keeps them; None where the object store has them."""

    instance: Instance
    metadata: bytes | None
    crc: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The objects, the newest first. `version` is that of the study, 0 where nothing was found.

    `left_out`: those beyond `MAX_OBJECTS` (then it is at least one), and those of which too much is said.
    """

    version: int
    objects: tuple[StudyObject, ...]
    left_out: int


class StudyObjects:
    """Finds objects of a study. Methods take the caller's rights; what they may not see does not exist."""

    def __init__(self, db: Database, objects: ObjectStore) -> None:
        self._db = db
        self._objects = objects

    async def find(self, access: Access, study: str, classes: Sequence[str]) -> Found:
        """The instances of some SOP classes in a study."""
        access.require("dicom.read")
        limits = MAX_OBJECTS + 1, _MAX_METADATA
        rows = await self._db.fetch("study_objects", access.tenant, study, list(classes), *limits)
        kept = [row for row in rows[:MAX_OBJECTS] if row["metadata_length"] <= _MAX_METADATA]
        return Found(
            rows[0]["parent_version"] if rows else 0,
            tuple(
                StudyObject(
                    instance_of(access.tenant, study, row), row["metadata"], row["metadata_crc"], row["metadata_length"]
                )
                for row in kept
            ),
            len(rows) - len(kept),
        )

    async def dataset(self, found: StudyObject) -> dict[str, Any]:
        """The attributes of an object in the DICOM JSON model. Raises ObjectMissing, Unavailable."""
        data = found.metadata
        if data is None:
            data = await self._objects.get(found.instance.key + ".json")
        made: dict[str, Any] = await asyncio.to_thread(_parsed, DeflatedJson(data, found.crc, found.length))
        return made


def _parsed(metadata: DeflatedJson) -> dict[str, Any]:
    return orjson.loads(metadata.inflate())  # type: ignore[no-any-return]
