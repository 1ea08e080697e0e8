"""Users that a peer may identify when it asks for an association (PS3.7 D.3.3.7): names and hashed passcodes.

One user a line, `name:scrypt:N:r:p:salt:hash` with salt and hash in base64, as `anor dimse-user` prints it. The file is
read again when it changes.
"""

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from dicomweb.errors import Unavailable
from dimse_bridge.negotiation import Identity

PASSCODE: Final = 2  # the type of an identity that is a username with a passcode

_NAME: Final = re.compile(r"[^:\s]{1,64}")
_COST: Final = (1 << 14, 8, 1)  # N, r, p: 16 MiB and some 40 ms
_MAX_MEMORY: Final = 64 << 20
_MAX_USERS: Final = 10_000


class Verifier(Protocol):
    """Decides on one type of identity (passcode, SAML assertion, JSON web token)."""

    async def verify(self, identity: Identity) -> str | None:
        """The name of the user that the identity proves, or None."""


class UsersError(Exception):
    """The file of users is none; the message says where."""


@dataclass(frozen=True, slots=True)
class _Passcode:
    cost: tuple[int, int, int]
    salt: bytes
    digest: bytes

    def matches(self, passcode: bytes) -> bool:
        """Whether it is the passcode, in a time that does not tell how nearly."""
        return hmac.compare_digest(_scrypt(passcode, self.salt, self.cost), self.digest)

    def is_possible(self) -> bool:
        """Whether the cost is one that scrypt takes, and the hash has its length."""
        try:
            return len(_scrypt(b"", self.salt, self.cost)) == len(self.digest)
        except ValueError:
            return False


# What an unknown name is compared with, so that it takes as long as a known one.
_NOBODY: Final = _Passcode(_COST, secrets.token_bytes(16), secrets.token_bytes(32))


class Users:
    """The users of one file."""

    def __init__(self, path: Path) -> None:
        """Raises UsersError where the file cannot be read or is wrong."""
        self._path = path
        self._stamp = _stamp(path)
        self._users = _read(path)
        self._one = asyncio.Semaphore(1)  # a flood of wrong passcodes takes one core's time at most

    async def verify(self, identity: Identity) -> str | None:
        """The name of the user with this passcode, or None. Raises Unavailable when the file has become wrong."""
        async with self._one:
            try:
                return await asyncio.to_thread(self._check, identity)
            except UsersError as error:
                raise Unavailable("the file of users cannot be read") from error

    def _check(self, identity: Identity) -> str | None:
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._users, self._stamp = _read(self._path), stamp
        name = identity.primary.decode("utf-8", "replace")
        known = self._users.get(name)
        right = (known or _NOBODY).matches(identity.secondary)
        return name if right and known is not None else None


def line_for(name: str, passcode: str) -> str:
    """The line of a user. Raises UsersError for a name that cannot be one."""
    if not _NAME.fullmatch(name):
        raise UsersError("a user's name has 1 to 64 characters, without spaces and colons")
    salt = secrets.token_bytes(16)
    digest = _scrypt(passcode.encode(), salt, _COST)
    encoded = (base64.b64encode(each).decode() for each in (salt, digest))
    return ":".join((name, "scrypt", *map(str, _COST), *encoded))


def _scrypt(passcode: bytes, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    n, r, p = cost
    return hashlib.scrypt(passcode, salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY, dklen=32)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise UsersError(f"cannot read {path}: {error.strerror}") from error
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> dict[str, _Passcode]:
    try:
        if path.stat().st_mode & 0o077:
            raise UsersError(f"{path} can be read by others: chmod 600 {path}")
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsersError(f"cannot read {path}: {error}") from error
    users: dict[str, _Passcode] = {}
    tried: set[tuple[int, int, int]] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.strip().split(":")
        passcode = _passcode(parts) if len(parts) == 7 else None
        if passcode is None or (passcode.cost not in tried and not passcode.is_possible()):
            raise UsersError(f"{path}, line {number}: not name:scrypt:N:r:p:salt:hash")
        tried.add(passcode.cost)
        users[parts[0]] = passcode
    if len(users) > _MAX_USERS:
        raise UsersError(f"{path} has more than {_MAX_USERS} users")
    return users


def _passcode(parts: list[str]) -> _Passcode | None:
    name, kind, n, r, p, salt, digest = parts
    if kind != "scrypt" or not _NAME.fullmatch(name):
        return None
    try:
        return _Passcode((int(n), int(r), int(p)), base64.b64decode(salt), base64.b64decode(digest))
    except ValueError:
        return None
