"""Names in place of names: the same key always gives the same ones, and without it none can be traced back."""

import hmac
from dataclasses import dataclass, field
from typing import Final

from dicomweb.errors import BadRequest

_MIN_KEY: Final = 16
_MAX_DAYS: Final = 3652


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Keyed hashes (HMAC-SHA-256) under the key of one project; whoever drops the key makes them anonymous."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) < _MIN_KEY:
            raise BadRequest(f"the key of a project has at least {_MIN_KEY} bytes", attribute="key")

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self.key, f"{kind}\0{text}".encode("utf-8", "surrogateescape"), "sha256")

    def uid(self, uid: str) -> str:
        """A UID under 2.25 (PS3.5 B.2): a UUID of version 8, whose bits are ours to choose (RFC 9562 5.8)."""
        number = int.from_bytes(self._digest("uid", uid)[:16], "big")
        number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
        return f"2.25.{number}"

    def patient_id(self, patient: str) -> str:
        """A Patient ID: 16 hexadecimal digits."""
        return self._digest("patient", patient)[:8].hex().upper()

    def days(self, patient: str) -> int:
        """By how many days the dates of a patient are shifted: 1 to 3652 (ten years), always back."""
        return -1 - int.from_bytes(self._digest("days", patient)[:8], "big") % _MAX_DAYS
