"""TLS for associations: the profiles of PS3.15 annex B, and certificates that may change while we run (BCP 195)."""

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

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
    """The TLS context of the settings, made anew when one of its files has changed."""

    def __init__(self, settings: Settings) -> None:
        """Raises Unavailable where certificate and key cannot be used."""
        self._settings = settings
        files = (settings.dimse_tls_certificate, settings.dimse_tls_key, settings.dimse_tls_ca)
        self._files = [path for path in files if path is not None]
        self._stamps = _stamps(self._files)
        try:
            self.context = _context(settings)
        except OSError as error:  # ssl.SSLError is one
            raise Unavailable(f"the certificate or key for TLS cannot be used: {error.strerror or error}") from error

    def refresh(self) -> None:
        """Look for changed files; wrong ones are said in the log, and the last right ones stay in use. Blocks."""
        stamps = _stamps(self._files)
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self.context = _context(self._settings)
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


def _context(settings: Settings) -> ssl.SSLContext:
    assert settings.dimse_tls_certificate is not None  # the settings were checked together
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    profile = settings.dimse_tls_profile
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if profile == "tls13" else ssl.TLSVersion.TLSv1_2
    if profile in _CIPHERS:
        context.set_ciphers(_CIPHERS[profile])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.load_cert_chain(settings.dimse_tls_certificate, settings.dimse_tls_key, password="")  # else it would ask
    context.verify_mode = _PEERS[settings.dimse_tls_peers]
    if settings.dimse_tls_ca is not None:
        context.load_verify_locations(settings.dimse_tls_ca)
    return context
