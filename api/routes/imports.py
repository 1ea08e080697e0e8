"""Slides of scanners by HTTP, and slides as files: what makes jobs."""

from typing import Any, Final

import orjson

from api.exchange import Exchange
from api.responses import JSON, send_bytes
from api.routes.wsi import slide_of
from api.routing import Answer, Content, Operation, Parameter
from api.uploads import BodyReader, Upload, refuse_encoding, whole_body
from dicomweb.errors import BadQuery, BadRequest, NotFound, TooLarge, Unavailable, UnsupportedMediaType
from wsi.convert.options import LOCAL_FILES, Options
from wsi.export import LAYOUTS
from wsi.tasks import (
    DEIDENTIFY,
    DICOMIZE,
    EXPORT,
    LEVELS,
    deidentify_content,
    export_content,
    job_content,
    levels_content,
)

_MAX_NAME: Final = 255
_MAX_JSON: Final = 1 << 16
_WAITING: Final = 100  # jobs of one kind that are not over
_DEIDENTIFY: Final = frozenset(
    ("format", "copy", "quality", "subsampling", "tile", "pyramid", "levels", "offsets", "instance_bytes",
     "instance_frames", "split", "icc", "overview_part", "thumbnail", "mpp", "origin", "study", "series", "name",
     "metadata")
)  # fmt: skip


async def import_slide(http: Exchange) -> None:
    """Take a file and make a job of it."""
    refuse_encoding(http)
    name, options = _asked(http.query())
    upload = Upload(http, http.header(b"content-length"))
    try:
        with BodyReader(http, http.settings.max_body, "max_body") as body:
            while (chunk := await body.read()) is not None:
                await upload.spool.write(chunk)
        if not upload.spool.size:
            raise BadRequest("the body is empty: it is the file of a slide")
        spooled = await upload.finish()
        job = await http.archive.jobs.create_with(http.access, DICOMIZE, job_content(name, options), spooled)
    finally:
        upload.drop()
    await _accepted(http, job)


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
    for kept in sorted(LOCAL_FILES | {"seed", "created"}):
        if kept in given:
            raise BadQuery(f"there is no option {kept}", attribute=kept)
    return name, Options.parse(given)


async def export_slide(http: Exchange) -> None:
    """Make a job that writes a slide to a file."""
    asked = await _json_body(http)
    layout = asked.pop("layout", "ome")
    _refuse_others(asked)
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise BadRequest(f"layout is one of {', '.join(LAYOUTS)}", attribute="layout")
    stored = await slide_of(http)
    content = export_content(stored.series, LAYOUTS[layout])
    await _accepted(http, await http.archive.jobs.create(http.access, EXPORT, content, waiting=_WAITING))


async def deidentify_slide(http: Exchange) -> None:
    """Make a job that makes a new series without names of a slide."""
    asked = await _json_body(http)
    _refuse_others({name: value for name, value in asked.items() if name not in _DEIDENTIFY})
    options = Options.parse({"pyramid": "source", **asked, "deidentify": True})
    stored = await slide_of(http)
    content = deidentify_content(stored.series, options)
    await _accepted(http, await http.archive.jobs.create(http.access, DEIDENTIFY, content, waiting=_WAITING))


async def store_levels(http: Exchange) -> None:
    """Make a job that stores the levels which a slide lacks."""
    _refuse_others(await _json_body(http))
    stored = await slide_of(http)
    content = levels_content(stored.series)
    await _accepted(http, await http.archive.jobs.create(http.access, LEVELS, content, waiting=_WAITING))


async def _json_body(http: Exchange) -> dict[str, Any]:
    """The body as a JSON object; none at all is an empty one. Raises BadRequest."""
    data = await whole_body(http, _MAX_JSON)
    try:
        found = orjson.loads(data or b"{}")
    except ValueError:
        raise BadRequest("the body is no JSON") from None
    if not isinstance(found, dict):
        raise BadRequest("the body is a JSON object")
    return found


def _refuse_others(asked: dict[str, Any]) -> None:
    for name in asked:
        raise BadRequest(f"there is no option {name[:40]}", attribute=name[:40])


async def _accepted(http: Exchange, job: str | None) -> None:
    assert job is not None
    url = f"{http.services.address.base(http.scope)}/wsi/jobs/{job}"
    await send_bytes(http, 202, [JSON, (b"location", url.encode())], orjson.dumps({"job": job, "url": url}))


_ID = "0b0f4b0e-5c0c-4f60-9f0e-3f6b6a4f7d11"
_URL = f"https://archive.example/wsi/jobs/{_ID}"
_ACCEPTED = Answer(202, "A job was made.", (Content("application/json", {"job": _ID, "url": _URL}),), ("Location",))

OPERATIONS = (
    Operation(
        "POST",
        "/wsi/import",
        "dicom.write",
        "Slides",
        "Convert a scanner's file",
        "The body is the file: SVS, tiled TIFF, OME-TIFF, NDPI, SCN, BIF, PNG, JPEG; or a ZIP file with the files of "
        "one slide, as MRXS and VMS have several. It is durable when the answer "
        "comes, and a worker converts it; the job tells how far it is, and in the end the series. The other parameters "
        "are those of `anor dicomize`.",
        import_slide,
        (_ACCEPTED,),
        (
            Parameter("filename", "query", "name of the file; its stem becomes the Container Identifier", "S24-1.svs"),
            Parameter(
                "format", "query", "keep, jpeg, none; jpeg2000, htj2k, jpegls, jpegxl, also with -lossless", "keep"
            ),
            Parameter("copy", "query", "copy the source's tiles where they can be frames", "true"),
            Parameter("quality", "query", "of JPEG, 1 to 100", "90"),
            Parameter("subsampling", "query", "of chroma in JPEG: 420, 422, 444", "422"),
            Parameter("tile", "query", "side of the tiles; 0 is that of the source", "512"),
            Parameter("pyramid", "query", "source, apex, full or rebuilt", "full"),
            Parameter("levels", "query", "only these levels", "0,1"),
            Parameter("offsets", "query", "offset table: basic, extended or empty", "basic"),
            Parameter("instance_bytes", "query", "a level that takes more becomes a concatenation", "1073741824"),
            Parameter("instance_frames", "query", "the same, by the number of frames", "10000"),
            Parameter("split", "query", "an instance for each of the paths, planes, or both; or none", "planes"),
            Parameter("icc", "query", "colour profile: source, srgb, adobergb, rommrgb", "source"),
            Parameter("label", "query", "keep the image of the label", "false"),
            Parameter("overview", "query", "keep the image of the whole slide", "false"),
            Parameter("overview_part", "query", "only this of it: left,top,width,height in percent", "35,0,65,100"),
            Parameter("thumbnail", "query", "keep the source's thumbnail", "true"),
            Parameter("deidentify", "query", "nothing but pixels", "true"),
            Parameter("mpp", "query", "micrometres a pixel, where the file is silent", "0.25"),
            Parameter("origin", "query", "where on the glass the image begins: X,Y in mm", "20,60"),
            Parameter("study", "query", "Study Instance UID", "2.25.1"),
            Parameter("series", "query", "Series Instance UID", "2.25.2"),
            Parameter("name", "query", "Container Identifier", "S24-1;A;1"),
            Parameter("metadata", "query", "attributes by keyword, JSON", '{"PatientID":"P-1"}'),
        ),
        (Content("application/octet-stream", "(the bytes of the file)"), Content("application/zip", "(a ZIP file)")),
        (BadQuery, BadRequest, TooLarge, UnsupportedMediaType, Unavailable),
    ),
    Operation(
        "POST",
        "/wsi/slides/{series}/export",
        "jobs.run",
        "Slides",
        "Write a slide to a TIFF file",
        "A worker writes the file; when the job is a success, `/wsi/jobs/{job}/result` has it. JPEG frames are copied, "
        "all others are compressed without loss. `layout` is ome, the default: OME-TIFF with all channels and focal "
        "planes; or tiff: a plain pyramid of the first channel. It needs the right `dicom.read` too.",
        export_slide,
        (_ACCEPTED,),
        body=(Content("application/json", {"layout": "ome"}),),
        errors=(BadRequest, NotFound, TooLarge, UnsupportedMediaType, Unavailable),
    ),
    Operation(
        "POST",
        "/wsi/slides/{series}/deidentify",
        "dicom.write",
        "Slides",
        "Make a slide without names of a slide",
        "A new series in a new study: the pixels, and what is needed to show them. The label stays behind, and of the "
        "overview all but `overview_part`; all "
        "identifiers are new, texts and dates of the source are not taken over, comments within frames and texts of "
        "ICC profiles are removed. JPEG and JPEG 2000 frames are copied, others kept without loss unless they had lost "
        "before. The body has options of `anor dicomize`; what `metadata` says is set. The source stays. It needs the "
        "right `dicom.read` too.",
        deidentify_slide,
        (_ACCEPTED,),
        body=(Content("application/json", {"name": "case-17", "metadata": {"PatientID": "T-17"}}),),
        errors=(BadQuery, BadRequest, NotFound, TooLarge, UnsupportedMediaType, Unavailable),
    ),
    Operation(
        "POST",
        "/wsi/slides/{series}/levels",
        "dicom.write",
        "Slides",
        "Store the levels that a slide lacks",
        "A worker makes the coarse levels as instances of the series: TILED_FULL, Image Type "
        "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED, each a quarter of the one before. DICOMweb serves them then, and other "
        "programs have them too; levels that were derived in the background are not needed any more. The job says how "
        "many instances there are. It needs the right `dicom.read` too.",
        store_levels,
        (_ACCEPTED,),
        body=(Content("application/json", {}),),
        errors=(BadRequest, NotFound, TooLarge, UnsupportedMediaType, Unavailable),
    ),
)
