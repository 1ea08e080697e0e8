"""Calling other servers by HTTP: checked addresses only, no redirects, bounded times and answers, trusted certificates.

The address that was checked is the one that is connected to: the name is resolved here, and the connection made to what
was found, while the Host header and the certificate are still those of the name.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import orjson

from dicomweb.errors import BadRequest, PeerFailed
from storage.destinations import Destinations, Resolve, Unreached
from storage.settings import Settings

T = TypeVar("T")

_CONNECT_SECONDS: Final = 10.0
_ADDRESSES: Final = 4  # of one name, tried one after the other
_CONNECTIONS: Final = 8
_SLOWEST: Final = 8 << 10  # bytes per second, beside what is borne as silence
_TRIES: Final = 3
_AGAIN_SECONDS: Final = 1.0
# May be answered otherwise in a while.
_LATER: Final = frozenset((408, 425, 429, 502, 503, 504))
_OK: Final = 200
_PORTS: Final = {"http": 80, "https": 443}
_PLAIN: Final = frozenset(("", "identity"))


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of bounded size; header names in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of the setting `outgoing_certificates` by name; `key` None: in the same file."""

    file: str
    key: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is called: URL with a slash at its end, headers of every request, seconds of silence (None: usual).

    Headers may hold credentials: they are not shown. `certificate`: ours, instead of the settings'.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float | None = None
    certificate: Certificate | None = None


class Outbound:
    """Who may be called, and how, by the settings of this process."""

    def __init__(self, settings: Settings, resolve: Resolve | None = None) -> None:
        self._settings = settings
        self._resolve = resolve
        self._tls: ssl.SSLContext | None = None
        self.destinations = Destinations.of(settings.outgoing_networks, plain=settings.outgoing_http)

    async def caller(self, target: Target) -> "Caller":
        """What calls one server; close it by a `with` block. Raises PeerFailed where certificates cannot be read."""
        if target.certificate is not None:
            tls = await asyncio.to_thread(_context_with, self._settings, target.certificate)
        elif self._tls is None:
            tls = self._tls = await asyncio.to_thread(_context, self._settings)
        else:
            tls = self._tls
        transport = _Checked(self.destinations, tls, self._resolve)
        return Caller(target, target.timeout or self._settings.outgoing_timeout, transport)

    async def check_certificate(self, certificate: Certificate | None) -> None:
        """Raise BadRequest unless a server can be called with it."""
        if certificate is None:
            return
        try:
            await asyncio.to_thread(_context_with, self._settings, certificate)
        except PeerFailed as error:
            raise BadRequest(error.message, attribute="CertificateFile") from error


class Caller:
    """Calls one server. What goes wrong with it is PeerFailed, which says nothing that the server said."""

    def __init__(self, target: Target, timeout: float, transport: httpx.AsyncBaseTransport) -> None:
        self._url = target.url
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout), pool=None),
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": "anor", **target.headers, "accept-encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        limit: int,
        params: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        content: AsyncIterator[bytes] | None = None,
        size: int = 0,
    ) -> Answer:
        """One request to a path below the URL, with a body of `size` bytes or none; the whole answer.

        Raises PeerFailed, also for an answer of more than `limit` bytes, BadRequest where the URL is none or may not be
        called, and whatever `content` raises.
        """
        async with self.open(method, path, params=params, headers=headers, content=content, size=size) as response:
            body = bytearray()
            async for chunk in self.chunks(response, limit):
                body += chunk
            fields = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status_code, bytes(body), fields)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        params: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        content: AsyncIterator[bytes] | None = None,
        size: int = 0,
    ) -> AsyncIterator[httpx.Response]:
        """The same, with an answer of which `chunks` gives the body. Raises BadRequest where the URL is none."""
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if content is not None:
            given["content-length"] = str(size)
        with _told():
            request = self._http.build_request(
                method,
                self._url + path,
                params=httpx.QueryParams(list(params)) if params else None,
                headers=given,
                content=content,
            )
            async with asyncio.timeout(2 * self._timeout + size / _SLOWEST):
                response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    async def chunks(self, response: httpx.Response, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        """The body of an answer as it comes, up to `limit` bytes. Raises PeerFailed, also where it comes too slowly."""
        if response.headers.get("content-encoding", "").strip().lower() not in _PLAIN:
            raise PeerFailed("the remote server compressed its answer unasked")
        declared = response.headers.get("content-length", "")
        if limit is not None and declared.isdecimal() and int(declared) > limit:
            raise PeerFailed(f"the answer of the remote server is longer than {limit} bytes")
        pieces = response.aiter_raw()
        waited, seen = 0.0, 0  # seconds for the server alone, and bytes
        while True:
            begin = monotonic()
            with _told():
                chunk = await anext(pieces, None)
            waited += monotonic() - begin
            if chunk is None:
                return
            seen += len(chunk)
            if limit is not None and seen > limit:
                raise PeerFailed(f"the answer of the remote server is longer than {limit} bytes")
            if waited > 2 * self._timeout + seen / _SLOWEST:
                raise PeerFailed("the remote server answers too slowly")
            yield chunk


def refusal(status: int) -> PeerFailed:
    """The error for an answer that is none that was hoped for."""
    more = "; redirects are not followed" if 300 <= status < 400 else ""
    return PeerFailed(f"the remote server answered {status}{more}", status)


def object_in(answer: Answer, like: str) -> dict[str, Any]:
    """The JSON object that a peer has answered with status 200, as `like` does. Raises PeerFailed."""
    if answer.status != _OK:
        raise refusal(answer.status)
    try:
        said = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise PeerFailed(f"the peer did not answer as {like} does")
    return said


async def again(attempt: Callable[[], Awaitable[T]]) -> T:
    """What an attempt gives, tried some times where the server cannot be reached or says that it cannot answer now.

    Nothing else is tried again: it would end alike, perhaps after a whole download.
    """
    for tried in range(1, _TRIES):
        try:
            return await attempt()
        except PeerFailed as error:
            if not isinstance(error, Unreached) and error.status not in _LATER:
                raise
        await asyncio.sleep(_AGAIN_SECONDS * 2 ** (tried - 1))
    return await attempt()


class _told:  # noqa: N801 - used as a function
    """Turns what httpx raises into PeerFailed, or BadRequest for a URL that is none."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if isinstance(error, httpx.TimeoutException | TimeoutError):
            raise Unreached("the remote server was silent for too long") from error
        if isinstance(error, httpx.ConnectError):
            distrusted = isinstance(_bottom(error), ssl.SSLCertVerificationError)
            kind = PeerFailed if distrusted else Unreached
            raise kind(f"no connection to the remote server ({cause_of(error)})") from error
        if isinstance(error, httpx.InvalidURL):
            raise BadRequest("the URL of the remote server cannot be used", attribute="Url") from error
        if isinstance(error, httpx.HTTPError | httpx.StreamError):
            kind = Unreached if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) else PeerFailed
            raise kind(f"the connection to the remote server broke ({type(error).__name__})") from error


def cause_of(error: BaseException) -> str:
    """What the operating system or TLS said, of the error at the bottom."""
    error = _bottom(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__


def _bottom(error: BaseException) -> BaseException:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


class _Checked(httpx.AsyncBaseTransport):
    """Resolves the host of each request itself, and connects to addresses that may be called alone."""

    def __init__(self, destinations: Destinations, tls: ssl.SSLContext, resolve: Resolve | None) -> None:
        self._destinations = destinations
        self._resolve = resolve
        self._inner = httpx.AsyncHTTPTransport(
            verify=tls, trust_env=False, limits=httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=30.0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url, host = request.url, request.url.raw_host.decode("ascii")
        port = url.port or _PORTS[url.scheme]
        addresses = await self._destinations.checked(url.scheme, host, port, self._resolve)
        failure: httpx.TransportError | None = None
        for address in addresses[:_ADDRESSES]:
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error  # nothing of the body is sent yet
        assert failure is not None
        raise failure

    async def aclose(self) -> None:
        await self._inner.aclose()


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        context = _trusting(settings)
        if settings.outgoing_client_certificate is not None:
            context.load_cert_chain(settings.outgoing_client_certificate, settings.outgoing_client_key)
    except (OSError, ssl.SSLError) as error:
        raise PeerFailed(
            "outgoing_ca_file, outgoing_client_certificate or outgoing_client_key cannot be used"
            f" ({error.strerror or type(error).__name__})"
        ) from error
    return context


def _context_with(settings: Settings, certificate: Certificate) -> ssl.SSLContext:
    """For a server that has a certificate of ours declared. Raises PeerFailed."""
    folder = settings.outgoing_certificates
    if folder is None:
        raise PeerFailed("CertificateFile names a file of the setting outgoing_certificates, which is not set")
    file, key = _within(folder, certificate.file), certificate.key and _within(folder, certificate.key)
    try:
        context = _trusting(settings)
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(file, key, certificate.password or "")
    except (OSError, ssl.SSLError, ValueError) as error:
        # No words of the system: whoever declares a server is not told what else lies there.
        raise PeerFailed("CertificateFile, CertificateKeyFile or CertificateKeyPassword cannot be used") from error
    return context


def _within(folder: Path, name: str) -> Path:
    """The file of a folder that a name, or a whole path, means. Raises PeerFailed for one that is elsewhere."""
    path = Path(name)
    if name == ".." or (path.name != name and path.parent != folder):
        raise PeerFailed("CertificateFile and CertificateKeyFile are names of files of outgoing_certificates")
    return folder / path.name


def _trusting(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.outgoing_ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
