"""An association that we ask for: pynetdicom's, with bounds. Everything here blocks and belongs into a thread.

pynetdicom as it comes waits 40 ms for each answer (no TCP_NODELAY), holds a whole object in its queues while a slow
peer reads, believes every length that it is told, and waits for ever in the middle of a PDU.
"""

import logging
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import pydicom.config
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from dicomweb.errors import PeerFailed
from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

# Process-wide, and for this side only. The data sets of a C-GET go to files; the log must not hold what peers send.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.STORE_RECV_CHUNKED_DATASET = True
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

MAX_CONTEXTS: Final = 128
_OUR_PDU: Final = 128 << 10
# What is sent in one PDU at most, and received, whatever the peer says of itself.
_SENT_PDU: Final = 128 << 10
_RECEIVED_PDU: Final = 1 << 20
# PDUs that wait to be sent, messages that wait to be looked at.
_WAITING: Final = 64
# N-EVENT-REPORTs that are served at the same time.
_REPORTS: Final = 8
_CONNECT_SECONDS: Final = 10.0
# Types of user identity (PS3.7 table D.3-14).
_USERNAME, _PASSCODE, _TOKEN = 1, 2, 5
_END_SECONDS: Final = 2.0
# Between two looks at the socket; pynetdicom's own is a millisecond, which every message pays three times.
_LOOK_SECONDS: Final = 0.0002


@dataclass(frozen=True, slots=True)
class User:
    """Who we say we are (PS3.7 D.3.3.7): a name, with its passcode or without; or, without a name, a token."""

    name: str | None
    secret: str | None = field(repr=False)

    def item(self) -> UserIdentityNegotiation:
        """The item of an association request. A response is not asked for: many that check a user send none."""
        made = UserIdentityNegotiation()
        made.positive_response_requested = False
        if self.name is None:
            made.user_identity_type, made.primary_field = _TOKEN, (self.secret or "").encode()
            return made
        made.user_identity_type, made.primary_field = _USERNAME, self.name.encode()
        if self.secret is not None:
            made.user_identity_type, made.secondary_field = _PASSCODE, self.secret.encode()
        return made


@dataclass(frozen=True, slots=True)
class Call:
    """Whom to call and how. `timeout`: seconds of silence that are borne; `tls`: None for plain TCP."""

    host: str
    port: int
    called_aet: str
    calling_aet: str
    timeout: float
    tls: ssl.SSLContext | None = None
    user: User | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A presentation context to be proposed. `as_scp`: we take the role of the SCP in it (PS3.7 D.3.3.4)."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    as_scp: bool = False


class NothingAccepted(PeerFailed):
    """The peer accepted none of the presentation contexts."""


class _Bounded(queue.Queue[Any]):
    """A queue whose putters wait for room, but not for ever."""

    def __init__(self, seconds: float) -> None:
        super().__init__(_WAITING)
        self._seconds = seconds

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Raises queue.Full where nothing was taken for so long."""
        super().put(item, block, timeout or self._seconds)


class _Socket(AssociationSocket):
    """Sends at once, and waits for the peer no longer than the time that it has."""

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect."""
        if self.socket is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        super().connect(primitive)
        if self.socket is not None:
            self.socket.settimeout(self.assoc.dimse_timeout)

    def _shutdown_socket(self) -> None:
        """Close, whoever has shut it down before; pynetdicom would leave it open then."""
        super()._shutdown_socket()
        if self.socket is not None:
            with suppress(OSError):
                self.socket.close()

    def end(self) -> None:
        """Wake whoever reads or writes, who then closes it; from any thread."""
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def recv(self, nr_bytes: int) -> bytearray:
        """Receive; a PDU that is longer than any we have announced ends the connection."""
        if nr_bytes > _RECEIVED_PDU:
            raise OSError("a PDU is too long")
        return super().recv(nr_bytes)


class _Entity(AE):
    """Makes associations with bounds."""

    def _create_socket(self, assoc: Association, address: AddressInformation, tls_args: Any) -> AssociationSocket:
        made = _Socket(assoc, address=address)
        made.tls_args = tls_args
        patience = float(assoc.dimse_timeout or _CONNECT_SECONDS)
        assoc.dul.to_provider_queue = _Bounded(patience)
        assoc.dimse.msg_queue = _Bounded(patience)
        assoc.dul._run_loop_delay = _LOOK_SECONDS  # noqa: SLF001 - the only way to say it
        # The association's own thread, which serves requests of the peer between ours, may take away the answer to the
        # next one when it is slow to stop (seen once in a thousand). It never starts: it counts as paused for ever.
        assoc.start = _nothing  # type: ignore[method-assign]
        assoc._is_paused = True  # noqa: SLF001
        assoc._serve_request = partial(_serve, assoc, made, threading.Semaphore(_REPORTS))  # type: ignore[method-assign] # noqa: SLF001
        return made


def _nothing() -> None:
    pass


def _serve(assoc: Association, connection: _Socket, room: threading.Semaphore, message: Any, context_id: int) -> None:
    """Serve an N-EVENT-REPORT, in the thread that pynetdicom has made for it; too many at once end the connection.

    pynetdicom takes the association for running again then, and whoever sends next would wait for ever.
    """
    if not room.acquire(blocking=False):
        connection.end()
        return
    try:
        Association._serve_request(assoc, message, context_id)  # noqa: SLF001
    finally:
        assoc._is_paused = True  # noqa: SLF001
        room.release()


class Link:
    """An established association. One thread at a time; only `cut` may be called from another."""

    def __init__(
        self,
        call: Call,
        proposals: Sequence[Proposal],
        *,
        message_limit: int,
        handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
    ) -> None:
        """Ask for an association; `message_limit`: bytes of one message that comes. Raises PeerFailed."""
        self._message_limit = message_limit
        self._received = 0
        self._rejection = ""
        self._numbers = cycle(range(1, 1 << 16))
        entity = _Entity(ae_title=call.calling_aet)
        entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        entity.implementation_version_name = IMPLEMENTATION_VERSION
        entity.connection_timeout = entity.acse_timeout = min(call.timeout, _CONNECT_SECONDS)
        entity.dimse_timeout, entity.network_timeout = call.timeout, None  # between two requests there is no hurry
        roles = {each.abstract_syntax for each in proposals if each.as_scp}
        try:
            self._assoc = entity.associate(
                call.host,
                call.port,
                contexts=[build_context(each.abstract_syntax, list(each.transfer_syntaxes)) for each in proposals],
                ae_title=call.called_aet,
                max_pdu=_OUR_PDU,
                ext_neg=[
                    *(build_role(uid, scp_role=True) for uid in sorted(roles)),
                    *(() if call.user is None else (call.user.item(),)),
                ],
                evt_handlers=[
                    *handlers,
                    (evt.EVT_PDU_RECV, self._note),
                    (evt.EVT_DATA_RECV, self._count),
                    (evt.EVT_DIMSE_RECV, self._counted),
                ],
                tls_args=None if call.tls is None else (call.tls, call.host),
            )
        except (OSError, UnicodeError, ValueError) as error:
            raise PeerFailed(f"the host of the application entity cannot be used ({type(error).__name__})") from error
        if not self._assoc.is_established:
            refusal = _refusal(self._assoc, self._rejection)
            _discard(self._assoc)
            raise refusal
        answer = self._assoc.acceptor.primitive
        if answer is not None and not 0 < (answer.maximum_length_received or 0) <= _SENT_PDU:
            answer.maximum_length_received = _SENT_PDU

    def accepted(self) -> dict[str, list[str]]:
        """The transfer syntaxes in which each abstract syntax can be sent, as we proposed them."""
        found: dict[str, list[str]] = {}
        for context in sorted(self._assoc.accepted_contexts, key=lambda each: each.context_id or 0):
            found.setdefault(str(context.abstract_syntax), []).append(str(context.transfer_syntax[0]))
        return found

    def echo(self) -> None:
        """C-ECHO. Raises PeerFailed."""
        self._checked(self._asking(lambda: self._assoc.send_c_echo(next(self._numbers))))

    def store(self, path: Path, originator: tuple[str, int] | None) -> Dataset:
        """C-STORE of a Part 10 file, read while it is sent; the response. Raises PeerFailed without one."""
        aet, message = originator or (None, None)
        answer: Dataset = self._asking(
            lambda: self._assoc.send_c_store(
                path, next(self._numbers), originator_aet=aet, originator_id=message
            )
        )  # fmt: skip
        if "Status" not in answer:
            raise PeerFailed("the association broke, or the peer did not answer in time")
        return answer

    def find(self, identifier: Dataset, model: str) -> "Answers":
        """C-FIND."""
        return self._answers(self._assoc.send_c_find, identifier, model)

    def move(self, identifier: Dataset, destination: str, model: str) -> "Answers":
        """C-MOVE."""
        return self._answers(self._assoc.send_c_move, identifier, destination, model)

    def get(self, identifier: Dataset, model: str) -> "Answers":
        """C-GET; what comes goes to the handler of EVT_C_STORE."""
        return self._answers(self._assoc.send_c_get, identifier, model)

    def action(self, dataset: Dataset, number: int, sop_class: str, sop_instance: str) -> None:
        """N-ACTION. Raises PeerFailed."""
        message = next(self._numbers)
        asked = (dataset, number, UID(sop_class), UID(sop_instance), message)
        self._checked(self._asking(lambda: self._assoc.send_n_action(*asked)[0]))

    def report(self, dataset: Dataset | None, number: int, sop_class: str, sop_instance: str) -> None:
        """N-EVENT-REPORT. Raises PeerFailed."""
        message = next(self._numbers)
        said = (dataset, number, UID(sop_class), UID(sop_instance), message)
        self._checked(self._asking(lambda: self._assoc.send_n_event_report(*said)[0]))

    def release(self) -> None:
        """Say goodbye; the connection is closed in any case."""
        with suppress(Exception):
            self._assoc.release()
        self.cut()
        _discard(self._assoc)

    def cut(self) -> None:
        """End the connection, so that whoever waits for the peer does not any more. From any thread; never blocks."""
        self._assoc.is_established = False
        connection = self._assoc.dul.socket
        if isinstance(connection, _Socket):
            connection.end()
            if not self._assoc.dul.is_alive():  # else its thread finds the end, and closes
                connection.close()

    def _answers(self, send: Callable[..., Any], *arguments: Any) -> "Answers":
        number = next(self._numbers)
        model = arguments[-1]
        answers = self._asking(lambda: send(*arguments[:-1], query_model=model, msg_id=number))
        return Answers(self, answers, lambda: self._assoc.send_c_cancel(number, query_model=model))

    def _asking(self, ask: Callable[[], Any]) -> Any:
        acse = self._assoc.acse
        if acse.is_aborted() or not self._assoc.dul.is_alive():
            self.cut()
            raise PeerFailed("the peer has aborted the association")
        if acse.is_release_requested():
            acse.send_release(is_response=True)
            self.cut()
            raise PeerFailed("the peer has released the association")
        try:
            return ask()
        except (RuntimeError, ValueError, AttributeError, OSError, queue.Full) as error:
            self.cut()
            raise PeerFailed(_said(error)) from error

    def _checked(self, answer: Dataset) -> None:
        if "Status" not in answer:
            raise PeerFailed("the association broke, or the peer did not answer in time")
        if answer.Status != 0:
            raise PeerFailed(*status_said(answer))

    def _note(self, event: evt.Event) -> None:
        """Keep a rejection: pynetdicom takes one that comes at once for a connection that was never made."""
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            self._rejection = "a reason of its own"
            with suppress(ValueError):
                self._rejection = event.pdu.reason_str

    def _count(self, event: evt.Event) -> None:
        self._received += len(event.data)
        if self._received > self._message_limit:
            self.cut()

    def _counted(self, _event: evt.Event) -> None:
        self._received = 0


class Answers:
    """The answers to one request, as they come."""

    def __init__(
        self, link: Link, answers: Iterator[tuple[Dataset, Dataset | None]], cancel: Callable[[], None]
    ) -> None:
        self._link = link
        self._answers = answers
        self.cancel = cancel

    def next(self) -> tuple[Dataset, Dataset | None] | None:
        """Command set and identifier of the next one, None behind the last. Raises PeerFailed."""
        try:
            found = next(self._answers, None)
        except Exception as error:  # pydicom raises nearly anything for what a peer can send
            self._link.cut()
            raise PeerFailed("the peer sent an answer that cannot be understood") from error
        if found is not None and "Status" not in found[0]:
            raise PeerFailed("the association broke, or the peer did not answer in time")
        return found


def status_said(answer: Dataset) -> tuple[str, int]:
    """A response that is no success in words, with its status."""
    comment = str(answer.get("ErrorComment", "") or "").strip()[:64]
    return f"the peer answered with status 0x{answer.Status:04X}" + (f": {comment}" if comment else ""), answer.Status


def _discard(assoc: Association) -> None:
    """Leave neither a thread nor a socket behind."""
    assoc.dul.kill_dul()
    if assoc.dul.is_alive():
        assoc.dul.join(_END_SECONDS)
    if assoc.dul.socket is not None:
        assoc.dul.socket.close()


def _refusal(assoc: Association, rejection: str) -> PeerFailed:
    if rejection:
        return PeerFailed(f"the peer rejected the association: {rejection}")
    answer = assoc.acceptor.primitive
    if answer is not None and assoc.rejected_contexts:
        return NothingAccepted("the peer accepted none of the presentation contexts")
    connection = assoc.dul.socket
    if connection is None or not getattr(connection, "_is_connected", False):
        return PeerFailed("the peer cannot be reached")
    return PeerFailed("the peer did not accept the association")


def _said(error: Exception) -> str:
    match error:
        case queue.Full():
            return "the peer does not read what it is sent"
        case ValueError():
            return "the peer did not accept a presentation context for it"
        case _:
            return "the association is broken"
