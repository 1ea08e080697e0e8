"""`/jobs`: every job of the archive as Orthanc's clients know them; `/wsi/jobs` tells of the same ones."""

import functools
from typing import Final

from api.exchange import Exchange
from api.routes import jobs as files
from api.routes.orthanc.dialect import EMPTY, JOB_ID, NOTHING, flag, job_json, outcomes_of, route, send_json, send_text
from api.routing import Content, Parameter
from dicomweb.errors import BadRequest, Gone, NotFound
from storage.archive_jobs import KINDS
from storage.jobs import MAX_PAGE, JobFile

# Jobs of which each part is an instance that was sent, or why it was not.
_TELLS: Final = frozenset(("OrthancPeerStore", "DicomWebStowClient"))


async def jobs(http: Exchange) -> None:
    """The identifiers of the youngest jobs, or with `expand` all that is known of them."""
    service = http.archive.jobs
    found = await service.page(http.access, MAX_PAGE)
    if not flag(http, "expand"):
        await send_json(http, [each.id for each in found])
        return
    items = await service.items(http.access, found)
    await send_json(http, [job_json(each, items.get(each.id)) for each in found])


async def job(http: Exchange) -> None:
    """One job."""
    service = http.archive.jobs
    found = await service.get(http.access, http.path["job"])
    items = (await service.items(http.access, [found])).get(found.id)
    answer = job_json(found, items, await outcomes_of(http, found))
    if found.kind in _TELLS and items is not None and items.failed:
        answer["Content"]["Failures"] = [
            {"SOPInstanceUID": each.content, "Status": each.status, "Comment": each.comment}
            for each in await service.failures(http.access, found)
        ]
    await send_json(http, answer)


async def act(http: Exchange, action: str) -> None:
    """Cancel, pause, resume or resubmit a job."""
    service, name = http.archive.jobs, http.path["job"]
    found = await service.get(http.access.with_scope("jobs.read"), name)
    if action == "cancel":
        if found.finished_at is None:
            await service.cancel(http.access, name)
    elif action == "pause":
        await service.pause(http.access, name)
    elif not await (service.resume if action == "resume" else service.resubmit)(http.access, name):
        raise BadRequest(
            "the job is not paused" if action == "resume" else "the job has not failed, or lost its upload"
        )
    await send_json(http, {})


async def delete(http: Exchange) -> None:
    """Forget a job that is over, with the file that it left."""
    service, name = http.archive.jobs, http.path["job"]
    await service.get(http.access.with_scope("jobs.read"), name)
    if not await service.delete(http.access, name):
        raise BadRequest("the job is not over: cancel it first")
    await send_text(http, "")


async def output(http: Exchange) -> None:
    """The file that a job left."""
    await files.send_file(http, await _output(http))


async def drop_output(http: Exchange) -> None:
    """Remove the file that a job left."""
    file = await _output(http)
    await http.archive.jobs.cancel(http.access, file.job)
    await send_text(http, "")


async def _output(http: Exchange) -> JobFile:
    try:
        file = await http.archive.jobs.file(http.access.with_scope("dicom.read"), http.path["job"])
    except Gone:
        raise NotFound("the job's output was removed") from None
    if http.path["key"] not in ({"archive", "result"} if file.kind in KINDS else {"result"}):
        raise NotFound("the job has no such output")
    return file


_JOB: Final = {
    "ID": JOB_ID, "Type": "DicomModalityStore", "State": "Running", "Progress": 40, "Priority": 0,
    "CreationTime": "20260110T101500.000000", "Timestamp": "20260110T101509.250000", "EffectiveRuntime": 8.2,
    "ErrorCode": 0, "ErrorDescription": "Success", "ErrorDetails": "",
    "Content": {
        "Description": "REST API", "InstancesCount": 120, "FailedInstancesCount": 0, "LocalAet": "ANOR",
        "RemoteAet": "PACS",
    },
}  # fmt: skip
_ACTIONS: Final = (
    ("cancel", "Cancel a job", "It ends within seconds, as a failure."),
    ("pause", "Pause a job", "It stops within seconds; what is done of it stays done."),
    ("resume", "Resume a job", "It goes on where it was paused."),
    ("resubmit", "Try a job again", "One that has failed goes on with what was not done well."),
)


_ONE: Final = "/jobs/{job}"

OPERATIONS = (
    route("GET", "/jobs", "jobs.read", ("List jobs", f"The youngest {MAX_PAGE}, of every kind."), jobs, [JOB_ID],
          parameters=(Parameter("expand", "query", "what is known of each", "true", kind="boolean"),)),
    route("GET", _ONE, "jobs.read", ("See a job", "State, progress, and what it is about."), job, _JOB),
    route("DELETE", _ONE, "jobs.run", ("Forget a job", "One that is over."), delete, EMPTY),
    *(
        route("POST", f"{_ONE}/{name}", "jobs.run", (summary, description), functools.partial(act, action=name),
              NOTHING, NOTHING)
        for name, summary, description in _ACTIONS
    ),
    route("GET", f"{_ONE}/{{key}}", "dicom.read",
          ("Retrieve what a job left", "`result` is its file, of an archive or medium `archive`, too. Range is taken."),
          output, Content("application/octet-stream", "(a file)")),
    route("DELETE", f"{_ONE}/{{key}}", "jobs.run", ("Remove what a job left", "The job stays."), drop_output, EMPTY),
)  # fmt: skip
