"""Who may have an association, and for what: titles, permissions, users (PS3.8 7.1.1, PS3.7 D.3.3.7)."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pynetdicom.dimse_primitives import DIMSEPrimitive

from dicomweb.errors import Unavailable
from dimse_bridge import negotiation
from dimse_bridge.contexts import Supported
from dimse_bridge.messages import SMALLEST_SENT
from dimse_bridge.service import Entry
from dimse_bridge.store import Begin
from dimse_bridge.traffic import Traffic
from dimse_bridge.users import Verifier
from storage.access import Access
from storage.archive import Archive
from storage.modalities import Modality, Welcome

# What a permission is worth as scopes of the archive.
_SCOPES: Final[Mapping[str, frozenset[str]]] = {
    "store": frozenset({"dicom.write"}),
    "find": frozenset({"dicom.search"}),
    "get": frozenset({"dicom.search", "dicom.read", "dicom.metadata"}),
    "move": frozenset({"dicom.search", "dicom.read", "dicom.metadata", "dimse.read"}),
    "commitment": frozenset({"dicom.search", "dicom.metadata", "dimse.read"}),
    "worklist": frozenset({"worklist.read"}),
    "mpps": frozenset({"worklist.read", "worklist.write"}),
}


@dataclass(frozen=True, slots=True)
class Application:
    """What an acceptor offers, and to whom; without an archive none of its services may ask for one."""

    archive: Archive | None
    supported: Supported
    services: Mapping[tuple[type[DIMSEPrimitive], str], Entry]
    begin_store: Begin
    # Of called and calling AE title, address, and what the peer's certificate proves.
    welcome: Callable[[str, str, str, frozenset[str]], Awaitable[Welcome | None]]
    verifiers: Mapping[int, Verifier] = field(default_factory=dict)  # of user identities, by their type
    require_user: bool = False
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a peer may do; `verified`: its user has been."""

    access: Access
    allow: frozenset[str]
    modality: Modality | None
    verified: bool


class Refused(Exception):
    """The association is rejected: result, source and reason for the peer, and why in our words."""

    def __init__(self, rejection: tuple[int, int, int], why: str) -> None:
        super().__init__(why)
        self.rejection = rejection


async def admit(application: Application, request: negotiation.Request, peer: str, shown: frozenset[str]) -> Admitted:
    """Decide on an association request from address `peer`; `shown`: what its certificate proves. Raises Refused."""
    if not request.protocol_version & 1:
        raise Refused(negotiation.PROTOCOL_VERSION_UNKNOWN, "another protocol version")
    if request.application_context != negotiation.APPLICATION_CONTEXT:
        raise Refused(negotiation.APPLICATION_CONTEXT_UNKNOWN, "another application context than DICOM's")
    if 0 < request.max_pdu < SMALLEST_SENT:
        raise Refused(negotiation.NO_REASON, "takes PDUs of a few bytes only")
    try:
        welcome = await application.welcome(request.called_aet, request.calling_aet, peer, shown)
        if welcome is None:
            raise Refused(negotiation.CALLED_TITLE_UNKNOWN, "the called AE title is not ours")
        if not welcome.allow:
            raise Refused(negotiation.CALLING_TITLE_UNKNOWN, "nothing is allowed to the calling AE title")
        user = await _user(application, request.identity)
    except Unavailable as error:
        raise Refused(negotiation.CONGESTED, "the archive cannot be asked") from error
    # Who it is, is its own claim, unless a user says more.
    principal = f"dimse:{user + ':' if user else ''}{request.calling_aet}@{peer}"
    scopes = frozenset[str]().union(*(_SCOPES.get(permission, ()) for permission in welcome.allow))
    access = Access(welcome.tenant, principal, scopes, welcome.labels)
    return Admitted(access, welcome.allow, welcome.modality, user is not None)


async def _user(application: Application, identity: negotiation.Identity | None) -> str | None:
    """The user that the peer has proved to be, None where nobody needs to be. Raises Refused."""
    verifier = application.verifiers.get(identity.kind) if identity is not None else None
    if identity is None or verifier is None:
        if application.require_user:
            raise Refused(negotiation.NO_REASON, "no user was identified in a way that we can verify")
        return None
    user = await verifier.verify(identity)
    if user is None:
        raise Refused(negotiation.NO_REASON, "the user is not known, or the passcode is wrong")
    return user
