"""Reports to application entities that do not take them now: how often they are tried again."""

from datetime import UTC, datetime, timedelta
from typing import Final

from dicomweb.errors import ArchiveError
from dimse_bridge.logs import log_event
from storage.jobs import Claimed, JobFailed, Postponed

# A report that is not taken is tried again after half the time that it has waited, at least and at most these.
_SOONEST, _LATEST = timedelta(seconds=15), timedelta(hours=1)
_GIVEN_UP: Final = timedelta(days=1)


def not_taken(job: Claimed, error: ArchiveError) -> Postponed | JobFailed:
    """What a job raises whose report was not taken: it waits longer and longer, and fails after a day."""
    waited = datetime.now(UTC) - job.created_at
    log_event("report-failed", reason=error.message)
    if waited > _GIVEN_UP:
        return JobFailed(f"the report was not taken within a day: {error.message}")
    return Postponed(min(max(waited / 2, _SOONEST), _LATEST))
