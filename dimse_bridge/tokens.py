"""JSON web tokens as user identities (PS3.7 D.3.3.7, type 5): signed by a key of an identity provider.

The keys are a JWKS file, as providers publish it (RFC 7517); it is read again when it changes. Only signatures by a
private key count: a secret that is shared with peers would let each of them be anybody.
"""

import asyncio
import logging
from pathlib import Path
from typing import Final

import jwt

from dicomweb.errors import Unavailable
from dimse_bridge.negotiation import Identity
from dimse_bridge.users import UsersError, file_stamp

TOKEN: Final = 5  # the type of an identity that is a JSON web token

log = logging.getLogger(__name__)

_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_MAX_TOKEN: Final = 16 << 10
_MAX_KEYS_FILE: Final = 1 << 20
_MAX_NAME: Final = 64
_LEEWAY: Final = 30  # seconds that clocks may differ


class Tokens:
    """Verifies tokens by the keys of one file."""

    def __init__(self, keys: Path, *, issuer: str | None, audience: str | None) -> None:
        """`issuer` and `audience` are what a token has to name, where they are set. Raises UsersError."""
        self._path = keys
        self._issuer = issuer
        self._audience = audience
        self._stamp, self._keys = _read(keys)
        self._one = asyncio.Semaphore(1)  # a flood of tokens takes one core's time at most

    async def verify(self, identity: Identity) -> str | None:
        """The user that the token names, or None where it proves nothing. Raises Unavailable for a broken key file."""
        if len(identity.primary) > _MAX_TOKEN:
            return None
        async with self._one:
            try:
                return await asyncio.to_thread(self._check, identity.primary)
            except UsersError as error:
                raise Unavailable("the file of keys cannot be read") from error

    def _check(self, token: bytes) -> str | None:
        if file_stamp(self._path) != self._stamp:
            self._stamp, self._keys = _read(self._path)
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token,
                self._key(header),
                algorithms=_ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            log.info("a token was refused: %s", type(error).__name__)
            return None
        name = claims.get("preferred_username", claims["sub"])
        return name if isinstance(name, str) and 0 < len(name) <= _MAX_NAME and name.isprintable() else None

    def _key(self, header: dict[str, object]) -> jwt.PyJWK:
        """The key that the token names; the only one where it names none."""
        named = header.get("kid")
        for key in self._keys:
            if key.key_id == named or (named is None and len(self._keys) == 1):
                return key
        raise jwt.InvalidKeyError("no such key")


def _read(path: Path) -> tuple[tuple[int, int, int], list[jwt.PyJWK]]:
    stamp = file_stamp(path)
    if stamp[1] > _MAX_KEYS_FILE:
        raise UsersError(f"{path} is larger than {_MAX_KEYS_FILE} bytes")
    try:
        keys = [key for key in jwt.PyJWKSet.from_json(path.read_text("utf-8")).keys if _is_public(key)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise UsersError(f"{path} is no JSON Web Key Set: {error}") from error
    if not keys:
        raise UsersError(f"{path} has no key of an asymmetric algorithm")
    return stamp, keys


def _is_public(key: jwt.PyJWK) -> bool:
    return key.key_type in ("RSA", "EC", "OKP")
