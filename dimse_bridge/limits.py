"""What a peer may use: connections, bytes, seconds. pynetdicom as it comes has no such bounds.

Connections that have not asked for an association never keep others out: the oldest of them makes room for the newest.
"""

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one DIMSE process; bytes and seconds."""

    max_pdu: int = 128 << 10  # announced to peers; DCMTK sends no more than this by itself
    max_associate_pdu: int = 256 << 10  # 128 contexts with 40 transfer syntaxes each are 150 KB
    max_command: int = 16 << 10
    max_identifier: int = 256 << 10
    max_associations: int = 64
    max_associations_per_peer: int = 48
    max_pending: int = 32  # connected, but no association asked for yet
    associate_timeout: float = 5.0
    idle_timeout: float = 60.0  # an association that says nothing
    read_idle: float = 5.0  # silence in the middle of a PDU
    pdu_deadline: float = 30.0  # one PDU from its first to its last byte
    send_timeout: float = 30.0  # a peer that does not read
    spool_timeout: float = 60.0
    store_timeout: float = 600.0
    find_timeout: float = 60.0
    stop_grace: float = 30.0


class Evictable(Protocol):
    """A connection that can be told to go."""

    peer: str

    def evict(self) -> None:
        """Close the connection now."""


class Peers:
    """Who is connected: a bounded number of newcomers, a bounded number of associations overall and per address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._pending: dict[int, Evictable] = {}  # in order of arrival
        self._established: dict[int, Evictable] = {}
        self._per_peer: Counter[str] = Counter()

    def arrive(self, connection: Evictable) -> None:
        """Take a new connection; of too many newcomers the oldest of the same address, else of all, has to go."""
        oldest = None
        with self._lock:
            if len(self._pending) >= self._limits.max_pending:
                same = (c for c in self._pending.values() if c.peer == connection.peer)
                oldest = next(same, None) or next(iter(self._pending.values()))
                del self._pending[id(oldest)]
            self._pending[id(connection)] = connection
        if oldest is not None:
            oldest.evict()

    def establish(self, connection: Evictable) -> bool:
        """Whether the connection may become an association; it is no newcomer any more."""
        with self._lock:
            self._pending.pop(id(connection), None)
            full = len(self._established) >= self._limits.max_associations
            if full or self._per_peer[connection.peer] >= self._limits.max_associations_per_peer:
                return False
            self._established[id(connection)] = connection
            self._per_peer[connection.peer] += 1
            return True

    def leave(self, connection: Evictable) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._pending.pop(id(connection), None)
            if self._established.pop(id(connection), None) is not None:
                self._per_peer[connection.peer] -= 1
                if not self._per_peer[connection.peer]:
                    del self._per_peer[connection.peer]

    @property
    def associations(self) -> int:
        """How many associations are established."""
        return len(self._established)
