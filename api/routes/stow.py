"""STOW-RS: POST {root}/studies and {root}/studies/{study} (PS3.18 10.5)."""

from api.examples import DICOM, MULTIPART_BODY, MULTIPART_DICOM, REFUSED, STORED, json_body
from api.exchange import Exchange
from api.responses import DICOM_JSON, send_bytes
from api.routing import STUDY, Answer, Content, Operation, Parameter
from api.transaction import StoreTransaction
from api.uploads import BodyReader, refuse_encoding
from dicomweb import stow
from dicomweb.errors import BadRequest, TooLarge, Unavailable, UnsupportedMediaType
from dicomweb.uids import checked_uid


async def store(http: Exchange) -> None:
    """Store the instances of a multipart/related or a single application/dicom body."""
    study = http.path.get("study")
    if study is not None:
        checked_uid(study, "study")
    refuse_encoding(http)
    boundary = stow.request_boundary(http.header(b"content-type"))
    transaction = StoreTransaction(http, expect_study=study)
    with BodyReader(http, http.settings.max_body, "max_body") as body:
        outcomes = await (
            transaction.read_single(body) if boundary is None else transaction.read_multipart(body, boundary)
        )
    status, answer = stow.response(outcomes, http.root_url, study)
    await send_bytes(http, status, [DICOM_JSON], answer)


_DESCRIPTION = (
    "Instances are stored while the body is still arriving. Each part has its own outcome: one that is refused does "
    "not touch the others. Sending the same bytes again succeeds; other bytes under a stored SOP Instance UID follow "
    "the setting `duplicates`."
)
_ANSWERS = (
    Answer(200, "All instances are stored.", json_body(STORED)),
    Answer(202, "Some are stored, some refused or stored with a warning.", json_body(STORED | REFUSED)),
    Answer(409, "None could be stored; the FailureReason of each says why.", json_body(REFUSED)),
)
_BODY = (Content(MULTIPART_DICOM, MULTIPART_BODY), Content(DICOM, "(the bytes of a DICOM file)"))
_PARAMETERS = (
    Parameter(
        "Content-Type", "header", "with the boundary, for multipart", f"{MULTIPART_DICOM}; boundary=b", required=True
    ),
)
_ERRORS = (BadRequest, TooLarge, UnsupportedMediaType, Unavailable)

OPERATIONS = (
    Operation(
        "POST",
        "{root}/studies",
        "dicom.write",
        "STOW-RS",
        "Store instances",
        _DESCRIPTION,
        store,
        _ANSWERS,
        _PARAMETERS,
        _BODY,
        _ERRORS,
    ),
    Operation(
        "POST",
        STUDY,
        "dicom.write",
        "STOW-RS",
        "Store instances of one study",
        _DESCRIPTION + " An instance of another study is refused (0xA900).",
        store,
        _ANSWERS,
        _PARAMETERS,
        _BODY,
        _ERRORS,
    ),
)
