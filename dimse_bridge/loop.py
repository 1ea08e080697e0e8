"""The one place where blocking DIMSE threads cross into the event loop."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, TypeVar

from dicomweb.errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Crossing:
    """A running event loop, seen from threads that may block."""

    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """What `work` returns or raises; blocks the calling thread, never the loop.

        After `seconds` the work is cancelled and Unavailable raised: what a cancelled store has done is decided by its
        intent row, so the peer may send again. Unavailable as well when the loop has stopped.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError as exc:
            work.close()
            raise Unavailable("the archive is shutting down") from exc
        try:
            return future.result(seconds)
        except FutureTimeout as exc:
            if future.done():  # the work itself timed out inside
                raise Unavailable("the archive did not answer in time") from exc
            future.cancel()
            raise Unavailable(f"the archive did not answer within {seconds:.0f} s") from exc
        except asyncio.CancelledError as exc:
            raise Unavailable("the archive is shutting down") from exc
