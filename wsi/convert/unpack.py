"""Slides of several files, as MRXS and VMS are, in a ZIP file."""

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from dicomweb.errors import ArchiveError
from storage.zip_members import MEMBER_ERRORS, SIGNATURES, Member, ZipLimits, ZipMembers
from wsi.convert.run import ConversionFailed

# By their names; what they are, the conversion finds out.
SUFFIXES: Final = frozenset(
    (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide", ".tif", ".tiff", ".png", ".jpg", ".jpeg")
)
# The one file that stands for many, among which there may be pictures.
_KEYS: Final = frozenset((".mrxs", ".vms"))
_CHUNK: Final = 1 << 20
# Slides are compressed already: what inflates more is none.
_RATIO: Final = 20
_ROOM: Final = 64 << 20
_MAX_DEPTH: Final = 8
_NAME: Final = 255


def is_zip(path: Path) -> bool:
    """Whether the file begins as a ZIP file."""
    with path.open("rb") as file:
        return file.read(4) in SIGNATURES


def unpack(path: Path, folder: Path) -> Path:
    """Write the members of a ZIP file into an empty folder; the file that is the slide.

    At most twenty times the bytes of the ZIP file are written. Raises ConversionFailed.
    """
    try:
        members = ZipMembers(path, ZipLimits(max_ratio=_RATIO))
    except ArchiveError as error:
        raise ConversionFailed(error.message) from error
    try:
        chosen = list(members)
        if sum(member.size for member in chosen) > _RATIO * path.stat().st_size + _ROOM:
            raise ConversionFailed(f"the ZIP file inflates more than {_RATIO} times")
        for member in chosen:
            _write(members, member, folder)
    finally:
        members.close()
    return _slide(folder)


def _write(members: ZipMembers, member: Member, folder: Path) -> None:
    parts = PurePosixPath(member.name).parts
    plain = all(part not in ("..", "/") and "\\" not in part and len(part.encode()) <= _NAME for part in parts)
    if not plain or not 1 <= len(parts) <= _MAX_DEPTH or "\0" in member.name:
        raise ConversionFailed("a name in the ZIP file is not that of a file below a folder")
    if member.refused:
        raise ConversionFailed(f"the ZIP file: {member.refused}")
    target = folder.joinpath(*parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with members.open(member) as source, target.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
    except MEMBER_ERRORS as error:
        raise ConversionFailed("a member of the ZIP file is damaged, or cannot be written") from error


def _slide(folder: Path) -> Path:
    found = list(_slides(folder))
    keys = [path for path in found if path.suffix.lower() in _KEYS]
    if len(keys or found) != 1:
        raise ConversionFailed(f"the ZIP file has {len(keys or found)} slides: send one")
    return (keys or found)[0]


def _slides(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix.lower() in SUFFIXES:
            yield path
