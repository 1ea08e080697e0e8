"""Search at every level: one SQL statement whose rows are finished DICOM JSON (QIDO-RS, C-FIND)."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from dicomweb.query import Query
from dicomweb.tags import COMPUTED_TAGS, Level, level_of
from storage.access import Access
from storage.damage import Damage
from storage.db import Database
from storage.objects import ObjectStore
from storage.query_sql import FROM, Arguments, element, labelled_studies, where
from storage.rows import SERIES_SUMMARY, STUDY_SUMMARY
from storage.side_objects import stored_metadata

_MAX_FIELDS = 200

# The row of each level as finished JSON, see functions/search.sql; {base} is the parameter with the DICOMweb root.
_STUDY_ROW = "qido_study(t, {base})"
_SERIES_ROW = "qido_series(s, t.study_uid, {base})"
_INSTANCE_ROW = "qido_instance(i, t.study_uid, s.series_uid, {base})"
# All attributes of an instance are its metadata: only the computed ones are missing.
_METADATA = """i.metadata, i.metadata_crc, i.metadata_length, i.object_key, i.sop_uid, i.metadata_cuts,
    i.transfer_syntax, concat('/studies/', t.study_uid, '/series/', s.series_uid, '/instances/', i.sop_uid) AS path"""
_STUDY_COUNT = "p.study_count"
_PATIENT_ROW = f"""concat('{{"00201200":{{"vr":"IS","Value":[', {_STUDY_COUNT}, ']}}}}')"""
_ROW: dict[Level, str] = {
    Level.PATIENT: _PATIENT_ROW,
    Level.STUDY: _STUDY_ROW,
    Level.SERIES: _SERIES_ROW,
    Level.INSTANCE: _INSTANCE_ROW,
}
_ALL: dict[Level, str] = {
    Level.PATIENT: "p.attributes",
    Level.STUDY: "t.attributes",
    Level.SERIES: "s.attributes",
}


def _tags(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Every attribute that a level's row carries anyway: asking for it by includefield changes nothing.
_INCLUDED: dict[Level, frozenset[str]] = {
    Level.PATIENT: frozenset({"00201200"}),
    Level.STUDY: _tags("00080005 00080056 00080061 00080062 00081190 00201206 00201208").union(STUDY_SUMMARY),
    Level.SERIES: _tags("00080005 00080056 00081190 00201209").union(SERIES_SUMMARY),
    Level.INSTANCE: _tags("00080005 00080016 00080018 00080056 00081190 00083002")
    | _tags("00200013 00280008 00280010 00280011 00280100"),
}
_COMPUTED: dict[str, str] = {
    "00080061": """jsonb_build_object('vr', 'CS', 'Value', t.modalities)""",
    "00080062": """jsonb_build_object('vr', 'UI', 'Value', t.sop_classes)""",
    "00201206": """jsonb_build_object('vr', 'IS', 'Value', ARRAY[t.series_count])""",
    "00201208": """jsonb_build_object('vr', 'IS', 'Value', ARRAY[t.instance_count])""",
    "00201209": """jsonb_build_object('vr', 'IS', 'Value', ARRAY[s.instance_count])""",
}


@dataclass(frozen=True, slots=True)
class _Sorted:
    """A column that rows are sorted by; NULLs come last."""

    sql: str
    cast: str = "bigint"
    descending: bool = False
    nullable: bool = False

    @property
    def order(self) -> str:
        """The term of an ORDER BY clause."""
        return f"{self.sql} DESC" if self.descending else self.sql


_ORDER: dict[Level, tuple[_Sorted, ...]] = {
    Level.PATIENT: (_Sorted("p.patient_id", "text"), _Sorted("p.id")),
    Level.STUDY: (_Sorted("t.study_date", "text", descending=True), _Sorted("t.id", descending=True)),
    Level.SERIES: (_Sorted("s.series_number", nullable=True), _Sorted("s.id")),
    Level.INSTANCE: (
        _Sorted("s.series_number", nullable=True),
        _Sorted("s.id"),
        _Sorted("i.instance_number", nullable=True),
        _Sorted("i.sop_uid", "text"),
    ),
}
# Without a study there is no reading order to keep, and this one is an index's.
_ORDER_EVERYWHERE: dict[Level, tuple[_Sorted, ...]] = {
    **_ORDER,
    Level.SERIES: (_Sorted("s.id"),),
    Level.INSTANCE: (_Sorted("i.series"), _Sorted("i.instance_number", nullable=True), _Sorted("i.sop_uid", "text")),
}


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`rows`: one DICOM JSON object each (UTF-8), in a stable order; `more`: there are further matches behind them."""

    rows: list[bytes]
    more: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a search that goes on: DICOM JSON objects; `more`: there are further matches behind them."""

    rows: list[dict[str, Any]]
    more: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """A compiled query."""

    sql: str
    arguments: list[object]
    merge: bool  # rows carry further columns that must be merged into the object


def compile_query(query: Query, tenant: int, base_url: str, after: Sequence[Any] | None = None) -> Statement:
    """The SQL of a query; `base_url` is the DICOMweb root that RetrieveURL begins with. Raises BadQuery.

    With `after` the rows tell their place in the order, in columns place_0 and on, and begin behind the place that
    `after` holds; an empty one is the beginning.
    """
    arguments = Arguments()
    level = query.level
    extra = _extra_columns(query)
    columns = ", ".join(extra if _METADATA in extra else [f"{_ROW[level]} AS row", *extra])
    if "{base}" in columns:
        columns = columns.replace("{base}", arguments(orjson.dumps(base_url)[1:-1].decode()))
    if query.labels and level is Level.PATIENT:  # the others do not exist for who asks
        count = f"(SELECT count(*) {labelled_studies(query.labels, tenant, arguments)})"
        columns = columns.replace(_STUDY_COUNT, count)
    conditions = where(query, tenant, arguments)
    by_study = query.study is not None or any(m.path == ("0020000D",) for m in query.matches)
    order = (_ORDER if by_study else _ORDER_EVERYWHERE)[level]
    if after is not None:
        columns += "".join(f", {column.sql} AS place_{i}" for i, column in enumerate(order))
        conditions += f" AND {_behind(order, after, arguments)}" if after else ""
    page = (
        f"FROM {FROM[level]} WHERE {conditions} ORDER BY {', '.join(column.order for column in order)} "
        f"LIMIT {arguments(query.limit + 1, 'bigint')} OFFSET {arguments(query.offset, 'bigint')}"
    )
    # Only parameters and constants of this module go into the text: values are $n, tags are eight hexadecimal digits.
    sql = f"SELECT {columns} {page}"
    if level is Level.STUDY and query.offset and not extra:
        # Rows that the offset skips are read, but not composed.
        sql = f"SELECT {columns.replace('(t,', '(page.t,')} FROM (SELECT t {page}) AS page"  # noqa: S608
    return Statement(sql, arguments.values, bool(extra))


def _behind(order: Sequence[_Sorted], place: Sequence[Any], arguments: Arguments) -> str:
    """The condition that a row comes behind the one at `place`."""
    given = [value if value is None else arguments(value, c.cast) for c, value in zip(order, place, strict=True)]
    test = ""
    for column, value in zip(reversed(order), reversed(given), strict=True):
        if value is None:
            test = f"{column.sql} IS NULL AND ({test})"
            continue
        beyond = f"{column.sql} {'<' if column.descending else '>'} {value}"
        if column.nullable:
            beyond += f" OR {column.sql} IS NULL"
        test = f"{beyond} OR {column.sql} = {value} AND ({test})" if test else beyond
    first = order[0]
    # Where an index can begin to read.
    bound = "" if first.nullable else f"{first.sql} {'<=' if first.descending else '>='} {given[0]} AND "
    return f"{bound}({test})"


def _extra_columns(query: Query) -> list[str]:
    level = query.level
    extra: list[str] = []
    # A relational search names the parents of what it found (PS3.18 10.6.3.3).
    if level is not Level.STUDY and level is not Level.PATIENT and query.study is None:
        extra.append(f"{_STUDY_ROW} AS study_row")
    if level is Level.INSTANCE and query.series is None:
        extra.append(f"{_SERIES_ROW} AS series_row")
    if level is Level.INSTANCE and query.all_fields:
        return [*extra, _METADATA]
    if query.all_fields or level is Level.PATIENT:
        extra.append(f"{_ALL[level]}::text AS all_fields")
    fields = [f for f in query.fields if not _given(f[0], query)]
    if fields and level is not Level.PATIENT:
        pairs = []
        for tag in dict.fromkeys(f[0] for f in fields[:_MAX_FIELDS]):
            value = _COMPUTED.get(tag) if tag in COMPUTED_TAGS else element(tag, level)
            if value is not None and not (tag in COMPUTED_TAGS and "s." in value and level is Level.STUDY):
                pairs.append(f"'{tag}', {value}")
        # A function takes at most 100 arguments.
        extra.extend(
            f"jsonb_strip_nulls(jsonb_build_object({', '.join(pairs[i : i + 50])}))::text AS fields_{i}"
            for i in range(0, len(pairs), 50)
        )
    return extra


def _given(tag: str, query: Query) -> bool:
    """Whether the rows carry the attribute anyway: the level's, a named parent's, or all."""
    level = query.level
    if tag in _INCLUDED[level] or (query.all_fields and level_of(tag) is level):
        return True
    if level is Level.INSTANCE and query.series is None and tag in _INCLUDED[Level.SERIES]:
        return True
    return level in (Level.SERIES, Level.INSTANCE) and query.study is None and tag in _INCLUDED[Level.STUDY]


class SearchService:
    """Searches the index."""

    def __init__(self, db: Database, objects: ObjectStore, damage: Damage) -> None:
        self._db = db
        self._objects = objects
        self._damage = damage

    async def run(self, access: Access, query: Query, base_url: str) -> SearchResult:
        """One page of matches, by one SQL statement.

        No object is read, except for the metadata of huge instances with `all_fields`.
        Raises BadQuery for a value that cannot be matched, Unavailable when the database is down.
        """
        access.require("dicom.search")
        statement = compile_query(replace(query, labels=access.labels), access.tenant, base_url)
        records = await self._db.fetch_sql(statement.sql, *statement.arguments)
        more = len(records) > query.limit
        del records[query.limit :]
        if not statement.merge:
            return SearchResult([record[0].encode() for record in records], more)
        if query.level is Level.INSTANCE and query.all_fields:
            return SearchResult([await self._complete(access.tenant, record, base_url) for record in records], more)
        return SearchResult([await self._merged(record) for record in records], more)

    async def pages(self, access: Access, query: Query, size: int) -> AsyncGenerator[Page, None]:
        """The matches up to the query's limit, `size` at most in memory, one statement for each page.

        Rows that come or go meanwhile are seen or not, all others exactly once. Raises as `run`.
        """
        access.require("dicom.search")
        left, place = query.limit, ()
        more = True
        while more and left > 0:
            page = replace(query, limit=min(size, left), offset=0, labels=access.labels)
            statement = compile_query(page, access.tenant, "", place)
            records = await self._db.fetch_sql(statement.sql, *statement.arguments)
            more = len(records) > page.limit
            del records[page.limit :]
            left -= len(records)
            rows = []
            for record in records:
                columns = dict(record)
                place = tuple([columns.pop(name) for name in list(columns) if name.startswith("place_")])
                rows.append(_members(columns))
            yield Page(rows, more)

    async def _complete(self, tenant: int, record: Any, base_url: str) -> bytes:
        """An instance with all its attributes: the stored metadata, the computed ones set in at their places."""
        text = (await stored_metadata(self._objects, self._damage, tenant, record)).inflate()
        url = orjson.dumps(base_url + record["path"])
        syntax = record["transfer_syntax"].encode()
        computed = (
            b'"00080056":{"vr":"CS","Value":["ONLINE"]},',
            b'"00081190":{"vr":"UR","Value":[%b]},' % url,
            b'"00083002":{"vr":"UI","Value":["%b"]},' % syntax,
        )
        parents = [record[name] for name in ("study_row", "series_row") if name in record.keys()]  # noqa: SIM118
        cuts = record["metadata_cuts"]
        if cuts is None or parents or cuts[-1] >= len(text):
            merged: dict[str, object] = {}
            for row in (*parents, text, b"{%b}" % b"".join(computed)[:-1]):
                merged.update(orjson.loads(row))
            return orjson.dumps(dict(sorted(merged.items())))
        pieces, at = [], 0
        # Metadata of instances that came before it was part of them lack the transfer syntax: they have a third cut.
        for cut, member in zip(cuts, computed, strict=False):
            pieces += [text[at:cut], member]
            at = cut
        return b"".join((*pieces, text[at:]))

    async def _merged(self, record: Any) -> bytes:
        return orjson.dumps(dict(sorted(_members(dict(record)).items())))


def _members(columns: dict[str, str]) -> dict[str, Any]:
    """Later columns add to earlier ones; the level's own row has the last word."""
    own = columns.pop("row")
    merged: dict[str, Any] = {}
    for text in columns.values():
        merged.update(orjson.loads(text))
    merged.update(orjson.loads(own))
    return merged
