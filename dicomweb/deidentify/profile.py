"""PS3.15 E.1: the Basic Application Level Confidentiality Profile and its options, as a policy of edits.

Actions hold at every depth. Where the profile leaves a choice (X/Z/D ...), the type of the attribute in its IOD
decides, and where that is not known, what is right for every type.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final

from dicomweb.deidentify.safe_private import is_safe
from dicomweb.deidentify.tables import CONTENT_SEQUENCE, Row, attribute_types, confidentiality_table, flat
from dicomweb.dictionary import public_vr
from dicomweb.edit.encoding import TEXT_VRS
from dicomweb.edit.rules import CLEAR, KEEP, MAP_KNOWN_UID, MAP_UID, REMOVE, WALK, Action, Place, Private, Rule
from dicomweb.errors import BadRequest


class Option(Enum):
    """An option of PS3.15 E.3: its column of Table E.1-1, and its code of CID 7050."""

    CLEAN_GRAPHICS = ("graphics", "113103", "Clean Graphics Option")
    CLEAN_STRUCTURED_CONTENT = ("structured_content", "113104", "Clean Structured Content Option")
    CLEAN_DESCRIPTORS = ("descriptors", "113105", "Clean Descriptors Option")
    RETAIN_FULL_DATES = (
        "full_dates", "113106", "Retain Longitudinal Temporal Information Full Dates Option",
    )  # fmt: skip
    RETAIN_MODIFIED_DATES = (
        "modified_dates", "113107", "Retain Longitudinal Temporal Information Modified Dates Option",
    )  # fmt: skip
    RETAIN_PATIENT_CHARACTERISTICS = ("patient", "113108", "Retain Patient Characteristics Option")
    RETAIN_DEVICE_IDENTITY = ("device", "113109", "Retain Device Identity Option")
    RETAIN_UIDS = ("uids", "113110", "Retain UIDs Option")
    RETAIN_SAFE_PRIVATE = ("safe_private", "113111", "Retain Safe Private Option")
    RETAIN_INSTITUTION_IDENTITY = ("institution", "113112", "Retain Institution Identity Option")

    @property
    def column(self) -> str:
        """The name of its column."""
        return self.value[0]


# What a sequence is cleaned by: its text is cleaned, or all that could say something in it becomes a dummy. Of a
# content tree the latter leaves the concept names and references standing, so that its template still holds.
_CLEAN, _DUMMY, _CONTENT = "clean", "dummy", "content"
_PERSONAL: Final = Rule(Action.DUMMY)
_TEXT_VALUES: Final = frozenset((0x0040A160, 0x00700006))
# Sequences of references, and of units: of no use with dummies in them, and only their UIDs say anything.
_REFERENCES: Final = frozenset((0x00081199, 0x00081140, 0x00082112, 0x004008EA))
_CONTENT_VALUES: Final = frozenset((0x0040A168, 0x0040A300))
# Codes, counts and positions of values: no name is hidden in them, and what counts or selects must stay right. What a
# code means is text, and may be a local one (PS3.15 E.1.1 note 7).
_HARMLESS: Final = frozenset(("CS", "SL", "SS", "UL", "US"))
_CODES: Final = frozenset(range(0x00080100, 0x00080200)) - {0x00080104}
_SHIFTED: Final = "S"


class ConfidentialityPolicy:
    """Table E.1-1 under a set of options. `private` says what becomes of private attributes that are not removed."""

    def __init__(self, options: Iterable[Option] = (), private: Private = Private.REMOVE) -> None:
        self.options = frozenset(options)
        if {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES} <= self.options:
            raise BadRequest("dates are retained either in full or modified")
        self.private = private
        if private is Private.REMOVE and Option.RETAIN_SAFE_PRIVATE in self.options:
            self.private = Private.SAFE
        columns = {option.column for option in self.options}
        table = confidentiality_table()
        self._rows = table.rows
        self._codes = {tag: _code(row, columns) for tag, row in table.rows.items()}
        self._clean = Option.CLEAN_DESCRIPTORS in self.options

    def rule(self, tag: int, vr: str, place: Place) -> Rule:
        """The rule of a public attribute at its place."""
        group = tag >> 16
        if 0x5000 <= group <= 0x50FF or 0x6000 <= group <= 0x60FF:
            # Whether an overlay or a curve names somebody cannot be seen here, and without its data what describes it
            # is of no use.
            return REMOVE
        code = self._codes.get(tag)
        if code is None:
            return self._unlisted(tag, vr, place.mode)
        if code == "K":
            return WALK if vr == "SQ" else KEEP
        if code == _SHIFTED:
            if vr in {"DA", "DT", "TM", "SH"}:
                return Rule(Action.SHIFT, mode=self._basic(tag, place))
            return WALK if vr == "SQ" else self._protected(tag, vr, self._basic(tag, place))
        if code == "C":
            return self._cleaned(tag, vr, place)
        return self._protected(tag, vr, self._basic(tag, place))

    def private_rule(self, tag: int, vr: str, creator: str, place: Place) -> Rule:  # noqa: ARG002 - of the protocol
        """The rule of a private attribute: known to be safe, or all of them kept."""
        if self.private is Private.SAFE and not is_safe(tag, creator):
            return REMOVE
        if vr == "SQ":
            return WALK
        if vr == "UI" and Option.RETAIN_UIDS not in self.options:
            return MAP_UID if self.private is Private.SAFE else MAP_KNOWN_UID
        return KEEP

    def _basic(self, tag: int, place: Place) -> str:
        """The one of the Basic Profile's actions that keeps the IOD: X, Z, D or U."""
        choices = self._rows[tag].basic.rstrip("*").split("/")
        if choices == ["Z"] or len(choices) > 1:
            types = attribute_types(place.sop_class)
            if types is None:
                return "Z" if choices == ["Z"] else choices[-1]
            type_ = types.get(flat((*place.path, tag)), "3")[0]
            if type_ != "3" and "U" in choices:
                return "U"
            if type_ == "1":
                return "D"
            if type_ == "2":
                return "Z" if "Z" in choices else "D"
        return choices[0]

    def _protected(self, tag: int, vr: str, code: str) -> Rule:
        if code == "X":
            return REMOVE
        if code == "Z":
            return CLEAR
        if vr == "SQ":
            mode = "" if code == "U" else _CONTENT if tag == CONTENT_SEQUENCE else _DUMMY
            return Rule(Action.WALK, mode=mode)
        if vr == "UI":
            return MAP_UID
        return REMOVE if code == "U" else _PERSONAL

    def _cleaned(self, tag: int, vr: str, place: Place) -> Rule:
        if vr == "SQ":
            return Rule(Action.WALK, mode=_CLEAN)
        if vr in TEXT_VRS and vr != "PN":
            return Rule(Action.CLEAN, mode=self._basic(tag, place))
        if vr == "CS":
            return KEEP
        return self._protected(tag, vr, self._basic(tag, place))

    def _unlisted(self, tag: int, vr: str, mode: str) -> Rule:
        """An attribute that is no row of the table; one that no dictionary knows is nothing that could be judged."""
        if public_vr(tag) == "UN":
            return REMOVE
        if vr == "SQ":
            return Rule(Action.WALK, mode=_inside(tag, mode))
        if vr == "UI":
            return MAP_KNOWN_UID if mode in {"", _CLEAN} else MAP_UID
        if mode == _CLEAN or tag in _TEXT_VALUES:
            if vr == "PN":
                return _PERSONAL
            if vr in TEXT_VRS and tag not in _CODES:
                return Rule(Action.CLEAN, mode="D") if mode == _CLEAN or self._clean else _PERSONAL
            return KEEP
        if mode in {_DUMMY, _CONTENT} and vr not in _HARMLESS:
            return _PERSONAL
        return KEEP


def _code(row: Row, columns: set[str]) -> str:
    """The action of a row under options, which override the profile; a date that may be kept is shifted if any is."""
    codes = {column: code for column, code in row.options.items() if column in columns}
    if "modified_dates" in codes:
        return _SHIFTED
    if "K" in codes.values():
        return "K"
    return "C" if codes else row.basic


def _inside(tag: int, mode: str) -> str:
    """The mode of what is in a sequence that no row names."""
    if tag in _REFERENCES:
        return ""
    if mode == _CONTENT:
        return _DUMMY if tag in _CONTENT_VALUES else ""
    return mode
