"""Which instances a retrieve request means (PS3.4 C.4.2.2.1): unique keys, one or many of each level."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final

from dicomweb.errors import NotFound
from dicomweb.query import Match, Query
from dicomweb.tags import Level
from storage.access import Access
from storage.db import Database
from storage.query_sql import FROM, Arguments, where
from storage.resource import spelled
from storage.retrieve import Instance, RetrieveService, instance_of

_KEYS: Final = {"00100020": "LO", "0020000D": "UI", "0020000E": "UI", "00080018": "UI", "00080050": "SH"}
_SERIES: Final = "t.study_uid, s.series_uid, s.instance_count"
_INSTANCES: Final = """i.sop_uid, s.series_uid, t.study_uid, i.sop_class, i.object_key, i.object_offset, i.object_size,
    i.transfer_syntax, i.file_sha256, i.meta_size, i.flags, i.bits_allocated, i.version AS revision,
    i.frame_table IS NOT NULL AS has_frames"""
_ORDER: Final = "t.study_date, t.id, s.series_number, s.id"


@dataclass(frozen=True, slots=True)
class UniqueKeys:
    """What a retrieve request names; an empty tuple leaves a level open. `accessions`: accession numbers of studies."""

    patients: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    accessions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """The instances that were found: `count` of them when they were counted."""

    count: int
    _series: Sequence[tuple[str, str]]
    _found: Sequence[Instance]
    _access: Access
    _retrieve: RetrieveService

    async def instances(self) -> AsyncGenerator[Instance, None]:
        """They themselves in reading order, those of one series in memory. What was deleted meanwhile is left out."""
        for instance in self._found:
            yield instance
        for study, series in self._series:
            try:
                _, found = await self._retrieve.instances(self._access, study, series)
            except NotFound:
                continue
            for instance in found:
                yield instance


class SelectionService:
    """Finds what is to be retrieved."""

    def __init__(self, db: Database, retrieve: RetrieveService) -> None:
        self._db = db
        self._retrieve = retrieve

    async def select(self, access: Access, keys: UniqueKeys) -> Selection:
        """What all keys together name, by one statement; nothing, where a key is not known. Raises Unavailable."""
        access.require("dicom.read")
        level = Level.INSTANCE if keys.instances else Level.SERIES
        arguments = Arguments()
        conditions = where(_query(level, keys, access), access.tenant, arguments)
        # Only parameters and constants of storage go into the text.
        text = f"FROM {FROM[level]} WHERE {conditions} ORDER BY {_ORDER}"
        if level is Level.SERIES:
            rows = await self._db.fetch_sql(f"SELECT {_SERIES} {text}", *arguments.values)
            count = sum(row["instance_count"] for row in rows)
            series = [(row["study_uid"], row["series_uid"]) for row in rows]
            return Selection(count, series, (), access, self._retrieve)
        rows = await self._db.fetch_sql(
            f"SELECT {_INSTANCES} {text}, i.instance_number, i.sop_uid",
            *arguments.values,
        )
        found = [instance_of(access.tenant, row["study_uid"], row) for row in rows]
        return Selection(len(found), (), found, access, self._retrieve)

    async def kinds(self, access: Access, keys: UniqueKeys) -> list[tuple[str, str]]:
        """SOP class and transfer syntax of what `select` finds, each pair once. Raises Unavailable."""
        access.require("dicom.read")
        arguments = Arguments()
        conditions = where(_query(Level.INSTANCE, keys, access), access.tenant, arguments)
        rows = await self._db.fetch_sql(
            f"SELECT DISTINCT i.sop_class, i.transfer_syntax FROM {FROM[Level.INSTANCE]} WHERE {conditions}",  # noqa: S608
            *arguments.values,
        )
        return [(row["sop_class"], row["transfer_syntax"]) for row in rows]

    async def identifiers(self, access: Access, keys: UniqueKeys, most: int) -> list[str]:
        """Orthanc's identifiers of what `select` finds, at most so many. Raises Unavailable."""
        access.require("dicom.read")
        arguments = Arguments()
        conditions = where(_query(Level.INSTANCE, keys, access), access.tenant, arguments)
        rows = await self._db.fetch_sql(
            f"SELECT i.orthanc_id FROM {FROM[Level.INSTANCE]} WHERE {conditions}"  # noqa: S608
            f" ORDER BY {_ORDER}, i.instance_number, i.sop_uid LIMIT {arguments(most, 'integer')}",
            *arguments.values,
        )
        return [spelled(row["orthanc_id"]) for row in rows]


def _query(level: Level, keys: UniqueKeys, access: Access) -> Query:
    named = (keys.patients, keys.studies, keys.series, keys.instances, keys.accessions)
    matches = tuple(
        Match((tag,), vr, "list", values) for (tag, vr), values in zip(_KEYS.items(), named, strict=True) if values
    )
    return Query(level=level, matches=matches, labels=access.labels)
