"""An association that we ask for, and our requests on it. Everything here blocks and belongs into a thread."""

import logging
import queue
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
from pynetdicom import _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from dicomweb.errors import PeerFailed
from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dimse_bridge import status
from dimse_bridge.contexts import service_of
from dimse_bridge.entity import CONNECT_SECONDS, Entity, Socket, discard
from dimse_bridge.traffic import OwnTraffic

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
# What is sent in one PDU at most, whatever the peer says of itself.
_SENT_PDU: Final = 128 << 10
# Types of user identity (PS3.7 table D.3-14).
_USERNAME, _PASSCODE, _TOKEN = 1, 2, 5
_RETRIEVING: Final = frozenset(("C-MOVE", "C-GET"))
_SUB_OPERATIONS: Final = ("Completed", "Failed", "Warning")


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


class Link:
    """An established association. One thread at a time; only `cut` may be called from another."""

    def __init__(
        self,
        call: Call,
        proposals: Sequence[Proposal],
        traffic: OwnTraffic,
        *,
        message_limit: int,
        handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
    ) -> None:
        """Ask for an association, the first proposal says for what; `message_limit`: bytes of one message that comes.

        Raises PeerFailed.
        """
        self.traffic = traffic
        self._service = service_of(proposals[0].abstract_syntax)
        self._over = threading.Lock()  # taken by whoever notices first that the association has ended
        self._message_limit = message_limit
        self._received = 0
        self._rejection = ""
        self._numbers = cycle(range(1, 1 << 16))
        entity = Entity(ae_title=call.calling_aet)
        entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        entity.implementation_version_name = IMPLEMENTATION_VERSION
        entity.connection_timeout = entity.acse_timeout = min(call.timeout, CONNECT_SECONDS)
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
                    (evt.EVT_DATA_SENT, self._sent),
                    (evt.EVT_DIMSE_RECV, self._counted),
                ],
                tls_args=None if call.tls is None else (call.tls, call.host),
            )
        except (OSError, UnicodeError, ValueError) as error:
            traffic.fail(self._service, "unreachable")
            raise PeerFailed(f"the host of the application entity cannot be used ({type(error).__name__})") from error
        if not self._assoc.is_established:
            outcome, refusal = _refusal(self._assoc, self._rejection)
            traffic.fail(self._service, outcome)
            discard(self._assoc)
            raise refusal
        traffic.begin(self._service)
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
        self._checked("C-ECHO", lambda: self._assoc.send_c_echo(next(self._numbers)))

    def store(self, path: Path, originator: tuple[str, int] | None) -> Dataset:
        """C-STORE of a Part 10 file, read while it is sent; the response. Raises PeerFailed without one."""
        aet, message = originator or (None, None)
        number = next(self._numbers)
        send = partial(self._assoc.send_c_store, path, number, originator_aet=aet, originator_id=message)
        return self._answer("C-STORE", send)

    def find(self, identifier: Dataset, model: str) -> "Answers":
        """C-FIND."""
        return self._answers("C-FIND", self._assoc.send_c_find, identifier, model)

    def move(self, identifier: Dataset, destination: str, model: str) -> "Answers":
        """C-MOVE."""
        return self._answers("C-MOVE", self._assoc.send_c_move, identifier, destination, model)

    def get(self, identifier: Dataset, model: str) -> "Answers":
        """C-GET; what comes goes to the handler of EVT_C_STORE."""
        return self._answers("C-GET", self._assoc.send_c_get, identifier, model)

    def action(self, dataset: Dataset, number: int, sop_class: str, sop_instance: str) -> None:
        """N-ACTION. Raises PeerFailed."""
        message = next(self._numbers)
        asked = (dataset, number, UID(sop_class), UID(sop_instance), message)
        self._checked("N-ACTION", lambda: self._assoc.send_n_action(*asked)[0])

    def report(self, dataset: Dataset | None, number: int, sop_class: str, sop_instance: str) -> None:
        """N-EVENT-REPORT. Raises PeerFailed."""
        message = next(self._numbers)
        said = (dataset, number, UID(sop_class), UID(sop_instance), message)
        self._checked("N-EVENT-REPORT", lambda: self._assoc.send_n_event_report(*said)[0])

    def release(self) -> None:
        """Say goodbye; the connection is closed in any case."""
        with suppress(Exception):
            self._assoc.release()
        self._end("released" if self._assoc.is_released else "aborted")
        self.cut()
        discard(self._assoc)

    def cut(self) -> None:
        """End the connection, so that whoever waits for the peer does not any more. From any thread; never blocks."""
        self._end("aborted" if self._assoc.acse.is_aborted() else "cut")
        self._assoc.is_established = False
        connection = self._assoc.dul.socket
        if isinstance(connection, Socket):
            connection.end()
            if not self._assoc.dul.is_alive():  # else its thread finds the end, and closes
                connection.close()

    def _end(self, outcome: str) -> None:
        if self._over.acquire(blocking=False):
            self.traffic.end(self._service, outcome)

    def _answers(self, operation: str, send: Callable[..., Any], *arguments: Any) -> "Answers":
        number = next(self._numbers)
        model = arguments[-1]
        answers = self._asking(operation, lambda: send(*arguments[:-1], query_model=model, msg_id=number))
        return Answers(self, operation, answers, lambda: self._assoc.send_c_cancel(number, query_model=model))

    def _asking(self, operation: str, ask: Callable[[], Any]) -> Any:
        acse = self._assoc.acse
        if acse.is_aborted() or not self._assoc.dul.is_alive():
            self.cut()
            raise PeerFailed("the peer has aborted the association")
        if acse.is_release_requested():
            acse.send_release(is_response=True)
            self._end("released")
            self.cut()
            raise PeerFailed("the peer has released the association")
        try:
            return ask()
        except (RuntimeError, ValueError, AttributeError, OSError, queue.Full) as error:
            self.traffic.answer(operation, None)
            self.cut()
            raise PeerFailed(_said(error)) from error

    def _answer(self, operation: str, ask: Callable[[], Dataset]) -> Dataset:
        """The one response to a request. Raises PeerFailed without one."""
        answer: Dataset = self._asking(operation, ask)
        self.traffic.answer(operation, answer.get("Status"))
        if "Status" not in answer:
            raise PeerFailed("the association broke, or the peer did not answer in time")
        return answer

    def _checked(self, operation: str, ask: Callable[[], Dataset]) -> None:
        answer = self._answer(operation, ask)
        if answer.Status != 0:
            raise PeerFailed(*status_said(answer))

    def _note(self, event: evt.Event) -> None:
        """Keep a rejection: pynetdicom takes one that comes at once for a connection that was never made."""
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            self._rejection = "a reason of its own"
            with suppress(ValueError):
                self._rejection = event.pdu.reason_str

    def _sent(self, event: evt.Event) -> None:
        self.traffic.carry("sent", len(event.data))

    def _count(self, event: evt.Event) -> None:
        self.traffic.carry("received", len(event.data))
        self._received += len(event.data)
        if self._received > self._message_limit:
            self.cut()

    def _counted(self, _event: evt.Event) -> None:
        self._received = 0


class Answers:
    """The answers to one request, as they come."""

    def __init__(
        self, link: Link, operation: str, answers: Iterator[tuple[Dataset, Dataset | None]], cancel: Callable[[], None]
    ) -> None:
        self._link = link
        self._operation = operation
        self._answers = answers
        self.cancel = cancel

    def next(self) -> tuple[Dataset, Dataset | None] | None:
        """Command set and identifier of the next one, None behind the last. Raises PeerFailed."""
        try:
            found = next(self._answers, None)
        except Exception as error:  # pydicom raises nearly anything for what a peer can send
            self._link.traffic.answer(self._operation, None)
            self._link.cut()
            raise PeerFailed("the peer sent an answer that cannot be understood") from error
        if found is None or found[0].get("Status") in status.NOT_FINAL:
            return found
        self._link.traffic.answer(self._operation, found[0].get("Status"))
        if "Status" not in found[0]:
            raise PeerFailed("the association broke, or the peer did not answer in time")
        if self._operation in _RETRIEVING:
            counts = {each.lower(): found[0].get(f"NumberOf{each}Suboperations", 0) or 0 for each in _SUB_OPERATIONS}
            self._link.traffic.operations(self._operation, counts)
        return found


def status_said(answer: Dataset) -> tuple[str, int]:
    """A response that is no success in words, with its status."""
    comment = str(answer.get("ErrorComment", "") or "").strip()[:64]
    return f"the peer answered with status 0x{answer.Status:04X}" + (f": {comment}" if comment else ""), answer.Status


def _refusal(assoc: Association, rejection: str) -> tuple[str, PeerFailed]:
    """Why there is no association: in a word for the metrics, and as an error."""
    if rejection:
        return "refused", PeerFailed(f"the peer rejected the association: {rejection}")
    answer = assoc.acceptor.primitive
    if answer is not None and assoc.rejected_contexts:
        return "refused", NothingAccepted("the peer accepted none of the presentation contexts")
    connection = assoc.dul.socket
    if connection is None or not getattr(connection, "_is_connected", False):
        return "unreachable", PeerFailed("the peer cannot be reached")
    return "refused", PeerFailed("the peer did not accept the association")


def _said(error: Exception) -> str:
    match error:
        case queue.Full():
            return "the peer does not read what it is sent"
        case ValueError():
            return "the peer did not accept a presentation context for it"
        case _:
            return "the association is broken"
