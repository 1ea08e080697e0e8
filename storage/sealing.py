"""Secrets at rest: what this program calls others with is encrypted where a key is set, so that dumps do not tell it.

AES-256-GCM. What a secret is for is a part of the seal: one that is moved to another row, or to another URL, does not
open.
"""

import base64
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dicomweb.errors import PeerFailed
from storage.setting_checks import SettingError

_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}")
_NONCE: Final = 12
_MAX_KEYS: Final = 16
# No text that can be given begins with a control character.
_MARK: Final = "\x01sealed:"


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals with the first key, opens with any. Without keys texts stay as they are."""

    _keys: dict[str, AESGCM] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @classmethod
    def of(cls, path: Path | None) -> "Sealer":
        """With the keys of a file: 64 hexadecimal digits a line, the youngest first. Raises SettingError."""
        if path is None:
            return cls()
        try:
            if path.stat().st_mode & stat.S_IRWXO:
                raise SettingError(f"credentials_key_file: everybody may read or change {path}: chmod o= it")
            lines = [line.strip() for line in path.read_text("ascii").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"credentials_key_file: {error}") from error
        if not lines or len(lines) > _MAX_KEYS or not all(map(_KEY.fullmatch, lines)):
            raise SettingError("credentials_key_file: a key is a line of 64 hexadecimal digits: openssl rand -hex 32")
        return cls.with_keys([bytes.fromhex(line) for line in lines])

    @classmethod
    def with_keys(cls, keys: Sequence[bytes]) -> "Sealer":
        """With these keys of 32 bytes, of which the first seals."""
        return cls({hashlib.sha256(key).hexdigest()[:8]: AESGCM(key) for key in keys})

    def seal(self, text: str, purpose: str) -> str:
        """A text for `purpose` as it is stored."""
        if not self._keys:
            return text
        name, key = next(iter(self._keys.items()))
        nonce = os.urandom(_NONCE)
        sealed = nonce + key.encrypt(nonce, text.encode(), purpose.encode())
        return f"{_MARK}{name}:{base64.b64encode(sealed).decode()}"

    def open(self, stored: str, purpose: str) -> str:
        """The text again. Raises PeerFailed where no key of ours opens it, or it was sealed for something else."""
        if not stored.startswith(_MARK):
            return stored
        name, _, sealed = stored.removeprefix(_MARK).partition(":")
        key = self._keys.get(name)
        if key is None:
            raise PeerFailed("credentials are encrypted with a key that credentials_key_file does not have")
        try:
            data = base64.b64decode(sealed)
            return key.decrypt(data[:_NONCE], data[_NONCE:], purpose.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise PeerFailed("credentials cannot be decrypted: declare them again") from error

    def is_current(self, stored: str) -> bool:
        """Whether a stored text is as `seal` would store it now."""
        name = next(iter(self._keys), None)
        return name is None or stored.startswith(f"{_MARK}{name}:")
