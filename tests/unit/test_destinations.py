"""Which addresses may be called, and that the one which was checked is the one that is connected to."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from dicomweb.errors import BadRequest, PeerFailed
from storage.destinations import Destinations, checked_url, has_dots, parse_destinations
from storage.outbound import Caller, Outbound, Target, again, refusal
from storage.settings import SettingError, Settings, load_settings


def allowed(listed: str, address: str, host: str = "pacs.example") -> bool:
    return Destinations.of(listed, plain=True).allows(host, ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "192.0.0.192", "224.0.0.1",
        "255.255.255.255", "100.100.100.200", "168.63.129.16", "::", "::1", "fe80::1", "fec0::1", "ff02::1",
        "fd00:ec2::254", "fd20:ce::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)  # fmt: skip
def test_addresses_that_are_never_meant(address: str) -> None:
    for listed in ("", "0.0.0.0/0,::/0", "pacs.example", "*.example", "10.0.0.0/8"):
        assert not allowed(listed, address), (listed, address)


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.7.7", "203.0.113.5", "2001:db8::1", "fd12::1", "::ffff:10.0.0.1"]
)
def test_ordinary_addresses(address: str) -> None:
    assert allowed("", address)
    assert allowed("0.0.0.0/0,::/0", address)
    assert allowed("pacs.example", address)
    assert allowed("*.example", address)
    assert not allowed("pacs.example", address, "other.example")
    assert not allowed("*.example", address, "example.org")
    assert not allowed("172.16.0.0/12", address)


def test_special_addresses_that_are_listed() -> None:
    assert allowed("127.0.0.0/8", "127.0.0.1")
    assert allowed("127.0.0.1", "::ffff:127.0.0.1")
    assert allowed("::1", "::1")
    assert not allowed("127.0.0.0/8", "::1")
    assert not allowed("127.0.0.0/8", "10.0.0.1")
    assert allowed("169.254.7.0/24", "169.254.7.1")
    assert not allowed("169.254.7.0/24", "169.254.169.254")


def test_lists() -> None:
    networks, names = parse_destinations(" 10.0.0.1/8, *.Example.org,pacs ,::1")
    assert [str(each) for each in networks] == ["10.0.0.0/8", "::1/128"]
    assert names == {".example.org", "pacs"}
    for wrong in ("10.0.0.0/33", "http://x", "a b", "1.2.3", "*", "x*.example"):
        with pytest.raises(SettingError, match="outgoing_networks"):
            load_settings({"outgoing_networks": wrong}, {}, None)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/", "file:///etc/passwd", "http://", "http:///x", "//h/", "h", "", "http://u:p@h/", "http://u@h/",
        "http://h/?a=b", "http://h/?", "http://h/#", "http://h:99999/", "http://h:0/", "http://h:x/", "http://a\\@b/",
        "http://h/../x", "http://h/%2E%2e/x", "http://h/a%2f..%2fb", "http://h/\r\nX: y", "http://h\r\n/",
        "http://h h/",
        "http://b\u00fccher/", "http://h/\u00fc", "http://[::1%25eth0]/", "http://" + "h" * 3000, "javascript:alert(1)",
        "gopher://h/", "http://h/a b", "http://[::1", "http://ex%41mple/",
        "https://010.0.0.1/", "https://999.1.1.1/", "https://1.2.3/", "https://2852039166/", "https://./",
        "https://10.0.0.1./",
    ],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        checked_url(url)
    assert refused.value.attribute == "Url"


def test_urls() -> None:
    assert checked_url("http://h") == "http://h/"
    assert checked_url("HTTPS://H.example:8042/dicom-web//") == "https://h.example:8042/dicom-web/"
    assert checked_url("http://[2001:db8::1]:80/a") == "http://[2001:db8::1]:80/a/"
    assert has_dots("a/%2e%2E/b")
    assert not has_dots("a/..b/c...")


# -- what is connected to


@asynccontextmanager
async def server(answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """The port of a server on 127.0.0.1 that answers heads of requests, and these."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head)
            writer.write(answer(head))
            await writer.drain()
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], heads


def made(**more: object) -> Settings:
    return load_settings({"outgoing_networks": "127.0.0.1", **more}, {}, None)[0]


def plain(_head: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


async def ask(outbound: Outbound, url: str, path: str = "") -> bytes:
    async with await outbound.caller(Target(url)) as caller:
        return (await caller.ask("GET", path, limit=1000)).body


async def test_the_address_that_was_checked_is_connected_to() -> None:
    """A name that changes between the check and the connection gains nothing: it is asked for once."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    async with server(plain) as (port, heads):
        assert await ask(Outbound(made(), rebinding), f"http://pacs.example:{port}/x/", "y") == b"ok"
        assert asked == ["pacs.example"]
        assert heads[0].startswith(b"GET /x/y HTTP/1.1\r\n")
        assert f"host: pacs.example:{port}\r\n".encode() in heads[0].lower()
        with pytest.raises(BadRequest, match="may not be called"):
            await ask(Outbound(made(), rebinding), f"http://pacs.example:{port}/")
    assert len(heads) == 1


async def test_forbidden_addresses_among_others_are_passed_over() -> None:
    async def several(host: str, port: int) -> Sequence[str]:
        return ["169.254.169.254", "10.9.9.9", "fe80::1%lo", "127.0.0.1"]

    async with server(plain) as (port, _):
        assert await ask(Outbound(made(), several), f"http://pacs.example:{port}/") == b"ok"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "127.1", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_names_of_this_machine(host: str) -> None:
    async with server(plain) as (port, heads):
        with pytest.raises((BadRequest, PeerFailed)):
            await ask(Outbound(made(outgoing_networks="", outgoing_http=True)), f"http://{host}:{port}/")
    assert not heads


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "0xA9FEA9FE", "2852039166", "[::ffff:a9fe:a9fe]", "metadata.example"]
)
async def test_the_metadata_service(host: str) -> None:
    async def metadata(host: str, port: int) -> Sequence[str]:
        return ["169.254.169.254"]

    resolve = metadata if host == "metadata.example" else None
    with pytest.raises(BadRequest, match="may not be called"):
        await ask(Outbound(made(outgoing_networks="", outgoing_http=True), resolve), f"http://{host}/latest/meta-data/")


@pytest.mark.parametrize("url", ["https://010.0.0.1/", "https://999.1.1.1/", "http://h/" + "x" * 70_000])
async def test_urls_that_no_request_can_have(url: str) -> None:
    """Declared before they were refused, or made too long by the path."""
    with pytest.raises(BadRequest) as refused:
        await ask(Outbound(made()), url)
    assert refused.value.attribute == "Url"


async def test_plain_http_to_other_machines() -> None:
    async def elsewhere(host: str, port: int) -> Sequence[str]:
        return ["192.0.2.7"]

    with pytest.raises(BadRequest, match="in the clear"):
        await ask(Outbound(made(outgoing_networks=""), elsewhere), "http://pacs.example/")


async def test_names_without_an_address() -> None:
    async def none(host: str, port: int) -> Sequence[str]:
        raise OSError

    with pytest.raises(PeerFailed, match="no address"):
        await ask(Outbound(made(), none), "http://pacs.example/")


async def test_redirects_are_not_followed() -> None:
    async with server(plain) as (other, heads):

        def moved(_head: bytes) -> bytes:
            location = f"Location: http://127.0.0.1:{other}/secret\r\n".encode()
            return b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\n" + location + b"\r\n"

        async with (
            server(moved) as (port, _),
            await Outbound(made()).caller(Target(f"http://127.0.0.1:{port}/")) as one,
        ):
            assert (await one.ask("GET", "", limit=10)).status == 302
        assert not heads


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(plain) as (proxy, heads), server(plain) as (port, _):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        assert await ask(Outbound(made()), f"http://127.0.0.1:{port}/") == b"ok"
    assert not heads


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", "longer than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000, "longer than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "broke"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", "compressed"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 500_000 + b"\r\n\r\n", "broke"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "broke"),
        (b"", "broke"),
    ],
)
async def test_answers_that_cannot_be_used(answer: bytes, wrong: str) -> None:
    async with server(lambda _: answer) as (port, _):
        with pytest.raises(PeerFailed, match=wrong):
            await ask(Outbound(made()), f"http://127.0.0.1:{port}/")


async def test_silence_and_drops() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/silent" not in head:
            writer.write(b"HTTP/1.1 200 OK\r\n" + b"\r\n" * (b"/body" in head))
            for _ in range(200):
                if writer.is_closing():
                    return
                writer.write(b"x")
                await asyncio.sleep(0.05)
        else:
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    outbound = Outbound(made(outgoing_timeout=0.3))
    async with listening:
        for path, wrong in (("silent", "silent"), ("head", "silent"), ("body", "too slowly")):
            begin = asyncio.get_running_loop().time()
            with pytest.raises(PeerFailed, match=wrong):
                await ask(outbound, f"http://127.0.0.1:{port}/", path)
            assert asyncio.get_running_loop().time() - begin < 3


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 3),
        (b"", 3),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", 3),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", 1),
    ],
)
async def test_what_is_tried_again(monkeypatch: pytest.MonkeyPatch, answer: bytes, times: int) -> None:
    """What a server cannot say now, and connections that break; no answer that would come alike once more."""
    monkeypatch.setattr("storage.outbound._AGAIN_SECONDS", 0)
    async with (
        server(lambda _: answer) as (port, heads),
        await Outbound(made()).caller(Target(f"http://127.0.0.1:{port}/")) as caller,
    ):

        async def attempt() -> None:
            found = await caller.ask("GET", "", limit=1000)
            if found.status != 200:
                raise refusal(found.status)

        with pytest.raises(PeerFailed):
            await again(attempt)
        assert len(heads) == times


def distrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (httpx.ConnectError("refused"), 3),
        (httpx.ReadTimeout("silence"), 3),
        (httpx.UnsupportedProtocol("gopher"), 1),
        (distrusted(), 1),
    ],
)
async def test_which_errors_are_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception, times: int) -> None:
    monkeypatch.setattr("storage.outbound._AGAIN_SECONDS", 0)
    asked = 0

    def fail(_request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if isinstance(error, httpx.HTTPError):
            raise error
        raise httpx.ConnectError("TLS") from error

    async with Caller(Target("https://h/"), 1, httpx.MockTransport(fail)) as caller:
        with pytest.raises(PeerFailed):
            await again(lambda: caller.ask("GET", "", limit=1000))
    assert asked == times


def test_credentials_are_not_shown() -> None:
    assert "secret" not in repr(Target("http://h/", {"authorization": "secret"}))
