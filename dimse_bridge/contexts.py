"""Which presentation contexts are accepted (PS3.8 9.3.3.2): those of services, and of storage in any encoding."""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final

from pydicom._uid_dict import UID_dictionary  # the only list of all registered UIDs
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext

from dimse_bridge import models

VERIFICATION: Final = "1.2.840.10008.1.1"
COMMITMENT: Final = "1.2.840.10008.1.20.1"
MODALITY_WORKLIST: Final = "1.2.840.10008.5.1.4.31"
MPPS_NOTIFICATION: Final = "1.2.840.10008.3.1.2.3.5"

IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
DEFLATED_LE: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE: Final = "1.2.840.10008.1.2.2"

# Not in pynetdicom's list: retired classes that old modalities and archives still send, and those of DICOS and DICONDE.
# Not taken are objects without a patient (hanging protocols, implant templates, colour palettes): they have no study.
_MORE_STORAGE: Final = frozenset(
    "1.2.840.10008.5.1.4.1.1." + tail
    for tail in (
        *("3", "5", "6", "8", "9", "9.1", "10", "11", "12.3", "77.1", "77.2"),
        *("88.1", "88.2", "88.3", "88.4", "129"),
        *("501.1", "501.2.1", "501.2.2", "501.3", "501.4", "501.5", "501.6", "601.1", "601.2"),
    )
) | {"1.2.840.10008.5.1.1.29", "1.2.840.10008.5.1.1.30", "1.2.840.10008.5.1.4.34.1"}
_NO_PATIENT: Final = ("1.2.840.10008.5.1.4.38.", "1.2.840.10008.5.1.4.39.", "1.2.840.10008.5.1.4.43.")
STORAGE_CLASSES: Final = _MORE_STORAGE | frozenset(
    str(context.abstract_syntax)
    for context in AllStoragePresentationContexts
    if not str(context.abstract_syntax).startswith(_NO_PATIENT)
)

# MIME, XML and Papyrus never became encodings on a network; ST 2110 is for live streams; a JPIP object holds no pixels.
_NOT_STORED: Final = frozenset(
    f"1.2.840.10008.1.{tail}"
    for tail in ("2.6.1", "2.6.2", "20", "2.7.1", "2.7.2", "2.7.3", "2.4.94", "2.4.95", "2.4.204", "2.4.205")
)
TRANSFER_SYNTAXES: Final = (
    frozenset(uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax") - _NOT_STORED
)
# Among native encodings the explicit ones are read without guessing a VR.
_NATIVE: Final = {EXPLICIT_LE: 0, DEFLATED_LE: 1, IMPLICIT_LE: 2, EXPLICIT_BE: 3}
# Identifiers are small: nothing to deflate, and nothing that could inflate.
_MESSAGE: Final = (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE)

_PERMISSIONS: Final = {
    VERIFICATION: "echo",
    COMMITMENT: "commitment",
    MODALITY_WORKLIST: "worklist",
    MPPS_NOTIFICATION: "mpps",
    **dict.fromkeys(models.FIND, "find"),
    **dict.fromkeys(models.MOVE, "move"),
    **dict.fromkeys(models.GET, "get"),
}


def service_of(sop_class: str) -> str:
    """The service of a SOP class that we ask for, by the name that its permission has; all others are stored."""
    return _PERMISSIONS.get(sop_class, "store")


def _storage_syntaxes(proposals: list[list[str]]) -> list[str]:
    """The encodings that can be stored out of those proposed for one class, best first.

    Compressed ones come first, in the sender's order, when the sender named one first: that is how the object lies
    there.
    """
    known = [
        uid for uid in dict.fromkeys(uid for syntaxes in proposals for uid in syntaxes) if uid in TRANSFER_SYNTAXES
    ]
    native = sorted((uid for uid in known if uid in _NATIVE), key=_NATIVE.__getitem__)
    compressed = [uid for uid in known if uid not in _NATIVE]
    if any(syntaxes and syntaxes[0] in compressed for syntaxes in proposals):
        return compressed + native
    return native + compressed


@dataclass(frozen=True, slots=True)
class Supported:
    """The abstract syntaxes that an acceptor takes."""

    storage: Container[str]
    services: Container[str]

    def out_of(self, requested: Iterable[PresentationContext]) -> list[PresentationContext]:
        """What is supported out of what a peer requests: one context per abstract syntax.

        Built from the request, as the full list (200 classes with 50 encodings each) would be copied for every
        association.
        """
        proposed: dict[str, list[list[str]]] = {}
        for context in requested:
            proposed.setdefault(str(context.abstract_syntax), []).append([str(uid) for uid in context.transfer_syntax])
        supported = []
        for abstract, proposals in proposed.items():
            stored = abstract in self.storage
            if not stored and abstract not in self.services:
                continue
            context = PresentationContext()
            context.abstract_syntax = abstract
            # With an encoding that nobody proposed the context is refused for its encodings, not for its class.
            context.transfer_syntax = list((stored and _storage_syntaxes(proposals)) or _MESSAGE)
            if stored or abstract == COMMITMENT:
                # A peer that gets (C-GET) proposes to be the SCP of what we then send (PS3.7 D.3.3.4), and so does one
                # that answers a request of ours for commitment (PS3.4 J.3.3).
                context.scu_role = context.scp_role = True
            supported.append(context)
        return supported
