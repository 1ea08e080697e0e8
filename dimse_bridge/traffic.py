"""What the associations of a process count for the metrics. Titles and addresses are not kept."""

import threading
from collections import Counter
from collections.abc import Mapping

from pynetdicom.dimse_primitives import DIMSEPrimitive

from storage.counts import Key


class Traffic:
    """Associations that peers asked for, and their requests."""

    def __init__(self) -> None:
        self.received = 0  # bytes
        self._open = 0
        self._ended: Counter[str] = Counter()
        self._requests: Counter[tuple[str, int]] = Counter()

    def begin(self) -> None:
        """An association was accepted."""
        self._open += 1

    def end(self, outcome: str) -> None:
        """An association that was accepted has ended: `released`, `aborted` (by the peer, or lost) or `cut` by us."""
        self._open -= 1
        self._ended[outcome] += 1

    def refuse(self) -> None:
        """An association was asked for in vain."""
        self._ended["refused"] += 1

    def answer(self, request: type[DIMSEPrimitive], status: int) -> None:
        """A request got its final response."""
        self._requests[request.__name__, status] += 1

    def totals(self) -> dict[Key, float]:
        """See storage.counts."""
        return {
            ("dimse_received_bytes",): self.received,
            **{("dimse_associations", "outcome", outcome): count for outcome, count in self._ended.items()},
            **{
                ("dimse_requests", "operation", name.replace("_", "-"), "status", f"{status:04X}"): count
                for (name, status), count in self._requests.items()
            },
        }

    def levels(self) -> dict[Key, float]:
        """See storage.counts."""
        return {("dimse_associations_open",): self._open}


class OwnTraffic:
    """Associations that we asked for, and our requests. Counted by the threads of the associations, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._operations: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[str] = Counter(sent=0, received=0)

    def begin(self, service: str) -> None:
        """A peer accepted an association for a service."""
        with self._lock:
            self._open[service] += 1

    def end(self, service: str, outcome: str) -> None:
        """An accepted one has ended: `released`, `aborted` (by the peer, or lost) or `cut` by us."""
        with self._lock:
            self._open[service] -= 1
            self._ended[service, outcome] += 1

    def fail(self, service: str, outcome: str) -> None:
        """There was none to be had: `refused` by the peer, or `unreachable`."""
        with self._lock:
            self._ended[service, outcome] += 1

    def answer(self, operation: str, status: int | None) -> None:
        """A request of ours (`C-STORE`) got its final response; None: there was none."""
        with self._lock:
            self._requests[operation, "none" if status is None else f"{status:04X}"] += 1

    def operations(self, operation: str, counts: Mapping[str, int]) -> None:
        """Sub-operations of a C-MOVE or C-GET of ours, as its final response counts them."""
        with self._lock:
            for outcome, count in counts.items():
                self._operations[operation, outcome] += count

    def carry(self, direction: str, size: int) -> None:
        """Bytes were `sent` or `received`."""
        with self._lock:
            self._bytes[direction] += size

    def totals(self) -> dict[Key, float]:
        """See storage.counts."""
        with self._lock:
            return {
                **{("dimse_scu_bytes", "direction", each): size for each, size in self._bytes.items()},
                **_labelled("dimse_scu_associations", ("service", "outcome"), self._ended),
                **_labelled("dimse_scu_requests", ("operation", "status"), self._requests),
                **_labelled("dimse_scu_suboperations", ("operation", "outcome"), self._operations),
            }

    def levels(self) -> dict[Key, float]:
        """See storage.counts."""
        with self._lock:
            return {("dimse_scu_associations_open", "service", each): count for each, count in self._open.items()}


def _labelled(name: str, labels: tuple[str, str], counts: Mapping[tuple[str, str], int]) -> dict[Key, float]:
    return {(name, labels[0], one, labels[1], other): count for (one, other), count in counts.items()}
