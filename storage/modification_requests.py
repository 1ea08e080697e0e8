"""What is asked of stored resources, checked and made into the content and parts of a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dicomweb.deidentify.request import Anonymization, Modification
from dicomweb.edit.parsing import parse_value
from dicomweb.edit.paths import Path
from dicomweb.edit.rules import Action
from dicomweb.edit.subject import PATIENT_ID, SERIES, SOP_INSTANCE, STUDY
from dicomweb.errors import BadQuery, BadRequest, NotFound
from dicomweb.orthanc_tags import MAIN_TAGS
from dicomweb.structure import name_of
from dicomweb.tags import PATIENT_TAGS, STUDY_TAGS, Level
from dicomweb.uids import parse_orthanc_id
from storage.access import Access
from storage.archives import ArchiveService
from storage.db import Database
from storage.modification_jobs import MERGE, MODIFY, SPLIT
from storage.modification_plan import is_lossy, needs_name, new_key, parsed
from storage.rest_state import RestState

MAX_INSTANCES: Final = 200_000
_NAMES: Final = "anonymized"
_LEVELS: Final = tuple(Level)
_UIDS: Final = {Level.STUDY: STUDY, Level.SERIES: SERIES, Level.INSTANCE: SOP_INSTANCE}
_UPPER: Final = PATIENT_TAGS | STUDY_TAGS
_STUDY: Final = "0020000D"
_PATIENT: Final = "00100020"


@dataclass(frozen=True, slots=True)
class Task:
    """A job that is to be made: its kind, its content, and the SOP Instance UIDs that are its parts."""

    kind: str
    content: dict[str, Any]
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Resources that a request names: PatientIDs, and the instances in them."""

    patients: frozenset[str]
    instances: Sequence[str]


class ModificationRequests:
    """Checks requests. What they remove takes the right to delete."""

    def __init__(self, db: Database, archives: ArchiveService, state: RestState) -> None:
        self._db = db
        self._archives = archives
        self._state = state

    async def modify(
        self,
        access: Access,
        level: Level,
        resources: Sequence[str],
        body: Mapping[str, Any],
        *,
        anonymize: bool,
        bulk: bool = False,
    ) -> Task:
        """Modify or anonymize resources, with `bulk` of any level. Raises BadRequest, BadQuery, NotFound, TooLarge."""
        request = parsed(body, level, anonymize=anonymize)
        chosen = await self._chosen(access, resources, None if bulk else level)
        in_place = await self._in_place(access, request, chosen)
        content = _content(body, request, in_place=in_place, answer="bulk" if bulk else str(level))
        said = {"IsAnonymization": anonymize, "ParentResources": sorted(set(resources))}
        content |= {"level": str(level), "anonymize": anonymize, "said": said}
        if isinstance(request, Modification):
            await self._require_same(access, request, chosen)
            below = [each for each in _LEVELS[_LEVELS.index(request.level) :] if each is not Level.PATIENT]
            content["noted"] = below if request.keeps(PATIENT_ID) else [Level.PATIENT, *below]
        else:
            content["noted"] = list(_LEVELS)
            content |= await self.pseudonym(access, body, request, one_patient=len(chosen.patients) < 2)
        return Task(MODIFY, content, chosen.instances)

    async def pseudonym(
        self, access: Access, body: Mapping[str, Any], request: Anonymization, *, one_patient: bool
    ) -> dict[str, Any]:
        """How an anonymized patient is named: as Orthanc does, but for several patients, or those of a project."""
        alone = one_patient and "ProjectKey" not in body
        name = f"Anonymized{await self._state.count(access, _NAMES)}" if alone and needs_name(body, request) else ""
        return {"name": name, "one_patient": alone}

    async def merge(self, access: Access, target: str, body: Mapping[str, Any]) -> Task:
        """Bring resources of other studies into the study `target`."""
        uid, header = await self._header(access, target)
        resources = _identifiers(body, "Resources")
        chosen = await self._chosen(access, resources, None)
        if target in await self._studies(access, resources):
            raise NotFound("a study cannot be merged into itself")
        edit = {
            "Replace": {_PATIENT: {"vr": "LO"}} | header | {_STUDY: uid},
            "Remove": sorted(_UPPER - header.keys() - {_STUDY, _PATIENT}),
            "Force": True,
            "KeepSource": _flag(body, "KeepSource"),
        }
        # Of an instance everything from the topmost level that is replaced is new, save what is given.
        return self._moved(access, MERGE, edit, Level.INSTANCE, chosen.instances, {
            "noted": [Level.SERIES, Level.INSTANCE], "answer": "study", "said": {"TargetStudy": target},
        })  # fmt: skip

    async def split(self, access: Access, source: str, body: Mapping[str, Any]) -> Task:
        """Move series and instances of the study `source` into a new study."""
        if "Series" not in body and "Instances" not in body:
            raise BadRequest("Series or Instances is needed", attribute="Series")
        uid, _ = await self._header(access, source)
        series, instances = (_identifiers(body, name, needed=False) for name in ("Series", "Instances"))
        for level, resources in ((Level.SERIES, series), (Level.INSTANCE, instances)):
            await self._require_level(access, resources, level)
        if not {source}.issuperset(await self._studies(access, [*series, *instances])):
            raise NotFound("a series or instance is not of this study")
        edit = {name: body[name] for name in ("Replace", "Remove", "KeepLabels") if name in body}
        edit |= {"Force": True, "KeepSource": _flag(body, "KeepSource")}
        request = parsed(edit, Level.STUDY, anonymize=False)
        for path in request.paths:
            if path.steps or f"{path.tag:08X}" not in _UPPER - {_STUDY}:
                raise BadQuery(
                    f"{name_of(path.tag)} is not of the patient or study, which alone a split changes",
                    attribute=name_of(path.tag),
                )
        chosen = await self._chosen(access, [*series, *instances], None)
        other = [] if request.keeps(PATIENT_ID) else [Level.PATIENT]
        return self._moved(access, SPLIT, edit, Level.STUDY, chosen.instances, {
            "noted": [*other, Level.STUDY, Level.SERIES, Level.INSTANCE], "answer": "study", "said": {}, "study": uid,
        })  # fmt: skip

    def _moved(
        self, access: Access, kind: str, edit: dict[str, Any], level: Level, items: Sequence[str], more: dict[str, Any]
    ) -> Task:
        request = parsed(edit, level, anonymize=False)
        if not request.keep_source:
            access.require("dicom.delete")
        content = _content(edit, request, in_place=False, answer=more["answer"])
        return Task(kind, content | {"level": str(level), "anonymize": False} | more, items)

    async def _require_same(self, access: Access, request: Modification, chosen: _Chosen) -> None:
        """A patient is the same in all studies.

        Whoever moves studies to a patient who is stored says so by all that is known of the patient; what is changed of
        one who has other studies is as it is there.
        """
        given = request.replaced(PATIENT_ID)
        patient = "" if given is None else "\\".join(given.values)
        if patient and patient not in chosen.patients:
            for row in await self._db.fetch("patient_headers", access.tenant, patient):
                known = orjson.loads(row["attributes"])
                _check_same(request, known, [tag for tag in MAIN_TAGS[Level.PATIENT] if tag in known])
            return
        touched = [
            tag
            for tag in MAIN_TAGS[Level.PATIENT]
            if tag != _PATIENT and (rule := request.paths.get(Path((), int(tag, 16)))) and rule.action != Action.KEEP
        ]
        if not touched:
            return
        for row in await self._db.fetch(
            "patients_with_other_studies", access.tenant, list(chosen.patients), chosen.instances
        ):
            _check_same(request, orjson.loads(row["attributes"]), touched)

    async def _in_place(self, access: Access, request: Modification | Anonymization, chosen: _Chosen) -> bool:
        found = request.in_place(chosen.patients)
        if found or not request.keep_source:
            access.require("dicom.delete")
        if not found:
            return False
        if isinstance(request, Anonymization):
            raise BadRequest("what is de-identified is not stored under the UID of its source", attribute="Keep")
        if is_lossy(request.transcode):
            raise BadRequest("lossy compression makes another instance, with a UID of its own", attribute="Transcode")
        if request.level in (Level.PATIENT, Level.STUDY) and await self._db.fetch_value(
            "modification_partial", access.tenant, chosen.instances
        ):
            raise BadRequest("a study that keeps its UIDs is modified as a whole", attribute="Resources")
        return True

    async def _chosen(self, access: Access, resources: Sequence[str], level: Level | None) -> _Chosen:
        if level is not None:
            await self._require_level(access, resources, level)
        reader = access.with_scope("dicom.read")
        instances = await self._archives.instances(reader, resources, MAX_INSTANCES)
        patients = frozenset(row["patient_id"] for row in await self._known(access, resources))
        return _Chosen(patients, [sop for _, sop in instances])

    async def _known(self, access: Access, resources: Sequence[str]) -> Sequence[Any]:
        digests = [parse_orthanc_id(each) for each in resources]
        return await self._db.fetch("orthanc_known", access.tenant, digests)

    async def _require_level(self, access: Access, resources: Sequence[str], level: Level) -> None:
        known = await self._known(access, resources)
        found = {row["orthanc_id"] for row in known if row["level"].lower() == level}
        if not found.issuperset(map(parse_orthanc_id, resources)):
            raise NotFound(f"no such {level}")

    async def _studies(self, access: Access, resources: Sequence[str]) -> set[str]:
        """The Orthanc identifiers of the studies that resources are, or are in, or hold."""
        reader = access.with_scope("dicom.read")
        folders = await self._archives.folders(reader, resources) if resources else []
        rows = await self._db.fetch("study_ids", access.tenant, list({each.study for each in folders}))
        return {row["id"] for row in rows}

    async def _header(self, access: Access, study: str) -> tuple[str, dict[str, Any]]:
        """Study Instance UID and the attributes of a study and its patient. Raises NotFound."""
        row = await self._db.fetch_row("study_header", access.tenant, parse_orthanc_id(study))
        if row is None:
            raise NotFound("no such study")
        return row["study_uid"], orjson.loads(row["attributes"])


def _check_same(request: Modification, known: Mapping[str, Any], tags: Sequence[str]) -> None:
    """Raise BadRequest where a request does not give these attributes of a patient as they are known."""
    for tag in tags:
        number = int(tag, 16)
        given, wanted = request.replaced(number), parse_value(number, known[tag]) if tag in known else None
        if given != wanted:
            raise BadRequest(
                f"there is a patient of this PatientID: Replace is to say the same {name_of(number)}",
                attribute=name_of(number),
            )


def _content(
    body: Mapping[str, Any], request: Modification | Anonymization, *, in_place: bool, answer: str
) -> dict[str, Any]:
    fresh = request.new_uids() if isinstance(request, Modification) else frozenset()
    return {
        "body": {name: value for name, value in body.items() if name != "ProjectKey"},  # which is the key
        "key": new_key(body),
        "keep_source": request.keep_source or in_place,
        "keep_labels": request.keep_labels,
        "in_place": in_place,
        "fresh": [level for level, tag in _UIDS.items() if tag in fresh],
        "answer": answer,
    }


def _identifiers(body: Mapping[str, Any], name: str, *, needed: bool = True) -> list[str]:
    found = body.get(name, None if needed else [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise BadRequest(f"{name} is a list of identifiers", attribute=name)
    return found


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} is true or false", attribute=name)
    return value
