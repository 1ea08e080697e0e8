"""The information models of Query/Retrieve (PS3.4 C.3, C.6): SOP classes, their levels, what is negotiated for them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dicomweb.errors import IdentityMismatch
from dicomweb.tags import Level

_ROOT: Final = "1.2.840.10008.5.1.4.1.2."
_PATIENT_ROOT: Final = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE)
_STUDY_ROOT: Final = (Level.STUDY, Level.SERIES, Level.INSTANCE)
_PATIENT_STUDY_ONLY: Final = (Level.PATIENT, Level.STUDY)  # retired in 2006, sent nevertheless
_MODELS: Final = {"1": _PATIENT_ROOT, "2": _STUDY_ROOT, "3": _PATIENT_STUDY_ONLY}


def _classes(operation: str) -> Mapping[str, tuple[Level, ...]]:
    return MappingProxyType({f"{_ROOT}{model}.{operation}": levels for model, levels in _MODELS.items()})


# SOP class -> the levels of its information model.
FIND: Final = _classes("1")
MOVE: Final = _classes("2")
GET: Final = _classes("3")

NAMES: Final = MappingProxyType(
    {Level.PATIENT: "PATIENT", Level.STUDY: "STUDY", Level.SERIES: "SERIES", Level.INSTANCE: "IMAGE"}
)
_LEVELS: Final = {name: level for level, name in NAMES.items()}

# What is agreed to of what a peer may ask for, byte by byte: relational queries, ranges of date and time together,
# fuzzy matching of names, time zones, conversion of multi-frame images, empty values, multiple values (PS3.4 C.5.1.1).
_FIND_EXTENDED: Final = bytes((1, 1, 1, 0, 0, 1, 1))
_RETRIEVE_EXTENDED: Final = bytes((1, 0))  # relational retrieval; conversion (PS3.4 C.5.2.1)
RELATIONAL, DATE_TIME, FUZZY, _, _, EMPTY_VALUE, MULTIPLE_VALUES = range(7)


def accepted(sop_class: str, requested: bytes) -> bytes | None:
    """The answer to SOP Class Extended Negotiation (PS3.7 D.3.3.5); None for a class without."""
    ours = (
        _FIND_EXTENDED if sop_class in FIND else _RETRIEVE_EXTENDED if sop_class in GET or sop_class in MOVE else None
    )
    return None if ours is None else bytes(min(a, b) for a, b in zip(requested, ours, strict=False))


def is_agreed(extended: bytes, what: int) -> bool:
    """Whether one of the bytes above was negotiated."""
    return len(extended) > what and extended[what] == 1


def level_named(name: str, levels: tuple[Level, ...]) -> Level:
    """The level of a Query/Retrieve Level; IdentityMismatch where the information model has no such level."""
    level = _LEVELS.get(name.upper())
    if level is None:
        raise IdentityMismatch("QueryRetrieveLevel is none of PATIENT, STUDY, SERIES, IMAGE")
    if level not in levels:
        raise IdentityMismatch(f"the information model has no {name.upper()} level")
    return level
