"""What belongs to the images of a study without being one: reports, annotations, segmentations, with their metadata."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dicomweb.deflate import DeflatedJson
from dicomweb.errors import NotFound
from dicomweb.frames import RECORD_SIZE
from storage.access import Access
from storage.damage import Damage
from storage.db import Database
from storage.objects import ObjectStore
from storage.retrieve import Instance, instance_of
from storage.side_objects import stored_metadata

# Objects of one study that are looked at, the newest ones.
MAX_OBJECTS: Final = 500


@dataclass(frozen=True, slots=True)
class StudyObject:
    """An instance, the number of frames that can be served, and the length of its metadata as text."""

    instance: Instance
    frames: int
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

    def __init__(self, db: Database, objects: ObjectStore, damage: Damage) -> None:
        self._db = db
        self._objects = objects
        self._damage = damage

    async def find(self, access: Access, study: str, classes: Sequence[str], longest: int) -> Found:
        """The instances of some SOP classes in a study whose metadata have at most `longest` bytes."""
        access.require("dicom.read")
        rows = await self._db.fetch("study_objects", access.tenant, study, list(classes), MAX_OBJECTS + 1)
        kept = [row for row in rows[:MAX_OBJECTS] if row["metadata_length"] <= longest]
        return Found(
            rows[0]["parent_version"] if rows else 0,
            tuple(
                StudyObject(
                    instance_of(access.tenant, study, row),
                    (row["table_size"] or 0) // RECORD_SIZE,
                    row["metadata_length"],
                )
                for row in kept
            ),
            len(rows) - len(kept),
        )

    async def metadata(self, found: StudyObject) -> DeflatedJson:
        """The DICOM JSON of an object that was found before. Raises NotFound, ObjectMissing, Unavailable."""
        instance = found.instance
        row = await self._db.fetch_row("object_metadata", instance.tenant, instance.sop, instance.key)
        if row is None:
            raise NotFound("the instance was removed or replaced")
        return await stored_metadata(self._objects, self._damage, instance.tenant, row)
