"""How child processes are started, and what they take: they die with their parent, PostgreSQL never runs as root.

PostgreSQL refuses to run with effective uid 0. As root we therefore give it a user namespace of its own, in which the
one mapped uid is not 0: no account is needed and files stay root's. Where the kernel or the container forbids that,
it runs as `nobody`, which may pass through directories that are closed to it (CAP_DAC_OVERRIDE where we hold it).
"""

import ctypes
import os
import pwd
import re
import resource
import signal
from collections.abc import Callable, Iterable
from enum import Enum
from io import FileIO
from pathlib import Path
from typing import Final

# linux/prctl.h, linux/sched.h, linux/capability.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CLONE_NEWUSER: Final = 0x10000000
_CAP_DAC_OVERRIDE: Final = 1
_CAPABILITY_VERSION_3: Final = 0x20080522

_STATUS_MAX: Final = 1 << 14  # bytes; what is looked for stands in the first thousand

# What a program sees itself as inside its namespace: an account that every system knows, as initdb looks it up.
_NOBODY: Final = pwd.getpwnam("nobody")

_libc = ctypes.CDLL(None, use_errno=True)


class RunAs(Enum):
    """Under which identity a program that refuses root is run."""

    OURSELVES = "ourselves"
    NAMESPACE = "namespace"
    NOBODY = "nobody"


def choose_identity(forced: str = "") -> RunAs:
    """The first identity that works here; `forced` (namespace or nobody) leaves out the choice, for tests."""
    if forced:
        return RunAs(forced)
    if os.geteuid() == 0:
        return RunAs.NAMESPACE if _succeeds_in_child(_enter_namespace) else RunAs.NOBODY
    # Containers run under numbers without an account, which initdb refuses.
    return RunAs.OURSELVES if _has_account() or not _succeeds_in_child(_enter_namespace) else RunAs.NAMESPACE


def _has_account() -> bool:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def prepare_child(identity: RunAs, on_parent_death: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn`: new session, the identity, and `on_parent_death` as soon as the calling thread has ended.

    The signal follows the *thread* that starts the child: call from the main thread.
    """
    parent = os.getpid()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a supervisor blocks the signals that it waits for
        os.setsid()  # Ctrl-C reaches the supervisor alone, which then stops its children in order
        _become(identity)
        die_with_parent(parent, on_parent_death)  # after the change of identity, which resets it

    return prepare


def die_with_parent(parent: int, how: signal.Signals) -> None:
    """Ask the kernel for a signal when the parent ends, and end at once if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, int(how))
    if os.getppid() != parent:
        os._exit(1)


def open_status() -> FileIO:
    """What the kernel says of this process, for `peak_memory`: a process that confines itself opens it before."""
    return FileIO("/proc/self/status")


def peak_memory(status: FileIO) -> int:
    """Bytes that this process has had in memory at most.

    Not ru_maxrss, which begins with what the process that started this one had (Linux keeps it through exec); only
    where the kernel does not say more.
    """
    found = re.search(rb"^VmHWM:\s*(\d+) kB$", os.pread(status.fileno(), _STATUS_MAX, 0), re.MULTILINE)
    return (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) << 10


def owner_of(identity: RunAs) -> tuple[int, int]:
    """User and group id, as seen from here, that the files of a program running as `identity` must have."""
    if identity is not RunAs.NOBODY:
        return os.geteuid(), os.getegid()
    return _NOBODY.pw_uid, _NOBODY.pw_gid


def hand_over(identity: RunAs, paths: Iterable[Path]) -> None:
    """Give our own files to the account that the program will run as."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, *owner_of(identity), follow_symlinks=False)


def _become(identity: RunAs) -> None:
    if identity is RunAs.NAMESPACE:
        _enter_namespace()
    elif identity is RunAs.NOBODY:
        _become_nobody()


def _enter_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are not allowed")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_NOBODY.pw_uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY.pw_gid} {gid} 1")


def _become_nobody() -> None:
    # Else the change of user would drop what `_keep_only` wants to keep, and access(2), which initdb asks before it
    # runs anything, would judge without it. Not allowed everywhere; then the paths have to be open to `nobody`.
    _libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setresgid(_NOBODY.pw_gid, _NOBODY.pw_gid, _NOBODY.pw_gid)
    os.setresuid(_NOBODY.pw_uid, _NOBODY.pw_uid, _NOBODY.pw_uid)
    _keep_only(_CAP_DAC_OVERRIDE)


def _keep_only(capability: int) -> None:
    """Drop every capability but one, which survives exec; where we do not hold that one, drop all."""
    for kept in (1 << capability, 0):
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)  # effective, permitted, inheritable; the high halves
        if _libc.capset(header, sets) == 0:
            break
    else:
        raise OSError(ctypes.get_errno(), "cannot drop the rights of root")
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _succeeds_in_child(action: Callable[[], None]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:  # noqa: BLE001 - whatever it is, the child only reports it
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
