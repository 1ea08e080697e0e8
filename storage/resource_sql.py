"""SQL of resources as Orthanc's REST API describes them: which columns a description needs, one row a resource."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from dicomweb.tags import COMPUTED_TAGS, Level, level_of
from storage.query_sql import element, hex_tag

# Every statement sees the resource by its own alias (p, t, s or i), and what is above it by theirs.
JOINED: Final[dict[Level, str]] = {
    Level.PATIENT: "patient p",
    Level.STUDY: "study t JOIN patient p ON p.id = t.patient",
    Level.SERIES: "series s JOIN study t ON t.id = s.study JOIN patient p ON p.id = t.patient",
    Level.INSTANCE: "instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study"
    " JOIN patient p ON p.id = t.patient",
}
ALIAS: Final[dict[Level, str]] = {Level.PATIENT: "p", Level.STUDY: "t", Level.SERIES: "s", Level.INSTANCE: "i"}
# In the order in which they came.
ORDER: Final[dict[Level, str]] = {
    Level.PATIENT: "p.id",
    Level.STUDY: "t.id",
    Level.SERIES: "s.id",
    Level.INSTANCE: "i.series, i.instance_number, i.sop_uid",
}
_KEY: Final[dict[Level, str]] = {
    Level.PATIENT: "id",
    Level.STUDY: "id",
    Level.SERIES: "id",
    Level.INSTANCE: "tenant, sop_uid",
}
# Patients of several issuers may share an identifier: the first one stands for all.
FIRST_PATIENT: Final = (
    "NOT EXISTS (SELECT FROM patient q WHERE q.orthanc_id = p.orthanc_id AND q.tenant = p.tenant AND q.id < p.id)"
)
_SAME_PATIENT: Final = "(SELECT q.id FROM patient q WHERE q.orthanc_id = p.orthanc_id AND q.tenant = p.tenant)"

# Children of patients and studies come with their number before the identifier: to sort so few here would cost more
# than to find them. Those of series are in their order.
NUMBER_SIZE: Final = 8
_CHILDREN: Final[dict[Level, str]] = {
    Level.PATIENT: f"ARRAY(SELECT int8send(c.id) || c.orthanc_id FROM study c WHERE c.patient IN {_SAME_PATIENT})",
    Level.STUDY: "ARRAY(SELECT int8send(c.id) || c.orthanc_id FROM series c WHERE c.study = t.id)",
    Level.SERIES: "ARRAY(SELECT c.orthanc_id FROM instance c WHERE c.series = s.id"
    " ORDER BY c.instance_number, c.sop_uid)",
    Level.INSTANCE: "NULL",
}
_PARENT: Final[dict[Level, str]] = {
    Level.PATIENT: "NULL",
    Level.STUDY: "p.orthanc_id",
    Level.SERIES: "t.orthanc_id",
    Level.INSTANCE: "s.orthanc_id",
}
_STABLE: Final[dict[Level, str]] = {
    Level.PATIENT: f"NOT EXISTS (SELECT FROM study c WHERE c.patient IN {_SAME_PATIENT} AND NOT c.stable)",
    Level.STUDY: "t.stable",
    Level.SERIES: "s.stable",
    Level.INSTANCE: "NULL",
}
_UPDATED: Final[dict[Level, str]] = {
    Level.PATIENT: "greatest(p.changed_at, (SELECT max(c.changed_at) FROM study c WHERE c.patient = p.id))",
    Level.STUDY: "t.changed_at",
    Level.SERIES: "s.changed_at",
    Level.INSTANCE: "i.received_at",
}
# `own`: where the main attributes of the level are.
_OWN: Final[dict[Level, str]] = {
    Level.PATIENT: "p.main_tags AS own",
    Level.STUDY: "t.main_tags AS own",
    Level.SERIES: "s.main_tags AS own, t.attributes->'00080201' AS timezone",
    Level.INSTANCE: """i.attributes::text AS own, i.sop_uid, i.series AS series_key,
        CASE WHEN row_number() OVER (PARTITION BY i.series) = 1 THEN s.shared END AS shared""",
}
_FACTS: Final[dict[Level, str]] = {
    Level.SERIES: "(SELECT c.source FROM instance c WHERE c.series = s.id ORDER BY c.received_at LIMIT 1) AS source",
    Level.INSTANCE: "i.source, i.received_at, i.transfer_syntax, i.sop_class, i.bulk_table",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What is told of a resource beside its identifier and type. `requested`: upper-hex tags.

    `brief`: the few metadata and facts of the file that a plain description has.
    """

    main_tags: bool = False
    metadata: bool = False
    children: bool = False
    parent: bool = False
    labels: bool = False
    status: bool = False
    stable: bool = False
    protected: bool = False
    attachments: bool = False
    brief: bool = False
    requested: tuple[str, ...] = ()


@lru_cache(maxsize=256)
def columns(level: Level, parts: Parts) -> str:
    """The select list for the parts; see `storage.resources` for what becomes of each column."""
    alias = ALIAS[level]
    attached = f"a.tenant = {alias}.tenant AND a.orthanc_id = {alias}.orthanc_id AND a.level = '{level}'"
    # Of metadata only the archive's own notes are told without being asked for. That is no condition of a search: a
    # resource has few, and the index by kind would find those of all resources.
    noted = " FILTER (WHERE a.kind > 0)" if parts.metadata else " FILTER (WHERE a.kind BETWEEN 1 AND 1023)"
    file = "json_build_array(a.kind, a.object_key, a.object_size, encode(a.md5, 'hex'))"
    instance, series = level is Level.INSTANCE, level is Level.SERIES
    told = parts.brief or parts.metadata
    choices = (
        (True, f"{alias}.orthanc_id"),
        (parts.main_tags, _OWN[level]),
        (parts.children, f"{_CHILDREN[level]} AS children"),
        (parts.parent, f"{_PARENT[level]} AS parent"),
        (parts.labels, f"ARRAY(SELECT a.label FROM label a WHERE {attached} ORDER BY 1) AS labels"),
        (parts.stable, f"{_STABLE[level]} AS stable"),
        (parts.protected and level is Level.PATIENT, "p.protected"),
        ((parts.status or parts.metadata) and series, "s.expected_count, series_status(s) AS status"),
        (told, f"{_UPDATED[level]} AS updated"),
        (
            told,
            f"(SELECT json_object_agg(a.kind, a.value){noted}::text FROM user_metadata a WHERE {attached}) AS noted",
        ),
        (told and instance, "i.instance_number"),
        (parts.metadata and level in _FACTS, _FACTS.get(level, "")),
        ((parts.brief or parts.attachments) and instance, "i.object_key, i.object_size"),
        (
            parts.attachments,
            f"(SELECT json_agg({file} ORDER BY a.kind)::text FROM attachment a WHERE {attached}) AS attached",
        ),
        (bool(parts.requested), _requested(level, parts.requested)),
    )
    return ", ".join(sql for wanted, sql in choices if wanted)


_ABOVE: Final[dict[Level, tuple[tuple[str, str], ...]]] = {
    Level.PATIENT: (("p", "patient p"),),
    Level.STUDY: (("t", "study t"), ("p", " JOIN patient p ON p.id = t.patient")),
    Level.SERIES: (
        ("s", "series s"),
        ("t", " JOIN study t ON t.id = s.study"),
        ("p", " JOIN patient p ON p.id = t.patient"),
    ),
    Level.INSTANCE: (
        ("i", "instance i"),
        ("s", " JOIN series s ON s.id = i.series"),
        ("t", " JOIN study t ON t.id = s.study"),
        ("p", " JOIN patient p ON p.id = t.patient"),
    ),
}


def source(level: Level, terms: str) -> str:
    """The tables of a level, joined upwards as far as `terms` look: a list of all instances reads one table only."""
    tables = _ABOVE[level]
    last = max(n for n, (alias, _) in enumerate(tables) if n == 0 or re.search(rf"\b{alias}\.", terms))
    return "".join(text for _, text in tables[: last + 1])


@lru_cache(maxsize=256)
def one(level: Level, parts: Parts) -> str:
    """The resource $2 of the tenant $1. Patients of several issuers may share an identifier: the first one."""
    alias, told = ALIAS[level], columns(level, parts)
    first = f" ORDER BY {ORDER[level]} LIMIT 1" if level is Level.PATIENT else ""
    return f"SELECT {told} FROM {source(level, told)} WHERE {alias}.orthanc_id = $2 AND {alias}.tenant = $1{first}"


def paged(level: Level, parts: Parts, conditions: str, order: str, limit: str) -> str:
    """A page of resources in `order`: only of those in it the columns are made. `limit` may hold OFFSET."""
    alias, key = ALIAS[level], _KEY[level]
    keys = ", ".join(f"{alias}.{each.strip()}" for each in key.split(","))
    page = f"SELECT {keys} FROM {source(level, conditions + order)} WHERE {conditions} ORDER BY {order} {limit}"
    told = columns(level, parts)
    joined = source(level, told).replace(f" {alias}", f" {alias} JOIN page USING ({key})", 1)
    return (
        f"WITH page AS MATERIALIZED (SELECT q.*, row_number() OVER () AS place FROM ({page}) q) "
        f"SELECT {told} FROM {joined} ORDER BY page.place"
    )


def identifiers(level: Level, conditions: str, order: str, limit: str) -> str:
    """The identifiers alone."""
    tables = source(level, conditions + order)
    return f"SELECT {ALIAS[level]}.orthanc_id FROM {tables} WHERE {conditions} ORDER BY {order} {limit}"


def counted(level: Level, conditions: str) -> str:
    """How many there are."""
    return f"SELECT count(*) FROM {source(level, conditions)} WHERE {conditions}"


_COMPUTED: Final[dict[str, dict[Level, str]]] = {
    "00201200": {Level.PATIENT: "p.study_count"},
    "00201202": {Level.PATIENT: "(SELECT sum(c.series_count) FROM study c WHERE c.patient = p.id)"},
    "00201204": {Level.PATIENT: "(SELECT sum(c.instance_count) FROM study c WHERE c.patient = p.id)"},
    "00201206": {Level.STUDY: "t.series_count"},
    "00201208": {Level.STUDY: "t.instance_count"},
    "00201209": {Level.SERIES: "s.instance_count"},
    "00080061": {Level.STUDY: "array_to_string(t.modalities, '\\')"},
    "00080062": {Level.STUDY: "array_to_string(t.sop_classes, '\\')"},
    "00080056": dict.fromkeys(Level, "'ONLINE'"),
}
_RANK: Final = tuple(Level)


def _requested(level: Level, tags: Sequence[str]) -> str:
    """Asked-for attributes as one JSON object: of upper levels as they are, of lower ones from the first below."""
    pairs = [f"'{hex_tag(tag)}', {attribute(level, tag)}" for tag in tags]
    groups = [f"jsonb_build_object({', '.join(pairs[i : i + 50])})" for i in range(0, len(pairs), 50)]
    return f"jsonb_strip_nulls({' || '.join(groups)})::text AS requested"


def attribute(level: Level, tag: str) -> str:
    """An attribute of a resource as jsonb: of upper levels as it is, of lower ones that of the first below, or NULL."""
    hex_tag(tag)
    if tag in COMPUTED_TAGS:
        by_level = _COMPUTED.get(tag, {})
        # What counts an upper level is known at the lower ones, too.
        owner = next((each for each in reversed(_RANK[: _RANK.index(level) + 1]) if each in by_level), None)
        if owner is None:
            return "NULL::jsonb"
        return f"jsonb_build_object('vr', 'CS', 'Value', jsonb_build_array(({by_level[owner]})::text))"
    if tag == "00080018" and level is Level.INSTANCE:
        return "jsonb_build_object('vr', 'UI', 'Value', jsonb_build_array(i.sop_uid))"
    owner = level_of(tag)
    if owner is Level.PATIENT:
        return f"p.attributes->'{tag}'"
    if _RANK.index(owner) <= _RANK.index(level):
        return element(tag, level)
    return _below(level, owner, tag)


def _below(level: Level, owner: Level, tag: str) -> str:
    of = {Level.PATIENT: "c.patient = p.id", Level.STUDY: "c.id = t.id", Level.SERIES: "x.id = s.id"}[level]
    if owner is Level.STUDY:
        return f"(SELECT c.attributes->'{tag}' FROM study c WHERE {of} ORDER BY c.id LIMIT 1)"
    value = f"x.attributes->'{tag}'" if owner is Level.SERIES else f"members_of(x.shared)->'{tag}'"
    joined = "series x" if level is Level.SERIES else "study c JOIN series x ON x.study = c.id"
    return f"(SELECT {value} FROM {joined} WHERE {of} ORDER BY x.id LIMIT 1)"
