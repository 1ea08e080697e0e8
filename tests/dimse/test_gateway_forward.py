"""What the gateway makes of an archive's answers: none lost, none that holds up the others."""

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import orjson
import pydicom
import pytest

from dicomweb.store_answer import CREATOR_TAG, PRIVATE_CREATOR, SHA256_TAG, read_content_digest
from dimse_bridge.gateway.client import Client
from dimse_bridge.gateway.deidentify import Deidentifier
from dimse_bridge.gateway.disk import Waiting
from dimse_bridge.gateway.forward import Forwarder
from dimse_bridge.gateway.spool import GatewaySpool
from dimse_bridge.gateway.tally import Tally
from dimse_bridge.server import configure_libraries
from storage.setting_checks import SettingError
from storage.settings import Settings, load_settings
from storage.spool import Spooled
from tests.certificates import make_certificates
from tests.dimse.scripted import Reply, Request, ScriptedArchive, answer, failed, referenced
from tests.files import ct, new_uid
from tests.support import free_port


@dataclass
class Gateway:
    spool: GatewaySpool
    tally: Tally
    root: Path

    async def put(self, *files: bytes) -> None:
        for data in files:
            await self.spool.keep(Spooled(len(data), hashlib.sha256(data).digest(), data, None))

    async def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for is in files and counters
                await asyncio.sleep(0.01)

    async def empty(self) -> None:
        async with asyncio.timeout(15):
            while (await self.spool.state()).waiting.files:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.01)

    def notes(self) -> list[dict[str, object]]:
        return [orjson.loads(path.read_bytes()) for path in sorted((self.root / "dead").rglob("*.json"))]

    def dead(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((self.root / "dead").rglob("*.dcm"))]


@pytest.fixture
async def archive() -> AsyncIterator[ScriptedArchive]:
    async with ScriptedArchive() as running:
        yield running


def settings(url: str, **values: object) -> Settings:
    given = {"gateway_to": url, "gateway_retry_max": 0.2, "gateway_timeout": 2.0, "gateway_tries": 3}
    return load_settings(given | values, {}, None)[0]


@asynccontextmanager
async def forwarding(
    tmp_path: Path,
    url: str,
    *first: bytes,
    deidentifier: Callable[[GatewaySpool], Deidentifier] | None = None,
    **values: object,
) -> AsyncIterator[Gateway]:
    """A gateway without its receiving side; `first` waits already when it starts."""
    chosen = settings(url, **values)
    root = tmp_path / "gateway"
    spool = GatewaySpool(root, max_files=1000, max_bytes=1 << 30)
    gateway = Gateway(spool, Tally(), root)
    await gateway.put(*first)
    client = Client(chosen)
    prepare = deidentifier(spool) if deidentifier is not None else None
    task = asyncio.create_task(Forwarder(spool, client, chosen, gateway.tally, prepare).run())
    try:
        yield gateway
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()
        spool.close()


def files(count: int) -> dict[str, bytes]:
    uids = [new_uid() for _ in range(count)]
    return {uid: ct(SOPInstanceUID=uid) for uid in uids}


async def test_batches_with_digests(archive: ScriptedArchive, tmp_path: Path) -> None:
    sent = files(50)
    async with forwarding(tmp_path, archive.url, *sent.values(), gateway_batch_files=8) as gateway:
        await gateway.empty()
    assert archive.stored == {uid: [data] for uid, data in sent.items()}
    assert max(len(request.parts) for request in archive.requests) == 8
    for request in archive.requests:
        assert request.path == "/dicom-web/studies"
        for headers, body in request.parts:
            assert headers["content-type"] == "application/dicom"
            assert read_content_digest(headers["content-digest"]) == hashlib.sha256(body).digest()
    assert gateway.tally.sent_files == 50
    assert gateway.tally.failures == 0


async def test_order_with_one_request_at_a_time(archive: ScriptedArchive, tmp_path: Path) -> None:
    sent = files(30)
    async with forwarding(tmp_path, archive.url, *sent.values(), gateway_parallel=1, gateway_batch_files=4) as gateway:
        await gateway.empty()
    assert [uid for request in archive.requests for uid in request.uids] == list(sent)


async def test_large_instances_are_streamed(archive: ScriptedArchive, tmp_path: Path) -> None:
    data = ct(PixelData=bytes(3 << 20))
    async with forwarding(tmp_path, archive.url, data) as gateway:
        await gateway.empty()
    assert list(archive.stored.values()) == [[data]]


async def test_refused_instances_are_set_aside(archive: ScriptedArchive, tmp_path: Path) -> None:
    sent = files(6)
    bad = list(sent)[2]
    reason = {f"_{bad}".replace(".", "_"): 0xA900}

    def script(request: Request) -> Reply | None:
        if bad not in request.uids:
            return None
        good = [uid for uid in request.uids if uid != bad]
        for uid in good:
            archive.stored.setdefault(uid, []).append(sent[uid])
        return answer(referenced(*good), failed(**reason), status=202 if good else 409)

    archive.script = script
    async with forwarding(tmp_path, archive.url, *sent.values()) as gateway:
        await gateway.empty()
        state = await gateway.spool.state()
    assert archive.stored == {uid: [data] for uid, data in sent.items() if uid != bad}
    assert (state.dead.files, gateway.dead()) == (1, [sent[bad]])
    (note,) = gateway.notes()
    assert (note["failure_reason"], note["http_status"]) == ("A900", 202)
    assert gateway.tally.rejected_files == 1


@pytest.mark.parametrize("status", [400, 500])
async def test_poison_in_a_batch(archive: ScriptedArchive, tmp_path: Path, status: int) -> None:
    """The whole request fails because of one instance: each is sent alone, and that one is given up in the end."""
    sent = files(10)
    bad = next(iter(sent))
    archive.script = lambda request: Reply(status) if bad in request.uids else None
    async with forwarding(tmp_path, archive.url, *sent.values()) as gateway:
        await gateway.until(lambda: len(archive.stored) == 9)
        while not gateway.dead():  # a failure counts only when others got through
            more = files(1)
            sent |= more
            await gateway.put(*more.values())
            await gateway.until(lambda: len(archive.stored) == len(sent) - 1)  # noqa: B023 - awaited here
        await gateway.empty()
    assert gateway.dead() == [sent[bad]]
    assert gateway.notes()[0]["tries"] == 3
    assert all(len(found) == 1 for found in archive.stored.values())


async def test_failures_of_an_outage_do_not_count(archive: ScriptedArchive, tmp_path: Path) -> None:
    """An archive without room refuses every instance; none is bad for that."""
    sent = files(5)
    archive.script = lambda request: answer(
        failed(**{f"_{uid}".replace(".", "_"): 0xA700 for uid in request.uids}), status=409
    )
    async with forwarding(tmp_path, archive.url, *sent.values(), gateway_retry_max=0.1) as gateway:
        await gateway.until(lambda: len(archive.requests) > 40)
        assert not gateway.dead()
        archive.script = lambda _: None
        await gateway.empty()
    assert archive.stored == {uid: [data] for uid, data in sent.items()}


@pytest.mark.parametrize(
    "reply",
    [
        Reply(503, headers={"retry-after": "0"}),
        Reply(401),
        Reply(404),
        Reply(429),
        Reply(302, headers={"location": "http://127.0.0.1:9/"}),
        Reply(drop=True),
        Reply(200, bytes(9 << 20)),
    ],
    ids=["503", "401", "404", "429", "302", "cut", "endless"],
)
async def test_waits_for_the_archive(archive: ScriptedArchive, tmp_path: Path, reply: Reply) -> None:
    sent = files(30)
    archive.script = lambda _: reply
    async with forwarding(tmp_path, archive.url, *sent.values(), gateway_batch_files=5) as gateway:
        await gateway.until(lambda: len(archive.requests) >= 6)
        assert gateway.tally.last_error
        assert not archive.stored
        archive.script = lambda _: None
        await gateway.empty()
    assert archive.stored == {uid: [data] for uid, data in sent.items()}
    assert not gateway.dead()


async def test_asks_alone_while_the_archive_is_away(archive: ScriptedArchive, tmp_path: Path) -> None:
    archive.script = lambda _: Reply(503)
    async with forwarding(tmp_path, archive.url, *files(40).values(), gateway_batch_files=5) as gateway:
        await gateway.until(lambda: len(archive.requests) >= 10)
    assert all(len(request.parts) == 1 for request in archive.requests[-4:])


async def test_retry_after(archive: ScriptedArchive, tmp_path: Path) -> None:
    archive.script = lambda _: Reply(503, headers={"retry-after": "2"})
    async with forwarding(tmp_path, archive.url, *files(1).values(), gateway_parallel=1) as gateway:
        await gateway.until(lambda: len(archive.requests) == 1)
        await asyncio.sleep(1.0)
        assert len(archive.requests) == 1
        await gateway.until(lambda: len(archive.requests) > 1)


async def test_silent_archive(archive: ScriptedArchive, tmp_path: Path) -> None:
    archive.script = lambda _: Reply(mute=True)
    async with forwarding(tmp_path, archive.url, *files(1).values(), gateway_timeout=0.3) as gateway:
        await gateway.until(lambda: "silent" in gateway.tally.last_error)
        archive.script = lambda _: None
        await gateway.empty()


async def test_archive_that_is_not_there(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/dicom-web"
    async with forwarding(tmp_path, url, *files(3).values()) as gateway:
        await gateway.until(lambda: "no connection" in gateway.tally.last_error)


async def test_one_instance_that_cuts_the_connection(archive: ScriptedArchive, tmp_path: Path) -> None:
    """It is repeated for ever, and the others get through."""
    sent = files(12)
    bad = next(iter(sent))
    archive.script = lambda request: Reply(drop=True) if bad in request.uids else None
    async with forwarding(tmp_path, archive.url, *sent.values()) as gateway:
        await gateway.until(lambda: gateway.tally.sent_files == 11, 30)
        assert (await gateway.spool.state()).waiting.files == 1
        archive.script = lambda _: None
        await gateway.empty()


async def test_answers_without_a_body(archive: ScriptedArchive, tmp_path: Path) -> None:
    archive.script = lambda _: Reply(200)
    async with forwarding(tmp_path, archive.url, *files(3).values()) as gateway:
        await gateway.empty()
        archive.script = lambda _: Reply(409)
        await gateway.put(*files(1).values())
        await gateway.until(lambda: gateway.tally.failures > 0)
        assert (await gateway.spool.state()).waiting.files == 1


async def test_archive_that_holds_other_bytes(archive: ScriptedArchive, tmp_path: Path) -> None:
    def attest(digest: bytes) -> Callable[[Request], Reply]:
        def script(request: Request) -> Reply:
            items = referenced(*request.uids)
            items["00081199"]["Value"][0] |= {
                CREATOR_TAG: {"vr": "LO", "Value": [PRIVATE_CREATOR]},
                SHA256_TAG: {"vr": "OB", "InlineBinary": base64.b64encode(digest).decode()},
            }
            return answer(items)

        return script

    ((_, data),) = files(1).items()
    archive.script = attest(bytes(32))
    async with forwarding(tmp_path, archive.url, data) as gateway:
        await gateway.until(lambda: bool(gateway.dead()))
        assert gateway.tally.sent_files == 0
        archive.script = attest(hashlib.sha256(data).digest())
        await gateway.put(data)
        await gateway.until(lambda: gateway.tally.sent_files == 1)
    assert len(gateway.dead()) == 1


@pytest.mark.parametrize("reason", [0x0111, 45070])
async def test_there_already_at_an_archive_without_digests(
    archive: ScriptedArchive, tmp_path: Path, reason: int
) -> None:
    """Retrieved and compared: the same data set is a success, whatever file meta group it has got."""
    sent = files(3)
    same, other, absent = sent
    pixels = ct(PixelData=bytes(300_000), SOPInstanceUID=same)
    sent[same] = pixels
    archive.stored = {same: [pixels.replace(b"PYDICOM", b"ARCHIVE", 1)], other: [sent[other].replace(b"CT", b"MR")]}

    def script(request: Request) -> Reply | None:
        if not request.parts:
            return None
        return answer(failed(**{f"_{uid}".replace(".", "_"): reason for uid in request.uids}), status=409)

    archive.script = script
    async with forwarding(tmp_path, archive.url, *sent.values()) as gateway:
        await gateway.empty()
    assert gateway.tally.sent_files == 1
    assert gateway.dead() == [sent[other], sent[absent]]


async def test_deidentified_on_the_way(archive: ScriptedArchive, tmp_path: Path) -> None:
    """What leaves is another file, the same one at each attempt; the original stays until it has left."""
    configure_libraries()
    study, uid = new_uid(), new_uid()
    secret = {"PatientName": "Zyxwvut^A", "PatientID": "Zyxwvut", "StudyInstanceUID": study}
    good = [ct(SOPInstanceUID=uid, **secret), ct(PixelData=bytes(3 << 20), **secret)]
    shown = ct(BurnedInAnnotation="YES", **secret)
    first: list[list[tuple[dict[str, str], bytes]]] = []

    def script(request: Request) -> Reply | None:
        first.append(request.parts)
        return Reply(503) if len(first) < 3 else None

    archive.script = script
    key = tmp_path / "key"
    async with forwarding(
        tmp_path, archive.url, *good, shown, deidentifier=lambda spool: Deidentifier(key, spool.scratch)
    ) as gateway:
        await gateway.empty()
        assert not list(gateway.spool.scratch.iterdir())
    assert key.stat().st_mode & 0o077 == 0
    assert gateway.dead() == [shown]
    assert "BurnedInAnnotation" in str(gateway.notes()[0]["why"])
    (one,), (two,) = archive.stored.values()
    for body in (one, two):
        assert b"Zyxwvut" not in body
        assert pydicom.dcmread(BytesIO(body)).PatientIdentityRemoved == "YES"
    assert len({pydicom.dcmread(BytesIO(body)).StudyInstanceUID for body in (one, two)} - {study}) == 1
    assert {body for parts in first for _, body in parts} == {one, two}
    again = Deidentifier(key, tmp_path)
    path = tmp_path / "again"
    path.write_bytes(good[0])
    content = again(Waiting(0, 0, len(good[0]), hashlib.sha256(good[0]).digest()), path)
    assert content.path.read_bytes() in (one, two)


async def test_damaged_on_our_disk(archive: ScriptedArchive, tmp_path: Path) -> None:
    """Changed bytes never leave, a part that holds them is not completed."""
    sent = files(4)
    spool = GatewaySpool(tmp_path / "gateway", max_files=100, max_bytes=1 << 20)
    before = Gateway(spool, Tally(), tmp_path / "gateway")
    await before.put(*sent.values())
    damaged = sorted((tmp_path / "gateway" / "ready").rglob("*.dcm"))
    damaged[1].write_bytes(damaged[1].read_bytes()[:-1] + b"!")
    damaged[2].write_bytes(damaged[2].read_bytes()[:-1])
    damaged[3].unlink()
    spool.close()
    async with forwarding(tmp_path, archive.url) as gateway:
        await gateway.empty()
    assert list(archive.stored) == [next(iter(sent))]
    assert len(gateway.dead()) == 2
    assert all("not those that were received" in str(note["why"]) for note in gateway.notes())


async def test_the_same_instance_twice(archive: ScriptedArchive, tmp_path: Path) -> None:
    """Two in one request would make the answer unclear."""
    sent = files(3)
    async with forwarding(tmp_path, archive.url, *sent.values(), *sent.values()) as gateway:
        await gateway.empty()
    assert archive.stored == {uid: [data, data] for uid, data in sent.items()}
    assert all(len(set(request.uids)) == len(request.uids) for request in archive.requests)


async def test_credentials(archive: ScriptedArchive, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with forwarding(tmp_path, archive.url, *files(1).values(), gateway_token_file=token) as gateway:
        await gateway.empty()
        token.write_text("second")
        await gateway.put(*files(1).values())
        await gateway.empty()
        token.unlink()
        await gateway.put(*files(1).values())
        await gateway.until(lambda: "token" in gateway.tally.last_error)
    assert [r.headers["authorization"] for r in archive.requests] == ["Bearer first", "Bearer second"]
    basic = {"gateway_user": "anna", "gateway_password": "x:y"}
    archive.requests.clear()
    async with forwarding(tmp_path, archive.url, **basic) as gateway:
        await gateway.empty()
    assert archive.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"anna:x:y").decode()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def _server(folder: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


async def test_tls_with_a_client_certificate(certificates: Path, tmp_path: Path) -> None:
    context = _server(certificates, "server")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    sent = files(2)
    ours = {
        "gateway_ca_file": certificates / "ca.pem",
        "gateway_client_cert": certificates / "client.pem",
        "gateway_client_key": certificates / "client.key",
    }
    async with (
        ScriptedArchive(context) as archive,
        forwarding(tmp_path, archive.url, *sent.values(), **ours) as gateway,
    ):
        await gateway.empty()
        assert archive.stored == {uid: [data] for uid, data in sent.items()}


@pytest.mark.parametrize(("server", "authority"), [("server", "stranger"), ("other", "ca"), ("stranger", "ca")])
async def test_an_archive_that_is_not_trusted_gets_nothing(
    certificates: Path, tmp_path: Path, server: str, authority: str
) -> None:
    ca = certificates / f"{authority}.pem"
    async with ScriptedArchive(_server(certificates, server)) as archive:
        async with forwarding(tmp_path, archive.url, *files(1).values(), gateway_ca_file=ca) as gateway:
            await gateway.until(lambda: "not trusted" in gateway.tally.last_error)
        assert not archive.requests


async def test_a_proxy_sees_nothing_in_the_clear(
    archive: ScriptedArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    sent = files(1)
    async with forwarding(tmp_path, archive.url, *sent.values()) as gateway:
        await gateway.empty()
    assert archive.stored == {uid: [data] for uid, data in sent.items()}


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"gateway_to": None}, "--to"),
        ({"gateway_to": "http://192.0.2.1/dicom-web"}, "in the clear"),
        ({"gateway_to": "https://user:secret@archive.example/dicom-web"}, "credentials"),
        ({"gateway_to": "https://a.example/", "gateway_user": "u"}, "belong together"),
        ({"gateway_to": "https://a.example/", "gateway_ca_file": "/nowhere"}, "gateway_ca_file"),
    ],
)
def test_settings_that_cannot_be_used(values: dict[str, object], wrong: str) -> None:
    with pytest.raises(SettingError, match=wrong) as refused:
        Client(load_settings(values, {}, None)[0])
    assert "secret" not in str(refused.value)
