"""Who is connected: newcomers of this process, and the associations of all processes that share the port.

Connections that have not asked for an association never keep others out: the oldest of them makes room for the newest.
"""

import ipaddress
import mmap
from collections.abc import Iterator
from typing import Final, Protocol

from dimse_bridge.limits import Limits

_SLOT: Final = 16  # an IPv6 address, or an IPv4 one mapped into it
_FREE: Final = bytes(_SLOT)
_LOAD: Final = 4  # bytes that say how many connections the process has
_NOT_READY: Final = b"\xff" * _LOAD


class Board:
    """What the processes know of each other: memory that they inherited, in which each writes its own row only.

    So no lock is needed. Two processes that admit at the very same moment may exceed a limit by one; a process that
    died leaves its row until its successor clears it.
    """

    def __init__(self, processes: int, associations: int) -> None:
        self.processes = processes
        self._row = _LOAD + associations * _SLOT
        self._memory = mmap.mmap(-1, processes * self._row)
        for process in range(processes):
            self._memory[process * self._row : process * self._row + _LOAD] = _NOT_READY

    @property
    def ready(self) -> bool:
        """Whether every process has begun."""
        return all(self._memory[p * self._row : p * self._row + _LOAD] != _NOT_READY for p in range(self.processes))

    def clear(self, process: int) -> None:
        """Begin the row of a process that has no connections."""
        self._memory[process * self._row : (process + 1) * self._row] = bytes(self._row)

    def report(self, process: int, connections: int) -> None:
        """Say how many connections a process has."""
        at = process * self._row
        self._memory[at : at + _LOAD] = connections.to_bytes(_LOAD, "little")

    def load(self, process: int) -> int:
        """How many connections a process has."""
        at = process * self._row
        return int.from_bytes(self._memory[at : at + _LOAD], "little")

    def addresses(self) -> Iterator[bytes]:
        """The address of each association of all processes."""
        for process in range(self.processes):
            start = process * self._row
            row = self._memory[start + _LOAD : start + self._row]
            for at in range(0, len(row), _SLOT):
                if row[at : at + _SLOT] != _FREE:
                    yield row[at : at + _SLOT]

    def occupy(self, process: int, address: bytes) -> int | None:
        """Put an address into a free slot of a process; the slot, or None when there is none."""
        start = process * self._row + _LOAD
        for at in range(start, start + self._row - _LOAD, _SLOT):
            if self._memory[at : at + _SLOT] == _FREE:
                self._memory[at : at + _SLOT] = address
                return at
        return None

    def vacate(self, slot: int) -> None:
        """Free a slot."""
        self._memory[slot : slot + _SLOT] = _FREE


class Evictable(Protocol):
    """A connection that can be told to go."""

    peer: str

    def evict(self) -> None:
        """Close the connection now."""


class Peers:
    """The connections of one process, admitted with a look at those of the others."""

    def __init__(self, limits: Limits, board: Board | None = None, process: int = 0) -> None:
        self._limits = limits
        self._board = board or Board(1, limits.max_associations)
        self._process = process
        self._pending: dict[int, Evictable] = {}  # in order of arrival
        self._established: dict[int, int] = {}  # the slot of each
        self._board.clear(process)

    def arrive(self, connection: Evictable) -> None:
        """Take a new connection; of too many newcomers the oldest of the same address, else of all, has to go."""
        if len(self._pending) >= self._limits.max_pending:
            same = (c for c in self._pending.values() if c.peer == connection.peer)
            oldest = next(same, None) or next(iter(self._pending.values()))
            del self._pending[id(oldest)]
            oldest.evict()
        self._pending[id(connection)] = connection
        self._report()

    def establish(self, connection: Evictable) -> bool:
        """Whether the connection may become an association; it is no newcomer any more."""
        self._pending.pop(id(connection), None)
        address = _packed(connection.peer)
        taken = list(self._board.addresses())
        if len(taken) < self._limits.max_associations and taken.count(address) < self._limits.max_associations_per_peer:
            slot = self._board.occupy(self._process, address)
            if slot is not None:
                self._established[id(connection)] = slot
        self._report()
        return id(connection) in self._established

    def leave(self, connection: Evictable) -> None:
        """Forget a connection that has ended."""
        self._pending.pop(id(connection), None)
        slot = self._established.pop(id(connection), None)
        if slot is not None:
            self._board.vacate(slot)
        self._report()

    @property
    def associations(self) -> int:
        """How many associations this process has."""
        return len(self._established)

    @property
    def excess(self) -> int:
        """How many connections more this process has than the one with the fewest."""
        loads = [self._board.load(process) for process in range(self._board.processes)]
        return loads[self._process] - min(loads)

    def _report(self) -> None:
        self._board.report(self._process, len(self._pending) + len(self._established))


def _packed(address: str) -> bytes:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return bytes(10) + b"\xff\xff" + parsed.packed
    return parsed.packed
