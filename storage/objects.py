"""Object stores behind one small protocol: whole immutable objects under keys that are written once and never reused.

Nothing outside `storage` knows where objects live. Both stores raise only errors of `dicomweb.errors`: `ObjectMissing`,
`CorruptObject` (fewer bytes than the index promises) and `Unavailable` (down, slow or full; the message says which).
A key that breaks the rules, or a size that differs from the bytes, is a mistake of the program: `ValueError`.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from storage.object_counts import ObjectCounts

if TYPE_CHECKING:
    from storage.settings import Settings

Chunk = bytes | bytearray | memoryview
Range = tuple[int, int]

_SEGMENT: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_KEY: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,7}}")
_PREFIX: Final = re.compile(rf"(?:{_SEGMENT}/){{0,7}}")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing; `size` in bytes, `modified` with time zone."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """What the archive needs of a store. Every method may be called from many tasks at once.

    A cancelled `put` or `put_file` leaves no object under its key (it may be visible for moments until it is removed).
    """

    @property
    def counts(self) -> ObjectCounts:
        """Requests and bytes of this process."""
        ...

    @property
    def spool_dir(self) -> Path:
        """Where spool files belong: `put_file` of a file in it copies nothing on this machine."""
        ...

    async def make_names(self, keys: Sequence[str]) -> None:
        """Make ready, durably, what saves time when objects are put under these keys: `put` with `named`.

        Until then the store may show empty objects there; a key that is not used is to be deleted.
        """
        ...

    async def put(self, key: str, chunks: Sequence[Chunk], size: int, *, named: bool = False) -> None:
        """Write the concatenation of `chunks` (`size` bytes); durable when it returns; never replaces an object.

        `named`: `make_names` was called with this key.
        """
        ...

    async def put_file(self, key: str, path: Path, size: int) -> None:
        """Write the file at `path` and remove it. On an error the file stays, so that the caller may try again."""
        ...

    async def get(self, key: str) -> bytes:
        """The whole object: only for objects that are known to be small."""
        ...

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; CorruptObject when the object ends before that."""
        ...

    async def get_ranges(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each (offset, length), in the order asked; neighbours share a request."""
        ...

    def get_cached(self, key: str, offset: int, length: int) -> bytes | None:
        """The bytes, when they can be had without waiting for anything; None otherwise."""
        ...

    def stream(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """`length` bytes from `offset` in chunks of STREAM_CHUNK at most; a missing object raises at the first one."""
        ...

    async def size(self, key: str) -> int:
        """Size of the object in bytes."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object for good; a missing one is no error."""
        ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object below `prefix` ("" or whole segments ending in "/"), in no promised order."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The object's file, for a server that sends file ranges itself; None where there is no file."""
        ...

    async def check(self) -> None:
        """Write, read and remove a small probe (readiness); raises Unavailable."""
        ...

    async def close(self) -> None:
        """Wait for what runs and release threads and connections."""
        ...


STREAM_CHUNK: Final = 1 << 20


def check_key(key: str) -> str:
    """Return `key`, or raise ValueError: 1-8 segments of letters, digits, `_.-`, each begun by a letter or digit.

    The rule is what makes a key safe as a file name below the store's directory and unambiguous in a URL.
    """
    if not is_key(key):
        raise ValueError(f"not an object key: {key[:120]!r}")
    return key


def is_key(name: str) -> bool:
    """Whether `name` follows the rule of `check_key`."""
    return _KEY.fullmatch(name) is not None


def check_prefix(prefix: str) -> str:
    """Return `prefix`, or raise ValueError unless it is empty or whole key segments, each followed by a slash."""
    if _PREFIX.fullmatch(prefix) is None:
        raise ValueError(f"not an object prefix: {prefix[:120]!r}")
    return prefix


def check_range(offset: int, length: int) -> None:
    """Raise ValueError for a negative offset or length."""
    if offset < 0 or length < 0:
        raise ValueError(f"not a byte range: {length} bytes from {offset}")


def open_store(settings: "Settings") -> ObjectStore:
    """The store that `settings.objects` names: `s3://bucket/prefix`, a directory, or `data/objects` when unset.

    Blocking (creates directories, removes stale temporaries); call it once at the start of a process, inside the
    event loop or before it. Raises Unavailable when the directory cannot be used, ValueError for a malformed address.
    """
    target = settings.objects
    if target is not None and str(target).startswith("s3://"):
        from storage.s3_store import S3Store  # noqa: PLC0415  the S3 client costs 30 ms to import; a directory needs none

        return S3Store.from_settings(settings)
    from storage.directory_store import DirectoryStore  # noqa: PLC0415

    if target is not None and "://" in str(target):
        raise ValueError(f"ANOR_OBJECTS must be a directory or s3://bucket/prefix, not {str(target)[:120]!r}")
    return DirectoryStore(Path(target) if target else settings.data / "objects")
