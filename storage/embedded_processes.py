"""The processes of an embedded PostgreSQL, by what the kernel says of them: the living, the dying, the left over."""

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

POLL: Final = 0.004


def cluster_name(base: Path) -> str:
    """Shown in the titles of all processes of the server, by which we know them as ours."""
    return f"anor-{hashlib.sha256(os.fsencode(base)).hexdigest()[:12]}"


def end_orphans(cluster: str) -> None:
    """Kill what a killed postmaster left behind: a backend notices only after its statement, and blocks the start."""
    title = f"postgres: {cluster}: ".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if process.joinpath("cmdline").read_bytes().startswith(title):
                    os.kill(int(process.name), signal.SIGKILL)


def retire_orphan(data: Path, timeout: float) -> None:
    """Wait for the server of an owner that was killed; we hold the lock, so nobody else looks after it.

    Also removes a pid file whose number now belongs to another program, as happens in every restarted container:
    PostgreSQL would take that program for itself.
    """
    pidfile = data / "postmaster.pid"
    try:
        lines = pidfile.read_text().splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return
    # It was told to shut down when its owner ended (die_with_parent). What takes too long is cut: nothing is lost.
    for how in (signal.SIGQUIT, signal.SIGKILL):
        if _gone(pid, data, 0.0 if how is signal.SIGQUIT and _recovering(pid) else timeout / 6):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
    else:
        _gone(pid, data, timeout / 6)
    if Path(f"/proc/{pid}").exists() and not _is_server(pid, data) and not _shared_memory_used(lines):
        pidfile.unlink(missing_ok=True)


def _gone(pid: int, data: Path, patience: float) -> bool:
    """Wait until `pid` is no longer the server of `data`; False if it still is after `patience` seconds."""
    deadline = time.monotonic() + patience
    while _is_server(pid, data):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def _recovering(pid: int) -> bool:
    """Whether a postmaster's server replays its log after a crash.

    PostgreSQL 18 never ends a fast shutdown that is asked for meanwhile; an immediate one loses nothing.
    """
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b": startup" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return True
    return False


def _is_server(pid: int, data: Path) -> bool:
    """Whether `pid` is a living postmaster of this data directory."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # a zombie has an empty command line
    return arguments[0].endswith(b"/postgres") and os.fsencode(data) in arguments


def _shared_memory_used(lines: list[str]) -> bool:
    """Whether a process is attached to the segment that the seventh line of a pid file names."""
    try:
        segment = lines[6].split()[1]
        table = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    except (OSError, IndexError):
        return False
    return any(row.split()[1] == segment and row.split()[6] != "0" for row in table)


def end(process: subprocess.Popen[bytes], timeout: float, how: signal.Signals) -> None:
    """Stop a server that we started: `how` first, harder after `timeout` seconds."""
    for each, patience in ((how, timeout), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
        if process.poll() is not None:
            return
        process.send_signal(each)
        deadline = time.monotonic() + patience
        while process.poll() is None and time.monotonic() < deadline:
            if each is signal.SIGINT and _recovering(process.pid):
                break
            time.sleep(POLL)
