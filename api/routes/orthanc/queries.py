"""`/queries`: what other application entities have answered, and how to get what they have."""

from typing import Any, Final

import orjson

from api.examples import STUDY_UID
from api.exchange import Exchange
from api.routes.orthanc.dialect import (
    EMPTY,
    SUBMITTED,
    Format,
    field,
    flag,
    format_in,
    format_of,
    json_of,
    object_of,
    route,
    send_json,
    send_text,
    shown,
)
from api.routes.orthanc.modalities import asked
from api.routes.orthanc.requests import MOVED, run_query, submit_retrieval
from api.routing import Content, Parameter
from dicomweb.errors import BadRequest
from dimse_bridge.asking import UNIQUE, retrieval
from dimse_bridge.scu import unpacked
from dimse_bridge.tasks import GET, MOVE
from storage.asked import AskedQuery

_LEVELS: Final = {"PATIENT": "Patient", "STUDY": "Study", "SERIES": "Series", "IMAGE": "Instance"}
_CHILD: Final = {"studies": "STUDY", "series": "SERIES", "instances": "IMAGE"}
_METHODS: Final = {"C-MOVE": MOVE, "SystemDefault": MOVE, "C-GET": GET}


async def queries(http: Exchange) -> None:
    """All queries that are kept."""
    await send_json(http, await http.archive.asked.queries(http.access))


async def below(http: Exchange) -> None:
    """What can be seen of one."""
    await _query(http)
    await send_json(http, ["answers", "level", "modality", "query", "retrieve"])


async def delete(http: Exchange) -> None:
    """Forget one."""
    await http.archive.asked.delete_query(http.access, http.path["query"])
    await send_text(http, "")


async def level(http: Exchange) -> None:
    """At which level it asked."""
    await send_text(http, _LEVELS[(await _query(http)).content["level"]])


async def modality(http: Exchange) -> None:
    """Whom it asked."""
    await send_text(http, (await _query(http)).modality)


async def query(http: Exchange) -> None:
    """What it asked."""
    await send_json(http, shown(unpacked((await _query(http)).identifier), format_of(http, "Full")))


async def answers(http: Exchange) -> None:
    """The numbers of the answers, or with `expand` the answers."""
    found = await _query(http)
    if not flag(http, "expand"):
        await send_json(http, [str(number) for number in range(found.answers)])
        return
    form = format_of(http, "Full")
    await send_json(
        http, [shown(unpacked(each), form) for each in await http.archive.asked.answers(http.access, found.id)]
    )


async def answer(http: Exchange) -> None:
    """What can be done with one answer."""
    found = await _query(http)
    await _answer(http)
    lower = {"PATIENT": 0, "STUDY": 1, "SERIES": 2, "IMAGE": 3}[found.content["level"]]
    await send_json(http, ["content", "retrieve", *(f"query-{each}" for each in list(_CHILD)[lower:])])


async def content(http: Exchange) -> None:
    """One answer."""
    await send_json(http, shown(unpacked(await _answer(http)), format_of(http, "Full")))


async def retrieve(http: Exchange) -> None:
    """Retrieve what all answers tell of, or what one of them does."""
    given = await json_of(http)
    given = {"TargetAet": given} if isinstance(given, str) else {} if given is None else given
    if not isinstance(given, dict):
        raise BadRequest("the body is an AE title or a JSON object")
    found = await _query(http)
    whom = await asked(http, {"LocalAet": found.content["local_aet"]} | given, found.modality)
    method = _METHODS.get(field(given, "RetrieveMethod", str, whom.retrieve_method))
    if method is None:
        raise BadRequest("RetrieveMethod is C-MOVE, C-GET or SystemDefault", attribute="RetrieveMethod")
    known = [await _answer(http)] if "answer" in http.path else await _all(http)
    form: Format = format_in(given, "Short")
    items, shown_items = [], []
    for each in known:
        keys = _keys(found, each)
        shown_items.append(shown(retrieval(found.content["level"], keys), form))
        items.append(orjson.dumps({"level": found.content["level"], "keys": keys}).decode())
    await submit_retrieval(http, method, whom, items, shown_items, given)


async def query_children(http: Exchange) -> None:
    """Ask for what lies below an answer."""
    given = await object_of(http)
    found = await _query(http)
    below_level = _CHILD[http.scope["path"].rstrip("/").rpartition("-")[2]]
    whom = await asked(http, {"LocalAet": found.content["local_aet"]} | given, found.modality)
    keys = _keys(found, await _answer(http)) | field(given, "Query", dict, {})
    await run_query(http, whom, below_level, keys, normalise=True)


async def _query(http: Exchange) -> AskedQuery:
    return await http.archive.asked.query(http.access.with_scope("dimse.read"), http.path["query"])


async def _answer(http: Exchange) -> bytes:
    text = http.path["answer"]
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    return await http.archive.asked.answer(http.access.with_scope("dimse.read"), http.path["query"], number)


async def _all(http: Exchange) -> Any:
    return await http.archive.asked.answers(http.access.with_scope("dimse.read"), http.path["query"])


def _keys(found: AskedQuery, packed: bytes) -> dict[str, str]:
    """The unique keys of an answer, as text."""
    dataset = unpacked(packed)
    return {name: str(dataset.get(name, "") or "") for name in UNIQUE[found.content["level"]]}


_ID: Final = "59a8b50f-5346-4d21-b476-beaeabd1dc21"
_FULL: Final = {"0020,000d": {"Name": "StudyInstanceUID", "Type": "String", "Value": STUDY_UID}}
_FORMS: Final = (
    Parameter("simplify", "query", "names instead of numbers", "true", kind="boolean"),
    Parameter("short", "query", "numbers and values only", "true", kind="boolean"),
)
_EXPAND: Final = Parameter("expand", "query", "the answers themselves", "true", kind="boolean")
_ONE: Final = "/queries/{query}"
_ANSWER: Final = f"{_ONE}/answers/{{answer}}"
_TARGET: Final = (
    Content("text/plain", "ANOR"), Content("application/json", {"TargetAet": "ANOR", "RetrieveMethod": "C-MOVE"}),
)  # fmt: skip

OPERATIONS = (
    route("GET", "/queries", "dimse.read",
          ("List queries", "Those of all processes; `dimse_queries` of them are kept."), queries, [_ID]),
    route("GET", _ONE, "dimse.read", ("List what a query has", "Names of the routes below."), below,
          ["answers", "level", "modality", "query", "retrieve"]),
    route("DELETE", _ONE, "dimse.run", ("Forget a query", "With its answers."), delete, EMPTY),
    route("GET", f"{_ONE}/level", "dimse.read", ("Level of a query", "Patient, Study, Series or Instance."), level,
          Content("text/plain", "Study")),
    route("GET", f"{_ONE}/modality", "dimse.read", ("Whom a query asked", "The name of the modality."), modality,
          Content("text/plain", "pacs")),
    route("GET", f"{_ONE}/query", "dimse.read", ("What a query asked", "The tags of the request."), query, _FULL,
          parameters=_FORMS),
    route("GET", f"{_ONE}/answers", "dimse.read", ("List answers", "Their numbers, from 0."), answers, ["0"],
          parameters=(_EXPAND, *_FORMS)),
    route("GET", _ANSWER, "dimse.read", ("List what an answer has", "Names of the routes below."), answer,
          ["content", "retrieve", "query-series", "query-instances"]),
    route("GET", f"{_ANSWER}/content", "dimse.read", ("See an answer", "Its tags."), content, _FULL, parameters=_FORMS),
    route("POST", f"{_ONE}/retrieve", "dimse.run",
          ("Retrieve what the answers tell of",
           "By C-MOVE to `TargetAet`, or to us; by C-GET where that is asked for, or set for the modality."),
          retrieve, MOVED, _TARGET),
    route("POST", f"{_ANSWER}/retrieve", "dimse.run", ("Retrieve what an answer tells of", "As for all answers."),
          retrieve, MOVED, _TARGET),
    *(
        route("POST", f"{_ANSWER}/query-{child}", "dimse.run",
              (f"Query the {child} of an answer", "A new query below the answer."), query_children, SUBMITTED,
              {"Query": {"Modality": ""}})
        for child in _CHILD
    ),
)  # fmt: skip
