"""The program as people run it: real processes, real sockets."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import psutil
import pydicom
import pytest
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from api.cli import app
from storage.embedded import EmbeddedPostgres
from storage.settings import table
from tests.files import dataset, encoded
from tests.support import (
    RunningServer,
    anor,
    await_ready,
    free_port,
    running_server,
    start_server,
)

CT = Path(str(get_testdata_file("CT_small.dcm")))
CT_STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a migrated cluster, made by a first `anor migrate`."""
    directory = tmp_path_factory.mktemp("cli") / "data"
    done = anor("migrate", data=str(directory))
    assert done.returncode == 0, done.stderr
    assert "applied 0001_archive" in done.stdout
    assert "the database is at version" in done.stdout
    return directory


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def running(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("running") / "data"
    shutil.copytree(data, directory)
    with running_server(directory) as server:
        yield server


def get(server: RunningServer, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def post(server: RunningServer, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("POST", "/instances", body, {"Content-Type": "application/dicom"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def family(server: RunningServer) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def http_workers(server: RunningServer) -> list[psutil.Process]:
    """Children that listen on the HTTP port."""
    return [child for child in family(server) if server.port in listening_ports(child)]


def listening_ports(process: psutil.Process) -> set[int]:
    try:
        found = process.net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return set()
    return {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}


def eventually(condition: object, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def test_help_names_every_command_and_setting() -> None:
    runner = CliRunner()
    overview = runner.invoke(app, ["--help"])
    assert overview.exit_code == 0
    for command in ("serve", "api", "worker", "dimse", "migrate", "import", "status", "config", "fsck", "transcode"):
        assert f" {command} " in overview.output
        helped = runner.invoke(app, [command, "--help"])
        assert helped.exit_code == 0
        assert "--config" in helped.output
    serve = runner.invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for name in ("data", "host", "http_port", "dimse_port", "workers"):
        assert f"ANOR_{name.upper()}" in serve


def test_version_and_nonsense() -> None:
    assert anor("--version").stdout.strip() == version("anor")
    said = anor("sevre")
    assert said.returncode == 2
    assert "No such command" in said.stderr


def test_config_shows_values_and_origins(tmp_path: Path) -> None:
    toml = tmp_path / "some.toml"
    toml.write_text('aet = "FROMFILE"\n')
    said = anor(
        "config", "--config", str(toml), "--workers", "3",
        http_port="8100", database_url="postgresql://u:hunter2@h/d",
    )  # fmt: skip
    assert said.returncode == 0
    lines = {line.split()[0]: line.split() for line in said.stdout.splitlines() if line.split()}
    assert lines["aet"] == ["aet", "FROMFILE", str(toml)]
    assert lines["workers"] == ["workers", "3", "--workers"]
    assert lines["http_port"] == ["http_port", "8100", "ANOR_HTTP_PORT"]
    assert lines["database_url"][1] == "postgresql://u:*****@h/d"
    assert "hunter2" not in said.stdout
    assert {setting.name for setting in table()} <= set(lines)


def test_wrong_settings_end_with_status_2() -> None:
    said = anor("serve", workers="none")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "anor: workers (from ANOR_WORKERS): 'none' is not a whole number\n"
    assert "is ANOR_WORKERS meant?" in anor("config", wokrers="2").stderr


def test_unknown_variables_are_said() -> None:
    done = anor("config", worker="4", nothing_like_it="1")
    assert done.returncode == 0
    assert "anor: ANOR_WORKER is not a setting and is ignored; is ANOR_WORKERS meant?\n" in done.stderr
    assert "anor: ANOR_NOTHING_LIKE_IT is not a setting and is ignored\n" in done.stderr


def test_a_file_with_secrets_should_be_private(tmp_path: Path) -> None:
    toml = tmp_path / "some.toml"
    toml.write_text('database_url = "postgresql://u:hunter2@h/d"\n')
    toml.chmod(0o644)
    said = anor("config", "--config", str(toml))
    assert f"{toml} holds database_url, and others can read it: chmod 600 {toml}" in said.stderr
    toml.chmod(0o600)
    assert anor("config", "--config", str(toml)).stderr == ""


@pytest.mark.parametrize("command", ["serve", "api", "dimse"])
def test_beyond_loopback_is_refused(command: str, tmp_path: Path) -> None:
    said = anor(command, "--host", "0.0.0.0", data=str(tmp_path / "data"))
    assert said.returncode == 2
    assert "--insecure" in said.stderr
    assert not (tmp_path / "data").exists()


def test_taken_ports_are_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = anor("serve", data=str(tmp_path), http_port=str(port), dimse_port="0")
        assert said.returncode == 1
        assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in said.stderr
        said = anor("serve", data=str(tmp_path), http_port="0", dimse_port=str(port))
        assert f"cannot listen on 127.0.0.1 port {port}" in said.stderr
    assert not (tmp_path / "postgres").exists()


def test_what_a_start_waits_for_is_said(tmp_path: Path) -> None:
    """An object store that does not answer: with a silence of a minute nobody would know what to look at."""
    keys = {"s3_access_key": "a", "s3_secret_key": "b", "s3_retries": 0}
    server = start_server(
        tmp_path, workers=1, wait=False, objects="s3://bucket", s3_endpoint="http://127.0.0.1:9", **keys
    )
    try:
        eventually(lambda: "not ready yet: the object store cannot be reached" in server.output(), 30)
    finally:
        server.stop()


def test_serve_prints_its_urls(running: RunningServer) -> None:
    eventually(lambda: "  DIMSE  " in running.output(), 30)  # the last line; the file that waiting looks for is older
    said = running.output()
    assert f"start page  {running.url}/\n" in said
    assert f"DICOMweb    {running.url}/dicom-web\n" in said
    assert f"API         {running.url}/docs\n" in said
    assert f"DIMSE       ANOR at 127.0.0.1 port {running.dimse_port}\n" in said
    assert get(running, "/readyz")[0] == 200
    with socket.create_connection(("127.0.0.1", running.dimse_port), timeout=10):
        pass


def test_several_workers_share_the_port(running: RunningServer) -> None:
    assert len(http_workers(running)) == 2


def test_processes_have_no_stray_listeners(running: RunningServer) -> None:
    listening = {
        (each.laddr.ip, each.laddr.port)
        for process in [
            psutil.Process(running.process.pid),
            *psutil.Process(running.process.pid).children(recursive=True),
        ]
        for each in process.net_connections(kind="tcp")
        if each.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", running.port), ("127.0.0.1", running.dimse_port)}


def test_status_beside_a_running_server(running: RunningServer) -> None:
    assert post(running, CT.read_bytes())[0] == 200
    said = anor("status", data=str(running.data))
    assert said.returncode == 0, said.stderr
    lines = {line.split("  ")[0].strip(): line for line in said.stdout.splitlines()}
    assert "ready" in lines["HTTP"]
    assert "PostgreSQL" in lines["database"]
    assert lines["instances"].split() == ["instances", "1"]
    assert lines["studies"].split() == ["studies", "1"]
    assert {"Anor", "DIMSE", "schema", "index size", "objects", "stored", "free on disk"} <= set(lines)


def test_migrate_and_import_beside_a_running_server(running: RunningServer, tmp_path: Path) -> None:
    said = anor("migrate", data=str(running.data))
    assert said.returncode == 0
    assert "nothing to do" in said.stdout
    (tmp_path / "notes.txt").write_text("no image")
    shutil.copy(str(get_testdata_file("MR_small.dcm")), tmp_path)
    said = anor("import", str(tmp_path), "--quiet", data=str(running.data))
    assert said.returncode == 0, said.stderr
    assert ["stored", "1"] in [line.split() for line in said.stdout.splitlines()]
    assert ["not", "DICOM", "1"] in [line.split() for line in said.stdout.splitlines()]
    again = anor("import", str(tmp_path), data=str(running.data))
    assert ["there", "already", "1"] in [line.split() for line in again.stdout.splitlines()]


def test_import_says_what_failed(running: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "cut.dcm").write_bytes(CT.read_bytes()[:-1000])
    said = anor("import", str(tmp_path), "--quiet", data=str(running.data))
    assert said.returncode == 1
    assert "cut.dcm" in said.stdout
    missing = anor("import", str(tmp_path / "nowhere"), data=str(running.data))
    assert missing.returncode == 2
    assert "no such file or folder" in missing.stderr


def test_import_without_a_server(own: Path) -> None:
    said = anor("import", str(CT), "--quiet", data=str(own))
    assert said.returncode == 0, said.stderr
    assert ["stored", "1"] in [line.split() for line in said.stdout.splitlines()]
    status = anor("status", data=str(own))
    assert status.returncode == 1
    assert "no server runs" in status.stdout


def test_one_server_per_data_directory(running: RunningServer) -> None:
    said = anor("serve", data=str(running.data), http_port="0", dimse_port="0")
    assert said.returncode == 1
    assert f"in use by process {running.process.pid}" in said.stderr
    assert get(running, "/readyz")[0] == 200
    assert json.loads((running.data / "server.json").read_text())["pid"] == running.process.pid


def test_parts_alone_beside_a_running_server(running: RunningServer, tmp_path: Path) -> None:
    """`anor api` and `anor worker` with the embedded database of another process."""
    port, dimse_port = free_port(), free_port()
    told = {"worker": free_port(), "dimse": free_port()}
    environment = dict(running.environment) | {"ANOR_HTTP_PORT": str(port)}
    command = [str(part) for part in (Path(psutil.Process(running.process.pid).cmdline()[0]), "-m", "api.cli")]
    with (tmp_path / "log").open("wb") as log:
        parts = [
            subprocess.Popen(
                [*command, *arguments],
                env=environment | {"ANOR_METRICS_PORT": str(told.get(arguments[0], 0))},
                stdout=log,
                stderr=log,
                cwd=Path.cwd(),
            )
            for arguments in (["api", "--workers", "1"], ["worker"], ["dimse", "--dimse-port", str(dimse_port)])
        ]
    beside = RunningServer(running.data, parts[0], tmp_path / "log", f"http://127.0.0.1:{port}")
    try:
        eventually(lambda: _answers(beside))
        eventually(lambda: _listens(dimse_port))  # what is told to stop while it starts has no exit status of its own
        assert get(beside, "/readyz")[0] == 200
        for name, metrics_port in told.items():
            alone = RunningServer(running.data, parts[0], tmp_path / "log", f"http://127.0.0.1:{metrics_port}")
            eventually(lambda alone=alone: _answers(alone))
            # The process that answers for `anor dimse` asks no database itself: its neighbours do.
            eventually(lambda alone=alone: b'anor_database_seconds_count{outcome="ok"}' in get(alone, "/metrics")[1])
            assert f"metrics     http://127.0.0.1:{metrics_port}/metrics" in beside.output(), name
        assert all(part.poll() is None for part in parts), beside.output()
    finally:
        for part in parts:
            part.send_signal(signal.SIGTERM)
        codes = [part.wait(30) for part in parts]
    assert codes == [0, 0, 0], beside.output()


def _answers(server: RunningServer) -> bool:
    try:
        return get(server, "/healthz")[0] == 200
    except OSError:
        return False


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("command", ["api", "worker", "dimse"])
def test_parts_need_a_database(command: str, tmp_path: Path) -> None:
    said = anor(command, data=str(tmp_path), http_port="0", dimse_port="0")
    assert said.returncode == 1
    assert "start it with `anor serve`, or set ANOR_DATABASE_URL" in said.stderr


def test_given_database(empty_database_url: str, tmp_path: Path) -> None:
    refused = anor("api", data=str(tmp_path), http_port="0", database_url=empty_database_url)
    assert refused.returncode == 1
    assert "run `anor migrate`" in refused.stderr
    with running_server(tmp_path / "data", database_url=empty_database_url) as server:
        assert get(server, "/readyz")[0] == 200
        assert not (server.data / "postgres").exists()


def test_database_that_is_not_there(tmp_path: Path) -> None:
    url = f"postgresql://u:secret@127.0.0.1:{free_port()}/x"
    said = anor("serve", data=str(tmp_path), http_port="0", dimse_port="0", database_url=url)
    assert said.returncode == 1
    assert "cannot connect to the database" in said.stderr
    assert "secret" not in said.stderr


def test_slow_upload_is_finished_before_the_end(own: Path) -> None:
    server = start_server(own)
    body = CT.read_bytes()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as upload:
        upload.sendall(
            b"POST /instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/dicom\r\n"
            b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert upload.recv(100).startswith(b"HTTP/1.1 100")  # the route reads
        upload.sendall(body[:1000])
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: _refused(server.port))  # nothing new is accepted
        time.sleep(0.5)
        assert server.process.poll() is None
        upload.sendall(body[1000:])
        answer = upload.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b"Success" in answer
    assert server.process.wait(30) == 0
    assert not (own / "server.json").exists()
    assert not (own / "postgres/data/postmaster.pid").exists()
    with EmbeddedPostgres(own / "postgres"):
        status = anor("status", data=str(own))
    assert ["instances", "1"] in [line.split() for line in status.stdout.splitlines()]


def test_slow_download_is_finished_before_the_end(own: Path) -> None:
    file = encoded(dataset(Rows=2048, Columns=4096, PixelData=os.urandom(2048 * 4096 * 2)))
    server = start_server(own)
    assert post(server, file)[0] == 200
    ds = pydicom.dcmread(BytesIO(file), stop_before_pixels=True)
    path = f"/dicom-web/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: application/dicom\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as download:
        download.sendall(request.encode())
        received = bytearray(download.recv(65536))
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: _refused(server.port))
        while chunk := download.recv(1 << 20):
            received += chunk
    assert received.partition(b"\r\n\r\n")[2] == file
    assert server.process.wait(30) == 0


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_a_request_that_never_ends_is_cut_after_the_timeout(own: Path) -> None:
    server = start_server(own, shutdown_timeout=1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as upload:
        upload.sendall(b"POST /instances HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
        assert upload.recv(100).startswith(b"HTTP/1.1 100")
        upload.sendall(b"abc")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 1  # says that something was cut
    assert not (own / "postgres/data/postmaster.pid").exists()


def test_killed_workers_and_killed_postgres_come_back(own: Path) -> None:
    with running_server(own) as server:
        for worker in http_workers(server):
            worker.kill()
        eventually(lambda: len(http_workers(server)) == 2)
        eventually(lambda: _answers(server))
        assert post(server, CT.read_bytes())[0] == 200
        endpoint = json.loads((own / "postgres/endpoint.json").read_text())
        os.kill(endpoint["postmaster"], signal.SIGKILL)
        eventually(lambda: get(server, "/readyz")[0] == 200)
        assert get(server, f"/dicom-web/studies?StudyInstanceUID={CT_STUDY}")[0] == 200
        assert "PostgreSQL had died and was started again" in server.output()


def test_everything_ends_with_a_killed_supervisor(own: Path) -> None:
    server = start_server(own)
    assert post(server, CT.read_bytes())[0] == 200
    everybody = psutil.Process(server.process.pid).children(recursive=True)
    assert len(everybody) >= 6
    server.kill()
    _, alive = psutil.wait_procs(everybody, timeout=20)
    assert not alive
    # And the next one starts at once, on the same port, with what was acknowledged.
    again = start_server(own, http_port=server.port)
    try:
        status, body = get(again, "/statistics")
        assert status == 200
        assert json.loads(body)["CountInstances"] == 1
    finally:
        assert again.stop() == 0


def test_warm_start_is_quick(own: Path) -> None:
    begin = time.monotonic()
    server = start_server(own, wait=False)
    await_ready(server)
    took = time.monotonic() - begin
    assert server.stop() == 0
    assert took < 15  # under 2 s where nothing else runs; tests/bench states the real figure
