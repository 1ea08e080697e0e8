"""Whom this program may call by HTTP: which URLs a remote server can have, and which addresses are connected to.

Whoever may declare a remote server chooses a host; what lies behind its name, its owner chooses. Addresses that mean
this machine, its neighbours on the wire, or the metadata service of a cloud are therefore refused, whatever name leads
there, unless the setting `outgoing_networks` lists them.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from dicomweb.errors import BadRequest, PeerFailed
from dicomweb.lists import split_list

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# The addresses of a host for a port, as text; blocks for as long as the system's resolver takes.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL: Final = 2048
_RESOLVE_SECONDS: Final = 10.0
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,255}|[0-9A-Fa-f:.]{2,45}")
_NAME: Final = re.compile(r"(\*\.|\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PATH: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")

# What an address must not be unless it is listed: RFC 6890, and the metadata services of clouds that have addresses
# within ordinary networks (Alibaba, Azure, Oracle; AWS and Google by IPv6).
_SPECIAL: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(each)
    for each in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "100.100.100.200/32", "168.63.129.16/32",
        "::/127", "64:ff9b:1::/48", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128",
    )
)  # fmt: skip
# IPv6 networks whose addresses hold one of IPv4 to which they lead: mapped, NAT64, IPv4-compatible.
_ENDS_WITH_IPV4: Final = tuple(ipaddress.IPv6Network(each) for each in ("::ffff:0:0/96", "64:ff9b::/96", "::/96"))


class Unreached(PeerFailed):
    """The other server was not reached, or did not answer to the end: the same request may succeed in a while."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """Who may be called. Without `networks` and `names`: any host, but no special address.

    `names` are hosts in lower case, those with a leading dot all below a domain; `plain`: http:// is for every host,
    not for this machine only.
    """

    networks: tuple[Network, ...]
    names: frozenset[str]
    plain: bool

    @classmethod
    def of(cls, listed: str, *, plain: bool) -> "Destinations":
        """Those of the setting."""
        networks, names = parse_destinations(listed)
        return cls(networks, names, plain)

    def allows(self, host: str, address: Address) -> bool:
        """Whether a host may be called at an address."""
        return all(self._allows(host, each) for each in _meant(address))

    def _allows(self, host: str, address: Address) -> bool:
        special = next((each for each in _SPECIAL if address in each), None)
        if special is not None:
            # A network that holds others besides, such as 0.0.0.0/0, was not written to mean these.
            return any(address in each and _within(each, special) for each in self.networks)
        if not (self.networks or self.names):
            return True
        return self._is_named(host.lower()) or any(address in each for each in self.networks)

    def _is_named(self, host: str) -> bool:
        return host in self.names or any(name.startswith(".") and host.endswith(name) for name in self.names)

    async def checked(self, scheme: str, host: str, port: int, resolve: Resolve | None = None) -> list[str]:
        """The addresses of a host that may be connected to, as text.

        Raises BadRequest where there are only others, Unreached where the name has none.
        """
        try:
            found = await asyncio.wait_for((resolve or resolved)(host, port), _RESOLVE_SECONDS)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise Unreached("the name of the remote server has no address") from error
        addresses = [ipaddress.ip_address(each.partition("%")[0]) for each in found]
        allowed = [each for each in dict.fromkeys(addresses) if self.allows(host, each)]
        if not allowed:
            raise BadRequest(
                "the remote server is at an address that may not be called (see the setting outgoing_networks)",
                attribute="Url",
            )
        if scheme == "http" and not self.plain:
            allowed = [each for each in allowed if each.is_loopback]
            if not allowed:
                raise BadRequest(
                    "http:// sends images and credentials in the clear: use https://, or the setting outgoing_http",
                    attribute="Url",
                )
        return [str(each) for each in allowed]


def parse_destinations(text: str) -> tuple[tuple[Network, ...], frozenset[str]]:
    """Networks, and names of hosts (with a leading dot: all below a domain) in a list. Raises ValueError."""
    networks: list[Network] = []
    names: set[str] = set()
    for item in split_list(text.lower()):
        try:
            networks.append(ipaddress.ip_network(item, strict=False))
        except ValueError:
            if not _NAME.fullmatch(item) or item.replace(".", "").isdecimal():
                raise ValueError(f"{item} is neither a network nor the name of a host") from None
            names.add(item.removeprefix("*"))
    return tuple(networks), frozenset(names)


async def resolved(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _meant(address: Address) -> list[Address]:
    """The addresses that one leads to: itself, or those of IPv4 that it holds."""
    if isinstance(address, ipaddress.IPv4Address) or int(address) <= 1:
        return [address]
    found: list[Address] = []
    if any(address in each for each in _ENDS_WITH_IPV4):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found += address.teredo
    return found or [address]


def checked_url(url: str) -> str:
    """A URL of a remote server, with a slash at its end. Raises BadRequest for what is none."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise BadRequest("Url is not a URL", attribute="Url") from None
    # urlsplit passes over line ends, as if they were not there.
    if (
        len(url) > MAX_URL
        or not url.isprintable()
        or parts.scheme.lower() not in {"http", "https"}
        or not parts.hostname
    ):
        raise BadRequest("Url begins with http:// or https:// and a host", attribute="Url")
    if "@" in parts.netloc:
        raise BadRequest("credentials do not belong in Url: give Username and Password", attribute="Url")
    host = parts.hostname
    if not _is_host(host) or port == 0:
        raise BadRequest("Url names no host that can be called", attribute="Url")
    if "?" in url or "#" in url or not _PATH.fullmatch(parts.path) or has_dots(parts.path):
        raise BadRequest("Url has no query, no fragment, and no .. in its path", attribute="Url")
    shown = f"[{host}]" if ":" in host else host
    if port is not None:
        shown = f"{shown}:{port}"
    return f"{parts.scheme.lower()}://{shown}{parts.path.rstrip('/')}/"


def _is_host(host: str) -> bool:
    """Whether it is a name, or an address that all read alike: 010.0.0.1 is 10.0.0.1 to some, 8.0.0.1 to others."""
    if ":" in host or not host.strip("0123456789."):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
    return _HOST.fullmatch(host) is not None


def has_dots(path: str) -> bool:
    """Whether a path has segments `.` or `..`, also where these are escaped."""
    plain = re.sub("%2e", ".", path, flags=re.IGNORECASE)
    plain = re.sub("%(2f|5c)", "/", plain, flags=re.IGNORECASE).replace("\\", "/")
    return any(segment in {".", ".."} for segment in plain.split("/"))
