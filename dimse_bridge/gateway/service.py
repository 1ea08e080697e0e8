"""The gateway as one value: the spool, what fills it, what empties it, and what is asked past it."""

import asyncio
import functools
import ipaddress
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pynetdicom.dimse_primitives import DIMSEPrimitive

from dicomweb.errors import Unavailable
from dicomweb.lists import split_list
from dimse_bridge.acceptor import Acceptor
from dimse_bridge.admission import Application
from dimse_bridge.contexts import STORAGE_CLASSES, Supported
from dimse_bridge.gateway.client import Client
from dimse_bridge.gateway.deidentify import Deidentifier
from dimse_bridge.gateway.forward import Forwarder
from dimse_bridge.gateway.proxy import Proxy
from dimse_bridge.gateway.spool import GatewaySpool
from dimse_bridge.gateway.status import Report
from dimse_bridge.gateway.tally import Tally
from dimse_bridge.limits import Limits
from dimse_bridge.logs import log_event
from dimse_bridge.peers import Doors, Peers
from dimse_bridge.server import Credentials
from dimse_bridge.service import Association, Entry
from dimse_bridge.services import ECHO
from dimse_bridge.store import SpoolIncoming, Target
from dimse_bridge.users import Verifier
from storage.access import DEFAULT_TENANT
from storage.modalities import Welcome
from storage.settings import Settings
from storage.spool import Spooled

DIRECTORY: Final = "gateway"
_IN_MEMORY: Final = 1 << 20  # of an instance that arrives, for each association


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may call: by AE title, and by network where one is given; anybody where the setting is empty."""

    aet: str
    allow: frozenset[str]
    known: tuple[tuple[str, ipaddress.IPv4Network | ipaddress.IPv6Network | None], ...]

    @classmethod
    def of(cls, settings: Settings) -> "Callers":
        """From `aet`, `dimse_open` and `gateway_peers`."""
        allow = set(split_list(settings.dimse_open))
        if "find" in allow:  # what a modality asks for at the edge
            allow.add("worklist")
        known = []
        for entry in split_list(settings.gateway_peers):
            title, _, network = entry.partition("@")
            known.append((title, ipaddress.ip_network(network, strict=False) if network else None))
        return cls(settings.aet, frozenset(allow), tuple(known))

    async def welcome(self, called: str, calling: str, address: str, _shown: frozenset[str]) -> Welcome | None:
        """See admission.Application."""
        if called != self.aet:
            return None
        known = not self.known or any(
            title == calling and (network is None or ipaddress.ip_address(address) in network)
            for title, network in self.known
        )
        return Welcome(DEFAULT_TENANT, (), None, self.allow if known else frozenset())


class Gateway:
    """Runs in one process and one event loop."""

    def __init__(self, settings: Settings, *, revive: bool = False) -> None:
        """Opens the spool, which blocks. Raises SettingError, and Unavailable where the spool cannot be used."""
        self._settings = settings
        self._client = Client(settings)
        self._spool = GatewaySpool(
            settings.data / DIRECTORY,
            max_files=settings.gateway_max_files,
            max_bytes=settings.gateway_max_bytes,
            revive=revive,
        )
        self._tally = Tally()
        prepare = None
        if settings.gateway_deidentify == "basic":
            prepare = Deidentifier(settings.data / DIRECTORY / "deidentify.key", self._spool.scratch)
        self._forwarder = Forwarder(self._spool, self._client, settings, self._tally, prepare)

    async def run(self, doors: Doors, credentials: Credentials, stop: asyncio.Event) -> None:
        """Receive and forward until `stop`; raises where forwarding ends by itself."""
        limits = Limits.of(self._settings)
        forwarding = asyncio.create_task(self._forwarder.run())
        acceptor = Acceptor(self._application(credentials.verifiers), limits, Peers(limits, doors.board))
        acceptor.listen(doors.plain)
        if doors.tls is not None:
            acceptor.listen(doors.tls, credentials.certificates)
        stopping = asyncio.create_task(stop.wait())
        log_event("gateway-ready", level=logging.INFO, port=doors.plain.getsockname()[1], aet=self._settings.aet)
        try:
            await asyncio.wait((forwarding, stopping), return_when=asyncio.FIRST_COMPLETED)
            await acceptor.stop()
        finally:
            stopping.cancel()
            forwarding.cancel()
            (ended,) = await asyncio.gather(forwarding, return_exceptions=True)
            await self._client.close()
            self._spool.close()
            log_event("gateway-stopped", level=logging.INFO)
        if isinstance(ended, Exception):
            raise ended

    async def report(self) -> Report:
        """How it is now."""
        return Report(self._settings, self._tally, await self._spool.state(), self._forwarder.reachable)

    def _application(self, verifiers: Mapping[int, Verifier]) -> Application:
        settings = self._settings
        tables = (ECHO, Proxy(self._client, settings).entries())
        services: dict[tuple[type[DIMSEPrimitive], str], Entry] = {
            key: entry for table in tables for key, entry in table.items()
        }
        return Application(
            archive=None,
            supported=Supported(
                STORAGE_CLASSES.union(split_list(settings.dimse_storage_classes)), frozenset(uid for _, uid in services)
            ),
            services=services,
            begin_store=self._begin_store,
            welcome=Callers.of(settings).welcome,
            verifiers=verifiers,
            require_user=settings.dimse_require_user,
        )

    def _begin_store(self, association: Association, target: Target) -> "_Receiving":
        try:
            return _Receiving(association, target, self._spool, self._tally, self._settings.max_instance)
        except Unavailable:
            self._tally.refused(association.calling_aet)
            raise


class _Receiving(SpoolIncoming):
    """A data set on its way into the gateway's spool."""

    def __init__(self, association: Association, target: Target, into: GatewaySpool, tally: Tally, limit: int) -> None:
        """`limit`: of one instance, in bytes."""
        new_spool = functools.partial(into.arriving, memory_limit=_IN_MEMORY, max_size=limit, eager=True)
        super().__init__(association, target, new_spool, self._kept)
        self._aet = association.calling_aet
        self._into, self._tally = into, tally

    def write(self, piece: memoryview) -> bool:
        """See store.Incoming."""
        try:
            return super().write(piece)
        except Unavailable:
            self._tally.refused(self._aet)
            raise

    async def _kept(self, spooled: Spooled) -> None:
        try:
            await self._into.keep(spooled)
        except Unavailable:
            self._tally.refused(self._aet)
            raise
        finally:
            spooled.release()
        self._tally.took(self._aet, spooled.size)
