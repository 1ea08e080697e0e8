"""The configuration that is shipped for nginx, in front of a real server."""

import getpass
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from dicomweb.uids import orthanc_ids
from tests.files import new_uid
from tests.http.bodies import store
from tests.support import ROOT, RunningServer, free_port, running_server
from tests.wsi.make_slide import Slide, make_slide
from tests.wsi.variants import Series, file, instance, matrix, tiles_of

CONFIGURATION = ROOT / "infra" / "nginx" / "anor.conf"
MAIN = """
daemon off; user {user}; pid {home}/pid; error_log {home}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3;
  uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
  include {home}/anor.conf;
}}
"""


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that believes what a proxy on this machine says."""
    with running_server(tmp_path_factory.mktemp("behind"), workers=1, trusted_proxies="127.0.0.0/8") as server:
        yield server


@pytest.fixture
def front(behind: RunningServer, tmp_path: Path) -> Iterator[Callable[..., httpx.Client]]:
    """nginx with the shipped file, of which only the port, the upstream and the place of the cache are other ones."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert program, "nginx is not installed (Debian: nginx-light)"
    running: list[subprocess.Popen[bytes]] = []
    clients: list[httpx.Client] = []

    def start() -> httpx.Client:
        port, text = free_port(), CONFIGURATION.read_text("utf-8")
        changes = {
            "listen 80;": f"listen 127.0.0.1:{port};",
            "127.0.0.1:8042": f"127.0.0.1:{behind.port}",
            "/var/cache/nginx/anor": f"{tmp_path}/cache",
        }
        for old, new in changes.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "anor.conf").write_text(text)
        (tmp_path / "nginx.conf").write_text(MAIN.format(home=tmp_path, user=getpass.getuser()))
        running.append(subprocess.Popen([program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]))
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        clients.append(client)
        end = time.monotonic() + 30
        while True:
            try:
                assert client.get("/healthz").status_code == 200
            except httpx.TransportError:
                assert time.monotonic() < end, (tmp_path / "error.log").read_text()
                time.sleep(0.05)
            else:
                return client

    yield start
    for client in clients:
        client.close()
    for process in running:
        process.terminate()
        process.wait(30)


@pytest.fixture
def slide(behind: RunningServer) -> Slide:
    made = make_slide(600, 400, levels=2, PatientID=new_uid()[-16:])
    with httpx.Client(base_url=behind.url, timeout=60) as web:
        assert store(web, *made.files).status_code == 200
    return made


def cached(client: httpx.Client, path: str, **headers: str) -> tuple[str, httpx.Response]:
    answer = client.get(path, headers=headers)
    return answer.headers.get("x-cache", ""), answer


def test_what_names_its_version_is_kept(
    front: Callable[..., httpx.Client], behind: RunningServer, slide: Slide
) -> None:
    client = front()
    manifest = client.get(f"/wsi/slides/{slide.series}").json()
    assert manifest["tiles"].startswith(str(client.base_url).rstrip("/"))  # what the browser knows, not the upstream
    url = manifest["tiles"].format(level=0, x=1, y=1)
    direct = httpx.get(behind.url + url.removeprefix(str(client.base_url).rstrip("/")))
    for expected in ("MISS", "HIT", "HIT"):
        state, answer = cached(client, url)
        assert (state, answer.status_code) == (expected, 200)
        assert answer.content == direct.content
        assert "immutable" in answer.headers["cache-control"]
    state, answer = cached(client, url, **{"If-None-Match": direct.headers["etag"]})
    assert (state, answer.status_code) == ("HIT", 304)
    assert client.head(url).headers["x-cache"] == "HIT"
    # Every parameter is a part of the name, and so is Accept where it decides.
    assert cached(client, f"{url}&format=png")[1].headers["content-type"] == "image/png"
    assert cached(client, f"{url}&format=png")[0] == "HIT"
    first = dcmread(BytesIO(slide.files[0]), stop_before_pixels=True)
    ids = orthanc_ids(first.PatientID, slide.study, slide.series, first.SOPInstanceUID)
    tile = f"/wsi/tiles/{ids.series}/0/1/1?v={manifest['version']}"
    for accept in ("image/png", "image/jpeg"):
        states = [cached(client, tile, Accept=accept) for _ in range(2)]
        assert [state for state, _ in states] == ["MISS", "HIT"]
        assert {answer.headers["content-type"] for _, answer in states} == {accept}


def test_nothing_else_is_kept(front: Callable[..., httpx.Client], slide: Slide) -> None:
    client = front()
    base = f"/wsi/slides/{slide.series}"
    version = client.get(base).json()["version"]
    assert cached(client, base)[0] == ""
    for path in (f"{base}/tiles/0/0/0", f"{base}/tiles/0/0/0?v=1", f"{base}/tiles/0/99/0?v={version}"):
        for _ in range(2):
            assert cached(client, path)[0] in {"MISS", "EXPIRED"}, path
    # A new level: the old version is not the slide's any more, and its tiles are those that it had.
    tile = f"{base}/tiles/1/0/0?v={version}"
    before = cached(client, tile)[1].content
    series = Series(slide.study, slide.series)
    first = client.get(f"/dicom-web/studies/{slide.study}/series/{slide.series}/metadata").json()[0]
    series.frame_of_reference = first["00200052"]["Value"][0]
    array = matrix(150, 100)
    more = instance(series, tiles_of(array, 64), (150, 100), ContainerIdentifier="C-1", PatientID="")
    assert store(client, file(more)).status_code in {200, 202}
    assert client.get(base).json()["version"] != version
    assert cached(client, tile)[1].content == before
    assert cached(client, f"{base}/tiles/1/1/0?v={version}")[0] == "MISS"
    assert cached(client, f"{base}/tiles/1/1/0?v={version}")[0] == "MISS"


def test_who_may_see_the_slide_is_asked_for(front: Callable[..., httpx.Client], slide: Slide) -> None:
    """The cache holds pixels, not rights: without the slide, or the right to it, there is no tile."""
    client = front()
    manifest = client.get(f"/wsi/slides/{slide.series}").json()
    url = manifest["tiles"].format(level=0, x=0, y=0)
    assert [cached(client, url)[0] for _ in range(2)] == ["MISS", "HIT"]
    assert client.get(f"/wsi/deepzoom/{slide.series}_files/8/0_0.jpeg?v={manifest['version']}").status_code == 200
    assert client.delete(f"/dicom-web/studies/{slide.study}/series/{slide.series}").status_code in {200, 204}
    # A right that was there is taken for granted for a second, of which nginx counts whole ones: until the one after
    # ends.
    end = time.monotonic() + 3
    while (status := client.get(url).status_code) == 200 and time.monotonic() < end:
        time.sleep(0.05)
    assert status == 403
