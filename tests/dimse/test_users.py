"""Users that identify themselves (PS3.7 D.3.3.7)."""

import asyncio
import json
import subprocess
import sys
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import Verification

from dicomweb.errors import PeerFailed, Unavailable
from dimse_bridge.negotiation import Identity
from dimse_bridge.scu import Requestor
from dimse_bridge.tasks import as_content
from dimse_bridge.tokens import TOKEN, Tokens
from dimse_bridge.users import PASSCODE, Users, UsersError, line_for
from storage.access import LOCAL
from storage.archive import open_archive
from storage.modalities import Modality
from tests.dimse.serving import acceptor
from tests.support import ROOT, clean_environment


@pytest.fixture
def users_file(tmp_path):
    path = tmp_path / "users"
    path.write_text("# who may come\n\n" + line_for("ct-room", "right") + "\n" + line_for("mr-room", "höher") + "\n")
    path.chmod(0o600)
    return path


def associate(port: int, kind: int, primary: bytes = b"", secondary: bytes = b"", *, wanted: bool = True) -> str:
    ae = AE()
    ae.add_requested_context(Verification)
    items = []
    if kind:
        item = UserIdentityNegotiation()
        item.user_identity_type, item.primary_field, item.positive_response_requested = kind, primary, wanted
        if secondary:
            item.secondary_field = secondary
        items.append(item)
    received: list[object] = []
    note = (evt.EVT_PDU_RECV, lambda event: received.append(event.pdu))
    made = ae.associate("127.0.0.1", port, ae_title="ANOR", ext_neg=items, evt_handlers=[note])
    if not made.is_established:
        # Not `is_rejected`: pynetdicom takes a rejection that comes at once for a connection that was never made.
        return "rejected" if isinstance(received[-1], A_ASSOCIATE_RJ) else "aborted"
    answered = any(isinstance(item, UserIdentityNegotiation) for item in made.acceptor.user_information)
    made.release()
    return "confirmed" if answered else "accepted"


@pytest.mark.parametrize(
    ("required", "identity", "expected"),
    [
        (False, (0,), "accepted"),
        (True, (0,), "rejected"),
        (True, (PASSCODE, b"ct-room", b"right"), "confirmed"),
        (True, (PASSCODE, b"mr-room", "höher".encode()), "confirmed"),
        (False, (PASSCODE, b"ct-room", b"wrong"), "rejected"),
        (False, (PASSCODE, b"nobody", b"right"), "rejected"),
        (False, (PASSCODE, b"ct-room\xff", b"right"), "rejected"),
        (False, (1, b"ct-room"), "accepted"),  # a name alone proves nothing, and is not asked for
        (True, (1, b"ct-room"), "rejected"),
        (True, (5, b"ey.token.x"), "rejected"),
        (False, (5, b"ey.token.x"), "accepted"),
    ],
)
async def test_identities(users_file, required, identity, expected):
    async with acceptor(verifiers={PASSCODE: Users(users_file)}, require_user=required) as port:
        assert await asyncio.to_thread(associate, port, *identity) == expected


KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


def keys_of(*pairs: tuple[str, ec.EllipticCurvePrivateKey]) -> str:
    keys = [ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": name, "alg": "ES256"} for name, key in pairs]
    return json.dumps({"keys": keys})


def token(key: object = KEY, kid: str | None = "one", algorithm: str = "ES256", **claims: object) -> bytes:
    said = {"sub": "u1", "iss": "https://idp", "aud": "anor", "exp": time.time() + 3600} | claims
    kept = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(kept, key, algorithm, headers={"kid": kid} if kid else {}).encode()


@pytest.fixture
def keys_file(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(keys_of(("one", KEY)))
    return path


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (token(), "confirmed"),
        (token(kid=None), "confirmed"),  # there is only one key
        (token(preferred_username="jane"), "confirmed"),
        (token(exp=time.time() - 60), "rejected"),
        (token(exp=None), "rejected"),
        (token(sub=None), "rejected"),
        (token(iss="https://other"), "rejected"),
        (token(aud="other"), "rejected"),
        (token(nbf=time.time() + 600), "rejected"),
        (token(OTHER), "rejected"),
        (token(kid="two"), "rejected"),
        (token("a secret of 32 bytes and some more", algorithm="HS256"), "rejected"),
        (token(None, algorithm="none"), "rejected"),
        (token(preferred_username="x" * 65), "rejected"),
        (token(preferred_username=["x"]), "rejected"),
        (b"ey.token.x", "rejected"),
        (b"\xff" * 100, "rejected"),
        (token(long="x" * 20_000), "rejected"),
    ],
)
async def test_tokens(keys_file, shown, expected):
    tokens = Tokens(keys_file, issuer="https://idp", audience="anor")
    async with acceptor(verifiers={TOKEN: tokens}, require_user=True) as port:
        assert await asyncio.to_thread(associate, port, TOKEN, shown) == expected


async def test_keys_are_read_again_when_they_change(keys_file):
    tokens = Tokens(keys_file, issuer=None, audience=None)
    assert await tokens.verify(Identity(TOKEN, token(), b"", True)) == "u1"
    keys_file.write_text(keys_of(("two", OTHER), ("three", KEY)))
    assert await tokens.verify(Identity(TOKEN, token(), b"", True)) is None
    assert await tokens.verify(Identity(TOKEN, token(OTHER, "two"), b"", True)) == "u1"
    assert await tokens.verify(Identity(TOKEN, token(OTHER, None), b"", True)) is None
    keys_file.write_text("{}")
    with pytest.raises(Unavailable):
        await tokens.verify(Identity(TOKEN, token(), b"", True))


@pytest.mark.parametrize("text", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "[1]", "7"])
def test_files_that_hold_no_keys(tmp_path, text):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(UsersError, match=r"keys\.json"):
        Tokens(path, issuer=None, audience=None)


async def test_no_answer_where_none_was_asked_for(users_file):
    async with acceptor(verifiers={PASSCODE: Users(users_file)}) as port:
        found = await asyncio.to_thread(lambda: associate(port, PASSCODE, b"ct-room", b"right", wanted=False))
    assert found == "accepted"


async def test_the_file_is_read_again_when_it_changes(users_file):
    async with acceptor(verifiers={PASSCODE: Users(users_file)}) as port:
        users_file.write_text(line_for("ct-room", "changed") + "\n")
        assert await asyncio.to_thread(associate, port, PASSCODE, b"ct-room", b"changed") == "confirmed"
        assert await asyncio.to_thread(associate, port, PASSCODE, b"ct-room", b"right") == "rejected"
        users_file.write_text("rubbish\n")
        assert await asyncio.to_thread(associate, port, PASSCODE, b"ct-room", b"changed") == "rejected"


@pytest.mark.parametrize(
    "line",
    ["name", "n:scrypt:16384:8:1:AAAA", "n:scrypt:1000:8:1:AAAA:AAAA", "n:md5:1:1:1:AAAA:AAAA", "n:scrypt:x:8:1:A:A"],
)
def test_a_wrong_file_is_said_by_its_line(tmp_path, line):
    path = tmp_path / "users"
    path.write_text(f"# comment\n{line}\n")
    path.chmod(0o600)
    with pytest.raises(UsersError, match="line 2"):
        Users(path)
    path.chmod(0o644)
    with pytest.raises(UsersError, match="chmod 600"):
        Users(path)
    with pytest.raises(UsersError, match="cannot read"):
        Users(tmp_path / "none")


def test_the_command_makes_a_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "dimse-user", "ct-room"],
        cwd=ROOT,
        env=clean_environment(PYTHONPATH=str(ROOT)),
        input="right\n",
        capture_output=True,
        text=True,
        check=True,
    )
    path = tmp_path / "users"
    path.write_text(done.stdout)
    path.chmod(0o600)
    assert "right" not in done.stdout
    Users(path)


class Anyone:
    """Takes whoever comes, and keeps who it was."""

    def __init__(self):
        self.came = []

    async def verify(self, identity):
        self.came.append((identity.kind, identity.primary, identity.secondary))
        return "someone"


async def test_who_we_say_we_are(settings, database_url, users_file, tmp_path):
    """Names, passcodes and tokens reach those that we ask; at rest they are encrypted, and nowhere shown."""
    keys = [tmp_path / name for name in ("old", "both")]
    keys[0].write_text("ab" * 32 + "\n")
    keys[1].write_text("cd" * 32 + "\n" + "ab" * 32 + "\n")
    for key in keys:
        key.chmod(0o600)
    anyone = Anyone()
    verifiers = {1: anyone, PASSCODE: Users(users_file), TOKEN: anyone}
    archive = await open_archive(settings(database_url=database_url, credentials_key_file=keys[0], dimse_timeout=5))
    requestor = Requestor(archive)
    service = archive.modalities

    async def declared(**user):
        await service.put(LOCAL, Modality("other", "ANOR", "127.0.0.1", port, **user))
        found = await service.get(LOCAL, "other")
        assert "right" not in repr(found)
        return found

    async with acceptor(verifiers=verifiers, require_user=True) as port:
        known = await declared(username="mr-room", secret="höher")
        await requestor.echo(known)
        assert known.secret != "höher"
        for user in ({}, {"username": "ct-room", "secret": "wrong"}):
            with pytest.raises(PeerFailed, match="rejected"):
                await requestor.echo(await declared(**user))
        await requestor.echo(await declared(username="ct-room"))
        await requestor.echo(await declared(secret="ey.a.b"))
        assert anyone.came == [(1, b"ct-room", b""), (TOKEN, b"ey.a.b", b"")]
        # A job has no secret; the declaration's is taken, but not to another host.
        known = await declared(username="ct-room", secret="right")
        content = as_content(known)
        assert (content["username"], content["secret"]) == (None, None)
        plain = Modality("other", "ANOR", "127.0.0.1", port)
        assert await service.with_user(LOCAL, plain) == Modality(
            "other", "ANOR", "127.0.0.1", port, username="ct-room", secret=known.secret
        )
        elsewhere = Modality("other", "ANOR", "127.0.0.2", port, username="ct-room", secret=known.secret)
        assert (await service.with_user(LOCAL, elsewhere)).secret is None
        with pytest.raises(PeerFailed, match="cannot be decrypted"):
            await requestor.echo(elsewhere)
        await requestor.close()
        await archive.close()
        archive = await open_archive(settings(database_url=database_url, credentials_key_file=keys[1], dimse_timeout=5))
        assert (await archive.modalities.seal(), await archive.modalities.seal()) == (1, 0)
        requestor = Requestor(archive)
        fresh = await archive.modalities.get(LOCAL, "other")
        assert fresh.secret != known.secret
        await requestor.echo(fresh)
    await requestor.close()
    await archive.close()
