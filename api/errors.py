"""THE table from domain errors to HTTP: status, problem document (RFC 9457), Orthanc's error JSON.

Nothing else in the program decides a status from an error. A problem names what was wrong (slug, attribute) and
carries the request identifier; it never repeats values, paths of the machine, or a traceback.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import orjson

from dicomweb import errors as domain


@dataclass(frozen=True, slots=True)
class Row:
    """How one error class is answered. `orthanc` is Orthanc's code for its own routes."""

    status: int
    title: str
    orthanc: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One error as HTTP sees it."""

    status: int
    slug: str
    title: str
    detail: str
    orthanc: int
    attribute: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())
    warning: str = ""  # for the Warning header, where the standard fixes its text
    payload: Mapping[str, object] | None = None  # what Orthanc's form tells beside, see `dimse_payload`


TABLE: dict[type[domain.ArchiveError], Row] = {
    domain.NotFound: Row(404, "There is no such resource", 17),
    domain.Gone: Row(410, "The resource was removed", 17),
    domain.ObjectMissing: Row(500, "Stored data is missing", 13),
    domain.BadRequest: Row(400, "The request is malformed", 8),
    domain.BadQuery: Row(400, "A query parameter is wrong", 3),
    domain.BadJson: Row(400, "The body is not JSON", 28),
    domain.OverridesParent: Row(400, "A value of the parent would be overwritten", 2020),
    domain.NotContent: Row(400, "Pixels are given as content", 2021),
    domain.NoContent: Row(400, "An instance of a series has no content", 2022),
    domain.BadDataUri: Row(400, "The content is no data URI", 2023),
    domain.NoParent: Row(400, "There is no such parent", 2024),
    domain.ParentIsInstance: Row(400, "The parent is an instance", 2025),
    domain.BadDicom: Row(400, "The body is not a DICOM file that can be stored", 15),
    domain.IdentityMismatch: Row(409, "The identifiers do not match", 46),
    domain.Conflict: Row(409, "The instance exists with other content", 46),
    domain.TransactionInUse: Row(409, "The Transaction UID is in use", 46),
    domain.RevisionConflict: Row(409, "The revision is another one", 43),
    domain.WorkitemRefused: Row(400, "The request breaks a rule of the workitem", 8),
    domain.WorkitemConflict: Row(409, "The workitem is not in the right state", 46),
    domain.NotAcceptable: Row(406, "Nothing that is accepted can be served", 34),
    domain.UnsupportedMediaType: Row(415, "The type of the body is not taken here", 3000),
    domain.RangeNotSatisfiable: Row(416, "The range lies outside the content", 41),
    domain.TooLarge: Row(413, "A limit is exceeded", 4),
    domain.Forbidden: Row(403, "The operation is not allowed", 45),
    domain.Unavailable: Row(503, "The archive cannot answer now", 36),
    domain.CorruptObject: Row(500, "Stored data is damaged", 20),
    domain.BadPixels: Row(422, "The stored pixel data cannot be decoded", 15),
    domain.PeerFailed: Row(500, "Another application entity failed", 9),
}

# Refusals that only HTTP knows; (slug, row).
METHOD_NOT_ALLOWED = ("method-not-allowed", Row(405, "The method is not supported here", 8))
HEADERS_TOO_LARGE = ("headers-too-large", Row(431, "The request header is too large", 8))
UPGRADE_REQUIRED = ("upgrade-required", Row(426, "The resource is a WebSocket", 8))
SLOW_BODY = ("slow-body", Row(408, "The body arrives too slowly", 16))
STORAGE_FULL = ("storage-full", Row(507, "The storage is full", 19))
INTERNAL = ("internal", Row(500, "The server failed", -1))
HTTP_ONLY = (METHOD_NOT_ALLOWED, UPGRADE_REQUIRED, HEADERS_TOO_LARGE, SLOW_BODY, STORAGE_FULL, INTERNAL)

# Orthanc's `OrthancError` texts for the codes above.
ORTHANC_TEXT = {
    -1: "Internal error",
    3: "Parameter out of range",
    4: "Not enough memory",
    8: "Bad request",
    9: "Error in the network protocol",
    13: "Inexistent file",
    15: "Bad file format",
    16: "Timeout",
    17: "Unknown resource",
    19: "The file storage is full",
    20: "Corrupted file",
    28: "Bad JSON",
    34: "Cannot send a response which is acceptable according to the Accept HTTP header",
    36: "The database is currently not available",
    41: "Invalid Range header",
    43: "Bad revision number while trying to modify an entity",
    45: "Access forbidden",
    46: "Duplicate resource",
    2020: "Trying to override a value inherited from a parent module",
    2021: 'Use "Content" to inject an image into a new DICOM instance',
    2022: "No payload is present for one instance in the series",
    2023: "The payload of the DICOM instance must be specified according to Data URI scheme",
    2024: "Trying to attach a new DICOM instance to an inexistent resource",
    2025: "Trying to attach a new DICOM instance to an instance (must be a series, study or patient)",
    3000: "Unsupported media type",
}


class HttpRefusal(Exception):
    """A refusal that has no domain error: raised in `api` only."""

    def __init__(
        self,
        kind: tuple[str, Row],
        detail: str,
        *,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        payload: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers
        self.payload = payload


def row_of(error: type[domain.ArchiveError]) -> Row:
    """The row of an error class, else of its nearest ancestor."""
    for cls in error.__mro__:
        if cls in TABLE:
            return TABLE[cls]
    return INTERNAL[1]


def problem_of(error: BaseException) -> Problem:
    """Any exception as a problem. What is not a domain error becomes 500 and says nothing about itself."""
    if isinstance(error, HttpRefusal):
        slug, row = error.kind
        return Problem(
            row.status, slug, row.title, error.detail, row.orthanc, headers=error.headers, payload=error.payload
        )
    if not isinstance(error, domain.ArchiveError):
        slug, row = INTERNAL
        return Problem(row.status, slug, row.title, "The request could not be completed.", row.orthanc)
    slug, row = error.slug, row_of(type(error))
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, domain.Unavailable):
        if getattr(error, "reason", None) == "full":
            slug, row = STORAGE_FULL
        else:
            headers = ((b"retry-after", b"2"),)
    elif isinstance(error, domain.RangeNotSatisfiable):
        headers = ((b"content-range", b"bytes */%d" % error.size),)
    warning = error.warning if isinstance(error, domain.WorkitemRefused) else ""
    payload = dimse_payload(error.status) if isinstance(error, domain.PeerFailed) and error.status else None
    return Problem(row.status, slug, row.title, error.message, row.orthanc, error.attribute, headers, warning, payload)


def dimse_payload(status: int) -> dict[str, object]:
    """The DIMSE status with which another application entity refused something, as Orthanc's clients read it."""
    return {"Type": "DimseErrorStatus", "Content": {"DimseErrorStatus": status}}


def problem_json(problem: Problem, request_id: str) -> bytes:
    """The problem document (RFC 9457 section 3).

    Members type, title, status, detail and our slug, attribute, request.
    """
    document: dict[str, object] = {
        "type": f"urn:anor:error:{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "slug": problem.slug,
        "request": request_id,
    }
    if problem.attribute is not None:
        document["attribute"] = problem.attribute
    return orjson.dumps(document)


def orthanc_json(problem: Problem, method: str, path: str) -> bytes:
    """The same in the form that Orthanc's clients read."""
    return orjson.dumps(
        {
            "HttpError": HTTPStatus(problem.status).phrase,
            "HttpStatus": problem.status,
            "Message": ORTHANC_TEXT[problem.orthanc],
            "Method": method,
            "OrthancError": ORTHANC_TEXT[problem.orthanc],
            "OrthancStatus": problem.orthanc,
            "Uri": path,
            "Details": problem.detail,
        }
        | ({} if problem.payload is None else {"ErrorPayload": problem.payload}),
        option=orjson.OPT_INDENT_2,
    )
