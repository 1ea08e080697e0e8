"""What the HTTP side logs: one JSON object a line, from a closed set of fields, none of which can hold patient data."""

import json
import logging
import traceback
from pathlib import PurePath

log = logging.getLogger("anor.http")
access = logging.getLogger("anor.access")
_FRAMES = 6


def log_crash(request_id: str, route: str, error: BaseException) -> None:
    """An unexpected error.

    Its type and where it happened, not its message (drivers and parsers put values of patients into theirs).
    """
    frames = reversed(traceback.extract_tb(error.__traceback__)[-_FRAMES:])
    where = " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    fields = {"event": "crash", "request": request_id, "route": route, "error": type(error).__name__, "at": where}
    log.error(json.dumps(fields))


def log_cut(request_id: str, route: str, error: BaseException) -> None:
    """An answer that broke off after its status had gone out."""
    fields = {"event": "answer-cut", "request": request_id, "route": route, "error": type(error).__name__}
    log.error(json.dumps(fields))


def log_access(request_id: str, route: str, method: str, status: int, seconds: float) -> None:
    """One finished request; `route` is the template, never the path or the query."""
    fields = {
        "event": "http",
        "request": request_id,
        "route": route,
        "method": method,
        "status": status,
        "ms": round(seconds * 1000, 2),
    }
    access.info(json.dumps(fields))
