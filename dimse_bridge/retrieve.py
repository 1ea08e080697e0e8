"""C-GET (PS3.4 C.4.3), and what it shares with C-MOVE: which instances are meant, how sub-operations are counted."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from pynetdicom.dimse_primitives import C_GET

from dicomweb.errors import ArchiveError, BadQuery, IdentityMismatch, Unavailable
from dicomweb.identifier import Identifier, IdentifierWriter, read_identifier
from dicomweb.repertoire import ASCII
from dicomweb.tags import Level
from dicomweb.uids import is_uid
from dimse_bridge import models, status
from dimse_bridge.logs import log_crash, log_event
from dimse_bridge.service import Association, Entry, Exchange
from storage.retrieve import Instance
from storage.selection import UniqueKeys

_TAGS: Final = {
    Level.PATIENT: "00100020",
    Level.STUDY: "0020000D",
    Level.SERIES: "0020000E",
    Level.INSTANCE: "00080018",
}
_ORDER: Final = tuple(_TAGS)
_ACCESSION: Final = "00080050"
_FAILED_LIST: Final = "00080058"
# Failed instances that are named: more do not fit into a value with a length of 16 bits (PS3.5 7.1.2).
_NAMED: Final = 1000
# A pending response after so many sub-operations, or seconds.
_EACH: Final = 10
_SECONDS: Final = 1.0
_WARNINGS: Final = frozenset((0xB000, 0xB006, 0xB007))


def unique_keys(encoded: bytes, transfer_syntax: str, levels: tuple[Level, ...]) -> UniqueKeys:
    """What a C-GET-RQ or C-MOVE-RQ identifier names: the level's unique key, and those above that are given.

    Keys of upper levels may be missing (relational retrieval, PS3.4 C.4.2.2.2), and all may be lists. Accession numbers
    name studies where there is no UID: no unique key by the standard, but Orthanc takes it, and workstations rely on
    that. Raises IdentityMismatch where the level is none of the information model's or its key is missing, BadQuery for
    a malformed UID.
    """
    identifier = read_identifier(encoded, transfer_syntax)
    level = models.level_named(identifier.get("00080052"), levels)
    wanted = _ORDER[: _ORDER.index(level) + 1]
    named = {each: _values(identifier, each) if each in wanted else () for each in _ORDER}
    by_accession = level is Level.STUDY and not named[level]
    accessions = _split(identifier.get(_ACCESSION)) if by_accession else ()
    if not named[level] and not accessions:
        raise IdentityMismatch(f"the unique key of the {models.NAMES[level]} level is missing")
    return UniqueKeys(named[Level.PATIENT], named[Level.STUDY], named[Level.SERIES], named[Level.INSTANCE], accessions)


def _values(identifier: Identifier, level: Level) -> tuple[str, ...]:
    values = _split(identifier.get(_TAGS[level]))
    if level is not Level.PATIENT and not all(map(is_uid, values)):
        raise BadQuery(f"the unique key of the {models.NAMES[level]} level has a value that is no UID")
    return values


def _split(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for each in text.split("\\") if (value := each.strip(" \0"))))


def keys_of(exchange: Exchange, levels: Mapping[str, tuple[Level, ...]]) -> UniqueKeys:
    """What the request names, by the levels of each SOP class. Raises as `unique_keys`."""
    context = exchange.context
    return unique_keys(exchange.identifier, context.transfer_syntax, levels[context.abstract_syntax])


@dataclass(slots=True)
class SubOperations:
    """How far a retrieve is (PS3.7 9.1.3.1), and its responses."""

    exchange: Exchange
    total: int
    done: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    _said: tuple[int, float] = (-_EACH, 0.0)  # operations and time of the last pending response

    def is_cancelled(self) -> bool:
        """Whether the peer wants no more."""
        return self.exchange.cancelled

    async def add(self, sop: str, code: int) -> None:
        """One more has ended, with the status of its C-STORE response; says so from time to time."""
        outcome = "Completed" if code == status.SUCCESS else "Warning" if code in _WARNINGS else "Failed"
        self.done[outcome] += 1
        if outcome == "Failed" and len(self.failed) < _NAMED:
            self.failed.append(sop)
        await self.progress()

    async def progress(self) -> None:
        """A pending response, where one is due."""
        ended, now = self.done.total(), asyncio.get_running_loop().time()
        if ended - self._said[0] >= _EACH or now - self._said[1] >= _SECONDS:
            self._said = ended, now
            await self.exchange.respond(status.PENDING, **self._counts(remaining=True))

    async def give_up(self, sop: str, rest: AsyncGenerator[Instance, None]) -> None:
        """Nothing more can be sent: this instance has failed, and so have those that would have followed."""
        names = [sop]
        while len(self.failed) + len(names) < _NAMED and (instance := await anext(rest, None)) is not None:
            names.append(instance.sop)
        self.failed += names
        self.done["Failed"] += max(len(names), self.total - self.done.total())

    async def end(self, comment: str = "") -> None:
        """The final response."""
        failed, sent = self.done["Failed"], self.done["Completed"] + self.done["Warning"]
        if self.exchange.cancelled:
            code = status.CANCELLED
        elif not failed and not self.done["Warning"]:
            code = status.SUCCESS
        else:
            code = status.SUB_OPERATIONS_WARNING if sent else status.SUB_OPERATIONS_FAILED
        identifier = None
        if self.failed:
            writer = IdentifierWriter(self.exchange.context.transfer_syntax)
            identifier = writer.write({_FAILED_LIST: {"vr": "UI", "Value": self.failed}}, [ASCII])
        counts = self._counts(remaining=code == status.CANCELLED)
        await self.exchange.respond(code, comment=comment, identifier=identifier, **counts)

    def _counts(self, *, remaining: bool) -> dict[str, Any]:
        counts: dict[str, Any] = {
            f"NumberOf{name}Suboperations": self.done[name] for name in ("Completed", "Failed", "Warning")
        }
        if remaining:
            counts["NumberOfRemainingSuboperations"] = max(0, self.total - self.done.total())
        return counts


class Prepared(NamedTuple):
    """An instance whose data set can be sent, its first piece read; or, without data, why not: `code`."""

    instance: Instance
    code: int
    context_id: int = 0
    data: bytes | AsyncGenerator[bytes, None] | None = None

    async def close(self) -> None:
        """Nobody reads the data any more."""
        if isinstance(self.data, AsyncGenerator):
            await self.data.aclose()


# SOP class -> transfer syntax -> presentation context.
Ways = Mapping[str, Mapping[str, int]]


def ways(association: Association) -> Ways:
    """In which contexts we may send what: those in which we are the SCU (PS3.7 D.3.3.4)."""
    found: dict[str, dict[str, int]] = {}
    for context in association.contexts.values():
        if context.as_scu:
            found.setdefault(context.abstract_syntax, {}).setdefault(context.transfer_syntax, context.id)
    return found


async def _prepared(association: Association, by_class: Ways, instance: Instance) -> Prepared:
    by_syntax = by_class.get(instance.sop_class, {})
    if not by_syntax:
        return Prepared(instance, status.SOP_CLASS_NOT_SUPPORTED)
    try:
        syntax, data = await association.archive.data_sets.open(association.access, instance, _in_order(by_syntax))
    except ArchiveError as error:
        code = status.of_unsent(error)
        log_event("get-failed", peer=association.peer, status=code, reason=error.message)
        return Prepared(instance, code)
    return Prepared(instance, status.SUCCESS, by_syntax[syntax], data)


def _in_order(by_syntax: Mapping[str, int]) -> Collection[str]:
    return sorted(by_syntax, key=by_syntax.__getitem__)  # as the peer proposed them


async def _ahead(association: Association, instances: AsyncGenerator[Instance, None]) -> AsyncGenerator[Prepared, None]:
    """Each instance ready to be sent: the next one is fetched while one is being sent."""
    prepare = partial(_prepared, association, ways(association))
    waiting: asyncio.Task[Prepared] | None = None
    try:
        async with aclosing(instances):
            async for instance in instances:
                current, waiting = waiting, asyncio.create_task(prepare(instance))
                if current is not None:
                    yield await current
        if waiting is not None:
            yield await waiting
    finally:
        if waiting is not None:
            await _dropped(waiting)


async def _dropped(task: "asyncio.Task[Prepared]") -> None:
    """Nobody wants the result any more."""
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        await task.result().close()
    else:
        log_crash("get-failed", error)


async def get(exchange: Exchange) -> None:
    """Serve one C-GET: C-STOREs on this association, in the contexts in which the peer is the SCP."""
    archive, access = exchange.association.archive, exchange.association.access
    try:
        found = await archive.selection.select(access, keys_of(exchange, models.GET))
    except Unavailable as error:
        await exchange.respond(status.CANNOT_COUNT, comment=error.message)
        return
    operations = SubOperations(exchange, found.count)
    async with aclosing(_ahead(exchange.association, found.instances())) as prepared:
        async for each in prepared:
            if exchange.cancelled:
                await each.close()
                break
            await operations.add(each.instance.sop, await _sent(exchange, each))
    await operations.end()


async def _sent(exchange: Exchange, prepared: Prepared) -> int:
    """The status of a sub-operation."""
    instance, asked, data = prepared.instance, exchange.request, prepared.data
    if data is None:
        return prepared.code
    priority = asked.Priority if isinstance(asked, C_GET) else 0
    try:
        return await exchange.association.store(prepared.context_id, instance.sop_class, instance.sop, priority, data)
    finally:
        await prepared.close()


ENTRIES: Final = {(C_GET, sop_class): Entry(get, "get") for sop_class in models.GET}
