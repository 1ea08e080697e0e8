"""MPPS Notification (PS3.4 F.9): declared application entities hear what becomes of performed procedure steps.

The jobs are made in the transaction that changes the step.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from dicomweb.errors import NotFound, PeerFailed, Unavailable
from dicomweb.performed_steps import COMPLETED, DISCONTINUED, IN_PROGRESS, STATUS
from dicomweb.ups_model import text
from dimse_bridge.contexts import MPPS_NOTIFICATION
from dimse_bridge.postponement import not_taken
from dimse_bridge.requestor import Proposal
from dimse_bridge.scu import MESSAGES, Requestor
from storage.access import Access
from storage.jobs import Claimed, Done, Handler, Progress
from storage.performed_steps import DELETED, EVENTS, NOTIFICATION

_SCOPES: Final = frozenset({"dimse.read", "worklist.read"})
_FINAL: Final = frozenset({COMPLETED, DISCONTINUED})


async def run_notification(requestor: Requestor, job: Claimed, _folder: Path, _progress: Progress) -> Done:
    """One N-EVENT-REPORT, in the role of the SCP on an association that we ask for; tried again for a day.

    An event that a later one has overtaken is not told any more, nor is one to somebody who wants to hear no more.
    That a step is deleted overtakes all others.
    """
    archive, access = requestor.archive, Access(job.tenant, "job", _SCOPES)
    name, uid, event = job.content["modality"], job.content["uid"], job.content["event"]
    try:
        modality = await archive.modalities.get(access, name)
        status = DELETED if event == DELETED else text(await archive.performed_steps.get(access, uid), STATUS)
    except NotFound:
        return Done({"sent": False})
    if not modality.notify_mpps or (status in _FINAL and event in (EVENTS[IN_PROGRESS], EVENTS[""])):
        return Done({"sent": False})
    proposal = Proposal(MPPS_NOTIFICATION, MESSAGES, as_scp=True)
    try:
        async with requestor.link(modality, [proposal]) as link:
            await requestor.run(link, partial(link.report, None, event, MPPS_NOTIFICATION, uid))
    except (PeerFailed, Unavailable) as error:
        raise not_taken(job, error) from error
    return Done({"sent": True})


def handlers(requestor: Requestor) -> Mapping[str, Handler]:
    """Jobs of notification."""
    return {NOTIFICATION: partial(run_notification, requestor)}
