"""Another archive that speaks Orthanc's REST API, as a migration reads it. No redirect is followed."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx
import orjson

from dicomweb.orthanc_kinds import ATTACHMENTS, DICOM_FILE, FIRST_USER, METADATA
from dicomweb.tags import Level
from dicomweb.uids import is_orthanc_id
from storage.resource import PLURAL
from storage.setting_checks import SettingError, is_loopback
from storage.settings import Settings

_CONNECT_S: Final = 10.0
_SILENCE_S: Final = 60.0
_SLOWEST: Final = 8 << 10  # bytes per second of a request that is given time
_MAX_ANSWER: Final = 64 << 20
_MAX_TOKEN: Final = 16 << 10
_TRIES: Final = 4
_SIZE_UNKNOWN: Final = 1 << 30
_UID_OF: Final = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.INSTANCE: "SOPInstanceUID",
}
# What Orthanc's plugins keep for themselves among the numbers of clients: it is of no use to anybody else.
_CACHES: Final = frozenset({"4200", "4201", "4202", "4301"})


class SourceError(Exception):
    """The source cannot answer a request; `why` says what is wrong."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class SourceDown(SourceError):
    """It gave no answer; the same request may succeed later."""


class SourceGone(SourceError):
    """There is no such resource any more."""


class SourceRefuses(SourceError):
    """It does not let us read."""


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment of a client. `number` and `md5` where the source tells them; `md5` in hexadecimal digits, or ""."""

    name: str
    number: int | None
    size: int | None = None
    md5: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A resource of the source.

    `uid`: PatientID or the UID of its level. `size` and `md5`: of an instance's file, where told. `metadata` (of
    clients, by name), `attached` and `protected` are None where they have to be asked for (`complete`).
    """

    level: Level
    id: str
    uid: str
    labels: tuple[str, ...] = ()
    size: int | None = None
    md5: str = ""
    metadata: Mapping[str, str] | None = None
    attached: tuple[Attached, ...] | None = None
    protected: bool | None = None

    @property
    def path(self) -> str:
        """Where the source has it."""
        return f"/{PLURAL[self.level]}/{self.id}"


@dataclass(frozen=True, slots=True)
class ChangesPage:
    """What happened to which resources, in order; `last`: where the next page begins."""

    resources: tuple[tuple[Level, str], ...]
    last: int
    done: bool


class OrthancSource:
    """The source at a URL. Use it as an asynchronous context: it asks for the version first."""

    def __init__(self, settings: Settings, url: str, *, parallel: int) -> None:
        """Reads certificate and token files. Raises SettingError for what cannot be used."""
        headers = _credentials(settings)
        self._root = _checked_root(settings, url)
        self._http = httpx.AsyncClient(
            verify=_tls(settings),
            timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=parallel + 2, keepalive_expiry=30.0),
            follow_redirects=False,
            headers={"user-agent": "anor-import", "accept-encoding": "identity", **headers},
        )
        self.host = urlsplit(url).hostname or ""
        self._extended = False
        self.metadata_numbers: Mapping[str, int] = {}

    async def __aenter__(self) -> Self:
        """Ask who it is. Raises SourceError."""
        try:
            await self._greet()
        except BaseException:
            await self._http.aclose()
            raise
        return self

    async def _greet(self) -> None:
        said = await self.json("/system")
        if not isinstance(said, dict) or not {"ApiVersion", "Version", "DicomAet"} <= said.keys():
            raise SourceError("no Orthanc answers there")
        self._extended = bool((said.get("Capabilities") or {}).get("HasExtendedFind"))
        numbers = said.get("UserMetadata") or {}
        self.metadata_numbers = {str(name): int(number) for name, number in numbers.items()}

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    # -- what there is

    async def count(self) -> int:
        """How many instances it says that it has."""
        return int((await self.json("/statistics"))["CountInstances"])

    async def page(self, level: Level, since: int, limit: int) -> list[Found]:
        """A part of the list of all resources of a level, in the source's order."""
        query = f"since={since}&limit={limit}&expand"
        if self._extended:
            query += "&response-content=MainDicomTags;Metadata;Labels;Attachments"
        answer = await self.json(f"/{PLURAL[level]}?{query}")
        return [_found(level, each, extended=self._extended) for each in _items(answer)]

    async def resource(self, level: Level, identifier: str) -> Found:
        """One of them. Raises SourceGone."""
        return _found(level, await self.json(f"/{PLURAL[level]}/{identifier}"), extended=False)

    async def complete(self, found: Found) -> Found:
        """The same resource with everything that clients added to it. Raises SourceGone."""
        if found.metadata is None:
            found = replace(found, metadata=_of_clients(await self.json(f"{found.path}/metadata?expand")))
        if found.attached is None or any(each.name.isdecimal() for each in found.attached):
            # Names as they are known there; numbers since Orthanc 1.10.
            known = {each.number: each for each in found.attached or ()}
            told = await self.json(f"{found.path}/attachments?full")
            named = told if isinstance(told, dict) else {name: _number(name) for name in told}
            found = replace(
                found,
                attached=tuple(
                    replace(known[number], name=name) if number in known else Attached(name, number)
                    for name, number in named.items()
                    if _is_attachment_of_client(name, number)
                ),
            )
        if found.level is Level.PATIENT and found.protected is None:
            found = replace(found, protected=(await self.text(f"{found.path}/protected")) == "1")
        return found

    async def md5(self, found: Found, name: str) -> str:
        """The MD5 of an attachment in hexadecimal digits; "" where the source keeps none."""
        try:
            return (await self.text(f"{found.path}/attachments/{quote(name, safe='')}/md5")).strip().lower()
        except SourceGone:
            return ""

    async def modalities(self) -> Mapping[str, Any]:
        """The declared modalities by name."""
        answer = await self.json("/modalities?expand")
        return answer if isinstance(answer, dict) else {}

    async def last_change(self) -> int:
        """Where the change feed ends now."""
        return int((await self.json("/changes?last")).get("Last", 0))

    async def changes(self, since: int, limit: int) -> ChangesPage:
        """What happened after the number `since`."""
        answer = await self.json(f"/changes?since={since}&limit={limit}")
        levels = {level.value: level for level in Level}
        found = [
            (levels[str(each.get("ResourceType", "")).lower()], str(each.get("ID", "")))
            for each in _items(answer.get("Changes"))
            if str(each.get("ResourceType", "")).lower() in levels and is_orthanc_id(str(each.get("ID", "")))
        ]
        return ChangesPage(tuple(dict.fromkeys(found)), int(answer.get("Last", since)), bool(answer.get("Done", True)))

    # -- requests

    @asynccontextmanager
    async def content(self, found: Found, below: str = "file") -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of an instance, or of what lies below a resource. Raises SourceError, also within the block."""
        size = found.size if found.size is not None and below == "file" else _SIZE_UNKNOWN
        async with self._request(f"{found.path}/{below}", 2 * _SILENCE_S + size / _SLOWEST) as response:
            yield response.aiter_raw()

    async def json(self, path: str) -> Any:
        """An answer in JSON. Tries again where there is none. Raises SourceError."""
        data = await self._complete(path)
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise SourceError(f"the source's answer to {path.partition('?')[0]} is not JSON") from None

    async def text(self, path: str) -> str:
        """An answer in plain text."""
        return (await self._complete(path)).decode("utf-8", "replace")

    async def _complete(self, path: str) -> bytes:
        for attempt in range(_TRIES):
            try:
                async with self._request(path, 4 * _SILENCE_S) as response:
                    body = bytearray()
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > _MAX_ANSWER:
                            raise SourceError(f"the source's answer to {path} has more than {_MAX_ANSWER} bytes")
                    return bytes(body)
            except SourceDown:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(0.25 * 4**attempt)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _request(self, path: str, patience: float) -> AsyncIterator[httpx.Response]:
        try:
            async with asyncio.timeout(patience), self._http.stream("GET", self._root + path) as response:
                _check(response.status_code, path.partition("?")[0])
                yield response
        except (httpx.TimeoutException, TimeoutError) as error:
            raise SourceDown("the source was silent for too long") from error
        except httpx.ConnectError as error:
            raise SourceDown(f"no connection to the source ({_cause(error)})") from error
        except httpx.HTTPError as error:
            raise SourceDown(f"the connection to the source broke ({type(error).__name__})") from error


def _check(status: int, path: str) -> None:
    if status == 404:
        raise SourceGone(f"the source has no {path}")
    if status in (401, 403):
        raise SourceRefuses(f"the source refuses {path} ({status}): set orthanc_user and orthanc_password")
    if status in (429, 500, 502, 503, 504):
        raise SourceDown(f"the source answers {status} to {path}")
    if status != 200:
        raise SourceError(f"the source answers {status} to {path}")


def _items(answer: Any) -> list[Mapping[str, Any]]:
    if not isinstance(answer, list) or not all(isinstance(each, dict) for each in answer):
        raise SourceError("the source's list is not one of resources")
    return answer


def _found(level: Level, told: Mapping[str, Any], *, extended: bool) -> Found:
    identifier = str(told.get("ID", ""))
    if not is_orthanc_id(identifier):
        raise SourceError("the source describes a resource without an identifier")
    attached = [
        Attached(str(each["ContentType"]), int(each["ContentType"]), int(each["UncompressedSize"]), _hex(each))
        for each in told.get("Attachments", ())
    ]
    file = next((each for each in attached if each.number == DICOM_FILE), None)
    size = file.size if file is not None else told.get("FileSize")
    return Found(
        level,
        identifier,
        str(told.get("MainDicomTags", {}).get(_UID_OF[level], "")),
        tuple(map(str, told.get("Labels") or ())),
        None if size is None else int(size),
        "" if file is None else file.md5,
        _of_clients(told["Metadata"]) if extended and "Metadata" in told else None,
        tuple(each for each in attached if _is_attachment_of_client(each.name, each.number))
        if extended and "Attachments" in told
        else None,
        told.get("IsProtected"),
    )


def _hex(attachment: Mapping[str, Any]) -> str:
    return str(attachment.get("UncompressedMD5", "")).lower()


def _of_clients(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Without what belongs to Orthanc itself and to its plugins."""
    return {
        name: str(value)
        for name, value in metadata.items()
        if name not in METADATA and name not in _CACHES and not (name.isdecimal() and int(name) < FIRST_USER)
        and name not in ("IsProtected", "PatientRecyclingOrder")
    }  # fmt: skip


def _is_attachment_of_client(name: str, number: int | None) -> bool:
    return name not in ATTACHMENTS and str(number) not in _CACHES and (number is None or number >= FIRST_USER)


def _number(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() else None


def _checked_root(settings: Settings, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise SettingError("--from-orthanc: the root of an Orthanc is wanted, such as https://orthanc.example:8042")
    if parts.username is not None or parts.password is not None:
        raise SettingError("--from-orthanc: credentials do not belong in the URL: set orthanc_user, orthanc_password")
    if parts.scheme == "http" and not settings.insecure and not _is_here(parts.hostname):
        raise SettingError("--from-orthanc: http:// sends images and credentials in the clear: https://, or --insecure")
    return url.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return is_loopback(host)
    except SettingError:  # a name without an address
        return False


def _credentials(settings: Settings) -> dict[str, str]:
    if (settings.orthanc_user is None) != (settings.orthanc_password is None):
        raise SettingError("orthanc_user and orthanc_password belong together: set both or neither")
    if settings.orthanc_token_file is not None:
        if settings.orthanc_user is not None:
            raise SettingError("orthanc_token_file and orthanc_user exclude each other")
        return {"authorization": f"Bearer {_token(settings.orthanc_token_file)}"}
    if settings.orthanc_user is None:
        return {}
    pair = f"{settings.orthanc_user}:{settings.orthanc_password}".encode()
    return {"authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise SettingError(f"orthanc_token_file: {error}") from error
    if not token or not token.isprintable():
        raise SettingError("orthanc_token_file: no token is in it")
    return token


def _tls(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.orthanc_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(f"orthanc_ca_file: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _cause(error: BaseException) -> str:
    """What the operating system or TLS said, of the error at the bottom."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__
