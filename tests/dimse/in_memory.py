"""An association without a network: what a service is given, and what it answered."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_STORE, DIMSEPrimitive
from pynetdicom.dsutils import decode

from dimse_bridge.service import Context, DataSet
from storage.access import LOCAL, Access
from storage.archive import Archive
from storage.modalities import Modality
from storage.provenance import Provenance
from tests.dimse.wire import EXPLICIT_LE

Peer = Callable[[Context, DIMSEPrimitive, bytes], Awaitable[DIMSEPrimitive]]


@dataclass
class Association:
    archive: Archive
    contexts: Mapping[int, Context]
    answer: Peer | None = None  # what the peer answers to our requests
    peer: str = "127.0.0.1"
    calling_aet: str = "PEER"
    called_aet: str = "ANOR"
    access: Access = LOCAL
    modality: Modality | None = None
    extended: Mapping[str, bytes] = field(default_factory=dict)

    async def ask(self, context_id: int, request: DIMSEPrimitive, data: DataSet | None = None) -> DIMSEPrimitive:
        assert self.answer is not None
        return await self.answer(self.contexts[context_id], request, b"" if data is None else await whole(data))

    async def store(self, context_id: int, sop_class: str, sop_instance: str, priority: int, data: DataSet) -> int:
        request = C_STORE()
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = UID(sop_class), UID(sop_instance)
        request.Priority = priority
        answer = await self.ask(context_id, request, data)
        assert answer.Status is not None
        return answer.Status


async def whole(data: DataSet) -> bytes:
    return data if isinstance(data, bytes) else b"".join([piece async for piece in data])


@dataclass
class Exchange:
    association: Association
    context: Context
    request: DIMSEPrimitive
    identifier: bytes = b""
    cancel_after: int | None = None  # responses after which the peer cancels
    responses: list[tuple[int, bytes | None, dict[str, Any]]] = field(default_factory=list)

    @property
    def cancelled(self) -> bool:
        return self.cancel_after is not None and len(self.responses) >= self.cancel_after

    async def respond(
        self,
        status: int,
        *,
        comment: str = "",
        identifier: bytes | None = None,
        hold: bool = False,
        **elements: object,
    ) -> None:
        self.responses.append((status, identifier, elements | ({"ErrorComment": comment} if comment else {})))

    @property
    def statuses(self) -> list[int]:
        return [status for status, _, _ in self.responses]

    def data_sets(self) -> list[Dataset]:
        syntax = self.context.transfer_syntax
        implicit, little = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
        return [decode(BytesIO(data), implicit, little) for _, data, _ in self.responses if data is not None]


def exchange(
    archive: Archive,
    request: DIMSEPrimitive,
    abstract_syntax: str,
    identifier: bytes,
    *,
    syntax: str = EXPLICIT_LE,
    contexts: Mapping[int, Context] | None = None,
    **association: Any,
) -> Exchange:
    """One request on an association of its own."""
    own = Context(1, abstract_syntax, syntax)
    made = Association(archive, {1: own, **(contexts or {})}, **association)
    return Exchange(made, own, request, identifier)


async def stored(archive: Archive, *files: bytes) -> None:
    """Store Part 10 files."""
    for file in files:
        spool = archive.new_spool()
        await spool.write(file)
        await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
