"""What can be asked of a modality: queries, sending, retrieving, storage commitment."""

import functools
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import orjson
from pydicom.datadict import keyword_for_tag
from pydicom.uid import generate_uid

from api.examples import CT_IMAGE, DICOM, SOP_UID, STUDY_UID
from api.exchange import Exchange
from api.identity import identity_of, readable
from api.routes.orthanc.dialect import (
    NOTHING,
    SUBMITTED,
    field,
    format_in,
    json_of,
    object_of,
    route,
    send_json,
    shown,
    submit,
)
from api.routes.orthanc.modalities import asked, local_aet
from api.routing import Content
from api.uploads import received
from dicomweb.errors import BadRequest, NotFound
from dicomweb.uids import is_uid, parse_orthanc_id
from dimse_bridge.asking import UNIQUE, data_set, find_model, level_of, query_of, retrieval, tag_of
from dimse_bridge.contexts import MODALITY_WORKLIST
from dimse_bridge.scu import packed
from dimse_bridge.sending import send_file
from dimse_bridge.tasks import COMMIT, GET, MOVE, STORE, as_content
from storage.asked import MAX_INSTANCES
from storage.modalities import Modality

_MAX_INSTANCES: Final = 1_000_000
# Of each level of a tree: every one of them costs a query.
_TREE_LIMIT: Final = 100
# Failure Reasons of storage commitment (PS3.3 C.14.1.1), and the one for an instance that a report leaves out.
_NOT_TOLD: Final = 0x0110
_REASONS: Final = {
    0x0110: "Processing failure", 0x0112: "No such object instance", 0x0119: "Class / Instance conflict",
    0x0122: "Referenced SOP Class not supported", 0x0131: "Duplicate transaction UID", 0x0213: "Resource limitation",
}  # fmt: skip
_BRANCHES: Final = {"STUDY": "Studies", "SERIES": "Series"}


async def store_straight(http: Exchange) -> None:
    """Send a file that is not stored here."""
    modality = await asked(http, {})
    entry = await received(http)
    spooled = await entry.finish()
    try:
        with readable(spooled) as buffer:
            found = await identity_of(buffer)
        await send_file(http.services.requestor, modality, spooled)
    finally:
        spooled.release()
        entry.memory.release()
    await send_json(http, {"SOPClassUID": found.sop_class, "SOPInstanceUID": found.sop_instance})


async def query(http: Exchange) -> None:
    """C-FIND; the answers are kept as a query."""
    given = await object_of(http)
    level = level_of(given.get("Level"))
    keys = field(given, "Query", dict, {})
    await run_query(http, await asked(http, given), level, keys, normalise=field(given, "Normalize", bool, True))


async def run_query(
    http: Exchange, modality: Modality, level: str, keys: Mapping[str, Any], *, normalise: bool
) -> None:
    """Ask, keep the answers, and answer with where they are."""
    identifier = query_of(level, keys, normalise=normalise)
    answers = await http.services.requestor.find_packed(
        modality, identifier, find_model(level), limit=http.settings.qido_max_limit
    )
    content = {"level": level, "local_aet": local_aet(http, modality)}
    made = await http.archive.asked.add_query(http.access, modality.name, content, packed(data_set(keys)), answers)
    await send_json(http, {"ID": made, "Path": f"/queries/{made}"})


async def find_worklist(http: Exchange) -> None:
    """C-FIND of the modality worklist; the answers themselves."""
    given = await object_of(http)
    keys = field(given, "Query", dict, {}) if "Query" in given else given
    modality = await asked(http, given if "Query" in given else {})
    form = format_in(given, "Human") if "Query" in given else "Human"
    answers = http.services.requestor.find(
        modality, data_set(keys, utf8=True), MODALITY_WORKLIST, limit=http.settings.qido_max_limit
    )
    await send_json(http, [shown(each, form) async for each in answers])


async def find(http: Exchange, level: str) -> None:
    """C-FIND at one level; the answers themselves."""
    keys = await object_of(http)
    modality = await asked(http, {})
    answers = http.services.requestor.find(
        modality,
        query_of(level, keys, normalise=True, usual=True),
        find_model(level),
        limit=http.settings.qido_max_limit,
    )
    await send_json(http, [shown(each, "Human") async for each in answers])


async def find_all(http: Exchange) -> None:
    """C-FIND of patients, of the studies of each, and of their series, as one tree."""
    keys = await object_of(http)
    modality = await asked(http, {})
    await send_json(http, await _tree(http, modality, keys, ("PATIENT", "STUDY", "SERIES")))


async def _tree(http: Exchange, modality: Modality, keys: Mapping[str, Any], levels: tuple[str, ...]) -> list[Any]:
    level, below = levels[0], levels[1:]
    answers = http.services.requestor.find(
        modality, query_of(level, keys, normalise=True, usual=True), find_model(level), limit=_TREE_LIMIT
    )
    made = [shown(each, "Human") async for each in answers]
    for each in made if below else ():
        unique = {name: each[name] for name in UNIQUE[level] if each.get(name)}
        each[_BRANCHES[below[0]]] = await _tree(http, modality, dict(keys) | unique, below)
    return made


# -- jobs


async def store(http: Exchange) -> None:
    """Send resources."""
    given = await json_of(http)
    if not isinstance(given, dict):
        given = {"Resources": [given] if isinstance(given, str) else given}
    resources = resources_of(given)
    modality = await asked(http, given)
    instances = await http.archive.archives.instances(http.access.with_scope("dicom.read"), resources, _MAX_INSTANCES)
    said: dict[str, Any] = {"LocalAet": local_aet(http, modality), "RemoteAet": modality.aet}
    if resources:
        said["ParentResources"] = sorted(set(resources))
    content: dict[str, Any] = {"modality": as_content(modality), "said": said}
    if originator := field(given, "MoveOriginatorAet", str, ""):
        content["originator"] = [originator[:16], field(given, "MoveOriginatorID", int, 0) & 0xFFFF]
    if field(given, "StorageCommitment", bool, False):
        content["commitment"] = said["StorageCommitmentTransactionUID"] = str(generate_uid(prefix=None))
        await http.archive.asked.add_commitment(http.access, content["commitment"], modality.aet, instances)
    await log_exports(http, http.path["modality"], resources)
    await submit(http, STORE, content, [uid for _, uid in instances], given)


async def retrieve(http: Exchange, kind: str) -> None:
    """C-MOVE or C-GET of what the request names."""
    given = await object_of(http)
    level = level_of(given.get("Level"))
    resources = field(given, "Resources", list, [])
    modality = await asked(http, given)
    items, shown_items = [], []
    for given_keys in resources:
        if not isinstance(given_keys, dict):
            raise BadRequest("Resources is a list of objects", attribute="Resources")
        keys = {keyword_for_tag(tag_of(name)) or name: value for name, value in given_keys.items()}
        shown_items.append(shown(retrieval(level, keys), "Short"))
        items.append(orjson.dumps({"level": level, "keys": keys}).decode())
    await submit_retrieval(http, kind, modality, items, shown_items, given)


async def submit_retrieval(
    http: Exchange,
    kind: str,
    modality: Modality,
    items: list[str],
    query: list[dict[str, Any]],
    given: Mapping[str, Any],
) -> None:
    """The job of a C-MOVE or C-GET."""
    said: dict[str, Any] = {"LocalAet": local_aet(http, modality), "RemoteAet": modality.aet, "Query": query}
    content: dict[str, Any] = {"modality": as_content(modality), "said": said}
    if kind == MOVE:
        content["target"] = said["TargetAet"] = field(given, "TargetAet", str, "") or said["LocalAet"]
    await submit(http, kind, content, items, given)


async def commitment(http: Exchange) -> None:
    """Ask for storage commitment of resources, or of instances by their UIDs."""
    given = await object_of(http)
    modality = await asked(http, given)
    access = http.access.with_scope("dicom.read")
    instances = list(await http.archive.archives.instances(access, resources_of(given, needed=False), MAX_INSTANCES))
    for each in field(given, "DicomInstances", list, []):
        uids = (each.get("SOPClassUID"), each.get("SOPInstanceUID")) if isinstance(each, dict) else each
        if not (
            isinstance(uids, list | tuple) and len(uids) == 2 and all(isinstance(u, str) and is_uid(u) for u in uids)
        ):
            raise BadRequest("DicomInstances is a list of SOP class and SOP instance", attribute="DicomInstances")
        instances.append((uids[0], uids[1]))
    transaction = str(generate_uid(prefix=None))
    await http.archive.asked.add_commitment(http.access, transaction, modality.aet, instances)
    said = {"LocalAet": local_aet(http, modality), "RemoteAet": modality.aet, "TransactionUID": transaction}
    content = {"modality": as_content(modality), "transaction": transaction, "said": said}
    await http.archive.jobs.create(http.access, COMMIT, content, priority=field(given, "Priority", int, 0))
    await send_json(http, {"ID": transaction, "Path": f"/storage-commitment/{transaction}"})


async def commitment_state(http: Exchange) -> None:
    """What is known of a request for commitment."""
    found = await http.archive.asked.commitment(http.access, http.path["transaction"])
    # A report has to tell of every instance (PS3.4 J.3.3): nobody has committed themselves to the others.
    results = [(c, uid, _NOT_TOLD if reason is None else reason) for c, uid, reason in found.results]
    failed = [each for each in results if each[2]] if found.answered else []
    status = "Pending" if not found.answered else "Failure" if failed else "Success"
    await send_json(
        http,
        {
            "Status": status,
            "RemoteAET": found.remote_aet,
            "Success": [{"SOPClassUID": c, "SOPInstanceUID": uid} for c, uid, reason in results if reason == 0],
            "Failures": [
                {
                    "SOPClassUID": c,
                    "SOPInstanceUID": uid,
                    "FailureReason": reason,
                    "Description": _REASONS.get(reason, f"0x{reason:04X}"),
                }
                for c, uid, reason in failed
            ],
        },
    )


async def commitment_remove(http: Exchange) -> None:
    """Delete what another archive has committed itself to."""
    found = await http.archive.asked.commitment(http.access.with_scope("dimse.read"), http.path["transaction"])
    if not found.answered or any(each[2] != 0 for each in found.results):
        raise BadRequest("the other side has not committed itself to all instances")
    for row in await http.archive.archives.parents(http.access, [uid for _, uid, _ in found.results]):
        with suppress(NotFound):
            await http.archive.lifecycle.delete(http.access, *row)
    await send_json(http, {})


def resources_of(given: Mapping[str, Any], *, needed: bool = True) -> list[str]:
    """Orthanc's identifiers in a request. Raises BadRequest."""
    found = given.get("Resources")
    if found is None and not needed:
        return []
    if isinstance(found, str):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise BadRequest("Resources is a list of identifiers", attribute="Resources")
    for each in found:
        try:
            parse_orthanc_id(each)
        except NotFound:
            raise BadRequest("Resources holds what is no identifier", attribute="Resources") from None
    return list(found)


async def log_exports(http: Exchange, name: str, resources: list[str]) -> None:
    """Remember what is sent, where the settings want that."""
    if http.settings.log_exports:
        access = http.access.with_scope("dicom.read")
        for each in await http.archive.archives.known(access, resources):
            await http.archive.changes.log_export(access, each.resource, name, each.uids)


_ID: Final = "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15"
_CONTENT: Final = {
    "Description": "REST API", "FailedInstancesCount": 0, "InstancesCount": 120, "LocalAet": "ANOR",
    "ParentResources": [_ID], "RemoteAet": "CT1",
}  # fmt: skip
_KEYS: Final = {"PatientID": "P-1", "StudyDate": "20260101-"}
MOVED: Final = {
    "Description": "REST API", "LocalAet": "ANOR", "RemoteAet": "CT1", "TargetAet": "ANOR",
    "Query": [{"0008,0052": "STUDY", "0020,000d": STUDY_UID}],
    "Details": [{
        "Query": {"0008,0052": "STUDY", "0020,000d": STUDY_UID}, "DimseErrorStatus": 0, "ReceivedInstancesIds": [],
        "CompletedSuboperationsCount": 120, "FailedSuboperationsCount": 0, "WarningSuboperationsCount": 0,
    }],
}  # fmt: skip
_FOUND: Final = [{"PatientID": "P-1", "PatientName": "Doe^Jane", "StudyInstanceUID": STUDY_UID}]
_UIDS: Final = {"SOPClassUID": CT_IMAGE, "SOPInstanceUID": SOP_UID}
_TRANSACTION: Final = "2.25.245092873098457203948572039485720394857"
_JOBS: Final = "Synchronous unless `Asynchronous` is true; then the answer names the job."
_RETRIEVAL: Final = {"Level": "Study", "Resources": [{"StudyInstanceUID": STUDY_UID}], "TargetAet": "ANOR"}
_ONE: Final = "/modalities/{modality}"
_OLD: Final = (("-patient", "PATIENT"), ("-study", "STUDY"), ("-series", "SERIES"), ("-instance", "IMAGE"))
_COMMITMENT: Final = "/storage-commitment/{transaction}"

OPERATIONS = (
    route("POST", f"{_ONE}/store", "dimse.run",
          ("C-STORE of resources", f"An identifier as text, a list of them, or an object. {_JOBS}"), store, _CONTENT,
          (Content("text/plain", _ID), Content("application/json", {"Resources": [_ID], "Synchronous": True}))),
    route("POST", f"{_ONE}/store-straight", "dimse.run", ("C-STORE of a file", "The file is not stored here."),
          store_straight, _UIDS, (Content(DICOM, "(the bytes of a DICOM file)"),)),
    route("POST", f"{_ONE}/query", "dimse.run", ("C-FIND", "The answers are kept under `/queries`."), query, SUBMITTED,
          {"Level": "Study", "Query": _KEYS, "Normalize": True}),
    route("POST", f"{_ONE}/find-worklist", "dimse.run",
          ("C-FIND of the worklist", "Tags, or an object with `Query` and one of `Full` and `Short`."), find_worklist,
          [{"PatientID": "P-1", "AccessionNumber": "A-7"}], {"Query": {"PatientID": ""}, "Short": False}),
    route("POST", f"{_ONE}/find", "dimse.run",
          ("C-FIND at three levels", "Patients with their studies and series; `query` is the better way."), find_all,
          _FOUND, _KEYS),
    *(
        route("POST", f"{_ONE}/find{suffix}", "dimse.run",
              (f"C-FIND at the level {level}", "The answers themselves; `query` keeps them."),
              functools.partial(find, level=level), _FOUND, _KEYS)
        for suffix, level in _OLD
    ),
    route("POST", f"{_ONE}/move", "dimse.run", ("C-MOVE", f"To `TargetAet`, or to us. {_JOBS}"),
          functools.partial(retrieve, kind=MOVE), MOVED, _RETRIEVAL),
    route("POST", f"{_ONE}/get", "dimse.run", ("C-GET", f"What comes is stored here. {_JOBS}"),
          functools.partial(retrieve, kind=GET), MOVED, _RETRIEVAL),
    route("POST", f"{_ONE}/storage-commitment", "dimse.run",
          ("Ask for storage commitment", "Of resources, or of instances by their UIDs. The answer comes later."),
          commitment, {"ID": _TRANSACTION, "Path": f"/storage-commitment/{_TRANSACTION}"},
          {"Resources": [_ID], "DicomInstances": [_UIDS]}),
    route("GET", _COMMITMENT, "dimse.read",
          ("See a request for commitment", "Pending until the other side has answered."), commitment_state,
          {"Status": "Success", "RemoteAET": "PACS", "Failures": [], "Success": [_UIDS]}),
    route("POST", f"{_COMMITMENT}/remove", "dicom.delete",
          ("Delete what is committed", "Where the other side has committed itself to all instances."),
          commitment_remove, NOTHING, NOTHING),
)  # fmt: skip
