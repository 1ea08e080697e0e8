"""Certificates and revocation lists for tests of TLS, made by openssl."""

import subprocess
from pathlib import Path

SIGNED = {
    "server": "IP:127.0.0.1,DNS:server.example",
    "renewed": "IP:127.0.0.1,DNS:renewed.example",
    "other": "DNS:other.example",
    "client": "DNS:client.example",
}
"""Names of those that the authority vouches for, and for what."""


def make_certificates(folder: Path) -> Path:
    """As `name.pem` and `name.key`: an authority `ca`, those of `SIGNED`, and a `stranger`, signed by itself."""
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext"]
    for name in ("ca", "stranger", *SIGNED):
        more = [*signed, f"subjectAltName={SIGNED[name]}"] if name in SIGNED else []
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        subprocess.run([*new, *more, *files], cwd=folder, check=True, capture_output=True)
    return folder


def revocations(folder: Path, *revoked: str, hours: int = 24) -> bytes:
    """A revocation list of the authority, for so long, that names some of the certificates."""
    (folder / "index.txt").write_text("")
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca = ours\n[ours]\ndatabase = index.txt\ndefault_md = sha256\nunique_subject = no\n"
    )
    authority = ["openssl", "ca", "-config", "ca.cnf", "-keyfile", "ca.key", "-cert", "ca.pem"]
    calls = [["-revoke", f"{name}.pem"] for name in revoked]
    for more in (*calls, ["-gencrl", "-crlhours", str(hours), "-out", "crl.pem"]):
        subprocess.run([*authority, *more], cwd=folder, check=True, capture_output=True)
    return (folder / "crl.pem").read_bytes()
