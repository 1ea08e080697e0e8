"""TLS for associations: the profiles of PS3.15 annex B, and certificates that may change while we run (BCP 195).

Revocation lists (RFC 5280) are files beside them, which whoever renews certificates fetches from the authority.
"""

import ssl
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, Self

from dicomweb.errors import Unavailable
from dimse_bridge.logs import log_event
from storage.settings import Settings

# BCP 195 (RFC 9325): TLS 1.2 and 1.3, forward secrecy, authenticated encryption; PS3.15 B.12. The extended profile
# (B.11) and the modified one (B.13) leave the 128-bit keys of TLS 1.2 out.
_CIPHERS: Final = {
    "bcp195": "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!PSK:!aNULL",
    "extended": "ECDHE+AESGCM+AES256:ECDHE+CHACHA20:DHE+AESGCM+AES256:!PSK:!aNULL",
}
_PEERS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class Certificates:
    """A TLS context of the settings, made anew when one of its files has changed."""

    def __init__(self, make: Callable[[], ssl.SSLContext], files: Iterable[Path | None]) -> None:
        """`make` reads `files`. Raises Unavailable where certificate and key cannot be used. Blocks."""
        self._make = make
        self._files = [path for path in files if path is not None]
        self._stamps = _stamps(self._files)
        try:
            self.context = make()
        except OSError as error:  # ssl.SSLError is one
            raise Unavailable(f"the certificate or key for TLS cannot be used: {error.strerror or error}") from error

    @classmethod
    def of_acceptor(cls, settings: Settings) -> Self:
        """For associations that others ask for: `dimse_tls_*`. Raises as the constructor."""
        files = (
            settings.dimse_tls_certificate, settings.dimse_tls_key, settings.dimse_tls_ca, settings.dimse_tls_crl,
        )  # fmt: skip
        return cls(partial(_accepting, settings), files)

    @classmethod
    def of_requestor(cls, settings: Settings) -> Self:
        """For associations that we ask for: `dimse_client_*`. Raises as the constructor."""
        files = (
            settings.dimse_client_certificate, settings.dimse_client_key, settings.dimse_client_ca,
            settings.dimse_client_crl,
        )  # fmt: skip
        return cls(partial(_requesting, settings), files)

    def refresh(self) -> None:
        """Look for changed files; wrong ones are said in the log, and the last right ones stay in use. Blocks."""
        stamps = _stamps(self._files)
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self.context = self._make()
        except OSError:
            log_event("certificates-refused", reason="the changed files cannot be used; the old ones stay")
        else:
            log_event("certificates-renewed", reason="files have changed")


def _stamps(files: Iterable[Path]) -> list[tuple[int, int, int] | None]:
    found: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def _profiled(context: ssl.SSLContext, settings: Settings) -> ssl.SSLContext:
    """With versions and cipher suites as they are set."""
    profile = settings.dimse_tls_profile
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if profile == "tls13" else ssl.TLSVersion.TLSv1_2
    ciphers = settings.dimse_tls_ciphers or _CIPHERS.get(profile)
    if ciphers:
        context.set_ciphers(ciphers)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _with_revocations(context: ssl.SSLContext, path: Path | None) -> ssl.SSLContext:
    """Refuses certificates that a list in `path` names, and those whose authority has no list that is still valid.

    Raises OSError where the file has no list, or holds certificates: those would become authorities that are trusted.
    """
    if path is None:
        return context
    before = context.cert_store_stats()
    context.load_verify_locations(path)
    after = context.cert_store_stats()
    if after["crl"] == before["crl"] or after["x509"] != before["x509"]:
        raise OSError("a file of revocation lists has such lists, and nothing else")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _requesting(settings: Settings) -> ssl.SSLContext:
    """The name in a certificate is not compared where the authorities are one's own: those certify entities."""
    ca, certificate = settings.dimse_client_ca, settings.dimse_client_certificate
    context = _profiled(ssl.create_default_context(cafile=ca), settings)
    context.check_hostname = ca is None
    if certificate is not None:
        context.load_cert_chain(certificate, settings.dimse_client_key, password="")  # else it would ask
    return _with_revocations(context, settings.dimse_client_crl)


def _accepting(settings: Settings) -> ssl.SSLContext:
    assert settings.dimse_tls_certificate is not None  # the settings were checked together
    context = _profiled(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.load_cert_chain(settings.dimse_tls_certificate, settings.dimse_tls_key, password="")  # else it would ask
    context.verify_mode = _PEERS[settings.dimse_tls_peers]
    if settings.dimse_tls_ca is not None:
        context.load_verify_locations(settings.dimse_tls_ca)
    return _with_revocations(context, settings.dimse_tls_crl)
