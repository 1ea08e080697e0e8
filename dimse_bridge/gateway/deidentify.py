"""De-identification on the way: what is sent is another file than what was received. All of it blocks."""

import hashlib
import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dicomweb.deidentify import Pseudonyms, deidentification
from dicomweb.edit import Edit, Extent
from dicomweb.errors import ArchiveError, BadDicom, Unavailable
from dimse_bridge.gateway.disk import Waiting
from dimse_bridge.gateway.forward import Content, Unsendable
from storage.directory_files import sync_directory

_KEY_SIZE: Final = 32
_CHUNK: Final = 1 << 20


# Pictures of these often show who the patient is, and a document says it: somebody has to look at them first.
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_SHOWING: Final = frozenset(
    _STORAGE + tail
    for tail in (
        *("3", "3.1", "5", "6", "6.1", "6.2", "7", "7.1", "7.2", "7.3", "7.4"),  # ultrasound, secondary capture
        *("77.1.1.1", "77.1.2.1", "77.1.4.1"),  # video
    )
)
_DOCUMENTS: Final = _STORAGE + "104."


class Deidentifier:
    """Applies the Basic Profile with the key of this gateway."""

    def __init__(self, key: Path, folder: Path) -> None:
        """Reads the key, or makes one. Raises Unavailable where it cannot."""
        self._folder = folder
        try:
            self._rules = deidentification(Pseudonyms(_key(key)))
        except OSError as error:
            raise Unavailable(f"the key {key} cannot be used: {error.strerror}") from error

    def __call__(self, item: Waiting, path: Path) -> Content:
        """See forward.Prepare. Raises BadDicom where the file is not what was received."""
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as source:
            if len(source) != item.size or hashlib.sha256(source).digest() != item.sha256:
                raise BadDicom("the file is not what was received")
            target = self._folder / f"deidentified-{secrets.token_hex(16)}"
            try:
                edit = Edit(source, self._rules)
                _refuse(edit)
                digest, size = _write(edit, source, target)
            except ArchiveError as error:
                target.unlink(missing_ok=True)
                raise Unsendable(f"not de-identified: {error.message}") from error
        return Content(target, size, digest, edit.sop_instance)


def _refuse(edit: Edit) -> None:
    """Raise BadDicom for what may name or show the patient where no rule reaches."""
    if edit.subject.burned_in or edit.subject.recognizable:
        raise BadDicom("its pixels name or show the patient (BurnedInAnnotation, RecognizableVisualFeatures)")
    if edit.sop_class in _SHOWING or edit.sop_class.startswith(_DOCUMENTS):
        raise BadDicom("objects of its SOP class may name or show the patient")


def _write(edit: Edit, source: mmap.mmap, target: Path) -> tuple[bytes, int]:
    """The new file; its digest and size."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as out:
        for part in edit:
            for piece in (part,) if isinstance(part, bytes) else _pieces(source, part):
                digest.update(piece)
                size += out.write(piece)
    return digest.digest(), size


def _pieces(source: mmap.mmap, extent: Extent) -> Iterator[bytes]:
    end = extent.offset + extent.length
    for start in range(extent.offset, end, _CHUNK):
        yield source[start : min(start + _CHUNK, end)]


def _key(path: Path) -> bytes:
    """The key in a file that only its owner reads; a new one is durable before it is used."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = secrets.token_bytes(_KEY_SIZE)
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(found)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(str(path.parent))
    if len(found) != _KEY_SIZE:
        raise Unavailable(f"the key {path} does not have {_KEY_SIZE} bytes")
    return found
