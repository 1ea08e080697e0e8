"""The answer to our request for storage commitment: N-EVENT-REPORT (PS3.4 J.3.3), wherever it arrives."""

from pydicom.dataset import Dataset

from dicomweb.errors import BadRequest
from dimse_bridge.asking import references
from storage.archive import Archive

# PS3.4 J.3.3.1.2: no reason is given, but the instance is among the failed ones.
_PROCESSING_FAILURE = 0x0110
_MAX_REFERENCES = 1_000_000


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
