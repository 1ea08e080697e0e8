"""DIMSE over TLS: with and without certificates of peers, in every profile, with certificates that change."""

import asyncio
import dataclasses
import hashlib
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from dicomweb.errors import PeerFailed, Unavailable
from dimse_bridge.limits import Limits
from dimse_bridge.scu import Requestor
from dimse_bridge.tls import Certificates
from storage.access import LOCAL
from storage.archive import open_archive
from storage.modalities import Modality
from storage.settings import SettingError, Settings, load_settings
from tests.certificates import make_certificates, revocations
from tests.dimse.conftest import start_bridge
from tests.dimse.serving import Sink, acceptor
from tests.dimse.wire import EXPLICIT_LE, VERIFICATION, Wire, associate_rq
from tests.support import free_port


@dataclasses.dataclass
class Files:
    folder: Path

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name.replace("_", "."))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return Files(make_certificates(tmp_path_factory.mktemp("tls")))


def settings_of(files: Files, tmp_path: Path, **values: object) -> Settings:
    given = {
        "data": tmp_path / "data",
        "dimse_tls_port": 0,
        "dimse_tls_certificate": files.server_pem,
        "dimse_tls_key": files.server_key,
        "dimse_tls_ca": files.ca_pem,
    }
    return load_settings(given | values, {}, None)[0]


def client(files: Files, name: str | None = "client", **versions: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.ca_pem)
    for version, value in versions.items():
        setattr(context, version, value)
    if name is not None:
        context.load_cert_chain(files.folder / f"{name}.pem", files.folder / f"{name}.key")
    return context


def echo(port: int, context: ssl.SSLContext) -> tuple[str, str]:
    """The TLS version and the common name of the server, after an association was accepted."""
    peer = Wire(port, 5)
    peer.socket = context.wrap_socket(peer.socket, server_hostname="127.0.0.1")
    with peer:
        assert peer.associate(VERIFICATION) == 2
        subject = dict(pair[0] for pair in peer.socket.getpeercert()["subject"])
        return peer.socket.version(), subject["commonName"]


def refused(port: int, context: ssl.SSLContext) -> bool:
    try:
        echo(port, context)
    except (OSError, AssertionError):
        return True
    return False


async def test_certificates_of_peers(files, tmp_path):
    none, stranger, known = client(files, None), client(files, "stranger"), client(files)
    for peers, expected in (("required", [1, 1, 0]), ("optional", [0, 1, 0]), ("none", [0, 0, 0])):
        settings = settings_of(files, tmp_path, dimse_tls_peers=peers)
        async with acceptor(certificates=Certificates.of_acceptor(settings)) as port:
            found = [await asyncio.to_thread(refused, port, context) for context in (none, stranger, known)]
        assert found == expected, peers


async def test_profiles(files, tmp_path):
    old = client(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    weak = client(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    cbc = client(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    cbc.set_ciphers("ECDHE-RSA-AES256-SHA384:AES256-GCM-SHA384")
    for profile, expected in (("bcp195", [0, 0, 0, 1]), ("extended", [0, 0, 1, 1]), ("tls13", [0, 1, 1, 1])):
        settings = settings_of(files, tmp_path, dimse_tls_profile=profile)
        async with acceptor(certificates=Certificates.of_acceptor(settings)) as port:
            contexts = (client(files), old, weak, cbc)
            assert [await asyncio.to_thread(refused, port, context) for context in contexts] == expected, profile
            assert (await asyncio.to_thread(echo, port, client(files)))[0] == "TLSv1.3"


async def test_cipher_suites_that_are_set(files, tmp_path):
    """In the place of the profile's: for peers that speak nothing better, or to leave some out."""
    old = client(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    cbc = client(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    cbc.set_ciphers("ECDHE-RSA-AES256-SHA384")
    gcm = client(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    gcm.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    for ciphers, expected in (("ECDHE+AES:!PSK:!aNULL", [0, 0, 0]), ("ECDHE+CHACHA20", [0, 1, 1])):
        settings = settings_of(files, tmp_path, dimse_tls_ciphers=ciphers)
        async with acceptor(certificates=Certificates.of_acceptor(settings)) as port:
            found = [await asyncio.to_thread(refused, port, context) for context in (old, cbc, gcm)]
        assert found == expected, ciphers
    with pytest.raises(SettingError, match="dimse_tls_ciphers"):
        settings_of(files, tmp_path, dimse_tls_ciphers="nonsense")


async def test_a_silent_client_keeps_nobody_out(files, tmp_path):
    certificates = Certificates.of_acceptor(settings_of(files, tmp_path))
    limits = dataclasses.replace(Limits(), associate_timeout=1.0)
    async with acceptor(certificates=certificates, limits=limits) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        begin = time.monotonic()
        await asyncio.to_thread(echo, port, client(files))
        assert time.monotonic() - begin < 2
        for each in silent:
            each.settimeout(5)
            assert await asyncio.to_thread(gone, each)


def gone(connection: socket.socket) -> bool:
    with connection:
        try:
            return connection.recv(100) == b""
        except ConnectionError:
            return True


async def test_no_tls_and_rubbish_on_the_port(files, tmp_path):
    async with acceptor(certificates=Certificates.of_acceptor(settings_of(files, tmp_path))) as port:
        for data in (b"\x01\0\0\0\1\0" + bytes(256), b"\x16\x03\x01\x02\x00" + bytes(512)):
            with socket.create_connection(("127.0.0.1", port), timeout=8) as peer:
                peer.sendall(data)
                while await asyncio.to_thread(peer.recv, 100):
                    pass
        await asyncio.to_thread(echo, port, client(files))


async def test_changed_certificates_are_used(files, tmp_path):
    for name in ("server.pem", "server.key"):
        (tmp_path / name).write_bytes((files.folder / name).read_bytes())
    settings = settings_of(
        files, tmp_path, dimse_tls_certificate=tmp_path / "server.pem", dimse_tls_key=tmp_path / "server.key"
    )
    certificates = Certificates.of_acceptor(settings)
    async with acceptor(certificates=certificates) as port:
        assert (await asyncio.to_thread(echo, port, client(files)))[1] == "server"
        (tmp_path / "server.pem").write_bytes((files.folder / "renewed.pem").read_bytes())
        certificates.refresh()  # certificate and key do not match yet: the old ones stay
        assert (await asyncio.to_thread(echo, port, client(files)))[1] == "server"
        (tmp_path / "server.key").write_bytes((files.folder / "renewed.key").read_bytes())
        certificates.refresh()
        assert (await asyncio.to_thread(echo, port, client(files)))[1] == "renewed"


async def test_revoked_certificates(files, tmp_path):
    """The list is read again when it changes; one that does not speak of the authority any more refuses everybody."""
    listed = tmp_path / "crl.pem"
    listed.write_bytes(revocations(files.folder))
    certificates = Certificates.of_acceptor(settings_of(files, tmp_path, dimse_tls_crl=listed))
    contexts = [client(files), client(files, "other")]
    async with acceptor(certificates=certificates) as port:
        for lists, expected in (
            (revocations(files.folder, "client"), [1, 0]),
            (b"no list", [1, 0]),  # the last right one stays
            (revocations(files.folder, "client", "other"), [1, 1]),
            (revocations(files.folder), [0, 0]),
        ):
            listed.write_bytes(lists)
            certificates.refresh()
            assert [await asyncio.to_thread(refused, port, context) for context in contexts] == expected
    own = tmp_path / "own"
    own.mkdir()
    listed.write_bytes(revocations(make_certificates(own)))
    async with acceptor(
        certificates=Certificates.of_acceptor(settings_of(files, tmp_path, dimse_tls_crl=listed))
    ) as port:
        assert await asyncio.to_thread(refused, port, contexts[0])


async def test_a_peer_whose_certificate_is_revoked_is_not_spoken_to(files, tmp_path, settings, database_url):
    listed = tmp_path / "crl.pem"
    archive = await open_archive(
        settings(
            database_url=database_url,
            dimse_client_certificate=files.folder / "client.pem",
            dimse_client_key=files.folder / "client.key",
            dimse_client_ca=files.folder / "ca.pem",
            dimse_client_crl=listed,
            dimse_timeout=3,
        )
    )
    requestor = Requestor(archive)
    async with acceptor(certificates=Certificates.of_acceptor(settings_of(files, tmp_path))) as port:
        modality = Modality("anor", "ANOR", "127.0.0.1", port, tls=True)
        with pytest.raises(PeerFailed, match="files for TLS"):
            await requestor.echo(modality)  # there is no list
        listed.write_bytes(revocations(files.folder, "client"))
        await requestor.echo(modality)
        listed.write_bytes(revocations(files.folder, "server"))
        with pytest.raises(PeerFailed):
            await requestor.echo(modality)
    await requestor.close()
    await archive.close()


def test_what_cannot_be_used_is_said(files, tmp_path):
    for values in (
        {"dimse_tls_certificate": files.ca_key},
        {"dimse_tls_key": files.client_key},
        {"dimse_tls_ca": files.server_key},
        {"dimse_tls_key": tmp_path / "none"},
        {"dimse_tls_crl": files.ca_pem},
        {"dimse_tls_crl": tmp_path / "none"},
    ):
        with pytest.raises(Unavailable, match="cannot be used"):
            Certificates.of_acceptor(settings_of(files, tmp_path, **values))
    with pytest.raises(SettingError, match="dimse_tls_ca"):
        settings_of(files, tmp_path, dimse_tls_ca=None)
    with pytest.raises(SettingError, match="dimse_tls_crl"):
        settings_of(files, tmp_path, dimse_tls_peers="none", dimse_tls_crl=files.ca_pem)
    with pytest.raises(SettingError, match="dimse_tls_certificate"):
        settings_of(files, tmp_path, dimse_tls_certificate=None)


async def test_a_store_larger_than_a_record(files, tmp_path):
    """TLS cuts what comes into records of 16 KiB."""
    sink = Sink()

    def send(port: int) -> None:
        done = subprocess.run(
            [
                *("storescu", "-v", "-aec", "ANOR"),
                *tls(files),
                "127.0.0.1",
                str(port),
                get_testdata_file("CT_small.dcm"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    async with acceptor(sink=sink, certificates=Certificates.of_acceptor(settings_of(files, tmp_path))) as port:
        await asyncio.to_thread(send, port)
    assert len(sink.stored[0][1]) > 32_768


def tls(files: Files) -> list[str]:
    return ["+tls", files.client_key, files.client_pem, "+cf", files.ca_pem]


def test_dcmtk_on_the_tls_port_of_the_program(files, dimse_settings, dcmtk):
    settings = dataclasses.replace(
        dimse_settings,
        dimse_port=free_port(),
        dimse_tls_port=free_port(),
        dimse_tls_certificate=Path(files.server_pem),
        dimse_tls_key=Path(files.server_key),
        dimse_tls_ca=Path(files.ca_pem),
    )
    bridge = start_bridge(settings)
    try:
        where = ["127.0.0.1", str(settings.dimse_tls_port)]
        query = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=4MR1")
        for program, *more in (("echoscu",), ("storescu", get_testdata_file("MR_small.dcm")), ("findscu", *query)):
            done = subprocess.run(
                [program, "-v", "-aec", "ANOR", *tls(files), *where, *more],
                env=dcmtk,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert "PatientID" in done.stdout + done.stderr  # of a match
        done = subprocess.run(["echoscu", "-aec", "ANOR", "+tla", "-ic", *where], env=dcmtk, check=False)
        assert done.returncode != 0
    finally:
        assert bridge.stop() == 0


def digest(files: Files, name: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert((files.folder / f"{name}.pem").read_text())).hexdigest()


def answer(port: int, calling: str, context: ssl.SSLContext | None) -> tuple[int, ...]:
    """2 where the association is accepted, else result, source and reason of the rejection."""
    peer = Wire(port, 5)
    if context is not None:
        peer.socket = context.wrap_socket(peer.socket, server_hostname="127.0.0.1")
    with peer:
        peer.send(associate_rq({1: (VERIFICATION, [EXPLICIT_LE])}, calling=calling))
        kind, body = peer.receive()
        return (kind,) if kind == 2 else tuple(body[1:4])


async def test_who_claims_a_title_shows_its_certificate(files, dimse_settings, archive):
    """One certificate, or a list of them while it is renewed; another title of the same authority does not do."""
    ct = Modality("proven", "PROVEN", "", 0, certificates=(digest(files, "client"),))
    await archive.modalities.put(LOCAL, ct)
    settings = dataclasses.replace(
        dimse_settings,
        dimse_port=free_port(),
        dimse_tls_port=free_port(),
        dimse_tls_certificate=files.folder / "server.pem",
        dimse_tls_key=files.folder / "server.key",
        dimse_tls_ca=files.folder / "ca.pem",
        dimse_tls_peers="optional",
    )
    bridge = start_bridge(settings)
    tls, unknown = settings.dimse_tls_port, (1, 1, 3)
    try:
        known, other, none = client(files), client(files, "renewed"), client(files, None)
        assert answer(tls, "PROVEN", known) == (2,)
        assert [answer(tls, "PROVEN", each) for each in (other, none)] == [unknown, unknown]
        assert answer(bridge.port, "PROVEN", None) == unknown
        assert answer(tls, "ANYONE", other) == (2,)
        await archive.modalities.put(
            LOCAL, dataclasses.replace(ct, certificates=(*ct.certificates, digest(files, "renewed")))
        )
        await asyncio.sleep(1.1)  # another process believes the old declaration for a second
        assert [answer(tls, "PROVEN", each) for each in (known, other, none)] == [(2,), (2,), unknown]
        # By a name: whatever the authority issues for it, so that a renewal changes nothing here.
        for name, expected in (("dns:client.example", [(2,), unknown]), ("cn:renewed", [unknown, (2,)])):
            await archive.modalities.put(LOCAL, dataclasses.replace(ct, certificates=(name,)))
            await asyncio.sleep(1.1)
            assert [answer(tls, "PROVEN", each) for each in (known, other)] == expected
    finally:
        await archive.modalities.delete(LOCAL, "proven")
        assert bridge.stop() == 0
