"""The peer: Orthanc with SQLite or PostgreSQL as its index, one directory, loopback only.

Debian 13's Orthanc 1.12.7 runs in a chroot that debootstrap makes once (root is needed for it); elsewhere the installed
package is used, whose version every run prints. Orthanc's defaults stay: durable files, no overwriting, no compression.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import processes
from .archives import LOOPBACK, Archive, free_port, wait_ready

Index = Literal["sqlite", "pg"]

_PACKAGES = ("orthanc", "orthanc-dicomweb", "orthanc-postgresql", "orthanc-gdcm", "orthanc-wsi")
_PLUGINS = Path("/usr/share/orthanc/plugins")
_SUITE, _MIRROR = "trixie", "http://deb.debian.org/debian"
_ROLE = "orthanc"
_DEEP_STACKS = "deep_stacks"


@dataclass(frozen=True, slots=True)
class Peer:
    """Where Orthanc is: in `root` (a chroot, or `/` for the installed package); its data are below `home` inside it."""

    root: Path
    home: Path

    @property
    def outside(self) -> Path:
        """`home` as this process sees it."""
        return self.root / self.home.relative_to("/")

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs a program of the peer's system."""
        return list(arguments) if self.root == Path("/") else ["chroot", str(self.root), *arguments]


def prepare(work: Path) -> Peer:
    """Make the chroot (about 500 MB, a minute or two), or fall back on an installed Orthanc.

    Raises RuntimeError when there is neither.
    """
    root = work / "debian"
    if os.geteuid() == 0 and shutil.which("debootstrap"):
        if not (root / "usr/sbin/Orthanc").exists():
            _bootstrap(root)
        shutil.copy("/etc/hosts", root / "etc/hosts")  # Orthanc asks for the host's name with every UID it makes
        return Peer(root, Path("/srv/bench"))
    if shutil.which("Orthanc"):
        return Peer(Path("/"), (work / "orthanc").resolve())
    raise RuntimeError("no Orthanc: run as root with debootstrap installed, or install " + " ".join(_PACKAGES))


def _bootstrap(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    subprocess.run(["debootstrap", "--variant=minbase", _SUITE, str(root), _MIRROR], check=True)
    guard = root / "usr/sbin/policy-rc.d"  # no service starts while packages are installed
    guard.write_text("#!/bin/sh\nexit 101\n")
    guard.chmod(0o755)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    install = ["apt-get", "install", "-y", "--no-install-recommends", *_PACKAGES]
    subprocess.run(["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", *install], check=True)


def deep_stacks(peer: Peer) -> Path:
    """A library to be loaded before all others, with which threads have 8 MiB of stack: its path inside `peer`.

    Debian's civetweb gives HTTP threads 100 KiB, and GDCM's ImageWriter::Write alone takes more: every transcoding that
    a request over HTTP asks for ends Orthanc with SIGSEGV. Builds with civetweb's code inside have the usual stack.
    Raises RuntimeError without a C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("Debian's Orthanc transcodes with a library that is compiled here: install gcc")
    peer.outside.mkdir(parents=True, exist_ok=True)
    source, built = Path(__file__).with_name(f"{_DEEP_STACKS}.c"), peer.outside / f"{_DEEP_STACKS}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(built), str(source)], check=True)
    return peer.home / built.name


@contextmanager
def orthanc(
    peer: Peer, work: Path, index: Index, state: str, *, fresh: bool, preload: Path | None = None
) -> Iterator[Archive]:
    """Orthanc over the data set named `state`, emptied first when `fresh`; stopped at the end.

    `preload`: a library that is loaded before all others.
    """
    with ExitStack() as stack:
        pids: tuple[int, ...] = ()
        database: dict[str, object] = {"EnableIndex": False}
        if index == "pg":
            server = stack.enter_context(_postgres(work / "postgres"))
            server.prepare(f"orthanc_{state}", fresh=fresh)
            pids, database = (server.pid,), server.settings(f"orthanc_{state}")
        inside = peer.home / f"{state}-{index}"
        outside = peer.outside / f"{state}-{index}"
        if fresh:
            shutil.rmtree(outside, ignore_errors=True)
        outside.mkdir(parents=True, exist_ok=True)
        web, dimse = free_port(), free_port()
        (outside / "orthanc.json").write_text(json.dumps(_configuration(peer, inside, web, dimse, database), indent=1))
        log = outside / "log.txt"
        with log.open("ab") as out:
            # DCMTK in the server: without TCP_NODELAY every DIMSE message waits for a delayed acknowledgement
            process = subprocess.Popen(
                peer.command("env", f"LD_PRELOAD={preload or ''}", "Orthanc", str(inside / "orthanc.json")),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "TCP_NODELAY": "1"},
                start_new_session=True,
            )
        stack.callback(processes.stop, process)
        wait_ready(process, web, "/system", log)
        yield Archive(index, web, dimse, "ORTHANC", (process.pid, *pids))


def version(archive: Archive) -> str:
    """What the running Orthanc says it is."""
    return str(json.loads(archive.get("/system")[0])["Version"])


def _configuration(peer: Peer, inside: Path, web: int, dimse: int, database: dict[str, object]) -> dict[str, object]:
    names = ["libOrthancDicomWeb.so", "libOrthancGdcm.so", "libOrthancWSI.so"]
    if database["EnableIndex"]:
        names.append("libOrthancPostgreSQLIndex.so")
    present = [name for name in names if (peer.root / (_PLUGINS / name).relative_to("/")).exists()]
    return {
        "Name": "bench",
        "StorageDirectory": str(inside / "storage"),
        "IndexDirectory": str(inside / "index"),
        "Plugins": [str(_PLUGINS / name) for name in present],
        "HttpPort": web,
        "HttpBindAddresses": [LOOPBACK],
        "RemoteAccessAllowed": True,
        "AuthenticationEnabled": False,
        "DicomPort": dimse,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "OverwriteInstances": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "PostgreSQL": database,
    }


@dataclass(frozen=True, slots=True)
class _Postgres:
    """A running cluster with password-less loopback access, for Orthanc's index."""

    programs: Path
    port: int
    pid: int

    def prepare(self, database: str, *, fresh: bool) -> None:
        if fresh:
            self._psql(f'DROP DATABASE IF EXISTS "{database}"')
        if database not in self._psql("SELECT datname FROM pg_database").split():
            self._psql(f'CREATE DATABASE "{database}" OWNER {_ROLE}')

    def settings(self, database: str) -> dict[str, object]:
        return {
            "EnableIndex": True,
            "EnableStorage": False,
            "Host": LOOPBACK,
            "Port": self.port,
            "Database": database,
            "Username": _ROLE,
            "Password": _ROLE,
            "EnableSsl": False,
            "Lock": False,
            "IndexConnectionsCount": 10,
        }

    def _psql(self, statement: str) -> str:
        where = ["-h", LOOPBACK, "-p", str(self.port), "-U", _ROLE, "-d", "postgres"]
        command = [str(self.programs / "psql"), "-XAtq", *where, "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def _postgres(home: Path) -> Iterator[_Postgres]:
    """Start (and make, the first time) the cluster in `home` with PostgreSQL's own defaults."""
    programs = _postgres_programs()
    owner = _unprivileged()
    home.mkdir(parents=True, exist_ok=True)
    if owner:
        shutil.chown(home, owner, owner if owner != "nobody" else "nogroup")
    data, port = home / "data", free_port()

    def run(program: str, *arguments: str) -> None:
        become = ["setpriv", f"--reuid={owner}", f"--regid={_group(owner)}", "--clear-groups"] if owner else []
        command = [*become, str(programs / program), "-D", str(data), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    if not (data / "PG_VERSION").exists():
        run("initdb", "-U", _ROLE, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
    options = f"-p {port} -c listen_addresses={LOOPBACK} -c unix_socket_directories={home}"
    run("pg_ctl", "-w", "-l", str(home / "log"), "-o", options, "start")
    try:
        yield _Postgres(programs, port, int((data / "postmaster.pid").read_text().split()[0]))
    finally:
        run("pg_ctl", "-w", "-m", "fast", "stop")


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise RuntimeError("no PostgreSQL server programs in /usr/lib/postgresql: install the package postgresql")
    return found[-1].parent


def _unprivileged() -> str | None:
    """PostgreSQL refuses to run as root: the account to become, or None when we are not root."""
    if os.geteuid() != 0:
        return None
    return "postgres" if "\npostgres:" in Path("/etc/passwd").read_text() else "nobody"


def _group(owner: str) -> str:
    return "nogroup" if owner == "nobody" else owner
