"""Settings of `anor gateway`; `settings_model.Settings` has them all."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from storage.settings_about import GIB, MIB, about
from storage.settings_dimse import DimseSettings


@dataclass(frozen=True, slots=True)
class GatewaySettings(DimseSettings):
    """What can be set for the gateway at the edge of a hospital."""

    gateway_to: str | None = field(
        default=None,
        metadata=about("Gateway", "DICOMweb root of the archive that instances are forwarded to.", check="url"),
    )
    gateway_peers: str = field(
        default="",
        metadata=about(
            "Gateway",
            "Who may call the gateway: comma-separated AE titles, each with a network or not (`CT1@10.0.0.0/8`);"
            " unset: anybody.",
            check="callers",
        ),
    )
    gateway_status_port: int = field(
        default=8043,
        metadata=about(
            "Gateway",
            "TCP port for status and metrics on the loopback interface; 0 takes a free one.",
            minimum=0,
            maximum=65535,
        ),
    )
    gateway_max_bytes: int = field(
        default=64 * GIB,
        metadata=about(
            "Gateway", "What may wait below DATA/gateway; beyond it C-STORE gets A700.", unit="bytes", minimum=MIB
        ),
    )
    gateway_max_files: int = field(
        default=1_000_000, metadata=about("Gateway", "Instances that may wait below DATA/gateway.", minimum=1)
    )
    gateway_parallel: int = field(
        default=4, metadata=about("Gateway", "Requests to the archive at the same time.", minimum=1, maximum=64)
    )
    gateway_batch_files: int = field(
        default=20, metadata=about("Gateway", "Instances in one request at most.", minimum=1, maximum=1000)
    )
    gateway_batch_bytes: int = field(
        default=32 * MIB,
        metadata=about("Gateway", "One request at most, unless one instance is larger.", unit="bytes", minimum=1),
    )
    gateway_timeout: float = field(
        default=60.0,
        metadata=about(
            "Gateway", "Silence of the archive after which a request is given up.", unit="seconds", minimum=0.1
        ),
    )
    gateway_retry_max: float = field(
        default=60.0,
        metadata=about("Gateway", "Longest wait before the next attempt.", unit="seconds", minimum=0.1),
    )
    gateway_tries: int = field(
        default=10,
        metadata=about(
            "Gateway",
            "Failures of one instance, while others get through, after which it is set aside.",
            minimum=1,
        ),
    )
    gateway_token_file: Path | None = field(
        default=None,
        metadata=about("Gateway", "File with the bearer token for the archive; read again for each request."),
    )
    gateway_user: str | None = field(default=None, metadata=about("Gateway", "User name for the archive (HTTP Basic)."))
    gateway_password: str | None = field(default=None, metadata=about("Gateway", "Password of that user.", secret=True))
    gateway_client_cert: Path | None = field(
        default=None, metadata=about("Gateway", "Our certificate for the archive (PEM, with the chain).")
    )
    gateway_client_key: Path | None = field(
        default=None, metadata=about("Gateway", "Its private key (default: in the same file).")
    )
    gateway_ca_file: Path | None = field(
        default=None,
        metadata=about("Gateway", "Authorities that sign the archive's certificate (default: the system's)."),
    )
    gateway_deidentify: Literal["none", "basic"] = field(
        default="none",
        metadata=about("Gateway", "`basic` removes what identifies the patient before instances leave."),
    )
