"""Statements on workitems that depend on a Query: searches, and subscriptions with a filter."""

from collections.abc import Sequence
from dataclasses import dataclass

from dicomweb.query import Query
from dicomweb.ups import RETURNED
from dicomweb.ups_model import PATIENT_ID, SOP_INSTANCE, START, STATE, TRANSACTION_UID, WORKLIST_LABEL
from storage.query_sql import Arguments, Column, conditions, hex_tag

_COLUMNS = {
    SOP_INSTANCE: Column("t.uid", "text"),
    STATE: Column("t.state", "text"),
    START: Column("t.start_time", "text"),
    PATIENT_ID: Column("t.patient_id", "text"),
    WORKLIST_LABEL: Column("t.worklist_label", "text"),
}
_CODE_VALUE = "00080100"
_CODES = """jsonb_path_query_array(t.attributes, '$.*."Value"[*]."00080100"."Value"[*]')"""


@dataclass(frozen=True, slots=True)
class GlobalSubscription:
    """A subscription to all steps that match, present and future."""

    aet: str
    deletion_lock: bool
    filter: Query


def _element(tag: str) -> str:
    return f"t.attributes->'{hex_tag(tag)}'"


def _matching(query: Query, arguments: Arguments) -> list[str]:
    terms = conditions(query, _COLUMNS, _element, arguments)
    for match in query.matches:
        if len(match.path) == 2 and match.path[1] == _CODE_VALUE and match.kind in ("exact", "list"):
            # Implied by the match itself, and what an index answers: a performer asks for its station's work all day.
            terms.append(f"{_CODES} ?| {arguments(list(match.values), 'text[]')}")
    return [f"({term})" for term in terms]


def search(query: Query, tenant: int) -> tuple[str, list[object]]:
    """One page of matching steps in the order of the schedule, one more than the limit, as finished DICOM JSON."""
    arguments = Arguments()
    row = "t.attributes::text"
    if not query.all_fields:
        tags = sorted(RETURNED.union(path[0] for path in query.fields) - {TRANSACTION_UID})
        row = f"workitem_row(t.attributes, {arguments(tags, 'text[]')})"
    terms = [f"t.tenant = {arguments(tenant, 'integer')}", *_matching(query, arguments)]
    # Only parameters and constants go into the text: values are $n, tags are eight hexadecimal digits.
    sql = (
        f"SELECT {row} FROM workitem t WHERE {' AND '.join(terms)} ORDER BY t.start_time, t.id "  # noqa: S608
        f"LIMIT {arguments(query.limit + 1, 'bigint')} OFFSET {arguments(query.offset, 'bigint')}"
    )
    return sql, arguments.values


def with_filters(
    template: str, fixed: Sequence[object], subscriptions: Sequence[GlobalSubscription]
) -> tuple[str, list[object]]:
    """`workitem_create` with the subscriptions whose filters the new step may match."""
    arguments = Arguments(fixed)
    parts = []
    for each in subscriptions:
        aet, lock = arguments(each.aet), arguments(each.deletion_lock, "boolean")
        matching = " AND ".join(_matching(each.filter, arguments))
        parts.append(f"UNION ALL SELECT {aet}, {lock} FROM t WHERE {matching}")  # noqa: S608
    return template.replace("/* or filtered */", "\n".join(parts)), arguments.values


def with_filter(template: str, fixed: Sequence[object], query: Query | None) -> tuple[str, list[object]]:
    """`worklist_subscribe_existing` for the steps that match the query; None is all of them."""
    arguments = Arguments(fixed)
    terms = [] if query is None else _matching(query, arguments)
    return template.replace("/* and filter */", "".join(f" AND {term}" for term in terms)), arguments.values
