"""The answer to our request for storage commitment: N-EVENT-REPORT (PS3.4 J.3.3), wherever it arrives."""

import asyncio
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import decode

from dicomweb.errors import BadRequest
from dicomweb.media import EXPLICIT_BE, IMPLICIT_LE
from dimse_bridge import status
from dimse_bridge.asking import references
from dimse_bridge.contexts import COMMITMENT
from dimse_bridge.service import Entry, Exchange
from storage.archive import Archive

# PS3.4 J.3.3.1.2: no reason is given, but the instance is among the failed ones.
_PROCESSING_FAILURE: Final = 0x0110
_MAX_REFERENCES: Final = 1_000_000


async def take_report(archive: Archive, tenant: int, remote_aet: str | None, report: Dataset) -> None:
    """Note what a report says.

    `remote_aet`: who sends it; None where it came on the association on which we asked. Raises BadRequest, and NotFound
    for a transaction that was not begun with that application entity.
    """
    transaction = str(report.get("TransactionUID", "") or "")
    if not transaction:
        raise BadRequest("TransactionUID is missing", attribute="TransactionUID")
    failed = dict(references(report.get("FailedSOPSequence")))
    committed = dict(references(report.get("ReferencedSOPSequence")))
    if len(failed) + len(committed) > _MAX_REFERENCES:
        raise BadRequest(f"a report is about at most {_MAX_REFERENCES} instances")
    reasons = dict.fromkeys(committed, 0) | {uid: reason or _PROCESSING_FAILURE for uid, reason in failed.items()}
    await archive.asked.report(tenant, transaction, remote_aet, reasons)


async def event_report(exchange: Exchange) -> None:
    """Serve N-EVENT-REPORT: who was asked answers on an association that it has asked for."""
    association = exchange.association
    report = await asyncio.to_thread(_decoded, exchange.identifier, exchange.context.transfer_syntax)
    await take_report(association.archive, association.access.tenant, association.calling_aet, report)
    await exchange.respond(status.SUCCESS)


def _decoded(encoded: bytes, transfer_syntax: str) -> Dataset:
    try:
        report = decode(BytesIO(encoded), transfer_syntax == IMPLICIT_LE, transfer_syntax != EXPLICIT_BE)
        report.decode()
    except Exception as error:  # pydicom raises nearly anything for what a peer can send
        raise BadRequest("the report cannot be decoded") from error
    return report


ENTRIES: Final = {(N_EVENT_REPORT, COMMITMENT): Entry(event_report, "commitment")}
