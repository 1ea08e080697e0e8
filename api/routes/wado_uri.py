"""WADO-URI (PS3.18 chapter 9): one object by query parameters, with the engine of the rendered resources."""

from dataclasses import replace
from typing import Final

from api.examples import SERIES_UID, SOP_UID, STUDY_UID
from api.exchange import Exchange
from api.routes.rendered import send_image, send_instance
from api.routes.wado import plan_of, send_files
from api.routing import Answer, Content, Operation, Parameter
from dicomweb.errors import BadPixels, BadQuery, BadRequest, NotAcceptable, NotFound, Unavailable
from dicomweb.negotiation import ANYTHING, parse_accept, plan_rendered
from dicomweb.rendered.parameters import MAX_SIDE, RenderOptions, Viewport, parse_options
from dicomweb.uids import checked_uid
from storage.rendering import JPEG, PNG

_DICOM: Final = "application/dicom"
_STILL: Final = (JPEG, PNG)


async def retrieve_object(http: Exchange) -> None:
    """The object that the parameters name, as DICOM or rendered."""
    query = {name.lower(): value.strip() for name, value in reversed(http.query()) if value.strip()}
    if query.get("requesttype", "").upper() != "WADO":
        raise BadQuery("requestType is WADO", attribute="requestType")
    if query.get("anonymize", "").lower() == "yes":
        raise NotAcceptable("objects are not anonymised on retrieval", attribute="anonymize")
    study, series, sop = (checked_uid(query.get(f"{level}uid", ""), level) for level in ("study", "series", "object"))
    instance = await http.archive.retrieve.instance(http.access, study, series, sop)
    kind = query.get("contenttype", "")
    ranges = parse_accept(kind) if kind else ANYTHING
    if any(wanted.media.essence == _DICOM for wanted in ranges):
        syntax = query.get("transfersyntax")
        wanted = parse_accept(
            f"{_DICOM}; transfer-syntax={checked_uid(syntax, 'transferSyntax')}" if syntax else _DICOM
        )
        await send_files(http, [instance], [await plan_of(http, instance, wanted, single=True)], instance.version)
        return
    options = _options(query)
    if not _places(query):
        await send_instance(http, instance, options, ranges)
        return
    plan = plan_rendered(ranges, _STILL)
    image = await http.archive.rendering.image(http.access, instance, [_frame(query)])
    view = _viewport(query, image.pixel.rows, image.pixel.columns)
    await send_image(http, image, plan, replace(options, viewport=view))


def _places(query: dict[str, str]) -> bool:
    return not query.keys().isdisjoint(("framenumber", "rows", "columns", "region"))


def _options(query: dict[str, str]) -> RenderOptions:
    """windowCenter, windowWidth, imageQuality and annotation (PS3.18 9.4.1) in the names of the rendered resources."""
    center, width = query.get("windowcenter"), query.get("windowwidth")
    if (center is None) != (width is None):
        raise BadQuery("windowCenter and windowWidth come together", attribute="windowCenter")
    named = [("quality", query.get("imagequality", "")), ("annotation", query.get("annotation", ""))]
    return parse_options([*named, *([("window", f"{center},{width}")] if center else [])])


def _frame(query: dict[str, str]) -> int:
    text = query.get("framenumber", "1")
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise BadQuery("frameNumber is a number from 1", attribute="frameNumber")
    return int(text)


def _viewport(query: dict[str, str], rows: int, columns: int) -> Viewport | None:
    """`rows` and `columns` bound the picture, `region` is left,top,right,bottom as fractions (PS3.18 9.4.1.2.5)."""
    size = []
    for name in ("columns", "rows"):
        text = query.get(name, "")
        if text and not (text.isascii() and text.isdigit() and 0 < int(text) <= MAX_SIDE):
            raise BadQuery(f"{name} is 1 to {MAX_SIDE}", attribute=name)
        size.append(int(text) if text else 0)
    if not any(size) and "region" not in query:
        return None
    left, top, right, bottom = _region(query.get("region", "0,0,1,1"))
    across, down = (right - left) * columns, (bottom - top) * rows
    if not any(size):
        size = [max(1, round(across)), max(1, round(down))]
    return Viewport(size[0] or MAX_SIDE, size[1] or MAX_SIDE, left * columns, top * rows, across, down)


def _region(text: str) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (float(member) for member in text.split(","))
    except ValueError:
        raise BadQuery("region is left,top,right,bottom", attribute="region") from None
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadQuery("region lies between 0 and 1, left before right and top before bottom", attribute="region")
    return left, top, right, bottom


def _parameter(name: str, summary: str, example: str, *, required: bool = False) -> Parameter:
    return Parameter(name, "query", summary, example, required)


OPERATIONS = (
    Operation(
        "GET",
        "/wado",
        "dicom.read",
        "WADO-URI",
        "Retrieve one object by query parameters",
        "JPEG unless contentType says otherwise; application/dicom gives the file, in `transferSyntax` if it is named.",
        retrieve_object,
        (
            Answer(200, "The object.", (Content(JPEG, "(the bytes of an image)"), Content(_DICOM, "(a DICOM file)"))),
            Answer(304, "Not modified."),
        ),
        (
            _parameter("requestType", "WADO", "WADO", required=True),
            _parameter("studyUID", "Study Instance UID", STUDY_UID, required=True),
            _parameter("seriesUID", "Series Instance UID", SERIES_UID, required=True),
            _parameter("objectUID", "SOP Instance UID", SOP_UID, required=True),
            _parameter("contentType", "media types, best first", JPEG),
            _parameter("transferSyntax", "of application/dicom", "1.2.840.10008.1.2.1"),
            _parameter("frameNumber", "from 1", "1"),
            _parameter("rows", "height at most", "512"),
            _parameter("columns", "width at most", "512"),
            _parameter("region", "left,top,right,bottom as fractions", "0.25,0.25,0.75,0.75"),
            _parameter("windowCenter", "with windowWidth", "40"),
            _parameter("windowWidth", "with windowCenter", "400"),
            _parameter("imageQuality", "of JPEG, 1 to 100", "90"),
            _parameter("annotation", "patient, technique", "technique"),
        ),
        errors=(BadRequest, BadQuery, BadPixels, NotFound, NotAcceptable, Unavailable),
    ),
)
