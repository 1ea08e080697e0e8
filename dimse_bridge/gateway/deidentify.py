"""De-identification on the way: what is sent is another file than what was received. All of it blocks."""

import hashlib
import mmap
import os
import secrets
from pathlib import Path
from typing import Final

from dicomweb.deidentify import Identifying, deidentify
from dicomweb.errors import BadDicom, Unavailable
from dimse_bridge.gateway.disk import Waiting
from dimse_bridge.gateway.forward import Content, Unsendable
from storage.directory_files import sync_directory

_KEY_SIZE: Final = 32
_CHUNK: Final = 1 << 20


class Deidentifier:
    """Applies the Basic Profile with the key of this gateway."""

    def __init__(self, key: Path, folder: Path) -> None:
        """Reads the key, or makes one. Raises Unavailable where it cannot."""
        self._folder = folder
        try:
            self._key = _key(key)
        except OSError as error:
            raise Unavailable(f"the key {key} cannot be used: {error.strerror}") from error

    def __call__(self, item: Waiting, path: Path) -> Content:
        """See forward.Prepare. Raises BadDicom where the file is not what was received."""
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as source:
            if len(source) != item.size or hashlib.sha256(source).digest() != item.sha256:
                raise BadDicom("the file is not what was received")
            try:
                result = deidentify(source, item.size, self._key)
            except (Identifying, BadDicom) as error:
                raise Unsendable(f"not de-identified: {error.message}") from error
            target = self._folder / f"deidentified-{secrets.token_hex(16)}"
            digest = hashlib.sha256(result.head)
            with target.open("wb") as out:
                out.write(result.head)
                for start in range(result.start, result.end, _CHUNK):
                    piece = source[start : min(start + _CHUNK, result.end)]
                    digest.update(piece)
                    out.write(piece)
        return Content(target, len(result.head) + result.end - result.start, digest.digest(), result.sop_instance)


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
