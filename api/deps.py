"""What a request needs.

The services of this process, the caller's rights, and the address under which clients reach us.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, cast
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.types import Scope

from api.exchange import Exchange, Services
from dicomweb.lists import split_list
from storage.access import LOCAL, Access
from storage.archive import Archive
from storage.settings import Settings

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SCHEMES = frozenset({"http", "https"})


def access_of(scope: Scope) -> Access:  # noqa: ARG001 - every caller is the local one until there is a login
    """The rights of the caller. Whoever reaches the server is local: it listens beyond loopback only when told so."""
    return LOCAL


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Builds the base of absolute URLs in answers: scheme, host, port and path prefix, without a slash at the end.

    The Host header alone is never believed: a client may send anything (dicomweb-client drops the port), and what it
    sends would end up in answers that others read. In this order: the configured `public_url`; the forwarded headers
    of a trusted proxy; the address of the socket that took the connection, by the name that Host gives to it if that
    is a name of loopback.
    """

    public_url: str | None
    trusted: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

    @classmethod
    def of(cls, settings: Settings) -> "PublicAddress":
        """The rules of these settings."""
        return cls(
            settings.public_url.rstrip("/") if settings.public_url else None,
            tuple(ipaddress.ip_network(item, strict=False) for item in split_list(settings.trusted_proxies)),
        )

    def base(self, scope: Scope) -> str:
        """The base URL for answers to this request."""
        if self.public_url is not None:
            return self.public_url
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self.trusted and self._is_trusted(scope):
            forwarded = _forwarded(headers, cast("str", scope.get("scheme", "http")))
            if forwarded is not None:
                return forwarded
        address, port = scope.get("server") or ("127.0.0.1", None)
        return _direct(scope.get("scheme", "http"), address, port, headers.get(b"host", b"").decode("latin-1"))

    def _is_trusted(self, scope: Scope) -> bool:
        client = scope.get("client")
        if not client:
            return False
        try:
            address = ipaddress.ip_address(client[0])
        except ValueError:
            return False
        return any(address in network for network in self.trusted)


@lru_cache(maxsize=64)
def _direct(scheme: str, address: str, port: str | int | None, host: str) -> str:
    name = host.rsplit(":", 1)[0] if ":" in host.rpartition("]")[2] else host
    shown = f"[{address}]" if ":" in address else address
    if name.lower() in _LOOPBACK_NAMES and _is_loopback(address):
        shown = name.lower()
    default = "443" if scheme == "https" else "80"
    return f"{scheme}://{shown}" if port is None or str(port) == default else f"{scheme}://{shown}:{port}"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _forwarded(headers: dict[bytes, bytes], scheme: str) -> str | None:
    """The base that the nearest proxy states.

    `Forwarded` (RFC 7239), else `X-Forwarded-*`. None when it names no host.
    """
    pairs = _rfc7239(headers.get(b"forwarded", b"").decode("latin-1"))
    proto = pairs.get("proto") or _last(headers, b"x-forwarded-proto") or scheme
    host = pairs.get("host") or _last(headers, b"x-forwarded-host")
    if not host or proto not in _SCHEMES or not _is_host(host):
        return None
    port = _last(headers, b"x-forwarded-port")
    if port.isdigit() and ":" not in host.rpartition("]")[2] and port != {"http": "80", "https": "443"}[proto]:
        host = f"{host}:{port}"
    prefix = _last(headers, b"x-forwarded-prefix").strip("/")
    return f"{proto}://{host}/{prefix}" if prefix and prefix.isascii() and '"' not in prefix else f"{proto}://{host}"


def _rfc7239(value: str) -> dict[str, str]:
    element = value.rpartition(",")[2]
    pairs = (part.partition("=") for part in element.split(";"))
    return {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs}


def _last(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").rpartition(",")[2].strip()


def _is_host(text: str) -> bool:
    try:
        parts = urlsplit(f"http://{text}")
        return parts.netloc == text and bool(parts.hostname) and "@" not in text and text.isascii() and parts.port != 0
    except ValueError:
        return False


def allowed_origins(setting: str) -> frozenset[bytes]:
    """The origins of `cors_origins`; `*` stays a member of its own."""
    items: Iterable[str] = (item.strip().rstrip("/") for item in setting.split(","))
    return frozenset(item.encode() for item in items if item)


# For FastAPI's solver: the exchange that the front door made for this request (`scope["anor"]`), its rights already
# checked.
def _exchange(request: Request) -> Exchange:
    return cast("Exchange", request.scope["anor"])


def _archive(request: Request) -> Archive:
    return _exchange(request).archive


def _services(request: Request) -> Services:
    return _exchange(request).services


CurrentArchive = Annotated[Archive, Depends(_archive)]
CurrentServices = Annotated[Services, Depends(_services)]
