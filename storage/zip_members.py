"""Members of a ZIP file as streams, never as files: names are labels, what inflates too much is refused."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from dicomweb.errors import BadRequest, TooLarge

_END = struct.Struct("<4s4H2LH")  # end of central directory (APPNOTE 4.3.16)
_END_SIGNATURE: Final = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")  # ZIP64 locator (4.3.15)
_END64 = struct.Struct("<4sQ2H2L4Q")  # ZIP64 end of central directory (4.3.14)
_MAX_COMMENT = 0xFFFF
_SMALL: Final = 16 << 20  # below this a ratio says nothing: blank images compress a thousand to one

SIGNATURES: Final = (b"PK\x03\x04", _END_SIGNATURE)

# What zipfile and zlib raise for members that are damaged, encrypted or compressed by a method that Python lacks.
MEMBER_ERRORS: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


@dataclass(frozen=True, slots=True)
class ZipLimits:
    """Bounds of one ZIP file: bytes of its directory (46 or more per member), members; size and ratio of a member."""

    max_directory: int = 32 << 20
    max_members: int = 1_000_000
    max_member: int = 16 << 30
    max_ratio: int = 200


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside; `refused` says why it must not be read."""

    name: str
    size: int
    refused: str
    _info: zipfile.ZipInfo


class ZipMembers:
    """An open ZIP file. Members may be read from several threads at a time."""

    def __init__(self, source: Path | bytes, limits: ZipLimits) -> None:
        """Open a file, or what one holds.

        Raises TooLarge for a directory beyond the limits, BadRequest for what is no ZIP file, and OSError.
        """
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            if _directory_size(file) > limits.max_directory:
                raise TooLarge(f"the ZIP file's directory is larger than {limits.max_directory} bytes")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
            raise BadRequest(f"the ZIP file is damaged: {error}") from error
        if len(self._zip.infolist()) > limits.max_members:
            self._zip.close()
            raise TooLarge(f"the ZIP file has more than {limits.max_members} members (max_parts)")
        self._limits = limits

    def __iter__(self) -> Iterator[Member]:
        """All members that are no directories, sorted by name."""
        for info in sorted(self._zip.infolist(), key=lambda i: i.filename):
            if not info.is_dir():
                yield Member(info.filename, info.file_size, self._refusal(info), info)

    def open(self, member: Member) -> IO[bytes]:
        """The inflated bytes, never more than the directory says, with the CRC checked at the end; MEMBER_ERRORS."""
        return self._zip.open(member._info)  # noqa: SLF001 - Member is this module's own

    def close(self) -> None:
        """Close the file; streams must be closed before."""
        self._zip.close()

    def _refusal(self, info: zipfile.ZipInfo) -> str:
        if info.flag_bits & 0x1:
            return "the member is encrypted"
        if info.file_size > self._limits.max_member:
            return f"the member is larger than {self._limits.max_member} bytes (max_instance)"
        if info.file_size > _SMALL and info.file_size > self._limits.max_ratio * max(info.compress_size, 1):
            return f"the member inflates more than {self._limits.max_ratio} times (max_inflate_ratio)"
        return ""


def _directory_size(file: IO[bytes]) -> int:
    """Bytes of the central directory, which zipfile would read into memory; 0 when there is no end record."""
    size = file.seek(0, 2)
    start = max(0, size - _END.size - _MAX_COMMENT)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(_END_SIGNATURE)
    if at < 0 or len(tail) - at < _END.size:
        return 0
    directory: int = _END.unpack_from(tail, at)[5]
    locator_at = start + at - _LOCATOR.size
    if locator_at < 0:
        return directory
    file.seek(locator_at)
    signature, _, end64_at, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if signature != b"PK\x06\x07" or end64_at > size - _END64.size:
        return directory
    file.seek(end64_at)
    directory64: int = _END64.unpack(file.read(_END64.size))[8]
    return max(directory if directory != 0xFFFFFFFF else 0, directory64)
