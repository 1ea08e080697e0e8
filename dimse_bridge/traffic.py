"""What the associations of a process count for the metrics."""

from collections import Counter

from pynetdicom.dimse_primitives import DIMSEPrimitive

from storage.counts import Key


class Traffic:
    """Associations that peers asked for, and their requests. Titles and addresses are not kept."""

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
