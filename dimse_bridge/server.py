"""A DIMSE process: the archive, an acceptor on the shared sockets, until SIGTERM."""

import asyncio
import logging
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pydicom.config
import uvloop
from pynetdicom import _config

from dicomweb.lists import split_list
from dimse_bridge.acceptor import Acceptor
from dimse_bridge.admission import Application
from dimse_bridge.contexts import STORAGE_CLASSES, Supported
from dimse_bridge.limits import Limits
from dimse_bridge.logs import log_event
from dimse_bridge.peers import Doors, Peers
from dimse_bridge.scu import Requestor
from dimse_bridge.services import services
from dimse_bridge.store import into_archive
from dimse_bridge.tls import Certificates
from dimse_bridge.users import PASSCODE, Users, Verifier
from storage.archive import Archive, open_archive
from storage.counts import Counts
from storage.settings import Settings

# How long a thread that comes back from a system call waits for the interpreter while the event loop is busy; see
# api/server.py.
_SWITCH_SECONDS: Final = 0.001


@dataclass(frozen=True, slots=True)
class Credentials:
    """Certificates and users, read from the files that the settings name."""

    certificates: Certificates | None
    verifiers: Mapping[int, Verifier]  # of user identities, by their type

    @classmethod
    def of(cls, settings: Settings) -> "Credentials":
        """Raises Unavailable, or UsersError, where a file cannot be used."""
        verifiers: dict[int, Verifier] = {}
        if settings.dimse_users is not None:
            verifiers[PASSCODE] = Users(settings.dimse_users)
        if settings.dimse_jwt_keys is not None:
            from dimse_bridge.tokens import TOKEN, Tokens  # noqa: PLC0415 - costs a tenth of a second

            verifiers[TOKEN] = Tokens(
                settings.dimse_jwt_keys, issuer=settings.dimse_jwt_issuer, audience=settings.dimse_jwt_audience
            )
        return cls(Certificates.of_acceptor(settings) if settings.dimse_tls_port is not None else None, verifiers)


def application(archive: Archive, verifiers: Mapping[int, Verifier], requestor: Requestor) -> Application:
    """What this archive offers."""
    settings, offered = archive.settings, services(requestor)
    return Application(
        archive=archive,
        supported=Supported(
            STORAGE_CLASSES.union(split_list(settings.dimse_storage_classes)), frozenset(uid for _, uid in offered)
        ),
        services=offered,
        begin_store=into_archive,
        welcome=archive.modalities.welcome,
        verifiers=verifiers,
        require_user=settings.dimse_require_user,
    )


def configure_libraries() -> None:
    """Process-wide: libraries log nothing by themselves, as their messages may hold what a peer sent."""
    # Values that a peer's query holds would else be repeated in warnings on standard error, which is for log lines.
    warnings.simplefilter("ignore")
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE


def serve(settings: Settings, doors: Doors, process: int) -> None:
    """Run DIMSE process number `process` until SIGTERM or SIGINT; returns after running requests have ended."""
    configure_libraries()
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, doors, process))


async def _serve(settings: Settings, doors: Doors, process: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    credentials = Credentials.of(settings)
    archive = await open_archive(settings)
    requestor = Requestor(archive)
    offered = application(archive, credentials.verifiers, requestor)
    traffic = offered.traffic
    counts = Counts(
        settings.data / "metrics",
        os.getppid(),
        lambda: {**requestor.counters(), **traffic.totals()},
        archive.times,
        lambda: {**traffic.levels(), **requestor.traffic.levels()},
    )
    counts.start()
    try:
        limits = Limits.of(settings)
        acceptor = Acceptor(offered, limits, Peers(limits, doors.board, process))
        acceptor.listen(doors.plain)
        if doors.tls is not None:
            acceptor.listen(doors.tls, credentials.certificates)
        port = doors.plain.getsockname()[1]
        log_event("dimse-ready", level=logging.INFO, host=settings.host, port=port, aet=settings.aet)
        await stop.wait()
        await acceptor.stop()
        log_event("dimse-stopped", level=logging.INFO)
    finally:
        await counts.stop()
        await requestor.close()
        await archive.close()
