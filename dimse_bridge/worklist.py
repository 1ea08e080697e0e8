"""Modality worklist C-FIND (PS3.4 annex K)."""

from contextlib import aclosing
from typing import Final

import orjson
from pynetdicom.dimse_primitives import C_FIND, DIMSEPrimitive

from dicomweb import scheduled_steps
from dicomweb.identifier import IdentifierWriter, read_identifier
from dicomweb.repertoire import answers_in
from dimse_bridge import status
from dimse_bridge.contexts import MODALITY_WORKLIST
from dimse_bridge.service import Entry, Exchange


async def find(exchange: Exchange) -> None:
    """Serve one C-FIND: an answer for each item, in the order of the schedule, then the final status."""
    association, syntax = exchange.association, exchange.context.transfer_syntax
    archive = association.archive
    identifier = read_identifier(exchange.identifier, syntax)
    asked = scheduled_steps.find(identifier, archive.settings.qido_max_limit)
    character_sets = answers_in(archive.settings.dimse_character_set.encode() or identifier.character_set)
    writer = IdentifierWriter(syntax)
    pending = status.PENDING_PARTIAL if asked.partial else status.PENDING
    access = association.access.with_scope("worklist.read")  # whoever has the permission `worklist`
    async with aclosing(archive.modality_worklist.items(access, asked.query)) as matches:
        async for found in matches:
            if exchange.cancelled:
                break
            if found is None:
                await exchange.respond(status.OUT_OF_RESOURCES, comment=f"more than {asked.query.limit} matches")
                return
            await exchange.respond(
                pending, identifier=writer.write(asked.answer(orjson.loads(found.attributes)), character_sets)
            )
    await exchange.respond(status.CANCELLED if exchange.cancelled else status.SUCCESS)


ENTRIES: Final[dict[tuple[type[DIMSEPrimitive], str], Entry]] = {(C_FIND, MODALITY_WORKLIST): Entry(find, "worklist")}
