"""Slides of scanners by HTTP, and the jobs that convert them."""

from typing import Any, Final

import orjson

from api.exchange import Exchange
from api.responses import JSON, send_bytes
from api.routing import Answer, Content, Operation, Parameter
from api.uploads import BodyReader, Upload, refuse_encoding
from dicomweb.errors import BadQuery, BadRequest, NotFound, TooLarge, Unavailable, UnsupportedMediaType
from storage.jobs import Job
from wsi.convert.options import Options
from wsi.tasks import DICOMIZE, job_content

_MAX_NAME: Final = 255


async def import_slide(http: Exchange) -> None:
    """Take a file and make a job of it."""
    refuse_encoding(http)
    name, options = _asked(http.query())
    upload = Upload(http, http.header(b"content-length"))
    try:
        with BodyReader(http, http.settings.max_body) as body:
            while (chunk := await body.read()) is not None:
                await upload.spool.write(chunk)
        if not upload.spool.size:
            raise BadRequest("the body is empty: it is the file of a slide")
        spooled = await upload.finish()
        job = await http.archive.jobs.create_with(http.access, DICOMIZE, job_content(name, options), spooled)
    finally:
        upload.drop()
    url = f"{http.services.address.base(http.scope)}/wsi/jobs/{job}"
    await send_bytes(http, 202, [JSON, (b"location", url.encode())], orjson.dumps({"job": job, "url": url}))


def _asked(query: list[tuple[str, str]]) -> tuple[str, Options]:
    given: dict[str, object] = dict(query)
    name = str(given.pop("filename", "slide"))
    if not name or len(name) > _MAX_NAME or "/" in name or "\0" in name:
        raise BadQuery("filename is the name of a file, without folders", attribute="filename")
    if "metadata" in given:
        try:
            given["metadata"] = orjson.loads(str(given["metadata"]))
        except ValueError:
            raise BadQuery("metadata is no JSON", attribute="metadata") from None
    for kept in ("seed", "created"):
        if kept in given:
            raise BadQuery(f"there is no option {kept}", attribute=kept)
    return name, Options.parse(given)


async def job(http: Exchange) -> None:
    """How far a job is."""
    found = await http.archive.jobs.get(http.access, http.path["job"])
    await send_bytes(http, 200, [JSON, (b"cache-control", b"no-store")], orjson.dumps(_described(found)))


async def cancel(http: Exchange) -> None:
    """Stop a job."""
    await http.archive.jobs.cancel(http.access, http.path["job"])
    await send_bytes(http, 204, [])


def _described(found: Job) -> dict[str, Any]:
    return {
        "job": found.id, "kind": found.kind, "state": found.state, "progress": round(found.progress, 4),
        "attempts": found.attempts, "result": found.result, "error": found.error, "created": found.created_at,
        "started": found.started_at, "finished": found.finished_at,
    }  # fmt: skip


_ID = "0b0f4b0e-5c0c-4f60-9f0e-3f6b6a4f7d11"
_JOB = {
    "job": _ID, "kind": "dicomize", "state": "success", "progress": 1.0, "attempts": 1,
    "result": {"study": "2.25.1", "series": "2.25.2", "instances": 6}, "error": None,
    "created": "2026-01-10T10:15:00+00:00", "started": "2026-01-10T10:15:01+00:00",
    "finished": "2026-01-10T10:15:09+00:00",
}  # fmt: skip
_JOB_BODY = (Content("application/json", _JOB),)

OPERATIONS = (
    Operation(
        "POST",
        "/wsi/import",
        "dicom.write",
        "Slides",
        "Convert a scanner's file",
        "The body is the file: SVS, tiled TIFF, OME-TIFF, NDPI, SCN, BIF, PNG, JPEG. It is durable when the answer "
        "comes, and a worker converts it; the job tells how far it is, and in the end the series. The other parameters "
        "are those of `anor dicomize`.",
        import_slide,
        (Answer(202, "A job was made.", (Content("application/json", {"job": _ID, "url": f"/wsi/jobs/{_ID}"}),)),),
        (
            Parameter("filename", "query", "name of the file; its stem becomes the Container Identifier", "S24-1.svs"),
            Parameter("format", "query", "keep, jpeg, jpeg2000, htj2k, jpegxl, each also with -lossless, none", "keep"),
            Parameter("quality", "query", "of JPEG, 1 to 100", "90"),
            Parameter("tile", "query", "side of the tiles; 0 is that of the source", "512"),
            Parameter("pyramid", "query", "source, apex, full or rebuilt", "full"),
            Parameter("levels", "query", "only these levels", "0,1"),
            Parameter("offsets", "query", "offset table: basic, extended or empty", "basic"),
            Parameter("label", "query", "keep the image of the label", "false"),
            Parameter("overview", "query", "keep the image of the whole slide", "false"),
            Parameter("thumbnail", "query", "keep the source's thumbnail", "true"),
            Parameter("deidentify", "query", "nothing but pixels", "true"),
            Parameter("mpp", "query", "micrometres a pixel, where the file is silent", "0.25"),
            Parameter("study", "query", "Study Instance UID", "2.25.1"),
            Parameter("series", "query", "Series Instance UID", "2.25.2"),
            Parameter("name", "query", "Container Identifier", "S24-1;A;1"),
            Parameter("metadata", "query", "attributes by keyword, JSON", '{"PatientID":"P-1"}'),
        ),
        (Content("application/octet-stream", "(the bytes of the file)"),),
        (BadQuery, BadRequest, TooLarge, UnsupportedMediaType, Unavailable),
    ),
    Operation(
        "GET",
        "/wsi/jobs/{job}",
        "jobs.read",
        "Slides",
        "See how far a conversion is",
        "States are pending, running, retry, success and failure; `error` says why.",
        job,
        (Answer(200, "The job.", _JOB_BODY),),
        errors=(NotFound, Unavailable),
    ),
    Operation(
        "DELETE",
        "/wsi/jobs/{job}",
        "jobs.run",
        "Slides",
        "Cancel a conversion",
        "One that runs ends within seconds, as a failure; one that is over stays as it is.",
        cancel,
        (Answer(204, "Cancelled, or about to be."),),
        errors=(NotFound, Unavailable),
    ),
)
