"""Receiving messages: fragments in, complete requests out; a data set to be stored goes undecoded into a spool.

pynetdicom collects a whole message in memory and takes whatever order of fragments a peer sends. Here each kind of
message has its bound, the rules of PS3.8 annex E and PS3.7 6.3 are enforced, and the data set of a C-STORE goes into a
spool as it comes: the thread that reads the socket reads on only when the spool has written, so TCP slows the sender
down.
"""

import queue
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_CANCEL_RQ, C_ECHO_RQ, C_FIND_RQ, C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND, C_STORE, DimsePrimitiveType, DimseServiceType
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext

from dicomweb.errors import ArchiveError, BadDicom, IdentityMismatch
from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dicomweb.uids import MAX_UID_LENGTH, is_uid
from dimse_bridge.identity import HEAD_SIZE, check_identity
from dimse_bridge.limits import Limits
from dimse_bridge.logs import log_crash, log_event
from dimse_bridge.loop import Crossing
from dimse_bridge.upper_layer import UpperLayer
from storage.archive import Archive
from storage.spool import Spool, Spooled

_COMMAND, _LAST = 0x01, 0x02  # bits of the message control header (PS3.8 E.2)
_PENDING: Final = (0xFF00, 0xFF01)
_PATIENCE: Final = 0.1

_Next = tuple[None, None] | tuple[int, DimseServiceType]


class ProtocolViolation(Exception):
    """The peer broke PS3.7 or PS3.8; the association ends with an A-ABORT."""


def file_meta(sop_class: str, sop_instance: str, transfer_syntax: str, source_aet: str) -> bytes:
    """Preamble, prefix and file meta group (PS3.10 7.1) for a data set that came over the network without one."""

    def element(number: int, vr: bytes, value: bytes, pad: bytes) -> bytes:
        value += pad * (len(value) % 2)
        return struct.pack("<HH2sH", 2, number, vr, len(value)) + value

    group = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\x00\x01"
    group += element(0x02, b"UI", sop_class.encode(), b"\0")
    group += element(0x03, b"UI", sop_instance.encode(), b"\0")
    group += element(0x10, b"UI", transfer_syntax.encode(), b"\0")
    group += element(0x12, b"UI", IMPLEMENTATION_CLASS_UID.encode(), b"\0")
    group += element(0x13, b"SH", IMPLEMENTATION_VERSION.encode(), b" ")
    if source_aet:
        group += element(0x16, b"AE", source_aet.encode("ascii", "replace"), b" ")
    return bytes(128) + b"DICM" + element(0x00, b"UL", struct.pack("<I", len(group)), b"") + group


@dataclass(frozen=True, slots=True)
class Target:
    """What a C-STORE says it brings: its own UIDs, and the class and encoding of its presentation context."""

    sop_class: str
    sop_instance: str
    context_class: str
    transfer_syntax: str


class Incoming:
    """The data set of one C-STORE on its way into a spool.

    `failure` says why it cannot be stored; what then still comes is read and dropped.
    """

    def __init__(self, spool: Spool, crossing: Crossing, limits: Limits, target: Target) -> None:
        self.failure: ArchiveError | None = None
        self._target = target
        self._head = bytearray()
        self._spool = spool
        self._crossing = crossing
        self._limits = limits

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes; blocks while the spool writes to its file."""
        if self.failure is not None:
            return
        if len(self._head) < HEAD_SIZE:
            self._head += data[: HEAD_SIZE - len(self._head)]
        self._keep(data)

    def _keep(self, data: bytes | memoryview) -> None:
        try:
            if not self._spool.write_now(data):
                self._crossing.run(self._spool.write(b""), self._limits.spool_timeout)
        except ArchiveError as error:
            self.fail(error)

    def begin(self, source_aet: str) -> None:
        """Write the file meta group; nothing is kept for a request that is wrong in itself."""
        target = self._target
        if not is_uid(target.sop_instance):
            self.fail(BadDicom("Affected SOP Instance UID is not a valid UID"))
        elif target.sop_class != target.context_class:
            self.fail(IdentityMismatch("Affected SOP Class UID differs from the presentation context"))
        else:
            self._keep(file_meta(target.sop_class, target.sop_instance, target.transfer_syntax, source_aet))

    def fail(self, error: ArchiveError) -> None:
        """Remember why this cannot be stored, and free what was received."""
        self.failure = error
        self._spool.discard()

    def discard(self) -> None:
        """Drop what was received, unless `finish` has handed it over."""
        self._spool.discard()

    async def finish(self) -> Spooled:
        """The complete file, which from now on is the caller's; raises what made it impossible."""
        if self.failure is not None:
            raise self.failure
        target = self._target
        check_identity(bytes(self._head), target.transfer_syntax, target.sop_class, target.sop_instance)
        return await self._spool.finish()


class Receiver(DIMSEServiceProvider):
    """The DIMSE service provider of one association (PS3.7 chapter 8): the acceptor's side of C-ECHO, C-STORE, C-FIND.

    `receive_primitive` runs in the thread that reads the socket, all else in the association's thread.
    """

    def __init__(
        self, association: Association, peer: str, archive: Archive, crossing: Crossing, limits: Limits
    ) -> None:
        super().__init__(association)
        self.incoming: Incoming | None = None  # of the C-STORE that is being received or served
        self._peer = peer
        self._archive = archive
        self._crossing = crossing
        self._limits = limits
        self._command = bytearray()
        self._due: DIMSEMessage | None = None  # the command is complete, its data set is due
        self._data = bytearray()
        self._cancelled: int | None = None  # a message ID
        self._open = False  # a request was received or begun, and not answered yet

    @property
    def calling_aet(self) -> str:
        """The application entity that the peer says it is: printable, 16 characters at most."""
        title = str(self.assoc.requestor.ae_title).strip()
        return title[:16] if title.isascii() and title.isprintable() else ""

    def is_cancelled(self, request: C_FIND) -> bool:
        """Whether the peer does not want more answers (PS3.7 9.3.2.3); pynetdicom forgets an early cancel."""
        return self._cancelled is not None and self._cancelled == request.MessageID

    @property
    def busy(self) -> bool:
        """Whether a message is being received or served."""
        return self._open or bool(self._command)

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of one P-DATA-TF; a violation aborts the association."""
        try:
            for context_id, fragment in primitive.presentation_data_value_list:
                self._take(context_id, fragment)
        except ProtocolViolation as violation:
            log_event("association-aborted", peer=self._peer, reason=str(violation))
            self._abort()
        except Exception as exc:  # noqa: BLE001 - the thread must go on to close the connection
            log_crash("receive-failed", exc, peer=self._peer)
            self._abort()

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Queue a response; the final one makes room for the next request."""
        if isinstance(self.dul, UpperLayer):
            self.dul.restart_idle_timer()
        if getattr(primitive, "Status", None) not in _PENDING:
            self._open = False
        super().send_msg(primitive, context_id)

    def get_msg(self, block: bool = False) -> _Next:  # noqa: ARG002 - the signature is pynetdicom's
        """The next request and its context; (None, None) when nothing came for a moment, or when `wake` was called.

        The association's loop asks again and again for requests, releases and aborts; waiting here instead of returning
        at once keeps an idle association from turning a thousand times a second.
        """
        try:
            return self.msg_queue.get(timeout=_PATIENCE)
        except queue.Empty:
            return None, None

    def wake(self) -> None:
        """Make `get_msg` return: something else than a request came."""
        self.msg_queue.put((None, None))

    def discard(self) -> None:
        """Drop a half-received message."""
        incoming, self.incoming = self.incoming, None
        if incoming is not None:
            incoming.discard()
        self._command.clear()
        self._data.clear()
        self._due = None

    def _abort(self) -> None:
        self.discard()
        self.dul.event_queue.put("Evt19")  # unexpected PDU: A-ABORT

    @property
    def _contexts(self) -> dict[int, PresentationContext]:
        return self.assoc._accepted_cx  # noqa: SLF001 - the public property sorts them anew each time

    def _take(self, context_id: int, fragment: bytes) -> None:
        if not fragment or context_id not in self._contexts:
            raise ProtocolViolation("a fragment is empty or in no accepted presentation context")
        control = fragment[0]
        if control & _COMMAND:
            if self._due is not None:
                raise ProtocolViolation("a command came while a data set was due")
            self._command += fragment[1:]
            if len(self._command) > self._limits.max_command:
                raise ProtocolViolation("the command set is too long")
            if control & _LAST:
                self._command_complete(context_id)
        else:
            if self._due is None or context_id != self._due.context_id:
                raise ProtocolViolation("a data set came without its command")
            self._data_set(memoryview(fragment)[1:])
            if control & _LAST:
                self._deliver(self._due)

    def _command_complete(self, context_id: int) -> None:
        whole = P_DATA()
        value = bytes((_COMMAND | _LAST,)) + self._command
        whole.presentation_data_value_list = [[context_id, value]]  # type: ignore[list-item]  # it insists on lists
        self._command.clear()
        message = DIMSEMessage()
        try:
            complete = message.decode_msg(whole, self.assoc)
        except Exception as exc:  # whatever a malformed command set does to pydicom
            raise ProtocolViolation("the command set cannot be decoded") from exc
        if not isinstance(message, C_ECHO_RQ | C_STORE_RQ | C_FIND_RQ | C_CANCEL_RQ):
            raise ProtocolViolation("the command is none that this archive performs")
        if not isinstance(message, C_CANCEL_RQ):
            if self._open:
                raise ProtocolViolation("a request came before the last one was answered")
            self._open, self._cancelled = True, None
        if complete:
            self._deliver(message)
            return
        self._due = message
        if isinstance(message, C_STORE_RQ):
            self.incoming = self._begin_store(message, context_id)

    def _begin_store(self, message: DIMSEMessage, context_id: int) -> Incoming:
        command, context = message.command_set, self._contexts[context_id]
        sop_class = str(command.get("AffectedSOPClassUID") or "")
        sop_instance = str(command.get("AffectedSOPInstanceUID") or "")
        # pynetdicom would end the association over a UID of more than 64 characters; the peer shall hear why instead.
        command.AffectedSOPInstanceUID = sop_instance.encode("ascii", "replace")[:MAX_UID_LENGTH].decode()
        target = Target(sop_class, sop_instance, str(context.abstract_syntax), str(context.transfer_syntax[0]))
        incoming = Incoming(self._archive.new_spool(), self._crossing, self._limits, target)
        incoming.begin(self.calling_aet)
        return incoming

    def _data_set(self, data: memoryview) -> None:
        if self.incoming is not None:
            self.incoming.write(data)
            return
        self._data += data
        if len(self._data) > self._limits.max_identifier:
            raise ProtocolViolation("the identifier is too long")

    def _deliver(self, message: DIMSEMessage) -> None:
        self._due = None
        message.data_set = BytesIO(bytes(self._data))
        self._data.clear()
        try:
            primitive = message.message_to_primitive()
        except Exception as exc:  # a value that the primitive refuses, of whatever kind
            raise ProtocolViolation("the command set has an invalid value") from exc
        if isinstance(primitive, C_CANCEL):
            self._cancelled = primitive.MessageIDBeingRespondedTo
            return
        if not primitive.is_valid_request:
            raise ProtocolViolation("the command set lacks a mandatory element")
        if isinstance(primitive, C_STORE) and self.incoming is None:
            raise ProtocolViolation("a C-STORE came without a data set")
        assert message.context_id is not None  # set with the command
        self.msg_queue.put((message.context_id, primitive))
