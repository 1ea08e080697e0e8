"""Jobs that transfer in buckets, workers that die, and transfers that nobody goes on with."""

import asyncio
import hashlib
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from io import BytesIO

import orjson
import pydicom
import pytest

from dicomweb.transfers import Member, planned
from dicomweb.uids import orthanc_ids
from storage import transfer_jobs
from storage.access import LOCAL
from storage.archive import Archive
from storage.job_runner import JobRunner
from storage.jobs import Job
from storage.provenance import Provenance
from storage.remotes import Declaration
from storage.transfer_jobs import PULL, PUSH
from tests import files
from tests.faults.stores import assert_sound
from tests.remote import CALLING, Request, Scripted, scripted
from tests.support import running_worker

COUNT = 20
PIXELS = 1450 * 1450 * 2  # more than 4 MiB with the header: a bucket each
PUSHED = str(uuid.uuid4())


@pytest.fixture
def archive_settings() -> Mapping[str, object]:
    return CALLING


def one(series: str, number: int) -> bytes:
    return files.ct(StudyInstanceUID=series, SeriesInstanceUID=series, Rows=1450, Columns=1450,
                    InstanceNumber=number + 1, PixelData=bytes([number]) * PIXELS)  # fmt: skip


def name_of(data: bytes) -> str:
    ds = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
    return orthanc_ids(ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID).instance


async def make(archive: Archive, server: Scripted, kind: str, resource: tuple[str, str]) -> str:
    await archive.remotes.put(LOCAL, Declaration("peer", "other", server.url))
    content = {"remote": "other", "resources": [resource], "compression": "none", "originator": "", "said": {}}
    made = await archive.jobs.create(LOCAL, kind, content)
    assert made is not None
    return made


async def run(archive: Archive, name: str) -> Job:
    handlers = {**transfer_jobs.handlers(archive), **transfer_jobs.commit_handlers(archive)}
    await JobRunner(archive, handlers).step()
    return await archive.jobs.get(LOCAL, name)


async def killed(archive: Archive, seen: Callable[[], int], after: int) -> None:
    """Have a worker begin a job, and kill it when so much is seen; the job is given to the next."""
    with running_worker(archive.settings) as first:
        deadline = time.monotonic() + 40
        while seen() < after:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
    await archive.db.fetch_sql("UPDATE job SET heartbeat_at = now() - interval '1 hour' WHERE state = 'running'")


class Taking:
    """A peer that takes a push slowly; `loses`: it forgets the first transfer at its commit."""

    def __init__(self, loses: bool = False) -> None:
        self.buckets: list[int] = []
        self.pushes = self.commits = self.discarded = 0
        self.refuses: set[int] = set()
        self.loses = loses

    def __call__(self, request: Request) -> None:
        body = request.body()
        method = request.head.split(" ", 1)[0]
        if method == "POST" and request.path == "/transfers/push":
            self.pushes += 1
            request.answer("200 OK", orjson.dumps({"ID": PUSHED, "Path": f"/transfers/push/{PUSHED}"}))
        elif method == "POST":
            assert request.path == f"/transfers/push/{PUSHED}/commit"
            self.commits += 1
            lost = self.loses and self.commits == 1
            request.answer("404 Not Found" if lost else "200 OK", b"{}")
        elif method == "DELETE":
            self.discarded += 1
            request.answer("200 OK", b"{}")
        else:
            time.sleep(0.15)
            number = int(request.path.rpartition("/")[2])
            if number in self.refuses:
                request.answer("400 Bad Request")
            elif len(body) == int(request.header("content-length")):
                self.buckets.append(number)
                request.answer("200 OK", b"{}")


async def stored(archive: Archive, count: int) -> tuple[str, str]:
    """A new series, as a resource."""
    series = files.new_uid()
    for number in range(count):
        spool = archive.new_spool()
        await spool.write(one(series, number))
        found = await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
    return "series", found.orthanc.series


async def left(archive: Archive) -> int:
    """Rows of transfers that have a content."""
    [row] = await archive.db.fetch_sql("SELECT count(*) AS n FROM transfer_bucket")
    return int(row["n"])


async def test_a_worker_that_is_killed_while_it_pushes(archive: Archive) -> None:
    peer = Taking()
    resource = await stored(archive, COUNT)
    with scripted(peer) as server:
        name = await make(archive, server, PUSH, resource)
        await killed(archive, lambda: len(peer.buckets), 8)
        assert len(peer.buckets) < COUNT
        with running_worker(archive.settings):
            job = await asyncio.wait_for(archive.jobs.wait(LOCAL, name), 60)
    assert job.state == "success", job
    assert (peer.pushes, peer.commits, peer.discarded) == (1, 1, 0)
    assert set(peer.buckets) == set(range(COUNT))
    assert len(peer.buckets) <= COUNT + 8  # those that were on their way
    assert await left(archive) == 0


async def test_a_worker_that_is_killed_while_it_pulls(archive: Archive) -> None:
    series = files.new_uid()
    data = {name_of(each): each for each in (one(series, number) for number in range(COUNT))}
    fetched: list[str] = []
    looked = 0

    def reply(request: Request) -> None:
        nonlocal looked
        request.body()
        if request.path == "/transfers/lookup":
            looked += 1
            members = [Member(name, len(each), hashlib.md5(each).digest()).shown() for name, each in data.items()]
            request.answer("200 OK", orjson.dumps({"Instances": members, "Originator": "x"}))
            return
        time.sleep(0.15)
        name = request.path.removeprefix("/transfers/chunks/").partition("?")[0]
        fetched.append(name)
        request.answer("200 OK", data[name])

    with scripted(reply) as server:
        name = await make(archive, server, PULL, ("series", next(iter(data))))
        await killed(archive, lambda: len(fetched), 8)
        assert len(fetched) < COUNT
        assert (await archive.statistics(LOCAL)).instances == 0  # all of it, or nothing
        with running_worker(archive.settings):
            job = await asyncio.wait_for(archive.jobs.wait(LOCAL, name), 90)
    assert job.state == "success", job
    assert set(fetched) == set(data)
    assert len(fetched) <= COUNT + 8
    assert looked == 1
    assert (await archive.statistics(LOCAL)).instances == COUNT
    assert await left(archive) == 0


@pytest.mark.parametrize("times", [1, 2])
async def test_a_peer_that_loses_a_push(archive: Archive, times: int) -> None:
    peer = Taking(loses=times == 1)
    resource = await stored(archive, 2)
    if times == 2:
        peer.__class__ = type("Forgetful", (Taking,), {"__call__": _forget})
    with scripted(peer) as server:
        job = await run(archive, await make(archive, server, PUSH, resource))
    assert job.state == ("success" if times == 1 else "failure"), job
    assert peer.pushes == 2
    assert await left(archive) == 0


def _forget(self: Taking, request: Request) -> None:
    if request.head.startswith("PUT"):
        request.body()
        request.answer("404 Not Found")
    else:
        Taking.__call__(self, request)


async def test_a_push_that_is_refused_is_discarded(archive: Archive) -> None:
    peer = Taking()
    peer.refuses = {1}
    with scripted(peer) as server:
        name = await make(archive, server, PUSH, await stored(archive, 3))
        job = await run(archive, name)
        assert (job.state, job.error_kind, peer.discarded) == ("failure", "peer-failed", 1), job
        assert await left(archive) == 0
        peer.refuses = set()
        assert await archive.jobs.resubmit(LOCAL, name)
        assert (await run(archive, name)).state == "success"
    assert peer.pushes == 2


async def test_transfers_that_nobody_goes_on_with(archive: Archive) -> None:
    """They go with what came for them, unless a job waits for them."""
    data = files.ct()
    plan = planned([Member(name_of(data), len(data), hashlib.md5(data).digest())])

    async def begun() -> str:
        made = await archive.transfers.create(LOCAL, "received", plan, "none")
        for _ in range(2):  # what came first is replaced
            spool = archive.new_spool()
            await spool.write(data)
            await archive.transfers.put(LOCAL, "received", made.id, 0, await spool.finish())
        return made.id

    idle, young, waiting = await begun(), await begun(), await begun()
    job = await archive.transfers.commit(LOCAL, waiting, "127.0.0.1")
    assert job == await archive.transfers.commit(LOCAL, waiting, "127.0.0.1")
    await archive.db.fetch_sql(
        "UPDATE transfer SET touched_at = now() - interval '3 hours' WHERE id = ANY ($1::uuid[])", [idle, waiting]
    )
    await archive.transfers.expire()
    rows = await archive.db.fetch_sql("SELECT id::text FROM transfer")
    assert {row["id"] for row in rows} == {young, waiting}
    [row] = await archive.db.fetch_sql("SELECT count(*) AS n FROM tomb")
    assert row["n"] == 3 + 1  # those that were replaced, and that of the idle one
    assert job is not None
    assert (await run(archive, job)).state == "success"
    assert (await archive.statistics(LOCAL)).instances == 1
    assert await archive.transfers.commit(LOCAL, waiting, "127.0.0.1") is None
    assert await left(archive) == 1  # of the young one


async def test_a_worker_that_is_killed_while_it_stores(archive: Archive) -> None:
    """Another stores the rest; the peer that asks again waits for the same job."""
    series = files.new_uid()
    data = [one(series, number) for number in range(COUNT)]
    plan = planned([Member(name_of(each), len(each), hashlib.md5(each).digest()) for each in data])
    made = await archive.transfers.create(LOCAL, "received", plan, "none")
    for number, each in enumerate(data):
        spool = archive.new_spool()
        await spool.write(each)
        await archive.transfers.put(LOCAL, "received", made.id, number, await spool.finish())
    await assert_sound(archive)
    job = await archive.transfers.commit(LOCAL, made.id, "127.0.0.1")
    assert job is not None
    with running_worker(archive.settings) as first:
        while (await archive.statistics(LOCAL)).instances == 0:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.wait()
    await archive.db.fetch_sql("UPDATE job SET heartbeat_at = now() - interval '1 hour' WHERE state = 'running'")
    with running_worker(archive.settings):
        assert (await asyncio.wait_for(archive.jobs.wait(LOCAL, job), 60)).state == "success"
    assert (await archive.statistics(LOCAL)).instances == COUNT
    assert await left(archive) == 0


async def test_digests_are_found_out_once(archive: Archive) -> None:
    level, name = await stored(archive, 2)
    resource = transfer_jobs.Resource.of(transfer_jobs.Level(level), name)
    members = await archive.transfers.members(LOCAL, [resource, resource])
    read = archive.objects.counts.read
    assert await archive.transfers.members(LOCAL, [resource]) == members
    assert archive.objects.counts.read == read
