"""The embedded PostgreSQL: its life, its death, and who may use it."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from storage.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    InUse,
    NotRunning,
    attach,
    connections_for,
    database,
    database_url,
    socket_directory,
)
from storage.embedded_cluster import find_programs, machine_memory, tuning
from storage.process import RunAs, choose_identity
from storage.settings import load_settings
from tests.support import ROOT, clean_environment

PROGRAMS = Path(os.environ["ANOR_POSTGRES_BIN"]) if "ANOR_POSTGRES_BIN" in os.environ else None

OWNER = """
import sys, time
from pathlib import Path
from storage.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), programs=Path(sys.argv[2]) if sys.argv[2] else None)
server.start()
print(server.pid, flush=True)
while True:
    time.sleep(0.02)
    if server.supervise_once():
        print(server.pid, flush=True)
"""


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped cluster with one table, made by a first start and a clean stop."""
    base = tmp_path_factory.mktemp("embedded") / "postgres"
    with EmbeddedPostgres(base, programs=PROGRAMS) as server:
        run(server.dsn, "CREATE TABLE thing (id int)")
    return base


@pytest.fixture
def base(made_once: Path, tmp_path: Path) -> Path:
    """A copy of that cluster."""
    copy = tmp_path / "postgres"
    shutil.copytree(made_once, copy, ignore=shutil.ignore_patterns(".s.*"))
    return copy


def run(url: str, statement: str) -> object:
    """One statement on a connection of its own, from outside any event loop."""

    async def go() -> object:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        return runner.run(go())


def start_owner(base: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that owns the server, and the postmaster's pid."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(base), str(PROGRAMS or "")],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert owner.stdout is not None
    return owner, int(owner.stdout.readline())


@pytest.fixture
def owner(base: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    process, pid = start_owner(base)
    yield process, pid
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    wait_until_gone(pid)


def wait_until_gone(pid: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def test_first_start_makes_a_durable_private_cluster(made_once: Path) -> None:
    with EmbeddedPostgres(made_once, connections=33, programs=PROGRAMS) as server:
        show = {
            name: run(server.dsn, f"SHOW {name}")
            for name in (
                "fsync", "synchronous_commit", "full_page_writes", "data_checksums", "listen_addresses",
                "max_connections", "jit", "password_encryption", "log_min_error_statement", "server_encoding",
            )
        }  # fmt: skip
        assert show == {
            "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on",
            "listen_addresses": "", "max_connections": "33", "jit": "off", "password_encryption": "scram-sha-256",
            "log_min_error_statement": "panic", "server_encoding": "UTF8",
        }  # fmt: skip
        assert run(server.dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        assert run(server.admin_dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True
        assert run(server.dsn, "SELECT lower('ÄÖ')") == "äö"
        for url in (server.dsn.replace("anor:", "anor:x"), server.admin_dsn.replace("postgres:", "postgres:x")):
            with pytest.raises(asyncpg.InvalidPasswordError):
                run(url, "SELECT 1")
        for name in ("password", "admin-password", "endpoint.json"):
            assert (made_once / name).stat().st_mode & 0o077 == 0
        assert made_once.stat().st_mode & 0o077 == 0


def test_durability_cannot_be_configured_away(base: Path) -> None:
    with (base / "data/postgresql.conf").open("a") as file:
        file.write("fsync = off\nlisten_addresses = '*'\nwork_mem = '17MB'\n")
    with EmbeddedPostgres(base, programs=PROGRAMS) as server:
        assert run(server.dsn, "SHOW fsync") == "on"
        assert run(server.dsn, "SHOW listen_addresses") == ""
        assert run(server.dsn, "SHOW work_mem") == "17MB"  # what an administrator writes wins over our defaults


def test_data_survives_and_warm_start_is_quick(base: Path) -> None:
    with EmbeddedPostgres(base, programs=PROGRAMS) as server:
        run(server.dsn, "INSERT INTO thing VALUES (7)")
    begin = time.monotonic()
    with EmbeddedPostgres(base, programs=PROGRAMS) as server:
        assert time.monotonic() - begin < 5  # 0.1 s where nothing else runs
        assert run(server.dsn, "SELECT id FROM thing") == 7
    assert not (base / "data/postmaster.pid").exists()
    assert not (base / "endpoint.json").exists()


def test_one_owner_others_attach(base: Path, owner: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = owner
    with pytest.raises(InUse, match=f"in use by process {process.pid}"):
        EmbeddedPostgres(base, programs=PROGRAMS).start()
    assert run(attach(base), "SELECT 1") == 1


def test_nothing_to_attach_to(base: Path) -> None:
    with pytest.raises(NotRunning, match="anor serve"):
        attach(base)
    (base / "endpoint.json").write_text("{}")
    (base / "owner.lock").touch()
    with pytest.raises(NotRunning, match="clean stop"):
        attach(base)


def test_killed_server_is_started_again(base: Path, owner: tuple[subprocess.Popen[str], int]) -> None:
    process, pid = owner
    url = attach(base)
    for number in range(3):
        run(url, f"INSERT INTO thing VALUES ({number})")
        os.kill(pid, signal.SIGKILL)
        assert process.stdout is not None
        pid = int(process.stdout.readline())
    assert run(attach(base), "SELECT array_agg(id ORDER BY id) FROM thing") == [0, 1, 2]


async def test_killed_server_with_a_busy_backend(base: Path) -> None:
    server = EmbeddedPostgres(base, programs=PROGRAMS)
    with server:
        connection = await asyncpg.connect(server.dsn)
        busy = asyncio.create_task(connection.fetchval("SELECT count(*) FROM generate_series(1, 30000000)"))
        await asyncio.sleep(0.2)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until_gone(server.pid)
        assert server.supervise_once(timeout=10)  # and not only after the statement, half a minute later
        assert server.pid is not None
        with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
            await busy
        connection.terminate()
        again = await asyncpg.connect(server.dsn)
        assert await again.fetchval("SELECT 1") == 1
        await again.close()


def test_server_ends_cleanly_with_its_killed_owner(base: Path) -> None:
    process, pid = start_owner(base)
    run(attach(base), "INSERT INTO thing VALUES (1)")
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    # A new owner at once: it waits for the old server instead of failing.
    with EmbeddedPostgres(base, programs=PROGRAMS) as server:
        wait_until_gone(pid)
        assert run(server.dsn, "SELECT count(*) FROM thing") == 1
    log = (base / "postgres.log").read_text()
    assert "database system was not properly shut down" not in log


def test_stale_pid_file_of_another_program(base: Path) -> None:
    # After the restart of a container the number of the dead server belongs to another program: here, to this one.
    pidfile = base / "data/postmaster.pid"
    pidfile.write_text(
        f"{os.getpid()}\n{base / 'data'}\n1700000000\n5432\n{base / 'run'}\n\n  123456    999999\nready   \n"
    )
    with EmbeddedPostgres(base, programs=PROGRAMS) as server:
        assert run(server.dsn, "SELECT 1") == 1


def test_half_made_cluster_is_made_again(tmp_path: Path) -> None:
    base = tmp_path / "postgres"
    (base / "data.new/base").mkdir(parents=True)
    (base / "data.new/PG_VERSION").write_text("18")
    with EmbeddedPostgres(base, programs=PROGRAMS) as server:
        assert run(server.dsn, "SELECT 1") == 1


def test_other_major_version_is_refused(base: Path) -> None:
    (base / "data/PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 12.*pg_dump"):
        EmbeddedPostgres(base, programs=PROGRAMS).start()
    # The refusal gave up ownership, so the next try says the same and not "in use"
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 12"):
        EmbeddedPostgres(base, programs=PROGRAMS).start()


def test_programs_of_an_older_cluster_are_found() -> None:
    newest = find_programs(None)
    assert newest.major >= 15
    assert find_programs(newest.major).directory == newest.directory
    with pytest.raises(EmbeddedError, match="no PostgreSQL 15 or later found in /usr/bin"):
        find_programs(None, Path("/usr/bin"))


def test_a_server_that_cannot_start_says_why(base: Path) -> None:
    with (base / "data/postgresql.conf").open("a") as file:
        file.write("shared_buffers = 'much'\n")
    with pytest.raises(EmbeddedError, match="shared_buffers"):
        EmbeddedPostgres(base, programs=PROGRAMS).start()


def test_path_too_long_for_a_socket(made_once: Path, tmp_path: Path) -> None:
    base = tmp_path / ("x" * 60) / ("y" * 60) / "postgres"
    base.parent.mkdir(parents=True)
    shutil.copytree(made_once, base, ignore=shutil.ignore_patterns(".s.*"))
    assert not socket_directory(base).is_relative_to(base)
    with EmbeddedPostgres(base, programs=PROGRAMS) as server:
        assert run(server.dsn, "SELECT 1") == 1
        assert run(attach(base), "SELECT 1") == 1
        assert socket_directory(base).stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("order", [("nobody",), ("namespace", "nobody", "namespace"), ("nobody", "namespace")])
def test_root_without_and_with_user_namespaces(base: Path, order: tuple[str, ...]) -> None:
    if "namespace" in order and choose_identity() is not RunAs.NAMESPACE:
        pytest.skip("user namespaces are not allowed here")
    base.parent.chmod(0o700)  # closed to `nobody`, as /root is
    for number, run_as in enumerate(order):
        with EmbeddedPostgres(base, programs=PROGRAMS, run_as=run_as) as server:
            assert server.pid is not None
            status = Path(f"/proc/{server.pid}/status").read_text()
            uid = int(status.split("Uid:")[1].split()[1])
            assert (uid == 0) == (run_as == "namespace")  # as seen from here; inside the namespace it is not 0
            run(server.dsn, f"INSERT INTO thing VALUES ({number})")
    assert base.parent.stat().st_mode & 0o777 == 0o700
    with EmbeddedPostgres(base, programs=PROGRAMS) as server:
        assert run(server.dsn, "SELECT count(*) FROM thing") == len(order)


@pytest.mark.skipif(os.geteuid() != 0 or PROGRAMS is not None, reason="root, with the programs of the wheel")
def test_nobody_runs_programs_that_are_closed_to_it(tmp_path: Path) -> None:
    closed = tmp_path / "closed"  # such as a checkout in /root
    wheel = find_programs(None).directory.parents[1]
    for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        shutil.copytree(part, closed / part.name, symlinks=True)
    closed.chmod(0o700)
    programs = closed / wheel.name / find_programs(None).directory.relative_to(wheel)
    with EmbeddedPostgres(closed / "postgres", programs=programs, run_as="nobody") as server:
        assert run(server.dsn, "SELECT 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="starts a server as another user")
def test_normal_user_even_without_an_account(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = find_programs(None, PROGRAMS).directory / "postgres"
    readable = subprocess.run(
        ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "test", "-x", program], check=False
    )
    if readable.returncode:
        pytest.skip("the checkout is closed to other users")
    base = Path("/tmp") / f"anor-user-{os.getpid()}"
    base.mkdir()
    try:
        os.chown(base, 12345, 12345)
        code = (
            "import sys; from pathlib import Path; from storage.embedded import EmbeddedPostgres\n"
            "programs = Path(sys.argv[2]) if sys.argv[2] else None\n"
            "with EmbeddedPostgres(Path(sys.argv[1]), programs=programs) as server: print(server.pid)"
        )
        done = subprocess.run(
            [
                "setpriv",
                "--reuid=12345",
                "--regid=12345",
                "--clear-groups",
                sys.executable,
                "-c",
                code,
                base / "pg",
                PROGRAMS or "",
            ],
            env=clean_environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            check=False,
        )
        if "Permission denied" in done.stderr and "pyvenv" in done.stderr:
            pytest.skip("the interpreter is closed to other users")
        assert done.returncode == 0, done.stderr
        assert (base / "pg/data").stat().st_uid == 12345
    finally:
        shutil.rmtree(base)


def test_database_of_a_command(base: Path, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    base.rename(directory / "postgres")
    settings = load_settings({"data": directory, "postgres_bin": PROGRAMS}, {}, None)[0]
    with pytest.raises(NotRunning):
        database_url(settings)
    with database(settings) as url:  # nobody runs one: our own, for this time
        assert run(url, "SELECT 1") == 1
        with database(settings) as second:  # one runs: attached
            assert second == url == database_url(settings)
    assert not (directory / "postgres/data/postmaster.pid").exists()
    given = load_settings({"database_url": "postgresql://somewhere/x"}, {}, None)[0]
    with database(given) as url:
        assert url == database_url(given) == "postgresql://somewhere/x"


def test_tuning_follows_the_machine() -> None:
    assert tuning(18, 50, 16 << 30)["shared_buffers"] == "1024MB"
    assert tuning(18, 50, 1 << 30)["shared_buffers"] == "128MB"
    assert tuning(18, 50, 256 << 20)["shared_buffers"] == "64MB"
    assert "io_method" not in tuning(15, 50, 1 << 30)
    assert machine_memory() > 128 << 20
    small = load_settings({"workers": 1, "database_pool": 2}, {}, None)[0]
    large = load_settings({"workers": 8, "database_pool": 8}, {}, None)[0]
    assert connections_for(small) < connections_for(large)
    assert connections_for(large) >= 8 * 8
