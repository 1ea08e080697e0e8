"""How Orthanc's clients talk: JSON whatever the Content-Type, texts in its place, flags, and jobs behind every request.

What is here is shared by the modules of this package.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar

import orjson
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from api.errors import INTERNAL, ORTHANC_TEXT, TABLE, HttpRefusal, dimse_payload, row_of
from api.errors import STORAGE_FULL as FULL
from api.exchange import Exchange
from api.responses import JSON, Header, send_bytes
from api.routing import Answer, Content, HotHandler, Operation, Parameter
from api.uploads import whole_body
from dicomweb.errors import ArchiveError, BadJson, BadRequest, NotFound, PeerFailed, TooLarge, Unavailable
from storage.jobs import STORAGE_FULL, Items, Job, Outcome

T = TypeVar("T")
Format = Literal["Full", "Short", "Human"]

TEXT: Final[Header] = (b"content-type", b"text/plain")
_THREAD_FROM: Final = 1 << 20
_LONG: Final = 256
_JOBS_WAITING: Final = 10_000
_DESCRIPTION: Final = "REST API"
_BINARY: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_STATES: Final = {
    "pending": "Pending", "running": "Running", "retry": "Retry", "paused": "Paused", "success": "Success",
    "failure": "Failure",
}  # fmt: skip
_COUNTED: Final = frozenset(
    ("DicomModalityStore", "OrthancPeerStore", "ResourceModification", "MergeStudy", "SplitStudy")
)
# Jobs of Orthanc's plug-ins say less, those of the one for DICOMweb numbers as text.
_PLUGINS: Final = frozenset(
    ("DicomWebStowClient", "DicomWebWadoRetrieveClient", "PushTransfer", "PullTransfer", "CommitTransfer")
)
_RETRIEVALS: Final = frozenset(("DicomMoveScu", "DicomGetScu"))
_SENT_BY_DIMSE: Final = frozenset(("DicomModalityStore",))
_SUB_OPERATIONS: Final = ("completed", "failed", "warning")
_CANCELLED: Final = (37, "The job was canceled")  # Orthanc spells it so
_CLASSES: Final = {cls.slug: cls for cls in TABLE}


# -- requests


async def json_of(http: Exchange, setting: Literal["max_json", "max_create_json"] = "max_json") -> Any:
    """The body as JSON, whatever its Content-Type; an empty one is None, and what is no JSON is text.

    `setting`: what limits it.
    """
    data = (await whole_body(http, getattr(http.settings, setting), setting)).strip()
    if not data:
        return None
    try:
        return orjson.loads(data) if len(data) <= _THREAD_FROM else await asyncio.to_thread(orjson.loads, data)
    except orjson.JSONDecodeError:
        if data[:1] in b'{["':
            raise BadJson("the body is not valid JSON") from None
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadRequest("the body is neither JSON nor text") from None


async def object_of(http: Exchange, *, needed: bool = False) -> dict[str, Any]:
    """The body as a JSON object; an empty one is an empty object, unless one is needed. Raises BadRequest."""
    given = await json_of(http)
    return {} if given is None and not needed else checked_object(given)


def checked_object(given: Any) -> dict[str, Any]:
    """What was given, if it is a JSON object. Raises BadRequest."""
    if not isinstance(given, dict):
        raise BadRequest("the body is a JSON object")
    return given


def field(given: Mapping[str, Any], name: str, kind: type[T], default: T) -> T:
    """A member of a JSON object. Raises BadRequest where it is of another type."""
    value = given.get(name)
    if value is None:
        return default
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRequest(f"{name} is of the wrong type", attribute=name)
    return value


def texts(given: Mapping[str, Any], name: str) -> list[str]:
    """A member of a JSON object that is a list of texts, empty where there is none. Raises BadRequest."""
    found: list[Any] = field(given, name, list, [])
    if not all(isinstance(each, str) for each in found):
        raise BadRequest(f"{name} is a list of texts", attribute=name)
    return found


def flag(http: Exchange, name: str) -> bool:
    """Whether a query parameter is there; `false` and `0` say that it is not."""
    value = http.query_value(name)
    return value is not None and value.strip().lower() not in {"false", "0"}


# -- answers


async def send_json(http: Exchange, answer: Any, *headers: Header) -> None:
    """An answer in JSON, in the layout that people read."""
    await send_bytes(
        http, 200, [JSON, *headers], orjson.dumps(answer, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    )


async def send_text(http: Exchange, answer: str, *headers: Header) -> None:
    """An answer in plain text."""
    await send_bytes(http, 200, [TEXT, *headers], answer.encode())


def format_of(http: Exchange, default: Format) -> Format:
    """The format of tags that `?short` and `?simplify` ask for."""
    if flag(http, "simplify"):
        return "Human"
    return "Short" if flag(http, "short") else default


def format_in(given: Mapping[str, Any], default: Format) -> Format:
    """The format of tags that the members Full, Short and Simplify of a body ask for."""
    for name, found in (("Simplify", "Human"), ("Short", "Short"), ("Full", "Full")):
        if field(given, name, bool, False):
            return found  # type: ignore[return-value]
    return default


def shown(dataset: Dataset, form: Format) -> dict[str, Any]:
    """A data set in one of Orthanc's formats: values are text, several are joined by backslashes."""
    answer = {}
    for element in dataset:
        if element.tag.element == 0:
            continue
        value = _value(element, form)
        number = _number(element.tag)
        if form == "Short":
            answer[number] = value
        elif form == "Human":
            answer[_name(element.tag) or number] = value
        else:
            answer[number] = {"Name": _name(element.tag) or "Unknown", "Type": _type(element, value), "Value": value}
    return answer


def _value(element: DataElement, form: Format) -> Any:
    if element.VR == "SQ":
        return [shown(item, form) for item in element.value]
    if element.VR in _BINARY:
        return None
    value = element.value
    if value is None:
        return ""
    parts = value if isinstance(value, MultiValue | list) else [value]
    text = "\\".join(_number(each) if isinstance(each, BaseTag) else str(each) for each in parts)
    return text if len(text) <= _LONG else None


def _type(element: DataElement, value: Any) -> str:
    if element.VR == "SQ":
        return "Sequence"
    if value is not None:
        return "String"
    return "Binary" if element.VR in _BINARY else "TooLong"


def _number(tag: BaseTag) -> str:
    return f"{tag.group:04x},{tag.element:04x}"


def _name(tag: BaseTag) -> str:
    return keyword_for_tag(tag)


# -- jobs


async def submit(
    http: Exchange, kind: str, content: Mapping[str, Any], items: Sequence[str], given: Mapping[str, Any]
) -> None:
    """Make a job and answer with its content when it is over, or at once with where to find it."""
    job = await finished(http, kind, content, items, given)
    if job is not None:
        access, jobs = http.access.with_scope("jobs.read"), http.archive.jobs
        counted = (await jobs.items(access, [job])).get(job.id)
        await send_json(http, content_of(job, counted, await outcomes_of(http, job)))


async def finished(
    http: Exchange, kind: str, content: Mapping[str, Any], items: Sequence[str], given: Mapping[str, Any]
) -> Job | None:
    """Make a job, and give it when it is over; None where nobody waits: the answer is sent, or the client has gone.

    `given`: the request, with Synchronous (the default), Asynchronous, Priority, Permissive and UserData. Raises the
    error that ended the job.
    """
    synchronous = is_synchronous(given)
    priority = field(given, "Priority", int, 0)
    if not -1_000_000 <= priority <= 1_000_000:
        raise BadRequest("Priority is a number up to a million", attribute="Priority")
    made = await http.archive.jobs.create(
        http.access, kind, dict(content) | {"permissive": field(given, "Permissive", bool, False)},
        waiting=_JOBS_WAITING, priority=priority, user_data=given.get("UserData"), items=items,
    )  # fmt: skip
    assert made is not None
    if not synchronous:
        await send_json(http, {"ID": made, "Path": f"/jobs/{made}"})
        return None
    job = await while_connected(http, http.archive.jobs.wait(http.access.with_scope("jobs.read"), made))
    if job is not None and job.state != "success":
        raise failure_of(job, await outcomes_of(http, job))
    return job


def is_synchronous(given: Mapping[str, Any]) -> bool:
    """Whether the members Synchronous (the default) and Asynchronous of a body have the client wait."""
    return field(given, "Synchronous", bool, not field(given, "Asynchronous", bool, False))


async def while_connected(http: Exchange, work: Awaitable[T]) -> T | None:
    """What `work` gives, or None where the client does not wait for it any more."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(http: Exchange) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def outcomes_of(http: Exchange, job: Job) -> Sequence[Outcome]:
    """What became of the parts of a job, where its answer tells of it."""
    if job.kind not in _RETRIEVALS and (job.kind not in _SENT_BY_DIMSE or job.state != "failure"):
        return ()
    return await http.archive.jobs.outcomes(http.access.with_scope("jobs.read"), job)


def failure_of(job: Job, outcomes: Sequence[Outcome] = ()) -> Exception:
    """The error that ended a job."""
    message = job.error or "the job failed"
    if job.error_kind == STORAGE_FULL:
        return HttpRefusal(FULL, message)
    cls, payload = _CLASSES.get(job.error_kind or ""), _payload(job, outcomes)
    if cls is not None and payload is None:
        return cls(message)
    return HttpRefusal(INTERNAL if cls is None else (cls.slug, row_of(cls)), message, payload=payload)


def _payload(job: Job, outcomes: Sequence[Outcome]) -> dict[str, object] | None:
    """What Orthanc's `ErrorPayload` says of a failure."""
    if job.kind in _RETRIEVALS:
        return {"Type": "RetrieveJob", "Content": _details(job, outcomes)}
    status = next((each.status for each in outcomes if each.status), None)
    return None if status is None else dimse_payload(status)


def _details(job: Job, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What became of each resource of a retrieval."""
    details = []
    for query, each in zip(job.content["said"].get("Query", ()), outcomes, strict=False):
        noted = orjson.loads(each.comment or "{}")
        found = {"Query": query, "DimseErrorStatus": each.status or 0}
        found["ReceivedInstancesIds"] = noted.get("received", [])
        found |= {f"{name.title()}SuboperationsCount": noted.get(name, 0) for name in _SUB_OPERATIONS}
        details.append(found)
    return details


def job_json(job: Job, items: Items | None, outcomes: Sequence[Outcome] = ()) -> dict[str, Any]:
    """A job as Orthanc describes it (times are UTC). `outcomes`: of its parts, where they are to be told."""
    code, text = _error(job)
    now = datetime.now(UTC)
    answer: dict[str, Any] = {
        "ID": job.id,
        "Type": job.kind,
        "State": _STATES[job.state],
        "Progress": 100 if job.state in {"success", "failure"} else int(100 * job.progress),
        "Priority": job.priority,
        "CreationTime": _time(job.created_at),
        "Timestamp": _time(now),
        "EffectiveRuntime": round(((job.finished_at or now) - job.started_at).total_seconds(), 3)
        if job.started_at
        else 0.0,
        "ErrorCode": code,
        "ErrorDescription": text,
        "ErrorDetails": job.error or "",
        "Content": content_of(job, items, outcomes),
    }
    payload = _payload(job, outcomes) if job.state == "failure" and outcomes else None
    if payload is not None:
        answer["ErrorPayload"] = payload
    if job.finished_at is not None:
        answer["CompletionTime"] = _time(job.finished_at)
    elif job.started_at is not None and 0 < job.progress < 1:
        answer["EstimatedTimeOfArrival"] = _time(now + (now - job.started_at) * ((1 - job.progress) / job.progress))
    if job.user_data is not None:
        answer["UserData"] = job.user_data
    return answer


def content_of(job: Job, items: Items | None, outcomes: Sequence[Outcome] = ()) -> dict[str, Any]:
    """What a job is about. Of jobs that Orthanc does not know, what they have made."""
    content = job.content
    result: dict[str, Any] = job.result or {}
    if "said" not in content:
        return {"Description": job.kind, "Result": job.result}
    if job.kind in _PLUGINS:
        return {**content["said"], **_sent(job, items), **result.get("said", {})}
    answer: dict[str, Any] = {"Description": _DESCRIPTION, **content["said"], **result.get("said", {})}
    if job.kind in _COUNTED:
        answer["InstancesCount"] = items.total if items else 0
        answer["FailedInstancesCount"] = items.failed if items else 0
    elif job.kind in _RETRIEVALS:
        answer["Details"] = _details(job, outcomes)
    answer |= result.get("said", {})
    return answer


def _sent(job: Job, items: Items | None) -> dict[str, Any]:
    if job.kind != "DicomWebStowClient":
        return {}
    failed = {"FailedInstancesCount": str(items.failed)} if items and items.failed else {}
    return {"InstancesCount": str(items.total if items else 0), "NetworkSizeMB": "0"} | failed


def _error(job: Job) -> tuple[int, str]:
    if job.state != "failure":
        return 0, "Success"
    if job.error_kind == "cancelled":
        return _CANCELLED
    cls: type[ArchiveError] | None = _CLASSES.get(job.error_kind or "")
    row = FULL[1] if job.error_kind == STORAGE_FULL else INTERNAL[1] if cls is None else row_of(cls)
    code = row.orthanc
    return code, ORTHANC_TEXT[code]


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%f")


# -- examples for the documentation

JOB_ID: Final = "0b0f4b0e-5c0c-4f60-9f0e-3f6b6a4f7d11"
SUBMITTED: Final = Content("application/json", {"ID": JOB_ID, "Path": f"/jobs/{JOB_ID}"})
NOTHING: Final = Content("application/json", {"(nothing)": ""})
EMPTY: Final = Content("text/plain", "(empty)")


def route(
    method: Literal["GET", "POST", "PUT", "DELETE"],
    path: str,
    scope: str,
    about: tuple[str, str],
    handler: HotHandler,
    answer: Any,
    body: Any = (),
    parameters: tuple[Parameter, ...] = (),
) -> Operation:
    """An operation of Orthanc's API. `about`: summary and description; `answer` and `body`: contents, or JSON."""
    errors: tuple[type[ArchiveError], ...] = (NotFound, Unavailable)
    if method != "GET":
        errors = (BadRequest, *errors, TooLarge)
    if scope in {"dimse.run", "remotes.run"}:
        errors = (*errors, PeerFailed)
    return Operation(
        method, path, scope, "Orthanc", *about, handler, (Answer(200, "Done.", _contents(answer)),), parameters,
        _contents(body), errors, orthanc=True,
    )  # fmt: skip


def _contents(given: Any) -> tuple[Content, ...]:
    if isinstance(given, tuple):
        return given
    return (given,) if isinstance(given, Content) else (Content("application/json", given),)
