"""Application entities that are declared: whom we call, and who may call us for what."""

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import Any, Final

from dicomweb.errors import BadRequest, NotFound, PeerFailed, TooLarge
from dicomweb.lists import split_list
from storage.access import DEFAULT_TENANT, Access
from storage.db import Database
from storage.labels import checked_label
from storage.permissions import PERMISSIONS
from storage.sealing import Sealer
from storage.setting_checks import check_text
from storage.settings import Settings

log = logging.getLogger(__name__)

RETRIEVE_METHODS: Final = ("C-MOVE", "C-GET", "SystemDefault")
MAX_MODALITIES: Final = 10_000
MAX_TITLES: Final = 1000
MAX_TIMEOUT: Final = 86_400.0
_LABELS: Final = 16
# Seconds that an answer about a caller holds, and how many are kept: negotiation asks for every association.
_FRESH: Final = 1.0
_KEPT: Final = 1024
_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f]{1,64}")
# A certificate by the SHA-256 of its DER, or by a name that it holds.
_CERTIFICATE: Final = re.compile(r"[0-9a-f]{64}|(dns|cn):[^\x00-\x1f\x7f]{1,250}")
_CERTIFICATES: Final = 16
_USERNAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_SECRET: Final = re.compile(r"[^\x00-\x1f\x7f]{1,8192}")
_HOST: Final = re.compile(r"[A-Za-z0-9._:\[\]%-]{0,255}")


@dataclass(frozen=True, slots=True)
class Modality:
    """A declared application entity. `timeout` in seconds, None: the setting's; `local_aet` None: ours.

    `host`: a name, an address, or a network from which it calls (`192.0.2.0/24`). `certificates`: of which it has to
    show one when it calls, each as its SHA-256 (DER, hexadecimal) or by a name in it, as `dns:` and `cn:` with the name
    in lower case; none: any or none. `notify_mpps`: it is told what becomes of performed procedure steps.

    `username` with `secret`: the name and the passcode by which we identify ourselves to it; `secret` alone is a JSON
    web token. Of one that was declared the secret is as it is stored; see `ModalityService.secret_of`.
    """

    name: str
    aet: str
    host: str
    port: int
    manufacturer: str = "Generic"
    allow: frozenset[str] = PERMISSIONS
    local_aet: str | None = None
    timeout: float | None = None
    tls: bool = False
    transcoding: bool = True
    retrieve_method: str = "SystemDefault"
    certificates: tuple[str, ...] = ()
    notify_mpps: bool = False
    username: str | None = None
    secret: str | None = field(default=None, repr=False)

    @property
    def can_be_called(self) -> bool:
        """Whether its address is known."""
        return bool(self.host and self.port) and "/" not in self.host

    def checked(self) -> "Modality":
        """Itself. Raises BadRequest where a value is none that an application entity can have."""
        for attribute, right, wanted in (
            ("name", bool(_NAME.fullmatch(self.name)), "1 to 64 characters without slashes"),
            ("AET", not check_text("aet", self.aet), "an AE title: 1 to 16 printable ASCII characters"),
            ("LocalAet", self.local_aet is None or not check_text("aet", self.local_aet), "an AE title"),
            ("Host", _is_host(self.host), "the name or the address of a host, or a network as 192.0.2.0/24"),
            ("Port", 0 <= self.port <= 65535, "a TCP port"),
            ("Manufacturer", len(self.manufacturer) <= 64, "at most 64 characters"),
            ("Timeout", self.timeout is None or 0 < self.timeout <= MAX_TIMEOUT, "seconds, up to a day"),
            ("RetrieveMethod", self.retrieve_method in RETRIEVE_METHODS, f"one of {', '.join(RETRIEVE_METHODS)}"),
            ("Certificates", len(self.certificates) <= _CERTIFICATES, f"at most {_CERTIFICATES} texts"),
            (
                "Certificates",
                all(map(_CERTIFICATE.fullmatch, self.certificates)),
                "SHA-256 digests, DNS:name or CN:name",
            ),
            ("Username", self.username is None or bool(_USERNAME.fullmatch(self.username)), "1 to 256 characters"),
            ("Password", self.secret is None or bool(_SECRET.fullmatch(self.secret)), "at most 8192 characters"),
            ("Allow", self.allow <= PERMISSIONS, f"some of {', '.join(sorted(PERMISSIONS))}"),
        ):
            if not right:
                raise BadRequest(f"{attribute} is {wanted}", attribute=attribute)
        return self


@dataclass(frozen=True, slots=True)
class Welcome:
    """What negotiation learns about a caller: `modality` is None for one that is not declared."""

    tenant: int
    labels: tuple[str, ...]
    modality: Modality | None
    allow: frozenset[str]


@dataclass(frozen=True, slots=True)
class LocalTitle:
    """An AE title of ours beside that of the settings; `labels` of the studies that are seen and stored by it."""

    aet: str
    labels: tuple[str, ...] = ()

    def checked(self) -> "LocalTitle":
        """Itself, its labels sorted. Raises BadRequest."""
        if check_text("aet", self.aet):
            raise BadRequest("AET is an AE title: 1 to 16 printable ASCII characters", attribute="AET")
        if len(self.labels) > _LABELS:
            raise BadRequest(f"a title has at most {_LABELS} labels", attribute="Labels")
        return LocalTitle(self.aet, tuple(sorted(set(map(checked_label, self.labels)))))


class ModalityService:
    """The declared application entities of each tenant, and our own titles."""

    def __init__(self, settings: Settings, db: Database, sealer: Sealer) -> None:
        self._db = db
        self._aet = settings.aet
        self._check_host = settings.dimse_check_host
        self._open = frozenset(split_list(settings.dimse_open))
        self._open_local = frozenset(split_list(settings.dimse_open_local))
        self._sealer = sealer
        self._welcomes: dict[_Caller, tuple[float, asyncio.Task[Welcome | None]]] = {}

    async def list(self, access: Access) -> Sequence[Modality]:
        """All of them by name."""
        access.require("dimse.read")
        return [_modality(row) for row in await self._db.fetch("modality_list", access.tenant)]

    async def get(self, access: Access, name: str) -> Modality:
        """One of them. Raises NotFound."""
        access.require("dimse.read")
        row = await self._db.fetch_row("modality_get", access.tenant, _text(name))
        if row is None:
            raise NotFound("no such modality")
        return _modality(row)

    async def put(self, access: Access, modality: Modality) -> None:
        """Declare one, or change it. Raises BadRequest, and TooLarge where there are too many."""
        access.require("dimse.admin")
        given = modality.checked()
        secret = None if given.secret is None else self._sealer.seal(given.secret, _purpose(given))
        said = asdict(given) | {"allow": sorted(given.allow), "secret": secret}
        if await self._db.fetch_value("modality_put", access.tenant, *said.values(), MAX_MODALITIES) is None:
            raise TooLarge(f"there are {MAX_MODALITIES} modalities already")
        self._welcomes.clear()

    async def with_user(self, access: Access, modality: Modality) -> Modality:
        """One that is to be called, with the user of its declaration, unless it lies elsewhere than that says."""
        access.require("dimse.read")
        row = await self._db.fetch_row("modality_get", access.tenant, _text(modality.name))
        if row is None or (row["host"], row["port"]) != (modality.host, modality.port):
            return replace(modality, username=None, secret=None)
        return replace(modality, username=row["username"], secret=row["secret"])

    def secret_of(self, modality: Modality) -> str | None:
        """The passcode or the token in plain text. Raises PeerFailed where that cannot be decrypted."""
        return None if modality.secret is None else self._sealer.open(modality.secret, _purpose(modality))

    async def seal(self) -> int:
        """Encrypt with the youngest key what is stored otherwise; of how many modalities."""
        count = 0
        for row in await self._db.fetch("modality_secrets") if self._sealer else ():
            found = Modality(row["name"], "", row["host"], row["port"], secret=row["secret"])
            if self._sealer.is_current(row["secret"]):
                continue
            try:
                fresh = self._sealer.seal(self.secret_of(found) or "", _purpose(found))
            except PeerFailed as error:
                log.warning("modality %s: %s", found.name, error.message)
                continue
            await self._db.execute("modality_seal", row["tenant"], found.name, row["secret"], fresh)
            count += 1
        return count

    async def delete(self, access: Access, name: str) -> None:
        """Forget one. Raises NotFound."""
        access.require("dimse.admin")
        if await self._db.fetch_value("modality_delete", access.tenant, _text(name)) is None:
            raise NotFound("no such modality")
        self._welcomes.clear()

    async def by_aet(self, access: Access, aet: str) -> Modality | None:
        """The first by name that has the AE title and an address: where C-MOVE sends to."""
        access.require("dimse.read")
        return next((each for each in await self._with_aet(access.tenant, aet) if each.can_be_called), None)

    async def is_own(self, access: Access, aet: str) -> bool:
        """Whether what is sent to the AE title comes to this tenant."""
        access.require("dimse.read")
        if aet == self._aet:
            return access.tenant == DEFAULT_TENANT
        row = await self._db.fetch_row("modality_local_aet", _text(aet))
        return row is not None and row["tenant"] == access.tenant

    async def titles(self, access: Access) -> Sequence[LocalTitle]:
        """Our own titles beside that of the settings."""
        access.require("dimse.read")
        rows = await self._db.fetch("local_title_list", access.tenant)
        return [LocalTitle(row["aet"], tuple(row["labels"])) for row in rows]

    async def put_title(self, access: Access, title: LocalTitle) -> None:
        """Take an AE title, or change it. Raises BadRequest, also where another tenant has it, and TooLarge."""
        access.require("dimse.admin")
        given = title.checked()
        if given.aet == self._aet and access.tenant != DEFAULT_TENANT:  # which has it by the settings
            raise BadRequest("the AE title belongs to another tenant", attribute="AET")
        done = await self._db.fetch_value("local_title_put", access.tenant, given.aet, given.labels, MAX_TITLES)
        if done is None:
            if await self._db.fetch_row("modality_local_aet", given.aet) is not None:
                raise BadRequest("the AE title belongs to another tenant", attribute="AET")
            raise TooLarge(f"there are {MAX_TITLES} titles already")
        self._welcomes.clear()

    async def delete_title(self, access: Access, aet: str) -> None:
        """Give an AE title up. Raises NotFound."""
        access.require("dimse.admin")
        if await self._db.fetch_value("local_title_delete", access.tenant, _text(aet)) is None:
            raise NotFound("no such AE title")
        self._welcomes.clear()

    async def welcome(
        self, called_aet: str, calling_aet: str, address: str, shown: frozenset[str] = frozenset()
    ) -> Welcome | None:
        """What an application entity at `address` may do; None where the title that it calls is not ours.

        `shown`: what its certificate proves, as in Modality. An answer holds for a second, and calls that come together
        share one. Raises Unavailable.
        """
        key, now = (called_aet.strip(), calling_aet.strip(), address, shown), monotonic()
        known = self._welcomes.get(key)
        if known is None or known[0] < now:
            while len(self._welcomes) >= _KEPT:
                del self._welcomes[next(iter(self._welcomes))]
            task = asyncio.create_task(self._welcome(*key))
            known = self._welcomes[key] = (now + _FRESH, task)
            task.add_done_callback(lambda done: self._forget_failure(key, done))
        return await asyncio.shield(known[1])

    def _forget_failure(self, key: "_Caller", done: "asyncio.Task[Welcome | None]") -> None:
        failed = done.cancelled() or done.exception() is not None
        if failed and self._welcomes.get(key, (0.0, None))[1] is done:
            del self._welcomes[key]

    async def _welcome(self, called: str, calling: str, address: str, shown: frozenset[str]) -> Welcome | None:
        row = await self._db.fetch_row("modality_local_aet", _text(called))
        if called == self._aet and row is not None and row["tenant"] != DEFAULT_TENANT:
            row = None  # taken before it became that of the settings
        if row is None and called != self._aet:
            return None
        tenant, labels = (DEFAULT_TENANT, ()) if row is None else (row["tenant"], tuple(row["labels"]))
        declared = found = await self._with_aet(tenant, calling)
        if self._check_host:
            found = [each for each in found if not each.host or await is_at(each.host, address)]
        elif len(found) > 1:  # several hosts share the title
            found = [each for each in found if await is_at(each.host, address)] or found
        found = [each for each in found if not each.certificates or not shown.isdisjoint(each.certificates)]
        if not found and any(each.certificates for each in declared):
            return Welcome(tenant, labels, None, frozenset())  # the title is another's, which can prove it
        if not found:
            return Welcome(tenant, labels, None, self._open_local if _is_local(address) else self._open)
        return Welcome(tenant, labels, found[0], found[0].allow)

    async def _with_aet(self, tenant: int, aet: str) -> Sequence[Modality]:
        return [_modality(row) for row in await self._db.fetch("modality_by_aet", tenant, _text(aet))]


def _is_local(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _purpose(modality: Modality) -> str:
    """What a secret is encrypted for: a row with another host cannot take it over."""
    return "\n".join(("modality", modality.name, modality.host, str(modality.port)))


# Called and calling AE title, address, what the certificate proves.
_Caller = tuple[str, str, str, frozenset[str]]


def _is_host(text: str) -> bool:
    if "/" not in text:
        return bool(_HOST.fullmatch(text))
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


async def is_at(host: str, address: str) -> bool:
    """Whether `address` is one of those that a host has, or of the network."""
    try:
        wanted = _plain(address)
        if "/" in host:
            return wanted in ipaddress.ip_network(host)
        found: Iterable[str] = (host.strip("[]"),)
        if not _is_address(host.strip("[]")):
            loop = asyncio.get_running_loop()
            found = (str(each[4][0]) for each in await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        return any(_plain(each) == wanted for each in found)
    except (OSError, ValueError, UnicodeError):
        return False


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; IPv4 ones that came by an IPv6 socket are IPv4 ones."""
    found = ipaddress.ip_address(text.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _text(value: str) -> str:
    """Text that a statement can carry."""
    return value.replace("\0", "")


def _modality(row: Any) -> Modality:
    return Modality(**dict(row) | {"allow": frozenset(row["allow"]), "certificates": tuple(row["certificates"])})
