"""Search as Orthanc's REST API has it: any tag, labels, metadata, parents, any order; one SQL statement."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, assert_never

from dicomweb.errors import BadQuery, NotFound
from dicomweb.fold import wildcard_to_like
from dicomweb.orthanc_kinds import FIRST_USER, METADATA, ORIGINS
from dicomweb.query import MAX_KEYS, MAX_VALUE_LENGTH, MAX_VALUES, Case, Match, Query
from dicomweb.tags import COMPUTED_TAGS, Level, level_of, vr_of
from storage.access import LOCAL, Access
from storage.db import Database
from storage.labels import checked_label
from storage.query_sql import COLUMNS, PATIENT_COLUMNS, Arguments, conditions, element, hex_tag
from storage.related import related
from storage.resource import Resource
from storage.resource_sql import ALIAS, FIRST_PATIENT, ORDER, attribute, counted
from storage.resources import ORIGIN_NAMES, SIGNATURES, ResourceService, View

LabelRule = Literal["All", "Any", "None"]
OrderKind = Literal["text", "integer", "number"]

MAX_ORDERS: Final = 16
MAX_LABELS: Final = 100
_RANK: Final = tuple(Level)
# What is searched of computed attributes.
_SEARCHED: Final = frozenset(("00080061", "00080062"))
# PatientID, AccessionNumber, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID.
_IDENTIFIERS: Final = ("00100020", "00080050", "0020000D", "0020000E", "00080018")
_TEMPORAL: Final = frozenset(("DA", "TM", "DT"))
_NUMERIC: Final = frozenset({"DS", "IS", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"})
_MOMENT: Final = "to_char({} AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS')"
_ORIGIN: Final = (
    "CASE i.source::json->>'kind' "
    + " ".join(f"WHEN '{kind}' THEN '{name}'" for kind, name in ORIGIN_NAMES.items())
    + " ELSE 'Unknown' END"
)
_COUNTS: Final = {
    "00201206": (Level.STUDY, "t.series_count"),
    "00201208": (Level.STUDY, "t.instance_count"),
    "00201209": (Level.SERIES, "s.instance_count"),
}
_OF_PIXELS: Final = (METADATA["PixelDataOffset"], METADATA["PixelDataVR"])
# Metadata that the archive itself knows, as SQL.
_FACTS: Final[Mapping[tuple[Level, int], str]] = {
    (Level.PATIENT, METADATA["LastUpdate"]): _MOMENT.format("p.changed_at"),
    (Level.STUDY, METADATA["LastUpdate"]): _MOMENT.format("t.changed_at"),
    (Level.SERIES, METADATA["LastUpdate"]): _MOMENT.format("s.changed_at"),
    (Level.SERIES, METADATA["ExpectedNumberOfInstances"]): "s.expected_count::text",
    (Level.INSTANCE, METADATA["ReceptionDate"]): _MOMENT.format("i.received_at"),
    (Level.INSTANCE, METADATA["IndexInSeries"]): "i.instance_number::text",
    (Level.INSTANCE, METADATA["TransferSyntax"]): "i.transfer_syntax",
    (Level.INSTANCE, METADATA["SopClassUid"]): "i.sop_class",
    (Level.SERIES, METADATA["RemoteAET"]): "(SELECT c.source::json->>'aet' FROM instance c WHERE c.series = s.id"
    " ORDER BY c.received_at LIMIT 1)",
    (Level.INSTANCE, METADATA["Origin"]): _ORIGIN,
    (Level.INSTANCE, METADATA["HttpUsername"]): f"CASE i.source::json->>'principal' WHEN '{LOCAL.principal}' THEN ''"
    " ELSE i.source::json->>'principal' END",
    (Level.INSTANCE, METADATA["RemoteAET"]): "i.source::json->>'aet'",
    (Level.INSTANCE, METADATA["RemoteIP"]): "i.source::json->>'remote'",
    (Level.INSTANCE, METADATA["CalledAET"]): "i.source::json->>'called'",
}


@dataclass(frozen=True, slots=True)
class OrderBy:
    """One key of the order: a tag, or (`metadata`) the number of metadata."""

    kind: OrderKind
    tag: str = ""
    metadata: int = 0
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is searched. `tags` and `metadata`: texts with `*`, `?`, ranges of dates, lists, as they came.

    `limit` 0: all. Resources come in `order`, then as they came in.
    """

    level: Level
    tags: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[int, str] = field(default_factory=dict)
    labels: Sequence[str] = ()
    label_rule: LabelRule = "All"
    parents: Sequence[Resource] = ()
    order: Sequence[OrderBy] = ()
    case: Case = "ignored"
    since: int = 0
    limit: int = 0


class FindService:
    """Finds resources. Methods take the caller's rights, and raise BadQuery for what cannot be searched."""

    def __init__(self, db: Database, resources: ResourceService) -> None:
        self._db = db
        self._resources = resources

    def run(self, access: Access, wanted: Wanted, view: View | None) -> AsyncGenerator[list[Any], None]:
        """What matches, in batches: described, or (`view` None) by identifier."""
        arguments = Arguments()
        terms = where(wanted, access.tenant, arguments)
        order = order_of(wanted)
        page, few = (wanted.since, wanted.limit), _names_few(wanted)
        return self._resources.select(access, wanted.level, view, terms, arguments, order, page, few=few)

    async def count(self, access: Access, wanted: Wanted) -> int:
        """How many match."""
        access.require("dicom.search")
        arguments = Arguments()
        rows = await self._db.fetch_sql(
            counted(wanted.level, where(wanted, access.tenant, arguments)), *arguments.values
        )
        found: int = rows[0][0]
        return found

    async def content(
        self, access: Access, resources: Sequence[bytes], level: Level | None, view: View
    ) -> list[dict[str, Any]]:
        """Resources by identifier; those that nobody has are left out.

        With a `level` those of it that they are, are in, or hold. Raises TooLarge where these are too many.
        """
        if level is not None:
            resources = await related(self._db, access, resources, level)
        found: dict[str, dict[str, Any]] = {}
        for each in Level if level is None else (level,):
            arguments = Arguments()
            alias = ALIAS[each]
            terms = f"{alias}.tenant = {arguments(access.tenant, 'integer')}"
            terms += f" AND {alias}.orthanc_id = ANY ({arguments(list(resources), 'bytea[]')})"
            batches = self._resources.select(access, each, view, terms, arguments, ORDER[each], (0, 0))
            async for batch in batches:
                found |= {resource["ID"]: resource for resource in batch}
            if len(found) == len(resources):
                break
        return list(found.values())


def _names_few(wanted: Wanted) -> bool:
    """Whether a search names a patient, a study or what is in it: then it finds few, as a rule."""
    texts = (wanted.tags.get(tag, "") for tag in _IDENTIFIERS)
    return bool(wanted.parents) or any(text and not set(text) & set("*?") for text in texts)


def where(wanted: Wanted, tenant: int, arguments: Arguments) -> str:
    """The conditions of a search. Raises BadQuery."""
    level, alias = wanted.level, ALIAS[wanted.level]
    terms = [f"{alias}.tenant = {arguments(tenant, 'integer')}"]
    if level is Level.PATIENT:
        terms.append(FIRST_PATIENT)
    for parent in wanted.parents:
        if _RANK.index(parent.level) >= _RANK.index(level):
            raise BadQuery(f"a {level} is in no {parent.level}", attribute=f"Parent{parent.level.capitalize()}")
        terms.append(f"{ALIAS[parent.level]}.orthanc_id = {arguments(parent.id, 'bytea')}")
    terms += _tag_terms(wanted, tenant, arguments)
    terms += [_metadata_term(wanted, tenant, kind, text, arguments) for kind, text in wanted.metadata.items()]
    terms += _label_terms(wanted, tenant, arguments)
    return " AND ".join(f"({term})" for term in terms)


def _tag_terms(wanted: Wanted, tenant: int, arguments: Arguments) -> list[str]:
    if len(wanted.tags) > MAX_KEYS:
        raise BadQuery(f"the query has more than {MAX_KEYS} tags", attribute="Query")
    level = wanted.level
    found = [_match(tag, text) for tag, text in wanted.tags.items()]
    matches = [match for match in found if match is not None]
    own = [match for match in matches if _rank(match) <= _RANK.index(level)]
    below = [match for match in matches if _rank(match) > _RANK.index(level)]
    columns = PATIENT_COLUMNS if level is Level.PATIENT else COLUMNS
    terms = conditions(
        Query(level, matches=tuple(own), case=wanted.case), columns, lambda tag: element(tag, level), arguments
    )
    return [*terms, _exists(wanted, below, tenant, arguments)] if below else terms


def _rank(match: Match) -> int:
    """The level that a match is about; what is computed of a study is the study's."""
    tag = match.path[0]
    return _RANK.index(Level.STUDY if tag in _SEARCHED else level_of(tag))


def _exists(wanted: Wanted, below: Sequence[Match], tenant: int, arguments: Arguments) -> str:
    """Whether one and the same series (or study) in it has what belongs to lower levels.

    Attributes of instances are those of the first one in a series, unless a column has them.
    """
    level = wanted.level
    joined = ["study t"] if level is Level.PATIENT else []
    on = ["t.patient = p.id"] if level is Level.PATIENT else []
    if level is not Level.SERIES and any(_rank(match) > _RANK.index(Level.STUDY) for match in below):
        joined.append("series s")
        on.append("s.study = t.id")
    columns = {tag: column for tag, column in COLUMNS.items() if not column.sql.startswith("i.")}
    if any(match.path[0] in COLUMNS and match.path[0] not in columns for match in below):
        joined.append("instance i")
        on += ["i.series = s.id", f"i.tenant = {arguments(tenant, 'integer')}"]
        columns = COLUMNS
    terms = conditions(Query(level, matches=tuple(below), case=wanted.case), columns, _element_below, arguments)
    tests = " AND ".join(f"({term})" for term in (*on, *terms))
    return f"EXISTS (SELECT FROM {', '.join(joined)} WHERE {tests})" if joined else tests


def _element_below(tag: str) -> str:
    hex_tag(tag)
    owner = level_of(tag)
    if owner is Level.STUDY:
        return f"t.attributes->'{tag}'"
    return f"s.attributes->'{tag}'" if owner is Level.SERIES else f"members_of(s.shared)->'{tag}'"


def _match(tag: str, text: str) -> Match | None:
    """The condition that a text stands for; None where it holds for all."""
    if tag in COMPUTED_TAGS and tag not in _SEARCHED:
        raise BadQuery("a computed attribute cannot be searched", attribute=tag)
    vr = vr_of(tag)
    values = tuple(dict.fromkeys(value.strip() for value in text.split("\\")))
    if len(values) > MAX_VALUES or any(len(value) > MAX_VALUE_LENGTH for value in values):
        raise BadQuery(f"at most {MAX_VALUES} values of {MAX_VALUE_LENGTH} characters", attribute="Query")
    if "\0" in text or any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise BadQuery("a value is text without NUL", attribute="Query")
    if all(not value.strip("*") for value in values):
        return None
    path = (tag,)
    if vr in _TEMPORAL and len(values) == 1 and "-" in values[0]:
        low, _, high = values[0].partition("-")
        return Match(path, vr, "range", (low.strip(), high.strip()))
    if any("*" in value or "?" in value for value in values):
        return Match(path, "LO" if vr in _NUMERIC else vr, "wildcard", values)
    if vr in _NUMERIC and not all(_is_number(value) for value in values):
        raise BadQuery("the attribute is matched with a number", attribute="Query")
    return Match(path, vr, "exact" if len(values) == 1 else "list", values)


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text) and text.isascii()
    except ValueError:
        return False


def _metadata_term(wanted: Wanted, tenant: int, kind: int, text: str, arguments: Arguments) -> str:
    if kind >= FIRST_USER and text.strip("*") and "*" not in text and "?" not in text:
        # The index holds the beginning of the value.
        value, of, own = arguments(text), arguments(tenant, "integer"), ALIAS[wanted.level]
        return (
            f"{own}.orthanc_id IN (SELECT m.orthanc_id FROM user_metadata m WHERE m.tenant = {of}"  # noqa: S608
            f" AND m.kind = {kind:d} AND m.level = '{wanted.level}'"
            f" AND left(m.value, 100) = left({value}, 100) AND m.value = {value})"
        )
    value = _metadata(wanted.level, kind)
    if not text.strip("*"):
        return f"{value} IS NOT NULL"
    if "*" in text or "?" in text:
        return f"{value} LIKE {arguments(wildcard_to_like(text))}"
    return f"{value} = {arguments(text)}"


def _metadata(level: Level, kind: int) -> str:
    """SQL of a metadata as text; NULL where nothing of the level has it. Raises BadQuery for what is in no index."""
    fact = _FACTS.get((level, kind))
    if fact is not None:
        return f"({fact})"
    if kind == METADATA["MainDicomTagsSignature"]:
        return f"'{SIGNATURES[level]}'::text"
    if level is Level.INSTANCE and kind in _OF_PIXELS:
        raise BadQuery("the place of pixel data in files cannot be searched", attribute="MetadataQuery")
    if kind < FIRST_USER and kind not in ORIGINS.values():
        return "NULL::text"
    a = ALIAS[level]
    return (
        f"(SELECT m.value FROM user_metadata m WHERE m.tenant = {a}.tenant AND m.orthanc_id = {a}.orthanc_id"  # noqa: S608
        f" AND m.level = '{level}' AND m.kind = {kind:d})"
    )


def _label_terms(wanted: Wanted, tenant: int, arguments: Arguments) -> list[str]:
    labels = [checked_label(label) for label in dict.fromkeys(wanted.labels)]
    if len(labels) > MAX_LABELS:
        raise BadQuery(f"at most {MAX_LABELS} labels", attribute="Labels")
    if not labels and wanted.label_rule != "None":
        return []
    own = f"{ALIAS[wanted.level]}.orthanc_id"
    of_level = f"FROM label l WHERE l.tenant = {arguments(tenant, 'integer')} AND l.level = '{wanted.level}'"
    one = f"{of_level} AND l.orthanc_id = {own}"
    match wanted.label_rule:
        case "All":
            return [f"{own} IN (SELECT l.orthanc_id {of_level} AND l.label = {arguments(x)})" for x in labels]
        case "Any":
            return [f"{own} IN (SELECT l.orthanc_id {of_level} AND l.label = ANY ({arguments(labels, 'text[]')}))"]
        case "None" if labels:
            return [f"NOT EXISTS (SELECT {one} AND l.label = ANY ({arguments(labels, 'text[]')}))"]
        case "None":
            return [f"NOT EXISTS (SELECT {one})"]
        case _:
            assert_never(wanted.label_rule)


def order_of(wanted: Wanted) -> str:
    """What the results are ordered by, of lower levels the first below; those that have no value come last."""
    if len(wanted.order) > MAX_ORDERS:
        raise BadQuery(f"at most {MAX_ORDERS} keys of an order", attribute="OrderBy")
    keys = [_order_key(wanted.level, each) for each in wanted.order]
    last = ORDER[wanted.level]
    if len(keys) == 1 and wanted.order[0].descending:  # as the indexes have it
        last = ", ".join(f"{each} DESC" for each in last.split(", "))
    return ", ".join([*keys, last])


def _order_key(level: Level, order: OrderBy) -> str:
    direction = " DESC" if order.descending else ""
    if order.tag:
        columns = PATIENT_COLUMNS if level is Level.PATIENT else COLUMNS
        column = columns.get(order.tag) if _RANK.index(level_of(order.tag)) <= _RANK.index(level) else None
        if order.kind == "text" and column is not None and column.kind in ("date", "time", "text"):
            return f"{column.sql}{direction}"  # never NULL: an index may give the order
        value = _order_text(level, order.tag)
    else:
        value = _metadata(level, order.metadata)
    if order.kind == "text":
        return f'{value} COLLATE "C"{direction} NULLS LAST'
    number = f"dicom_number({value})"
    return f"{f'trunc({number})' if order.kind == 'integer' else number}{direction} NULLS LAST"


def _order_text(level: Level, tag: str) -> str:
    owner, count = _COUNTS.get(tag, (None, ""))
    if owner is not None and _RANK.index(owner) <= _RANK.index(level):
        return f"({count})::text"
    if level is Level.INSTANCE and tag in COLUMNS and COLUMNS[tag].sql.startswith("i."):
        return f"({COLUMNS[tag].sql})::text"
    return f"(SELECT string_agg(v, '\\') FROM dicom_values({attribute(level, tag)}) AS v)"  # noqa: S608


def checked_parent(level: Level, identifier: str) -> Resource:
    """The parent that a search names; one that nobody has finds nothing. Raises BadQuery."""
    try:
        return Resource.of(level, identifier)
    except NotFound:
        raise BadQuery("a parent is named by its identifier", attribute=f"Parent{level.capitalize()}") from None
