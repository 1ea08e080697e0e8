"""Orthanc's requests to modify and to anonymize, as values: parsed, checked, and turned into rules.

Unknown members are ignored, as Orthanc does. Every refusal is a BadRequest (Orthanc's code 8), of a parameter out of
its range a BadQuery (code 3).
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicomweb.deidentify.profile import Option
from dicomweb.deidentify.pseudonyms import Pseudonyms
from dicomweb.deidentify.rules import deidentification
from dicomweb.deidentify.tables import confidentiality_table
from dicomweb.dictionary import creator_tag
from dicomweb.edit.encoding import Value
from dicomweb.edit.parsing import parse_value
from dicomweb.edit.paths import Path, parse_path
from dicomweb.edit.rules import KEEP, MAP_UID, REMOVE, Action, Private, References, Rule, Rules
from dicomweb.edit.subject import PATIENT_ID, SERIES, SOP_INSTANCE, STUDY, Subject
from dicomweb.errors import BadQuery, BadRequest
from dicomweb.structure import name_of
from dicomweb.tags import Level

# What identifies a resource at each level, top down.
_IDENTITY: Final = {
    Level.PATIENT: PATIENT_ID,
    Level.STUDY: STUDY,
    Level.SERIES: SERIES,
    Level.INSTANCE: SOP_INSTANCE,
}
_LEVELS: Final = tuple(_IDENTITY)
_MAX_PATHS: Final = 1000
OPTIONS: Final = {
    "RetainSafePrivate": Option.RETAIN_SAFE_PRIVATE,
    "RetainUIDs": Option.RETAIN_UIDS,
    "RetainDeviceIdentity": Option.RETAIN_DEVICE_IDENTITY,
    "RetainInstitutionIdentity": Option.RETAIN_INSTITUTION_IDENTITY,
    "RetainPatientCharacteristics": Option.RETAIN_PATIENT_CHARACTERISTICS,
    "RetainLongitudinalFullDates": Option.RETAIN_FULL_DATES,
    "RetainLongitudinalModifiedDates": Option.RETAIN_MODIFIED_DATES,
    "CleanDescriptors": Option.CLEAN_DESCRIPTORS,
    "CleanStructuredContent": Option.CLEAN_STRUCTURED_CONTENT,
    "CleanGraphics": Option.CLEAN_GRAPHICS,
}


@dataclass(frozen=True, slots=True)
class EditRequest:
    """What both requests have in common; `paths` are the attributes that they name, with what becomes of them.

    `transcode` is a transfer syntax or "", `lossy_quality` 1 to 100 or None.
    """

    paths: Mapping[Path, Rule]
    force: bool
    keep_source: bool
    keep_labels: bool
    permissive: bool
    transcode: str
    lossy_quality: int | None

    def names(self, tag: int, action: Action) -> bool:
        """Whether the request has this action for an attribute of the data set itself."""
        rule = self.paths.get(Path((), tag))
        return rule is not None and rule.action == action

    def replaced(self, tag: int) -> Value | None:
        """The value that the request gives to an attribute of the data set itself."""
        rule = self.paths.get(Path((), tag))
        return rule.value if rule is not None and isinstance(rule.value, Value) else None

    def keeps(self, tag: int) -> bool:
        """Whether an identifier stays as it is."""
        return self.names(tag, Action.KEEP)

    def in_place(self, patients: Iterable[str]) -> bool:
        """Whether what is stored is overwritten, as instances keep their identifiers.

        `patients`: the PatientIDs of what is edited. Raises BadRequest where the result could not be stored beside what
        is there: a UID names one thing.
        """
        given = self.replaced(PATIENT_ID)
        same = self.keeps(PATIENT_ID) or (given is not None and {"\\".join(given.values)}.issuperset(patients))
        study, series, instance = (self.keeps(tag) for tag in (STUDY, SERIES, SOP_INSTANCE))
        for kept, above, tag in ((instance, series, SERIES), (series, study, STUDY)):
            if kept and not above:
                raise BadRequest(f"what keeps its UID stays where it is: {name_of(tag)} is to be kept, too")
        if study and not instance and not same:
            raise BadRequest("a study that keeps its StudyInstanceUID has one patient", attribute="PatientID")
        if instance and not same and self.keep_source:
            raise BadRequest(
                "with its UIDs an instance takes the place of its source: for another patient that takes KeepSource "
                "false",
                attribute="KeepSource",
            )
        return instance


@dataclass(frozen=True, slots=True)
class Modification(EditRequest):
    """`POST .../modify`: identifiers from `level` down are new, unless they are kept or replaced."""

    level: Level
    remove_private: bool

    @classmethod
    def parse(cls, body: Any, level: Level) -> "Modification":
        """The request for resources of a level. An instance is modified at the topmost level that it replaces."""
        common = _common(body)
        request = cls(**common, level=level, remove_private=_flag(body, "RemovePrivateTags"))
        if level is Level.INSTANCE:
            replaced = [each for each in _LEVELS if request.names(_IDENTITY[each], Action.REPLACE)]
            return cls(**common, level=(replaced or [level])[0], remove_private=request.remove_private)
        if level is Level.PATIENT and not request.names(PATIENT_ID, Action.REPLACE):
            raise BadRequest("a patient is modified by replacing PatientID", attribute="PatientID")
        for above in (Level.PATIENT, Level.STUDY) if level is Level.SERIES else ():
            if not request.keeps(_IDENTITY[above]):
                name = name_of(_IDENTITY[above])
                raise BadRequest(f"a series is modified within its study: {name} stays", attribute=name)
        for below in _LEVELS[_LEVELS.index(level) + 1 :]:
            if request.names(_IDENTITY[below], Action.REPLACE):
                name = name_of(_IDENTITY[below])
                raise BadRequest(f"{name} cannot be replaced at {level} level: all would be the same", attribute=name)
        return request

    def new_uids(self) -> frozenset[int]:
        """The tags of the identifiers that are mapped."""
        at = max(_LEVELS.index(self.level), 1)
        return frozenset(tag for tag in map(_IDENTITY.__getitem__, _LEVELS[at:]) if Path((), tag) not in self.paths)

    def keeps(self, tag: int) -> bool:
        """Whether an identifier stays: it is neither new nor given."""
        given = self.names(tag, Action.REPLACE) or self.names(tag, Action.REMOVE)
        return not given and tag not in self.new_uids()

    def rules(self, uid: Callable[[str], str], members: Container[str] | None = None) -> Rules:
        """The rules: `uid` gives a new UID for an old one, the same in all files of the request.

        `members` are the old UIDs of the resources that are modified, at the levels whose identifiers are new: they are
        replaced wherever they are referred to.
        """

        def known(each: str, subject: Subject) -> bool:  # noqa: ARG001
            return members is not None and each in members

        mapped = dict.fromkeys((Path((), tag) for tag in self.new_uids()), MAP_UID)
        return Rules(
            mapped | dict(self.paths),
            policy=None if members is None else References(),
            private=Private.REMOVE if self.remove_private else Private.KEEP,
            uid=uid,
            known=known,
        )


@dataclass(frozen=True, slots=True)
class Anonymization(EditRequest):
    """`POST .../anonymize`: PS3.15 E.1, with its options by name in `Options`."""

    options: frozenset[Option]
    keep_private: bool

    @classmethod
    def parse(cls, body: Any) -> "Anonymization":
        """The request. A `DicomVersion` other than that of the table is refused: nobody would know what was done."""
        common = _common(body)
        edition = confidentiality_table().edition
        if body.get("DicomVersion", edition) != edition:
            raise BadQuery(
                f"only the table of the edition of {edition} is applied: leave DicomVersion out",
                attribute="DicomVersion",
            )
        names = body.get("Options", [])
        if not isinstance(names, list) or not all(isinstance(name, str) and name in OPTIONS for name in names):
            raise BadQuery(f"Options is an array of: {', '.join(OPTIONS)}", attribute="Options")
        return cls(
            **common, options=frozenset(map(OPTIONS.__getitem__, names)), keep_private=_flag(body, "KeepPrivateTags")
        )

    def keeps(self, tag: int) -> bool:
        """Whether an identifier stays: it is kept, or UIDs are retained and it is not given."""
        retained = tag != PATIENT_ID and Option.RETAIN_UIDS in self.options
        return self.names(tag, Action.KEEP) or (retained and not self.names(tag, Action.REPLACE))

    def rules(self, pseudonyms: Pseudonyms, *, patient_id: str | None = None, patient_name: str | None = None) -> Rules:
        """The rules; what the request replaces goes before the given Patient ID and name, else they are pseudonyms."""
        return deidentification(
            pseudonyms,
            self.options,
            patient_id=patient_id,
            patient_name=patient_name,
            private=Private.KEEP if self.keep_private else Private.REMOVE,
            paths=self.paths,
        )


def _common(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadRequest("the body is a JSON object")
    force, creator = _flag(body, "Force"), body.get("PrivateCreator", "")
    if not isinstance(creator, str):
        raise BadRequest("PrivateCreator is text", attribute="PrivateCreator")
    transcode, quality = body.get("Transcode", ""), body.get("LossyQuality")
    if not isinstance(transcode, str):
        raise BadRequest("Transcode is a transfer syntax", attribute="Transcode")
    if quality is not None and (not isinstance(quality, int) or not 1 <= quality <= 100):
        raise BadQuery("LossyQuality is a number from 1 to 100", attribute="LossyQuality")
    return {
        "paths": _paths(body, force, creator),
        "force": force,
        "keep_source": _flag(body, "KeepSource", default=True),
        "keep_labels": _flag(body, "KeepLabels"),
        "permissive": _flag(body, "Permissive"),
        "transcode": transcode,
        "lossy_quality": quality,
    }


def _flag(body: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} is true or false", attribute=name)
    return value


def _paths(body: Mapping[str, Any], force: bool, creator: str) -> dict[Path, Rule]:
    """Remove, Replace and Keep; of an attribute that more than one of them names, the last of them holds."""
    found: dict[Path, Rule] = dict.fromkeys(_names(body, "Remove"), REMOVE)
    replace = body.get("Replace", {})
    if not isinstance(replace, dict):
        raise BadRequest("Replace is an object of attributes and their values", attribute="Replace")
    for name, given in replace.items():
        path = parse_path(name)
        found[path] = Rule(Action.REPLACE, parse_value(path.tag, given, creator))
        if creator and path.tag & 0x10000 and path.tag & 0xFF00:
            block = Path(path.steps, creator_tag(path.tag))
            found.setdefault(block, Rule(Action.KEEP, Value("LO", (creator,))))
    found |= dict.fromkeys(_names(body, "Keep"), KEEP)
    if len(found) > _MAX_PATHS:
        raise BadRequest(f"more than {_MAX_PATHS} attributes")
    for tag in _IDENTITY.values():
        rule = found.get(Path((), tag))
        name = name_of(tag)
        if rule is not None and not force:
            raise BadRequest(f"{name} identifies a resource: to touch it takes Force", attribute=name)
        if rule == REMOVE and tag != PATIENT_ID:
            raise BadRequest(f"{name} cannot be removed", attribute=name)
    return found


def _names(body: Mapping[str, Any], member: str) -> list[Path]:
    names = body.get(member, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadRequest(f"{member} is an array of attributes", attribute=member)
    return [parse_path(name) for name in names]
