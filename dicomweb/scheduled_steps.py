"""Modality worklist items (PS3.4 annex K): what an item has to hold, how it is found, what an answer tells of it.

An item is one scheduled procedure step with the request, the visit and the patient that it belongs to. Its
ScheduledProcedureStepSequence has exactly one item (PS3.4 table K.6-1): who schedules two steps adds two items.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from dicomweb import qido
from dicomweb.identifier import Identifier, Items, Member, keys_of, narrowed
from dicomweb.query import Options, Query, parse_path
from dicomweb.query_levels import assemble
from dicomweb.tags import Level
from dicomweb.ups_model import CHARACTER_SET, Dataset, element_of, items, text
from dicomweb.worklist_model import MISSING_ATTRIBUTE, check_text, folded_name, refusal, texts, trimmed

STEPS: Final = "00400100"  # ScheduledProcedureStepSequence
STATION, START_DATE, START_TIME, MODALITY = "00400001", "00400002", "00400003", "00080060"
STEP_ID, STATUS = "00400009", "00400020"
PATIENT_NAME, PATIENT_ID, ACCESSION = "00100010", "00100020", "00080050"
STUDY, PROCEDURE_ID = "0020000D", "00401001"
RETRIEVE_URL: Final = "00081190"

SCHEDULED, STARTED = "SCHEDULED", "STARTED"
# PS3.3 C.4.10. Finished steps are not work any more.
STATES: Final = (SCHEDULED, "ARRIVED", "READY", STARTED, "DEPARTED", "COMPLETED", "DISCONTINUED", "CANCELED")
FINISHED: Final = ("COMPLETED", "DISCONTINUED", "CANCELED")

_TIME: Final = (STEPS, START_TIME)
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
    ranged = any("-" in value and parse_path(name) == _TIME for name, value in given)
    return qido.parse(Level.INSTANCE, None, None, given, max_limit, default_limit, date_time=ranged)


@dataclass(frozen=True, slots=True)
class Find:
    """A C-FIND request: the search, the keys as they came, and whether one of them could not be matched."""

    query: Query
    keys: Items
    partial: bool

    def answer(self, found: Mapping[str, Member]) -> dict[str, Member]:
        """The attributes that were asked for, empty where nothing is known (PS3.4 K.2.2.1.2)."""
        answer: dict[str, Member] = {}
        for key in self.keys:
            member = found.get(key.tag) or {"vr": key.vr}
            answer[key.tag] = narrowed(member, key.items[0]) if key.items and member["vr"] == "SQ" else member
        return answer


def find(identifier: Identifier, limit: int) -> Find:
    """The search that a C-FIND identifier asks for (PS3.4 K.4.1.1.3). Raises BadQuery.

    Ranges of dates and of times are one range (PS3.4 table K.6-1): "5 to 7 July" and "10 to 18" begin at 10 on the 5th
    and end at 18 on the 7th. A single time is one of each day.
    """
    wanted = tuple(element for element in identifier.elements if element.tag != CHARACTER_SET)
    keys = list(keys_of(wanted))
    ranged = any(key.path == _TIME and "-" in key.texts[0] for key in keys)
    query = assemble(Query(Level.INSTANCE, limit=limit), keys, options=Options(date_time=ranged))
    return Find(query, wanted, bool(query.warnings))
