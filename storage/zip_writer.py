"""A ZIP file as a stream of bytes: nothing but the chunk at hand and the directory is in memory."""

import zipfile
from typing import IO, Final

# Stored blocks within deflate streams: images do not get much smaller, and a member that says its size only behind its
# bytes can be read from a stream when it is deflated, not when it is merely stored (APPNOTE 4.4.4, bit 3).
_LEVEL: Final = 0
_ZIP64_FROM: Final = 1 << 30


class ZipWriter:
    """Begin a member, add its bytes, end it; `take` gives what is ready to be sent. Not for several threads at once."""

    def __init__(self) -> None:
        self._ready = _Ready()
        self._zip = zipfile.ZipFile(self._ready, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)
        self._member: IO[bytes] | None = None

    def begin(self, name: str, size: int | None) -> None:
        """The next member; `size` bytes as far as that is known."""
        self._member = self._zip.open(name, "w", force_zip64=size is None or size >= _ZIP64_FROM)

    def add(self, chunk: bytes) -> None:
        """Bytes of the member."""
        assert self._member is not None
        self._member.write(chunk)

    def end(self) -> None:
        """The member is complete."""
        assert self._member is not None
        self._member.close()
        self._member = None

    def close(self) -> None:
        """Write the directory."""
        self._zip.close()

    @property
    def waiting(self) -> int:
        """Bytes that `take` would give."""
        return self._ready.size

    def take(self) -> bytes:
        """Everything that was written since the last time."""
        return self._ready.take()


class _Ready:
    """What zipfile writes to: a file that neither tells its position nor seeks."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """There is nothing to close."""

    def take(self) -> bytes:
        joined = b"".join(self._pieces)
        self._pieces.clear()
        self.size = 0
        return joined
