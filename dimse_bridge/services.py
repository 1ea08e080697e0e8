"""Which service performs a request: by its message and the abstract syntax of its presentation context."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pynetdicom.dimse_primitives import C_ECHO, DIMSEPrimitive

from dimse_bridge import find, performed_step, status, worklist
from dimse_bridge.contexts import VERIFICATION
from dimse_bridge.service import Entry, Exchange


async def echo(exchange: Exchange) -> None:
    """C-ECHO (PS3.4 annex A)."""
    await exchange.respond(status.SUCCESS)


ECHO: Final = {(C_ECHO, VERIFICATION): Entry(echo, "echo")}

SERVICES: Final[Mapping[tuple[type[DIMSEPrimitive], str], Entry]] = MappingProxyType(
    {
        key: entry
        for table in (ECHO, find.ENTRIES, worklist.ENTRIES, performed_step.ENTRIES)
        for key, entry in table.items()
    }
)
