"""Modify, anonymize, merge and split: of an instance the new file, of everything else a job that stores it."""

import functools
from collections.abc import Mapping
from typing import Any, Final

from api.examples import DICOM
from api.exchange import Exchange
from api.responses import send_stream
from api.routes.orthanc.dialect import field, object_of, route, submit
from api.routing import Content, Operation
from dicomweb.deidentify.request import Anonymization
from dicomweb.errors import BadQuery, BadRequest
from dicomweb.tags import Level
from storage.modification_plan import new_key, parsed, plan_of
from storage.modification_requests import ModificationRequests, Task
from storage.resource import LEVEL_OF, PLURAL

_MAX_RESOURCES: Final = 100_000
_CHUNK: Final = 1 << 20


async def file(http: Exchange, *, anonymize: bool) -> None:
    """The edited file of an instance; nothing is stored."""
    body = await object_of(http, needed=True)
    request = parsed(body, Level.INSTANCE, anonymize=anonymize)
    instance = await http.archive.archives.instance(http.access, http.path["id"])
    content: dict[str, Any] = {"body": body, "level": Level.INSTANCE, "anonymize": anonymize, "key": new_key(body)}
    if isinstance(request, Anonymization):
        content |= await _requests(http).pseudonym(http.access, body, request, one_patient=True)
    spooled = await http.archive.modification.edited(http.access, instance, plan_of(content))
    try:
        await send_stream(http, 200, [(b"content-type", DICOM.encode())], spooled.size, spooled.chunks(_CHUNK))
    finally:
        spooled.release()


async def modify(http: Exchange, level: Level, *, anonymize: bool) -> None:
    """Modify or anonymize a patient, study or series."""
    body = await object_of(http, needed=True)
    task = await _requests(http).modify(http.access, level, [http.path["id"]], body, anonymize=anonymize)
    await _submit(http, task, body)


async def bulk(http: Exchange, *, anonymize: bool) -> None:
    """Modify or anonymize any resources."""
    body = await object_of(http, needed=True)
    resources = field(body, "Resources", list, [])
    if "Resources" not in body or not all(isinstance(each, str) for each in resources):
        raise BadRequest("Resources is a list of identifiers", attribute="Resources")
    if len(resources) > _MAX_RESOURCES:
        raise BadRequest(f"at most {_MAX_RESOURCES} resources", attribute="Resources")
    level = Level.INSTANCE if anonymize or "Level" not in body else _level(body["Level"])
    task = await _requests(http).modify(http.access, level, resources, body, anonymize=anonymize, bulk=True)
    await _submit(http, task, body)


async def merge(http: Exchange) -> None:
    """Bring resources of other studies into this one."""
    body = await object_of(http, needed=True)
    await _submit(http, await _requests(http).merge(http.access, http.path["id"], body), body)


async def split(http: Exchange) -> None:
    """Move series and instances of a study into a new one."""
    body = await object_of(http, needed=True)
    await _submit(http, await _requests(http).split(http.access, http.path["id"], body), body)


def _requests(http: Exchange) -> ModificationRequests:
    archive = http.archive
    return ModificationRequests(archive.db, archive.archives, archive.rest_state)


async def _submit(http: Exchange, task: Task, body: Mapping[str, Any]) -> None:
    who = {"principal": http.access.principal, "remote": http.peer}
    await submit(http, task.kind, task.content | who, task.items, body)


def _level(given: Any) -> Level:
    text = given.lower() if isinstance(given, str) else ""
    level = LEVEL_OF.get(text) or (Level(text) if text in set(Level) else None)
    if level is None:
        raise BadQuery("Level is Patient, Study, Series or Instance", attribute="Level")
    return level


_ID: Final = "6b9e19d9-62094390-5f9ddb01-4a191ae7-9766b715"
_OTHER: Final = "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15"
_COUNTS: Final = {"Description": "REST API", "InstancesCount": 120, "FailedInstancesCount": 0}
_FILE: Final = Content(DICOM, "(the bytes of a DICOM file)")
_EDIT: Final = {
    "Replace": {"PatientName": "Doe^Jane", "RequestAttributesSequence[*].ScheduledProcedureStepID": "7"},
    "Remove": ["InstitutionName"], "Keep": ["FrameOfReferenceUID"], "RemovePrivateTags": True,
}  # fmt: skip
_JOB: Final = {"KeepSource": True, "KeepLabels": False, "Permissive": False, "Synchronous": True, "Priority": 0}
_ANONYMIZE: Final = {
    "Keep": ["StudyDescription"], "Replace": {"PatientName": "Case 7"}, "KeepPrivateTags": False,
    "Options": ["RetainDeviceIdentity", "RetainLongitudinalModifiedDates"],
    "ProjectKey": "a secret of the project, 16 bytes at least",
}  # fmt: skip
_REFERENCES: Final = [{"ID": _ID, "Path": f"/studies/{_ID}", "Type": "Study"}]
_WAIT: Final = "Synchronous unless `Asynchronous` is true; then the answer names the job."
_IDENTITY: Final = "`Force` is needed to touch PatientID or the UIDs of studies, series and instances."
_PROFILE: Final = "PS3.15 E.1 Basic Profile with `Options`; see the documentation of de-identification."

_MERGE: Final = (
    "Studies, series and instances of other studies become new series of this one, with the attributes of its patient "
    f"and study. They are removed unless `KeepSource`. {_WAIT}"
)
_SPLIT: Final = (
    "Series and instances become a new study, whose patient and study attributes can be changed. They are removed "
    f"unless `KeepSource`. {_WAIT}"
)


def _about(level: Level, *, anonymize: bool) -> tuple[str, str]:
    if anonymize:
        return f"Anonymize a {level}", f"{_PROFILE} {_WAIT}"
    return f"Modify a {level}", f"Identifiers from this level down are new, unless kept. {_IDENTITY} {_WAIT}"


def _of_level(level: Level, *, anonymize: bool) -> Operation:
    made = {"ID": _ID, "Path": f"/{PLURAL[level]}/{_ID}", "Type": str(level).capitalize(), "PatientID": _OTHER}
    return route(
        "POST", f"/{PLURAL[level]}/{{id}}/{'anonymize' if anonymize else 'modify'}", "dicom.write",
        _about(level, anonymize=anonymize), functools.partial(modify, level=level, anonymize=anonymize),
        _COUNTS | made | {"IsAnonymization": anonymize}, (_ANONYMIZE if anonymize else _EDIT) | _JOB,
    )  # fmt: skip


OPERATIONS: tuple[Operation, ...] = (
    *(
        _of_level(level, anonymize=anonymize)
        for level in (Level.PATIENT, Level.STUDY, Level.SERIES)
        for anonymize in (False, True)
    ),
    route("POST", "/instances/{id}/modify", "dicom.read",
          ("Modify an instance", f"The answer is the new file; nothing is stored. {_IDENTITY}"),
          functools.partial(file, anonymize=False), _FILE, _EDIT),
    route("POST", "/instances/{id}/anonymize", "dicom.read",
          ("Anonymize an instance", f"The answer is the new file; nothing is stored. {_PROFILE}"),
          functools.partial(file, anonymize=True), _FILE, _ANONYMIZE),
    route("POST", "/tools/bulk-modify", "dicom.write",
          ("Modify resources", f"Of any level, as resources of `Level`. {_IDENTITY} {_WAIT}"),
          functools.partial(bulk, anonymize=False),
          _COUNTS | {"IsAnonymization": False, "Resources": _REFERENCES},
          {"Resources": [_OTHER], "Level": "Study"} | _EDIT | _JOB),
    route("POST", "/tools/bulk-anonymize", "dicom.write",
          ("Anonymize resources", f"Of any level, consistently. {_PROFILE} {_WAIT}"),
          functools.partial(bulk, anonymize=True),
          _COUNTS | {"IsAnonymization": True, "Resources": _REFERENCES}, {"Resources": [_OTHER]} | _ANONYMIZE | _JOB),
    route("POST", "/studies/{id}/merge", "dicom.write",
          ("Merge into a study", _MERGE),
          merge, _COUNTS | {"TargetStudy": _ID}, {"Resources": [_OTHER], "KeepSource": False}),
    route("POST", "/studies/{id}/split", "dicom.write",
          ("Split a study", _SPLIT),
          split, _COUNTS | {"TargetStudy": _ID, "TargetStudyUID": "2.25.192837465564738291019283746556473829101"},
          {"Series": [_OTHER], "Instances": [], "Replace": {"StudyDescription": "Thorax"}, "Remove": [],
           "KeepSource": False, "KeepLabels": False}),
)  # fmt: skip
