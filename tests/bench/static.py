"""Whole series against nginx serving the same bytes as static files: how far from the machine's limit are we?"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import floors, get
from .archives import Archive, free_port, wait_ready
from .manifest import Manifest
from .read import DICOM, series_path
from .report import Figures, Report, metered

_SERIES = 8
_CONNECTIONS = 4
_COUNT = 48

_CONFIGURATION = """
daemon off; worker_processes auto; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; default_type application/octet-stream;
  client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3;
  uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
  server {{ listen 127.0.0.1:{port}; location = /ready {{ return 200; }} {locations} }}
}}
"""


@contextmanager
def nginx(home: Path, locations: str) -> Iterator[Archive]:
    """nginx with the given locations on a free port; its files go to `home`."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (home / "nginx.conf").write_text(_CONFIGURATION.format(home=home, port=port, locations=locations))
    log = home / "log"
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise RuntimeError("nginx is not installed")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [program, "-p", str(home), "-c", str(home / "nginx.conf")], stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_ready(process, port, "/ready", log)
        yield Archive("nginx", port, 0, "", (process.pid,))
    finally:
        process.terminate()
        process.wait(30)


def run(archive: Archive, manifest: Manifest, work: Path, repeats: int, results: Path | None) -> Report:
    """Save what the archive answers for some series, then fetch them from it and from nginx in turn."""
    home = (work / "static").resolve()
    shutil.rmtree(home, ignore_errors=True)
    files = home / "files"
    files.mkdir(parents=True)
    series = [series_path(study, one) for study in manifest.ct for one in study.series][:_SERIES]
    for number, path in enumerate(series):
        (files / str(number)).write_bytes(archive.get(path, DICOM)[0])
    paths = {archive.name: series, "nginx": [f"/{number}" for number in range(len(series))]}

    def measure(server: Archive) -> Figures:
        with metered(server) as cost:
            got = get.closed_loop(server.http, paths[server.name], _CONNECTIONS, _COUNT, DICOM, "identity")
        cpu = cost.cpu * 1000 / got.requests
        return Figures(got.rate, got.megabytes, got.p50, got.p99, cpu, cost.generator, got.errors)

    with nginx(home, f"location / {{ root {home}/files; }}") as server:
        report = Report([archive, server], repeats, results)
        report.compare(floors.STATIC, _CONNECTIONS, measure)
    shutil.rmtree(home)
    return report
