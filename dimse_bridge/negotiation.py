"""A-ASSOCIATE: what a peer asks for, and our answer, by pynetdicom's PDU classes (PS3.8 7.1, PS3.7 annex D.3)."""

from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dimse_bridge import models
from dimse_bridge.contexts import Supported
from dimse_bridge.messages import LARGEST_SENT
from dimse_bridge.service import Context
from dimse_bridge.violation import INVALID_VALUE, Violation

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
# Level 2 (all attributes are kept), digital signatures are kept as they are, nothing is coerced (PS3.4 B.3.1).
_STORAGE_SUPPORT: Final = b"\x02\x00\x02\x00\x00"

# Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21).
NO_REASON: Final = (1, 1, 1)
APPLICATION_CONTEXT_UNKNOWN: Final = (1, 1, 2)
CALLING_TITLE_UNKNOWN: Final = (1, 1, 3)
CALLED_TITLE_UNKNOWN: Final = (1, 1, 7)
PROTOCOL_VERSION_UNKNOWN: Final = (1, 2, 2)
LIMIT_EXCEEDED: Final = (2, 3, 2)
CONGESTED: Final = (2, 3, 1)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the user of the peer says they are (PS3.7 D.3.3.7). Both fields are secrets: never logged."""

    kind: int  # 1 username, 2 with passcode, 3 Kerberos ticket, 4 SAML assertion, 5 JSON web token
    primary: bytes
    secondary: bytes
    wants_response: bool


@dataclass(frozen=True, slots=True)
class Request:
    """An A-ASSOCIATE-RQ."""

    protocol_version: int
    application_context: str
    called_aet: str
    calling_aet: str
    max_pdu: int  # that the peer takes; 0: any
    contexts: list[PresentationContext]
    roles: dict[UID, tuple[bool | None, bool | None]]  # as SCU, as SCP
    extended: dict[str, bytes]  # by SOP class
    identity: Identity | None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """An A-ASSOCIATE-AC, the contexts that it accepts, and what it agrees to by SOP class."""

    pdu: bytes
    contexts: dict[int, Context]
    extended: dict[str, bytes]


def parse(pdu: bytes) -> Request:
    """The request in a PDU. Raises Violation for what cannot be decoded."""
    try:
        decoded = A_ASSOCIATE_RQ()
        decoded.decode(pdu)
        request = _request(decoded.protocol_version, decoded.to_primitive())
    except Exception as exc:  # whatever malformed items do to pynetdicom
        raise Violation("the association request cannot be decoded", INVALID_VALUE) from exc
    if not all(context.abstract_syntax and context.transfer_syntax for context in request.contexts):
        raise Violation("a presentation context lacks its abstract syntax or an encoding", INVALID_VALUE)
    return request


def _request(version: int, primitive: A_ASSOCIATE) -> Request:
    max_pdu, identity = 0, None
    roles: dict[UID, tuple[bool | None, bool | None]] = {}
    extended: dict[str, bytes] = {}
    for item in primitive.user_information:
        if isinstance(item, MaximumLengthNotification):
            max_pdu = item.maximum_length_received
        elif isinstance(item, SCP_SCU_RoleSelectionNegotiation):
            roles[UID(str(item.sop_class_uid))] = (item.scu_role, item.scp_role)
        elif isinstance(item, SOPClassExtendedNegotiation):
            extended[str(item.sop_class_uid)] = item.service_class_application_information or b""
        elif isinstance(item, UserIdentityNegotiation):
            wants = bool(item.positive_response_requested)
            identity = Identity(
                item.user_identity_type or 0, item.primary_field or b"", item.secondary_field or b"", wants
            )
    return Request(
        protocol_version=version,
        application_context=str(primitive.application_context_name),
        called_aet=str(primitive.called_ae_title).strip(),
        calling_aet=_printable(str(primitive.calling_ae_title).strip()),
        max_pdu=max_pdu,
        contexts=primitive.presentation_context_definition_list,
        roles=roles,
        extended=extended,
        identity=identity,
    )


def _printable(title: str) -> str:
    """An AE title that may go into provenance and a file meta group; "" for one that is none."""
    return title[:16] if title.isascii() and title.isprintable() else ""


def accept(request: Request, supported: Supported, max_pdu: int, confirm_user: bool) -> Acceptance:
    """The acceptance: contexts, roles, extended negotiation; `confirm_user`: with a positive identity response."""
    results, roles = negotiate_as_acceptor(request.contexts, supported.out_of(request.contexts), request.roles)
    answer = A_ASSOCIATE()
    answer.application_context_name = UID(APPLICATION_CONTEXT)
    answer.calling_ae_title = request.calling_aet or "ANY"
    answer.called_ae_title = request.called_aet
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = results
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION
    answer.user_information = [length, implementation, version, *roles]
    accepted = {
        context.context_id: Context(
            context.context_id,
            str(context.abstract_syntax),
            str(context.transfer_syntax[0]),
            as_scp=bool(context.as_scp),
            as_scu=bool(context.as_scu),
        )
        for context in results
        if context.result == 0 and context.context_id is not None
    }
    extended: dict[str, bytes] = {}
    for abstract, proposal in request.extended.items():
        if any(context.abstract_syntax == abstract for context in accepted.values()):
            stored = abstract in supported.storage
            agreed = _STORAGE_SUPPORT[: len(proposal)] if stored else models.accepted(abstract, proposal)
            if agreed is not None:
                extended[abstract] = agreed
                item = SOPClassExtendedNegotiation()
                item.sop_class_uid, item.service_class_application_information = UID(abstract), agreed
                answer.user_information.append(item)
    if confirm_user:
        confirmation = UserIdentityNegotiation()
        confirmation.server_response = b""
        answer.user_information.append(confirmation)
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(answer)
    return Acceptance(pdu.encode(), accepted, extended)


def sendable(max_pdu: int) -> int:
    """How long our PDUs to a peer may be that announced `max_pdu` (0: any)."""
    return min(max_pdu or LARGEST_SENT, LARGEST_SENT)
