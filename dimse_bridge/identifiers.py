"""C-FIND identifiers: a request becomes a Query, a row of its result becomes an answer (PS3.4 C.2.2, C.4.1)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Final

import orjson
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode

from dicomweb.errors import BadQuery, IdentityMismatch
from dicomweb.query import MAX_DEPTH, Key, Path, Query, assemble
from dicomweb.tags import Level
from dicomweb.uids import is_uid
from dimse_bridge.contexts import EXPLICIT_BE, IMPLICIT_LE
from storage.rows import SERIES_SUMMARY, STUDY_SUMMARY

_LEVELS: Final = {"PATIENT": Level.PATIENT, "STUDY": Level.STUDY, "SERIES": Level.SERIES, "IMAGE": Level.INSTANCE}
_NAMES: Final = {level: name for name, level in _LEVELS.items()}
_PATIENT_ID, _STUDY_UID, _SERIES_UID, _SOP_UID = "00100020", "0020000D", "0020000E", "00080018"
_UNIQUE: Final = {
    Level.PATIENT: (_PATIENT_ID,),
    Level.STUDY: (_STUDY_UID,),
    Level.SERIES: (_STUDY_UID, _SERIES_UID),
    Level.INSTANCE: (_STUDY_UID, _SERIES_UID, _SOP_UID),
}
# SpecificCharacterSet, QueryRetrieveLevel, RetrieveAETitle, RetrieveURL: what an answer says about itself.
_OURS: Final = frozenset({"00080005", "00080052", "00080054", "00081190"})
# What a row of the level has anyway, so that the index need not look it up.
_GIVEN: Final = {
    Level.PATIENT: frozenset[str](),
    Level.STUDY: frozenset(STUDY_SUMMARY),
    Level.SERIES: frozenset(SERIES_SUMMARY),
    Level.INSTANCE: frozenset[str](),
}


@dataclass(frozen=True, slots=True)
class Find:
    """A parsed request: the search, and what its answers hold; `partial` when a key could not be matched."""

    query: Query
    keys: Dataset
    partial: bool

    def answer(self, row: bytes, aet: str) -> Dataset:
        """The identifier for one row (a DICOM JSON object): every requested key, empty where nothing is known.

        The unique keys of the level and those above are there as well, and where to retrieve from (PS3.4 C.4.1.1.3.2).
        """
        found: dict[str, Any] = orjson.loads(row)
        # A search below a given study or series does not repeat it in each row.
        for tag, uid in ((_STUDY_UID, self.query.study), (_SERIES_UID, self.query.series)):
            if uid is not None:
                found.setdefault(tag, {"vr": "UI", "Value": [uid]})
        wanted = {_hex(key) for key in self.keys}
        wanted.update(tag for tag in _UNIQUE[self.query.level] if tag in found)
        members = {tag: _tidy(found[tag]) for tag in wanted - _OURS if tag in found}
        answer: Dataset = Dataset.from_json(members)
        for key in self.keys:
            if key.tag not in answer:
                answer.add_new(key.tag, key.VR, [] if key.VR == "SQ" else None)
            elif key.VR == "SQ" and answer[key.tag].VR == "SQ":
                _narrow(answer[key.tag], key)
        answer.SpecificCharacterSet = "ISO_IR 192"
        answer.QueryRetrieveLevel = _NAMES[self.query.level]
        answer.RetrieveAETitle = aet
        return answer


def parse(encoded: bytes, *, transfer_syntax: str, patient_root: bool, limit: int) -> Find:
    """The search that a C-FIND-RQ identifier asks for; at most `limit` matches.

    Unique keys of upper levels may be missing (relational queries, PS3.4 C.4.1.2.2). Raises BadQuery, and
    IdentityMismatch when the level does not belong to the information model.
    """
    try:
        request = decode(BytesIO(encoded), transfer_syntax == IMPLICIT_LE, transfer_syntax != EXPLICIT_BE)
        request.decode()
    except Exception as exc:  # pydicom raises nearly anything for what a peer can send
        raise BadQuery("the identifier cannot be decoded") from exc
    level = _LEVELS.get(str(request.get("QueryRetrieveLevel", "")).strip().upper())
    if level is None:
        raise IdentityMismatch("QueryRetrieveLevel is none of PATIENT, STUDY, SERIES, IMAGE")
    if level is Level.PATIENT and not patient_root:
        raise IdentityMismatch("the Study Root model has no PATIENT level")
    wanted = Dataset()
    for element in request:
        if element.tag.element != 0 and _hex(element) not in _OURS:  # element 0: a group length
            wanted.add(element)
    keys = {key.path: key for key in _keys(wanted, ())}
    base = Query(
        level=level,
        study=_single_uid(keys, _STUDY_UID) if level is not Level.PATIENT else None,
        series=_single_uid(keys, _SERIES_UID) if level in (Level.SERIES, Level.INSTANCE) else None,
        limit=limit,
    )
    query = assemble(base, keys.values())
    fields = tuple(path for path in query.fields if path[0] not in _GIVEN[level])
    return Find(replace(query, fields=fields), wanted, bool(query.warnings))


def _hex(element: DataElement) -> str:
    return f"{int(element.tag):08X}"


def _single_uid(keys: dict[Path, Key], tag: str) -> str | None:
    """The one UID of a unique key, which then leads the search instead of being one condition of many."""
    key = keys.get((tag,))
    if key is None or not is_uid(key.texts[0].strip("\0 ")):
        return None
    del keys[tag,]
    return key.texts[0].strip("\0 ")


def _keys(identifier: Dataset, parents: Path) -> Iterator[Key]:
    if len(parents) >= MAX_DEPTH:
        raise BadQuery(f"sequences in a query may be at most {MAX_DEPTH} levels deep")
    for element in identifier:
        path = (*parents, _hex(element))
        if element.VR != "SQ":
            yield Key(path, element.keyword or path[-1], (_text(element),))
            continue
        if not element.value and not parents:
            yield Key(path, element.keyword or path[-1], ("",))
        if len(element.value) > 1:
            raise BadQuery(f"{element.keyword or path[-1]} has more than one item", attribute=element.keyword)
        for item in element.value:
            yield from _keys(item, path)


def _text(element: DataElement) -> str:
    """The value as it was sent: several values with backslashes between them; "" for binary ones, which match all."""
    value = element.value
    if value is None or isinstance(value, bytes):
        return ""
    if isinstance(value, str) or element.VM <= 1:
        return str(value)
    return "\\".join(str(each) for each in value)


def _tidy(member: dict[str, Any]) -> dict[str, Any]:
    """A JSON member without what an identifier cannot hold: bulk data stay where they are."""
    if "BulkDataURI" in member:
        return {"vr": member["vr"]}
    return member


def _narrow(found: DataElement, key: DataElement) -> None:
    """Of a sequence's items only the attributes that were asked for; all of them when none was named."""
    asked = key.value[0] if key.value else None
    if not asked:
        return
    for item in found.value:
        for tag in [e.tag for e in item if e.tag not in asked]:
            del item[tag]
        for element in asked:
            if element.tag not in item:
                item.add_new(element.tag, element.VR, [] if element.VR == "SQ" else None)
