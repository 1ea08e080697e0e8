"""`/peers` and `/dicom-web/servers`: another Anor, Debian's Orthanc, and servers that misbehave."""

import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_file

from dicomweb.uids import orthanc_ids
from tests import files
from tests import orthanc as debian
from tests.certificates import make_certificates
from tests.orthanc import Orthanc
from tests.remote import Request, endless, hang, scripted
from tests.support import RunningServer, running_server

LOOPBACK = "127.0.0.0/8"
SECRET = "s3cr3t-Passw0rd"
TOKEN = "t0ken-of-a-bearer"
JPEG_LOSSLESS, RLE = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.5"
# Debian's version of the DICOMweb plug-in answers as a server; it dies of its own WADO-RS client.
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Who calls."""
    settings = {"outgoing_networks": LOOPBACK, "outgoing_timeout": 2, "outgoing_answer_max": 1 << 20}
    with running_server(tmp_path_factory.mktemp("here"), workers=1, log_exports="true", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def web(here: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=here.url, timeout=60) as client:
        yield client


@pytest.fixture
def there(server: RunningServer) -> Iterator[httpx.Client]:
    """Another Anor, which is called."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def orthanc(here: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    assert debian.PROGRAM is not None, "install Debian's packages orthanc and orthanc-dicomweb"
    assert PLUGIN.exists(), "install Debian's package orthanc-dicomweb"
    with debian.running_orthanc(tmp_path_factory.mktemp("orthanc"), {}, plugins=(PLUGIN,)) as running:
        running.request("PUT", "/peers/anor", json.dumps([f"{here.url}/"]).encode())
        yield running


def identifiers(data: bytes) -> dict[str, str]:
    ds = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
    of = orthanc_ids(ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    return {"study": of.study, "series": of.series, "instance": of.instance, "uid": str(ds.StudyInstanceUID)}


def study(count: int, **attributes: Any) -> list[bytes]:
    """Files of one new study."""
    common = {"StudyInstanceUID": files.new_uid(), "SeriesInstanceUID": files.new_uid()} | attributes
    return [files.ct(**common, InstanceNumber=number + 1) for number in range(count)]


def upload(client: httpx.Client, data: list[bytes]) -> dict[str, str]:
    for each in data:
        assert client.post("/instances", content=each).status_code == 200
    return identifiers(data[0])


def finished(web: httpx.Client, job: str, seconds: float = 40) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while (said := web.get(f"/jobs/{job}").json())["State"] not in ("Success", "Failure"):
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    return dict(said)


# -- declarations


def test_declarations_of_peers(web: httpx.Client, server: RunningServer) -> None:
    declared = {"Url": server.url, "Username": "u", "Password": SECRET, "HttpHeaders": {"X-A": TOKEN}, "Colour": "red"}
    assert web.put("/peers/full", json=declared).text == ""
    assert web.put("/peers/listed", json=[server.url, "u", SECRET]).status_code == 200
    assert web.put("/peers/short", json=[f"{server.url}/sub"]).status_code == 200
    assert {"full", "listed", "short"} <= set(web.get("/peers").json())
    assert web.get("/peers//full/").json() == ["configuration", "store", "store-straight", "system"]
    shown = {
        "Colour": "red", "HttpHeaders": ["X-A"], "Password": None, "Pkcs11": False, "Timeout": 0,
        "Url": f"{server.url}/", "Username": "u",
    }  # fmt: skip
    assert web.get("/peers/full/configuration").json() == shown
    assert web.get("/peers?expand").json()["full"] == shown
    short = {"HttpHeaders": [], "Pkcs11": False, "Timeout": 0, "Url": f"{server.url}/sub/"}
    assert web.get("/peers/short/configuration").json() == short
    for name in ("full", "listed", "short"):
        assert web.delete(f"/peers/{name}").text == ""
    for method, path in (("DELETE", ""), ("GET", ""), ("GET", "/configuration"), ("GET", "/system")):
        assert web.request(method, f"/peers/full{path}").status_code == 404
    assert web.post("/peers/full/store", json=[]).status_code == 404


def test_declarations_of_dicomweb_servers(web: httpx.Client, server: RunningServer) -> None:
    root = "/dicom-web/servers"
    declared = {"Url": server.dicomweb, "HasDelete": True, "ChunkedTransfers": False, "Timeout": 7, "Password": ""}
    assert web.put(f"{root}/full", json=declared).json() == {}
    shown = {
        "ChunkedTransfers": "0", "HasDelete": "1", "HttpHeaders": [], "Pkcs11": False, "Timeout": 7,
        "Url": f"{server.dicomweb}/",
    }  # fmt: skip
    assert web.get(f"{root}?expand").json()["full"] == shown
    assert web.get(f"{root}/full").json() == ["get", "retrieve", "stow", "wado", "qido", "delete"]
    assert web.put(f"{root}/full", json=[server.dicomweb]).json() == {}
    assert web.get(f"{root}/full").json() == ["get", "retrieve", "stow", "wado", "qido"]
    assert "full" not in web.get("/peers").json()
    assert web.delete(f"{root}/full").json() == {}
    assert web.get(f"{root}/full").status_code == 404
    assert web.get("/dicom-web/info").json() == {"DicomWebRoot": "/dicom-web/", "OrthancApiRoot": "./../"}
    made = upload(web, study(1))
    assert web.post(f"/studies/{made['study']}/update-dicomweb-cache", json={}).json() == {}
    assert web.post(f"/studies/{made['series']}/update-dicomweb-cache", json={}).status_code == 404


@pytest.mark.parametrize(
    ("body", "attribute"),
    [
        (["https://010.0.0.1/"], "Url"), (["http://2852039166/"], "Url"),
        ({}, "Url"), (["ftp://x"], "Url"), (["file:///etc/passwd"], "Url"), ("http://127.0.0.1/", ""), ([], ""),
        ({"Url": f"http://u:{SECRET}@127.0.0.1/"}, "Url"),
        ({"Url": "http://127.0.0.1/", "Username": "u:v", "Password": SECRET}, "Username"),
        ({"Url": "http://127.0.0.1/", "Username": "u", "Password": None}, "Password"),
        ({"Url": "http://127.0.0.1/", "Username": "u", "Password": 7}, "Password"),
        ({"Url": "http://127.0.0.1/", "Timeout": -1}, "Timeout"),
        ({"Url": "http://127.0.0.1/", "Timeout": 1e9}, "Timeout"),
        ({"Url": "http://127.0.0.1/", "HttpHeaders": ["X-A"]}, "HttpHeaders"),
        ({"Url": "http://127.0.0.1/", "HttpHeaders": {"X": f"{SECRET}\r\nY: z"}}, "HttpHeaders"),
        ({"Url": "http://127.0.0.1/", "HttpHeaders": {"Host": SECRET}}, "HttpHeaders"),
        ({"Url": "http://127.0.0.1/", "HttpHeaders": {"X Y": SECRET}}, "HttpHeaders"),
        ({"Url": "http://127.0.0.1/", "HttpHeaders": {"authorization": SECRET}, "Username": "u"}, "HttpHeaders"),
        ({"Url": "http://127.0.0.1/", "CertificateFile": "/etc/passwd"}, "CertificateFile"),
        ({"Url": "http://127.0.0.1/", "Pkcs11": True}, "Pkcs11"),
        ({"Url": "http://127.0.0.1/", "Nested": {}}, ""),
    ],
)  # fmt: skip
def test_declarations_that_are_refused(web: httpx.Client, body: Any, attribute: str) -> None:
    for path in ("/peers/wrong", "/dicom-web/servers/wrong"):
        answer = web.put(path, json=body)
        assert answer.status_code == 400, answer.text
        assert SECRET not in answer.text
        if attribute:
            assert attribute in answer.json()["Details"]
        assert web.get(path).status_code == 404


# -- who may be called


FORBIDDEN = (
    "http://169.254.169.254/latest/meta-data/", "http://0xA9FEA9FE/", "http://[::1]/",
    "http://[::ffff:169.254.169.254]/", "http://0.0.0.0/", "http://[fd00:ec2::254]/", "http://10.0.0.1/",
    "https://192.0.2.1/",
)  # fmt: skip


@pytest.mark.parametrize("url", FORBIDDEN)
def test_addresses_that_may_not_be_called(web: httpx.Client, url: str) -> None:
    for path in ("/peers/x", "/dicom-web/servers/x"):
        answer = web.put(path, json=[url])
        assert answer.status_code == 400, answer.text
        assert "outgoing_networks" in answer.json()["Details"]


def test_by_default_this_machine_may_not_be_called(there: httpx.Client, server: RunningServer) -> None:
    """The other server has the default settings."""
    for url in (server.url, f"http://localhost:{server.port}/", f"http://2130706433:{server.port}/", *FORBIDDEN[:6]):
        assert there.put("/peers/self", json=[url]).status_code == 400, url
    clear = there.put("/peers/clear", json=["http://192.0.2.1/"])
    assert (clear.status_code, "in the clear" in clear.text) == (400, True)
    assert there.put("/peers/clear", json=["https://192.0.2.1/"]).status_code == 200
    there.delete("/peers/clear")


def test_redirects_are_not_followed(web: httpx.Client, server: RunningServer) -> None:
    def moved(request: Request) -> None:
        request.body()
        request.answer("307 Temporary Redirect", Location=f"{target.url}hidden")

    with scripted(lambda request: request.answer("200 OK", b"{}")) as target, scripted(moved) as peer:
        web.put("/peers/moved", json=[peer.url, "u", SECRET])
        web.put("/dicom-web/servers/moved", json=[peer.url])
        made = upload(web, study(1))
        for answer in (
            web.get("/peers/moved/system"),
            web.post("/peers/moved/store", json=[made["study"]]),
            web.post("/peers/moved/store-straight", content=study(1)[0]),
            web.post("/dicom-web/servers/moved/get", json={"Uri": "/studies"}),
            web.post("/dicom-web/servers/moved/qido", json={"Uri": "/studies"}),
            web.post("/dicom-web/servers/moved/stow", json={"Resources": [made["study"]]}),
            web.post("/dicom-web/servers/moved/retrieve", json={"Resources": [{"Study": "1.2"}]}),
        ):
            assert (answer.status_code, "307" in answer.text) == (500, True), answer.text
        assert len(peer.requests) == 7
        assert not target.requests


@pytest.mark.parametrize(
    "uri",
    ["", "/", "studies?a=b", "studies#x", "../x", "a/../../x", "%2e%2e/x", "a/%2E./b", "..\\x", "a%2f..%2fb", "a\r\nb"],
)
def test_uris_that_lead_elsewhere(web: httpx.Client, uri: str) -> None:
    with scripted(lambda request: request.answer("200 OK", b"[]")) as other:
        web.put("/dicom-web/servers/uris", json=[f"{other.url}dw"])
        for route in ("get", "qido", "wado"):
            answer = web.post(f"/dicom-web/servers/uris/{route}", json={"Uri": uri})
            assert (answer.status_code, "Uri" in answer.text) == (400, True)
        assert web.post("/dicom-web/servers/uris/get", json={"Uri": "http://h/x"}).status_code == 200
        assert [each.path for each in other.requests] == ["/dw/http://h/x"]


# -- credentials


def test_credentials_are_sent_and_never_shown(web: httpx.Client, here: RunningServer) -> None:
    def reply(request: Request) -> None:
        request.body()
        request.answer("403 Forbidden", f"{SECRET} {TOKEN}".encode())

    made = upload(web, study(1))
    with scripted(reply) as peer:
        declared = {"Url": peer.url, "Username": "anna", "Password": SECRET, "HttpHeaders": {"X-Key": TOKEN}}
        bearer = {"Url": peer.url, "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"}}
        said = [web.put("/peers/guarded", json=declared), web.put("/dicom-web/servers/guarded", json=bearer)]
        said += [web.get("/peers/guarded/system"), web.post("/peers/guarded/store", json=[made["study"]])]
        asked = {"Uri": "/studies", "HttpHeaders": {"Cookie": TOKEN}}
        said.append(web.post("/dicom-web/servers/guarded/get", json=asked))
        said.append(web.post("/dicom-web/servers/guarded/qido", json=asked))
        stow = {"Resources": [made["study"]], "HttpHeaders": {"Cookie": TOKEN}}
        said.append(web.post("/dicom-web/servers/guarded/stow", json=stow))
        wado = {"Resources": [{"Study": "1.2"}], "HttpHeaders": {"Cookie": TOKEN}}
        said.append(web.post("/dicom-web/servers/guarded/retrieve", json=wado))
    heads = [each.head.lower() for each in peer.requests]
    assert len(heads) == 6
    assert all("authorization: basic yw5uytpzm2nyM3qtugfzc3cwcmq=".lower() in each for each in heads[:2])
    assert all(f"x-key: {TOKEN}" in each for each in heads[:2])
    assert all(f"authorization: bearer {TOKEN}" in each for each in heads[2:])
    assert all(f"cookie: {TOKEN}" in each for each in heads[2:])
    said += [web.get(path) for path in ("/peers?expand", "/dicom-web/servers?expand", "/jobs?expand", "/wsi/jobs")]
    said += [web.get(f"{path}/guarded") for path in ("/peers", "/dicom-web/servers")]
    said.append(web.get("/peers/guarded/configuration"))
    for answer in said:
        assert SECRET not in answer.text, answer.url
        assert TOKEN not in answer.text, answer.url
    log = here.output()
    assert SECRET not in log
    assert TOKEN not in log


# -- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_tls(certificates: Path, tmp_path: Path) -> None:
    def context(name: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        return made

    def reply(request: Request) -> None:
        assert isinstance(request.connection, ssl.SSLSocket)
        shown = request.connection.getpeercert()
        request.answer("200 OK", json.dumps({"client": str(shown and shown["subject"])}).encode())

    mutual = context("server")
    mutual.load_verify_locations(certificates / "ca.pem")
    mutual.verify_mode = ssl.CERT_REQUIRED
    settings = {
        "outgoing_networks": LOOPBACK,
        "outgoing_timeout": 2,
        "outgoing_ca_file": certificates / "ca.pem",
        "outgoing_client_certificate": certificates / "client.pem",
        "outgoing_client_key": certificates / "client.key",
    }
    with (
        running_server(tmp_path / "data", workers=1, **settings) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
        scripted(reply, context("server")) as good,
        scripted(reply, mutual) as asking,
        scripted(reply, context("other")) as other,
        scripted(reply, context("stranger")) as stranger,
    ):
        for name, peer in (("good", good), ("asking", asking), ("other", other), ("stranger", stranger)):
            assert web.put(f"/peers/{name}", json=[peer.url, "u", SECRET]).status_code == 200
        assert web.get("/peers/good/system").status_code == 200
        assert "'client'" in web.get("/peers/asking/system").json()["client"]
        for name in ("other", "stranger"):
            answer = web.get(f"/peers/{name}/system")
            assert (answer.status_code, "certificate is not trusted" in answer.text) == (500, True), answer.text
        assert not other.requests
        assert not stranger.requests


def test_a_certificate_for_each(certificates: Path, tmp_path: Path) -> None:
    """As in Orthanc's declarations: CertificateFile, CertificateKeyFile, CertificateKeyPassword."""
    folder, secret = tmp_path / "certificates", "k3y-passw0rd"
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("north", "south"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", "csr", "-subj", f"/CN={name}")
        ca = ["-CA", str(certificates / "ca.pem"), "-CAkey", str(certificates / "ca.key"), "-CAcreateserial"]
        openssl("x509", "-req", "-in", "csr", *ca, "-days", "2", "-out", f"{name}.pem")
    openssl("rsa", "-aes256", "-passout", f"pass:{secret}", "-in", "south.key", "-out", "locked.key")
    (folder / "whole.pem").write_bytes((folder / "north.pem").read_bytes() + (folder / "north.key").read_bytes())

    def reply(request: Request) -> None:
        assert isinstance(request.connection, ssl.SSLSocket)
        shown = request.connection.getpeercert()
        request.answer("200 OK", json.dumps({"client": str(shown and shown["subject"])}).encode())

    mutual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mutual.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    mutual.load_verify_locations(certificates / "ca.pem")
    mutual.verify_mode = ssl.CERT_REQUIRED
    settings = {
        "outgoing_networks": LOOPBACK, "outgoing_ca_file": certificates / "ca.pem", "outgoing_certificates": folder,
        "outgoing_client_certificate": certificates / "client.pem",
        "outgoing_client_key": certificates / "client.key",
    }  # fmt: skip
    with (
        running_server(tmp_path / "data", workers=1, **settings) as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
        scripted(reply, mutual) as peer,
    ):
        for name, kind, more in (
            ("client", "/peers/client", {}),
            ("north", "/peers/north", {"CertificateFile": "whole.pem"}),
            ("north", "/dicom-web/servers/north", {"CertificateFile": "north.pem", "CertificateKeyFile": "north.key"}),
            ("south", "/peers/south", {
                "CertificateFile": str(folder / "south.pem"), "CertificateKeyFile": str(folder / "locked.key"),
                "CertificateKeyPassword": secret,
            }),
        ):  # fmt: skip
            assert web.put(kind, json={"Url": peer.url} | more).status_code == 200
            asked = web.get(f"{kind}/system") if "peers" in kind else web.post(f"{kind}/get", json={"Uri": "/x"})
            assert f"'{name}'" in asked.text
        shown = web.get("/peers/south/configuration").json()
        assert shown["CertificateFile"] == str(folder / "south.pem")
        assert (shown["CertificateKeyFile"], shown["CertificateKeyPassword"]) == (str(folder / "locked.key"), None)
        assert secret not in web.get("/peers?expand").text
        south = {"CertificateFile": "south.pem", "CertificateKeyFile": "locked.key"}
        for wrong in (
            {"CertificateFile": "nothing.pem"}, {"CertificateFile": str(certificates / "client.pem")},
            {"CertificateFile": "../certificates/whole.pem"}, {"CertificateFile": ".."},
            {"CertificateFile": "/etc/passwd"}, {"CertificateFile": "a\0b"}, south,
            {"CertificateFile": "south.pem", "CertificateKeyFile": "north.key"},
            south | {"CertificateKeyPassword": "wrong"}, south | {"CertificateKeyPassword": None},
            {"CertificateKeyFile": "north.key"}, {"CertificateKeyPassword": secret},
        ):  # fmt: skip
            refused = web.put("/peers/wrong", json={"Url": peer.url} | wrong)
            assert refused.status_code == 400, wrong
            assert "Certificate" in refused.json()["Details"]
        assert "wrong" not in web.get("/peers").json()


# -- peers


def test_send_to_another_anor(web: httpx.Client, there: httpx.Client, server: RunningServer) -> None:
    assert web.put("/peers/there", json=[server.url]).status_code == 200
    assert web.get("/peers/there/system").json()["Name"] == there.get("/system").json()["Name"]
    data = study(5)
    made = upload(web, data)
    answer = web.post("/peers/there/store", content=made["study"]).json()
    assert answer == {
        "Compress": False, "Description": "REST API", "FailedInstancesCount": 0, "InstancesCount": 5,
        "ParentResources": [made["study"]], "Peer": web.get("/peers/there/configuration").json(),
        "Size": str(sum(map(len, data))), "SizeMB": 0,
    }  # fmt: skip
    for each in data:
        assert there.get(f"/instances/{identifiers(each)['instance']}/file").content == each
    exported = web.get("/exports?last").json()["Exports"][0]
    assert (exported["RemoteModality"], exported["ID"], exported["StudyInstanceUID"]) == (
        "there", made["study"], made["uid"],
    )  # fmt: skip
    again = web.post("/peers/there/store", json={"Resources": [made["series"], made["instance"]], "Asynchronous": True})
    job = finished(web, again.json()["ID"])
    assert (job["Type"], job["State"], job["Content"]["InstancesCount"]) == ("OrthancPeerStore", "Success", 5)


@pytest.mark.parametrize("compress", [False, True])
def test_send_transcoded(web: httpx.Client, there: httpx.Client, server: RunningServer, compress: bool) -> None:
    web.put("/peers/there", json=[server.url])
    ct = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    ct.SOPInstanceUID = ct.file_meta.MediaStorageSOPInstanceUID = files.new_uid()
    ct.StudyInstanceUID, ct.SeriesInstanceUID = files.new_uid(), files.new_uid()
    out = BytesIO()
    ct.save_as(out)
    made = upload(web, [out.getvalue()])
    body = {"Resources": [made["study"]], "Transcode": RLE, "Compress": compress}
    answer = web.post("/peers/there/store", json=body).json()
    assert (answer["Compress"], answer["Transcode"], answer["FailedInstancesCount"]) == (compress, RLE, 0)
    assert int(answer["Size"]) < len(out.getvalue())
    sent = pydicom.dcmread(BytesIO(there.get(f"/instances/{made['instance']}/file").content))
    assert sent.file_meta.TransferSyntaxUID == RLE
    assert (sent.pixel_array == ct.pixel_array).all()
    assert web.post("/peers/there/store", json=body | {"Transcode": "1.2.3"}).status_code == 400


def test_store_straight(web: httpx.Client, there: httpx.Client, server: RunningServer) -> None:
    web.put("/peers/there", json=[server.url])
    [data] = study(1)
    answer = web.post("/peers/there/store-straight", content=data)
    assert answer.json()["Status"] == "Success"
    assert there.get(f"/instances/{answer.json()['ID']}").status_code == 200
    assert web.get(f"/instances/{answer.json()['ID']}").status_code == 404
    assert web.post("/peers/there/store-straight", content=b"junk").status_code == 500


def test_what_is_asked_wrongly(web: httpx.Client, server: RunningServer) -> None:
    web.put("/peers/there", json=[server.url])
    for body in (["nope"], {"Resources": "x"}, {}, {"Resources": [], "Compress": 1}):
        assert web.post("/peers/there/store", json=body).status_code == 400, body
    missing = "00000000-00000000-00000000-00000000-00000000"
    assert web.post("/peers/there/store", json=[missing]).status_code == 404
    assert web.post("/peers/there/store", json=[]).json()["InstancesCount"] == 0
    assert web.post("/peers/there/store", content=b"").status_code == 400


def test_instances_that_a_peer_refuses(web: httpx.Client) -> None:
    def reply(request: Request) -> None:
        if b"InstanceNumber-2" in request.body():
            request.answer("400 Bad Request")
        else:
            request.answer("200 OK", b'{"Status": "Success"}')

    data = [*study(1), *study(1, PatientComments="InstanceNumber-2"), *study(1)]
    ids = [upload(web, [each])["instance"] for each in data]
    with scripted(reply) as peer:
        web.put("/peers/choosy", json=[peer.url])
        answer = web.post("/peers/choosy/store", json={"Resources": ids, "Permissive": True}).json()
        assert (answer["InstancesCount"], answer["FailedInstancesCount"]) == (3, 1)
        strict = web.post("/peers/choosy/store", json={"Resources": ids, "Asynchronous": True}).json()["ID"]
        job = finished(web, strict)
        assert (job["State"], job["ErrorCode"], "400" in job["ErrorDetails"]) == ("Failure", 9, True)
        assert [(each["Status"], each["Comment"]) for each in job["Content"]["Failures"]] == [
            (400, "the peer answered 400")
        ]


# -- peers that misbehave


def test_peers_that_misbehave(web: httpx.Client) -> None:
    made = upload(web, study(1))
    with scripted(hang) as silent, scripted(endless("application/json")) as talking:
        web.put("/peers/silent", json={"Url": silent.url, "Timeout": 0.3})
        web.put("/peers/talking", json={"Url": talking.url, "Timeout": 0.5})
        web.put("/peers/dead", json=["http://127.0.0.1:9/"])
        for name, said in (("silent", "silent"), ("talking", "longer than"), ("dead", "no connection")):
            begin = time.monotonic()
            for answer in (
                web.get(f"/peers/{name}/system"),
                web.post(f"/peers/{name}/store-straight", content=study(1)[0]),
                web.post(f"/peers/{name}/store", json=[made["study"]]),
            ):
                assert (answer.status_code, said in answer.text) == (500, True), answer.text
                assert answer.json()["OrthancStatus"] == 9
            assert time.monotonic() - begin < 15


def test_a_peer_that_cannot_answer_now_is_asked_again(web: httpx.Client) -> None:
    def reply(request: Request) -> None:
        request.body()
        if len(peer.requests) == 1:
            request.answer("503 Service Unavailable")
        elif len(peer.requests) == 2:
            request.connection.close()
        else:
            request.answer("200 OK", b'{"Status": "AlreadyStored"}')

    made = upload(web, study(1))
    with scripted(reply) as peer:
        web.put("/peers/busy", json=[peer.url])
        assert web.post("/peers/busy/store", json=[made["study"]]).json()["FailedInstancesCount"] == 0
        assert len(peer.requests) == 3


# -- DICOMweb servers


@pytest.fixture
def dicomweb(web: httpx.Client, server: RunningServer) -> str:
    """The route of the other Anor as a DICOMweb server."""
    web.put("/dicom-web/servers/there", json={"Url": server.dicomweb, "HasDelete": True})
    return "/dicom-web/servers/there"


def test_stow_and_delete(web: httpx.Client, there: httpx.Client, dicomweb: str) -> None:
    data = study(25)
    made = upload(web, data)
    answer = web.post(f"{dicomweb}/stow", json={"Resources": [made["study"], made["instance"]]}).json()
    assert answer == {
        "InstancesCount": "25", "NetworkSizeMB": "0", "Server": "there",
        "Resources": {"Studies": [made["study"]], "Instances": [made["instance"]]},
    }  # fmt: skip
    for each in data[:3]:
        assert there.get(f"/instances/{identifiers(each)['instance']}/file").content == each
    assert there.get(f"/studies/{made['study']}/statistics").json()["CountInstances"] == 25
    for body in ({}, {"Level": "Study"}, {"Level": "Patient", "StudyInstanceUID": "1"}, {"Level": "Series"}):
        assert web.post(f"{dicomweb}/delete", json=body).status_code == 400
    gone = {"Level": "Study", "StudyInstanceUID": made["uid"]}
    assert web.post(f"{dicomweb}/delete", json=gone).json() == {}
    assert there.get(f"/studies/{made['study']}").status_code == 404
    assert web.post(f"{dicomweb}/delete", json=gone).status_code == 404


def test_failures_of_a_store_transaction(web: httpx.Client, there: httpx.Client, dicomweb: str) -> None:
    """The other server has another file under the UID of one instance."""
    data = study(3)
    made = upload(web, data)
    changed = pydicom.dcmread(BytesIO(data[1]))
    changed.PatientComments = "another file"
    out = BytesIO()
    changed.save_as(out)
    upload(there, [out.getvalue()])
    job = web.post(f"{dicomweb}/stow", json={"Resources": [made["study"]], "Synchronous": False}).json()["ID"]
    said = finished(web, job)
    assert (said["Type"], said["State"], said["Content"]["InstancesCount"]) == ("DicomWebStowClient", "Failure", "3")
    [failure] = said["Content"]["Failures"]
    assert (failure["SOPInstanceUID"], failure["Status"]) == (str(changed.SOPInstanceUID), 0x0111)
    assert there.get(f"/studies/{made['study']}/statistics").json()["CountInstances"] == 3
    permitted = web.post(f"{dicomweb}/stow", json={"Resources": [made["study"]], "Permissive": True}).json()
    assert permitted["FailedInstancesCount"] == "1"


def test_batches_that_are_refused_as_a_whole_go_one_by_one(web: httpx.Client) -> None:
    def reply(request: Request) -> None:
        if request.body().count(b"Content-Type: application/dicom") > 1:
            request.answer("413 Content Too Large")
        else:
            request.answer("200 OK")

    made = upload(web, study(3))
    with scripted(reply) as other:
        web.put("/dicom-web/servers/small", json=[other.url])
        answer = web.post("/dicom-web/servers/small/stow", json={"Resources": [made["study"]]})
        assert answer.json()["InstancesCount"] == "3"
        assert len(other.requests) == 4


def test_retrieve(web: httpx.Client, there: httpx.Client, dicomweb: str) -> None:
    data, more = study(12), study(2)
    made, other = upload(there, data), upload(there, more)
    whole = {"Resources": [{"Study": made["uid"]}]}
    assert web.post(f"{dicomweb}/retrieve", json=whole).json() == {
        "ReceivedInstancesCount": "12", "Server": "there", **whole,
    }  # fmt: skip
    for each in data:
        assert web.get(f"/instances/{identifiers(each)['instance']}/file").content == each
    ds = pydicom.dcmread(BytesIO(more[0]))
    one = {"Study": other["uid"], "Series": str(ds.SeriesInstanceUID), "Instance": str(ds.SOPInstanceUID)}
    both = {"Resources": [one, {"Study": made["uid"]}], "Asynchronous": True}
    job = finished(web, web.post(f"{dicomweb}/retrieve", json=both).json()["ID"])
    assert (job["Type"], job["State"]) == ("DicomWebWadoRetrieveClient", "Success")
    assert job["Content"]["ReceivedInstancesCount"] == "13"
    metadata = web.get(f"/instances/{identifiers(more[0])['instance']}/metadata?expand").json()
    assert (metadata["Origin"], metadata["RemoteIP"]) == ("RestApi", "127.0.0.1")
    assert web.post(f"{dicomweb}/retrieve", json={"Resources": [{"Study": "1.2.3.4"}]}).status_code == 404
    for wrong in ({}, {"Resources": [{}]}, {"Resources": [{"Series": "1"}]}, {"Resources": [{"Study": "../x"}]},
                  {"Resources": [{"Study": "1", "Instance": "2"}]}, {"Resources": "x"}):  # fmt: skip
        assert web.post(f"{dicomweb}/retrieve", json=wrong).status_code == 400, wrong
    uri = {"Uri": f"studies/{other['uid']}", "Arguments": {}}
    job = finished(web, web.post(f"{dicomweb}/wado", json=uri).json()["ID"])
    assert (job["State"], job["Content"]["ReceivedInstancesCount"]) == ("Success", "2")


def test_what_a_request_says_is_kept_once(web: httpx.Client) -> None:
    """Arguments are sent with each request, and bounded; of a resource its identifiers are kept, and nothing else."""
    arguments = {"a": "ü" * 2000, "b": 1.5}
    resources = [{"Study": f"1.2.{number}", "Comment": "x" * 1000} for number in range(50)]
    with scripted(lambda request: request.answer("404 Not Found")) as other:
        path = "/dicom-web/servers/arguments"
        web.put(path, json=[other.url])
        body = {"Resources": resources, "Arguments": arguments, "Asynchronous": True}
        job = web.post(f"{path}/retrieve", json=body).json()["ID"]
        assert finished(web, job)["Content"] == {
            "Resources": [{"Study": each["Study"]} for each in resources], "Server": "arguments",
        }  # fmt: skip
        asked = httpx.URL(other.requests[0].path)
        assert (asked.path, dict(asked.params)) == ("/studies/1.2.0", {"a": "ü" * 2000, "b": "1.5"})
        long = {"Arguments": {"a": "x" * 4096}, "Uri": "studies"}
        for route in ("get", "qido", "wado", "retrieve"):
            answer = web.post(f"{path}/{route}", json=long | {"Resources": resources})
            assert (answer.status_code, "Arguments" in answer.text) == (400, True), answer.text
        assert len(other.requests) == 1


def test_get_and_qido(web: httpx.Client, there: httpx.Client, dicomweb: str) -> None:
    made = upload(there, study(1, PatientName="Doe^Jane & Co", PatientID="qido 1"))
    asked = {"Uri": "/studies", "Arguments": {"PatientID": "qido 1", "limit": 1}}
    answer = web.post(f"{dicomweb}/get", json=asked)
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.json()[0]["0020000D"]["Value"] == [made["uid"]]
    [found] = web.post(f"{dicomweb}/qido", json=asked).json()
    assert found["00100010"] == {
        "Element": 16, "Group": 16, "Name": "PatientName", "Value": "Doe^Jane & Co", "vr": "PN",
    }  # fmt: skip
    assert found["0020000D"]["Value"] == made["uid"]
    nobody = {"Uri": "studies", "Arguments": {"PatientID": "nobody"}}
    assert web.post(f"{dicomweb}/qido", json=nobody).json() == []
    assert web.post(f"{dicomweb}/get", json={"Uri": "studies/9.9/metadata"}).status_code == 404
    accept = {"Uri": f"/studies/{made['uid']}/rendered", "HttpHeaders": {"Accept": "image/jpeg"}}
    assert web.post(f"{dicomweb}/get", json=accept).headers["content-type"].startswith(("image/jpeg", "multipart/"))


def test_what_servers_send_is_passed_on_harmlessly(web: httpx.Client) -> None:
    with scripted(lambda request: request.answer("200 OK", b"<script>1</script>", Content_Type="text/html")) as other:
        web.put("/dicom-web/servers/pages", json=[other.url])
        answer = web.post("/dicom-web/servers/pages/get", json={"Uri": "x"})
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-security-policy"].startswith("sandbox")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert web.post("/dicom-web/servers/pages/qido", json={"Uri": "x"}).status_code == 500
        headers = {"Uri": "x", "HttpHeaders": {"Host": "h"}}
        assert web.post("/dicom-web/servers/pages/get", json=headers).status_code == 400


@pytest.mark.parametrize(
    "element", [b'"-0000010": {}', b'"00100020": {"vr": "LO", "Value": %s%s}' % (b"[" * 1000, b"]" * 1000)]
)
def test_hostile_answers_to_a_query(web: httpx.Client, element: bytes) -> None:
    with scripted(lambda request: request.answer("200 OK", b"[{%s}]" % element)) as other:
        web.put("/dicom-web/servers/hostile", json=[other.url])
        answer = web.post("/dicom-web/servers/hostile/qido", json={"Uri": "studies"})
    assert (answer.status_code, answer.json()["OrthancStatus"]) == (500, 9)  # another has failed, not we
    assert "DICOM JSON" in answer.text


BOUNDARY = 'multipart/related; type="application/dicom"; boundary=b'


def test_servers_that_misbehave(web: httpx.Client) -> None:
    part = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    cases = {
        "hang": (hang, "silent"),
        "json": (lambda request: request.answer("200 OK", b"[]", Content_Type="application/json"), "DICOM files"),
        "cut": (lambda request: request.answer("200 OK", part + b"DICM", Content_Type=BOUNDARY), "cannot be read"),
        "none": (lambda request: request.answer("200 OK", b"hello", Content_Type=BOUNDARY), "cannot be read"),
        "noise": (endless(BOUNDARY), "cannot be read"),
        "bad": (
            lambda request: request.answer("200 OK", part + b"junk\r\n--b--\r\n", Content_Type=BOUNDARY),
            "cannot be stored",
        ),
    }
    for name, (reply, said) in cases.items():
        with scripted(reply) as other:
            web.put(f"/dicom-web/servers/{name}", json={"Url": other.url, "Timeout": 0.3})
            answer = web.post(f"/dicom-web/servers/{name}/retrieve", json={"Resources": [{"Study": "1.2"}]})
            assert answer.status_code == 500, (name, answer.text)
            assert said in answer.text, name
    with scripted(endless("application/dicom+json")) as other:
        web.put("/dicom-web/servers/long", json=[other.url])
        assert "longer than" in web.post("/dicom-web/servers/long/qido", json={"Uri": "x"}).text
        with pytest.raises(httpx.RemoteProtocolError):  # cut after outgoing_answer_max
            web.post("/dicom-web/servers/long/get", json={"Uri": "x"})


# -- Debian's Orthanc


def test_orthanc_as_a_peer(web: httpx.Client, orthanc: Orthanc) -> None:
    web.put("/peers/orthanc", json=[orthanc.url])
    assert web.get("/peers/orthanc/system").json() == orthanc.request("GET", "/system")
    ct = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    made = upload(web, [ct])
    for more in ({}, {"Compress": True}):
        body = {"Resources": [made["study"]], **more}
        assert web.post("/peers/orthanc/store", json=body).json()["FailedInstancesCount"] == 0
        stored = orthanc.request("GET", f"/instances/{made['instance']}/file")
        assert stored == ct
        orthanc.request("DELETE", f"/instances/{made['instance']}")
    body = {"Resources": [made["study"]], "Transcode": JPEG_LOSSLESS}
    assert web.post("/peers/orthanc/store", json=body).json()["FailedInstancesCount"] == 0
    header = orthanc.request("GET", f"/instances/{made['instance']}/header?simplify")
    assert header["TransferSyntaxUID"] == JPEG_LOSSLESS
    [data] = study(1)
    straight = web.post("/peers/orthanc/store-straight", content=data).json()
    assert orthanc.request("GET", f"/instances/{straight['ID']}/file") == data


def test_orthanc_sends_to_us(web: httpx.Client, orthanc: Orthanc) -> None:
    data = study(3)
    for each in data:
        orthanc.upload(each)
    made = identifiers(data[0])
    answer = orthanc.request("POST", "/peers/anor/store", json.dumps([made["study"]]).encode())
    ours = web.get(f"/studies/{made['study']}/statistics").json()
    assert (answer["InstancesCount"], answer["FailedInstancesCount"], ours["CountInstances"]) == (3, 0, 3)


def test_the_same_answers_as_orthanc(web: httpx.Client, orthanc: Orthanc, server: RunningServer) -> None:
    declared = {
        "Url": server.url,
        "Username": "u",
        "Password": "p",
        "HttpHeaders": {"X-A": "1"},
        "Timeout": 5,
        "Foo": "b",
    }
    web.put("/peers/same", json=declared)
    orthanc.request("PUT", "/peers/same", json.dumps(declared).encode())
    for path in ("/peers/same", "/peers/same/configuration"):
        assert web.get(path).json() == orthanc.request("GET", path)
    assert web.get("/peers?expand").json()["same"] == orthanc.request("GET", "/peers?expand")["same"]
    declared = {"Url": server.dicomweb, "HasDelete": True, "Timeout": 5, "ChunkedTransfers": False, "Foo": "b"}
    path = "/dicom-web/servers/same"
    assert web.put(path, json=declared).json() == orthanc.request("PUT", path, json.dumps(declared).encode()) == {}
    assert web.get(path).json() == orthanc.request("GET", path)
    expanded = "/dicom-web/servers?expand"
    assert web.get(expanded).json()["same"] == orthanc.request("GET", expanded)["same"]
    assert web.get("/dicom-web/info").json() == orthanc.request("GET", "/dicom-web/info")


def test_orthanc_as_a_dicomweb_server(web: httpx.Client, orthanc: Orthanc) -> None:
    path = "/dicom-web/servers/orthanc"
    web.put(path, json=[f"{orthanc.url}/dicom-web"])
    data = study(4)
    made = upload(web, data)
    answer = web.post(f"{path}/stow", json={"Resources": [made["study"]]})
    assert answer.json()["InstancesCount"] == "4", answer.text
    assert orthanc.request("GET", f"/instances/{made['instance']}/file") == data[0]
    asked = {"Uri": "/studies", "Arguments": {"StudyInstanceUID": made["uid"]}}
    [found] = web.post(f"{path}/qido", json=asked).json()
    # The same question by Orthanc's own client, to itself.
    orthanc.request("PUT", "/dicom-web/servers/self", json.dumps([f"{orthanc.url}/dicom-web"]).encode())
    [theirs] = orthanc.request("POST", "/dicom-web/servers/self/qido", json.dumps(asked).encode())
    # Debian's version of the plug-in leaves out numbers.
    assert {tag: each for tag, each in found.items() if each["vr"] != "IS"} == {
        tag: each for tag, each in theirs.items() if each["vr"] != "IS"
    }
    assert found["00201208"]["Value"] == "4"
    mine = study(3)
    for each in mine:
        orthanc.upload(each)
    wanted = identifiers(mine[0])
    got = web.post(f"{path}/retrieve", json={"Resources": [{"Study": wanted["uid"]}]})
    assert got.json()["ReceivedInstancesCount"] == "3", got.text
    assert web.get(f"/instances/{wanted['instance']}/file").content == mine[0]
