"""C-MOVE (PS3.4 C.4.2): instances go to a declared application entity, over an association that we ask for."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

from pynetdicom.dimse_primitives import C_MOVE, DIMSEPrimitive

from dicomweb.errors import PeerFailed, Unavailable
from dimse_bridge import models, status
from dimse_bridge.logs import log_event
from dimse_bridge.retrieve import SubOperations, keys_of
from dimse_bridge.scu import Requestor
from dimse_bridge.sending import Outcome, Sender
from dimse_bridge.service import Entry, Exchange
from storage.ahead import with_next
from storage.modalities import Modality
from storage.retrieve import Instance
from storage.selection import Selection, UniqueKeys

# Moves that one application entity may have running in a process.
_MOVES: Final = 4
# How often a C-CANCEL is looked for, and how often a pending response may be due, while an instance is being sent.
_TICK: Final = 0.25


class MoveService:
    """Serves C-MOVE. `requestor` makes the associations, and bounds how many there are."""

    def __init__(self, requestor: Requestor) -> None:
        self._requestor = requestor
        self._running: Counter[tuple[str, str]] = Counter()

    def entries(self) -> Mapping[tuple[type[DIMSEPrimitive], str], Entry]:
        """What it serves."""
        return {(C_MOVE, sop_class): Entry(self.move, "move") for sop_class in models.MOVE}

    async def move(self, exchange: Exchange) -> None:
        """Serve one C-MOVE."""
        association, keys = exchange.association, keys_of(exchange, models.MOVE)
        caller = association.calling_aet, association.peer
        if self._running[caller] >= _MOVES:
            await exchange.respond(status.SUB_OPERATIONS_FAILED, comment=f"{_MOVES} moves of yours are running already")
            return
        self._running[caller] += 1
        try:
            await self._move(exchange, keys)
        finally:
            self._running[caller] -= 1
            if not self._running[caller]:
                del self._running[caller]

    async def _move(self, exchange: Exchange, keys: UniqueKeys) -> None:
        association, request = exchange.association, exchange.request
        assert isinstance(request, C_MOVE)
        archive, access = association.archive, association.access
        wanted = str(request.MoveDestination or "").strip()
        destination = await archive.modalities.by_aet(access, wanted) if wanted else None
        if destination is None:
            log_event("move-refused", peer=association.peer, status=status.UNKNOWN_DESTINATION)
            await exchange.respond(status.UNKNOWN_DESTINATION, comment="the move destination is not declared here")
            return
        try:
            found = await archive.selection.select(access, keys)
            kinds = await archive.selection.kinds(access, keys) if found.count else []
        except Unavailable as error:
            await exchange.respond(status.CANNOT_COUNT, comment=error.message)
            return
        originator = association.calling_aet, request.MessageID or 0
        sender = Sender(self._requestor, access, destination, kinds, originator)
        await _send_all(exchange, found, sender, destination)


async def _send_all(exchange: Exchange, found: Selection, sender: Sender, destination: Modality) -> None:
    operations, comment = SubOperations(exchange, found.count), ""
    async with sender, aclosing(with_next(found.instances())) as instances:
        async for instance, following in instances:
            try:
                outcome = await _sent(operations, sender, instance, following)
            except (PeerFailed, Unavailable) as error:
                log_event("move-failed", peer=destination.host, reason=error.message)
                comment = error.message
                await operations.give_up(instance.sop, (each async for each, _ in instances))
                break
            if outcome is None:
                break
            await operations.add(instance.sop, outcome.status)
    await operations.end(comment)


async def _sent(
    operations: SubOperations, sender: Sender, instance: Instance, following: Instance | None
) -> Outcome | None:
    """Send one instance; None when the peer cancelled meanwhile, which cuts the association with the destination."""
    work: asyncio.Task[Outcome] | None = None
    while not operations.is_cancelled():
        work = work or asyncio.create_task(sender.send(instance, following))
        try:
            done, _ = await asyncio.wait([work], timeout=_TICK)
            if done:
                return work.result()
            await operations.progress()
        except BaseException:
            await _stopped(work)
            raise
    if work is not None:
        await _stopped(work)
    return None


async def _stopped(work: "asyncio.Task[Outcome]") -> None:
    work.cancel()
    await asyncio.wait([work])
