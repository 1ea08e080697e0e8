"""Storage commitment by web (PS3.18 chapter 13): whether instances are here, durable and whole."""

from typing import Final

import orjson

from api.datasets import BODY_ERRORS, CONTENT_TYPE, document_plan, read_dataset, send_document
from api.examples import CT_IMAGE, DOCUMENT_ACCEPT, SOP_UID, json_body
from api.exchange import Exchange
from api.responses import Header
from api.routing import Answer, Operation
from dicomweb import commitments
from dicomweb.errors import BadRequest, NotAcceptable, NotFound, TooLarge, TransactionInUse, Unavailable
from dicomweb.negotiation import RetrievePlan
from dicomweb.uids import checked_uid
from storage.commitment import Answer as Commitment

MAX_REQUEST: Final = 8 << 20  # 10,000 instances
_NO_STORE: Final[Header] = (b"cache-control", b"no-store")


async def request(http: Exchange) -> None:
    """Ask for commitment (13.4); the answer is known at once."""
    plan, transaction = document_plan(http, single=True), checked_uid(http.path["transaction"], "transaction")
    dataset = await read_dataset(http, MAX_REQUEST, "a request for storage commitment")
    references = commitments.references_of(dataset, transaction)
    await _send(http, plan, transaction, await http.archive.commitment.commit(http.access, transaction, references))


async def result(http: Exchange) -> None:
    """Ask for the result again (13.5)."""
    plan, transaction = document_plan(http, single=True), checked_uid(http.path["transaction"], "transaction")
    await _send(http, plan, transaction, await http.archive.commitment.result(http.access, transaction))


async def _send(http: Exchange, plan: RetrievePlan, transaction: str, answers: list[Commitment]) -> None:
    said = ((answer.sop_class, answer.sop, answer.reason) for answer in answers)
    body = orjson.dumps([commitments.response(transaction, said, http.root_url)])
    await send_document(http, plan, body, _NO_STORE)


_TRANSACTION: Final = "2.25.77"
_ITEM: Final = {"00081150": {"vr": "UI", "Value": [CT_IMAGE]}, "00081155": {"vr": "UI", "Value": [SOP_UID]}}
_REQUEST: Final = {"00081199": {"vr": "SQ", "Value": [_ITEM]}}
_RESULT: Final = {"00081195": {"vr": "UI", "Value": [_TRANSACTION]}, **_REQUEST}
_PATH: Final = "{root}/commitment-requests/{transaction}"
_ANSWER: Final = Answer(200, "What is committed, and what is not, with its FailureReason.", json_body([_RESULT]))
OPERATIONS = (
    Operation(
        "POST",
        _PATH,
        "dicom.read",
        "Storage commitment",
        "Request storage commitment",
        "ReferencedSOPSequence names instances; each that the index and the object store have, with its size, is "
        "committed. Others are in FailedSOPSequence: 0112H is not here, 0119H has another SOP class, 0110H is damaged.",
        request,
        (_ANSWER,),
        (CONTENT_TYPE, DOCUMENT_ACCEPT),
        json_body(_REQUEST),
        (*BODY_ERRORS, NotAcceptable, TransactionInUse, Unavailable),
    ),
    Operation(
        "GET",
        _PATH,
        "dicom.read",
        "Storage commitment",
        "Result of a request for storage commitment",
        "Found out again: what was deleted since is not committed any more. Requests are kept for `job_retention_s`.",
        result,
        (_ANSWER,),
        (DOCUMENT_ACCEPT,),
        errors=(BadRequest, NotAcceptable, NotFound, TooLarge, Unavailable),
    ),
)
