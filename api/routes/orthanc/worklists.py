"""The routes of Orthanc's worklists plugin, over the modality worklist."""

from collections.abc import AsyncGenerator
from typing import Any, Final

import orjson

from api.examples import WORKLIST_ID
from api.exchange import Exchange
from api.responses import JSON, send_stream
from api.routes.orthanc.dialect import send_json, texts
from api.routing import Answer, Content, Operation, Parameter
from api.uploads import whole_body
from dicomweb.errors import BadDicom, BadQuery, BadRequest, NotFound, TooLarge, Unavailable, WorkitemRefused
from dicomweb.orthanc_input import from_orthanc
from dicomweb.orthanc_tags import Format, formatted, parse
from dicomweb.query import Query
from dicomweb.tags import Level
from dicomweb.ups_model import Dataset, dataset_of
from storage.modality_worklist import WorklistItem

MAX_BODY: Final = 256 << 10
_FORMATS: Final[dict[str, Format]] = {"Full": "Full", "Short": "Short", "Simplify": "Human"}


def _format(http: Exchange) -> Format:
    found = _FORMATS.get(http.query_value("format") or "Simplify")
    if found is None:
        raise BadQuery(f"format is one of {', '.join(_FORMATS)}", attribute="format")
    return found


def _described(item: WorklistItem, form: Format) -> dict[str, Any]:
    return {
        "CreationDate": f"{item.created_at:%Y%m%dT%H%M%S}",
        "ID": item.id,
        "Tags": formatted(parse(item.attributes), form),
    } | ({"Labels": list(item.labels)} if item.labels else {})


async def _body(http: Exchange) -> tuple[Dataset, list[str] | None, bool]:
    """The data set of a request, its labels, and whether it is taken as it stands; whatever its Content-Type."""
    try:
        body = orjson.loads(await whole_body(http, MAX_BODY))
    except orjson.JSONDecodeError:
        raise BadDicom("the body is not JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("Tags"), dict):
        raise BadDicom("Tags is missing or not an object", attribute="Tags")
    try:
        labels = texts(body, "Labels") if "Labels" in body else None
        return dataset_of(from_orthanc(body["Tags"])), labels, body.get("Force") is True
    except WorkitemRefused as error:
        raise BadDicom(error.message, attribute=error.attribute) from None


async def _answer_path(http: Exchange, item_id: str) -> None:
    await send_json(http, {"ID": item_id, "Path": f"/worklists/{item_id}"})


async def create(http: Exchange) -> None:
    """Add a worklist item."""
    dataset, labels, force = await _body(http)
    try:
        item_id = await http.archive.modality_worklist.create(http.access, dataset, labels=labels or (), force=force)
    except WorkitemRefused as error:
        raise BadDicom(error.message, attribute=error.attribute) from None
    await _answer_path(http, item_id)


async def replace(http: Exchange) -> None:
    """Put other tags in the place of an item's."""
    dataset, labels, force = await _body(http)
    item_id = http.path["worklist"]
    try:
        await http.archive.modality_worklist.replace(http.access, item_id, dataset, labels=labels, force=force)
    except WorkitemRefused as error:
        raise BadDicom(error.message, attribute=error.attribute) from None
    await _answer_path(http, item_id)


async def delete(http: Exchange) -> None:
    """Remove an item."""
    await http.archive.modality_worklist.delete(http.access, http.path["worklist"])
    await send_json(http, {})


async def retrieve(http: Exchange) -> None:
    """One item."""
    form = _format(http)
    item = await http.archive.modality_worklist.get(http.access, http.path["worklist"])
    await send_json(http, _described(item, form))


async def browse(http: Exchange) -> None:
    """All items, finished ones as well, in the order of the schedule."""
    form = _format(http)
    query = Query(Level.INSTANCE, limit=http.settings.qido_max_limit)
    items = http.archive.modality_worklist.items(http.access, query, finished=True)
    await send_stream(http, 200, [JSON], None, _array(items, form))


async def _array(items: AsyncGenerator[WorklistItem | None, None], form: Format) -> AsyncGenerator[bytes, None]:
    before = b"["
    async for item in items:
        if item is not None:
            yield before + orjson.dumps(_described(item, form))
            before = b","
    yield b"]" if before == b"," else b"[]"


_TAGS: Final = {
    "AccessionNumber": "A-1",
    "PatientID": "P-1",
    "PatientName": "Doe^Jane",
    "ScheduledProcedureStepSequence": [
        {"Modality": "CT", "ScheduledProcedureStepStartDate": "20260114", "ScheduledStationAETitle": "CT1"}
    ],
}
_PATH: Final = Content("application/json", {"ID": WORKLIST_ID, "Path": f"/worklists/{WORKLIST_ID}"})
_ITEM: Final = {"CreationDate": "20260113T164500", "ID": WORKLIST_ID, "Labels": ["trial"], "Tags": _TAGS}
_SENT: Final = (Content("application/json", {"Tags": _TAGS, "Labels": ["trial"]}),)
_FORMAT: Final = Parameter("format", "query", "`Simplify` (keywords, the default), `Short` (tags), `Full`", "Simplify")
_RULES: Final = (
    "ScheduledProcedureStepSequence has one item with Modality and ScheduledProcedureStepStartDate, unless `Force` is "
    "true. "
)
_ONE: Final = "/worklists/{worklist}"
_TAG: Final = "Orthanc"

OPERATIONS = (
    Operation(
        "POST",
        "/worklists/create",
        "worklist.write",
        _TAG,
        "Create a worklist item",
        f"{_RULES}An item without a StudyInstanceUID gets one. `Labels` are those of the AE titles that show it.",
        create,
        (Answer(200, "Its identifier.", (_PATH,)),),
        body=_SENT,
        errors=(BadDicom, BadRequest, TooLarge, Unavailable),
        orthanc=True,
    ),
    Operation(
        "GET",
        "/worklists",
        "worklist.read",
        _TAG,
        "List the worklist items",
        "All of them up to `qido_max_limit`, in the order of the schedule, finished ones as well.",
        browse,
        (Answer(200, "The items.", (Content("application/json", [_ITEM]),)),),
        (_FORMAT,),
        errors=(BadQuery, Unavailable),
        orthanc=True,
    ),
    Operation(
        "GET",
        _ONE,
        "worklist.read",
        _TAG,
        "Retrieve a worklist item",
        "Its identifier, when it was created (UTC) and its tags.",
        retrieve,
        (Answer(200, "The item.", (Content("application/json", _ITEM),)),),
        (_FORMAT,),
        errors=(BadQuery, NotFound, Unavailable),
        orthanc=True,
    ),
    Operation(
        "PUT",
        _ONE,
        "worklist.write",
        _TAG,
        "Replace a worklist item",
        f"{_RULES}StudyInstanceUID, the status of the step and `Labels` stay where they are not given.",
        replace,
        (Answer(200, "Its identifier.", (_PATH,)),),
        body=_SENT,
        errors=(BadDicom, BadRequest, NotFound, TooLarge, Unavailable),
        orthanc=True,
    ),
    Operation(
        "DELETE",
        _ONE,
        "worklist.write",
        _TAG,
        "Delete a worklist item",
        "The item is gone at once.",
        delete,
        (Answer(200, "Deleted.", (Content("application/json", "{}"),)),),
        errors=(NotFound, Unavailable),
        orthanc=True,
    ),
)
