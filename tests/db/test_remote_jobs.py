"""Jobs for other servers, and workers that die: everything arrives, little of it twice."""

import asyncio
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import orjson
import pydicom
import pytest

from dicomweb.errors import BadRequest
from dicomweb.multipart import Writer
from storage import remote_retrieval, remote_sending
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.directory_store import DirectoryStore
from storage.job_runner import JobRunner
from storage.jobs import Job
from storage.provenance import Provenance
from storage.remote_retrieval import RETRIEVE
from storage.remote_sending import PEER_STORE, STOW
from storage.remotes import Declaration
from storage.retrieve import instance_of
from storage.settings import Settings
from tests import files
from tests.remote import CALLING, Request, Scripted, endless, scripted
from tests.support import parts_over, running_worker


@pytest.fixture
def archive_settings() -> Mapping[str, object]:
    return CALLING


async def stored(archive: Archive, count: int) -> list[str]:
    """SOP Instance UIDs of new instances."""
    found = []
    for _ in range(count):
        spool = archive.new_spool()
        await spool.write(files.ct())
        found.append((await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))).sop_instance)
    return found


async def make(archive: Archive, server: Scripted, kind: str, items: list[str], **more: object) -> str:
    remote = "peer" if kind == PEER_STORE else "dicomweb"
    await archive.remotes.put(LOCAL, Declaration(remote, "other", server.url))
    content = {"remote": "other", "permissive": False, "compress": False, "arguments": {}, "said": {}} | more
    made = await archive.jobs.create(LOCAL, kind, content, items=items)
    assert made is not None
    return made


async def run(archive: Archive, name: str) -> Job:
    handlers = {**remote_sending.handlers(archive), **remote_retrieval.handlers(archive)}
    await JobRunner(archive, handlers).step()
    return await archive.jobs.get(LOCAL, name)


def taking(received: list[str]) -> Callable[[Request], None]:
    """Takes uploads and Store transactions slowly, and notes the SOP Instance UIDs of their files."""

    def reply(request: Request) -> None:
        body = request.body()
        if len(body) < int(request.header("content-length")):
            return
        # (0002,0003) Media Storage SOP Instance UID, with the length before it.
        found = [
            match.decode().rstrip("\0") for match in re.findall(rb"\x02\x00\x03\x00UI..([0-9.]+)", body, re.DOTALL)
        ]
        time.sleep(0.05 * len(found))
        received.extend(found)
        request.answer("200 OK", b'{"Status": "Success"}' if request.path == "/instances" else b"")

    return reply


async def killed(archive: Archive, name: str, after: int) -> None:
    """Have a worker begin a job, and kill it when `after` parts are done; what is not heard of is given to the next."""
    with running_worker(archive.settings) as first:
        await parts_over(archive, name, after)
        first.send_signal(signal.SIGKILL)
        first.wait()
    await archive.db.fetch_sql("UPDATE job SET heartbeat_at = now() - interval '1 hour' WHERE state = 'running'")


@pytest.mark.parametrize(("kind", "most_twice"), [(PEER_STORE, 60), (STOW, 80)])
async def test_a_worker_that_is_killed_while_it_sends(archive: Archive, kind: str, most_twice: int) -> None:
    uids = await stored(archive, 100)
    received: list[str] = []
    with scripted(taking(received)) as server:
        name = await make(archive, server, kind, uids)
        await killed(archive, name, 20)
        before = len(received)
        assert 20 <= before < 100
        with running_worker(archive.settings):
            job = await asyncio.wait_for(archive.jobs.wait(LOCAL, name), 60)
    assert job.state == "success", job
    assert set(received) == set(uids)
    # What was sent in the last half second before the kill was not noted yet, and came again.
    assert 100 <= len(received) <= 100 + most_twice


async def test_a_worker_that_is_killed_while_it_retrieves(archive: Archive) -> None:
    served = {f"studies/{files.new_uid()}": [files.ct() for _ in range(5)] for _ in range(12)}

    def reply(request: Request) -> None:
        time.sleep(0.1)
        body, kind = multipart(served[request.path[1:]])
        request.answer("200 OK", body, Content_Type=kind)

    with scripted(reply) as server:
        name = await make(archive, server, RETRIEVE, list(served))
        await killed(archive, name, 3)
        asked = len(server.requests)
        assert asked < len(served)
        with running_worker(archive.settings):
            job = await asyncio.wait_for(archive.jobs.wait(LOCAL, name), 60)
        assert job.state == "success", job
        assert job.result == {"said": {"ReceivedInstancesCount": "60"}}
        assert len(server.requests) < len(served) + asked
    assert (await archive.statistics(LOCAL)).instances == 60


def multipart(instances: list[bytes]) -> tuple[bytes, str]:
    """The body of a Retrieve transaction's answer, and its media type."""
    writer = Writer("b")
    parts = [writer.part_head({"Content-Type": "application/dicom"}) + each for each in instances]
    return b"".join(parts) + writer.tail(), writer.content_type("application/dicom")


@pytest.mark.parametrize("ended", ["broken off", "killed", "resubmitted"])
@pytest.mark.parametrize(
    "searches",
    [
        "by pages",
        *(pytest.param(each, marks=pytest.mark.full) for each in ("first page only", "no answer", "not JSON")),
    ],
)
async def test_a_retrieval_goes_on_with_what_is_missing(  # noqa: C901 - the server is a part of the test
    archive: Archive, searches: str, ended: str
) -> None:
    """A study whose transfer ended early is not sent again whole, where the server tells what it has."""
    study, series = files.new_uid(), files.new_uid()
    sent = [files.ct(StudyInstanceUID=study, SeriesInstanceUID=series) for _ in range(20)]
    found = {str(ds.SOPInstanceUID): ds for ds in (pydicom.dcmread(BytesIO(each)) for each in sent)}
    of_sop = dict(zip(found, sent, strict=True))
    whole: list[str] = []

    def search(request: Request) -> None:
        begin = 0 if searches == "first page only" else int(dict(parse_qsl(urlsplit(request.path).query))["offset"])
        page = [
            {tag: {"vr": "UI", "Value": [uid]} for tag, uid in (("00080018", sop), ("0020000E", ds.SeriesInstanceUID))}
            for sop, ds in list(found.items())[begin : begin + 7]
        ]
        if searches == "no answer":
            request.answer("501 Not Implemented")
        elif searches == "not JSON":
            request.answer("200 OK", b"<html>")
        else:
            request.answer("200 OK" if page else "204 No Content", orjson.dumps(page) if page else b"")

    def reply(request: Request) -> None:
        path = urlsplit(request.path).path
        if path == f"/studies/{study}/instances":
            search(request)
            return
        if path == f"/studies/{study}":
            whole.append(path)
            body, kind = multipart(sent)
            if len(whole) > (3 if ended == "resubmitted" else 1):
                request.answer("200 OK", body, Content_Type=kind)
                return
            cut, _ = multipart(sent[:12])
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            request.connection.sendall(head.encode() + cut)
            if ended == "killed":
                time.sleep(15)
            return
        sop = path.rpartition("/")[2]
        assert path == f"/studies/{study}/series/{found[sop].SeriesInstanceUID}/instances/{sop}"
        body, kind = multipart([of_sop[sop]])
        request.answer("200 OK", body, Content_Type=kind)

    with scripted(reply) as server:
        name = await make(archive, server, RETRIEVE, [f"studies/{study}"])
        if ended == "killed":
            with running_worker(archive.settings) as first:
                while (await archive.statistics(LOCAL)).instances < 11:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.02)
                first.send_signal(signal.SIGKILL)
                first.wait()
            await archive.db.fetch_sql("UPDATE job SET heartbeat_at = now() - interval '1 hour' RETURNING true")
        elif ended == "resubmitted":
            if searches != "by pages":
                assert (await run(archive, name)).state == "failure"
            assert await archive.jobs.resubmit(LOCAL, name) or searches == "by pages"
        job = await run(archive, name)
    assert job.state == "success", job
    assert job.result == {"said": {"ReceivedInstancesCount": "20"}}
    assert (await archive.statistics(LOCAL)).instances == 20
    single = [each for each in server.requests if "/instances/" in each.path]
    if searches == "by pages":
        assert len(whole) == 1
        assert 8 <= len(single) <= 16  # eight were being stored when the connection broke
    else:
        assert len(whole) > 1
        assert not single


@pytest.mark.parametrize("permissive", [True, False])
@pytest.mark.parametrize("alone", [True, False])
async def test_an_instance_that_is_too_large(
    settings: Callable[..., Settings], database_url: str, permissive: bool, alone: bool
) -> None:
    """It has failed, and nothing else, where failures are permitted; else it is the other side's failure."""
    large = files.ct(PixelData=bytes(1 << 20))
    more = {"max_instance": 512 << 10, "outgoing_networks": "127.0.0.0/8"}
    archive = await open_archive(settings(database_url=database_url, **more))
    # More than are stored at once, which those that are passed over must not count among.
    body, kind = (large, "application/dicom") if alone else multipart([files.ct(), *[large] * 12, files.ct()])
    try:
        with scripted(lambda request: request.answer("200 OK", body, Content_Type=kind)) as server:
            job = await asyncio.wait_for(
                run(archive, await make(archive, server, RETRIEVE, ["studies/1"], permissive=permissive)), 30
            )
        if permissive:
            received, failed = (0, 1) if alone else (2, 12)
            assert job.result == {"said": {"ReceivedInstancesCount": str(received), "FailedInstancesCount": failed}}
        else:
            assert (job.state, job.error_kind) == ("failure", "peer-failed"), job
            assert "larger than" in (job.error or "")
            assert len(server.requests) == 1
    finally:
        await archive.close()


async def test_what_cannot_be_read_spoils_nothing_else(archive: Archive) -> None:
    """An object is gone, and an instance was deleted: both have failed, the others are sent."""
    uids = await stored(archive, 6)
    rows = await archive.db.fetch("located_instances", LOCAL.tenant, uids)
    [lost] = [row for row in rows if row["sop_uid"] == uids[2]]
    [gone] = [row for row in rows if row["sop_uid"] == uids[4]]
    assert isinstance(archive.objects, DirectoryStore)
    path = archive.objects.local_path(lost["object_key"])
    assert path is not None
    path.unlink()
    await archive.lifecycle.delete(LOCAL, gone["study_uid"])
    for kind in (PEER_STORE, STOW):
        received: list[str] = []
        with scripted(taking(received)) as server:
            job = await run(archive, await make(archive, server, kind, uids, permissive=True))
        assert job.state == "success", job
        assert sorted(received) == sorted({*uids} - {uids[2], uids[4]})
        failures = {each.content: each.status for each in await archive.jobs.failures(LOCAL, job)}
        assert failures == {uids[2]: 0x0110, uids[4]: 404}


async def test_a_duplicate_without_an_end(archive: Archive) -> None:
    """What is longer than what was sent is something else; nobody reads on."""
    [uid] = await stored(archive, 1)
    failed = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [0x0111]}}
    talking = endless('multipart/related; boundary=b; type="application/dicom"', b"--b\r\n\r\n" + files.ct())

    def reply(request: Request) -> None:
        request.body()
        if request.path == "/studies":
            request.answer("409 Conflict", orjson.dumps({"00081198": {"vr": "SQ", "Value": [failed]}}))
        else:
            talking(request)

    with scripted(reply) as server:
        job = await run(archive, await make(archive, server, STOW, [uid], permissive=True))
    assert job.state == "success"
    assert [each.status for each in await archive.jobs.failures(LOCAL, job)] == [0x0111]


@pytest.mark.parametrize("same", [True, False])
async def test_duplicates(archive: Archive, same: bool) -> None:
    """A server that refuses what it has already: the same data set, with another file meta group, is sent."""
    [uid] = await stored(archive, 1)
    [row] = await archive.db.fetch("located_instances", LOCAL.tenant, [uid])
    instance = instance_of(LOCAL.tenant, row["study_uid"], row)
    file = pydicom.dcmread(BytesIO(b"".join([chunk async for chunk in archive.retrieve.file(instance)])))
    file.file_meta.ImplementationVersionName = "ANOTHER"
    if not same:
        file.PatientComments = "another"
    out = BytesIO()
    file.save_as(out)

    def reply(request: Request) -> None:
        if request.path == "/studies":
            assert uid.encode() in request.body()
            failed = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [0x0111]}}
            failed["00000902"] = {"vr": "LO", "Value": ["words of the server"]}
            request.answer("409 Conflict", orjson.dumps({"00081198": {"vr": "SQ", "Value": [failed]}}))
            return
        writer = Writer("b")
        body = writer.part_head({"Content-Type": "application/dicom"}) + out.getvalue() + writer.tail()
        request.answer("200 OK", body, Content_Type=writer.content_type("application/dicom"))

    with scripted(reply) as server:
        job = await run(archive, await make(archive, server, STOW, [uid]))
        assert server.requests[1].path == f"/studies/{instance.study}/series/{instance.series}/instances/{uid}"
    assert job.state == ("success" if same else "failure"), job
    if not same:
        [failure] = await archive.jobs.failures(LOCAL, job)
        assert (failure.status, failure.comment) == (0x0111, "failure reason 0111")
        assert "words" not in (job.error or "")


async def test_jobs_go_on_with_what_is_not_done(archive: Archive) -> None:
    uids = await stored(archive, 5)
    received: list[str] = []
    last = threading.Event()

    def refusing(request: Request) -> None:
        body = request.body()
        if uids[4].encode() in body:
            last.set()
        if uids[3].encode() in body:
            last.wait(30)  # which comes when one of the others is done
            request.answer("400 Bad Request")
        else:
            request.answer("200 OK", b'{"Status": "Success"}')

    with scripted(refusing) as server:
        name = await make(archive, server, PEER_STORE, uids)
        job = await run(archive, name)
        assert (job.state, job.error_kind) == ("failure", "peer-failed")
        server.reply = taking(received)
        assert await archive.jobs.resubmit(LOCAL, name)
        assert (await run(archive, name)).state == "success"
    assert uids[3] in received
    assert len(received) < 5


async def test_a_retrieval_that_goes_on_knows_what_has_failed(archive: Archive) -> None:
    served = {"/studies/1": [files.ct(), b"junk", files.ct()]}

    def reply(request: Request) -> None:
        if (instances := served.get(request.path)) is None:
            request.answer("404 Not Found")
        else:
            body, kind = multipart(instances)
            request.answer("200 OK", body, Content_Type=kind)

    with scripted(reply) as server:
        name = await make(archive, server, RETRIEVE, ["studies/1", "studies/2"], permissive=True)
        assert (await run(archive, name)).error_kind == "not-found"
        served["/studies/2"] = [b"junk", files.ct()]
        assert await archive.jobs.resubmit(LOCAL, name)
        job = await run(archive, name)
        assert len(server.requests) == 3
    assert job.result == {"said": {"ReceivedInstancesCount": "3", "FailedInstancesCount": 2}}


async def test_a_server_that_is_forgotten_or_moved_meanwhile(archive: Archive) -> None:
    uids = await stored(archive, 1)
    with scripted(taking([])) as server:
        name = await make(archive, server, PEER_STORE, uids, headers={"Cookie": "x"})
        await archive.remotes.delete(LOCAL, "peer", "other")
        job = await run(archive, name)
        assert (job.state, job.error_kind, job.error) == ("failure", "not-found", "no such peer")
        again = await make(archive, server, PEER_STORE, uids)
        await archive.db.fetch_sql("UPDATE remote SET url = 'http://169.254.169.254/'")
        job = await run(archive, again)
        assert (job.state, job.error_kind) == ("failure", "bad-request")
        assert not server.requests


async def test_a_server_that_is_forgotten_while_a_job_runs(archive: Archive) -> None:
    """The job goes on: who wants its end cancels it."""
    began, forgotten = threading.Event(), threading.Event()
    received: list[str] = []
    take = taking(received)

    def reply(request: Request) -> None:
        began.set()
        assert forgotten.wait(10)
        take(request)

    uids = await stored(archive, 2)
    with scripted(reply) as server:
        running = asyncio.create_task(run(archive, await make(archive, server, PEER_STORE, uids)))
        assert await asyncio.to_thread(began.wait, 10)
        await archive.remotes.delete(LOCAL, "peer", "other")
        forgotten.set()
        assert (await running).state == "success"
    assert sorted(received) == sorted(uids)


async def test_headers_of_a_request_are_forgotten_with_success(archive: Archive) -> None:
    uids = await stored(archive, 1)
    with scripted(taking([])) as server:
        job = await run(archive, await make(archive, server, STOW, uids, headers={"Cookie": "of a session"}))
        assert server.requests[0].header("cookie") == "of a session"
    assert job.state == "success"
    assert "headers" not in job.content


async def test_rights_and_rows(archive: Archive) -> None:
    nobody = Access(LOCAL.tenant, "nobody", frozenset())
    declaration = Declaration("peer", "a", "https://192.0.2.1/", "u", "a secret", {"X": "another"})
    assert "secret" not in repr(declaration)
    assert "another" not in repr(declaration)
    for work in (archive.remotes.list(nobody, "peer"), archive.remotes.put(nobody, declaration)):
        with pytest.raises(Exception, match="scope"):
            await work
    with pytest.raises(BadRequest, match="name"):
        await archive.remotes.put(LOCAL, Declaration("peer", "a/b", "https://192.0.2.1/"))
    for number in range(3):
        url = f"http://127.0.0.{number + 1}/"
        await archive.remotes.put(LOCAL, Declaration("peer", f"p{number}", url, properties={"k": "ü"}))
    assert [each.name for each in await archive.remotes.list(LOCAL, "peer")] == ["p0", "p1", "p2"]
    assert await archive.remotes.list(LOCAL, "dicomweb") == []
    assert (await archive.remotes.get(LOCAL, "peer", "p1")).properties == {"k": "ü"}


async def test_a_large_file_is_streamed(archive: Archive, tmp_path: Path) -> None:
    """The memory of the worker does not grow with the instance."""
    pixels = 96 << 20
    spool = archive.new_spool()
    data = files.ct(Rows=8192, Columns=6144, PixelData=bytes(pixels))
    await spool.write(data)
    uid = (await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))).sop_instance
    sizes: list[int] = []

    def reply(request: Request) -> None:
        left = int(request.header("content-length"))
        sizes.append(left)
        while left:
            left -= len(request.connection.recv(min(left, 1 << 16)))
        request.answer("200 OK", b'{"Status": "Success"}' if request.path == "/instances" else b"")

    with scripted(reply) as server, running_worker(archive.settings) as process:
        small = await make(archive, server, PEER_STORE, await stored(archive, 1))
        await asyncio.wait_for(archive.jobs.wait(LOCAL, small), 40)
        before = _peak(process.pid)
        for kind in (PEER_STORE, STOW):
            job = await asyncio.wait_for(archive.jobs.wait(LOCAL, await make(archive, server, kind, [uid])), 60)
            assert job.state == "success", job
        grown = _peak(process.pid) - before
    assert sizes[1] == len(data)
    assert sizes[2] > len(data)
    assert grown < 32 << 20, grown


def _peak(pid: int) -> int:
    """The most memory that a process held, in bytes."""
    [line] = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) << 10
