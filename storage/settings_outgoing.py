"""Settings of what this program asks other servers by HTTP; `settings_model.Settings` has them all."""

from dataclasses import dataclass, field
from pathlib import Path

from storage.settings_about import GIB, MIB, about
from storage.settings_gateway import GatewaySettings


@dataclass(frozen=True, slots=True)
class OutgoingSettings(GatewaySettings):
    """What can be set for the remote servers that are declared as peers and DICOMweb servers."""

    outgoing_networks: str = field(
        default="",
        metadata=about(
            "Outgoing",
            "Networks and hosts that may be called (`10.0.0.0/8,*.example.org`); unset: whatever is declared. Loopback,"
            " link-local and metadata addresses only where a network of nothing else is listed (`127.0.0.0/8`).",
            check="destinations",
        ),
    )
    outgoing_http: bool = field(
        default=False,
        metadata=about(
            "Outgoing", "Whether other machines may be called by http://, with images and credentials in the clear."
        ),
    )
    outgoing_timeout: float = field(
        default=30.0,
        metadata=about(
            "Outgoing",
            "Silence of a remote server that is borne, unless its declaration has a Timeout.",
            unit="seconds",
            minimum=0.1,
            maximum=3600,
        ),
    )
    outgoing_answer_max: int = field(
        default=GIB,
        metadata=about("Outgoing", "Answer of a remote server that is passed on at most.", unit="bytes", minimum=MIB),
    )
    outgoing_ca_file: Path | None = field(
        default=None,
        metadata=about("Outgoing", "PEM file with the authorities that certify others (default: the system's)."),
    )
    outgoing_client_certificate: Path | None = field(
        default=None,
        metadata=about(
            "Outgoing", "PEM file with our certificate, for servers that ask for one and whose declaration names none."
        ),
    )
    outgoing_client_key: Path | None = field(
        default=None, metadata=about("Outgoing", "PEM file with its key (default: in the same file).")
    )
    outgoing_certificates: Path | None = field(
        default=None,
        metadata=about(
            "Outgoing", "Directory with the PEM files that declarations name: `CertificateFile`, `CertificateKeyFile`."
        ),
    )
    credentials_key_file: Path | None = field(
        default=None,
        metadata=about(
            "Outgoing",
            "File with the key that passwords and headers of remote servers, passwords and tokens for modalities, and "
            "secrets of jobs are encrypted with"
            " in the database: 64 hexadecimal digits; older keys in lines of their own below (default: plain text).",
        ),
    )
