"""Everything of patients, studies and series as one ZIP file, written while it is read: folders, or a medium."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from dicomweb.errors import NotFound, TooLarge
from dicomweb.folders import patient_folder, series_folder, study_folder
from dicomweb.tags import Level
from dicomweb.uids import parse_orthanc_id
from storage.access import Access
from storage.db import Database
from storage.resource import Resource, spelled
from storage.retrieve import Instance, RetrieveService, instance_of
from storage.search import SearchService
from storage.transcoding import TranscodeService
from storage.zipped import Folder, Measured, Packing, ZippedSeries

Kind = Literal["patient", "study", "series"]

# What one archive holds at most: its folders, and then its directory, are in memory.
MAX_SERIES: Final = 10_000
MAX_INSTANCES: Final = 500_000


@dataclass(frozen=True, slots=True)
class Known:
    """A stored resource, and its PatientID and UIDs from the study down to itself."""

    resource: Resource
    uids: tuple[str, ...]


class ArchiveService:
    """Finds resources by Orthanc's identifiers and packs them. Takes the caller's rights as every service."""

    def __init__(
        self, db: Database, search: SearchService, retrieve: RetrieveService, transcode: TranscodeService
    ) -> None:
        self._db = db
        self._zipped = ZippedSeries(db, search, retrieve, transcode)

    async def instance(self, access: Access, identifier: str) -> Instance:
        """The instance with that Orthanc identifier. Raises NotFound."""
        access.require("dicom.read")
        row = await self._db.fetch_row("orthanc_instance", access.tenant, parse_orthanc_id(identifier))
        if row is None:
            raise NotFound("no such instance")
        return instance_of(access.tenant, row["study_uid"], row)

    async def instances(self, access: Access, identifiers: Sequence[str], limit: int) -> Sequence[tuple[str, str]]:
        """SOP class and SOP instance of all that resources hold, each once.

        Raises NotFound where one of the identifiers is none, TooLarge where there are more than `limit` instances.
        """
        access.require("dicom.read")
        digests = [parse_orthanc_id(each) for each in identifiers]
        known = {row["orthanc_id"] for row in await self._db.fetch("orthanc_known", access.tenant, digests)}
        if not known.issuperset(digests):
            raise NotFound("one of the resources does not exist")
        rows = await self._db.fetch("orthanc_instances", access.tenant, digests, limit + 1)
        if len(rows) > limit:
            raise TooLarge(f"the resources hold more than {limit} instances")
        return [(row["sop_class"], row["sop_uid"]) for row in rows]

    async def known(self, access: Access, identifiers: Sequence[str]) -> Sequence[Known]:
        """What the resources with those Orthanc identifiers are; those that do not exist are left out."""
        access.require("dicom.read")
        digests = [parse_orthanc_id(each) for each in identifiers]
        return [
            Known(
                Resource(Level(row["level"].lower()), row["orthanc_id"]),
                tuple(
                    row[name] for name in ("patient_id", "study_uid", "series_uid", "sop_uid") if row[name] is not None
                ),
            )
            for row in await self._db.fetch("orthanc_known", access.tenant, digests)
        ]

    async def parents(self, access: Access, instances: Sequence[str]) -> Sequence[tuple[str, str, str]]:
        """Study, series and SOP instance of those instances that are stored."""
        access.require("dicom.read", "dicom.delete")
        rows = await self._db.fetch("located_instances", access.tenant, instances)
        return [(row["study_uid"], row["series_uid"], row["sop_uid"]) for row in rows]

    async def folders(self, access: Access, identifiers: Sequence[str], level: Kind | None = None) -> list[Folder]:
        """The series of resources with those Orthanc identifiers, each with a folder of its own.

        `level` is what all of them are, None for a mixture. Raises NotFound when one of them is not there, TooLarge
        where they are more than one archive holds.
        """
        access.require("dicom.read")
        wanted = list(dict.fromkeys(parse_orthanc_id(each) for each in identifiers))
        rows = await self._db.fetch("orthanc_series", access.tenant, level or "", wanted, MAX_SERIES + 1)
        if len(rows) > MAX_SERIES or sum(row["instances"] for row in rows) > MAX_INSTANCES:
            raise TooLarge(f"the resources hold more than {MAX_SERIES} series or {MAX_INSTANCES} instances")
        if {each for row in rows for each in row["found"]} != set(wanted):
            raise NotFound(f"no such {level or 'resource'}")
        found, taken = [], _Names()
        for row in rows:
            attributes = orjson.loads(row["of_study"])
            study = taken.path("", patient_folder(attributes), "")
            study = taken.path(study, study_folder(attributes), row["study_uid"])
            attributes |= orjson.loads(row["of_series"])
            path = taken.path(study, series_folder(attributes), row["series_uid"])
            only = None if row["only"] is None else frozenset(row["only"])
            found.append(Folder(row["study_uid"], row["series_uid"], row["modality"], path, attributes, only))
        return found

    async def folders_of(
        self, access: Access, study: str, series: str | None = None, sop: str | None = None
    ) -> list[Folder]:
        """As `folders`, of one study, series or instance by its UIDs."""
        access.require("dicom.read")
        digest = await self._db.fetch_value("archive_identifier", access.tenant, study, series, sop)
        if digest is None:
            raise NotFound("no such instance" if sop else "no such series" if series else "no such study")
        return await self.folders(access, [spelled(digest)])

    async def measure(self, access: Access, folders: Sequence[Folder]) -> Measured:
        """What is known of an archive before it is read."""
        return await self._zipped.measure(access, folders)

    def zip(self, access: Access, folders: Sequence[Folder], packing: Packing) -> AsyncGenerator[bytes, None]:
        """The ZIP file in chunks."""
        access.require("dicom.read")
        return self._zipped.packed(access, folders, packing)

    def plain(
        self, access: Access, folders: Sequence[Folder], measured: Measured, offset: int, length: int
    ) -> AsyncGenerator[bytes, None]:
        """`length` bytes from `offset` on of the ZIP file that holds the files as they are stored, in chunks.

        Raises Unavailable where they are not those that were measured any more.
        """
        access.require("dicom.read")
        return self._zipped.plain(access, folders, measured, offset, offset + length)

    async def expire(self) -> None:
        """Forget what nobody asks for any more. For the background process."""
        await self._zipped.forget()


class _Names:
    """Folders by the resource that they are for: a second resource of the same name gets a number."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str, str], str] = {}
        self._taken: set[str] = set()

    def path(self, parent: str, name: str, uid: str) -> str:
        """The folder `name` within `parent` for the resource `uid`, with a slash at its end."""
        key = parent, name, uid
        if key not in self._of:
            path, count = f"{parent}{name}/", 1
            while path.casefold() in self._taken:
                count += 1
                path = f"{parent}{name}-{count}/"
            self._taken.add(path.casefold())
            self._of[key] = path
        return self._of[key]
