"""A bounded directory of things that can be made again, shared by the processes of a machine: thumbnails."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

# A writer looks at the whole directory once in so many files, and then removes a part of what is over the limit.
_LOOK_EVERY: Final = 200
_KEEP: Final = 0.8


class DerivedStore:
    """Files by the digest of their key. Blocking: call it in a thread. What cannot be written is not kept."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._since = 0

    def get(self, key: str) -> bytes | None:
        """What was kept under this key."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep `data`, whole or not at all; older things go when the limit is passed."""
        if len(data) > self._limit:
            return
        path = self._path(key)
        new = path.with_name(f"new-{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(data)
            new.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            return
        self._since += 1
        if self._since >= _LOOK_EVERY:
            self._since = 0
            self.trim()

    def trim(self) -> None:
        """Remove what was not used for the longest time, until four fifths of the limit are left."""
        held: list[tuple[float, int, str]] = []
        for parent, _, names in os.walk(self._directory):
            for name in names:
                with contextlib.suppress(OSError):  # another process was quicker
                    status = os.stat(os.path.join(parent, name))  # noqa: PTH116, PTH118
                    held.append((status.st_mtime, status.st_size, os.path.join(parent, name)))  # noqa: PTH118
        total = sum(size for _, size, _ in held)
        if total <= self._limit:
            return
        for _, size, path in sorted(held):
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
            total -= size
            if total <= self._limit * _KEEP:
                return

    def _path(self, key: str) -> Path:
        digest = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self._directory / digest[:2] / digest
