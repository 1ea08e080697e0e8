"""UPS-RS: the worklist service (PS3.18 chapter 11)."""

from collections.abc import AsyncIterator
from typing import Literal
from urllib.parse import quote

from api.datasets import BODY_ERRORS, CONTENT_TYPE, document_plan, read_dataset, send_document, send_found
from api.examples import (
    CANCEL_REQUEST,
    CLAIM,
    DOCUMENT_ACCEPT,
    EVENT_REPORT,
    PROGRESS,
    TRANSACTION_UID,
    WORKITEM,
    WORKITEM_UID,
    json_body,
)
from api.exchange import Exchange
from api.responses import Header, send_bytes, warning
from api.routing import Answer, HotHandler, Operation, Parameter
from api.websocket import speak
from dicomweb import ups_query
from dicomweb.errors import (
    BadQuery,
    BadRequest,
    Gone,
    NotAcceptable,
    NotFound,
    Unavailable,
    WorkitemConflict,
)
from dicomweb.uids import checked_uid, is_uid
from dicomweb.ups_events import WORKLIST, going_down, report
from dicomweb.ups_model import Dataset
from storage.channels import Channel

MAX_BODY = 4 << 20  # a workitem of 20,000 referenced instances
_COMMON = frozenset({"accept", "charset"})


async def _dataset(http: Exchange, *, optional: bool = False) -> Dataset:
    """The dataset in the body; nothing where a body is optional and there is none."""
    return await read_dataset(http, MAX_BODY, "a workitem", optional=optional)


def _uid_parameter(http: Exchange, *names: str) -> str | None:
    """The UID in the query: `?1.2.3`, as the URI templates of PS3.18 expand, or `?name=1.2.3`."""
    for name, value in http.query():
        if name.lower() in names:
            return value.strip()
        if not value and is_uid(name):
            return name
        if name.lower() not in _COMMON:
            raise BadQuery(f"the query is a UID or {names[0]}=UID", attribute=names[0])
    return None


def _workitem(http: Exchange) -> str:
    return checked_uid(http.path["workitem"], "workitem")


async def _done(http: Exchange, status: int, text: str = "", *headers: Header) -> None:
    """A success without payload, with the words of the standard where something is to be said."""
    said = [warning(http.root_url, text)] if text else []
    await send_bytes(http, status, [*headers, *said])


async def create(http: Exchange) -> None:
    """Add a workitem (PS3.18 11.4)."""
    uid = _uid_parameter(http, "workitem", "affectedsopinstanceuid")
    created = await http.archive.worklist.create(http.access, await _dataset(http), uid)
    location = f"{http.root_url}/workitems/{created.uid}"
    await _done(http, 201, created.warning, (b"location", location.encode()))


async def retrieve(http: Exchange) -> None:
    """One workitem without its Transaction UID (PS3.18 11.5)."""
    plan = document_plan(http, single=True)
    body = await http.archive.worklist.get(http.access, _workitem(http))
    await send_document(http, plan, body, (b"cache-control", b"no-store"))


async def update(http: Exchange) -> None:
    """Replace attributes (PS3.18 11.6)."""
    uid, transaction = _workitem(http), _uid_parameter(http, "transaction-uid", "transactionuid")
    await _done(http, 200, await http.archive.worklist.update(http.access, uid, await _dataset(http), transaction))


async def change_state(http: Exchange) -> None:
    """Claim, complete or cancel (PS3.18 11.7)."""
    uid = _workitem(http)
    await _done(http, 200, await http.archive.worklist.change_state(http.access, uid, await _dataset(http)))


async def request_cancel(http: Exchange) -> None:
    """Ask for the end of a workitem (PS3.18 11.8)."""
    uid = _workitem(http)
    request = await _dataset(http, optional=True)
    await _done(http, 202, await http.archive.worklist.request_cancel(http.access, uid, request))


async def search(http: Exchange) -> None:
    """Matching workitems in the order of their scheduled start (PS3.18 11.9)."""
    plan, settings = document_plan(http, single=False), http.settings
    query = ups_query.parse(http.query(), settings.qido_max_limit, settings.qido_default_limit)
    await send_found(http, plan, query, await http.archive.worklist.search(http.access, query))


async def subscribe(http: Exchange) -> None:
    """Let an AE hear of a workitem or a worklist (PS3.18 11.10)."""
    parameters, aet = http.query(), http.path["aet"]
    lock = next((value.lower() for name, value in parameters if name.lower() == "deletionlock"), "false")
    if lock not in {"true", "false"}:
        raise BadQuery("deletionlock is neither true nor false", attribute="deletionlock")
    keys = ups_query.filter_keys(parameters)
    await http.archive.worklist.subscribe(http.access, _workitem(http), aet, deletion_lock=lock == "true", keys=keys)
    channel = f"ws{http.root_url.removeprefix('http')}/subscribers/{quote(aet, safe='')}"
    await _done(http, 201, "", (b"content-location", channel.encode()))


async def unsubscribe(http: Exchange) -> None:
    """End a subscription (PS3.18 11.11)."""
    await http.archive.worklist.unsubscribe(http.access, _workitem(http), http.path["aet"])
    await _done(http, 200)


async def suspend(http: Exchange) -> None:
    """Do not subscribe the AE to workitems of the future (PS3.18 11.12)."""
    await http.archive.worklist.suspend(http.access, _workitem(http), http.path["aet"])
    await _done(http, 200)


async def listen(http: Exchange) -> None:
    """The notification connection (PS3.18 8.10.4): a WebSocket on which the event reports of an AE come."""
    farewell = report(0, WORKLIST, going_down()).decode()
    with http.services.sockets.opened() as stop:
        async with http.archive.channels.open(http.access, http.path["aet"]) as channel:
            await speak(http, stop, _reports(channel), farewell)


async def _reports(channel: Channel) -> AsyncIterator[str]:
    async for waiting in channel.events():
        yield report(waiting.id, waiting.uid, waiting.event).decode()


_TRANSACTION = Parameter(
    "transaction-uid", "query", "of a claimed workitem; also as the whole query, `?1.2.3`", TRANSACTION_UID
)
_UID = Parameter("workitem", "query", "the new UID; also as the whole query, `?1.2.3`", WORKITEM_UID)
_SEARCH = (
    Parameter("ProcedureStepState", "query", "any attribute, by keyword or tag", "SCHEDULED"),
    Parameter(
        "ScheduledStationNameCodeSequence.CodeValue", "query", "an attribute inside a sequence, after a dot", "GPU-1"
    ),
    Parameter("ScheduledProcedureStepStartDateTime", "query", "a date and time, or a range", "20260114-20260115"),
    Parameter("includefield", "query", "further attributes to return: repeated or comma-separated; `all`", "all"),
    Parameter("limit", "query", "number of results at most", "25", kind="integer"),
    Parameter("offset", "query", "number of results to skip", "50", kind="integer"),
    DOCUMENT_ACCEPT,
)
_SUBSCRIBE = (
    Parameter(
        "deletionlock", "query", "`true` keeps finished workitems until the subscription ends", "false", kind="boolean"
    ),
    Parameter(
        "filter",
        "query",
        "for the filtered worklist: matching keys, separated by commas",
        "ScheduledStationNameCodeSequence.CodeValue=GPU-1",
    ),
)
_WORKITEM_PATH = "{root}/workitems/{workitem}"
_SUBSCRIBER = _WORKITEM_PATH + "/subscribers/{aet}"
_WRITE_ERRORS = (*BODY_ERRORS, NotFound, Gone, WorkitemConflict, Unavailable)
_WELL_KNOWN = "1.2.840.10008.5.1.4.34.5 is the worklist, 1.2.840.10008.5.1.4.34.5.1 the filtered worklist."


def _update(method: Literal["POST", "PUT"]) -> Operation:
    return Operation(
        method,
        _WORKITEM_PATH,
        "worklist.write",
        "UPS-RS",
        "Update a workitem",
        "Replaces the attributes that are given; sequences as a whole. A claimed workitem needs its Transaction UID, "
        "in the query or in the dataset. State, patient and request cannot be changed.",
        update,
        (Answer(200, "Updated."),),
        (_TRANSACTION, CONTENT_TYPE),
        json_body(PROGRESS),
        _WRITE_ERRORS,
    )


def _subscription(
    method: Literal["POST", "DELETE"],
    path: str,
    summary: str,
    description: str,
    handler: HotHandler,
    answer: Answer,
) -> Operation:
    creates = answer.status == 201
    return Operation(
        method,
        path,
        "worklist.write",
        "UPS-RS",
        summary,
        f"{description} {_WELL_KNOWN}",
        handler,
        (answer,),
        _SUBSCRIBE if creates else (),
        errors=(BadRequest, NotFound, Gone, Unavailable) if creates else (BadRequest, NotFound, Unavailable),
    )


OPERATIONS = (
    Operation(
        "POST",
        "{root}/workitems",
        "worklist.write",
        "UPS-RS",
        "Create a workitem",
        "The body is one DICOM JSON object, alone or in an array. The UID comes from the query or the dataset; without "
        "one the archive makes it. Missing attributes of type 2 are created empty, with a Warning header.",
        create,
        (Answer(201, "Created; Location has its URL.", headers=("Location", "Warning")),),
        (_UID, CONTENT_TYPE),
        json_body(WORKITEM),
        (*BODY_ERRORS, WorkitemConflict, Unavailable),
    ),
    Operation(
        "GET",
        "{root}/workitems",
        "worklist.read",
        "UPS-RS",
        "Search for workitems",
        "Every attribute matches, as in QIDO-RS. Results come in the order of their scheduled start. The answer has "
        "the attributes that PS3.4 returns always, those that were matched, and those of `includefield`.",
        search,
        (Answer(200, "Matches; an empty array when there are none.", json_body([WORKITEM]), ("Warning",)),),
        _SEARCH,
        errors=(BadQuery, NotAcceptable, Unavailable),
    ),
    Operation(
        "GET",
        _WORKITEM_PATH,
        "worklist.read",
        "UPS-RS",
        "Retrieve a workitem",
        "All attributes. The Transaction UID is known to the performer alone and never among them.",
        retrieve,
        (Answer(200, "The workitem.", json_body(WORKITEM)),),
        (DOCUMENT_ACCEPT,),
        errors=(BadRequest, NotAcceptable, NotFound, Gone, Unavailable),
    ),
    _update("POST"),
    _update("PUT"),
    Operation(
        "PUT",
        _WORKITEM_PATH + "/state",
        "worklist.write",
        "UPS-RS",
        "Change the state of a workitem",
        "To IN PROGRESS with a new Transaction UID: the workitem is claimed, by exactly one of those who try. To "
        "COMPLETED or CANCELED with that UID, when the workitem has what the final state needs.",
        change_state,
        (Answer(200, "Changed, or there already (Warning).", headers=("Warning",)),),
        (CONTENT_TYPE,),
        json_body(CLAIM),
        _WRITE_ERRORS,
    ),
    Operation(
        "POST",
        _WORKITEM_PATH + "/cancelrequest",
        "worklist.write",
        "UPS-RS",
        "Request the cancellation of a workitem",
        "What nobody has claimed is cancelled at once. Of a claimed workitem the subscribers are told; its performer "
        "decides. The body is optional.",
        request_cancel,
        (Answer(202, "Cancelled, cancelled before (Warning), or the request was passed on.", headers=("Warning",)),),
        (CONTENT_TYPE,),
        json_body(CANCEL_REQUEST),
        _WRITE_ERRORS,
    ),
    _subscription(
        "POST",
        _SUBSCRIBER,
        "Subscribe",
        "The AE gets event reports on its WebSocket, those of the time before it connects included.",
        subscribe,
        Answer(201, "Subscribed; Content-Location is the WebSocket.", headers=("Content-Location",)),
    ),
    _subscription(
        "DELETE",
        _SUBSCRIBER,
        "Unsubscribe",
        "Ends a subscription and its deletion lock; that of a worklist ends all subscriptions of the AE.",
        unsubscribe,
        Answer(200, "Unsubscribed."),
    ),
    _subscription(
        "POST",
        _SUBSCRIBER + "/suspend",
        "Suspend a subscription to a worklist",
        "The AE is not subscribed to workitems that are created later; it stays subscribed to those that exist.",
        suspend,
        Answer(200, "Suspended."),
    ),
    Operation(
        "GET",
        "{root}/subscribers/{aet}",
        "worklist.read",
        "UPS-RS",
        "Listen to events",
        "A WebSocket: each text message is one event report. What waits comes first; what was sent shortly before a "
        "connection broke comes again. A newer connection for the same AE ends the older one.",
        listen,
        (Answer(101, "Event reports, one object a message.", json_body(EVENT_REPORT)),),
        errors=(BadRequest, Unavailable),
        websocket=True,
    ),
)
