"""Storage commitment that others ask us for (PS3.4 J.3): N-ACTION, and the N-EVENT-REPORT that answers it.

The report goes over the association on which it was asked for while that is open, else over one of our own to the
address that is declared for the application entity: then it is a job, which tries again for a day.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Final

from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import decode

from dicomweb.errors import ArchiveError, BadRequest, PeerFailed, TooLarge, Unavailable
from dicomweb.identifier import IdentifierWriter, Member, read_identifier
from dicomweb.media import EXPLICIT_LE
from dicomweb.repertoire import ASCII
from dicomweb.uids import is_uid
from dimse_bridge import status
from dimse_bridge.contexts import COMMITMENT
from dimse_bridge.logs import log_event
from dimse_bridge.postponement import not_taken
from dimse_bridge.requestor import Proposal
from dimse_bridge.scu import COMMITMENT_INSTANCE, MESSAGES, Requestor
from dimse_bridge.service import AskFailed, Entry, Exchange
from storage.access import SCOPES, Access
from storage.commitment import COMMITTED, KIND, MAX_INSTANCES, Answer, Reference, summary
from storage.jobs import Claimed, Done, Handler, Progress

_REQUEST: Final = 1  # Action Type ID (PS3.4 table J.3-1)
_ALL_COMMITTED, _SOME_FAILED = 1, 2  # Event Type IDs (PS3.4 table J.3-3)
_TRANSACTION, _SEQUENCE, _FAILED_SEQUENCE = "00081195", "00081199", "00081198"
_SOP_CLASS, _SOP_INSTANCE, _REASON = "00081150", "00081155", "00081197"
_RETRIEVE_AET: Final = "00080054"
# The peer may release at once to be called back, so that a moment is left to it before we answer on its association.
_MOMENT: Final = 1.0
_ANSWER_SECONDS: Final = 30.0
# When the worker would answer should this process die meanwhile.
_AFTER: Final = timedelta(seconds=45)


def requested(encoded: bytes, transfer_syntax: str) -> tuple[str, list[Reference]]:
    """Transaction UID and instances of a request. Raises BadRequest that names the attribute, TooLarge."""
    identifier = read_identifier(encoded, transfer_syntax, max_elements=8 * MAX_INSTANCES)
    transaction = identifier.get(_TRANSACTION)
    if not is_uid(transaction):
        raise BadRequest("TransactionUID is missing or no UID", attribute="TransactionUID")
    items = next((element.items for element in identifier.elements if element.tag == _SEQUENCE), ())
    if len(items) > MAX_INSTANCES:
        raise TooLarge(f"commitment is asked for more than {MAX_INSTANCES} instances")
    found: dict[Reference, None] = {}
    for item in items:
        said = {element.tag: element.text.strip(" \0") for element in item}
        reference = said.get(_SOP_CLASS, ""), said.get(_SOP_INSTANCE, "")
        if not all(map(is_uid, reference)):
            raise BadRequest("ReferencedSOPSequence has an item without UIDs", attribute="ReferencedSOPSequence")
        found[reference] = None
    if not found:
        raise BadRequest("ReferencedSOPSequence is missing or empty", attribute="ReferencedSOPSequence")
    return transaction, list(found)


def report(transaction: str, aet: str, answers: Sequence[Answer], transfer_syntax: str) -> tuple[int, bytes]:
    """Event Type ID and Event Information (PS3.4 table J.3-4). `aet`: where to retrieve from."""
    committed = [_item(answer) for answer in answers if answer.reason == COMMITTED]
    failed = [_item(answer) for answer in answers if answer.reason != COMMITTED]
    members: dict[str, Member] = {
        _TRANSACTION: {"vr": "UI", "Value": [transaction]},
        _RETRIEVE_AET: {"vr": "AE", "Value": [aet]},
    }
    for tag, items in ((_SEQUENCE, committed), (_FAILED_SEQUENCE, failed)):
        if items:
            members[tag] = {"vr": "SQ", "Value": items}
    event = _SOME_FAILED if failed else _ALL_COMMITTED
    return event, IdentifierWriter(transfer_syntax).write(members, [ASCII])


def _item(answer: Answer) -> dict[str, Member]:
    item: dict[str, Member] = {
        _SOP_CLASS: {"vr": "UI", "Value": [answer.sop_class]},
        _SOP_INSTANCE: {"vr": "UI", "Value": [answer.sop]},
    }
    if answer.reason != COMMITTED:
        item[_REASON] = {"vr": "US", "Value": [answer.reason]}
    return item


async def action(exchange: Exchange) -> None:
    """Serve N-ACTION: the request is durable before it is answered; the report follows."""
    association, request = exchange.association, exchange.request
    assert isinstance(request, N_ACTION)
    if request.ActionTypeID != _REQUEST:
        await exchange.respond(status.NO_SUCH_ACTION)
        return
    if request.RequestedSOPInstanceUID != COMMITMENT_INSTANCE:
        await exchange.respond(status.NO_SUCH_INSTANCE)
        return
    syntax = exchange.context.transfer_syntax
    transaction, references = await asyncio.to_thread(requested, exchange.identifier, syntax)
    asked: dict[str, object] = {"aet": association.calling_aet, "called": association.called_aet}
    asked["labels"] = association.access.labels  # of the title that was called: what else is stored is not told
    job = await association.archive.commitment.begin(association.access, transaction, asked, references, _AFTER)
    if job is None:
        await exchange.respond(status.DUPLICATE_TRANSACTION, comment="the transaction UID was used before")
        return
    answered = False
    try:
        await exchange.respond(status.SUCCESS)
        await asyncio.sleep(_MOMENT)
        async with asyncio.timeout(_ANSWER_SECONDS):
            answered = await _reported_here(exchange, job, transaction, references)
    except (AskFailed, ArchiveError, TimeoutError) as error:
        log_event("report-postponed", peer=association.peer, reason=str(error))
    finally:
        if not answered:  # the association has ended, perhaps, and this task with it
            with suppress(Unavailable):
                await asyncio.shield(association.archive.commitment.hand_over(job))


async def _reported_here(exchange: Exchange, job: uuid.UUID, transaction: str, references: Sequence[Reference]) -> bool:
    """Answer on the association of the request; whether that was taken."""
    association, context = exchange.association, exchange.context
    commitment = association.archive.commitment
    answers = await commitment.check(association.access, references)
    event, data = await asyncio.to_thread(report, transaction, association.called_aet, answers, context.transfer_syntax)
    message = N_EVENT_REPORT()
    message.AffectedSOPClassUID = COMMITMENT
    message.AffectedSOPInstanceUID = COMMITMENT_INSTANCE
    message.EventTypeID = event
    taken = await association.ask(context.id, message, _once(data))
    if taken.Status != status.SUCCESS:
        return False
    await commitment.answered(job, answers)
    return True


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def run_report(requestor: Requestor, job: Claimed, _folder: Path, _progress: Progress) -> Done:
    """Report to the declared address of who asked (PS3.4 J.3.3); tried again for a day."""
    try:
        return Done(summary(await _reported(requestor, job)))
    except (PeerFailed, Unavailable) as error:
        raise not_taken(job, error) from error


async def _reported(requestor: Requestor, job: Claimed) -> list[Answer]:
    archive, access = requestor.archive, Access(job.tenant, "job", SCOPES, tuple(job.content.get("labels", ())))
    if not job.content["aet"]:  # asked for by web, where whoever asked comes for the result
        return await archive.commitment.check(access, await archive.commitment.references(uuid.UUID(job.id)))
    transaction, called = job.content["transaction"], job.content["called"]
    modality = await archive.modalities.by_aet(access, job.content["aet"])
    if modality is None:
        raise PeerFailed("the application entity that asked has no declared address")
    answers = await archive.commitment.check(access, await archive.commitment.references(uuid.UUID(job.id)))
    event, data = await asyncio.to_thread(report, transaction, called, answers, EXPLICIT_LE)
    dataset = await asyncio.to_thread(decode, BytesIO(data), False, True)  # explicit VR, little endian
    proposal = Proposal(COMMITMENT, MESSAGES, as_scp=True)  # in the role of the SCP also on an association of ours
    async with requestor.link(replace(modality, local_aet=modality.local_aet or called), [proposal]) as link:
        await requestor.run(link, partial(link.report, dataset, event, COMMITMENT, COMMITMENT_INSTANCE))
    return answers


def handlers(requestor: Requestor) -> Mapping[str, Handler]:
    """Jobs of storage commitment."""
    return {KIND: partial(run_report, requestor)}


ENTRIES: Final = {(N_ACTION, COMMITMENT): Entry(action, "commitment")}
