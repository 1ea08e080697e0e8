"""What a DIMSE service sees: the association that it serves, and one request on it (PS3.7 chapters 8 to 10).

C-STORE is no such service: its data set is streamed and never collected.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pynetdicom.dimse_primitives import DIMSEPrimitive

from storage.access import Access
from storage.archive import Archive


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context, with the roles that are ours in it (PS3.7 D.3.3.4)."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    as_scp: bool = True
    as_scu: bool = False


class Modality(Protocol):
    """A declared application entity, as far as negotiation is concerned."""

    @property
    def name(self) -> str:
        """The name under which it was declared."""

    @property
    def aet(self) -> str:
        """Its application entity title."""


# An encoded data set, or its pieces as they come, of any size.
DataSet: TypeAlias = bytes | AsyncIterator[bytes]


class AskFailed(Exception):
    """A request of ours got no response: no fitting context, the peer is gone or too slow, or sent something else."""


class Association(Protocol):
    """What a service may know of the association that it serves."""

    @property
    def peer(self) -> str:
        """The address of the peer."""

    @property
    def calling_aet(self) -> str:
        """What the peer calls itself."""

    @property
    def called_aet(self) -> str:
        """What the peer calls us: one of our own titles."""

    @property
    def access(self) -> Access:
        """Tenant and scopes that negotiation gave to this peer."""

    @property
    def modality(self) -> Modality | None:
        """The declared application entity, if it is one."""

    @property
    def contexts(self) -> Mapping[int, Context]:
        """The accepted presentation contexts by their ID."""

    @property
    def extended(self) -> Mapping[str, bytes]:
        """By SOP class what was agreed to of its extended negotiation (PS3.7 D.3.3.5)."""

    @property
    def archive(self) -> Archive:
        """The archive that is served."""

    async def ask(self, context_id: int, request: DIMSEPrimitive, data: DataSet | None = None) -> DIMSEPrimitive:
        """Send a request of ours (N-EVENT-REPORT) and return the response.

        `data` is the encoded data set; without it the request has none. The message ID is set here. Raises AskFailed
        when there will be no response.
        """

    async def store(self, context_id: int, sop_class: str, sop_instance: str, priority: int, data: DataSet) -> int:
        """Send a C-STORE of ours (of a C-GET) and return the status of the response. Raises as `ask`.

        It is `ask` without a primitive: to make and to check those takes more time than all the rest of a small one.
        """


class Exchange(Protocol):
    """One request on an association, as its service sees it."""

    @property
    def association(self) -> Association:
        """Where the request came."""

    @property
    def context(self) -> Context:
        """The presentation context of the request."""

    @property
    def request(self) -> DIMSEPrimitive:
        """The primitive of pynetdicom (C_FIND, N_ACTION, ...) without its data set."""

    @property
    def identifier(self) -> bytes:
        """The encoded data set that came with the request, bounded by the limits; empty where there was none."""

    @property
    def cancelled(self) -> bool:
        """Whether a C-CANCEL came for the request."""

    async def respond(
        self,
        status: int,
        *,
        comment: str = "",
        identifier: bytes | None = None,
        hold: bool = False,
        **elements: object,
    ) -> None:
        """Send one response, pending (0xFF00, 0xFF01) or final; returns when the peer may take more.

        `identifier` is the encoded data set of the response. `elements` are elements of the command set by their
        keyword, e.g. NumberOfRemainingSuboperations=3; the UIDs and the message ID of the request are repeated without
        being named. `comment` is cut to the 64 characters of an Error Comment. `hold`: the next response follows at
        once, and takes this one along.
        """


Service: TypeAlias = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Entry:
    """How requests of one kind are served, and the permission that a peer needs for it.

    The service sends a final response; what it raises becomes one by the table in `status`.
    """

    service: Service
    permission: str
