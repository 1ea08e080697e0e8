"""De-identification as a set of rules: the policy of PS3.15, pseudonyms, and what says that it was done."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from dicomweb.deidentify.cleaning import cleaner
from dicomweb.deidentify.profile import ConfidentialityPolicy, Option
from dicomweb.deidentify.pseudonyms import Pseudonyms
from dicomweb.deidentify.tables import confidentiality_table
from dicomweb.edit.encoding import Value
from dicomweb.edit.paths import Path
from dicomweb.edit.rules import Action, Private, Rule, Rules
from dicomweb.edit.subject import PATIENT_ID, PATIENT_NAME, Subject

IDENTITY_REMOVED: Final = 0x00120062
METHOD: Final = 0x00120063
METHOD_CODES: Final = 0x00120064
LONGITUDINAL: Final = 0x00280303
_BASIC: Final = ("113100", "Basic Application Confidentiality Profile")
_NOTHING: Final[Mapping[Path, Rule]] = {}


def deidentification(
    pseudonyms: Pseudonyms,
    options: Iterable[Option] = (),
    *,
    patient_id: str | None = None,
    patient_name: str | None = None,
    private: Private = Private.REMOVE,
    paths: Mapping[Path, Rule] = _NOTHING,
) -> Rules:
    """The rules that de-identify under the Basic Profile and `options`.

    Patient ID and Patient's Name are the given ones, else pseudonyms. What `paths` say goes before the profile; a
    sequence that is kept that way is still cleaned inside (PS3.15 E.1.1, action K). `private` may be KEEP, which no
    option of the standard covers.
    """
    policy = ConfidentialityPolicy(options, private)

    def new_id(subject: Subject) -> Value:
        return Value("LO", (pseudonyms.patient_id(subject.patient) if patient_id is None else patient_id,))

    def new_name(subject: Subject) -> Value:
        name = f"Anonymized^{pseudonyms.patient_id(subject.patient)}" if patient_name is None else patient_name
        return Value("PN", (name,))

    said: dict[int, Value | Callable[[Subject], Value]] = {
        PATIENT_ID: new_id,
        PATIENT_NAME: new_name,
        IDENTITY_REMOVED: Value("CS", ("YES",)),
        METHOD: Value("LO", _method()),
        METHOD_CODES: Value("SQ", items=tuple(_codes(policy.options))),
        LONGITUDINAL: Value("CS", (_longitudinal(policy.options),)),
    }
    own = {Path((), tag): Rule(Action.REPLACE, value) for tag, value in said.items()}
    known = _none if Option.RETAIN_UIDS in policy.options else _own
    return Rules(
        own | dict(paths),
        policy=policy,
        private=policy.private,
        uid=pseudonyms.uid,
        known=known,
        days=lambda subject: pseudonyms.days(subject.patient),
        cleaner=cleaner,
    )


def _own(uid: str, subject: Subject) -> bool:
    return uid in subject.uids


def _none(uid: str, subject: Subject) -> bool:  # noqa: ARG001
    return False


def _method() -> tuple[str, ...]:
    return ("DICOM PS3.15 Table E.1-1 Basic Profile", f"Edition of {confidentiality_table().edition}")


def _longitudinal(options: frozenset[Option]) -> str:
    """Longitudinal Temporal Information Modified (PS3.15 E.3.6)."""
    if Option.RETAIN_FULL_DATES in options:
        return "UNMODIFIED"
    return "MODIFIED" if Option.RETAIN_MODIFIED_DATES in options else "REMOVED"


def _codes(options: frozenset[Option]) -> list[tuple[tuple[int, Value], ...]]:
    """De-identification Method Code Sequence: CID 7050, as many as apply."""
    pairs = [_BASIC, *sorted((option.value[1], option.value[2]) for option in options)]
    return [
        (
            (0x00080100, Value("SH", (code,))),
            (0x00080102, Value("SH", ("DCM",))),
            (0x00080104, Value("LO", (meaning,))),
        )
        for code, meaning in pairs
    ]
