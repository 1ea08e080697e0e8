"""What the operator sets for calling another archive: its root, credentials, trusted certificates."""

import base64
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from storage.setting_checks import SettingError, is_loopback

_MAX_TOKEN: Final = 16 << 10


def checked_root(name: str, url: str, *, credentials: str, insecure: bool) -> str:
    """The URL of the setting or option `name` without a slash at its end; `credentials`: the settings that hold them.

    Raises SettingError for anything but http:// and https://, for credentials in it, and for http:// beyond this
    machine unless `insecure`.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise SettingError(f"{name}: the root of an archive is wanted, such as https://archive.example:8042")
    if parts.username is not None or parts.password is not None:
        raise SettingError(f"{name}: credentials do not belong in the URL: set {credentials}")
    if parts.scheme == "http" and not insecure and not _is_here(parts.hostname):
        raise SettingError(f"{name}: http:// sends images and credentials in the clear: use https://, or --insecure")
    return url.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return is_loopback(host)
    except SettingError:  # a name without an address
        return False


def basic(prefix: str, user: str | None, password: str | None, token_file: Path | None) -> dict[str, str]:
    """The header of the settings `prefix`_user and `prefix`_password, or none. Raises SettingError where they clash."""
    if (user is None) != (password is None):
        raise SettingError(f"{prefix}_user and {prefix}_password belong together: set both or neither")
    if user is None:
        return {}
    if token_file is not None:
        raise SettingError(f"{prefix}_token_file and {prefix}_user exclude each other")
    return {"authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def bearer(token_file: Path) -> dict[str, str]:
    """The header of a token in a file. Raises OSError, and ValueError where no token is in it."""
    with token_file.open("rb") as file:
        token = file.read(_MAX_TOKEN).decode("ascii").strip()
    if not token or not token.isprintable():
        raise ValueError("no token is in it")
    return {"authorization": f"Bearer {token}"}


def tls_context(prefix: str, ca_file: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Verifies names and certificates, TLS 1.2 at least; `certificate`: our own. Raises SettingError."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        own = "" if certificate is None else f", {prefix}_client_cert, {prefix}_client_key"
        raise SettingError(f"{prefix}_ca_file{own}: {error}") from error
    return context
