"""CPU time and memory of process trees, read from /proc (Linux only, like the benchmark)."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PPID, _UTIME, _CSTIME = 1, 11, 14  # positions in /proc/PID/stat, counted after the command's closing bracket


@dataclass(frozen=True, slots=True)
class Memory:
    """Sums over a process tree in bytes; `pss` divides shared pages among those who map them."""

    rss: int
    pss: int
    processes: int


def _stat(pid: int) -> list[str] | None:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None


def trees(roots: Iterable[int]) -> list[int]:
    """The given processes and all their living descendants, each once."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[_PPID]), []).append(int(entry.name))
    found: dict[int, None] = {}
    waiting = [pid for pid in roots if (_PROC / str(pid)).exists()]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = None
            waiting.extend(children.get(pid, ()))
    return list(found)


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of the trees, including descendants that have ended and were waited for."""
    ticks = 0
    for pid in trees(roots):
        if fields := _stat(pid):
            ticks += sum(int(value) for value in fields[_UTIME : _CSTIME + 1])
    return ticks / _TICKS


def memory(roots: Iterable[int]) -> Memory:
    """Resident memory of the trees now."""
    rss = pss = count = 0
    for pid in trees(roots):
        try:
            rollup = (_PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        values = {line.split(":")[0]: line.split()[1] for line in rollup.splitlines()[1:]}
        rss += int(values.get("Rss", 0)) * 1024
        pss += int(values.get("Pss", 0)) * 1024
        count += 1
    return Memory(rss, pss, count)


def stop(process: subprocess.Popen[bytes], patience: float = 60.0) -> None:
    """SIGTERM, wait, and SIGKILL for the whole tree when it does not end within `patience` seconds."""
    if process.poll() is not None:
        return
    family = trees([process.pid])
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def wait_gone(pid: int, patience: float = 60.0) -> bool:
    """Whether a process that is not our child ended within `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        fields = _stat(pid)
        if fields is None or fields[0] == "Z":
            return True
        time.sleep(0.02)
    return False
