"""The parent of all processes of `anor serve`: starts them, starts them again, stops them in order.

Children are forked from one process that has imported the application already: each costs milliseconds instead of
a start of Python, and memory pages are shared. The parent itself has no threads, no event loop and no connections
while it forks. It waits for signals with sigtimedwait, so none is lost between two looks.
"""

import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from api.listening import steer
from storage.embedded import EmbeddedError, EmbeddedPostgres
from storage.process import die_with_parent

log = logging.getLogger("anor.supervisor")

_WATCHED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
_STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0
_HEALTHY_AFTER: Final = 60.0  # a child that lived this long starts again without delay
_FILES: Final = 65_536
_PATIENCE: Final = 5.0  # seconds that a start may take until what is missing is logged


class StartError(Exception):
    """A part ended before everything was ready."""


@dataclass(frozen=True, slots=True)
class Part:
    """One child process: `run` is called in it, and what it returns is the exit status."""

    name: str
    run: Callable[[], int]
    listener: socket.socket | None = None  # the one of the supervisor's listening sockets that it keeps
    shares: Sequence[socket.socket] = ()  # those of the supervisor's shared ones that it keeps


@dataclass(slots=True)
class _Child:
    part: Part
    pid: int = 0
    started: float = 0.0
    delay: float = 0.0
    due: float = 0.0  # when to start it again; 0 while it runs


@dataclass
class Supervisor:
    """Parts, and the PostgreSQL that they need; use from the main thread only."""

    parts: Iterable[Part]
    postgres: EmbeddedPostgres | None = None
    listeners: Sequence[socket.socket] = ()
    shutdown_timeout: float = 60.0
    shared: Sequence[socket.socket] = ()  # listening sockets that several parts accept from
    _children: list[_Child] = field(default_factory=list)
    _postgres_due: float = 0.0

    def start(self) -> None:
        """Fork every part."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        raise_file_limit()
        # What exists now is shared by all children: keep the collector from writing into those pages.
        gc.collect()
        gc.freeze()
        for part in self.parts:
            child = _Child(part)
            self._children.append(child)
            self._fork(child)

    def await_ready(self, probe: Callable[[], str], timeout: float) -> bool:
        """Until `probe` says nothing that is missing; False where we are told to stop before.

        Raises StartError when a part ends, or after `timeout` seconds; what is missing is said early.
        """
        begin = time.monotonic()
        said = ""
        while missing := probe():
            if signal.sigtimedwait(_STOPPING, 0.01) is not None:
                return False
            for child in self._children:
                status = _ended(child.pid)
                if status is not None:
                    child.pid = 0
                    raise StartError(f"{child.part.name} ended while starting ({_describe(status)})")
            waited = time.monotonic() - begin
            if waited > _PATIENCE and missing != said:
                log.warning("not ready yet: %s", missing)
                said = missing
            if waited > timeout:
                raise StartError(f"not ready after {timeout:g} seconds: {missing}")
        return True

    def run(self) -> None:
        """Look after everything until SIGTERM, SIGINT or SIGHUP."""
        while True:
            told = signal.sigtimedwait(_WATCHED, 1.0)
            if told is not None and told.si_signo in _STOPPING:
                return
            self._look_after_postgres()
            self._look_after_children()
            self._bury_strangers()

    def stop(self) -> bool:
        """End the children, then PostgreSQL; False where a child had to be killed. A second signal hurries."""
        for listener in (*self.listeners, *self.shared):
            listener.close()
        for child in self._children:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.shutdown_timeout
        patient = True
        while any(child.pid for child in self._children):
            told = signal.sigtimedwait(_WATCHED, 0.2)
            hurried = told is not None and told.si_signo in _STOPPING
            if patient and (hurried or time.monotonic() > deadline):
                patient = False
                for child in self._children:
                    if child.pid:
                        log.warning("%s did not end in time and is killed", child.part.name)
                        os.kill(child.pid, signal.SIGKILL)
            for child in self._children:
                if child.pid and _ended(child.pid) is not None:
                    child.pid = 0
        if self.postgres is not None:
            self.postgres.stop()
        return patient

    def _look_after_postgres(self) -> None:
        now = time.monotonic()
        if self.postgres is None or now < self._postgres_due:
            return
        try:
            if self.postgres.supervise_once():
                log.warning("PostgreSQL had died and was started again")
        except EmbeddedError as error:
            log.error("PostgreSQL cannot be started again: %s", error)
            self._postgres_due = now + 5.0

    def _look_after_children(self) -> None:
        now = time.monotonic()
        changed = False
        for child in self._children:
            status = _ended(child.pid) if child.pid else None
            if status is not None:
                changed = True
                child.pid = 0
                lived = now - child.started
                child.delay = 0.0 if lived > _HEALTHY_AFTER else min(child.delay * 2 or _FIRST_DELAY, _LONGEST_DELAY)
                child.due = now + child.delay
                log.error("%s ended (%s); starts again in %.1f s", child.part.name, _describe(status), child.delay)
            if not child.pid and now >= child.due:
                changed = True
                self._fork(child)
        if changed:
            alive = [child.part.listener for child in self._children if child.pid]
            steer(self.listeners, [n for n, listener in enumerate(self.listeners) if listener in alive])

    def _bury_strangers(self) -> None:
        """As process 1 of a container we inherit the orphans of others, such as the backends of a killed PostgreSQL."""
        known = {child.pid for child in self._children} | {self.postgres.pid if self.postgres else None}
        while (dead := _peek()) and dead not in known:
            os.waitpid(dead, 0)

    def _fork(self, child: _Child) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            for listener in (*self.listeners, *self.shared):
                if listener is not child.part.listener and listener not in child.part.shares:
                    listener.close()
            if self.postgres is not None:
                self.postgres.leave()
            _run_child(child.part, parent)
        child.pid, child.started = pid, time.monotonic()


def _run_child(part: Part, parent: int) -> NoReturn:
    status = 1
    try:
        os.setsid()  # Ctrl-C reaches the supervisor alone
        for number in _STOPPING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Killed with its parent: nothing that matters is in its memory, and a new server finds the port free.
        die_with_parent(parent, signal.SIGKILL)
        status = part.run()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException as error:  # the end of a process: nobody else would hear of it
        log.error("%s failed: %s", part.name, type(error).__name__, exc_info=error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _peek() -> int:
    """Some child that has ended and waits to be asked for its status, or 0."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found else 0


def _ended(pid: int) -> int | None:
    """The wait status of a child that has ended, None while it runs."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return status if done else None


def _describe(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def raise_file_limit() -> None:
    """As many open files as we may have, within reason: connections, objects, database."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
