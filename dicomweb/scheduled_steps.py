"""Modality worklist items (PS3.4 annex K): what an item has to hold, how it is found, what an answer tells of it.

An item is one scheduled procedure step with the request, the visit and the patient that it belongs to. Its
ScheduledProcedureStepSequence has exactly one item (PS3.4 table K.6-1): who schedules two steps adds two items.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dicomweb import qido
from dicomweb.errors import BadQuery
from dicomweb.query import MAX_DEPTH, Key, Match, Path, Query, assemble, parse_path
from dicomweb.tags import Level, keyword_of
from dicomweb.ups_model import CHARACTER_SET, Dataset, element_of, items, text
from dicomweb.worklist_model import MISSING_ATTRIBUTE, check_text, folded_name, refusal, texts, trimmed

STEPS: Final = "00400100"  # ScheduledProcedureStepSequence
STATION, START_DATE, START_TIME, MODALITY = "00400001", "00400002", "00400003", "00080060"
STEP_ID, STATUS = "00400009", "00400020"
START: Final = "00404005"  # date and time in one; stands for both where they are matched together
PATIENT_NAME, PATIENT_ID, ACCESSION = "00100010", "00100020", "00080050"
STUDY, PROCEDURE_ID = "0020000D", "00401001"
RETRIEVE_URL: Final = "00081190"

SCHEDULED, STARTED = "SCHEDULED", "STARTED"
# PS3.3 C.4.10. Finished steps are not work any more.
STATES: Final = (SCHEDULED, "ARRIVED", "READY", STARTED, "DEPARTED", "COMPLETED", "DISCONTINUED", "CANCELED")
FINISHED: Final = ("COMPLETED", "DISCONTINUED", "CANCELED")

_OF_STEP: Final = (STATION, START_DATE, START_TIME, MODALITY, STEP_ID, STATUS)
_OF_ITEM: Final = (PATIENT_ID, ACCESSION, STUDY, PROCEDURE_ID)
# What a search by web returns unasked: return keys of type 1 and 2 (PS3.4 table K.6-1).
RETURNED: Final = frozenset(
    f"""{CHARACTER_SET} {STEPS} {PROCEDURE_ID} 00321060 00321064 {STUDY} 00081110 00401003 00401004 {ACCESSION} 00321032
    00080090 00380010 00380300 00081120 {PATIENT_NAME} {PATIENT_ID} 00100030 00100040 00101030 00403001 00380500
    001021C0 00102000 00102110 00380050 {RETRIEVE_URL}""".split()
)


@dataclass(frozen=True, slots=True)
class Item:
    """A worklist item that may be stored, and the two of its columns that the database does not make itself."""

    attributes: Dataset
    stations: tuple[str, ...]
    name_fold: str


def item(dataset: Dataset, *, before: Dataset | None = None, study: str = "", force: bool = False) -> Item:
    """An item to be stored. `before` is what it takes the place of: its study and its status stay when none are given.

    `study` is the UID for an item without one. The step needs Modality and ScheduledProcedureStepStartDate unless
    `force`. WorkitemRefused names the attribute that is missing or wrong.
    """
    step = _step(dataset, force=force)
    if not text(step, STATUS):
        step[STATUS] = element_of(STATUS, _status(before) or SCHEDULED)
    attributes = dataset | trimmed(dataset, _OF_ITEM) | {CHARACTER_SET: element_of(CHARACTER_SET, "ISO_IR 192")}
    attributes[STEPS] = element_of(STEPS, dict(sorted(step.items())))
    attributes.pop(RETRIEVE_URL, None)
    uid = text(before or {}, STUDY) or study
    if not text(attributes, STUDY) and uid:
        attributes[STUDY] = element_of(STUDY, uid)
    check_text(attributes, *_OF_ITEM)
    check_text(step, *_OF_STEP)
    if text(step, STATUS) not in STATES:
        raise refusal(STATUS, f"is none of {', '.join(STATES)}")
    return Item(dict(sorted(attributes.items())), tuple(texts(step, STATION)), folded_name(attributes, PATIENT_NAME))


def _status(before: Dataset | None) -> str:
    return text(next(iter(items(before or {}, STEPS)), {}), STATUS)


def _step(dataset: Dataset, *, force: bool) -> Dataset:
    """The one item of the sequence."""
    found = items(dataset, STEPS)
    if not found and not force:
        raise refusal(STEPS, "is required", MISSING_ATTRIBUTE)
    if len(found) > 1:
        raise refusal(STEPS, "has more than one item: add a worklist item for each step")
    step: Dataset = dict(found[0]) if found else {}
    for tag in () if force else (MODALITY, START_DATE):
        if tag not in step:
            raise refusal(tag, "of the step is required", MISSING_ATTRIBUTE)
    return step | trimmed(step, _OF_STEP)


# --------------------------------------------------------------------------------------------------------- search


def parse(params: Iterable[tuple[str, str]], max_limit: int, default_limit: int) -> Query:
    """The query of `GET /modality-scheduled-procedure-steps` (PS3.18 14.4); any attribute may be a key.

    Attributes of the step stand behind their sequence: `ScheduledProcedureStepSequence.Modality`, `00400100.00080060`.
    Raises BadQuery.
    """
    given = list(params)
    query = qido.parse(Level.INSTANCE, None, None, given, max_limit, default_limit)
    ranged = any("-" in value and parse_path(name) == (STEPS, START_TIME) for name, value in given)
    return together(query) if ranged else query


def together(query: Query) -> Query:
    """The range of dates and the range of times as one range (PS3.4 table K.6-1).

    "5 to 7 July" and "10 to 18" begin at 10 on the 5th and end at 18 on the 7th.
    """
    date = _range_of(query, (STEPS, START_DATE))
    time = _range_of(query, (STEPS, START_TIME))
    if date is None or time is None:
        return query
    low, high = date.values
    both = Match((STEPS, START), "DT", "range", (low and low + time.values[0], high and high + (time.values[1] or "~")))
    others = tuple(match for match in query.matches if match not in (date, time))
    return replace(query, matches=(*others, both))


def _range_of(query: Query, path: Path) -> Match | None:
    return next((match for match in query.matches if match.path == path and match.kind == "range"), None)


@dataclass(frozen=True, slots=True)
class Find:
    """A C-FIND request: the search, the keys as they came, and whether one of them could not be matched."""

    query: Query
    keys: Dataset
    partial: bool

    def answer(self, attributes: Dataset) -> Dataset:
        """The attributes that were asked for, empty where nothing is known (PS3.4 K.2.2.1.2)."""
        return narrowed(attributes, self.keys)


def find(identifier: Dataset, limit: int) -> Find:
    """The search that a C-FIND identifier asks for (PS3.4 K.4.1.1.3). Raises BadQuery."""
    wanted = {tag: element for tag, element in identifier.items() if tag != CHARACTER_SET and tag[4:] != "0000"}
    keys = list(_keys(wanted, ()))
    query = assemble(Query(Level.INSTANCE, limit=limit), keys)
    if any(key.path == (STEPS, START_TIME) and "-" in key.texts[0] for key in keys):
        query = together(query)
    return Find(query, wanted, bool(query.warnings))


def _keys(identifier: Dataset, parents: Path) -> Iterable[Key]:
    if len(parents) >= MAX_DEPTH:
        raise BadQuery(f"sequences in a query may be at most {MAX_DEPTH} levels deep")
    for tag, element in identifier.items():
        path = (*parents, tag)
        name = keyword_of(tag) or tag
        values = element.get("Value") or []
        if element["vr"] != "SQ":
            yield Key(path, name, ("\\".join(map(_as_text, values)),))
            continue
        if len(values) > 1:
            raise BadQuery(f"{name} has more than one item", attribute=name)
        for inner in values:
            yield from _keys(inner, path)


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        groups = [value.get(name, "") for name in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)


def narrowed(found: Dataset, asked: Dataset) -> Dataset:
    """The attributes of `asked` as `found` has them, items of sequences likewise; all of an item none is named of."""
    answer: Dataset = {}
    for tag, key in asked.items():
        element: dict[str, Any] | None = found.get(tag)
        if element is None or "BulkDataURI" in element:
            answer[tag] = {"vr": key["vr"]}
        elif element["vr"] == "SQ" and (inner := items(asked, tag)) and inner[0]:
            answer[tag] = {"vr": "SQ", "Value": [narrowed(each, inner[0]) for each in items(found, tag)]}
        else:
            answer[tag] = element
    return answer
