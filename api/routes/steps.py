"""Scheduled and performed procedure steps of modalities by web (PS3.18 chapters 14 and 15, Supplement 246).

The standard has no transactions that feed the worklist; POST, GET, PUT and DELETE of an item are ours, and so is the
search for performed steps.
"""

from typing import Final

import orjson

from api.datasets import BODY_ERRORS, CONTENT_TYPE, document_plan, read_dataset, send_document, send_found
from api.examples import DOCUMENT_ACCEPT, PERFORMED_STEP, SCHEDULED_STEP, json_body
from api.exchange import Exchange
from api.responses import Header, send_bytes
from api.routing import Answer, Operation, Parameter
from dicomweb import qido, scheduled_steps
from dicomweb.errors import (
    BadQuery,
    BadRequest,
    NotAcceptable,
    NotFound,
    Unavailable,
    WorkitemConflict,
)
from dicomweb.tags import Level
from dicomweb.uids import checked_uid

MAX_ITEM: Final = 256 << 10
MAX_PERFORMED: Final = 4 << 20  # a step of 20,000 images
_SCHEDULED: Final = "/modality-scheduled-procedure-steps"
_PERFORMED: Final = "/modality-performed-procedure-steps"
_NO_STORE: Final[Header] = (b"cache-control", b"no-store")


# ------------------------------------------------------------------------------------------------------ scheduled


async def search(http: Exchange) -> None:
    """Matching items of the modality worklist in the order of the schedule (PS3.18 14.4)."""
    plan, settings = document_plan(http, single=False), http.settings
    query = scheduled_steps.parse(http.query(), settings.qido_max_limit, settings.qido_default_limit)
    found = await http.archive.modality_worklist.search(http.access, query, http.root_url + _SCHEDULED)
    await send_found(http, plan, query, found)


def _labels(http: Exchange) -> list[str]:
    return [value for name, value in http.query() if name == "label"]


async def create(http: Exchange) -> None:
    """Add an item to the modality worklist."""
    dataset = await read_dataset(http, MAX_ITEM, "a worklist item")
    item_id = await http.archive.modality_worklist.create(http.access, dataset, labels=_labels(http))
    await send_bytes(http, 201, [(b"location", f"{http.root_url}{_SCHEDULED}/{item_id}".encode())])


async def retrieve(http: Exchange) -> None:
    """One item with all its attributes."""
    plan = document_plan(http, single=True)
    item = await http.archive.modality_worklist.get(http.access, http.path["step"])
    await send_document(http, plan, item.attributes, _NO_STORE)


async def replace(http: Exchange) -> None:
    """Put a data set in the place of an item's."""
    dataset = await read_dataset(http, MAX_ITEM, "a worklist item")
    labels = _labels(http) or None  # without any they stay
    await http.archive.modality_worklist.replace(http.access, http.path["step"], dataset, labels=labels)
    await send_bytes(http, 200, [])


async def delete(http: Exchange) -> None:
    """Remove an item from the modality worklist."""
    await http.archive.modality_worklist.delete(http.access, http.path["step"])
    await send_bytes(http, 204, [])


# ------------------------------------------------------------------------------------------------------ performed


def _is_update(http: Exchange) -> bool:
    names = {name.lower() for name, _ in http.query()} - {"accept", "charset"}
    if names - {"update"}:
        raise BadQuery("the query is `update` or nothing", attribute="update")
    return "update" in names


async def report(http: Exchange) -> None:
    """Create a performed step (PS3.18 15.4), or update it (15.5)."""
    uid, update = checked_uid(http.path["mpps"], "mpps"), _is_update(http)
    dataset = await read_dataset(http, MAX_PERFORMED, "a performed procedure step")
    if update:
        await http.archive.performed_steps.update(http.access, uid, dataset)
        await send_bytes(http, 200, [])
        return
    await http.archive.performed_steps.create(http.access, dataset, uid)
    await send_bytes(http, 201, [(b"location", f"{http.root_url}{_PERFORMED}/{uid}".encode())])


async def retrieve_performed(http: Exchange) -> None:
    """A performed step, or the attributes of it that `includefield` names (PS3.18 15.6)."""
    plan, uid = document_plan(http, single=True), checked_uid(http.path["mpps"], "mpps")
    query = qido.parse(Level.INSTANCE, None, None, http.query(), 1, 1)
    if query.matches:
        raise BadQuery("a performed procedure step is retrieved with includefield only", attribute="includefield")
    found = await http.archive.performed_steps.get(http.access, uid)
    wanted = {path[0] for path in query.fields}
    if wanted and not query.all_fields:
        found = {tag: element for tag, element in found.items() if tag in wanted}
    await send_document(http, plan, orjson.dumps([found]), _NO_STORE)


async def search_performed(http: Exchange) -> None:
    """Matching performed steps, the newest first."""
    plan, settings = document_plan(http, single=False), http.settings
    query = qido.parse(Level.INSTANCE, None, None, http.query(), settings.qido_max_limit, settings.qido_default_limit)
    await send_found(http, plan, query, await http.archive.performed_steps.search(http.access, query))


_LIMITS = (
    Parameter("limit", "query", "number of results at most", "25", kind="integer"),
    Parameter("offset", "query", "number of results to skip", "50", kind="integer"),
    DOCUMENT_ACCEPT,
)
_STEP: Final = "ScheduledProcedureStepSequence"
_SEARCH = (
    Parameter(f"{_STEP}.Modality", "query", "any attribute; those of the step after their sequence and a dot", "CT"),
    Parameter(f"{_STEP}.ScheduledProcedureStepStartDate", "query", "a date, or a range", "20260114-20260115"),
    Parameter("PatientName", "query", "any attribute, by keyword or tag", "Doe*"),
    Parameter("includefield", "query", "further attributes to return: repeated or comma-separated; `all`", "all"),
    *_LIMITS,
)
_SEARCH_PERFORMED = (
    Parameter("PerformedProcedureStepStatus", "query", "any attribute, by keyword or tag", "IN PROGRESS"),
    Parameter("PerformedProcedureStepStartDate", "query", "a date, or a range", "20260114"),
    *_LIMITS,
)
_LABEL = Parameter(
    "label", "query", "an AE title of ours with labels shows items that have all of them; may be repeated", "trial"
)
_ITEM_PATH: Final = f"{{root}}{_SCHEDULED}/{{step}}"
_PERFORMED_PATH: Final = f"{{root}}{_PERFORMED}/{{mpps}}"
_RULES: Final = (
    "The body is one DICOM JSON object. ScheduledProcedureStepSequence has exactly one item, with Modality and "
    "ScheduledProcedureStepStartDate. "
)

OPERATIONS = (
    Operation(
        "GET",
        f"{{root}}{_SCHEDULED}",
        "worklist.read",
        "MWL-RS",
        "Search the modality worklist",
        "Every attribute matches, as in QIDO-RS; ranges of dates and of times are one range. Results come in the order "
        "of the schedule; RetrieveURL names the item. Finished items are left out unless the status is asked for.",
        search,
        (Answer(200, "Matches; an empty array when there are none.", json_body([SCHEDULED_STEP]), ("Warning",)),),
        _SEARCH,
        errors=(BadQuery, BadRequest, NotAcceptable, Unavailable),
    ),
    Operation(
        "POST",
        f"{{root}}{_SCHEDULED}",
        "worklist.write",
        "MWL-RS",
        "Add an item to the modality worklist",
        f"{_RULES}Without a StudyInstanceUID it gets one, without a status it is SCHEDULED.",
        create,
        (Answer(201, "Added; Location has its URL.", headers=("Location",)),),
        (_LABEL, CONTENT_TYPE),
        json_body(SCHEDULED_STEP),
        (*BODY_ERRORS, Unavailable),
    ),
    Operation(
        "GET",
        _ITEM_PATH,
        "worklist.read",
        "MWL-RS",
        "Retrieve an item of the modality worklist",
        "All its attributes.",
        retrieve,
        (Answer(200, "The item.", json_body(SCHEDULED_STEP)),),
        (DOCUMENT_ACCEPT,),
        errors=(BadRequest, NotAcceptable, NotFound, Unavailable),
    ),
    Operation(
        "PUT",
        _ITEM_PATH,
        "worklist.write",
        "MWL-RS",
        "Replace an item of the modality worklist",
        f"{_RULES}StudyInstanceUID, status and labels stay where they are not given.",
        replace,
        (Answer(200, "Replaced."),),
        (_LABEL, CONTENT_TYPE),
        json_body(SCHEDULED_STEP),
        (*BODY_ERRORS, NotFound, Unavailable),
    ),
    Operation(
        "DELETE",
        _ITEM_PATH,
        "worklist.write",
        "MWL-RS",
        "Remove an item from the modality worklist",
        "The item is gone at once.",
        delete,
        (Answer(204, "Removed."),),
        errors=(NotFound, Unavailable),
    ),
    Operation(
        "POST",
        _PERFORMED_PATH,
        "worklist.write",
        "MPPS-RS",
        "Create or update a performed procedure step",
        "Without a query the step is created, IN PROGRESS; with `?update` its attributes are replaced, up to COMPLETED "
        "or DISCONTINUED. The worklist items that it names follow.",
        report,
        (Answer(201, "Created; Location has its URL.", headers=("Location",)), Answer(200, "Updated.")),
        (Parameter("update", "query", "update instead of create", "true", kind="boolean"), CONTENT_TYPE),
        json_body(PERFORMED_STEP),
        (*BODY_ERRORS, NotFound, WorkitemConflict, Unavailable),
    ),
    Operation(
        "GET",
        _PERFORMED_PATH,
        "worklist.read",
        "MPPS-RS",
        "Retrieve a performed procedure step",
        "All its attributes, or those of `includefield`, as the one item of an array.",
        retrieve_performed,
        (Answer(200, "The step.", json_body([PERFORMED_STEP])),),
        (Parameter("includefield", "query", "attributes to return", "00400252"), DOCUMENT_ACCEPT),
        errors=(BadRequest, NotAcceptable, NotFound, Unavailable),
    ),
    Operation(
        "GET",
        f"{{root}}{_PERFORMED}",
        "worklist.read",
        "MPPS-RS",
        "Search for performed procedure steps",
        "Every attribute matches, as in QIDO-RS. The newest come first, with all their attributes.",
        search_performed,
        (Answer(200, "Matches; an empty array when there are none.", json_body([PERFORMED_STEP]), ("Warning",)),),
        _SEARCH_PERFORMED,
        errors=(BadQuery, BadRequest, NotAcceptable, Unavailable),
    ),
)
