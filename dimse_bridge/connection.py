"""One TCP or TLS connection on the event loop: what came and was not taken yet, and back-pressure both ways."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, cast

_HELD: Final = 256 << 10  # bytes that were not taken; above it the socket is not read
_UNSENT: Final = 256 << 10  # bytes that the peer did not take; above it `drain` waits
_LINGER_BYTES: Final = 256 << 10
_LINGER_SECONDS: Final = 1.0


class Gone(Exception):
    """The connection has ended."""


class Connection(asyncio.Protocol):
    """A connection; `on_lost` is called once when it has ended."""

    def __init__(self, on_lost: Callable[["Connection"], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._received: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._ended = False
        self._reader: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._linger_left = _LINGER_BYTES
        self.waiting_since: float | None = None  # for the peer's bytes
        self.unsent_since: float | None = None  # that the peer does not take

    @property
    def made(self) -> bool:
        """Whether there is a transport, which then closes the socket."""
        return self._transport is not None

    @property
    def shown(self) -> frozenset[str]:
        """What the peer's certificate proves, as storage.modalities.Modality has it: its SHA-256, and its names.

        Names count where an authority of ours vouches for them: of a certificate that was not verified there are none.
        """
        found = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        encoded = found.getpeercert(binary_form=True) if found is not None else None
        if found is None or not encoded:
            return frozenset()
        said = found.getpeercert() or {}
        names = [f"dns:{name}" for kind, name in said.get("subjectAltName", ()) if kind == "DNS"]
        names += [f"cn:{value}" for part in said.get("subject", ()) for kind, value in part if kind == "commonName"]
        return frozenset((hashlib.sha256(encoded).hexdigest(), *(name.lower() for name in names)))

    # -- called by the transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(_UNSENT)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._lingering is not None:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self.abort()
            return
        self._received.append(data)
        self._held += len(data)
        if self._held > _HELD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """See asyncio.Protocol: the transport closes itself."""
        self._ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """See asyncio.Protocol."""
        self._ended = True
        if self._lingering is not None:
            self._lingering.cancel()
        self._wake()
        self.resume_writing()
        self._on_lost(self)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.unsent_since = self._loop.time()
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.unsent_since = None
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- called by the association ---------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """The next bytes; empty when the peer has closed, or the connection is lost."""
        while not self._received:
            if self._ended:
                return b""
            self._reader = self._loop.create_future()
            self.waiting_since = self._loop.time()
            try:
                await self._reader
            finally:
                self._reader = self.waiting_since = None
        data = self._received.popleft()
        self._held -= len(data)
        if self._paused and not self._held and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Queue bytes for the peer; to be followed by `drain` where there may be many."""
        if self._transport is not None and not self._ended:
            self._transport.writelines(pieces)

    async def drain(self) -> None:
        """Wait until the peer may take more. Raises Gone when there is no connection any more."""
        if self._drained is not None:
            await asyncio.shield(self._drained)
        if self._ended:
            raise Gone

    def linger(self) -> None:
        """Close when the peer does, or after a moment: a reset would take away from it what was sent last."""
        if self._ended or self._transport is None:
            self.abort()
        elif self._lingering is None:
            self._received.clear()
            if self._paused:
                self._transport.resume_reading()
            self._lingering = self._loop.call_later(_LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
