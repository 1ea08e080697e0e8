"""An acceptor in the test's own process and loop, with services of the test and no archive behind it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from api.listening import listen
from dicomweb.errors import ArchiveError
from dimse_bridge.acceptor import Acceptor
from dimse_bridge.admission import Application
from dimse_bridge.contexts import STORAGE_CLASSES, Supported
from dimse_bridge.limits import Limits
from dimse_bridge.peers import Peers
from dimse_bridge.service import Association
from dimse_bridge.services import ECHO
from dimse_bridge.store import Target
from dimse_bridge.tls import Certificates
from storage.modalities import Welcome
from storage.permissions import PERMISSIONS


class Sink:
    """Where data sets of C-STORE go; `stored` keeps the last ones."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, bytes]] = []
        self.discarded = 0
        self.flushes = 0
        self.failure: Exception | None = None

    def begin(self, association: Association, target: Target) -> "Receiving":
        target.check()
        return Receiving(self, target)


class Receiving:
    def __init__(self, sink: Sink, target: Target) -> None:
        self.sink, self.target, self.data, self.done = sink, target, bytearray(), False

    def write(self, piece: memoryview) -> bool:
        self.data += piece
        return len(self.data) % 7 != 0

    async def flush(self) -> None:
        self.sink.flushes += 1

    async def store(self) -> None:
        if self.sink.failure is not None:
            raise self.sink.failure
        self.done = True
        self.sink.stored = [*self.sink.stored[-9:], (self.target.sop_instance, bytes(self.data))]

    def discard(self) -> None:
        self.sink.discarded += not self.done


@asynccontextmanager
async def acceptor(
    services: Mapping[Any, Any] | None = None,
    sink: Sink | None = None,
    allow: frozenset[str] = PERMISSIONS,
    certificates: Certificates | None = None,
    limits: Limits | None = None,
    **application: Any,
) -> AsyncIterator[int]:
    """The port of an acceptor of C-ECHO, C-STORE and `services`; its own title is ANOR."""

    async def welcome(called: str, calling: str, address: str, shown: frozenset[str]) -> Welcome | None:
        if called == "BROKEN":
            raise ArchiveError("down")
        return Welcome(1, (), None, allow) if called == "ANOR" else None

    offered = {**ECHO, **(services or {})}
    made = Application(
        archive=None,  # type: ignore[arg-type]
        supported=Supported(STORAGE_CLASSES, frozenset(uid for _, uid in offered)),
        services=offered,
        begin_store=(sink or Sink()).begin,
        welcome=welcome,
        **application,
    )
    limits = limits or Limits()
    running = Acceptor(made, limits, Peers(limits))
    [listener] = listen("127.0.0.1", 0, 1)
    port = listener.getsockname()[1]
    running.listen(listener, certificates)
    try:
        yield port
    finally:
        await running.stop()
