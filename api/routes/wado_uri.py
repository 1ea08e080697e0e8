"""WADO-URI: one object by query parameters (PS3.18 chapter 9), rendered or as a file, with the engine of WADO-RS."""

from api.examples import DICOM, SERIES_UID, SOP_UID, STUDY_UID
from api.exchange import Exchange
from api.routes.rendered import IMAGE_BODIES, RENDERED_ERRORS, send_rendered
from api.routes.wado import IF_NONE_MATCH, plan_of, send_files
from api.routing import Answer, Content, Operation, Parameter
from dicomweb.negotiation import parse_accept
from dicomweb.rendered.uri import parse_uri_request


async def retrieve(http: Exchange) -> None:
    """The stored file for application/dicom, else the rendered object; the Accept header counts without contentType."""
    request = parse_uri_request(http.query())
    ranges = parse_accept(http.header(b"accept"), request.accept)
    if request.stored:
        instance = await http.archive.retrieve.instance(http.access, request.study, request.series, request.sop)
        await send_files(http, [instance], [await plan_of(http, instance, ranges, single=True)], instance.version)
        return
    frames = None if request.frame is None else (request.frame,)
    subject = await http.archive.rendering.subject(http.access, request.study, request.series, request.sop, frames)
    await send_rendered(http, subject, ranges, request.rendering, whole=frames is None)


def _parameter(name: str, summary: str, example: str, *, required: bool = False) -> Parameter:
    return Parameter(name, "query", summary, example, required)


OPERATIONS = (
    Operation(
        "GET",
        "/wado",
        "dicom.read",
        "WADO-URI",
        "Retrieve an object by parameters",
        "An image as JPEG (default), PNG or GIF, a report as HTML, plain text or XML, an encapsulated PDF, or with "
        "contentType=application/dicom the stored file. anonymize and presentation states are refused.",
        retrieve,
        (
            Answer(200, "The object.", (*IMAGE_BODIES, Content(DICOM, "(the bytes of a DICOM file)"))),
            Answer(304, "Not modified."),
        ),
        (
            _parameter("requestType", "WADO", "WADO", required=True),
            _parameter("studyUID", "Study Instance UID", STUDY_UID, required=True),
            _parameter("seriesUID", "Series Instance UID", SERIES_UID, required=True),
            _parameter("objectUID", "SOP Instance UID", SOP_UID, required=True),
            _parameter("contentType", "media types, comma-separated", "image/png"),
            _parameter("charset", "passed over: text is UTF-8 always", "utf-8"),
            _parameter("frameNumber", "from 1", "1"),
            _parameter("rows", "height to fit into", "512"),
            _parameter("columns", "width to fit into", "512"),
            _parameter("region", "xmin,ymin,xmax,ymax, parts of the image from 0 to 1", "0.25,0.25,0.75,0.75"),
            _parameter("windowCenter", "with windowWidth", "40"),
            _parameter("windowWidth", "with windowCenter", "400"),
            _parameter("imageQuality", "of JPEG, 1 to 100", "90"),
            _parameter("annotation", "patient, technique or both; overlays are drawn too", "technique"),
            _parameter("transferSyntax", "of application/dicom", "1.2.840.10008.1.2.1"),
            IF_NONE_MATCH,
        ),
        errors=RENDERED_ERRORS,
    ),
)
