"""Which service performs a request: by its message and the abstract syntax of its presentation context."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pynetdicom.dimse_primitives import C_ECHO, DIMSEPrimitive

from dimse_bridge import commitment, commitment_reports, find, performed_step, retrieve, status, worklist
from dimse_bridge.contexts import VERIFICATION
from dimse_bridge.move import MoveService
from dimse_bridge.scu import Requestor
from dimse_bridge.service import Entry, Exchange


async def echo(exchange: Exchange) -> None:
    """C-ECHO (PS3.4 annex A)."""
    await exchange.respond(status.SUCCESS)


ECHO: Final = {(C_ECHO, VERIFICATION): Entry(echo, "echo")}


def services(requestor: Requestor) -> Mapping[tuple[type[DIMSEPrimitive], str], Entry]:
    """All services; `requestor` makes the associations that some of them need."""
    return MappingProxyType(
        {
            **ECHO,
            **find.ENTRIES,
            **retrieve.ENTRIES,
            **MoveService(requestor).entries(),
            **commitment.ENTRIES,
            **commitment_reports.ENTRIES,
            **worklist.ENTRIES,
            **performed_step.ENTRIES,
        }
    )
