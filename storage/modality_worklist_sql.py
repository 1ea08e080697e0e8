"""Searches of the modality worklist and of performed procedure steps as SQL."""

from dataclasses import replace
from typing import Final

from dicomweb import scheduled_steps as mwl
from dicomweb.query import Query
from storage.access import Access
from storage.query_sql import Arguments, Column, conditions, hex_tag

_ITEM: Final = {
    mwl.PATIENT_NAME: Column("t.name_fold", "folded"),
    mwl.PATIENT_ID: Column("t.patient_id", "text"),
    mwl.ACCESSION: Column("t.accession", "text"),
    mwl.STUDY: Column("t.study_uid", "text"),
    mwl.PROCEDURE_ID: Column("t.procedure_id", "text"),
}
# Of the one item of ScheduledProcedureStepSequence. A date is the beginning of `start`, which has an index, and a range
# of date and time together is a range of it.
_STEP: Final = {
    mwl.STATION: Column("t.stations", "array"),
    mwl.START_DATE: Column("t.start", "text"),
    mwl.START_TIME: Column("t.start_time", "text"),
    mwl.MODALITY: Column("t.modality", "text"),
    mwl.STEP_ID: Column("t.step_id", "text"),
    mwl.STATUS: Column("t.status", "text"),
}
_PERFORMED: Final = {
    "00080018": Column("t.uid", "text"),
    "00100020": Column("t.patient_id", "text"),
    "00400244": Column("t.start", "text"),
    "00400252": Column("t.status", "text"),
}
_DATES: Final = frozenset({mwl.START_DATE, "00400244"})


def _element(tag: str) -> str:
    return f"t.attributes->'{hex_tag(tag)}'"


def _matching(query: Query, arguments: Arguments) -> list[str]:
    of_step = [match for match in query.matches if match.path[0] == mwl.STEPS and match.path[1:] in _paths]
    others = [match for match in query.matches if match not in of_step]
    inner = replace(query, matches=tuple(replace(match, path=match.path[1:]) for match in of_step))
    terms = conditions(_by_start(inner), _STEP, _element, arguments)
    terms += conditions(replace(query, matches=tuple(others)), _ITEM, _element, arguments)
    return [f"({term})" for term in terms]


_paths: Final = frozenset((tag,) for tag in _STEP)


def _by_start(query: Query) -> Query:
    """One day as the range of all its moments: dates and times are one column."""
    matches = [
        replace(match, kind="range", values=(match.values[0], match.values[-1]), time="")
        if match.kind in ("exact", "range") and match.path[-1] in _DATES
        else match
        for match in query.matches
    ]
    return replace(query, matches=tuple(matches))


def scheduled(
    query: Query, access: Access, *, finished: bool, tags: frozenset[str] | None = None, base: str = ""
) -> tuple[str, list[object]]:
    """One page of matching items in the order of the schedule, one more than the limit.

    Columns: `id`, `created_at`, `labels`, and `row`, which is DICOM JSON with the attributes `tags`, None: all of them.
    `base`: the URL of the collection, for RetrieveURL, or "". Without `finished`, finished ones are left out unless the
    query asks for a status.
    """
    arguments = Arguments()
    row = "t.attributes"
    if base:
        url = f"jsonb_build_array({arguments(base)} || '/' || t.id::text)"
        row = (
            f"t.attributes || jsonb_build_object('{mwl.RETRIEVE_URL}', jsonb_build_object('vr', 'UR', 'Value', {url}))"
        )
    row = f"({row})::text" if tags is None else f"workitem_row({row}, {arguments(sorted(tags), 'text[]')})"
    terms = [f"t.tenant = {arguments(access.tenant, 'integer')}", *_matching(query, arguments)]
    if access.labels:
        terms.append(f"t.labels <> '{{}}' AND t.labels @> {arguments(list(access.labels), 'text[]')}")
    if not finished and all(match.path != (mwl.STEPS, mwl.STATUS) for match in query.matches):
        terms.append(f"t.status <> ALL ({arguments(list(mwl.FINISHED), 'text[]')})")
    # Only parameters and constants go into the text: values are $n, tags are eight hexadecimal digits.
    sql = (
        f"SELECT t.id, t.created_at, t.labels, {row} AS row FROM scheduled_step t WHERE {' AND '.join(terms)} "  # noqa: S608
        f"ORDER BY t.start, t.id LIMIT {arguments(query.limit + 1, 'bigint')} "
        f"OFFSET {arguments(query.offset, 'bigint')}"
    )
    return sql, arguments.values


def performed(query: Query, access: Access) -> tuple[str, list[object]]:
    """One page of matching performed steps, the newest first, one more than the limit, as finished DICOM JSON."""
    arguments = Arguments()
    terms = [f"t.tenant = {arguments(access.tenant, 'integer')}"]
    if access.labels:
        terms.append(f"t.labels @> {arguments(list(access.labels), 'text[]')}")
    terms += [f"({term})" for term in conditions(_by_start(query), _PERFORMED, _element, arguments)]
    sql = (
        f"SELECT t.attributes::text FROM performed_step t WHERE {' AND '.join(terms)} "  # noqa: S608
        f"ORDER BY t.start DESC, t.uid DESC LIMIT {arguments(query.limit + 1, 'bigint')} "
        f"OFFSET {arguments(query.offset, 'bigint')}"
    )
    return sql, arguments.values
