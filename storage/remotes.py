"""Other servers that are declared: Orthanc's peers, and DICOMweb servers. Any process calls them by the same rows."""

import base64
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import orjson

from dicomweb.errors import BadRequest, NotFound, PeerFailed, TooLarge
from storage.access import Access
from storage.db import Database
from storage.destinations import checked_url
from storage.outbound import Caller, Certificate, Outbound, Target
from storage.sealing import Sealer
from storage.settings import Settings

log = logging.getLogger(__name__)

Kind = Literal["peer", "dicomweb"]

MAX_REMOTES: Final = 1000
MAX_TIMEOUT: Final = 3600.0
_TITLE: Final[Mapping[Kind, str]] = {"peer": "peer", "dicomweb": "DICOMweb server"}
# Members of the row's properties that are not for everybody to set or see.
_CERTIFICATE: Final = "CertificateFile"
_KEY: Final = "CertificateKeyFile"
_KEY_PASSWORD: Final = "CertificateKeyPassword"  # noqa: S105 - a name
_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f]{1,64}")
_MAX_TEXT: Final = 1024
_MAX_MEMBERS: Final = 32
_MAX_VALUE: Final = 8192
_FIELD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
# Headers that say how a message is sent, which is not for whoever declares a server.
_OURS: Final = frozenset(
    (
        "host", "content-length", "content-encoding", "content-type", "transfer-encoding", "connection", "keep-alive",
        "te", "trailer", "upgrade", "expect", "accept-encoding", "proxy-authorization", "proxy-connection",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Remote:
    """A declared server as everybody may see it. `timeout` in seconds, None: the setting's.

    `certificate`, `certificate_key`: names of files of the setting `outgoing_certificates`.
    """

    kind: Kind
    name: str
    url: str
    username: str | None
    has_password: bool
    header_names: tuple[str, ...]
    timeout: float | None
    properties: Mapping[str, str]
    certificate: str | None = None
    certificate_key: str | None = None

    def says(self, name: str, default: bool = False) -> bool:
        """A property that is true or false."""
        found = self.properties.get(name)
        return default if found is None else found.strip().lower() in {"1", "true"}


@dataclass(frozen=True, slots=True)
class Declaration:
    """A server as it is declared. What it is called with is not shown by repr."""

    kind: Kind
    name: str
    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    certificate: str | None = None
    certificate_key: str | None = None
    key_password: str | None = field(default=None, repr=False)

    def checked(self) -> "Declaration":
        """Itself with a whole URL. Raises BadRequest for what cannot be declared; the message repeats no value."""
        for attribute, right, wanted in (
            ("name", bool(_NAME.fullmatch(self.name)), "1 to 64 characters without slashes"),
            ("Username", _is_user(self.username), f"at most {_MAX_TEXT} characters without a colon"),
            ("Password", self.password is None or _is_text(self.password), f"at most {_MAX_TEXT} characters"),
            ("Password", self.password is None or self.username is not None, "for a Username"),
            (
                "CertificateKeyFile",
                self.certificate is not None or self.certificate_key is None,
                "for a CertificateFile",
            ),
            ("CertificateKeyPassword", self.key_password is None or _is_text(self.key_password), "a short text"),
            ("CertificateKeyPassword", self.key_password is None or self.certificate is not None, "for a certificate"),
            ("Timeout", self.timeout is None or 0 < self.timeout <= MAX_TIMEOUT, "seconds, up to an hour"),
        ):
            if not right:
                raise BadRequest(f"{attribute} is {wanted}", attribute=attribute)
        check_headers(self.headers)
        if self.username is not None and any(name.lower() == "authorization" for name in self.headers):
            raise BadRequest(
                "HttpHeaders with Authorization and a Username exclude each other", attribute="HttpHeaders"
            )
        if len(self.properties) > _MAX_MEMBERS or not all(map(_is_text, (*self.properties, *self.properties.values()))):
            raise BadRequest(f"at most {_MAX_MEMBERS} properties, each at most {_MAX_TEXT} characters")
        return replace(self, url=checked_url(self.url))


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise BadRequest unless these can be headers of a request; the message repeats no value."""
    if len(headers) > _MAX_MEMBERS:
        raise BadRequest(f"at most {_MAX_MEMBERS} headers", attribute="HttpHeaders")
    for name, value in headers.items():
        if not _FIELD.fullmatch(name) or name.lower() in _OURS:
            raise BadRequest("HttpHeaders names a header that cannot be set", attribute="HttpHeaders")
        if len(value) > _MAX_VALUE or not (value == "" or _VALUE.fullmatch(value)):
            raise BadRequest("HttpHeaders has a value that no header can have", attribute="HttpHeaders")


class RemoteService:
    """The declared servers of each tenant, and calls to them."""

    def __init__(self, settings: Settings, db: Database, sealer: Sealer) -> None:
        self._db = db
        self._outbound = Outbound(settings)
        self._sealer = sealer

    async def list(self, access: Access, kind: Kind) -> Sequence[Remote]:
        """All of a kind by name."""
        access.require("remotes.read")
        return [_remote(row) for row in await self._db.fetch("remote_list", access.tenant, kind)]

    async def get(self, access: Access, kind: Kind, name: str) -> Remote:
        """One of them. Raises NotFound."""
        access.require("remotes.read")
        row = await self._db.fetch_row("remote_get", access.tenant, kind, _text(name))
        if row is None:
            raise NotFound(f"no such {_TITLE[kind]}")
        return _remote(row)

    async def put(self, access: Access, declaration: Declaration) -> None:
        """Declare one, or change it: nothing of what it was before is kept.

        Raises BadRequest, also for a host that may not be called, and TooLarge where there are too many.
        """
        access.require("remotes.admin")
        given = declaration.checked()
        await self._outbound.check_certificate(_certificate(given))
        parts = urlsplit(given.url)
        assert parts.hostname is not None
        with suppress(PeerFailed):  # a name that has no address now: it is looked at again whenever it is called
            await self._outbound.destinations.checked(parts.scheme, parts.hostname, parts.port or 0)
        password, headers, properties = self._sealed(access.tenant, given)
        done = await self._db.fetch_value(
            "remote_put",
            access.tenant,
            given.kind,
            given.name,
            given.url,
            given.username,
            password,
            headers,
            given.timeout,
            properties,
            MAX_REMOTES,
        )
        if done is None:
            raise TooLarge(f"there are {MAX_REMOTES} servers of this kind already")

    async def delete(self, access: Access, kind: Kind, name: str) -> None:
        """Forget one. Raises NotFound."""
        access.require("remotes.admin")
        if await self._db.fetch_value("remote_delete", access.tenant, kind, _text(name)) is None:
            raise NotFound(f"no such {_TITLE[kind]}")

    @asynccontextmanager
    async def caller(
        self,
        access: Access,
        kind: Kind,
        name: str,
        headers: Mapping[str, str] | None = None,
        *,
        patience: float | None = None,
    ) -> AsyncIterator[Caller]:
        """What calls one of them, with its credentials and with `headers` besides, which go before its own.

        `patience`: seconds of silence that are borne, whatever its declaration says.
        Raises NotFound, BadRequest; calls raise PeerFailed.
        """
        access.require("remotes.run")
        row = await self._db.fetch_row("remote_to_call", access.tenant, kind, _text(name))
        if row is None:
            raise NotFound(f"no such {_TITLE[kind]}")
        whose = (access.tenant, kind, _text(name), row["url"])
        kept = self._opened(whose, row)
        given = {key.lower(): value for key, value in kept.headers.items()}
        if row["username"] is not None:
            pair = f"{row['username']}:{kept.password or ''}".encode()
            given["authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        check_headers(headers or {})
        given |= {key.lower(): value for key, value in (headers or {}).items()}
        target = Target(row["url"], given, patience or row["timeout"], _certificate(kept))
        async with await self._outbound.caller(target) as caller:
            yield caller

    async def seal(self) -> int:
        """Encrypt with the youngest key what is stored otherwise; of how many servers."""
        count = 0
        for row in await self._db.fetch("remotes_all") if self._sealer else ():
            headers, properties = orjson.loads(row["headers"]), orjson.loads(row["properties"])
            texts = (row["password"], properties.get(_KEY_PASSWORD), *headers.values())
            if all(self._sealer.is_current(text) for text in texts if text is not None):
                continue
            whose = (row["tenant"], row["kind"], row["name"], row["url"])
            try:
                sealed = self._sealed(row["tenant"], self._opened(whose, row))
            except PeerFailed as error:
                log.warning("%s %s: %s", _TITLE[row["kind"]], row["name"], error.message)
                continue
            before = (row["password"], row["headers"], row["properties"])
            await self._db.execute("remote_seal", *whose, *sealed, *before)
            count += 1
        return count

    def _sealed(self, tenant: int, given: Declaration) -> tuple[str | None, str, str]:
        """Password, headers and properties as a row has them."""

        def seal(text: str, what: str) -> str:
            return self._sealer.seal(text, _purpose((tenant, given.kind, given.name, given.url), what))

        password = None if given.key_password is None else seal(given.key_password, _KEY_PASSWORD)
        more = {_CERTIFICATE: given.certificate, _KEY: given.certificate_key, _KEY_PASSWORD: password}
        properties = dict(given.properties) | {name: value for name, value in more.items() if value is not None}
        return (
            None if given.password is None else seal(given.password, "password"),
            orjson.dumps({name: seal(value, f"header {name}") for name, value in given.headers.items()}).decode(),
            orjson.dumps(properties).decode(),
        )

    def _opened(self, whose: tuple[int, Kind, str, str], row: Any) -> Declaration:
        """What a row says that a server is called with. Raises PeerFailed where that cannot be decrypted."""

        def opened(text: str | None, what: str) -> str | None:
            return None if text is None else self._sealer.open(text, _purpose(whose, what))

        properties = orjson.loads(row["properties"])
        headers = orjson.loads(row["headers"])
        return Declaration(
            whose[1],
            whose[2],
            whose[3],
            password=opened(row["password"], "password"),
            headers={name: opened(value, f"header {name}") or "" for name, value in headers.items()},
            key_password=opened(properties.pop(_KEY_PASSWORD, None), _KEY_PASSWORD),
            certificate=properties.pop(_CERTIFICATE, None),
            certificate_key=properties.pop(_KEY, None),
            properties=properties,
        )


def _is_user(text: str | None) -> bool:
    return text is None or (_is_text(text) and ":" not in text)


def _is_text(text: str) -> bool:
    return len(text) <= _MAX_TEXT and not any(each < " " or each == "\x7f" for each in text)


def _text(value: str) -> str:
    """Text that a statement can carry."""
    return value.replace("\0", "")


def _purpose(whose: tuple[int, Kind, str, str], what: str) -> str:
    """What a secret is encrypted for: another row, or the same with another URL, cannot take it over."""
    return "\n".join((*map(str, whose), what))


def _certificate(given: Declaration) -> Certificate | None:
    if given.certificate is None:
        return None
    return Certificate(given.certificate, given.certificate_key, given.key_password)


def _remote(row: Any) -> Remote:
    properties = orjson.loads(row["properties"])
    said = {"header_names": tuple(row["header_names"]), "properties": properties}
    said |= {"certificate": properties.pop(_CERTIFICATE, None), "certificate_key": properties.pop(_KEY, None)}
    return Remote(**dict(row) | said)
