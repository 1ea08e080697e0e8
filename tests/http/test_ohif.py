"""What is served under /ohif/: the page, its settings, and the files of the installed viewer."""

import gzip
import http.client
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from api.deps import PublicAddress
from api.exchange import Exchange
from api.routes import ohif as routes
from dicomweb.errors import NotFound
from storage.access import LOCAL
from tests.support import RunningServer, running_server
from wsi.ohif import Viewer, load

pytestmark = pytest.mark.usefixtures("viewer")


@pytest.fixture
def viewer() -> Viewer:
    found = load()
    assert found is not None, "OHIF is not installed: python -m wsi.ohif"
    return found


def _config(script: str) -> dict[str, object]:
    match = re.search(r"^window\.config = (.*);$", script, re.DOTALL | re.MULTILINE)
    assert match
    return json.loads(match[1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", ["/ohif", "/ohif/", "/ohif/viewer?StudyInstanceUIDs=1.2.3", "/ohif/viewer/anor"])
def test_every_route_of_the_viewer_is_its_page(web: httpx.Client, path: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self' 'unsafe-eval';" in policy
    assert not re.search(r"https?:|\*", policy)
    assert not re.search(r"<script[^>]*>[^<]|https?://", answer.text)
    for loaded in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
        assert web.get(loaded).status_code == 200, loaded


def test_settings_name_this_archive(web: httpx.Client) -> None:
    answer = web.get("/ohif/app-config.js")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-type"].startswith("text/javascript")
    config = _config(answer.text)
    [source] = config["dataSources"]  # type: ignore[misc]
    assert source["configuration"]["qidoRoot"] == source["configuration"]["wadoRoot"] == "/dicom-web"
    assert config["defaultDataSourceName"] == source["sourceName"]
    assert config["routerBasename"] == "/ohif"
    assert "http" not in answer.text.replace("httpErrorHandler", "")


def test_files_are_compressed_and_immutable(web: httpx.Client, viewer: Viewer) -> None:
    base = f"/ohif/files/{viewer.build}"
    for name in (viewer.script, viewer.style, "ohif-logo.svg", "assets/images/CT-Lung.png"):
        plain = web.get(f"{base}/{name}", headers={"Accept-Encoding": "identity"})
        packed = web.get(f"{base}/{name}", headers={"Accept-Encoding": "br, gzip"})
        assert plain.status_code == packed.status_code == 200
        assert plain.content == packed.content == viewer.path(name, packed=False).read_bytes()
        assert len(plain.content) == int(plain.headers["content-length"]) == viewer.assets[name].size
        assert "content-encoding" not in plain.headers
        assert ("content-encoding" in packed.headers) == (not name.endswith(".png"))
        for answer, encoding in ((plain, "identity"), (packed, "gzip")):
            assert "immutable" in answer.headers["cache-control"]
            assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
            assert answer.headers["vary"] == "Accept-Encoding"
            known = {"If-None-Match": answer.headers["etag"], "Accept-Encoding": encoding}
            again = web.get(f"{base}/{name}", headers=known)
            assert (again.status_code, again.content) == (304, b"")
    assert web.get(f"{base}/{viewer.script}", headers={"If-None-Match": '"x"'}).status_code == 200
    assert web.get(f"/ohif/files/0/{viewer.style}").headers["cache-control"] == "no-cache"
    assert web.head(f"{base}/{viewer.style}").headers["content-type"] == "text/css; charset=utf-8"


@pytest.mark.parametrize(
    "path",
    [
        "/ohif/files/0/nothing.js",
        "/ohif/files/0/catalog.json",
        "/ohif/files/0/VERSION",
        "/ohif/files/0/../VERSION",
        "/ohif/files/0/..%2fVERSION",
        "/ohif/files/0/%2e%2e/%2e%2e/%2e%2e/pyvenv.cfg",
        "/ohif/files/0/assets",
        "/ohif/files/0//etc/passwd",
        "/ohif/app.bundle.css",
        "/ohif/sw.js",
    ],
)
def test_only_files_of_the_catalog(server: RunningServer, path: str) -> None:
    # A client that does not tidy the path up first.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()


def test_what_is_installed(viewer: Viewer) -> None:
    for name, asset in viewer.assets.items():
        content = viewer.path(name, packed=False).read_bytes()
        assert len(content) == asset.size
        if asset.packed_size:
            packed = viewer.path(name, packed=True).read_bytes()
            assert len(packed) == asset.packed_size
            assert gzip.decompress(packed) == content
        assert b'__webpack_require__.p = "/"' not in content
    assert not [name for name in viewer.assets if name.startswith("ort/") or name.endswith((".map", ".html"))]
    assert sum(asset.size for asset in viewer.assets.values()) < 70e6


def test_behind_a_proxy_below_a_path(tmp_path: Path, viewer: Viewer) -> None:
    with (
        running_server(
            tmp_path, workers=1, public_url="https://pacs.example.org/images", dicomweb_root="/dw"
        ) as server,
        httpx.Client(base_url=server.url) as web,
    ):
        script = web.get("/ohif/app-config.js").text
        [source] = _config(script)["dataSources"]  # type: ignore[misc]
        assert source["configuration"]["wadoRoot"] == "/images/dw"
        assert _config(script)["routerBasename"] == "/images/ohif"
        assert f'window.PUBLIC_URL = "/images/ohif/files/{viewer.build}/";' in script
        page = web.get("/ohif/viewer").text
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert loaded
        assert all(each.startswith("/images/") for each in loaded)


async def test_page_of_a_missing_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "load", lambda: None)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/ohif/viewer", "headers": [], "server": ("127.0.0.1", 8042)}
    services = SimpleNamespace(address=PublicAddress("https://pacs.example/images", ()))
    [operation] = [each for each in routes.OPERATIONS if each.handler is routes.page and "{page" in each.path]
    for handler in (routes.page, routes.configuration, routes.file):
        exchange = Exchange(
            scope, lambda: None, send, services=services, access=LOCAL, operation=operation, request_id="1"
        )
        exchange.path = {"page": "viewer", "build": "0", "name": "app.bundle.css"}
        if handler is routes.page:
            await handler(exchange)
        else:
            with pytest.raises(NotFound, match=r"python -m wsi\.ohif"):
                await handler(exchange)
    assert sent[0]["status"] == 404
    assert b"python -m wsi.ohif" in sent[1]["body"]
    assert b'href="/images/static/site.css"' in sent[1]["body"]
    assert b"$" not in sent[1]["body"]
