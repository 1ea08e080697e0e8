"""Jobs: how far they are, and the files that they leave."""

from typing import Any, Final
from urllib.parse import urlencode

import orjson

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, JSON, Header, client_has, ranged, send_bytes, send_stream
from api.routes.wado import IF_NONE_MATCH
from api.routing import Answer, Content, Operation, Parameter
from api.zips import attachment_header
from dicomweb.errors import BadQuery, Gone, NotFound, RangeNotSatisfiable, Unavailable
from storage.jobs import MAX_PAGE, Job, JobFile

_NO_STORE: Final[Header] = (b"cache-control", b"no-store")
_PAGE: Final = 100
_PARAMETERS: Final = frozenset(("limit", "after", "state", "kind"))


async def jobs(http: Exchange) -> None:
    """A page of jobs."""
    given = dict(http.query())
    for name in given:
        if name not in _PARAMETERS:
            raise BadQuery("there is no such parameter", attribute=name[:40])
    text = given.get("limit", str(_PAGE))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    found = await http.archive.jobs.page(
        http.access, limit, after=given.get("after"), state=given.get("state"), kind=given.get("kind")
    )
    base = _base(http)
    answer: dict[str, Any] = {"jobs": [_described(each, base) for each in found], "next": None}
    if len(found) == limit:
        answer["next"] = f"{base}?{urlencode(given | {'limit': limit, 'after': found[-1].id})}"
    await send_bytes(http, 200, [JSON, _NO_STORE], orjson.dumps(answer))


async def job(http: Exchange) -> None:
    """How far a job is."""
    found = await http.archive.jobs.get(http.access, http.path["job"])
    await send_bytes(http, 200, [JSON, _NO_STORE], orjson.dumps(_described(found, _base(http))))


async def cancel(http: Exchange) -> None:
    """Stop a job, or remove the file that it left."""
    await http.archive.jobs.cancel(http.access, http.path["job"])
    await send_bytes(http, 204, [])


async def result(http: Exchange) -> None:
    """The file that a job left, or a part of it."""
    await send_file(http, await http.archive.jobs.file(http.access, http.path["job"]))


async def send_file(http: Exchange, file: JobFile) -> None:
    """A file that a job left, or a part of it."""
    headers: list[Header] = [
        (b"content-type", file.result["media_type"].encode()),
        attachment_header(http, file.result["file"]),
        (b"etag", b'"%b"' % file.job.encode()),
        CACHE_REVALIDATE,
    ]
    if await client_has(http, headers):
        return
    status, offset, length = ranged(http, headers, file.size)
    await send_stream(http, status, headers, length, http.archive.jobs.read(file, offset, length))


def _base(http: Exchange) -> str:
    return f"{http.services.address.base(http.scope)}/wsi/jobs"


def _described(found: Job, base: str) -> dict[str, Any]:
    return {
        "job": found.id, "kind": found.kind, "state": found.state, "progress": round(found.progress, 4),
        "attempts": found.attempts, "result": found.result, "error": found.error, "created": found.created_at,
        "started": found.started_at, "finished": found.finished_at,
        "file": f"{base}/{found.id}/result" if found.has_file else None,
    }  # fmt: skip


_ID = "0b0f4b0e-5c0c-4f60-9f0e-3f6b6a4f7d11"
_URL = "https://archive.example/wsi/jobs"
_JOB = {
    "job": _ID, "kind": "export", "state": "success", "progress": 1.0, "attempts": 1,
    "result": {"file": "1.2.3.ome.tiff", "media_type": "image/tiff", "bytes": 268435456}, "error": None,
    "created": "2026-01-10T10:15:00+00:00", "started": "2026-01-10T10:15:01+00:00",
    "finished": "2026-01-10T10:15:09+00:00", "file": f"{_URL}/{_ID}/result",
}  # fmt: skip
_FILE = (Content("image/tiff", "(a TIFF file)"), Content("application/zip", "(a ZIP file)"))

OPERATIONS = (
    Operation(
        "GET",
        "/wsi/jobs",
        "jobs.read",
        "Slides",
        "List jobs",
        "The youngest first; `next` is the URL of the next page, null at the end. Jobs are kept for `job_retention_s` "
        "after they are over.",
        jobs,
        (Answer(200, "A page.", (Content("application/json", {"jobs": [_JOB], "next": f"{_URL}?after={_ID}"}),)),),
        (
            Parameter("limit", "query", f"number of jobs, 1 to {MAX_PAGE}", "100", kind="integer"),
            Parameter("after", "query", "the last job of the page before", _ID),
            Parameter("state", "query", "pending, running, retry, paused, success or failure", "failure"),
            Parameter("kind", "query", "dicomize, export, deidentify or levels", "export"),
        ),
        errors=(BadQuery, Unavailable),
    ),
    Operation(
        "GET",
        "/wsi/jobs/{job}",
        "jobs.read",
        "Slides",
        "See how far a job is",
        "States are pending, running, retry, paused, success and failure; `error` says why. `file` is the URL of what "
        "it left.",
        job,
        (Answer(200, "The job.", (Content("application/json", _JOB),)),),
        errors=(NotFound, Unavailable),
    ),
    Operation(
        "GET",
        "/wsi/jobs/{job}/result",
        "dicom.read",
        "Slides",
        "Retrieve the file that a job left",
        "An exported slide, or the archive that a job of Orthanc's API made. Range is taken, so that a download can go "
        "on where it broke off. The file goes with its job, and before it when `job_file_bytes` is exceeded; then "
        "it is 410.",
        result,
        (
            Answer(200, "The file.", _FILE, ("Content-Disposition",)),
            Answer(206, "A part of it.", _FILE, ("Content-Disposition",)),
            Answer(304, "Not modified."),
        ),
        (IF_NONE_MATCH, Parameter("Range", "header", "a part of the file", "bytes=0-65535")),
        errors=(NotFound, Gone, RangeNotSatisfiable, Unavailable),
    ),
    Operation(
        "DELETE",
        "/wsi/jobs/{job}",
        "jobs.run",
        "Slides",
        "Cancel a job, or remove what it left",
        "One that runs ends within seconds, as a failure; of one that is over the file is removed.",
        cancel,
        (Answer(204, "Cancelled, or about to be."),),
        errors=(NotFound, Unavailable),
    ),
)
