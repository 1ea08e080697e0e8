"""What an object store counts: the times of its requests, and the bytes that went through it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from dicomweb.errors import ArchiveError, Unavailable
from storage.counts import Times

Operation = Literal["write", "read", "size", "delete", "list", "probe"]


class ObjectCounts:
    """Totals of this process, read by the metrics."""

    __slots__ = ("read", "times", "written")

    def __init__(self) -> None:
        self.times = Times()
        self.read = 0
        self.written = 0

    @contextmanager
    def request(self, operation: Operation, *, goes_on: bool = False) -> Iterator[None]:
        """Count one request to the store; of one that `goes_on`, which was counted as it began, only a failure."""
        begin = time.perf_counter()
        outcome = "" if goes_on else "ok"
        try:
            yield
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except ArchiveError as error:
            outcome = (isinstance(error, Unavailable) and error.reason) or error.slug
            raise
        finally:
            if outcome:
                key = ("objects_seconds", "operation", operation, "outcome", outcome)
                self.times.add(key, time.perf_counter() - begin)
