"""GET and DELETE of /changes and /exports: what happened, in an order that holds for every client."""

from typing import Any, Final

from api.exchange import Exchange
from api.routes.orthanc.addressing import NO_STORE, number
from api.routes.orthanc.dialect import flag, send_json, send_text
from api.routing import Answer, Content, Operation, Parameter
from dicomweb.errors import BadQuery, Unavailable
from storage.changes import KINDS, MAX_PAGE, Change, Changes, Export
from storage.resources import moment, reference

_PAGE: Final = 100


async def changes(http: Exchange) -> None:
    """A page of the feed."""
    service = http.archive.changes
    if flag(http, "last"):
        await send_json(http, _feed(await service.newest(http.access), 0), NO_STORE)
        return
    since, to = number(http, "since", 0), http.query_value("to")
    page = await service.page(
        http.access,
        since=since,
        to=number(http, "to", 0) if to else None,
        kinds=_kinds(http.query_value("type") or ""),
        limit=_limit(http),
    )
    await send_json(http, _feed(page, since), NO_STORE)


async def clear_changes(http: Exchange) -> None:
    """Begin the feed anew."""
    await http.archive.changes.clear(http.access)
    await send_text(http, "")


async def exports(http: Exchange) -> None:
    """A page of what was sent to others."""
    service = http.archive.changes
    since = number(http, "since", 0)
    if flag(http, "last"):
        found, done = await service.last_export(http.access), True
    else:
        found, done = await service.exports(http.access, since, _limit(http))
    last = found[-1].seq if found else since
    await send_json(http, {"Exports": [_export(each) for each in found], "Done": done, "Last": last}, NO_STORE)


async def clear_exports(http: Exchange) -> None:
    """Forget what was sent to others."""
    await http.archive.changes.clear_exports(http.access)
    await send_text(http, "")


def _limit(http: Exchange) -> int:
    """How many entries; 0 asks for as many as one answer may have."""
    wanted = number(http, "limit", _PAGE)
    return min(wanted or MAX_PAGE, MAX_PAGE)


def _kinds(text: str) -> list[str]:
    kinds = [kind.strip() for kind in text.split(";") if kind.strip()]
    if not set(kinds) <= {*KINDS, "Deleted", "NewChildInstance"}:
        raise BadQuery("there is no such type of change", attribute="type")
    return kinds


def _feed(page: Changes, since: int) -> dict[str, Any]:
    entries = page.entries
    return {
        "Changes": [_change(each) for each in entries],
        "Done": page.done,
        "First": entries[0].seq if entries else min(since, page.last),
        "Last": entries[-1].seq if entries else page.last,
    }


def _change(change: Change) -> dict[str, Any]:
    named = reference(change.resource)
    return {
        "ChangeType": change.kind,
        "Date": moment(change.at),
        "ID": named["ID"],
        "Path": named["Path"],
        "ResourceType": named["Type"],
        "Seq": change.seq,
    }


def _export(export: Export) -> dict[str, Any]:
    named = reference(export.resource)
    found = {
        "Date": moment(export.at),
        "ID": named["ID"],
        "Path": named["Path"],
        "PatientID": export.patient_id,
        "RemoteModality": export.modality,
        "ResourceType": named["Type"],
        "Seq": export.seq,
    }
    uids = {
        "StudyInstanceUID": export.study,
        "SeriesInstanceUID": export.series,
        "SOPInstanceUID": export.sop,
    }
    return found | {name: uid for name, uid in uids.items() if uid}


_CHANGE: Final = {
    "ChangeType": "NewStudy",
    "Date": "20240131T101530",
    "ID": "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15",
    "Path": "/studies/9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15",
    "ResourceType": "Study",
    "Seq": 2,
}
_SINCE: Final = Parameter("since", "query", "the number behind which to begin", "0", kind="integer")
_LIMIT: Final = Parameter(
    "limit", "query", f"entries at most, 100 unless given, up to {MAX_PAGE}", "100", kind="integer"
)
_LAST: Final = Parameter("last", "query", "the last entry alone", "true", kind="boolean")
_JSON: Final = "application/json"

OPERATIONS = (
    Operation(
        "GET",
        "/changes",
        "dicom.search",
        "Orthanc",
        "Read the change feed",
        "What was stored, became stable or was changed, numbered without gaps: who asks with `since` set to the last "
        "number that they have seen misses nothing, however many write at the same time. Entries of what is deleted "
        "vanish. With `to` and no `since`, the last entries up to there.",
        changes,
        (Answer(200, "A page.", (Content(_JSON, {"Changes": [_CHANGE], "Done": True, "First": 2, "Last": 2}),)),),
        (
            _SINCE,
            _LIMIT,
            _LAST,
            Parameter("to", "query", "the last number", "100", kind="integer"),
            Parameter("type", "query", "kinds of changes, separated by semicolons", "NewStudy;StableStudy"),
        ),
        errors=(BadQuery, Unavailable),
        orthanc=True,
    ),
    Operation(
        "DELETE",
        "/changes",
        "dicom.delete",
        "Orthanc",
        "Clear the change feed",
        "Entries up to now are not told any more; the numbers go on.",
        clear_changes,
        (Answer(200, "Cleared.", (Content("text/plain", "(empty)"),)),),
        errors=(Unavailable,),
        orthanc=True,
    ),
    Operation(
        "GET",
        "/exports",
        "dicom.search",
        "Orthanc",
        "List what was sent",
        "What was sent to modalities and peers, where the setting `log_exports` is on.",
        exports,
        (Answer(200, "A page.", (Content(_JSON, {"Exports": [], "Done": True, "Last": 0}),)),),
        (_SINCE, _LIMIT, _LAST),
        errors=(BadQuery, Unavailable),
        orthanc=True,
    ),
    Operation(
        "DELETE",
        "/exports",
        "dicom.delete",
        "Orthanc",
        "Forget what was sent",
        "The list begins anew; its numbers go on.",
        clear_exports,
        (Answer(200, "Forgotten.", (Content("text/plain", "(empty)"),)),),
        errors=(Unavailable,),
        orthanc=True,
    ),
)
