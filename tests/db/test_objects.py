"""One suite for both object stores: what `ObjectStore` promises, on a real directory and on a real Ceph RGW."""

import asyncio
import hashlib
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dicomweb.errors import CorruptObject, ObjectMissing, Unavailable
from storage.objects import STREAM_CHUNK, ObjectStore, open_store
from storage.settings import Settings, load_settings

MIB = 1 << 20
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(params=["directory", "s3"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    values: dict[str, object] = {"data": tmp_path / "data"}
    if request.param == "s3":
        rgw = request.getfixturevalue("rgw")
        values |= rgw.settings(request.getfixturevalue("rgw_bucket"), f"some/{secrets.token_hex(6)}")
    return load_settings(values, {}, None)[0]


@pytest.fixture
async def store(store_settings: Settings) -> AsyncIterator[ObjectStore]:
    opened = open_store(store_settings)
    yield opened
    await opened.close()


def new_key() -> str:
    return f"1/20260131/{secrets.token_hex(16)}"


async def keys_of(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted([info.key async for info in store.list(prefix)])


async def streamed(store: ObjectStore, key: str, offset: int, length: int) -> bytes:
    return b"".join([chunk async for chunk in store.stream(key, offset, length)])


def spool_file(store: ObjectStore, content: bytes) -> Path:
    path = store.spool_dir / secrets.token_hex(8)
    path.write_bytes(content)
    return path


def counted(store: ObjectStore) -> dict[tuple[str, str], int]:
    """How many requests there were, by operation and outcome."""
    return {(key[2], key[4]): round(sum(spread[1:])) for key, spread in store.counts.times.spreads.items()}


# ------------------------------------------------------------------------------------------------ write and read


async def test_an_object_comes_back_as_it_was_put(store):
    key, body = new_key(), secrets.token_bytes(100_000)
    await store.put(key, [body[:7], memoryview(body)[7:70_000], b"", bytearray(body[70_000:])], len(body))
    assert await store.get(key) == body
    assert await store.size(key) == len(body)
    assert await store.get_range(key, 7, 65_536) == body[7 : 7 + 65_536]
    assert await store.get_range(key, 99_999, 1) == body[-1:]
    assert await streamed(store, key, 5, 90_000) == body[5:90_005]
    path = store.local_path(key)
    assert path is None or path.read_bytes() == body


async def test_more_chunks_than_one_system_call_takes(store):
    key, chunks = new_key(), [secrets.token_bytes(37) for _ in range(3_000)]
    await store.put(key, chunks, 37 * 3_000)
    assert await store.get(key) == b"".join(chunks)


async def test_an_empty_object(store):
    key = new_key()
    await store.put(key, [], 0)
    assert await store.get(key) == b""
    assert await store.size(key) == 0
    assert await store.get_range(key, 0, 0) == b""
    assert await streamed(store, key, 0, 0) == b""
    assert await keys_of(store, "1/20260131/") == [key]


async def test_ranges_come_in_the_order_asked_and_may_touch_overlap_and_be_far_apart(store):
    key, body = new_key(), secrets.token_bytes(3 * MIB)
    await store.put(key, [body], len(body))
    ranges = [(2 * MIB, 50), (0, 10), (10, 10), (5, 10), (0, 0), (3 * MIB - 1, 1), (100, 1_500_000)]
    assert await store.get_ranges(key, ranges) == [body[offset : offset + length] for offset, length in ranges]
    assert await store.get_ranges(key, []) == []


async def test_a_range_of_many_megabytes(store):
    key, body = new_key(), secrets.token_bytes(1 << 20) * 20
    await store.put_file(key, spool_file(store, body), len(body))
    assert await store.get_range(key, 1_000, 18 * MIB) == body[1_000 : 1_000 + 18 * MIB]
    with pytest.raises(CorruptObject):
        await store.get_range(key, 3 * MIB, 18 * MIB)


async def test_a_range_past_the_end_is_an_error_not_a_short_answer(store):
    key = new_key()
    await store.put(key, [b"0123456789"], 10)
    for offset, length in [(5, 6), (10, 1), (11, 1), (1_000_000, 5)]:
        with pytest.raises(CorruptObject):
            await store.get_range(key, offset, length)
        with pytest.raises(CorruptObject):
            await store.get_ranges(key, [(0, 1), (offset, length)])
        with pytest.raises(CorruptObject):
            await streamed(store, key, offset, length)
    for offset, length in [(-1, 5), (0, -5)]:
        with pytest.raises(ValueError, match="range"):
            await store.get_range(key, offset, length)


async def test_a_missing_object_is_missing_in_every_way(store):
    key = new_key()
    for read in (
        lambda: store.get(key),
        lambda: store.size(key),
        lambda: store.get_range(key, 0, 5),
        lambda: store.get_range(key, 0, 0),
        lambda: store.get_ranges(key, [(0, 5), (5_000_000, 5)]),
        lambda: streamed(store, key, 0, 5),
        lambda: streamed(store, key, 0, 0),
    ):
        with pytest.raises(ObjectMissing):
            await read()


async def test_an_object_is_never_overwritten(store):
    key = new_key()
    await store.put(key, [b"the first"], 9)
    with pytest.raises(Unavailable, match="already"):
        await store.put(key, [b"a second!"], 9)
    large = spool_file(store, bytes(17 * MIB))  # above the multipart size
    with pytest.raises(Unavailable, match="already"):
        await store.put_file(key, large, 17 * MIB)
    assert large.exists()
    assert await store.get(key) == b"the first"


async def test_a_size_that_differs_from_the_bytes_is_refused(store):
    key = new_key()
    path = spool_file(store, b"12345")
    with pytest.raises(ValueError, match="announced"):
        await store.put(key, [b"12345"], 6)
    with pytest.raises(ValueError, match="announced"):
        await store.put_file(key, path, 4)
    assert path.exists()
    assert await keys_of(store) == []


async def test_a_file_is_taken_over(store, tmp_path):
    for path in (spool_file(store, b"spooled"), tmp_path / "elsewhere"):
        path.write_bytes(b"spooled")
        key = new_key()
        await store.put_file(key, path, 7)
        assert not path.exists()
        assert await store.get(key) == b"spooled"


async def test_stream_chunks_are_bounded_and_survive_a_delete(store):
    key, body = new_key(), secrets.token_bytes(5 * MIB + 3)
    await store.put(key, [body], len(body))
    chunks = []
    async for chunk in store.stream(key, 1, len(body) - 1):
        chunks.append(chunk)
        if len(chunks) == 1:
            await asyncio.sleep(0.05)
    assert max(map(len, chunks)) <= STREAM_CHUNK
    assert b"".join(chunks) == body[1:]
    abandoned = store.stream(key, 0, len(body))
    assert body.startswith(await anext(abandoned))
    await abandoned.aclose()


# ---------------------------------------------------------------------------------------------- list and delete


async def test_list_finds_what_is_below_the_prefix(store):
    keys = [f"{tenant}/{day}/{secrets.token_hex(16)}" for tenant in (1, 12) for day in (20260101, 20260102)]
    keys += [f"{keys[0]}.json", "plain", f"1/2026/deep/er/{secrets.token_hex(4)}"]
    for key in keys:
        await store.put(key, [key.encode()], len(key))
    assert await keys_of(store) == sorted(keys)
    assert await keys_of(store, "1/") == sorted(key for key in keys if key.startswith("1/"))
    assert await keys_of(store, "1/20260101/") == sorted([keys[0], f"{keys[0]}.json"])
    assert await keys_of(store, "7/") == []
    async for info in store.list(""):
        assert info.size == len(info.key)
        assert abs(info.modified.timestamp() - time.time()) < 300


async def test_list_of_many(store):
    wanted = sorted(f"1/20260131/{number:032x}" for number in range(0, 1_200 << 120, 1 << 120))
    for start in range(0, len(wanted), 64):
        await asyncio.gather(*(store.put(key, [b"x"], 1) for key in wanted[start : start + 64]))
    assert await keys_of(store, "1/") == wanted


async def test_delete_is_idempotent(store):
    key = new_key()
    await store.delete(key)
    await store.put(key, [b"x"], 1)
    await store.delete(key)
    await store.delete(key)
    with pytest.raises(ObjectMissing):
        await store.get(key)
    assert await keys_of(store) == []


@pytest.mark.parametrize(
    "key",
    ["", "/", "/etc/passwd", "1//2", "1/", "..", "1/../2", "1/./2", ".spool/x", "_probe", "-x", "a b", "a\n", "a\0b",
     "é", "a\\b", "a%2fb", "1/" + "x" * 101, "/".join("abcdefghi"), "*", "a?b", "a#b", "a:b", "1/20260131/.hidden"],
)  # fmt: skip
async def test_weird_keys_are_refused_everywhere(store, tmp_path, key):
    (tmp_path / "file").write_bytes(b"x")
    for call in (
        lambda: store.put(key, [b"x"], 1),
        lambda: store.put_file(key, tmp_path / "file", 1),
        lambda: store.get(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.get_ranges(key, [(0, 1), (2, 1)]),
        lambda: streamed(store, key, 0, 1),
        lambda: store.size(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(ValueError, match="object key"):
            await call()
    with pytest.raises(ValueError, match="object key"):
        store.local_path(key)


@pytest.mark.parametrize("prefix", ["1", "/", "../", "1/..", ".spool/", "1//"])
async def test_weird_prefixes_are_refused(store, prefix):
    with pytest.raises(ValueError, match="prefix"):
        await keys_of(store, prefix)


# --------------------------------------------------------------------------------- many at once, stops and starts


async def test_sixty_four_puts_at_once(store):
    bodies = {new_key(): secrets.token_bytes(50_000 + number) for number in range(64)}
    await asyncio.gather(*(store.put(key, [body], len(body)) for key, body in bodies.items()))
    assert await keys_of(store) == sorted(bodies)
    found = await asyncio.gather(*(store.get(key) for key in bodies))
    assert found == list(bodies.values())


async def test_check_passes_and_leaves_nothing_that_is_listed(store):
    for _ in range(3):
        await store.check()
    assert await keys_of(store) == []


async def test_names_made_ahead(store_settings):
    store = open_store(store_settings)
    keys = [new_key() for _ in range(40)]
    await store.make_names(keys)
    await store.put(keys[0], [b"ab", b"", b"cd"], 4, named=True)
    assert await store.get(keys[0]) == b"abcd"
    with pytest.raises(Unavailable):
        await store.put(keys[0], [b"other"], 5, named=True)
    with pytest.raises(ValueError, match="4 bytes given, 5 announced"):
        await store.put(keys[1], [b"ab", b"cd"], 5, named=True)
    await store.put(keys[1], [b"again"], 5, named=True)
    await store.delete(keys[2])
    await store.put(keys[2], [b"as new"], 6, named=True)
    for key in keys[3:]:  # what is not used is deleted, whether there is anything or not
        await store.delete(key)
    await store.close()
    reopened = open_store(store_settings)
    assert sorted([(info.key, info.size) async for info in reopened.list("")]) == sorted(
        zip(keys[:3], (4, 5, 6), strict=True)
    )
    await reopened.close()


async def test_objects_are_there_after_a_restart(store_settings):
    first = open_store(store_settings)
    small, large = new_key(), new_key()
    await first.put(small, [b"small"], 5)
    await first.put_file(large, spool_file(first, b"large" * MIB), 5 * MIB)
    await first.close()
    second = open_store(store_settings)
    assert await second.get(small) == b"small"
    assert await streamed(second, large, 0, 5 * MIB) == b"large" * MIB
    await second.close()


@pytest.mark.parametrize("delay", [0, 0.001, 0.004, 0.02, 0.1])
async def test_a_cancelled_put_leaves_nothing(store_settings, delay):
    store = open_store(store_settings)
    size = 20 * MIB
    calls = [store.put(new_key(), [bytes(size)], size) for _ in range(3)]
    calls += [store.put_file(new_key(), spool_file(store, bytes(size)), size)]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(delay)
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    await store.close()
    reopened = open_store(store_settings)
    assert len(await keys_of(reopened)) == done.count(None)
    await reopened.close()


WRITER = """
import asyncio, hashlib, os, secrets, sys
from storage.objects import open_store
from storage.settings import from_env
async def write(store, file):
    while True:
        key, body = "1/20260131/" + secrets.token_hex(16), secrets.token_bytes(secrets.choice([5_000, 2_000_000]))
        if file:
            body *= 10
            path = store.spool_dir / secrets.token_hex(8)
            path.write_bytes(body)
        print("began", key, len(body), hashlib.sha256(body).hexdigest(), flush=True)
        await (store.put_file(key, path, len(body)) if file else store.put(key, [body], len(body)))
        print("done", key, flush=True)
async def main():
    store = open_store(from_env(os.environ))
    await asyncio.gather(*(write(store, number % 4 == 3) for number in range(8)))
asyncio.run(main())
"""


def run_python(code: str, settings: Settings, output: Path) -> subprocess.Popen[bytes]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), **settings.to_env()}
    with output.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=file)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  another process decides
            await asyncio.sleep(0.02)


async def test_kill_9_during_puts_leaves_whole_objects_only_and_all_that_were_acknowledged(store_settings, tmp_path):
    announced: dict[str, tuple[int, str]] = {}
    finished: set[str] = set()
    for wait in (0.1, 0.33, 0.71):
        outputs = [tmp_path / "first", tmp_path / "second"]
        writers = [run_python(WRITER, store_settings, output) for output in outputs]  # two processes on one store
        await until(lambda outputs=outputs: all(b"done" in output.read_bytes() for output in outputs), 60)
        await asyncio.sleep(wait)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait(10)
        for line in "".join(output.read_text() for output in outputs).splitlines():
            word, *rest = line.split()
            if word == "began" and len(rest) == 3 and len(rest[2]) == 64:
                announced[rest[0]] = (int(rest[1]), rest[2])
            elif word == "done" and rest and len(rest[0]) == 43:
                finished.add(rest[0])
    store = open_store(store_settings)
    there = await keys_of(store)
    assert len(finished) >= 6
    assert finished <= set(there) <= set(announced)
    for key in there:
        body = await store.get(key)
        assert (len(body), hashlib.sha256(body).hexdigest()) == announced[key]
    await store.close()


LARGE = """
import asyncio, hashlib, json, os, secrets, sys
from storage.objects import open_store
from storage.settings import from_env
def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
async def main():
    store = open_store(from_env(os.environ))
    await store.put("1/20260131/warm", [bytes(1_000_000)], 1_000_000)
    await store.get("1/20260131/warm")
    path, size, digest = store.spool_dir / "large", 200 << 20, hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(200):
            block = secrets.token_bytes(1 << 20)
            digest.update(block)
            file.write(block)
    result = {}
    for name in ("in", "out"):
        open("/proc/self/clear_refs", "w").write("5")
        before, back = memory("VmRSS"), hashlib.sha256()
        if name == "in":
            await store.put_file("1/20260131/large", path, size)
        else:
            async for chunk in store.stream("1/20260131/large", 0, size):
                back.update(chunk)
            result["same"] = back.digest() == digest.digest()
        result[name] = memory("VmHWM") - before
    await store.close()
    print(json.dumps(result))
asyncio.run(main())
"""


async def test_two_hundred_mebibytes_in_and_out_within_64_mebibytes_of_memory(store_settings, tmp_path):
    process = run_python(LARGE, store_settings, tmp_path / "result")
    assert await asyncio.to_thread(process.wait, 100) == 0
    result = json.loads((tmp_path / "result").read_text())
    print(result)
    assert result["same"]
    assert result["in"] < 64 * MIB
    assert result["out"] < 64 * MIB


def test_an_address_that_is_neither_directory_nor_bucket_is_refused(tmp_path: Path):
    make: Callable[[str], ObjectStore] = lambda objects: open_store(Settings(data=tmp_path, objects=objects))  # noqa: E731
    for objects in ("http://example.org/bucket", "s3://", "s3://bucket?x=1"):
        with pytest.raises(ValueError, match="s3://bucket/prefix"):
            make(objects)


async def test_requests_and_bytes_are_counted(store, store_settings):
    key, body = new_key(), secrets.token_bytes(40 * MIB)
    await store.put_file(key, spool_file(store, body), len(body))  # above s3_multipart_size: one upload is one request
    await store.put(new_key(), [b"abc"], 3)
    assert store.counts.written == len(body) + 3
    assert await store.get_range(key, 5, 3 * MIB) == body[5 : 5 + 3 * MIB]
    assert len(await streamed(store, key, 0, 2 * MIB)) == 2 * MIB
    assert store.counts.read == 5 * MIB
    with pytest.raises(ObjectMissing):
        await store.get(new_key())
    await keys_of(store)
    await store.delete(key)
    found = counted(store)
    assert {found[operation, "ok"] for operation in ("delete", "list")} <= set(range(1, 20))
    assert found["write", "ok"] == 2
    assert found["read", "ok"] >= 1
    assert found["read", "object-missing"] == 1
    (slowest,) = [spread for key, spread in store.counts.times.spreads.items() if key[2:5:2] == ("write", "ok")]
    assert slowest[0] > 0.01  # seconds, for 40 MiB that were made durable


async def test_a_store_that_is_away_is_counted(tmp_path):
    """Nobody listens there; and a directory that is gone."""
    s3 = {"objects": "s3://bucket/p", "s3_endpoint": "http://127.0.0.1:9", "s3_access_key": "a", "s3_secret_key": "b"}
    away = open_store(load_settings({"data": tmp_path / "s3", **s3, "s3_retries": 0}, {}, None)[0])
    gone = open_store(load_settings({"data": tmp_path / "gone"}, {}, None)[0])
    (tmp_path / "gone/objects").rename(tmp_path / "gone/elsewhere")
    for each in (away, gone):
        with pytest.raises(Unavailable):
            await each.put(new_key(), [b"abc"], 3)
        with pytest.raises(Unavailable):
            await each.get(new_key())
        assert counted(each) == {("write", "unavailable"): 1, ("read", "unavailable"): 1}
        assert (each.counts.read, each.counts.written) == (0, 0)
        await each.close()
