"""What all processes log: one JSON object a line on standard error, from fields that cannot hold patient data."""

import json
import logging
import sys
import time
import traceback
from pathlib import PurePath
from typing import Final

_OURS: Final = ("anor", "api", "dicomweb", "dimse_bridge", "storage", "wsi")
# Fields that may be given as `extra`; anything else is left out.
_EXTRA: Final = ("event", "part", "peer", "status", "host", "port", "aet", "count", "seconds", "bytes", "reason")
_FRAMES: Final = 6


class JsonLines(logging.Formatter):
    """Time, level, logger, text and allow-listed fields. Of an exception: type and places, never its message."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        fields: dict[str, object] = {"time": stamp, "level": record.levelname.lower(), "logger": record.name}
        text = record.getMessage()
        structured = _as_object(text)
        fields.update(structured if structured is not None else {"message": text})
        fields.update({name: record.__dict__[name] for name in _EXTRA if name in record.__dict__})
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = reversed(traceback.extract_tb(error.__traceback__)[-_FRAMES:])
            fields["error"] = type(error).__name__
            fields["at"] = " < ".join(f"{PurePath(each.filename).name}:{each.lineno} {each.name}" for each in frames)
        return json.dumps(fields, default=str, ensure_ascii=False)


def _as_object(text: str) -> dict[str, object] | None:
    """The message itself, where it is a JSON object already."""
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def configure_logging(level: str) -> None:
    """Our loggers at `level`, those of libraries from warning on. Children inherit it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
