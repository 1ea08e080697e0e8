"""Settings of the DIMSE side; `settings_model.Settings` has them all."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from storage.settings_about import KIB, MIB, about
from storage.settings_server import ServerSettings


@dataclass(frozen=True, slots=True)
class DimseSettings(ServerSettings):
    """What can be set for associations with other application entities."""

    dimse_open: str = field(
        default="echo,store",
        metadata=about(
            "DIMSE",
            "What application entities may do that are not declared: of echo, store, find, get, move, worklist, mpps"
            " and commitment.",
            check="permissions",
        ),
    )
    dimse_open_local: str = field(
        default="echo,store,find,get",
        metadata=about(
            "DIMSE",
            "The same for those that call from this machine (a loopback address), who can reach more by HTTP. Where"
            " something here passes on what comes from elsewhere, such as a TLS proxy: as `dimse_open`.",
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
    dimse_client_crl: Path | None = field(
        default=None,
        metadata=about(
            "DIMSE",
            "PEM file with the revocation lists of the authorities that certify others (default: revocation is not"
            " checked).",
        ),
    )
    dimse_processes: int = field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        metadata=about("DIMSE", "Processes that share the DIMSE port (default: one per core).", minimum=1, maximum=256),
    )
    dimse_associations: int = field(
        default=64,
        metadata=about("DIMSE", "Associations at a time, in all processes together.", minimum=1, maximum=4096),
    )
    dimse_associations_per_peer: int = field(
        default=48, metadata=about("DIMSE", "Associations at a time from one address.", minimum=1, maximum=4096)
    )
    dimse_max_pdu: int = field(
        default=128 * KIB,
        metadata=about(
            "DIMSE", "Longest PDU that is taken, announced to peers.", unit="bytes", minimum=4 * KIB, maximum=MIB
        ),
    )
    dimse_associate_timeout: float = field(
        default=5.0,
        metadata=about(
            "DIMSE", "How long a connection may take to ask for an association.", unit="seconds", minimum=0.1
        ),
    )
    dimse_idle_timeout: float = field(
        default=60.0,
        metadata=about("DIMSE", "How long an association may say nothing.", unit="seconds", minimum=1),
    )
    dimse_pending: int = field(
        default=32,
        metadata=about(
            "DIMSE",
            "Connections of one process that have not asked for an association yet; one more closes the oldest.",
            minimum=1,
            maximum=4096,
        ),
    )
    dimse_max_associate_pdu: int = field(
        default=256 * KIB,
        metadata=about("DIMSE", "Longest request for an association.", unit="bytes", minimum=4 * KIB, maximum=16 * MIB),
    )
    dimse_max_command: int = field(
        default=16 * KIB,
        metadata=about("DIMSE", "Longest command set of a request.", unit="bytes", minimum=KIB, maximum=MIB),
    )
    dimse_max_data_set: int = field(
        default=256 * KIB,
        metadata=about(
            "DIMSE",
            "Longest data set of a request other than C-STORE and storage commitment.",
            unit="bytes",
            minimum=4 * KIB,
            maximum=64 * MIB,
        ),
    )
    dimse_max_commitment: int = field(
        default=4 * MIB,
        metadata=about(
            "DIMSE",
            "Longest data set of a request for storage commitment.",
            unit="bytes",
            minimum=4 * KIB,
            maximum=64 * MIB,
        ),
    )
    dimse_pdu_silence: float = field(
        default=5.0,
        metadata=about("DIMSE", "Silence in the middle of a PDU that is borne.", unit="seconds", minimum=0.1),
    )
    dimse_pdu_timeout: float = field(
        default=30.0,
        metadata=about(
            "DIMSE", "How long a PDU may take from its first to its last byte.", unit="seconds", minimum=0.1
        ),
    )
    dimse_send_timeout: float = field(
        default=30.0,
        metadata=about("DIMSE", "How long a peer may read nothing of what we send.", unit="seconds", minimum=0.1),
    )
    dimse_answer_timeout: float = field(
        default=60.0,
        metadata=about(
            "DIMSE",
            "How long a peer may take to answer a request of ours on its association (C-STORE of C-GET).",
            unit="seconds",
            minimum=0.1,
        ),
    )
    dimse_spool_timeout: float = field(
        default=60.0,
        metadata=about("DIMSE", "How long the disk may take no more of a C-STORE.", unit="seconds", minimum=0.1),
    )
    dimse_store_timeout: float = field(
        default=600.0,
        metadata=about("DIMSE", "How long storing an instance may take after its arrival.", unit="seconds", minimum=1),
    )
    dimse_storage_classes: str = field(
        default="",
        metadata=about(
            "DIMSE", "SOP classes to store beside the standard ones: comma-separated UIDs (private ones).", check="uids"
        ),
    )
    dimse_tls_port: int | None = field(
        default=None,
        metadata=about("DIMSE", "TCP port for DIMSE over TLS (default: none).", minimum=0, maximum=65535),
    )
    dimse_tls_certificate: Path | None = field(
        default=None, metadata=about("DIMSE", "Our certificate and those between it and its root, in PEM.")
    )
    dimse_tls_key: Path | None = field(
        default=None, metadata=about("DIMSE", "The private key of the certificate, in PEM.")
    )
    dimse_tls_ca: Path | None = field(
        default=None, metadata=about("DIMSE", "Certificates that those of peers must come from, in PEM.")
    )
    dimse_tls_crl: Path | None = field(
        default=None,
        metadata=about(
            "DIMSE", "Revocation lists of those who issued them, in PEM (default: revocation is not checked)."
        ),
    )
    dimse_tls_peers: Literal["none", "optional", "required"] = field(
        default="required", metadata=about("DIMSE", "Whether a peer on the TLS port has to show a certificate.")
    )
    dimse_tls_profile: Literal["bcp195", "extended", "tls13"] = field(
        default="bcp195",
        metadata=about(
            "DIMSE",
            "TLS 1.2 and later with forward secrecy and authenticated encryption; of them only those with 256-bit keys;"
            " or TLS 1.3 alone.",
        ),
    )
    dimse_tls_ciphers: str = field(
        default="",
        metadata=about(
            "DIMSE",
            "Cipher suites of TLS 1.2 in OpenSSL's notation, for associations in both directions; unset: those of the"
            " profile.",
            check="ciphers",
        ),
    )
    dimse_users: Path | None = field(
        default=None,
        metadata=about("DIMSE", "File of users that may identify themselves when they ask for an association."),
    )
    dimse_jwt_keys: Path | None = field(
        default=None,
        metadata=about("DIMSE", "JSON Web Key Set of an identity provider, whose tokens may identify users as well."),
    )
    dimse_jwt_issuer: str | None = field(
        default=None, metadata=about("DIMSE", "Who must have issued such a token (claim `iss`).")
    )
    dimse_jwt_audience: str | None = field(
        default=None, metadata=about("DIMSE", "Whom such a token must be for (claim `aud`).")
    )
    dimse_require_user: bool = field(
        default=False,
        metadata=about("DIMSE", "Whether a peer has to identify a user, with a passcode or a token."),
    )
