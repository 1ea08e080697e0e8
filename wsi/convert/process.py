"""A conversion in a process of its own: `python -m wsi.convert.process`, started by `wsi.convert.run`.

One line of JSON on standard input says what to do; lines of JSON on standard output say how far it is and how it ended.
What a hostile file can reach from here: MEMORY bytes, files of at most FILE bytes, and the processor until the parent,
who hears nothing new, loses patience. There is no network where the kernel lets us give it up, and no secret in the
environment.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import orjson

from storage.process import die_with_parent, open_status, peak_memory
from wsi.convert.opening import open_source
from wsi.convert.options import Options
from wsi.convert.slide import Conversion, describe
from wsi.convert.source import BadSlide

_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_DESCRIPTORS: Final = 256
_EVERY: Final = 0.25  # seconds between reports


def confine(memory: int, largest_file: int, parent: int) -> None:
    """Give up what a conversion does not need. Irrevocable; before there are threads."""
    libc = ctypes.CDLL(None, use_errno=True)
    die_with_parent(parent, signal.SIGKILL)
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)  # where this is not allowed either, the network stays
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, largest_file),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
    ):
        resource.setrlimit(what, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an OSError says it better


def say(**what: object) -> None:
    """One line to the parent."""
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


class _Reports:
    """Progress, a few times a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY
            say(done=done, total=total)


def _convert(request: dict[str, Any]) -> dict[str, object]:
    path, options = Path(request["path"]), Options.parse(request["options"])
    source = open_source(path, deidentify=options.deidentify)
    try:
        if request["dry_run"]:
            return describe(source, options)
        written = Conversion(source, path, Path(request["out"]), options, _Reports()).run()
    finally:
        source.close()
    files = [str(file) for file in written.files]
    with open_status() as status:
        peak = peak_memory(status)
    return {"study": written.study, "series": written.series, "files": files, "peak": peak}


def main() -> int:
    """Do what the one request says; the exit status."""
    request = orjson.loads(sys.stdin.buffer.readline())
    confine(request["memory"], request["largest_file"], request["parent"])
    try:
        say(result=_convert(request))
    except BadSlide as error:
        say(error=str(error))
    except MemoryError:
        say(error=f"the conversion takes more than {request['memory'] >> 20} MiB of memory")
    except OSError as error:
        say(error=f"the conversion cannot write or read a file: {error.strerror}")
    except Exception as error:  # noqa: BLE001 - a hostile file may raise anything; the parent logs what it was
        say(error=f"the file cannot be converted ({type(error).__name__})", trace=f"{error!r:.500}")
    else:
        return 0
    return 1


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
