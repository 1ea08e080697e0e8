"""One association: a task that reads what the peer sends, and a task for the request that is served meanwhile.

Bytes become events in `upper_layer`, events messages in `messages`; here is what happens then (PS3.7 chapter 8). A
C-STORE is stored by the reading task itself: while the spool writes or the archive commits, the socket is not read.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT, DIMSEPrimitive

from dicomweb.errors import ArchiveError, TooLarge, Unavailable
from dimse_bridge import admission, negotiation, status
from dimse_bridge.admission import Application
from dimse_bridge.command import Command, Field, Tag, primitive_of, request_of, response_to, store_request
from dimse_bridge.connection import Connection, Gone
from dimse_bridge.exchange import Exchange
from dimse_bridge.limits import Limits
from dimse_bridge.logs import log_crash, log_event
from dimse_bridge.messages import Assembler, Message, StoreBegins, StoreData
from dimse_bridge.outlet import Outlet
from dimse_bridge.own_requests import OwnRequests
from dimse_bridge.peers import Peers
from dimse_bridge.service import AskFailed, Context, DataSet, Entry
from dimse_bridge.store import Incoming, Refused, Target
from dimse_bridge.upper_layer import RELEASE_RP, AssociateRequest, Event, Fragment, ReleaseRequest, State, UpperLayer
from dimse_bridge.upper_layer import abort as abort_pdu
from dimse_bridge.upper_layer import reject as reject_pdu
from dimse_bridge.violation import UNEXPECTED_PDU, Violation
from storage.access import Access
from storage.archive import Archive
from storage.modalities import Modality

_BY_USER, _BY_PROVIDER = 0, 2  # who aborts
_LARGE_REQUEST: Final = 8 << 10


class Association:
    """An association with us as the acceptor; see `service.Association`."""

    def __init__(self, application: Application, limits: Limits, peers: Peers, peer: str) -> None:
        self.peer = peer
        self.calling_aet = ""
        self.called_aet = ""
        self.access = Access(0, "", frozenset())
        self.modality: Modality | None = None
        self.contexts: Mapping[int, Context] = {}
        self.extended: Mapping[str, bytes] = {}
        self._application = application
        self._traffic = application.traffic
        self._outcome = ""  # of an association that was accepted, as far as it is known
        self._limits = limits
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._outlet = Outlet()
        self._own = OwnRequests(self._outlet, limits.ask_timeout, self.end)
        self._layer = UpperLayer(limits.max_pdu, limits.max_associate_pdu)
        self._assembler = Assembler(limits.max_command, limits.max_data_set, limits.max_action)
        self._allow: frozenset[str] = frozenset()
        self._incoming: tuple[Context, Command, Incoming] | None = None
        self._exchange: Exchange | None = None
        self._services: set[asyncio.Task[None]] = set()
        self._begun = self._quiet_since = self._loop.time()
        self._pdu, self._pdu_deadline = 0, 0.0
        self.task: asyncio.Task[None] | None = None  # that runs all this

    @property
    def archive(self) -> Archive:
        """The archive that is served."""
        assert self._application.archive is not None
        return self._application.archive

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self, connection: Connection) -> None:
        """Serve the connection until the association has ended; nothing is left behind but the lingering socket."""
        self._outlet.connection = connection
        try:
            await self._read()
        except Violation as violation:
            log_event("association-aborted", peer=self.peer, reason=str(violation))
            self._cut()
            connection.write([abort_pdu(_BY_PROVIDER, violation.reason)])
        except Gone:
            pass
        except asyncio.CancelledError:  # `end`
            raise
        except Exception as exc:  # noqa: BLE001 - the end of a task: nobody else would hear of it
            log_crash("association-failed", exc, peer=self.peer)
            self._cut()
            connection.write([abort_pdu(_BY_PROVIDER, 0)])
        finally:
            self._outlet.connection = None
            for task in self._services:
                task.cancel()
            if self._incoming is not None:
                self._incoming[2].discard()
            self._own.lost()
            connection.linger()
            if self._outcome:
                self._traffic.end(self._outcome)

    async def _read(self) -> None:
        assert self._outlet.connection is not None
        while data := await self._outlet.connection.read():
            self._traffic.received += len(data)
            begin = self._loop.time()
            for event in self._layer.receive(data):
                if not await self._handle(event):
                    return
            now = self._loop.time()
            if self._layer.pdus != self._pdu:
                self._pdu, self._pdu_deadline = self._layer.pdus, now + self._limits.pdu_deadline
            else:  # the time that we took is not the peer's
                self._pdu_deadline += now - begin

    async def _handle(self, event: Event) -> bool:
        """Whether the association goes on."""
        if isinstance(event, Fragment):
            part = self._assembler.take(event)
            if isinstance(part, StoreData):
                await self._store_data(part)
            elif isinstance(part, StoreBegins):
                self._store_begins(part)
            elif part is not None:
                self._message(part)
            return True
        if isinstance(event, AssociateRequest):
            return await self._negotiate(event.pdu)
        if isinstance(event, ReleaseRequest):
            self._outcome = "released"
            self._outlet.write(RELEASE_RP)
        return False

    def overdue(self, now: float) -> str | None:
        """Why the association has to end, in our words; None while the peer is in time."""
        limits, connection = self._limits, self._outlet.connection
        if connection is None:
            return None
        if connection.unsent_since is not None and now - connection.unsent_since > limits.send_timeout:
            return "does not read"
        if self._own.due is not None and now > self._own.due:
            return "no response to a request of ours"
        if connection.waiting_since is None:  # it is our turn
            return None
        silent = now - connection.waiting_since
        if self._layer.state is State.EXPECTING and now - self._begun > limits.associate_timeout:
            return "no association was asked for"
        if self._layer.inside:
            late = silent > limits.read_idle or now > self._pdu_deadline
            return "too slow in the middle of a PDU" if late else None
        quiet_since = max(self._quiet_since, self._own.ended_at)
        if self._exchange is None and min(silent, now - quiet_since) > limits.idle_timeout:
            return "idle"
        return None

    @property
    def busy(self) -> bool:
        """Whether a message is being received or served."""
        if self._layer.state is not State.ESTABLISHED:
            return self._layer.state is State.NEGOTIATING
        return self._exchange is not None or self._assembler.inside or self._layer.inside or self._incoming is not None

    def end(self, reason: str) -> None:
        """Abort from outside the reading task."""
        if self._outlet.connection is not None:
            if reason:
                log_event("association-aborted", peer=self.peer, reason=reason)
            if self._layer.state is State.ESTABLISHED:
                self._outlet.connection.write([abort_pdu(_BY_PROVIDER, 0)])
                self._cut()
        if self.task is not None:
            self.task.cancel()

    def _cut(self) -> None:
        self._outcome = self._outcome and "cut"

    def evict(self) -> None:
        """Close a connection that has not asked for an association, to make room."""
        if self._outlet.connection is not None:
            self._outlet.connection.abort()
        if self.task is not None:
            self.task.cancel()

    # -- negotiation -------------------------------------------------------------------------------------------------

    async def _negotiate(self, pdu: bytes) -> bool:
        large = len(pdu) > _LARGE_REQUEST  # decoding it would hold the loop
        request = await asyncio.to_thread(negotiation.parse, pdu) if large else negotiation.parse(pdu)
        try:
            admitted = await self._admitted(request)
        except admission.Refused as refused:
            log_event("association-refused", peer=self.peer, reason=str(refused))
            self._traffic.refuse()
            self._outlet.write(reject_pdu(*refused.rejection))
            return False
        confirm = admitted.verified and request.identity is not None and request.identity.wants_response
        arguments = (request, self._application.supported, self._limits.max_pdu, confirm)
        answer = await asyncio.to_thread(negotiation.accept, *arguments) if large else negotiation.accept(*arguments)
        self.called_aet, self.calling_aet = request.called_aet, request.calling_aet
        self.access, self.modality, self._allow = admitted.access, admitted.modality, admitted.allow
        self.contexts, self.extended = answer.contexts, answer.extended
        self._assembler.contexts = answer.contexts
        self._outlet.max_pdu = negotiation.sendable(request.max_pdu)
        self._layer.state, self._outcome = State.ESTABLISHED, "aborted"  # unless the peer releases it
        self._traffic.begin()
        self._quiet_since = self._loop.time()
        self._outlet.write(answer.pdu)
        return True

    async def _admitted(self, request: negotiation.Request) -> admission.Admitted:
        if not self._peers.establish(self):
            raise admission.Refused(negotiation.LIMIT_EXCEEDED, "too many associations")
        assert self._outlet.connection is not None
        return await admission.admit(self._application, request, self.peer, self._outlet.connection.shown)

    # -- requests of the peer ----------------------------------------------------------------------------------------

    def _message(self, message: Message) -> None:
        command = message.command
        if command.field == Field.C_CANCEL:
            if self._exchange is not None and command.message_id == self._exchange.command.message_id:
                self._exchange.cancelled = True
            return
        if command.is_response:
            self._own.take(command)
            return
        self._expect_idle()
        exchange = self._exchange = Exchange(self, self.contexts[message.context_id], message)
        task = self._loop.create_task(self._serve(exchange))
        self._services.add(task)
        task.add_done_callback(self._services.discard)

    def _expect_idle(self) -> None:
        if self._exchange is not None:
            raise Violation("a request came before the last one was answered", UNEXPECTED_PDU)

    async def _serve(self, exchange: Exchange) -> None:
        entry = self._application.services.get((type(exchange.request), exchange.context.abstract_syntax))
        with suppress(Gone):
            # An event is reported to us in the role of the SCU; every other request is made to the SCP.
            ours = exchange.context.as_scp or isinstance(exchange.request, N_EVENT_REPORT)
            if entry is None or not ours:
                await exchange.respond(status.UNRECOGNISED_OPERATION)
            elif entry.permission not in self._allow:
                log_event("request-refused", peer=self.peer, status=status.NOT_AUTHORISED, reason=entry.permission)
                await exchange.respond(status.NOT_AUTHORISED, comment=f"{entry.permission} is not allowed to you")
            else:
                await self._run(entry, exchange)

    async def _run(self, entry: Entry, exchange: Exchange) -> None:
        try:
            if exchange.too_long:
                raise TooLarge("the data set of the request is too long")  # noqa: TRY301 - told as any other failure
            await entry.service(exchange)
            assert exchange.answered, "the service sent no final response"
        except Gone:
            raise
        except Exception as exc:  # noqa: BLE001 - every failure has to become a status
            result = status.of_request(exc, exchange.request)
            log_failure("request-failed", exc, result, self.peer)
            if not exchange.answered:
                await exchange.respond(result.code, comment=result.comment)

    async def respond(
        self,
        exchange: Exchange,
        code: int,
        comment: str,
        identifier: bytes,
        elements: Mapping[str, object],
        *,
        hold: bool,
    ) -> None:
        """Send a response; the final one makes room for the next request."""
        if exchange.answered:
            raise RuntimeError("a response after the final one")
        command = exchange.response(code, comment, elements, has_data_set=bool(identifier))
        async with self._outlet.lock:
            if code not in status.NOT_FINAL:
                exchange.answered = True
                self._traffic.answer(type(exchange.request), code)
                self._exchange, self._quiet_since = None, self._loop.time()
            self._outlet.send(exchange.context.id, command, identifier or None, hold=hold)
        await self._outlet.drain()

    # -- C-STORE -----------------------------------------------------------------------------------------------------

    def _store_begins(self, part: StoreBegins) -> None:
        self._expect_idle()
        context, command = self.contexts[part.context_id], part.command
        target = Target(
            command.text(Tag.AFFECTED_CLASS),
            command.text(Tag.AFFECTED_INSTANCE),
            context.abstract_syntax,
            context.transfer_syntax,
        )
        try:
            incoming: Incoming = self._application.begin_store(self, target)
        except ArchiveError as error:
            incoming = Refused(error)
        self._incoming = (context, command, incoming)

    async def _store_data(self, part: StoreData) -> None:
        assert self._incoming is not None
        context, command, incoming = self._incoming
        try:
            if not incoming.write(part.data) and not part.last:
                async with asyncio.timeout(self._limits.spool_timeout):
                    await incoming.flush()
        except (ArchiveError, TimeoutError) as error:
            incoming.discard()
            incoming = Refused(error if isinstance(error, ArchiveError) else Unavailable("the spool does not write"))
            self._incoming = (context, command, incoming)
        if not part.last:
            return
        result = await self._stored(incoming)
        self._traffic.answer(C_STORE, result.code)
        self._incoming, self._quiet_since = None, self._loop.time()
        said = {"ErrorComment": result.comment} if result.comment else {}
        async with self._outlet.lock:
            self._outlet.send(context.id, response_to(command, result.code, said, has_data_set=False))
        await self._outlet.drain()

    async def _stored(self, incoming: Incoming) -> status.Status:
        try:
            async with asyncio.timeout(self._limits.store_timeout):
                await incoming.store()
        except TimeoutError:
            # What a store that was given up has done is decided by its intent: the peer may send again.
            failure: Exception = Unavailable("the archive did not answer in time")
        except Exception as exc:  # noqa: BLE001 - every failure has to become a status
            failure = exc
        else:
            return status.Status(status.SUCCESS)
        finally:
            incoming.discard()
        result = status.of_store(failure)
        log_failure("store-failed", failure, result, self.peer)
        return result

    # -- requests of ours --------------------------------------------------------------------------------------------

    async def ask(self, context_id: int, request: DIMSEPrimitive, data: DataSet | None = None) -> DIMSEPrimitive:
        """See service.Association."""
        encoded = partial(request_of, request, has_data_set=data is not None)
        return primitive_of(await self._own.ask(self._in_role(context_id, as_scp=True), encoded, data))

    async def store(self, context_id: int, sop_class: str, sop_instance: str, priority: int, data: DataSet) -> int:
        """See service.Association."""
        encoded = partial(store_request, sop_class=sop_class, sop_instance=sop_instance, priority=priority)
        response = await self._own.ask(self._in_role(context_id, as_scp=False), encoded, data)
        return response.number(Tag.STATUS)

    def _in_role(self, context_id: int, *, as_scp: bool) -> int:
        """A context in which we have the role. Raises AskFailed."""
        context = self.contexts.get(context_id)
        if context is None or not (context.as_scp if as_scp else context.as_scu):
            raise AskFailed("no presentation context was accepted for this request")
        return context_id


def log_failure(event: str, error: BaseException, result: status.Status, peer: str) -> None:
    """A request was answered with a failure: what the peer was told, or where it happened when that is nothing."""
    if isinstance(error, ArchiveError):
        log_event(event, peer=peer, status=result.code, reason=result.comment)
    else:
        log_crash(event, error, peer=peer)
