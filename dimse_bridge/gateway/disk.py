"""The files of the gateway's spool: names that say everything, and the writes that make them safe. All of it blocks.

An instance is one DICOM file. What has to be known of it without opening it is in its name, `NNNN-SIZE-SHA256.dcm`: its
place in the order of receipt, its length in bytes and its digest; who sent it and what it is are in its file meta group
(PS3.10 7.1). So there is no second file and no index that could disagree with the first after a crash.

    new/                     what is arriving; nothing of it was acknowledged, it is emptied at the start
    ready/SEGMENT/NAME       received, to be sent; a segment has SEGMENT_SIZE names at most
    dead/SEGMENT/NAME        refused for good, with NAME.json beside it that says why

Order of writes: bytes into `new/`, fsync of the file, rename into `ready/`, fsync of that directory, then 0x0000. So a
name below `ready/` always means all the bytes, after `kill -9` and after a power cut. A file goes when the archive has
acknowledged it; should a power cut bring it back, it is sent again, which the archive recognises.
"""

import fcntl
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from dicomweb.errors import Unavailable
from storage.directory_files import make_directory, sync_directory, unlink_quietly
from storage.spool import Spooled

SEGMENT_SIZE: Final = 1000
_NAME: Final = re.compile(r"(\d{4})-(\d{1,15})-([0-9a-f]{64})\.dcm", re.ASCII)
_SEGMENT: Final = re.compile(r"\d{16}", re.ASCII)


@dataclass(eq=False, slots=True)
class Waiting:
    """One received instance: its segment (milliseconds since 1970, or the next free number), and what its name says."""

    segment: int
    number: int
    size: int
    sha256: bytes
    tries: int = 0  # failed attempts to send it while others got through
    seen: int = -1  # how many instances had been sent at the last failed attempt
    missed: int = 0  # attempts, alone, at which the archive was not reached

    @property
    def name(self) -> str:
        """Of the file in its segment."""
        return f"{self.number:04d}-{self.size}-{self.sha256.hex()}.dcm"

    @property
    def order(self) -> tuple[int, int]:
        """Ascending in the order of receipt."""
        return self.segment, self.number


@dataclass(frozen=True, slots=True)
class Amount:
    """Files, and their bytes."""

    files: int = 0
    bytes: int = 0


class SpoolFiles:
    """The directory; one process at a time has it."""

    def __init__(self, root: Path) -> None:
        """Take the directory and clear what was never acknowledged. Raises Unavailable where it cannot be used."""
        self.new = root / "new"
        self._ready, self._dead = root / "ready", root / "dead"
        self._making = threading.Lock()
        self._made = -1  # the segment whose directory is known to be durable
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(root / "lock")
            shutil.rmtree(self.new, ignore_errors=True)
            for directory in (self.new, self._ready, self._dead):
                directory.mkdir(exist_ok=True, mode=0o700)
            sync_directory(str(root))
        except OSError as error:
            raise Unavailable(f"the gateway's spool {root} cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()

    def path(self, item: Waiting) -> Path:
        """Of the instance, while it waits to be sent."""
        return self._ready / _segment_name(item.segment) / item.name

    def publish(self, spooled: Spooled, item: Waiting) -> None:
        """Give a complete upload its name; durable on return."""
        source, target = spooled.path or self.new / secrets.token_hex(16), self.path(item)
        try:
            with source.open("ab") as file:
                file.write(spooled.data or b"")
                file.flush()
                os.fsync(file.fileno())
            self._make_segment(item.segment)
            source.rename(target)
        except OSError:
            unlink_quietly(str(source))
            raise
        try:
            sync_directory(str(target.parent))
        except OSError:
            unlink_quietly(str(target))  # it will not be acknowledged
            raise

    def _make_segment(self, segment: int) -> None:
        with self._making:
            if segment != self._made:
                make_directory(str(self._ready / _segment_name(segment)), str(self._ready))
                self._made = segment

    def segments(self) -> list[int]:
        """Those of `ready/`, ascending."""
        return sorted(_segments(self._ready))

    def entries(self, segment: int) -> list[Waiting]:
        """The instances of one segment, in order."""
        found = _entries(self._ready / _segment_name(segment))
        return sorted((Waiting(segment, *parts) for parts in found), key=lambda item: item.number)

    def received(self, item: Waiting) -> float | None:
        """When the instance was received, in seconds since 1970; None where it is gone."""
        try:
            return self.path(item).stat().st_mtime
        except OSError:
            return None

    def remove(self, item: Waiting) -> None:
        """The archive has it."""
        self.path(item).unlink(missing_ok=True)

    def remove_segment(self, segment: int) -> bool:
        """Remove a segment if it is empty; whether it is gone."""
        try:
            (self._ready / _segment_name(segment)).rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def bury(self, item: Waiting, why: dict[str, object]) -> None:
        """Put an instance that is refused for good aside, with the reason; durable on return."""
        grave = self._dead / _segment_name(item.segment)
        make_directory(str(grave), str(self._dead))
        with suppress(OSError):  # a full disk costs the reason, not the instance
            note = grave / f"{item.name}.json"
            with note.open("wb") as file:
                file.write(orjson.dumps(why, option=orjson.OPT_INDENT_2))
                file.flush()
                os.fsync(file.fileno())
        self.path(item).rename(grave / item.name)
        sync_directory(str(grave))

    def revive(self) -> int:
        """Put everything that was set aside back among what is to be sent; how many."""
        count = 0
        for segment in sorted(_segments(self._dead)):
            grave, target = self._dead / _segment_name(segment), self._ready / _segment_name(segment)
            make_directory(str(target), str(self._ready))
            for item in (Waiting(segment, *parts) for parts in _entries(grave)):
                (grave / item.name).rename(target / item.name)
                unlink_quietly(str(grave / f"{item.name}.json"))
                count += 1
            sync_directory(str(target))
            with suppress(OSError):
                grave.rmdir()
        return count

    def measure(self) -> tuple[Amount, Amount]:
        """What waits, and what was set aside. Only names are read, one segment at a time."""
        return _measure(self._ready), _measure(self._dead)


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Unavailable(f"another gateway uses the spool {path.parent}") from None
    return file


def _segment_name(segment: int) -> str:
    return f"{segment:016d}"


def _segments(directory: Path) -> Iterator[int]:
    with os.scandir(directory) as found:
        for each in found:
            if _SEGMENT.fullmatch(each.name):
                yield int(each.name)


def _entries(directory: Path) -> Iterator[tuple[int, int, bytes]]:
    with os.scandir(directory) as found:
        for each in found:
            if match := _NAME.fullmatch(each.name):
                yield int(match[1]), int(match[2]), bytes.fromhex(match[3])


def _measure(directory: Path) -> Amount:
    files = size = 0
    for segment in _segments(directory):
        for _, length, _ in _entries(directory / _segment_name(segment)):
            files += 1
            size += length
    return Amount(files, size)
