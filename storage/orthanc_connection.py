"""Requests to another archive that speaks Orthanc's REST API: credentials, TLS, bounded answers. No redirect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import orjson

from dicomweb.errors import PeerFailed
from storage.caller_settings import basic, bearer, checked_root, tls_context
from storage.outbound import Caller, Target
from storage.setting_checks import SettingError
from storage.settings import Settings

_SILENCE_S: Final = 60.0
_MAX_ANSWER: Final = 64 << 20
_TRIES: Final = 4


class SourceError(Exception):
    """The source cannot answer a request; `why` says what is wrong."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class SourceDown(SourceError):
    """It gave no answer; the same request may succeed later."""


class SourceFails(SourceDown):
    """It answered, but not as it should. Later it may; of its other answers that says nothing."""


class SourceGone(SourceError):
    """There is no such resource any more."""


class SourceRefuses(SourceError):
    """It does not let us read."""


class Connection:
    """The archive at a URL; `close` it."""

    def __init__(self, settings: Settings, url: str, *, parallel: int) -> None:
        """Reads certificate and token files. Raises SettingError for what cannot be used."""
        names = "orthanc_user and orthanc_password"
        root = checked_root("--from-orthanc", url, credentials=names, insecure=settings.insecure)
        transport = httpx.AsyncHTTPTransport(
            verify=tls_context("orthanc", settings.orthanc_ca_file, None, None),
            trust_env=False,
            limits=httpx.Limits(max_connections=parallel + 2, keepalive_expiry=30.0),
            proxy=_proxy(root),
        )
        headers = {"user-agent": "anor-import", **_credentials(settings)}
        self._caller = Caller(Target(f"{root}/", headers), _SILENCE_S, transport)

    async def close(self) -> None:
        """Close the connections."""
        await self._caller.close()

    async def json(self, path: str, body: bytes | None = None) -> Any:
        """An answer in JSON, to a POST where there is a body. Tries again. Raises SourceError."""
        data = await self._complete(path, body)
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise SourceError(f"the source's answer to {path.partition('?')[0]} is not JSON") from None

    async def text(self, path: str) -> str:
        """An answer in plain text."""
        return (await self._complete(path)).decode("utf-8", "replace")

    async def _complete(self, path: str, body: bytes | None = None) -> bytes:
        for attempt in range(_TRIES):
            try:
                async with self.stream(path, body, limit=_MAX_ANSWER) as chunks:
                    return b"".join([chunk async for chunk in chunks])
            except SourceDown:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(0.25 * 4**attempt)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(
        self, path: str, body: bytes | None = None, *, limit: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """An answer of `limit` bytes at most in chunks. Raises SourceError, also within the block."""
        request = (
            self._caller.open("GET", path[1:])
            if body is None
            else self._caller.open("POST", path[1:], content=_once(body), size=len(body))
        )
        try:
            async with request as response:
                _check(response.status_code, path.partition("?")[0])
                yield self._caller.chunks(response, limit)
        except PeerFailed as error:
            raise SourceDown(error.message) from error


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _proxy(root: str) -> str | None:
    """The environment's for https://, of which it sees nothing; none for http://."""
    parts = urlsplit(root)
    if parts.scheme != "https" or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _check(status: int, path: str) -> None:
    if status in (404, 405):
        raise SourceGone(f"the source has no {path}")
    if status in (401, 403):
        raise SourceRefuses(f"the source refuses {path} ({status}): set orthanc_user and orthanc_password")
    if status == 500:
        raise SourceFails(f"the source answers {status} to {path}")
    if status in (429, 502, 503, 504):
        raise SourceDown(f"the source answers {status} to {path}")
    if status != 200:
        raise SourceError(f"the source answers {status} to {path}")


def _credentials(settings: Settings) -> dict[str, str]:
    named = basic("orthanc", settings.orthanc_user, settings.orthanc_password, settings.orthanc_token_file)
    if settings.orthanc_token_file is None:
        return named
    try:
        return bearer(settings.orthanc_token_file)
    except (OSError, ValueError) as error:
        raise SettingError(f"orthanc_token_file: {error}") from error
