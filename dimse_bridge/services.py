"""Which service performs a request: by its message and the abstract syntax of its presentation context."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pynetdicom.dimse_primitives import C_ECHO, DIMSEPrimitive

from dimse_bridge import performed_step, status, worklist
from dimse_bridge.contexts import VERIFICATION
from dimse_bridge.service import Entry, Exchange


async def echo(exchange: Exchange) -> None:
    """C-ECHO (PS3.4 annex A)."""
    await exchange.respond(status.SUCCESS)


SERVICES: Final[Mapping[tuple[type[DIMSEPrimitive], str], Entry]] = MappingProxyType(
    {
        (C_ECHO, VERIFICATION): Entry(echo, "echo"),
        **worklist.ENTRIES,
        **performed_step.ENTRIES,
    }
)
