"""What the DIMSE side logs: one JSON object a line, from a closed set of fields, none of which holds patient data."""

import json
import logging
import traceback
from pathlib import PurePath
from typing import Final

log = logging.getLogger("anor.dimse")
_FRAMES: Final = 6


def log_event(
    event: str,
    *,
    level: int = logging.WARNING,
    peer: str = "",
    reason: str = "",
    status: int | None = None,
    host: str = "",
    port: int | None = None,
    aet: str = "",
) -> None:
    """One event; `reason` is a text of ours, `peer` an address, never a title or a value that a peer sent."""
    fields: dict[str, str | int | None] = {"peer": peer, "reason": reason, "host": host, "port": port, "aet": aet}
    if status is not None:
        fields["status"] = f"0x{status:04X}"
    log.log(level, json.dumps({"event": event} | {name: value for name, value in fields.items() if value}))


def log_crash(event: str, error: BaseException, *, peer: str = "") -> None:
    """An unexpected error: its type and where it happened, not its message, which may repeat what a peer sent."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-_FRAMES:])
    where = " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    log.error(json.dumps({"event": event, "peer": peer, "error": type(error).__name__, "at": where}))
