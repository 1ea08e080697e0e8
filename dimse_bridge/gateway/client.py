"""The gateway's side of HTTP: one archive, its credentials, its certificate. No redirect is followed."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx

from storage.caller_settings import basic, bearer, checked_root, tls_context
from storage.outbound import cause_of
from storage.setting_checks import SettingError
from storage.settings import Settings

_CONNECT_S: Final = 10.0
_SLOWEST: Final = 8 << 10  # bytes per second of a request that is given time


class Unreachable(Exception):
    """The archive gave no answer to the request itself: not reached, not authorised, overloaded, not what it should be.

    The same request may succeed later. `after` is what a Retry-After asked for, in seconds.
    """

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.after = after


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of bounded size; header names in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Client:
    """The archive at the URL of `gateway_to`."""

    def __init__(self, settings: Settings) -> None:
        """Reads certificates. Raises SettingError for what cannot be used."""
        self._root = _checked_root(settings)
        self._timeout = settings.gateway_timeout
        self._token_file = settings.gateway_token_file
        user, password = settings.gateway_user, settings.gateway_password
        self._basic = basic("gateway", user, password, settings.gateway_token_file)
        certificate, key = settings.gateway_client_cert, settings.gateway_client_key
        self._http = httpx.AsyncClient(
            verify=tls_context("gateway", settings.gateway_ca_file, certificate, key),
            timeout=httpx.Timeout(self._timeout, connect=min(_CONNECT_S, self._timeout), pool=None),
            limits=httpx.Limits(max_connections=settings.gateway_parallel + 8, keepalive_expiry=30.0),
            follow_redirects=False,
            trust_env=self._root.lower().startswith("https:"),  # a proxy would see what is sent in the clear
            headers={"user-agent": "anor-gateway"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def post(
        self, path: str, content: AsyncIterator[bytes], size: int, headers: Mapping[str, str], *, max_answer: int
    ) -> Answer:
        """POST a body of `size` bytes to a path below the root. Raises Unreachable, and what `content` raises."""
        given = {"content-length": str(size), **headers}
        patience = 2 * self._timeout + size / _SLOWEST
        async with self._request("POST", path, given, patience, content=content) as response:
            return await _complete(response, max_answer)

    async def get(self, path: str, params: Sequence[tuple[str, str]], accept: str, *, max_answer: int) -> Answer:
        """GET a path below the root. Raises Unreachable."""
        query = httpx.QueryParams(list(params))
        async with self._request("GET", path, {"accept": accept}, 2 * self._timeout, params=query) as response:
            return await _complete(response, max_answer)

    @asynccontextmanager
    async def stream(self, path: str, accept: str, size: int) -> AsyncIterator[httpx.Response]:
        """GET a path whose answer has about `size` bytes, which are read with `aiter_raw`. Raises Unreachable."""
        patience = 2 * self._timeout + size / _SLOWEST
        async with self._request("GET", path, {"accept": accept}, patience) as response:
            yield response

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        patience: float,
        *,
        content: AsyncIterator[bytes] | None = None,
        params: httpx.QueryParams | None = None,
    ) -> AsyncIterator[httpx.Response]:
        given = {**headers, **await self._credentials(), "accept-encoding": "identity"}
        try:
            async with (
                asyncio.timeout(patience),
                self._http.stream(
                    method, f"{self._root}/{path}", headers=given, content=content, params=params
                ) as response,
            ):
                yield response
        except (httpx.TimeoutException, TimeoutError) as error:
            raise Unreachable("the archive was silent for too long") from error
        except httpx.ConnectError as error:
            raise Unreachable(f"no connection to the archive ({cause_of(error)})") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"the connection to the archive broke ({type(error).__name__})") from error

    async def _credentials(self) -> dict[str, str]:
        if self._token_file is None:
            return self._basic
        try:
            return await asyncio.to_thread(bearer, self._token_file)
        except (OSError, ValueError) as error:
            raise Unreachable(f"the token file cannot be read ({type(error).__name__})") from error


def _checked_root(settings: Settings) -> str:
    if settings.gateway_to is None:
        raise SettingError("gateway_to: the gateway needs the DICOMweb root of an archive (--to)")
    names = "gateway_user and gateway_password"
    return checked_root("gateway_to", settings.gateway_to, credentials=names, insecure=settings.insecure)


async def _complete(response: httpx.Response, limit: int) -> Answer:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise Unreachable(f"the archive's answer is longer than {limit} bytes")
    return Answer(response.status_code, bytes(body), {name.lower(): value for name, value in response.headers.items()})
