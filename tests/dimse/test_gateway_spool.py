"""The gateway's spool: what it has taken is there after any end, in order, and no more than it may."""

import asyncio
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomweb.errors import Unavailable
from dimse_bridge.gateway.disk import SEGMENT_SIZE, SpoolFiles, Waiting
from dimse_bridge.gateway.spool import GatewaySpool
from storage.spool import Spooled

Open = Callable[..., GatewaySpool]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    made: list[GatewaySpool] = []

    def open_(max_files: int = 10_000, max_bytes: int = 1 << 30, revive: bool = False) -> GatewaySpool:
        for each in made:
            each.close()
        made.append(GatewaySpool(tmp_path / "gateway", max_files=max_files, max_bytes=max_bytes, revive=revive))
        return made[-1]

    yield open_
    for each in made:
        each.close()


async def put(spool: GatewaySpool, data: bytes, memory_limit: int = 1 << 20) -> Waiting:
    arriving = spool.arriving(memory_limit=memory_limit, max_size=1 << 30)
    await arriving.write(data)
    spooled = await arriving.finish()
    try:
        return await spool.keep(spooled)
    finally:
        spooled.release()


async def contents(spool: GatewaySpool, batch: int = 7) -> list[bytes]:
    """Everything that waits, taken out."""
    found = []
    while (await spool.state()).waiting.files:
        items = await spool.take(batch, 1 << 30)
        found += [spool.path(item).read_bytes() for item in items]
        await spool.done(items)
    return found


async def test_in_order_across_segments_and_starts(opened: Open) -> None:
    sent = [b"%d" % n for n in range(SEGMENT_SIZE + 50)]
    spool = opened()
    for data in sent[:500]:
        await put(spool, data)
    spool = opened()  # nothing told the first one that it ends
    for data in sent[500:]:
        await put(spool, data)
    assert (await spool.state()).waiting.files == len(sent)
    assert await contents(opened()) == sent


async def test_taken_while_it_fills(opened: Open, tmp_path: Path) -> None:
    """Readers and writers at the same time, over the ends of segments: each once, and no directory stays behind."""
    spool = opened()
    sent = [b"%d" % n for n in range(SEGMENT_SIZE + 300)]
    found: list[bytes] = []

    async def fill() -> None:
        for start in range(0, len(sent), 10):
            await asyncio.gather(*(put(spool, data) for data in sent[start : start + 10]))

    async def drain() -> None:
        while True:
            items = await spool.take(3, 1 << 30)
            found.extend(spool.path(item).read_bytes() for item in items)
            await spool.done(items)

    readers = [asyncio.create_task(drain()) for _ in range(3)]
    await fill()
    async with asyncio.timeout(30):
        while len(found) < len(sent):  # noqa: ASYNC110 - the readers know nothing of each other
            await asyncio.sleep(0.01)
    for reader in readers:
        reader.cancel()
    assert sorted(found) == sorted(sent)
    assert len(list((tmp_path / "gateway" / "ready").iterdir())) == 1


async def test_only_what_is_whole_survives(opened: Open, tmp_path: Path) -> None:
    spool = opened()
    await put(spool, b"small")
    await put(spool, b"large" * 1000, memory_limit=100)
    arriving = spool.arriving(memory_limit=0, max_size=1 << 20)
    await arriving.write(b"half")
    assert list((tmp_path / "gateway" / "new").iterdir())
    spool = opened()
    assert not list((tmp_path / "gateway" / "new").iterdir())
    arriving.discard()
    assert await contents(spool) == [b"small", b"large" * 1000]


async def test_names_tell_the_digest_and_the_time(opened: Open) -> None:
    spool = opened()
    await put(spool, b"x")
    before = (await spool.state()).oldest
    (item,) = await spool.take(10, 1 << 30)
    os.utime(spool.path(item), (1e9, 1e9))
    spool = opened()
    (again,) = await spool.take(10, 1 << 30)
    assert (again.size, again.sha256) == (1, hashlib.sha256(b"x").digest())
    assert before is not None
    assert before > 1.7e9
    assert (await spool.state()).oldest == 1e9


async def test_bounds(opened: Open) -> None:
    spool = opened(max_files=3, max_bytes=100)
    await put(spool, bytes(60))
    with pytest.raises(Unavailable) as refused:
        await put(spool, bytes(41))
    assert refused.value.reason == "full"
    await put(spool, bytes(40))
    await contents(spool)
    for _ in range(3):
        await put(spool, b"x")
    with pytest.raises(Unavailable, match="files"):
        await put(spool, b"x")
    assert len(await contents(opened(max_files=3))) == 3


async def test_what_arrives_counts_while_it_does(opened: Open) -> None:
    spool = opened(max_bytes=100)
    first, second = (spool.arriving(memory_limit=1 << 20, max_size=1 << 20) for _ in range(2))
    await first.write(bytes(60))
    with pytest.raises(Unavailable):
        await second.write(bytes(60))
    second.discard()
    first.discard()
    first.discard()
    await put(spool, bytes(100))


async def test_full_disk(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SpoolFiles, "_make_segment", no_space)
        with pytest.raises(Unavailable) as refused:
            await put(spool, b"x")
    assert refused.value.reason == "full"
    assert (await spool.state()).waiting.files == 0
    await put(spool, b"y")
    assert await contents(spool) == [b"y"]


async def test_set_aside_and_sent_again(opened: Open, tmp_path: Path) -> None:
    spool = opened(max_files=2)
    await put(spool, b"bad")
    await put(spool, b"good")
    bad, good = await spool.take(2, 100)
    await spool.reject(bad, {"why": "because"})
    await spool.done([good])
    state = await spool.state()
    assert (state.waiting.files, state.dead.files, state.dead.bytes) == (0, 1, 3)
    (note,) = (tmp_path / "gateway" / "dead").rglob("*.json")
    assert b"because" in note.read_bytes()
    assert note.with_suffix("").read_bytes() == b"bad"
    spool = opened(max_files=2)
    await put(spool, b"next")
    with pytest.raises(Unavailable):
        await put(spool, b"what is set aside takes room")
    spool = opened(revive=True)
    assert spool.revived == 1
    assert await contents(spool) == [b"bad", b"next"]
    assert not list((tmp_path / "gateway" / "dead").rglob("*.*"))


async def test_given_back_and_put_off(opened: Open) -> None:
    spool = opened()
    for n in range(6):
        await put(spool, b"%d" % n)
    items = await spool.take(4, 100)
    await spool.done(items[:1])
    spool.put_off(items[1], 0.2)
    spool.give_back(items)  # those that are settled are left out
    assert [i.number for i in await spool.take(3, 100)] == [2, 3, 4]
    assert [i.number for i in await spool.take(3, 100)] == [5]
    assert [i.number for i in await asyncio.wait_for(spool.take(3, 100), 2)] == [1]


async def test_batches_by_bytes(opened: Open) -> None:
    spool = opened()
    for size in (50, 50, 500, 10):
        await put(spool, bytes(size))
    assert [i.size for i in await spool.take(10, 100)] == [50, 50]
    assert [i.size for i in await spool.take(10, 100)] == [500]


def test_one_gateway_at_a_time(opened: Open, tmp_path: Path) -> None:
    opened()
    with pytest.raises(Unavailable, match="another gateway"):
        SpoolFiles(tmp_path / "gateway")


def test_killed_at_any_instant(tmp_path: Path) -> None:
    """What was acknowledged before `kill -9` is there; what is there is whole."""
    code = """
import asyncio, sys
from pathlib import Path
from tests.dimse.test_gateway_spool import GatewaySpool, put
async def main():
    spool = GatewaySpool(Path(sys.argv[1]), max_files=100000, max_bytes=1 << 30)
    async def many(start):
        n = start
        while True:
            await put(spool, b"%d:" % n + bytes(3000), memory_limit=1000)
            print(n, flush=True)
            n += 4
    await asyncio.gather(*map(many, range(4)))
asyncio.run(main())
"""
    acknowledged: set[int] = set()
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(50)]
            process.kill()
            lines += process.stdout.read().splitlines(keepends=True)
        acknowledged.update(int(line) for line in lines if line.endswith(b"\n"))
    files = SpoolFiles(tmp_path)
    found = set()
    for segment in files.segments():
        for item in files.entries(segment):
            data = files.path(item).read_bytes()
            assert (len(data), hashlib.sha256(data).digest()) == (item.size, item.sha256)
            found.add(int(data.split(b":")[0]))
    assert acknowledged <= found
    files.close()


@pytest.mark.full
async def test_a_million_files(tmp_path: Path) -> None:
    """Opened and begun without holding them in memory."""
    ready = tmp_path / "ready"
    for segment in range(1000):
        directory = ready / f"{segment:016d}"
        directory.mkdir(parents=True)
        fd = os.open(directory, os.O_RDONLY)
        for n in range(SEGMENT_SIZE):
            os.mknod(f"{n:04d}-0-{hashlib.sha256(b'').hexdigest()}.dcm", dir_fd=fd)
        os.close(fd)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spool = GatewaySpool(tmp_path, max_files=1_000_000, max_bytes=1 << 30)
    assert (await spool.state()).waiting.files == 1_000_000
    for _ in range(100):
        items = await spool.take(20, 1000)
        assert len(items) == 20
        await spool.done(items)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB
    with pytest.raises(Unavailable):
        await spool.keep(Spooled(2 << 30, bytes(32), b"", None))
    spool.close()
