"""The one place where a Query becomes SQL: `$n` parameters only, never a value in the text."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase, ascii_uppercase
from typing import Literal, assert_never

from dicomweb.errors import BadQuery
from dicomweb.fold import fold, fold_name, trigrams_of_pattern, wildcard_to_like
from dicomweb.query import Case, Match, Query
from dicomweb.query_levels import is_below
from dicomweb.tags import Level, level_of

Kind = Literal["text", "folded", "date", "time", "number", "array"]

_TAG = re.compile(r"[0-9A-F]{8}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][-+]?\d{1,3})?", re.ASCII)
_NUMERIC_VRS = frozenset({"DS", "IS", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"})
_DEEPEST_PATH = 8
_TO_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


@dataclass(frozen=True, slots=True)
class Column:
    """An attribute with a column of its own; `letter` names its trigrams in study.grams."""

    sql: str
    kind: Kind
    letter: str = ""


COLUMNS: dict[str, Column] = {
    "00100020": Column("t.patient_id", "text", "i"),
    "00100010": Column("t.name_fold", "folded", "n"),
    "00080020": Column("t.study_date", "date"),
    "00080030": Column("t.study_time", "time"),
    "00080050": Column("t.accession", "text", "a"),
    "00080090": Column("t.referring_fold", "folded", "r"),
    "00081030": Column("t.description_fold", "folded", "d"),
    "00200010": Column("t.study_id", "text"),
    "0020000D": Column("t.study_uid", "text"),
    "00080061": Column("t.modalities", "array"),
    "00080062": Column("t.sop_classes", "array"),
    "00080060": Column("s.modality", "text"),
    "0020000E": Column("s.series_uid", "text"),
    "00200011": Column("s.series_number", "number"),
    "00080018": Column("i.sop_uid", "text"),
    "00080016": Column("i.sop_class", "text"),
    "00083002": Column("i.transfer_syntax", "text"),
    "00200013": Column("i.instance_number", "number"),
    "00280008": Column("i.number_of_frames", "number"),
    "00280010": Column("i.rows", "number"),
    "00280011": Column("i.columns", "number"),
}
PATIENT_COLUMNS: dict[str, Column] = {
    "00100020": Column("p.patient_id", "text"),
    "00100021": Column("p.issuer", "text"),
    "00100010": Column("p.name_fold", "folded"),
    "00100030": Column("p.birth_date", "date"),
}

# How a column without a value looks; numbers are NULL.
_EMPTY: dict[Kind, str] = {"text": "''", "folded": "''", "date": "''", "time": "''", "array": "'{}'"}

FROM: dict[Level, str] = {
    Level.PATIENT: "patient p",
    Level.STUDY: "study t",
    Level.SERIES: "series s JOIN study t ON t.id = s.study",
    Level.INSTANCE: "instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study",
}
_ALIAS: dict[Level, str] = {Level.PATIENT: "p", Level.STUDY: "t", Level.SERIES: "s", Level.INSTANCE: "i"}


class Arguments:
    """Collects the values of `$n` parameters."""

    def __init__(self, given: Iterable[object] = ()) -> None:
        """`given` are the first ones, which the text around names itself."""
        self.values: list[object] = list(given)

    def __call__(self, value: object, cast: str = "text") -> str:
        """The parameter that stands for `value`."""
        self.values.append(value)
        return f"${len(self.values)}::{cast}"


def hex_tag(tag: str) -> str:
    """The tag itself, which goes into the text of a statement; BadQuery unless it is eight hexadecimal digits."""
    if not _TAG.fullmatch(tag):
        raise BadQuery("a tag is eight hexadecimal digits")
    return tag


def element(tag: str, level: Level) -> str:
    """SQL of the DICOM JSON element of an attribute that has no column, as seen from rows of `level`."""
    hex_tag(tag)
    owner = level_of(tag)
    if level is Level.PATIENT:
        return f"p.attributes->'{tag}'"
    if owner in (Level.PATIENT, Level.STUDY) or level is Level.STUDY:
        return f"t.attributes->'{tag}'"
    if owner is Level.SERIES or level is Level.SERIES:
        return f"s.attributes->'{tag}'"
    return f"CASE WHEN i.attributes ? '{tag}' THEN i.attributes->'{tag}' ELSE members_of(s.shared)->'{tag}' END"


def where(query: Query, tenant: int, arguments: Arguments) -> str:
    """The conditions of a query."""
    alias = _ALIAS[query.level]
    terms = [f"{alias}.tenant = {arguments(tenant, 'integer')}"]
    if query.study is not None:
        terms.append(f"t.study_uid = {arguments(query.study)}")
    if query.series is not None:
        terms.append(f"s.series_uid = {arguments(query.series)}")
    by_study = query.study is not None or any(m.path == ("0020000D",) for m in query.matches)
    if query.level in (Level.SERIES, Level.INSTANCE) and by_study:
        # The planner cannot know that a study's rows share its tenant: with both, it starts from the unique index.
        terms.append(f"t.tenant = {arguments(tenant, 'integer')}")
    if query.labels:
        if query.level is Level.PATIENT:
            terms.append(f"EXISTS (SELECT {labelled_studies(query.labels, tenant, arguments)})")
        else:
            terms.append(_labelled(query.labels, tenant, arguments))
    below = [match for match in query.matches if is_below(query.level, match.path)]
    terms += [_holds(query.level, match, tenant, arguments) for match in below]
    query = replace(query, matches=tuple(match for match in query.matches if match not in below))
    columns = PATIENT_COLUMNS if query.level is Level.PATIENT else COLUMNS
    terms += conditions(query, columns, lambda tag: element(tag, query.level), arguments)
    return " AND ".join(f"({term})" for term in terms)


def labelled_studies(labels: Sequence[str], tenant: int, arguments: Arguments) -> str:
    """The FROM clause for those studies of a patient `p` that have all of the labels."""
    return f"FROM study t WHERE t.patient = p.id AND {_labelled(labels, tenant, arguments)}"


def _labelled(labels: Sequence[str], tenant: int, arguments: Arguments) -> str:
    """Whether the study of a row has all of the labels."""
    own = arguments(tenant, "integer")
    found = f"SELECT l.orthanc_id FROM label l WHERE l.tenant = {own} AND l.level = 'study'"  # noqa: S608
    return " AND ".join(f"t.orthanc_id IN ({found} AND l.label = {arguments(label)})" for label in labels)


def _holds(level: Level, match: Match, tenant: int, arguments: Arguments) -> str:
    """Whether a study or series holds a series or an instance with one of the UIDs."""
    uids = arguments(list(match.values), "text[]")
    own = arguments(tenant, "integer")
    if match.path == ("0020000E",):
        return (
            f"EXISTS (SELECT FROM series r WHERE r.study = t.id AND r.tenant = {own} AND r.series_uid = ANY ({uids}))"
        )
    instance = f"j.tenant = {own} AND j.sop_uid = ANY ({uids})"
    if level is Level.SERIES:
        return f"EXISTS (SELECT FROM instance j WHERE j.series = s.id AND {instance})"
    return f"EXISTS (SELECT FROM instance j JOIN series r ON r.id = j.series WHERE r.study = t.id AND {instance})"


def conditions(
    query: Query, columns: Mapping[str, Column], element_of: Callable[[str], str], arguments: Arguments
) -> list[str]:
    """The conditions of the matches alone, on attributes with columns and on elements that `element_of` names."""
    matches = [match for match in query.matches if match.kind != "universal"]
    terms = []
    for match in matches:
        if match.time and len(match.path) == 1:
            date, time = (_text_of(tag, columns, element_of) for tag in (match.path[0], match.time))
            terms.append(_moments(date, time, match, arguments))
        elif len(match.path) == 1:
            column = columns.get(match.path[0])
            # A folded column does not tell cases apart.
            if column is not None and not (query.case == "exact" and column.kind == "folded"):
                terms.append(_column_match(column, match, query, arguments))
            else:
                terms.append(_element_match(element_of(match.path[0]), match, arguments, query.case))
    nested = [(match.path, match) for match in matches if len(match.path) > 1]
    if nested:
        terms.append(_nested(nested, element_of, arguments, query.case))
    return terms


def _text_of(tag: str, columns: Mapping[str, Column], element_of: Callable[[str], str]) -> str:
    """SQL of the first value of an attribute as text."""
    column = columns.get(tag)
    return column.sql if column is not None else _first_value(element_of(tag))


def _first_value(sql: str) -> str:
    return f"""coalesce(({sql})->'Value'->>0, '') COLLATE "C\""""


def _moments(date: str, time: str, match: Match, arguments: Arguments) -> str:
    """A range of date and time together; what has no date is in none. The dates alone are there for an index."""
    low, high = match.values
    days = _range(date, (low[:8], high[:8]), arguments)
    return f"{days} AND {_range(f'({date} || {time})', match.values, arguments)}"


def _nested(
    matches: list[tuple[tuple[str, ...], Match]],
    element_of: Callable[[str], str],
    arguments: Arguments,
    case: Case,
    depth: int = 0,
) -> str:
    """Matches inside sequences: those that share a sequence hold in the same item of it (PS3.4 C.2.2.2.6)."""
    if depth > _DEEPEST_PATH:
        raise BadQuery(f"attribute paths may be at most {_DEEPEST_PATH} levels deep")
    item = f"item{depth}"

    def inside(tag: str) -> str:
        return f"{item}->'{hex_tag(tag)}'"

    terms = []
    for tag in dict.fromkeys(path[0] for path, _ in matches):
        rest = [(path[1:], match) for path, match in matches if path[0] == tag]
        inner = [
            _moments(_first_value(inside(path[0])), _first_value(inside(match.time)), match, arguments)
            if match.time
            else _element_match(inside(path[0]), match, arguments, case)
            for path, match in rest
            if len(path) == 1
        ]
        deeper = [(path, match) for path, match in rest if len(path) > 1]
        if deeper:
            inner.append(_nested(deeper, inside, arguments, case, depth + 1))
        terms.append(f"EXISTS (SELECT FROM dicom_items({element_of(tag)}) AS {item} WHERE {' AND '.join(inner)})")
    return " AND ".join(terms)


def _element_match(sql: str, match: Match, arguments: Arguments, case: Case) -> str:
    if match.kind == "empty":
        return f"NOT EXISTS (SELECT FROM dicom_values({sql}) AS v WHERE v <> '')"
    return f"EXISTS (SELECT FROM dicom_values({sql}) AS v WHERE {_value_test(match, arguments, case)})"


def _value_test(match: Match, arguments: Arguments, case: Case) -> str:
    folded = case == "ignored" or (match.vr == "PN" and case != "exact")
    value = 'lower(v) COLLATE "C"' if folded else 'v COLLATE "C"'
    prepare: Callable[[str], str] = str.lower if folded else str
    match match.kind:
        case "exact" | "list":
            if match.vr in _NUMERIC_VRS:
                return f"dicom_number(v) = ANY ({arguments(_numbers(match), 'numeric[]')})"
            test = f"{value} = ANY ({arguments([prepare(x) for x in match.values], 'text[]')})"
            if match.vr == "PN":
                groups = [wildcard_to_like(prepare(x) + "=*") for x in match.values]
                test = f"{test} OR {value} LIKE ANY ({arguments(groups, 'text[]')})"
            return test
        case "wildcard":
            return f"{value} LIKE ANY ({arguments([wildcard_to_like(prepare(x)) for x in match.values], 'text[]')})"
        case "range":
            return _range(value, match.values, arguments)
        case "empty" | "universal":  # not a condition on a value
            return "true"
        case _:
            assert_never(match.kind)


def _range(sql: str, values: tuple[str, ...], arguments: Arguments) -> str:
    low, high = values
    terms = [f"{sql} <> ''"]
    if low:
        terms.append(f"{sql} >= {arguments(low)}")
    if high:
        # "~" sorts behind every digit: 1030 as an upper bound covers 103059.999999 (PS3.4 C.2.2.2.5).
        terms.append(f"{sql} <= {arguments(high + '~')}")
    return " AND ".join(terms)


def _numbers(match: Match) -> list[str]:
    for value in match.values:
        if not _NUMBER.fullmatch(value.strip()):
            raise BadQuery(f"{'.'.join(match.path)} is matched with a number", attribute=match.path[-1])
    return [value.strip() for value in match.values]


def _column_match(column: Column, match: Match, query: Query, arguments: Arguments) -> str:
    if match.kind == "empty":
        return f"{column.sql} = {_EMPTY[column.kind]}" if column.kind in _EMPTY else f"{column.sql} IS NULL"
    if query.case == "ignored":
        if match.vr == "CS":  # in capitals by its definition (PS3.5 6.2): the index serves it so
            match = replace(match, values=tuple(value.upper() for value in match.values))
        elif column.kind == "text" and match.vr != "UI":
            return _caseless(column, match, arguments)
    match column.kind:
        case "number":
            return f"{column.sql} = ANY ({arguments(_numbers(match), 'numeric[]')})"
        case "array":
            if match.kind == "wildcard":
                likes = [wildcard_to_like(x) for x in match.values]
                return f"EXISTS (SELECT FROM unnest({column.sql}) AS v WHERE v LIKE ANY ({arguments(likes, 'text[]')}))"
            return f"{column.sql} && {arguments(list(match.values), 'text[]')}"
        case "date" | "time" | "text" | "folded":
            return _text_match(column, match, query.fuzzy, arguments)
        case _:
            assert_never(column.kind)


def _caseless(column: Column, match: Match, arguments: Arguments) -> str:
    """A text whose case does not count; where it has trigrams, they find it by their index."""
    # Columns are COLLATE "C", where lower() knows ASCII alone.
    sql, patterns = f"lower({column.sql})", [value.translate(_TO_LOWER) for value in match.values]
    if match.kind == "range":
        return _range(sql, match.values, arguments)
    tests = []
    for pattern in patterns:
        if match.kind == "wildcard":
            test = f"{sql} LIKE {arguments(wildcard_to_like(pattern))}"
        else:
            test = f"{sql} = {arguments(pattern)}"
        grams = trigrams_of_pattern(fold(pattern), column.letter) if column.letter else []
        tests.append(f"t.grams @> {arguments(sorted(grams), 'text[]')} AND {test}" if grams else test)
    return " OR ".join(f"({test})" for test in tests)


def _text_match(column: Column, match: Match, fuzzy: bool, arguments: Arguments) -> str:
    sql = column.sql
    values = list(match.values)
    if column.kind == "folded" and match.kind != "range":
        values = [fold_name(x) if match.vr == "PN" else fold(x) for x in values]
    match match.kind:
        case "range":
            return _range(sql, match.values, arguments)
        case "wildcard":
            tests = [_wildcard(column, value, arguments) for value in values]
            tests += _later_groups(column, match, values, arguments)
            return " OR ".join(f"({test})" for test in tests)
        case "exact" | "list":
            if column.kind == "folded" and match.vr == "PN":
                if fuzzy:
                    return " OR ".join(f"({_fuzzy(sql, value, arguments)})" for value in values)
                tests = [_name(sql, value, arguments) for value in values]
                tests += _later_groups(column, match, values, arguments)
                return " OR ".join(f"({test})" for test in tests)
            if column.kind == "time":
                # A shorter TM means everything it leaves open: 10 matches 10:00 to 10:59:59.999999.
                return " OR ".join(f"({_prefix(sql, value.replace(':', ''), arguments)})" for value in values)
            if len(values) == 1:
                return f"{sql} = {arguments(values[0])}"
            return f"{sql} = ANY ({arguments(values, 'text[]')})"
        case "empty" | "universal":
            return "true"
        case _:
            assert_never(match.kind)


def _name(sql: str, value: str, arguments: Arguments) -> str:
    # A person name is stored as its groups joined by "=": the query may give the first ones only (PS3.4 C.2.2.2.1).
    return f"{sql} = {arguments(value)} OR ({_prefix(sql, value + '=', arguments)})"


def _later_groups(column: Column, match: Match, values: Sequence[str], arguments: Arguments) -> list[str]:
    """Tests for the ideographic and phonetic groups of names, asked for without the alphabetic one before them."""
    tests = []
    for value in values:
        group = value.lstrip("=")
        if match.vr != "PN" or "=" in group or (group.isascii() and group == value):
            continue
        likes = [wildcard_to_like(f"*={group}"), wildcard_to_like(f"*={group}=*")]
        test = f"{column.sql} LIKE ANY ({arguments(likes, 'text[]')})"
        grams = trigrams_of_pattern(f"*={group}*", column.letter) if column.letter else []
        tests.append(f"t.grams @> {arguments(grams, 'text[]')} AND {test}" if grams else test)
    return tests


def _fuzzy(sql: str, value: str, arguments: Arguments) -> str:
    words = [w for w in re.split(r"[\s^=,*?]+", value) if w]
    tests = []
    for word in words:
        likes = [wildcard_to_like(p) for p in (f"{word}*", f"*^{word}*", f"* {word}*", f"*={word}*", f"*-{word}*")]
        tests.append(f"{sql} LIKE ANY ({arguments(likes, 'text[]')})")
    return " AND ".join(tests) or "true"


def _prefix(sql: str, prefix: str, arguments: Arguments) -> str:
    # Bounds instead of LIKE: the index serves them under any plan.
    return f"{sql} >= {arguments(prefix)} AND {sql} < {arguments(prefix + chr(0x10FFFF))}"


def _wildcard(column: Column, pattern: str, arguments: Arguments) -> str:
    head = pattern[:-1]
    if pattern.endswith("*") and head and "*" not in head and "?" not in head:
        return _prefix(column.sql, head, arguments)
    test = f"{column.sql} LIKE {arguments(wildcard_to_like(pattern))}"
    if column.letter:
        grams = trigrams_of_pattern(fold(pattern), column.letter)
        if grams:
            test = f"t.grams @> {arguments(sorted(grams), 'text[]')} AND {test}"
    return test
