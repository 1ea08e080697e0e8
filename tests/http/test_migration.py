"""`anor import --from-orthanc`: from Debian's Orthanc, and from another Anor, which has what that version lacks."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.routes.orthanc.modalities import parsed
from api.routes.orthanc.remotes import declared
from dicomweb.orthanc_kinds import ORIGINS
from dicomweb.tags import Level
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.orthanc_arrival import ARRIVAL, provenance
from storage.orthanc_connection import SourceError
from storage.orthanc_import import run_orthanc_import
from storage.orthanc_listing import listed
from storage.orthanc_source import Found, OrthancSource
from storage.provenance import Provenance
from storage.setting_checks import SettingError
from tests.files import ct
from tests.http.sites import Sent
from tests.orthanc import Orthanc, running_orthanc
from tests.support import ROOT, RunningServer, anor, begin_migrated, clean_environment, free_port, running_server

NAMES = {"user_metadata": "ward=1024", "user_attachments": "report=1024"}
# What the archive itself notes of a file, or when: that is of the archive.
OWN = {"LastUpdate", "IsStable", "FileUuid", "Labels", "IsProtected"}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Orthanc, list[Sent]]]:
    """Three studies, one of two series; metadata and attachments of every level, a protected patient, modalities."""
    modalities = {"ct": ("CT1", 104), "pacs": ("PACS", 11112)}
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), modalities) as source:
        sent = [Sent(), Sent(series=2), Sent(images=1)]
        for each in sent:
            for content in each.contents():
                source.upload(content)
        source.request("PUT", f"/patients/{sent[0].ids[0].patient}/protected", b"1")
        for path in _paths(sent[1]):
            source.request("PUT", f"{path}/metadata/1024", f"Räume of {path}".encode())
            source.request("PUT", f"{path}/metadata/1100", b"x\ny")
            source.request("PUT", f"{path}/attachments/1024", path.encode() * 1000)
            source.request("PUT", f"{path}/attachments/4301", b"what a plugin keeps for itself")
        source.request("POST", f"/studies/{sent[2].ids[0].study}/anonymize", b"{}")
        declared = {"AET": "SHY", "Host": "192.0.2.7", "Port": 105, "AllowStore": False, "UseDicomTls": True,
                    "LocalAet": "ME", "Timeout": 7, "Manufacturer": "Vitrea"}  # fmt: skip
        source.request("PUT", "/modalities/shy", json.dumps(declared).encode())
        yield source, sent


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("target"), workers=1, **NAMES) as server:
        yield server


def _paths(sent: Sent) -> list[str]:
    ids = sent.ids[0]
    return [f"/patients/{ids.patient}", f"/studies/{ids.study}", f"/series/{ids.series}", f"/instances/{ids.instance}"]


def _import(target: RunningServer, url: str, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    given = NAMES | {"data": str(target.data)} | variables
    return anor("import", "--from-orthanc", url, "--quiet", *more, **given)


def _counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The table of the summary."""
    found = re.findall(r"^(\w[\w ,]*?) {2,}([\d,]+)\s*$", done.stdout, re.MULTILINE)
    return {name: int(number.replace(",", "")) for name, number in found}


def _same(ours: Any, theirs: Any) -> None:
    assert {k: v for k, v in ours.items() if k not in OWN} == {k: v for k, v in theirs.items() if k not in OWN}


def test_everything_of_an_orthanc(orthanc: tuple[Orthanc, list[Sent]], target: RunningServer) -> None:
    source, sent = orthanc
    done = _import(target, source.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _counts(done) == {
        "stored": 11, "failed": 0, "metadata": 12, "attachments": 4, "protected patients": 1, "modalities": 3,
    }  # fmt: skip
    with httpx.Client(base_url=target.url, timeout=60) as web:
        for level in ("patients", "studies", "series", "instances"):
            theirs = source.request("GET", f"/{level}?expand")
            ours = {each["ID"]: each for each in web.get(f"/{level}?expand").json()}
            assert ours.keys() == {each["ID"] for each in theirs}
            for each in theirs:
                path = f"/{level}/{each['ID']}"
                _compare(web, source, path)
                _same_tags(web, source, path, level)
        for each in sent:
            for ids, content in zip(each.ids, each.contents(), strict=True):
                assert web.get(f"/instances/{ids.instance}/file").content == content
        theirs = source.request("GET", "/modalities?expand")
        ours = web.get("/modalities?expand").json()
        assert ours.keys() == theirs.keys() == {"ct", "pacs", "shy"}
        for name, declared in theirs.items():
            assert {key: ours[name][key] for key in declared} == declared
    again = _import(target, source.url, "--verify")
    assert (again.returncode, _counts(again)) == (0, {"stored": 0, "there already, compared": 11, "failed": 0})


def test_peers_and_dicomweb_servers(tmp_path: Path) -> None:
    """Without what the source does not tell, which is said once; what is declared here already stays."""
    settings = {"outgoing_networks": "127.0.0.0/8,192.0.2.0/24"}
    secret = "s3cr3t-Passw0rd"
    with (
        running_server(tmp_path / "source", workers=1, **settings) as source,
        running_server(tmp_path / "target", workers=1, **settings) as target,
        httpx.Client(base_url=source.url) as theirs,
        httpx.Client(base_url=target.url) as ours,
    ):
        for path, declared in (
            ("/peers/plain", ["https://192.0.2.1/"]),
            ("/peers/known", ["https://192.0.2.2/"]),
            ("/peers/user", {"Url": "https://192.0.2.3/", "Username": "anna", "Password": secret, "Timeout": 7}),
            ("/dicom-web/servers/token", {
                "Url": "https://192.0.2.4/dicom", "HttpHeaders": {"X-Key": secret}, "HasDelete": True,
            }),
        ):  # fmt: skip
            assert theirs.put(path, json=declared).status_code == 200
        ours.put("/peers/known", json=["https://192.0.2.9/"])
        done = _import(target, source.url)
        assert (done.returncode, _counts(done)["peers and servers"]) == (1, 3)
        said = re.sub(r"\s+", " ", done.stdout)
        for reason in ("without Password, which", "without HttpHeaders, which"):
            assert reason in said
        assert "/peers/user" in said
        found = ours.get("/peers?expand").json()
        assert found.keys() == {"plain", "known", "user"}
        assert (found["user"]["Username"], found["user"]["Timeout"]) == ("anna", 7)
        assert found["known"]["Url"] == "https://192.0.2.9/"
        server = ours.get("/dicom-web/servers?expand").json()["token"]
        assert (server["Url"], server["HasDelete"]) == ("https://192.0.2.4/dicom/", "1")
        assert _import(target, source.url).returncode == 0


def _compare(web: httpx.Client, source: Orthanc, path: str) -> None:
    """Metadata, attachments and protection of one resource."""
    mine, theirs = web.get(f"{path}/metadata?expand").json(), source.request("GET", f"{path}/metadata?expand")
    named = {"ward" if name == "1024" else name: value for name, value in theirs.items()}
    assert {n: v for n, v in mine.items() if n == "ward" or n.isdecimal()} == {
        n: v for n, v in named.items() if n == "ward" or n.isdecimal()
    }
    if path.startswith("/instances"):
        for name in ("TransferSyntax", "SopClassUid", "IndexInSeries", *ARRIVAL & theirs.keys()):
            assert mine[name] == theirs[name]
    assert {n: v for n, v in mine.items() if n in ORIGINS} == {n: v for n, v in theirs.items() if n in ORIGINS}
    for name, number in source.request("GET", f"{path}/attachments?full").items():
        if number != 4301:
            data = web.get(f"{path}/attachments/{number}/data").content
            assert data == source.request("GET", f"{path}/attachments/{name}/data")
    assert web.get(f"{path}/attachments/4301/data").status_code == 404
    if path.startswith("/patients"):
        assert web.get(f"{path}/protected").content == source.request("GET", f"{path}/protected")


def _same_tags(web: httpx.Client, source: Orthanc, path: str, level: str) -> None:
    _same(_sorted(web.get(path).json()), _sorted(source.request("GET", path)))
    if level == "instances":
        assert web.get(f"{path}/tags").json() == source.request("GET", f"{path}/tags")


def _sorted(described: dict[str, Any]) -> dict[str, Any]:
    """With lists of children in one order, and numbers as Orthanc 1.10 writes them."""
    tags = described["MainDicomTags"]
    numbers = {
        name: "\\".join(str(float(each)) for each in tags[name].split("\\"))
        for name in ("ImageOrientationPatient", "ImagePositionPatient")
        if name in tags
    }
    return {
        **{name: sorted(value) if isinstance(value, list) else value for name, value in described.items()},
        "MainDicomTags": tags | numbers,
    }


@pytest.mark.full
def test_what_has_no_name_here_is_told(tmp_path: Path) -> None:
    """A number that has another name here is not taken; one that has none here is."""
    theirs = {"user_metadata": "a=1024,b=1025", "user_attachments": "c=1024"}
    with running_server(tmp_path / "source", workers=1, **theirs) as source:
        identifier = httpx.post(f"{source.url}/instances", content=ct()).json()["ID"]
        for path, body in (("metadata/a", "1"), ("metadata/b", "2"), ("attachments/c", "3")):
            _put(source, f"/instances/{identifier}/{path}", body)
        done = anor("import", "--from-orthanc", source.url, "-q", data=str(tmp_path / "target"), **NAMES)
    assert done.returncode == 1
    assert _counts(done) == {"stored": 1, "failed": 0, "metadata": 1, "failed beside instances": 2}
    assert "the number 1024 of a is that of ward here: see the setting user_metadata" in done.stdout
    assert "the number 1024 of c is that of report here: see the setting user_attachments" in done.stdout


# -- another Anor as the source: labels, and one request for a page


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("other"), workers=2, **NAMES) as server:
        yield server


@pytest.fixture
async def archive(database_url: str, settings: Any) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(**NAMES))
    yield opened
    await opened.close()


def _send(server: RunningServer, count: int) -> list[Sent]:
    sent = [Sent(images=1) for _ in range(count)]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, each in enumerate(sent):
            archive.writestr(str(number), each.contents()[0])
    httpx.post(f"{server.url}/instances", content=packed.getvalue(), timeout=60).raise_for_status()
    return sent


def _put(server: RunningServer, path: str, content: str = "") -> None:
    httpx.put(f"{server.url}{path}", content=content).raise_for_status()


def _get(server: RunningServer, path: str) -> Any:
    return httpx.get(f"{server.url}{path}").raise_for_status().json()


def _delete(server: RunningServer, identifiers: Iterable[str]) -> None:
    httpx.post(f"{server.url}/tools/bulk-delete", json={"Resources": list(identifiers)}).raise_for_status()


async def _run(archive: Archive, server: RunningServer, **more: Any) -> Any:
    async with OrthancSource(archive.settings, server.url, parallel=4) as source:
        return await run_orthanc_import(archive, source, parsed, declared, jobs=4, **more)


async def test_labels_and_what_changed_since(archive: Archive, other: RunningServer) -> None:
    (sent,) = _send(other, 1)
    for path in _paths(sent):
        _put(other, f"{path}/labels/seen")
        _put(other, f"{path}/metadata/ward", "7")
        _put(other, f"{path}/attachments/report", path)
    _put(other, f"/patients/{sent.ids[0].patient}/protected", "1")
    seen: list[Any] = []
    report = await _run(archive, other, page=3, progress=seen.append)
    assert report.exit_code == 0
    assert report.extras["labels"] == report.extras["metadata"] == report.extras["attachments"] == 4
    assert report.extras["protected"] == 1
    assert (seen[-1].done, seen[-1].found) == (report.instances["stored"],) * 2
    again = await _run(archive, other, page=3)
    assert (again.exit_code, again.extras, again.bytes) == (0, {}, 0)
    assert set(again.instances) == {"identical"}
    _put(other, f"{_paths(sent)[1]}/metadata/ward", "8")
    _put(other, f"{_paths(sent)[2]}/attachments/report", "new")
    third = await _run(archive, other)
    assert third.extras == {"metadata": 1, "attachments": 1}
    assert await _ward(archive, sent) == "8"


async def test_how_it_came_there(archive: Archive, other: RunningServer) -> None:
    """What the source noted of an instance's arrival is told here, too; and in the index, that it came from there."""
    (sent,) = _send(other, 1)
    await _run(archive, other)
    identifier = sent.ids[0].instance
    (row,) = await archive.db.fetch_sql(
        "SELECT source, received_at FROM instance WHERE orthanc_id = $1", bytes.fromhex(identifier.replace("-", ""))
    )
    noted = _get(other, f"/instances/{identifier}/metadata?expand")
    said = json.loads(row["source"])
    assert (said["kind"], said["remote"], said["source"]) == ("rest", noted["RemoteIP"], "127.0.0.1")
    assert f"{row['received_at'].astimezone(UTC):%Y%m%dT%H%M%S}" == noted["ReceptionDate"]


@pytest.mark.parametrize(("name", "value"), [
    ("ReceptionDate", "yesterday"),
    ("ReceptionDate", "29990101T000000"),
    ("RemoteAET", "A" * 300),
    ("RemoteIP", "1\0"),
    ("HttpUsername", "anna\n"),
    ("Origin", "Sky"),
])  # fmt: skip
def test_what_an_arrival_cannot_be(name: str, value: str) -> None:
    """Left out, as if the source had not noted it."""
    now = datetime(2026, 1, 31, tzinfo=UTC)
    assert provenance({name: value}, "there", now) == Provenance("import", source="there")


async def _ward(archive: Archive, sent: Sent) -> str:
    rows = await archive.db.fetch_sql(
        "SELECT value FROM user_metadata WHERE level = 'study' AND orthanc_id = $1",
        bytes.fromhex(sent.ids[0].study.replace("-", "")),
    )
    return str(rows[0]["value"])


class Changing(OrthancSource):
    """A source to which something happens after every page of instances."""

    happens: Any = None

    async def page(self, level: Level, since: int, limit: int) -> list[Found]:
        found = await super().page(level, since, limit)
        if level is Level.INSTANCE and self.happens is not None:
            await asyncio.to_thread(self.happens, found)
        return found


@pytest.mark.parametrize("deleted", [pytest.param(1, marks=pytest.mark.full), 7, 30])
async def test_a_list_that_shrinks_while_it_is_read(archive: Archive, other: RunningServer, deleted: int) -> None:
    """What is deleted moves the rest to the front, by more than the pages overlap."""
    sent = _send(other, 60)
    everything = {each.ids[0].instance for each in sent}
    gone: set[str] = set()

    def happens(page: list[Found]) -> None:
        victims = [each.id for each in page if each.id in everything - gone][:deleted]
        if len(gone) + len(victims) <= 40 and victims:
            gone.update(victims)
            _delete(other, victims)

    async with Changing(archive.settings, other.url, parallel=4) as source:
        source.happens = happens
        found = {each.id async for page in listed(source, Level.INSTANCE, 10) for each in page}
    assert gone
    assert found >= everything - gone
    _delete(other, everything)


async def test_what_comes_and_goes_meanwhile(archive: Archive, other: RunningServer) -> None:
    early, late = _send(other, 12), []

    def happens(page: list[Found]) -> None:
        if not late:
            late.extend(_send(other, 3))
            _put(other, f"{_paths(early[0])[3]}/metadata/ward", "late")
            _delete(other, [early[1].ids[0].patient])

    async with Changing(archive.settings, other.url, parallel=4) as source:
        source.happens = happens
        report = await run_orthanc_import(archive, source, parsed, declared, jobs=2, page=4)
    assert report.exit_code == 0, report.failures
    rows = await archive.db.fetch_sql("SELECT sop_uid FROM instance")
    here = {row["sop_uid"] for row in rows}
    assert {each.first.SOPInstanceUID for each in [early[0], *early[2:], *late]} <= here
    assert report.instances["stored"] == len(here)


async def test_a_file_that_is_replaced_meanwhile(archive: Archive, other: RunningServer) -> None:
    """The change feed tells of it: it is compared although nobody asked for that, and not taken for the one here."""
    (sent,) = _send(other, 1)
    assert (await _run(archive, other)).exit_code == 0

    def happens(page: list[Found]) -> None:
        if "PatientComments" not in sent.first:
            _delete(other, [sent.ids[0].instance])
            sent.first.PatientComments = "another file"
            httpx.post(f"{other.url}/instances", content=sent.contents()[0]).raise_for_status()

    async with Changing(archive.settings, other.url, parallel=2) as source:
        source.happens = happens
        report = await run_orthanc_import(archive, source, parsed, declared, jobs=2)
    assert report.exit_code == 1
    assert [(each.path, "other bytes" in each.reason) for each in report.failures] == [(_paths(sent)[3], True)]
    _delete(other, [sent.ids[0].patient])


async def test_verify(archive: Archive, other: RunningServer) -> None:
    """A file that differs here, and one whose object is damaged here."""
    sent = _send(other, 3)
    sent[0].first.PatientComments = "not what the source has"
    changed = archive.new_spool()
    await changed.write(sent[0].contents()[0])
    await archive.ingest.store(LOCAL, await changed.finish(), Provenance("import"))
    assert (await _run(archive, other)).exit_code == 0
    (row,) = await archive.db.fetch_sql(
        "SELECT object_key FROM instance WHERE sop_uid = $1", str(sent[1].first.SOPInstanceUID)
    )
    _damage(archive.settings.data, row["object_key"])
    report = await _run(archive, other, verify=True)
    assert (report.exit_code, report.instances["failed"]) == (1, 2)
    reasons = {failure.path: failure.reason for failure in report.failures}
    assert "other bytes" in reasons[f"/instances/{sent[0].ids[0].instance}"]
    assert "damaged" in reasons[f"/instances/{sent[1].ids[0].instance}"]


def _damage(data: Path, key: str) -> None:
    (file,) = [path for path in data.rglob("*") if path.is_file() and path.name in key]
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


# -- what goes wrong


def test_killed_in_the_middle(other: RunningServer, tmp_path: Path) -> None:
    sent = _send(other, 80)
    with running_server(tmp_path / "target", workers=1, **NAMES) as target:
        command = [sys.executable, "-m", "api.cli", "import", "--from-orthanc", other.url, "-q", "-j", "1"]
        variables = {f"ANOR_{name.upper()}": value for name, value in NAMES.items()}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environment(PYTHONPATH=str(ROOT), ANOR_DATA=str(target.data), **variables),
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while (count := httpx.get(f"{target.url}/statistics").json()["CountInstances"]) < 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        stored = httpx.get(f"{target.url}/statistics").json()["CountInstances"]
        total = httpx.get(f"{other.url}/statistics").json()["CountInstances"]
        assert count <= stored < total
        done = _import(target, other.url)
        assert done.returncode == 0, done.stdout
        assert _counts(done)["there already"] == stored
        assert _counts(done)["stored"] == total - stored
        for each in sent:
            content = httpx.get(f"{target.url}/instances/{each.ids[0].instance}/file").content
            assert content == each.contents()[0]
    checked = anor("fsck", data=str(target.data))
    assert checked.returncode == 0, checked.stdout


def test_credentials(tmp_path: Path, target: RunningServer) -> None:
    with running_orthanc(tmp_path / "orthanc", {}, users={"anna": "s3cret"}) as source:
        content = Sent(images=1).contents()[0]
        httpx.post(f"{source.url}/instances", content=content, auth=("anna", "s3cret")).raise_for_status()
        refused = _import(target, source.url, orthanc_user="anna", orthanc_password="wrong")
        assert refused.returncode == 1
        assert "refuses /system (401)" in refused.stderr
        done = _import(target, source.url, orthanc_user="anna", orthanc_password="s3cret")
        assert done.returncode == 0, done.stderr
        assert _counts(done)["stored"] == 1
        toml = tmp_path / "anor.toml"
        toml.write_text('orthanc_user = "anna"\northanc_password = "s3cret"\n')
        toml.chmod(0o600)
        assert _counts(_import(target, source.url, "--config", str(toml)))["there already"] == 1


@pytest.mark.full
async def test_tls(tmp_path: Path, target: RunningServer, other: RunningServer) -> None:
    """Through a tunnel, as behind a proxy: Debian's Orthanc ends when TLS is asked of it."""
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    place = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "ca.pem"]
    await asyncio.to_thread(subprocess.run, [*make, *place], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", other.port)
        await asyncio.gather(_pump(reader, behind[1]), _pump(behind[0], writer), return_exceptions=True)

    async with await asyncio.start_server(tunnel, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        refused = await asyncio.to_thread(_import, target, url)
        assert refused.returncode == 1
        assert "the certificate is not trusted" in refused.stderr
        done = await asyncio.to_thread(_import, target, url, orthanc_ca_file=str(tmp_path / "ca.pem"))
        assert done.returncode == 0, done.stderr


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://192.0.2.1:8042", "in the clear"),
        ("http://nobody.invalid:8042", "in the clear"),
        ("https://anna:pw@orthanc.example", "do not belong in the URL"),
        ("orthanc.example", "root of an archive"),
        ("https://orthanc.example/?x=1", "root of an archive"),
    ],
)
def test_urls_that_are_refused(settings: Any, url: str, wanted: str) -> None:
    with pytest.raises(SettingError, match=wanted):
        OrthancSource(settings(database_url="postgresql:///none"), url, parallel=1)


def test_command_lines_that_are_refused(tmp_path: Path) -> None:
    for arguments in (["import"], ["import", "x", "--from-orthanc", "http://127.0.0.1:1"], ["import", "x", "--verify"]):
        done = anor(*arguments, data=str(tmp_path))
        assert done.returncode == 2
        assert "--from-orthanc" in done.stderr
    begin_migrated(tmp_path)
    done = anor("import", "--from-orthanc", f"http://127.0.0.1:{free_port()}", data=str(tmp_path))
    assert (done.returncode, "no connection to the remote server" in done.stderr) == (1, True)
    assert anor("import", "--from-orthanc", "http://h", data=str(tmp_path), orthanc_user="x").returncode == 2


async def test_who_is_no_orthanc(archive: Archive, other: RunningServer) -> None:
    with pytest.raises(SourceError):
        async with OrthancSource(archive.settings, f"{other.url}/dicom-web/", parallel=1):
            pass


SYSTEM = {"ApiVersion": 24, "Version": "1.12.5", "DicomAet": "O", "Capabilities": {"HasExtendedFind": True}}


@contextlib.asynccontextmanager
async def scripted(answers: dict[str, tuple[int, bytes]]) -> AsyncIterator[str]:
    """A server that answers by the beginning of the path; its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        status, body = next((each for name, each in answers.items() if path.startswith(name)), (404, b""))
        length = len(body) + (100 if path.endswith("/file") else 0)  # a file is cut off
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


NOTHING = {
    "/system": (200, json.dumps(SYSTEM).encode()), "/modalities": (200, b"{}"),
    "/changes": (200, b'{"Changes": [], "Last": 0, "Done": true}'), "/statistics": (200, b'{"CountInstances": 1}'),
    "/instances?": (200, b"[]"), "/series?": (200, b"[]"), "/studies?": (200, b"[]"), "/patients?": (200, b"[]"),
}  # fmt: skip


async def test_many_files_that_the_source_cannot_read(archive: Archive) -> None:
    """Its answer 500 is of one resource: more of them than end a migration without a source do not end it."""
    sent = [Sent(images=1) for _ in range(25)]
    told = [{"ID": each.ids[0].instance, "MainDicomTags": {}} for each in sent]
    answers = NOTHING | {"/instances?": (200, json.dumps(told).encode()), "/instances/": (500, b"")}
    async with scripted(answers) as url, OrthancSource(archive.settings, url, parallel=25) as source:
        report = await run_orthanc_import(archive, source, parsed, declared, jobs=25)
    assert (report.exit_code, report.stopped, report.instances) == (1, "", {"failed": 25})
    assert {each.path for each in report.failures} == {f"/instances/{each.ids[0].instance}" for each in sent}
    assert all("answers 500" in each.reason for each in report.failures)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_of_the_environment(archive: Archive, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """It would see what goes to http:// in the clear, and is not asked; for https:// it makes a tunnel."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n")).split()[0])
        writer.close()

    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy, scripted(NOTHING) as url:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        with contextlib.suppress(SourceError):
            async with OrthancSource(archive.settings, url.replace("http", scheme), parallel=1) as source:
                assert await source.count() == 1
    assert set(asked) == ({b"CONNECT"} if scheme == "https" else set())


@pytest.mark.parametrize("lost", [True, False])
async def test_an_instance_without_a_file(archive: Archive, lost: bool) -> None:
    """One that the source still lists is a failure, one that was deleted meanwhile is none."""
    sent = Sent(images=1)
    path, told = f"/instances/{sent.ids[0].instance}", {"ID": sent.ids[0].instance, "MainDicomTags": {}}
    answers = NOTHING | {"/instances?": (200, json.dumps([told]).encode()), f"{path}/file": (404, b"")}
    if lost:
        answers[path] = (200, json.dumps(told).encode())
    async with scripted(answers) as url, OrthancSource(archive.settings, url, parallel=2) as source:
        report = await run_orthanc_import(archive, source, parsed, declared, jobs=2)
    assert (report.exit_code, report.instances) == ((1, {"failed": 1}) if lost else (0, {"gone": 1}))
    assert [(each.path, "has lost" in each.reason) for each in report.failures] == ([(path, True)] if lost else [])


@pytest.mark.parametrize("lost", [True, False])
async def test_an_attachment_without_bytes(archive: Archive, lost: bool) -> None:
    """One that the source still lists is a failure, one that was deleted meanwhile is none; the rest is copied."""
    sent = Sent(images=1)
    spool = archive.new_spool()
    await spool.write(sent.contents()[0])
    await archive.ingest.store(LOCAL, await spool.finish(), Provenance("import"))
    attached = [{"ContentType": number, "UncompressedSize": 1, "UncompressedMD5": ""} for number in (1024, 1025)]
    told = {"ID": sent.ids[0].patient, "MainDicomTags": {"PatientID": str(sent.first.PatientID)}, "Labels": [],
            "Metadata": {}, "Attachments": attached, "IsProtected": True}  # fmt: skip
    path = f"/patients/{sent.ids[0].patient}"
    answers = NOTHING | {
        "/patients?": (200, json.dumps([told]).encode()),
        f"{path}/attachments?full": (200, b'{"1024": 1024, "1025": 1025}'),
        f"{path}/attachments/1025/data": (200, b"x"),
    }
    if lost:
        answers[f"{path}/attachments/1024/size"] = (200, b"1")
    async with scripted(answers) as url, OrthancSource(archive.settings, url, parallel=2) as source:
        report = await run_orthanc_import(archive, source, parsed, declared, jobs=2)
    assert report.extras == {"attachments": 1, "protected": 1}
    assert [(each.path, "has lost" in each.reason) for each in report.failures] == (
        [(f"{path}/attachments/1024", True)] if lost else []
    )
    assert (report.exit_code, report.problems, report.stopped) == (int(lost), int(lost), "")


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (200, b"<html>", "is not JSON"),
        (200, b'{"a": 1}', "list is not one of resources"),
        (200, b'[{"ID": "x"}]', "without an identifier"),
        (200, b'[{"ID": "%s", "Attachments": 7}]' % b"-".join([b"0" * 8] * 5), "in another way"),
        (302, b"", "answers 302"),
        (401, b"", "refuses"),
    ],
)
async def test_a_source_that_answers_nonsense(archive: Archive, status: int, body: bytes, wanted: str) -> None:
    """It ends the migration with what was wrong, never with a traceback."""
    answers = {
        "/system": (200, json.dumps(SYSTEM).encode()), "/modalities": (200, b"{}"),
        "/changes": (200, b'{"Changes": [], "Last": 0, "Done": true}'), "/statistics": (200, b'{"CountInstances": 1}'),
        "/instances": (status, body),
    }  # fmt: skip
    async with scripted(answers) as url, OrthancSource(archive.settings, url, parallel=2) as source:
        report = await run_orthanc_import(archive, source, parsed, declared, jobs=2)
    assert (report.exit_code, wanted in report.stopped) == (1, True), report.stopped


async def test_a_file_that_is_cut_off(archive: Archive) -> None:
    """It is tried again, and not stored; the others have their turn."""
    sent = Sent(images=1)
    told = {"ID": sent.ids[0].instance, "MainDicomTags": {"SOPInstanceUID": sent.first.SOPInstanceUID}, "Labels": [],
            "Metadata": {}, "Attachments": []}  # fmt: skip
    answers = {
        "/system": (200, json.dumps(SYSTEM).encode()), "/modalities": (200, b'{"bad": {"AET": 7}}'),
        "/changes": (200, b'{"Changes": [], "Last": 0, "Done": true}'), "/statistics": (200, b'{"CountInstances": 1}'),
        f"/instances/{sent.ids[0].instance}/file": (200, sent.contents()[0]),
        "/instances": (200, json.dumps([told]).encode()), "/series": (200, b"[]"), "/studies": (200, b"[]"),
        "/patients": (200, b"[]"),
    }  # fmt: skip
    async with scripted(answers) as url, OrthancSource(archive.settings, url, parallel=2) as source:
        report = await run_orthanc_import(archive, source, parsed, declared, jobs=2)
    assert (report.exit_code, report.instances, report.problems) == (1, {"failed": 1}, 1)
    reasons = {failure.path: failure.reason for failure in report.failures}
    assert "broke" in reasons[f"/instances/{sent.ids[0].instance}"]
    assert "Host is missing" in reasons["/modalities/bad"]
    assert await archive.db.fetch_sql("SELECT FROM instance") == []
