"""Settings of the DIMSE side; `settings_model.Settings` has them all."""

from dataclasses import dataclass, field
from pathlib import Path

from storage.settings_about import about


@dataclass(frozen=True, slots=True)
class DimseSettings:
    """What can be set for associations with other application entities."""

    dimse_open: str = field(
        default="echo,store,find",
        metadata=about(
            "DIMSE",
            "What application entities may do that are not declared: of echo, store, find, get, move, worklist, mpps"
            " and commitment.",
            check="permissions",
        ),
    )
    dimse_check_host: bool = field(
        default=True,
        metadata=about("DIMSE", "Whether a declared application entity has to call from its declared host."),
    )
    dimse_character_set: str = field(
        default="",
        metadata=about(
            "DIMSE",
            "Specific Character Set of answers to queries, such as `ISO_IR 192`; unset: that of the query. What it"
            " cannot hold is sent in `ISO_IR 192`.",
            check="character_set",
        ),
    )
    dimse_timeout: float = field(
        default=30.0,
        metadata=about(
            "DIMSE", "Silence of another application entity that is borne.", unit="seconds", minimum=0.1, maximum=86_400
        ),
    )
    dimse_requests: int = field(
        default=8,
        metadata=about("DIMSE", "Associations that one process asks for at the same time.", minimum=1, maximum=256),
    )
    dimse_queries: int = field(
        default=100,
        metadata=about("DIMSE", "Answered queries that are kept for `/queries`; the oldest go first.", minimum=1),
    )
    dimse_client_certificate: Path | None = field(
        default=None,
        metadata=about("DIMSE", "PEM file with our certificate for associations by TLS that we ask for."),
    )
    dimse_client_key: Path | None = field(
        default=None, metadata=about("DIMSE", "PEM file with its key (default: in the same file).")
    )
    dimse_client_ca: Path | None = field(
        default=None,
        metadata=about("DIMSE", "PEM file with the authorities that certify others (default: those of the system)."),
    )
