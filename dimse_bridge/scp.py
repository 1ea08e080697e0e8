"""The DIMSE service class provider: C-ECHO, C-STORE and C-FIND (PS3.4 annexes A, B, C) by pynetdicom.

One process: the event loop with the archive in the main thread, pynetdicom's threads around it. They meet in
`loop.Crossing` only.
"""

import asyncio
import logging
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from socketserver import BaseRequestHandler, BaseServer
from typing import Final

import pydicom.config
import uvloop
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_STORE, DimseServiceType
from pynetdicom.transport import AddressInformation, AssociationServer

from dicomweb.errors import ArchiveError, Unavailable
from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dimse_bridge import contexts, identifiers, status
from dimse_bridge.limits import Limits, Peers
from dimse_bridge.logs import log_crash, log_event
from dimse_bridge.loop import Crossing
from dimse_bridge.receive import Receiver
from dimse_bridge.upper_layer import BoundedSocket, UpperLayer
from storage.access import DEFAULT_TENANT, Access
from storage.archive import Archive, open_archive
from storage.ingest import Provenance, Stored
from storage.settings import Settings

_SCOPES: Final = frozenset({"dicom.write", "dicom.search"})
_MIN_PEER_PDU: Final = 128  # a peer that takes less would have us cut answers into crumbs
_REJECT_BUSY: Final = (0x02, 0x03, 0x02)  # transient, presentation layer, local limit exceeded (PS3.8 table 9-21)
_REJECT_PDU: Final = (0x01, 0x01, 0x01)  # permanent, no reason given


class Conversation(Association):
    """One accepted connection, its bounds, and C-STORE; C-ECHO and C-FIND are pynetdicom's."""

    def __init__(self, server: "DimseServer", connection: socket.socket, address: tuple[str, int]) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self.server = server
        self.peer = address[0]
        self.name = f"dimse-{self.peer}:{address[1]}"
        limits = server.limits
        self.receiver = Receiver(self, self.peer, server.archive, server.crossing, limits)
        self.dimse = self.receiver
        self.layer = UpperLayer(self, self.receiver.wake)
        self.dul = self.layer
        self.acse_timeout = limits.associate_timeout  # again, for the timers of the new upper layer
        self.network_timeout = limits.idle_timeout
        self.connection = BoundedSocket(self, connection, self.peer, limits)
        self.set_socket(self.connection)
        self.acceptor.maximum_length = limits.max_pdu
        self.acceptor.ae_title = server.ae.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname())
        self.acceptor.implementation_class_uid = server.ae.implementation_class_uid
        self.acceptor.implementation_version_name = server.ae.implementation_version_name
        self.acceptor.supported_contexts = server.ae.supported_contexts
        self.requestor.address_info = AddressInformation.from_tuple(address)
        self.bind(evt.EVT_REQUESTED, server.on_requested)
        self.bind(evt.EVT_C_FIND, server.on_find)

    def evict(self) -> None:
        """Close a connection that has not asked for an association, to make room."""
        connection = self.connection.socket
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.layer.abandon()

    def run_reactor(self) -> None:
        """Negotiate, serve until the end, and leave nothing behind."""
        try:
            super().run_reactor()
        except Exception as exc:  # noqa: BLE001 - the end of a thread: nobody else would hear of it
            log_crash("association-failed", exc, peer=self.peer)
        finally:
            self.receiver.discard()
            self.server.peers.leave(self)
            self._close()

    def reject(self, reason: tuple[int, int, int]) -> None:
        """Answer the association request with A-ASSOCIATE-RJ."""
        self.acse.send_reject(*reason)
        self.kill()

    def _close(self) -> None:
        connection = self.connection.socket
        if connection is not None:
            self.server.shutdown_request(connection)
        self.kill()
        self.connection.release()

    def _run_reactor(self) -> None:
        """Serve requests until the peer releases or aborts, its connection is gone, or it says nothing for too long.

        pynetdicom's loop does this and more, and sleeps between requests; here `get_msg` waits.
        """
        while not self._kill:
            context_id, request = self.receiver.get_msg()
            if request is not None and context_id is not None:
                self._serve_request(request, context_id)
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released = True
            elif self.acse.is_aborted():
                self.is_aborted = True
            elif self.dul.idle_timer_expired():
                log_event("association-aborted", peer=self.peer, reason="idle")
                self.abort()
            elif self.dul.is_alive():
                continue
            self.is_established = False
            self.kill()

    def _serve_request(self, msg: DimseServiceType, context_id: int) -> None:
        """Serve one request; called in this thread by the association's loop."""
        if not isinstance(msg, C_STORE):
            super()._serve_request(msg, context_id)
            return
        answer = C_STORE()
        answer.MessageID = msg.MessageID
        answer.MessageIDBeingRespondedTo = msg.MessageID
        answer.AffectedSOPClassUID = msg.AffectedSOPClassUID
        answer.AffectedSOPInstanceUID = msg.AffectedSOPInstanceUID
        result = self._store()
        answer.Status = result.code
        if result.comment:
            answer.ErrorComment = result.comment  # type: ignore[assignment]  # declared as None, which is its default
        self.dimse.send_msg(answer, context_id)

    def _store(self) -> status.Status:
        incoming, self.receiver.incoming = self.receiver.incoming, None
        assert incoming is not None  # the receiver delivers no C-STORE without its data set
        access = self.access()

        async def commit() -> Stored:
            archive = self.server.archive
            source = Provenance(kind="dimse", remote=self.peer, aet=self.receiver.calling_aet)
            return await archive.ingest.store(access, await incoming.finish(), source)

        try:
            self.server.crossing.run(commit(), self.server.limits.store_timeout)
        except Exception as exc:  # noqa: BLE001 - every failure has to become a status
            result = status.of_store(exc)
            log_failure("store-failed", exc, result, self.peer)
            return result
        finally:
            incoming.discard()
        return status.Status(status.SUCCESS)

    def access(self) -> Access:
        """What the peer may do; who it is, is its own claim."""
        return Access(DEFAULT_TENANT, f"dimse:{self.receiver.calling_aet}@{self.peer}", _SCOPES)


class _Handler(BaseRequestHandler):
    """Makes a conversation out of an accepted connection."""

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, DimseServer)
        conversation = Conversation(server, self.request, self.client_address[:2])
        server.peers.arrive(conversation)
        conversation.start()


class DimseServer(AssociationServer):
    """A listening socket and its associations, for an archive whose event loop runs in another thread."""

    def __init__(self, archive: Archive, crossing: Crossing, settings: Settings, limits: Limits) -> None:
        configure_libraries()
        ae = AE(ae_title=settings.aet)
        ae.require_called_aet = True
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION
        ae.maximum_associations = 2 * limits.max_associations  # `peers` decides, this must not be lower
        ae.network_timeout = limits.idle_timeout
        ae.dimse_timeout = limits.idle_timeout
        ae.acse_timeout = limits.associate_timeout
        ae.add_supported_context(contexts.VERIFICATION)
        self.archive = archive
        self.crossing = crossing
        self.settings = settings
        self.limits = limits
        self.peers = Peers(limits)
        self.request_queue_size = 128
        super().__init__(
            ae, (settings.host, settings.dimse_port), settings.aet, ae.supported_contexts, request_handler=_Handler
        )
        self._thread = threading.Thread(target=self.serve_forever, args=(0.2,), name="dimse-accept", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more, let running requests end within the grace, abort the rest. Blocks: not on the loop."""
        BaseServer.shutdown(self)
        self.server_close()
        end = time.monotonic() + self.limits.stop_grace
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="dimse-stop") as pool:
            while left := self._conversations():
                overdue = time.monotonic() > end
                idle = [c for c in left if overdue or not c.receiver.busy]
                for done in [pool.submit(c.abort if c.is_established else c.evict) for c in idle]:
                    done.result()
                time.sleep(0.02)
                if time.monotonic() > end + self.limits.associate_timeout:
                    break

    def on_requested(self, event: evt.Event) -> None:
        """An association was requested: is there room, and what may it do."""
        conversation = event.assoc
        assert isinstance(conversation, Conversation)
        requestor = conversation.requestor
        if not self.peers.establish(conversation):
            log_event("association-refused", peer=conversation.peer, reason="too many associations")
            conversation.reject(_REJECT_BUSY)
        elif 0 < (requestor.maximum_length or 0) < _MIN_PEER_PDU:
            conversation.reject(_REJECT_PDU)
        else:
            assert requestor.primitive is not None  # it is what was requested
            requested = requestor.primitive.presentation_context_definition_list
            conversation.acceptor.supported_contexts = contexts.acceptable(requested)

    def on_find(self, event: evt.Event) -> Iterator[tuple[int | Dataset, Dataset | None]]:
        """C-FIND: one pending answer per match, then the final status (PS3.4 C.4.1)."""
        conversation = event.assoc
        assert isinstance(conversation, Conversation)
        request = event.request
        assert isinstance(request, C_FIND)
        try:
            find = identifiers.parse(
                request.Identifier.getvalue() if request.Identifier else b"",
                transfer_syntax=str(event.context.transfer_syntax),
                patient_root=event.context.abstract_syntax == contexts.PATIENT_ROOT_FIND,
                limit=self.settings.qido_max_limit,
            )
            search = self.archive.search.run(conversation.access(), find.query, "")
            result = self.crossing.run(search, self.limits.find_timeout)
        except Exception as exc:  # noqa: BLE001 - every failure has to become a status
            failed = status.of_find(exc)
            log_failure("find-failed", exc, failed, conversation.peer)
            yield _failure(failed), None
            return
        pending = status.PENDING_PARTIAL if find.partial else status.PENDING
        for row in result.rows:
            if conversation.receiver.is_cancelled(request):
                yield status.CANCELLED, None
                return
            yield pending, find.answer(row, self.settings.aet)
        if result.more:
            yield _failure(status.Status(status.OUT_OF_RESOURCES, f"more than {len(result.rows)} matches")), None

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - socketserver's signature
        """A connection could not be taken over; socketserver would print the traceback."""
        error = sys.exc_info()[1]  # socketserver calls this while it handles it
        if error is not None:
            log_crash("connection-failed", error)

    def service_actions(self) -> None:
        """Nothing between accepts; pynetdicom runs a full garbage collection here."""

    def _conversations(self) -> list[Conversation]:
        return [t for t in threading.enumerate() if isinstance(t, Conversation) and t.server is self]


def log_failure(event: str, error: BaseException, result: status.Status, peer: str) -> None:
    """A request was answered with a failure: what the peer was told, or where it happened when that is nothing."""
    if isinstance(error, ArchiveError):
        log_event(event, peer=peer, status=result.code, reason=result.comment)
    else:
        log_crash(event, error, peer=peer)


def _failure(result: status.Status) -> Dataset:
    answer = Dataset()
    answer.Status = result.code
    if result.comment:
        answer.ErrorComment = result.comment
    return answer


def configure_libraries() -> None:
    """Process-wide: pynetdicom logs nothing by itself, as its messages may hold what a peer sent."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


def serve(settings: Settings) -> None:
    """Run the DIMSE process until SIGTERM or SIGINT; returns after running stores have ended."""
    # Values that a peer's query holds would else be repeated in warnings on standard error, which is for log lines.
    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    archive = await open_archive(settings)
    try:
        server = await asyncio.to_thread(_listen, archive, Crossing(loop), settings)
        log_event("dimse-ready", level=logging.INFO, host=settings.host, port=server.port, aet=settings.aet)
        await stop.wait()
        await asyncio.to_thread(server.stop)
        log_event("dimse-stopped", level=logging.INFO)
    finally:
        await archive.close()


def _listen(archive: Archive, crossing: Crossing, settings: Settings) -> DimseServer:
    try:
        # The abort of what is left comes after the grace, and the supervisor has no more patience than the setting.
        limits = Limits(stop_grace=max(1.0, settings.shutdown_timeout - 10.0))
        server = DimseServer(archive, crossing, settings, limits)
    except OSError as exc:
        raise Unavailable(f"cannot listen on {settings.host}:{settings.dimse_port}: {exc.strerror}") from exc
    server.start()
    return server
