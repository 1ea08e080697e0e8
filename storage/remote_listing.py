"""What a DICOMweb server has of a study or series and this archive has not: a retrieval goes on with that."""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from dicomweb.errors import PeerFailed
from storage.db import Database
from storage.outbound import Caller

_RESOURCE: Final = re.compile(r"(studies/([0-9.]{1,64}))(?:/series/([0-9.]{1,64}))?")
_UID: Final = re.compile(r"[0-9.]{1,64}")
_PAGE: Final = 500
_MAX_INSTANCES: Final = 1_000_000
_ANSWER_MAX: Final = 16 << 20
_SERIES, _SOP = "0020000E", "00080018"
_OK, _NO_CONTENT = 200, 204


async def missing(db: Database, tenant: int, caller: Caller, path: str) -> tuple[list[str], int] | None:
    """Paths of the instances of a study or series that are not stored here, and how many of it are.

    None where that is not known: another resource, or a server that does not search (PS3.18 10.6) page by page to the
    end; and where nothing of it is stored, so that it is as well retrieved whole.
    """
    resource = _RESOURCE.fullmatch(path)
    if resource is None or not await db.fetch_value("retrieval_begun", tenant, resource[2], resource[3]):
        return None
    try:
        listed = await _listed(caller, path, resource[3])
    except PeerFailed:
        return None
    if not listed:
        return None
    stored = {row["sop_uid"] for row in await db.fetch("instances_known", tenant, list(listed))}
    if not stored:
        return None
    study = resource[1]
    wanted = [f"{study}/series/{series}/instances/{sop}" for sop, series in listed.items() if sop not in stored]
    return wanted, len(stored)


async def _listed(caller: Caller, path: str, series: str | None) -> Mapping[str, str] | None:
    """The series of each SOP Instance UID; None unless the server says itself that there are no more."""
    found: dict[str, str] = {}
    while len(found) <= _MAX_INSTANCES:
        params = [("limit", str(_PAGE)), ("offset", str(len(found))), ("includefield", _SERIES)]
        answer = await caller.ask(
            "GET", f"{path}/instances", params=params, headers={"accept": "application/dicom+json"}, limit=_ANSWER_MAX
        )
        if answer.status == _NO_CONTENT or (answer.status == _OK and not answer.body.strip()):
            return found
        if answer.status != _OK:
            return None
        page = _page(answer.body, series)
        if page is None or not page.keys().isdisjoint(found):  # a server that ignores `offset` begins again
            return None
        if not page:
            return found
        found |= page
    return None


def _page(body: bytes, series: str | None) -> dict[str, str] | None:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, list):
        return None
    found: dict[str, str] = {}
    for each in answer:
        sop, of = _uid(each, _SOP), _uid(each, _SERIES) or series
        if sop is None or of is None:
            return None
        found[sop] = of
    return found if len(found) == len(answer) else None


def _uid(dataset: Any, tag: str) -> str | None:
    element = dataset.get(tag) if isinstance(dataset, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    uid = values[0] if isinstance(values, list) and values else None
    return uid if isinstance(uid, str) and _UID.fullmatch(uid) else None
