"""CORS for viewers on other origins, and absolute URLs behind a proxy."""

from pathlib import Path

import httpx
import pytest

from api.deps import PublicAddress
from storage.settings import load_settings
from tests.files import ct
from tests.http.bodies import ROOT, store
from tests.support import running_server

VIEWER = "https://viewer.example.org"


def _preflight(web: httpx.Client, path: str, origin: str = VIEWER) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return web.options(path, headers=headers)


def test_preflight_needs_no_right(strict: httpx.Client) -> None:
    for path in (f"{ROOT}/studies", f"{ROOT}/studies/1.2/series/1.3/instances/1.4/frames/1", "/instances"):
        answer = _preflight(strict, path)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == VIEWER
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "origin" in answer.headers["vary"].lower()


def test_answers_and_errors_are_readable_for_the_viewer(strict: httpx.Client) -> None:
    store(strict, ct())
    for path, status in ((f"{ROOT}/studies", 200), (f"{ROOT}/studies?X=1", 400), ("/nowhere", 404), ("/healthz", 200)):
        answer = strict.get(path, headers={"Origin": VIEWER})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == VIEWER
        exposed = answer.headers["access-control-expose-headers"]
        for name in ("Content-Range", "Content-Length", "ETag", "Warning", "Content-Location", "Location"):
            assert name in exposed
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example.org", "null", f"{VIEWER}.evil.org", "http://viewer.example.org"]
)
def test_other_origins_get_nothing(strict: httpx.Client, origin: str) -> None:
    for answer in (_preflight(strict, f"{ROOT}/studies", origin), strict.get("/healthz", headers={"Origin": origin})):
        assert answer.status_code < 300
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-methods" not in answer.headers


def test_off_by_default(web: httpx.Client) -> None:
    assert "access-control-allow-origin" not in web.get("/healthz", headers={"Origin": VIEWER}).headers


@pytest.mark.parametrize("origin", ["https://evil.example.org", "null", "http://localhost:1"])
def test_foreign_pages_cannot_write(web: httpx.Client, origin: str) -> None:
    """A form or a text/plain fetch goes out without preflight; the browser's Origin tells it apart."""
    before = web.get("/statistics").json()["CountInstances"]
    for path, kind in (("/instances", "text/plain"), (f"{ROOT}/studies", "application/dicom")):
        answer = web.post(path, content=ct(), headers={"Origin": origin, "Content-Type": kind})
        assert answer.status_code == 403
    answer = web.delete(f"{ROOT}/studies/1.2.3", headers={"Origin": origin})
    assert (answer.status_code, answer.json()["attribute"]) == (403, "Origin")
    assert web.get("/statistics").json()["CountInstances"] == before


def test_own_and_allowed_pages_may_write(web: httpx.Client, strict: httpx.Client) -> None:
    own = str(web.base_url).rstrip("/")
    assert store(web, ct(), Origin=own).status_code == 200
    assert store(web, ct(), Origin="http://elsewhere", **{"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert store(strict, ct(), Origin=VIEWER).status_code == 200
    behind = {"X-Forwarded-Host": "pacs.example.org", "X-Forwarded-Proto": "https"}
    assert store(strict, ct(), Origin="https://pacs.example.org", **behind).status_code == 200


def test_plain_options_names_the_methods(web: httpx.Client) -> None:
    answer = web.options(f"{ROOT}/studies")
    assert answer.status_code == 204
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}
    assert web.options("/nowhere").status_code == 404


def test_forwarded_headers_of_a_trusted_proxy(strict: httpx.Client) -> None:
    store(strict, ct())

    def url(**headers: str) -> str:
        answer = strict.get(f"{ROOT}/studies?limit=1", headers={k.replace("_", "-"): v for k, v in headers.items()})
        return str(answer.json()[0]["00081190"]["Value"][0])

    assert url(X_Forwarded_Proto="https", X_Forwarded_Host="pacs.example.org").startswith(
        "https://pacs.example.org/dicom-web/studies/"
    )
    assert url(Forwarded='for=1.2.3.4;proto=https;host="pacs.example.org:8443"').startswith(
        "https://pacs.example.org:8443/dicom-web/"
    )


def test_public_url_and_any_origin(tmp_path: Path) -> None:
    settings = {"public_url": "https://pacs.example.org/archive/", "cors_origins": "*", "dicomweb_root": "/dw/rs"}
    with running_server(tmp_path, workers=1, **settings) as server, httpx.Client(base_url=server.url) as web:
        headers = {"Content-Type": "application/dicom", "X-Forwarded-Host": "evil.example.org", "Origin": "null"}
        answer = web.post("/dw/rs/studies", content=ct(), headers=headers)
        url = answer.json()["00081190"]["Value"][0]
        assert url.startswith("https://pacs.example.org/archive/dw/rs/studies/")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert web.get("/dw/rs/studies").json()[0]["00081190"]["Value"] == [url]
        assert web.get("/dicom-web/studies").status_code == 404
        assert web.get("/settings.json").json()["root"] == "/dw/rs"
        assert web.get("/openapi.json").json()["servers"] == [{"url": "https://pacs.example.org/archive"}]


@pytest.mark.parametrize(
    ("client", "headers", "expected"),
    [
        ("10.0.0.7", {}, "http://192.168.1.5:8042"),
        ("10.0.0.7", {"host": "localhost:8042"}, "http://192.168.1.5:8042"),  # not a loopback socket
        ("10.0.0.7", {"x-forwarded-host": "a.example"}, "http://a.example"),
        ("10.0.0.7", {"x-forwarded-host": "evil, a.example"}, "http://a.example"),  # the nearest proxy's word
        (
            "10.0.0.7",
            {"x-forwarded-host": "a.example", "x-forwarded-port": "8443", "x-forwarded-proto": "https"},
            "https://a.example:8443",
        ),
        ("10.0.0.7", {"x-forwarded-host": "a.example", "x-forwarded-prefix": "/pacs/"}, "http://a.example/pacs"),
        ("10.0.0.7", {"x-forwarded-host": 'a.example"/><x'}, "http://192.168.1.5:8042"),
        ("10.0.0.7", {"x-forwarded-host": "user@a.example"}, "http://192.168.1.5:8042"),
        ("10.0.0.7", {"x-forwarded-host": "a.example", "x-forwarded-proto": "javascript"}, "http://192.168.1.5:8042"),
        ("10.0.0.7", {"forwarded": "host=b.example;proto=https, host=a.example"}, "http://a.example"),
        ("203.0.113.9", {"x-forwarded-host": "evil.example"}, "http://192.168.1.5:8042"),
    ],
)
def test_address_rules(client: str, headers: dict[str, str], expected: str) -> None:
    address = PublicAddress.of(load_settings({"trusted_proxies": "10.0.0.0/8, fd00::/8"}, {}, None)[0])
    scope = {
        "type": "http",
        "scheme": "http",
        "client": (client, 50_000),
        "server": ("192.168.1.5", 8042),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    assert address.base(scope) == expected


def test_address_with_ipv6() -> None:
    address = PublicAddress.of(load_settings({}, {}, None)[0])
    scope = {"type": "http", "scheme": "http", "client": ("::1", 1), "server": ("::1", "8042"), "headers": []}
    assert address.base(scope) == "http://[::1]:8042"
    assert address.base(scope | {"headers": [(b"host", b"[::1]")]}) == "http://[::1]:8042"
    assert address.base(scope | {"headers": [(b"host", b"localhost:9")]}) == "http://localhost:8042"
