"""What the gateway says of itself: as JSON for people, as metrics for Prometheus. No UID, no patient, in neither."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dimse_bridge.gateway.spool import State
from dimse_bridge.gateway.tally import Tally
from storage.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """Spool and counters at one moment."""

    settings: Settings
    tally: Tally
    spool: State
    reachable: bool

    def as_json(self) -> dict[str, Any]:
        """The body of `GET /status`; times are in UTC."""
        tally, spool = self.tally, self.spool
        error = {"what": tally.last_error, "at": _time(tally.last_error_at)} if tally.last_error else None
        return {
            "to": self.settings.gateway_to,
            "aet": self.settings.aet,
            "started": _time(tally.started),
            "archive": {"reachable": self.reachable, "last_sent": _time(tally.last_sent), "last_error": error},
            "queue": {
                "files": spool.waiting.files,
                "bytes": spool.waiting.bytes,
                "max_files": self.settings.gateway_max_files,
                "max_bytes": self.settings.gateway_max_bytes,
                "oldest": _time(spool.oldest),
                "oldest_seconds": round(self._age(), 3),
                "put_off": spool.put_off,
            },
            "set_aside": {"files": spool.dead.files, "bytes": spool.dead.bytes},
            "received": {"files": tally.received_files, "bytes": tally.received_bytes, "refused": tally.refused_files},
            "sent": {"files": tally.sent_files, "bytes": tally.sent_bytes},
            "rejected": tally.rejected_files,
            "failures": tally.failures,
            "peers": {
                aet: {
                    "received": peer.received,
                    "bytes": peer.bytes,
                    "refused": peer.refused,
                    "last": _time(peer.last),
                }
                for aet, peer in sorted(tally.peers.items())
            },
        }

    def as_metrics(self) -> bytes:
        """The body of `GET /metrics`, in Prometheus' text format."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        tally, spool = self.tally, self.spool
        gauges = {
            "queue_files": ("Instances that wait to be sent.", spool.waiting.files),
            "queue_bytes": ("Their bytes.", spool.waiting.bytes),
            "queue_oldest_seconds": ("How long the oldest of them has waited.", self._age()),
            "queue_put_off": ("Instances that failed alone and wait for their next attempt.", spool.put_off),
            "set_aside_files": ("Instances that were refused for good.", spool.dead.files),
            "set_aside_bytes": ("Their bytes.", spool.dead.bytes),
            "max_files": ("Instances that may wait.", self.settings.gateway_max_files),
            "max_bytes": ("Bytes that may wait.", self.settings.gateway_max_bytes),
            "archive_reachable": ("1 when the last request was answered.", int(self.reachable)),
            "last_sent_timestamp_seconds": ("When the archive stored an instance last; 0: never.", tally.last_sent),
        }
        counters = {
            "received_files": ("Instances that were received.", tally.received_files),
            "received_bytes": ("Their bytes.", tally.received_bytes),
            "refused_files": ("Instances that were not taken: no room, or the disk refused them.", tally.refused_files),
            "sent_files": ("Instances that the archive has stored.", tally.sent_files),
            "sent_bytes": ("Their bytes.", tally.sent_bytes),
            "rejected_files": ("Instances that were set aside.", tally.rejected_files),
            "failures": ("Requests, or instances in them, that failed and are repeated.", tally.failures),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"anor_gateway_{name}", text, value=value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"anor_gateway_{name}", text, value=value)

    def _age(self) -> float:
        return 0.0 if self.spool.oldest is None else max(0.0, time.time() - self.spool.oldest)


def _time(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else None
