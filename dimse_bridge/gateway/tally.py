"""What the gateway has done since its start, for whoever looks: by status, by metrics."""

import time
from dataclasses import dataclass, field
from typing import Final

MOST_PEERS: Final = 500
OTHERS: Final = "others"


@dataclass(slots=True)
class Peer:
    """What came from one application entity."""

    received: int = 0
    bytes: int = 0
    refused: int = 0
    last: float = 0.0


@dataclass(slots=True)
class Tally:
    """Counters; times are in seconds since 1970, 0 for never."""

    started: float = field(default_factory=time.time)
    received_files: int = 0
    received_bytes: int = 0
    refused_files: int = 0
    sent_files: int = 0
    sent_bytes: int = 0
    rejected_files: int = 0
    failures: int = 0
    last_sent: float = 0.0
    last_error: str = ""
    last_error_at: float = 0.0
    peers: dict[str, Peer] = field(default_factory=dict)

    def took(self, aet: str, size: int) -> None:
        """An instance was received and is durable."""
        self.received_files += 1
        self.received_bytes += size
        peer = self._peer(aet)
        peer.received += 1
        peer.bytes += size
        peer.last = time.time()

    def refused(self, aet: str) -> None:
        """An instance was not taken: no room, or the disk refused it."""
        self.refused_files += 1
        self._peer(aet).refused += 1

    def sent(self, files: int, size: int) -> None:
        """The archive has stored instances."""
        self.sent_files += files
        self.sent_bytes += size
        self.last_sent = time.time()

    def rejected(self, why: str) -> None:
        """An instance was set aside."""
        self.rejected_files += 1
        self._error(why)

    def failed(self, why: str) -> None:
        """A request, or an instance of it, failed and is repeated."""
        self.failures += 1
        self._error(why)

    def _error(self, why: str) -> None:
        self.last_error, self.last_error_at = why, time.time()

    def _peer(self, aet: str) -> Peer:
        """Titles are what peers say they are: beyond a number of them they count together."""
        if aet not in self.peers and len(self.peers) >= MOST_PEERS:
            aet = OTHERS
        return self.peers.setdefault(aet, Peer())
