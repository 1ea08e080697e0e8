"""Resources as Orthanc's REST API shows them: one statement for one, and one for a list."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson

from dicomweb.bulk import BulkTable
from dicomweb.errors import BadQuery, NotFound
from dicomweb.media import DEFLATED_LE, IMPLICIT_LE
from dicomweb.orthanc_kinds import ANONYMIZED_FROM, ATTACHMENTS, METADATA, MODIFIED_FROM, Kinds, parse_kinds
from dicomweb.orthanc_tags import MAIN_TAGS, Format, main_tags, parse, requested_tags, spelled_tag
from dicomweb.tags import Level
from storage.access import LOCAL, Access
from storage.attachments import file_uuid
from storage.db import Database, Record
from storage.provenance import Origin
from storage.query_sql import Arguments
from storage.resource import Resource, spelled
from storage.resource_sql import (
    ALIAS,
    FIRST_PATIENT,
    JOINED,
    NUMBER_SIZE,
    ORDER,
    Parts,
    identifiers,
    one,
    paged,
)
from storage.settings import Settings

PLAIN: Final = Parts(
    main_tags=True, children=True, parent=True, labels=True, status=True, stable=True, protected=True, brief=True
)
_TITLE: Final[dict[Level, str]] = {
    Level.PATIENT: "Patient",
    Level.STUDY: "Study",
    Level.SERIES: "Series",
    Level.INSTANCE: "Instance",
}
_CHILDREN: Final = {Level.PATIENT: "Studies", Level.STUDY: "Series", Level.SERIES: "Instances"}
_PARENT: Final = {Level.STUDY: "ParentPatient", Level.SERIES: "ParentStudy", Level.INSTANCE: "ParentSeries"}
ORIGIN_NAMES: Final[Mapping[Origin, str]] = {"rest": "RestApi", "dimse": "DicomProtocol", "stow": "Plugins"}
_ROWS: Final = 500
_FURTHEST: Final = 2**40
_LONGEST: Final = 1 << 16
SIGNATURES: Final = {level: ";".join(map(spelled_tag, tags)) for level, tags in MAIN_TAGS.items()}
_REMEMBERED_TEXT: Final = 4096

Description = dict[str, Any]


def title(level: Level) -> str:
    """The level as answers name it."""
    return _TITLE[level]


def moment(at: datetime) -> str:
    """A time as answers spell it, in UTC."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat("T", "seconds")[:19].replace("-", "").replace(":", "")


@dataclass(frozen=True, slots=True)
class View:
    """How resources are described: which parts, in which form their tags."""

    parts: Parts = PLAIN
    form: Format = "Human"


@dataclass(frozen=True, slots=True)
class ResourceStatistics:
    """What is in a resource; `bytes` of files, `attached` of attachments."""

    studies: int
    series: int
    instances: int
    bytes: int
    attached: int


class ResourceService:
    """Describes resources. Methods take the caller's rights; what they may not see does not exist (NotFound)."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._db = db
        self.metadata_kinds = Kinds(METADATA, parse_kinds(settings.user_metadata))
        self.attachment_kinds = Kinds(ATTACHMENTS, parse_kinds(settings.user_attachments))

    async def one(self, access: Access, resource: Resource, view: View = View()) -> Description:
        """One resource. Raises NotFound."""
        access.require("dicom.search", "dicom.read")
        level = resource.level
        rows = await self._db.fetch_sql(one(level, view.parts), access.tenant, resource.id)
        if not rows:
            raise NotFound(f"no such {level}")
        return self.described(level, rows[0], view, {})

    async def parent(self, access: Access, resource: Resource, level: Level, view: View = View()) -> Description:
        """The resource of an upper level that a resource is in. Raises NotFound."""
        sql = f"SELECT {ALIAS[level]}.orthanc_id FROM {JOINED[resource.level]} WHERE {_is(resource.level)} LIMIT 1"  # noqa: S608
        rows = await self._db.fetch_sql(sql, access.tenant, resource.id)
        if not rows:
            raise NotFound(f"no such {resource.level}")
        return await self.one(access, Resource(level, rows[0][0]), view)

    async def children(
        self, access: Access, resource: Resource, level: Level, view: View | None
    ) -> list[Description] | list[str]:
        """The resources of a lower level within one, described or (`view` None) by identifier. Raises NotFound."""
        access.require("dicom.search", "dicom.read")
        if not await self._db.fetch_value("resource_exists", access.tenant, resource.level, resource.id):
            raise NotFound(f"no such {resource.level}")
        arguments = Arguments((access.tenant, resource.id))
        order = {Level.STUDY: "t.id", Level.SERIES: "s.id"}.get(level, ORDER[level])
        statement = _list(level, _is(resource.level), order, "", view)
        rows = await self._db.fetch_sql(statement, *arguments.values)
        return self.rendered(level, rows, view)

    def rendered(self, level: Level, rows: Sequence[Record], view: View | None) -> list[Any]:
        """Rows of `columns`, or of identifiers, as answers show them."""
        if view is None:
            return [spelled(row[0]) for row in rows]
        shared: dict[int, Mapping[str, Any]] = {}
        return [self.described(level, row, view, shared) for row in rows]

    def each(
        self, access: Access, level: Level, view: View | None, since: int, limit: int
    ) -> AsyncGenerator[list[Any], None]:
        """Every resource of a level in the order in which they came, in batches; `limit` 0: all."""
        conditions = f"{ALIAS[level]}.tenant = $1"
        if level is Level.PATIENT:
            conditions += f" AND {FIRST_PATIENT}"
        arguments = Arguments((access.tenant,))
        return self.select(access, level, view, conditions, arguments, ORDER[level], (since, limit))

    async def select(
        self,
        access: Access,
        level: Level,
        view: View | None,
        conditions: str,
        arguments: Arguments,
        order: str,
        page: tuple[int, int],
        *,
        few: bool = False,
    ) -> AsyncGenerator[list[Any], None]:
        """Resources for which compiled conditions hold, in batches; `page`: how many to pass over, how many (0: all).

        One statement. Many are read from a cursor, so that a batch of them is in memory. A cursor takes a transaction,
        which is four round trips: where `few` are expected, they are read without it, and only more of them with it.
        """
        access.require("dicom.search", "dicom.read")
        since, limit = page
        if since > _FURTHEST or limit > _FURTHEST:
            raise BadQuery(f"a page begins and ends within the first {_FURTHEST}", attribute="Since")
        most, first = arguments(limit or None, "bigint"), arguments(since, "bigint")
        sql = _list(level, conditions, order, f"LIMIT {most} OFFSET {first}", view)
        shared: dict[int, Mapping[str, Any]] = {}
        if few or 0 < limit <= _ROWS:
            tried = _ROWS + 1 if not 0 < limit <= _ROWS else limit
            found = await self._db.fetch_sql(sql, *arguments.values[:-2], tried, since)
            if len(found) <= _ROWS:
                yield self.rendered(level, found, view)
                return
        async with aclosing(self._db.pages(sql, arguments.values, _ROWS)) as pages:
            async for rows in pages:
                if view is None:
                    yield [spelled(row[0]) for row in rows]
                else:
                    yield [self.described(level, row, view, shared) for row in rows]

    async def metadata(self, access: Access, resource: Resource) -> dict[int, str]:
        """All metadata of a resource by number: the archive's, and those of clients. Raises NotFound."""
        found = await self.one(access, resource, View(Parts(metadata=True)))
        numbers: dict[str, str] = found["Metadata"]
        known = {self.metadata_kinds.number(name): value for name, value in numbers.items()}
        return {number: value for number, value in known.items() if number is not None}

    async def statistics(self, access: Access, resource: Resource) -> ResourceStatistics:
        """How much is in a resource. Raises NotFound."""
        access.require("dicom.search", "dicom.read")
        row = await self._db.fetch_row("resource_statistics", access.tenant, resource.level, resource.id)
        if row is None:
            raise NotFound(f"no such {resource.level}")
        return ResourceStatistics(**dict(row))

    async def lookup(self, access: Access, text: str) -> list[Resource]:
        """The resources with that PatientID or UID, in any case of its letters."""
        access.require("dicom.search")
        rows = await self._db.fetch("orthanc_lookup", access.tenant, text)
        return [Resource(Level(row["level"]), row["orthanc_id"]) for row in rows]

    # -- one row

    def described(self, level: Level, row: Record, view: View, shared: dict[int, Mapping[str, Any]]) -> Description:
        """A row of `columns` as an answer shows it. `shared`: what instances of a series share, kept between rows."""
        parts = view.parts
        found: Description = {"ID": spelled(row["orthanc_id"]), "Type": _TITLE[level]}
        if parts.main_tags:
            _add_main_tags(found, level, row, view.form, shared)
        if parts.children and level in _CHILDREN:
            found[_CHILDREN[level]] = _children(level, row["children"])
        if parts.parent and level is not Level.PATIENT:
            found[_PARENT[level]] = spelled(row["parent"])
        if parts.labels:
            found["Labels"] = row["labels"]
        if parts.stable and level is not Level.INSTANCE:
            found["IsStable"] = row["stable"]
        if parts.protected and level is Level.PATIENT:
            found["IsProtected"] = row["protected"]
        if parts.status and level is Level.SERIES:
            found["ExpectedNumberOfInstances"] = row["expected_count"]
            found["Status"] = row["status"]
        noted = orjson.loads(row["noted"]) if (parts.brief or parts.metadata) and row["noted"] else {}
        if parts.brief:
            _add_brief(found, level, row, noted)
        if parts.metadata:
            found["Metadata"] = self._metadata(level, row, noted)
        if parts.attachments:
            found["Attachments"] = _attached(level, row)
        if parts.requested:
            asked = parse(row["requested"])
            found["RequestedTags"] = requested_tags(asked, parts.requested, view.form, _LONGEST)
        return found

    def _metadata(self, level: Level, row: Record, noted: Mapping[str, str]) -> dict[str, str]:
        found = {self.metadata_kinds.name(int(number)): value for number, value in noted.items()}
        found["MainDicomTagsSignature"] = SIGNATURES[level]
        if level is not Level.INSTANCE:
            found["LastUpdate"] = moment(row["updated"])
        if level is Level.SERIES:
            if row["expected_count"] is not None:
                found["ExpectedNumberOfInstances"] = str(row["expected_count"])
            found["RemoteAET"] = orjson.loads(row["source"] or b"{}").get("aet", "")
        if level is Level.INSTANCE:
            found |= _facts_of_file(row)
        return dict(sorted(found.items()))


def _is(level: Level) -> str:
    """Whether a row is, or is within, the resource $2 of the tenant $1."""
    alias = ALIAS[level]
    return f"{alias}.orthanc_id = $2 AND {alias}.tenant = $1"


def _list(level: Level, conditions: str, order: str, limit: str, view: View | None) -> str:
    if view is None:
        return identifiers(level, conditions, order, limit)
    return paged(level, view.parts, conditions, order, limit)


def _children(level: Level, found: Sequence[bytes]) -> list[str]:
    """The identifiers of children, in the order in which they came."""
    if level is Level.SERIES:
        return [spelled(child) for child in found]
    return [spelled(child[NUMBER_SIZE:]) for child in sorted(found)]


def _add_main_tags(
    found: Description, level: Level, row: Record, form: Format, shared: dict[int, Mapping[str, Any]]
) -> None:
    if level is Level.INSTANCE:
        found["MainDicomTags"] = main_tags(_of_instance(parse(row["own"]), row, shared), MAIN_TAGS[level], form)
        return
    own, timezone = row["own"], row["timezone"] if level is Level.SERIES else None
    # The same resources are looked at again and again, and to read their attributes takes longest.
    known = _remembered if len(own) <= _REMEMBERED_TEXT else _main_tags
    found |= known(level, form, own, timezone)


def _main_tags(level: Level, form: Format, own: str, timezone: str | None) -> Mapping[str, Mapping[str, Any]]:
    """What a description of a patient, study or series says of its attributes. Nobody changes what is in it."""
    if level is Level.SERIES:
        more = parse(own)
        if timezone is not None:
            more["00080201"] = parse(timezone)
        return {"MainDicomTags": main_tags(more, MAIN_TAGS[level], form)}
    # No main tag of patients and studies is a number, whose digits would have to be kept.
    elements = orjson.loads(own)
    found = {"MainDicomTags": main_tags(elements, MAIN_TAGS[level], form)}
    if level is Level.STUDY:
        found["PatientMainDicomTags"] = main_tags(elements, MAIN_TAGS[Level.PATIENT], form)
    return found


_remembered = lru_cache(maxsize=2048)(_main_tags)


def _of_instance(own: Mapping[str, Any], row: Record, shared: dict[int, Mapping[str, Any]]) -> Mapping[str, Any]:
    if row["shared"] is not None:
        every = parse("{" + row["shared"].replace("\n", ",") + "}")
        shared[row["series_key"]] = {tag: every[tag] for tag in MAIN_TAGS[Level.INSTANCE] if tag in every}
    known = dict(shared.get(row["series_key"], {}))
    known |= own
    known["00080018"] = {"vr": "UI", "Value": [row["sop_uid"]]}
    return {tag: element for tag, element in known.items() if element is not None}


def _add_brief(found: Description, level: Level, row: Record, noted: Mapping[str, str]) -> None:
    if level is Level.INSTANCE:
        found["FileSize"] = row["object_size"]
        found["FileUuid"] = file_uuid(row["object_key"])
        found["IndexInSeries"] = row["instance_number"]
    else:
        found["LastUpdate"] = moment(row["updated"])
    for name, number in (("ModifiedFrom", MODIFIED_FROM), ("AnonymizedFrom", ANONYMIZED_FROM)) if noted else ():
        if str(number) in noted:
            found[name] = noted[str(number)]


def _facts_of_file(row: Record) -> dict[str, str]:
    source = orjson.loads(row["source"] or b"{}")
    kind = source.get("kind", "")
    found = {
        "HttpUsername": "" if source.get("principal") == LOCAL.principal else source.get("principal", ""),
        "Origin": ORIGIN_NAMES.get(kind, "Unknown"),
        "ReceptionDate": moment(row["received_at"]),
        "RemoteAET": source.get("aet", ""),
        "RemoteIP": source.get("remote", ""),
        "SopClassUid": row["sop_class"],
        "TransferSyntax": row["transfer_syntax"],
    }
    if "called" in source:
        found["CalledAET"] = source["called"]
    if row["instance_number"] is not None:
        found["IndexInSeries"] = str(row["instance_number"])
    pixels = BulkTable.from_bytes(row["bulk_table"]).lookup("7FE00010")
    if pixels is not None:
        found["PixelDataVR"] = pixels.vr
        if row["transfer_syntax"] != DEFLATED_LE:
            header = 8 if row["transfer_syntax"] == IMPLICIT_LE else 12
            found["PixelDataOffset"] = str(pixels.offset - header)
    return found


def _attached(level: Level, row: Record) -> list[Description]:
    rows = orjson.loads(row["attached"] or b"[]")
    if level is Level.INSTANCE:
        rows.insert(0, (1, row["object_key"], row["object_size"], ""))
    return [attachment_info(kind, file_uuid(key), size, md5) for kind, key, size, md5 in rows]


def attachment_info(kind: int, uuid: str, size: int, md5: str) -> Description:
    """An attachment as answers describe it: stored as it came, so that the compressed size is the size."""
    return {
        "Uuid": uuid,
        "ContentType": kind,
        "UncompressedSize": size,
        "CompressedSize": size,
        "UncompressedMD5": md5,
        "CompressedMD5": md5,
    }


def with_requested(view: View, tags: Sequence[str]) -> View:
    """The same view with attributes that were asked for."""
    return replace(view, parts=replace(view.parts, requested=tuple(tags)))


def reference(resource: Resource) -> Description:
    """What answers say of a resource that they only point to."""
    return {"ID": spelled(resource.id), "Path": resource.path, "Type": _TITLE[resource.level]}
