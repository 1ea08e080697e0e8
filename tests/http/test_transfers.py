"""Transfers in buckets between two Anor servers over TCP, and peers that break the protocol."""

import gzip
import hashlib
import json
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.http.test_orthanc_remotes import finished, identifiers, study, upload
from tests.remote import Request, hang, scripted
from tests.support import RunningServer, running_server

LOOPBACK = {"outgoing_networks": "127.0.0.0/8", "outgoing_timeout": 5}
MIB = 1 << 20
NOBODY = "00000000-00000000-00000000-00000000-00000000"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("here"), workers=1, **LOOPBACK) as running:
        yield running


@pytest.fixture(scope="module")
def beyond(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The other server, of three processes, with room for little at a time; of a database of its own, with its name."""
    home = tmp_path_factory.mktemp("beyond")
    with running_server(
        home, fresh=True, workers=3, transfer_bytes=64 * MIB, log_exports="true", **LOOPBACK
    ) as running:
        yield running


@pytest.fixture(scope="module")
def web(here: RunningServer, beyond: RunningServer) -> Iterator[httpx.Client]:
    """Who asks, and knows the other server as `beyond`."""
    with httpx.Client(base_url=here.url, timeout=60) as client:
        assert client.put("/peers/beyond", json=[beyond.url]).status_code == 200
        yield client


@pytest.fixture(scope="module")
def there(beyond: RunningServer) -> Iterator[httpx.Client]:
    """The other server; every request on a connection of its own, which any of its processes may get."""
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=beyond.url, timeout=60, limits=limits) as client:
        yield client


def mixed() -> list[bytes]:
    """A study with small files, and one that is divided."""
    data = study(5)
    [large] = study(1, Rows=3072, Columns=3072, PixelData=bytes(range(256)) * (18 * MIB // 256))
    return [*data, large]


def stored_md5(client: httpx.Client, data: list[bytes]) -> list[str]:
    return [
        hashlib.md5(client.get(f"/instances/{identifiers(each)['instance']}/file").content).hexdigest() for each in data
    ]


def asked(resource: str, peer: str = "beyond", level: str = "Study", **more: Any) -> dict[str, Any]:
    return {"Resources": [{"Level": level, "ID": resource}], "Peer": peer, "Compression": "none"} | more


# -- both servers


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("direction", ["send", "pull"])
def test_transfers(web: httpx.Client, there: httpx.Client, direction: str, compression: str) -> None:
    data = mixed()
    source, target = (web, there) if direction == "send" else (there, web)
    for each in data:
        source.post("/instances", content=each).raise_for_status()
    made = upload(source, data[-1:])["study"], upload(source, data[:1])["study"]
    resources = [{"Level": "Study", "ID": each} for each in made]
    body = asked("", Compression=compression, Priority=3) | {"Resources": resources}
    answer = web.post(f"/transfers/{direction}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["Path"] == f"/jobs/{answer.json()['ID']}"
    job = finished(web, answer.json()["ID"])
    assert (job["State"], job["Priority"]) == ("Success", 3), job
    assert job["Type"] == {"send": "PushTransfer", "pull": "PullTransfer"}[direction]
    moved = {"send": "UploadedSizeMB", "pull": "DownloadedSizeMB"}[direction]
    size = round(sum(map(len, data)) / MIB)
    # The small files together, and the large one in three parts.
    assert job["Content"] == {
        "Compression": compression, "Peer": "beyond", "Resources": resources, "TotalInstances": 6, "TotalSizeMB": size,
        moved: size, "CompletedHttpQueries": 4,
    }  # fmt: skip
    assert stored_md5(target, data) == [hashlib.md5(each).hexdigest() for each in data]


def test_which_peers_take_transfers(web: httpx.Client, beyond: RunningServer) -> None:
    assert "transfers" in web.get("/plugins").json()
    assert web.get("/plugins/transfers").json()["ID"] == "transfers"

    def without(request: Request) -> None:
        request.answer("200 OK", b'["dicom-web"]')

    with scripted(hang) as silent, scripted(without) as other:
        web.put("/peers/back", json={"Url": beyond.url, "RemoteSelf": "us"})
        web.put("/peers/silent", json=[silent.url])
        web.put("/peers/other", json=[other.url])
        web.put("/peers/down", json=["http://127.0.0.1:9/"])
        try:
            assert web.get("/transfers/peers").json() == {
                "back": "bidirectional", "beyond": "installed", "down": "disabled", "other": "disabled",
                "silent": "disabled",
            }  # fmt: skip
        finally:
            for name in ("back", "silent", "other", "down"):
                web.delete(f"/peers/{name}")


def test_a_peer_that_pulls_what_is_sent(
    web: httpx.Client, there: httpx.Client, here: RunningServer, beyond: RunningServer
) -> None:
    """Nobody but the one who asked is pulled from."""
    data = study(3)
    made = upload(web, data)
    web.put("/peers/mutual", json={"Url": beyond.url, "RemoteSelf": "caller"})
    there.put("/peers/caller", json=[here.url])
    answer = web.post("/transfers/send", json=asked(made["study"], "mutual"))
    said = answer.json()
    assert said["Peer"] == "mutual"
    assert said["URL"] == f"{beyond.url}/jobs/{said['RemoteJob']}"
    job = finished(there, said["RemoteJob"])
    assert (job["State"], job["Type"]) == ("Success", "PullTransfer"), job
    assert stored_md5(there, data) == [hashlib.md5(each).hexdigest() for each in data]
    there.put("/peers/caller", json=[beyond.url])
    job = finished(there, web.post("/transfers/send", json=asked(made["study"], "mutual")).json()["RemoteJob"])
    assert job["State"] == "Failure"
    assert "RemoteSelf" in job["ErrorDetails"]
    web.delete("/peers/mutual")
    there.delete("/peers/caller")


@pytest.mark.parametrize(
    ("change", "status", "attribute"),
    [
        ({"Peer": "nobody"}, 404, ""), ({"Peer": 3}, 400, "Peer"), ({"Compression": "lzma"}, 400, "Compression"),
        ({"Compression": None}, 400, "Compression"), ({"Resources": None}, 400, "Resources"),
        ({"Resources": ["x"]}, 400, "Resources"), ({"Resources": [{"Level": "Study", "ID": "x"}]}, 400, "ID"),
        ({"Resources": [{"Level": "Film", "ID": NOBODY}]}, 400, "Level"), ({"Priority": "high"}, 400, "Priority"),
        ({"Originator": 3}, 400, "Originator"),
    ],
)  # fmt: skip
def test_requests_that_are_refused(web: httpx.Client, change: dict[str, Any], status: int, attribute: str) -> None:
    made = upload(web, study(1))["study"]
    for route in ("send", "pull"):
        if route == "send" and "Originator" in change:
            continue
        answer = web.post(f"/transfers/{route}", json=asked(made) | change)
        assert (answer.status_code, attribute in answer.text) == (status, True), answer.text
    assert web.post("/transfers/send", json=[made]).status_code == 400
    assert web.get("/transfers/send").status_code == 405


def test_what_is_not_there(web: httpx.Client) -> None:
    made = upload(web, study(1))
    for level, name in (("Study", NOBODY), ("Series", made["study"]), ("Instance", made["series"])):
        assert web.post("/transfers/send", json=asked(name, level=level)).status_code == 404
    job = finished(web, web.post("/transfers/pull", json=asked(NOBODY)).json()["ID"])
    assert (job["State"], "404" in job["ErrorDetails"]) == ("Failure", True)


def test_a_peer_that_is_not_one(web: httpx.Client) -> None:
    """It is found out, and what was begun here is forgotten."""
    made = upload(web, study(1))["study"]
    seen: list[str] = []

    def reply(request: Request) -> None:
        request.body()
        seen.append(request.head.split(" HTTP")[0])
        answers = {"POST /transfers/push": b'{"Path": "/../../instances/x"}', "POST /transfers/lookup": b'{"A": 1}'}
        request.answer("200 OK", answers.get(seen[-1], b"[]"))

    with scripted(reply) as peer:
        web.put("/peers/odd", json=[peer.url])
        for route in ("send", "pull"):
            job = finished(web, web.post(f"/transfers/{route}", json=asked(made, "odd")).json()["ID"])
            assert (job["State"], "plug-in" in job["ErrorDetails"]) == ("Failure", True), job
        assert seen == ["POST /transfers/push", "POST /transfers/lookup"]
        web.put("/peers/odd", json={"Url": peer.url, "RemoteSelf": "us"})
        assert web.post("/transfers/send", json=asked(made, "odd")).status_code == 500
        web.delete("/peers/odd")


def test_a_peer_that_sends_other_bytes(web: httpx.Client) -> None:
    """Nothing of it is stored, and a job that is resubmitted asks anew."""
    good, bad = study(2)
    lie = [True]
    of = {}

    def reply(request: Request) -> None:
        request.body()
        if request.path == "/transfers/lookup":
            request.answer("200 OK", json.dumps({"Instances": list(of.values()), "Originator": "x"}).encode())
            return
        sent = good + (bytes(len(bad)) if lie[0] else bad)
        request.answer("200 OK", sent)

    for number, each in enumerate((good, bad)):
        name = f"{number:08x}" + NOBODY[8:]
        of[name] = {"ID": name, "Size": str(len(each)), "MD5": hashlib.md5(each).hexdigest()}
    with scripted(reply) as peer:
        web.put("/peers/liar", json=[peer.url])
        before = web.get("/statistics").json()["CountInstances"]
        made = web.post("/transfers/pull", json=asked(NOBODY, "liar")).json()["ID"]
        job = finished(web, made)
        assert (job["State"], "MD5" in job["ErrorDetails"]) == ("Failure", True), job
        assert web.get("/statistics").json()["CountInstances"] == before
        lie[0] = False
        assert web.post(f"/jobs/{made}/resubmit").status_code == 200
        assert finished(web, made)["State"] == "Success"
        assert web.get("/statistics").json()["CountInstances"] == before + 2
        assert [each.path for each in peer.requests].count("/transfers/lookup") == 2
        web.delete("/peers/liar")


# -- what a server is asked


def test_ranges_of_files(web: httpx.Client) -> None:
    data = study(3)
    upload(web, data)
    said = web.post("/transfers/lookup", json=[{"Level": "Study", "ID": upload(web, data)["study"]}]).json()
    assert (said["CountInstances"], said["TotalSize"]) == (3, str(sum(map(len, data))))
    assert uuid.UUID(said["Originator"])
    known = {hashlib.md5(each).hexdigest(): each for each in data}
    assert {each["MD5"] for each in said["Instances"]} == set(known)
    order = [known[each["MD5"]] for each in said["Instances"]]
    assert [each["Size"] for each in said["Instances"]] == [str(len(each)) for each in order]
    url, whole = "/transfers/chunks/" + ".".join(each["ID"] for each in said["Instances"]), b"".join(order)
    first = len(order[0])
    for offset, size in ((0, 0), (0, 10), (first - 1, 2), (first, 1), (5, first + 7), (first * 2, 10**9), (10**9, 0)):
        wanted = whole[offset : offset + size if size else None]
        answer = web.get(url, params={"offset": offset, "size": size, "compression": "none"})
        assert (answer.content, answer.headers["content-length"]) == (wanted, str(len(wanted)))
        packed = web.get(url, params={"offset": offset, "size": size, "compression": "gzip"})
        assert (gzip.decompress(packed.content), packed.headers["content-type"]) == (wanted, "application/gzip")
    for query in ("offset=-1", "size=x", "offset=٣", "size=" + "9" * 30, "compression=zip"):
        assert web.get(f"{url}?{query}").status_code == 400, query
    assert web.get(f"{url}.{NOBODY}").status_code == 404
    assert web.get("/transfers/chunks/..%2fx").status_code == 404
    assert web.post("/transfers/lookup", json={"Level": "Study"}).status_code == 400
    assert web.post("/transfers/lookup", json=[{"Level": "Study", "ID": NOBODY}]).status_code == 404


def orthanc_id(data: bytes) -> str:
    return identifiers(data)["instance"]


def announced(there: httpx.Client, data: list[bytes], compression: str = "none", **md5: str) -> str:
    """Where to push files, each in a bucket of its own."""
    names = [orthanc_id(each) for each in data]
    digests = [md5.get(f"of{number}", hashlib.md5(each).hexdigest()) for number, each in enumerate(data)]
    body = {
        "Instances": [
            {"ID": name, "Size": str(len(each)), "MD5": digest}
            for name, each, digest in zip(names, data, digests, strict=True)
        ],
        "Buckets": [
            [{"ID": name, "Offset": "0", "Size": str(len(each))}] for name, each in zip(names, data, strict=True)
        ],
        "Compression": compression,
    }
    answer = there.post("/transfers/push", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["Path"] == f"/transfers/push/{answer.json()['ID']}"
    return str(answer.json()["Path"])


def is_stored(there: httpx.Client, data: list[bytes]) -> list[bool]:
    return [there.get(f"/instances/{orthanc_id(each)}").status_code == 200 for each in data]


def test_a_push_that_several_processes_take(there: httpx.Client) -> None:
    data = study(24)
    path = announced(there, data, "gzip")

    def put(number: int) -> int:
        return there.put(f"{path}/{number}", content=gzip.compress(data[number])).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(put, [*range(23), 5, 5, 5])) == {200}
        early = there.post(f"{path}/commit")
        assert (early.status_code, "23" in early.json()["Details"]) == (400, True)
        assert not any(is_stored(there, data))
        assert put(23) == 200
        assert {each.status_code for each in pool.map(lambda _: there.post(f"{path}/commit"), range(6))} == {200}
    assert all(is_stored(there, data))
    assert there.put(f"{path}/0", content=gzip.compress(data[0])).status_code in {404, 409}
    assert there.post(f"{path}/commit").json() == {}
    assert there.delete(path).status_code == 200
    assert there.post(f"{path}/commit").status_code == 404


def test_buckets_that_are_refused(there: httpx.Client) -> None:
    data = study(2)
    path = announced(there, data)
    for number, body, status in (
        (0, data[0][:-1], 400), (0, data[0] + b"x", 400), (0, b"", 400), (2, data[0], 404), ("x", b"", 404),
        ("-1", b"", 404), ("9" * 30, b"", 404),
    ):  # fmt: skip
        assert there.put(f"{path}/{number}", content=body).status_code == status, number
    encoded = there.put(f"{path}/0", content=gzip.compress(data[0]), headers={"content-encoding": "gzip"})
    assert encoded.status_code == 415
    packed = announced(there, data, "gzip")
    whole = gzip.compress(data[0])
    bomb = zlib.compressobj(9, wbits=31)
    bombed = b"".join(bomb.compress(bytes(MIB)) for _ in range(64)) + bomb.flush()
    for body in (data[0], whole[:-5], whole + b"x", gzip.compress(data[0] + b"x"), whole[:50], b"", bombed):
        assert there.put(f"{packed}/0", content=body).status_code == 400
    assert there.post(f"{packed}/commit").status_code == 400
    for made in (path, packed):
        assert there.delete(made).status_code == 200
        assert there.delete(made).status_code == 404
        assert there.put(f"{made}/0", content=data[0]).status_code == 404
    for name in ("x", str(uuid.uuid4())):
        assert there.post(f"/transfers/push/{name}/commit").status_code == 404
        assert there.delete(f"/transfers/push/{name}").status_code == 404
    assert not any(is_stored(there, data))


@pytest.mark.parametrize("wrong", ["md5", "no DICOM"])
def test_a_push_is_stored_whole_or_not_at_all(there: httpx.Client, wrong: str) -> None:
    """And may be mended."""
    data = study(3)
    sent = [*data[:2], data[2] if wrong == "md5" else b"no file of DICOM"]
    names = [orthanc_id(each) for each in data]
    digests = [hashlib.md5(each).hexdigest() for each in sent]
    body = {
        "Instances": [
            {"ID": name, "Size": str(len(each)), "MD5": digest}
            for name, each, digest in zip(names, sent, digests, strict=True)
        ],
        "Buckets": [
            [{"ID": name, "Offset": "0", "Size": str(len(each))} for name, each in zip(names, sent, strict=True)]
        ],
        "Compression": "none",
    }
    path = there.post("/transfers/push", json=body).json()["Path"]
    content = b"".join(sent)
    broken = content[:-2] + b"??" if wrong == "md5" else content
    assert there.put(f"{path}/0", content=broken).status_code == 200
    answer = there.post(f"{path}/commit")
    assert answer.status_code == 400, answer.text
    assert ("MD5" in answer.text) == (wrong == "md5")
    assert not any(is_stored(there, data))
    if wrong == "md5":
        assert there.put(f"{path}/0", content=content).status_code == 200
        assert there.post(f"{path}/commit").status_code == 200
        assert all(is_stored(there, data))
    there.delete(path)


def test_announcements_that_are_refused(there: httpx.Client) -> None:
    [data] = study(1)
    name = orthanc_id(data)
    good: dict[str, Any] = {
        "Instances": [{"ID": name, "Size": "100", "MD5": "0" * 32}],
        "Buckets": [[{"ID": name, "Offset": "0", "Size": "100"}]],
        "Compression": "none",
    }
    for change, status in (
        ({"Compression": "zip"}, 400), ({"Instances": "x"}, 400), ({"Buckets": []}, 400),
        ({"Buckets": [[{"ID": name, "Offset": "1", "Size": "99"}]]}, 400),
    ):  # fmt: skip
        assert there.post("/transfers/push", json=good | change).status_code == status, change

    def of(size: int) -> httpx.Response:
        said = {"Instances": [good["Instances"][0] | {"Size": str(size)}]}
        said["Buckets"] = [[{"ID": name, "Offset": "0", "Size": str(size)}]]
        return there.post("/transfers/push", json=good | said)

    large = of(65 * MIB)
    assert (large.status_code, "transfer_bytes" in large.text) == (413, True)
    held = of(63 * MIB)
    full = of(2 * MIB)
    assert (full.status_code, "transfer_bytes" in full.text) == (503, True)
    there.delete(held.json()["Path"])
    assert there.delete(of(2 * MIB).json()["Path"]).status_code == 200


def test_what_is_stored_with_other_bytes_stays(there: httpx.Client) -> None:
    """As with POST /instances, where the policy is to reject."""
    [data] = study(1)
    other = data.replace(b"Thorax nativ", b"Thorax naTIV")
    assert other != data
    upload(there, [data])
    path = announced(there, [other])
    assert there.put(f"{path}/0", content=other).status_code == 200
    assert there.post(f"{path}/commit").status_code == 200
    assert stored_md5(there, [data]) == [hashlib.md5(data).hexdigest()]
    there.delete(path)
