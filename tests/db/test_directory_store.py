"""What only the directory store has to get right: modes, leftovers, a full disk, a vanished volume, damaged files."""

import asyncio
import fcntl
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dicomweb.errors import CorruptObject, Unavailable
from storage.directory_store import SPOOL, DirectoryStore
from storage.file_reads import open_cached, read_cached, read_exactly

KEY = "1/20260131/" + "0123456789abcdef" * 2


@pytest.fixture(params=["unnamed", "named"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    """Both ways to write: a file without a name, and a named temporary for file systems that lack the former."""
    opened = DirectoryStore(tmp_path / "objects", unnamed=request.param == "unnamed")
    yield opened
    await opened.close()


async def test_only_the_owner_may_read_and_nothing_is_left_in_the_spool(store, tmp_path):
    spooled = store.spool_dir / "upload"
    spooled.write_bytes(b"abc")
    spooled.chmod(0o644)
    await store.put(KEY, [b"abc"], 3)
    await store.put_file(KEY + ".file", spooled, 3)
    for directory, names, files in os.walk(tmp_path / "objects"):
        for name in names:
            assert stat.S_IMODE((Path(directory) / name).stat().st_mode) == 0o700
        for name in files:
            assert stat.S_IMODE((Path(directory) / name).stat().st_mode) == 0o600
    assert list(store.spool_dir.iterdir()) == []
    assert store.local_path(KEY) == tmp_path / "objects/1/20260131/0" / KEY[11:]
    assert store.local_path(KEY).stat().st_nlink == 1


async def test_a_file_of_another_file_system_is_copied(store):
    other = Path("/dev/shm") / secrets.token_hex(8)
    if other.parent.stat().st_dev == store.spool_dir.stat().st_dev:
        pytest.fail("/dev/shm is not a file system of its own here")
    body = secrets.token_bytes(3_000_001)
    other.write_bytes(body)
    await store.put_file(KEY, other, len(body))
    assert not other.exists()
    assert await store.get(KEY) == body


async def test_a_failed_put_leaves_no_file(store, tmp_path):
    await store.put(KEY, [b"first"], 5)
    with pytest.raises(Unavailable, match="already"):
        await store.put(KEY, [b"again"], 5)
    with pytest.raises(ValueError, match="announced"):
        await store.put("1/20260131/other", [b"xyz"], 5)
    files = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in files] == [b"first"]


async def test_a_symbolic_link_is_not_taken_over(store, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    link = store.spool_dir / "link"
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(Unavailable):
        await store.put_file(KEY, link, 6)
    assert (tmp_path / "secret").read_bytes() == b"secret"


async def test_a_directory_that_was_tidied_away_is_made_again(store):
    await store.put(KEY, [b"one"], 3)
    await store.delete(KEY)
    shard = store.local_path(KEY).parent
    shard.rmdir()
    shard.parent.rmdir()
    await store.put(KEY, [b"two"], 3)
    assert await store.get(KEY) == b"two"


async def test_stale_temporaries_go_at_start_and_others_stay(tmp_path):
    spool = tmp_path / SPOOL
    spool.mkdir()
    for name in ("dead", "running", "fresh"):
        (spool / name).write_bytes(b"x")
    for name in ("dead", "running"):
        os.utime(spool / name, (0, 0))
    with (spool / "running").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        store = DirectoryStore(tmp_path)
        assert sorted(path.name for path in spool.iterdir()) == ["fresh", "running"]
        await store.close()


async def test_a_vanished_volume_is_no_archive_without_objects(store, tmp_path):
    await store.put(KEY, [b"abc"], 3)
    (tmp_path / "objects").rename(tmp_path / "elsewhere")
    for replaced in (False, True):
        if replaced:
            (tmp_path / "objects").mkdir()  # what a mount point looks like when nothing is mounted
        for call in (
            lambda: store.get(KEY),
            lambda: store.get_range(KEY, 0, 1),
            lambda: store.size(KEY),
            lambda: anext(store.stream(KEY, 0, 1)),
            lambda: anext(store.list("1/")),
            lambda: store.delete(KEY),
            lambda: store.put("2/20260131/x", [b"x"], 1),
            store.check,
        ):
            with pytest.raises(Unavailable):
                await call()
        assert not (tmp_path / "objects/2").exists()


async def test_a_file_cut_short_by_others_is_corrupt(store):
    await store.put(KEY, [bytes(3_000_000)], 3_000_000)
    os.truncate(store.local_path(KEY), 2_500_000)
    with pytest.raises(CorruptObject):
        await store.get_range(KEY, 2_000_000, 600_000)
    chunks = store.stream(KEY, 0, 3_000_000)
    assert len(await anext(chunks)) + len(await anext(chunks)) < 2_500_000
    with pytest.raises(CorruptObject):
        await anext(chunks)


async def test_a_directory_that_cannot_be_used_is_unavailable(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        DirectoryStore(tmp_path / "file" / "objects")


def test_cached_reads_equal_plain_reads(tmp_path):
    body = secrets.token_bytes(300_000)
    path = tmp_path / "file"
    path.write_bytes(body)
    assert path.read_bytes() == body
    fd = open_cached(str(path))
    assert fd is not None, "this kernel should know RESOLVE_CACHED (5.12)"
    try:
        for offset, length in [(0, 0), (0, 1), (1, 1), (0, 300_000), (299_999, 1), (4_095, 2), (100_000, 65_536)]:
            assert read_cached(fd, length, offset) == body[offset : offset + length]
            assert read_exactly(fd, length, offset) == body[offset : offset + length]
        assert read_cached(fd, 2, 299_999) is None
        assert read_exactly(fd, 2, 299_999) == body[-1:]
        assert {bytes([number]): number for number in range(256)}[read_cached(fd, 1, 5)] == body[5]
    finally:
        os.close(fd)
    with pytest.raises(FileNotFoundError):
        os.close(open_cached(str(tmp_path / "missing")) or os.open(tmp_path / "missing", os.O_RDONLY))


async def test_reads_go_on_while_writers_wait(tmp_path):
    store = DirectoryStore(tmp_path)
    await store.put(KEY, [b"abc"], 3)
    puts = [asyncio.create_task(store.put(f"1/20260131/{n}", [bytes(1_000_000)], 1_000_000)) for n in range(60)]
    for _ in range(20):
        assert await store.get(KEY) == b"abc"
    await asyncio.gather(*puts)
    await store.close()


FULL = """
import asyncio, sys
from pathlib import Path
from dicomweb.errors import Unavailable
from storage.directory_store import DirectoryStore
async def main():
    root = Path(sys.argv[1])
    store = DirectoryStore(root, unnamed=sys.argv[2] == "unnamed")
    await store.put("1/20260131/fits", [bytes(1_000_000)], 1_000_000)
    upload = Path("/dev/shm") / ("anor-test-" + sys.argv[3])
    upload.write_bytes(bytes(16_000_000))
    for call in (store.put("1/20260131/big", [bytes(16_000_000)], 16_000_000),
                 store.put_file("1/20260131/file", upload, 16_000_000)):
        try:
            await call
        except Unavailable as error:
            assert "full" in error.message, error.message
            assert error.failure_reason == 0xA700
        else:
            raise SystemExit("16 MB went into 8 MiB")
    assert upload.exists()
    upload.unlink()
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["fits"]
    await store.put("1/20260131/next", [bytes(1_000_000)], 1_000_000)
    await store.close()
asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["unnamed", "named"])
async def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, way):
    # A name space of our own lets anybody mount a small file system; root needs no user name space for that.
    script = 'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"'
    python = [sys.executable, "-c", FULL, tmp_path, way, secrets.token_hex(6)]
    done = await asyncio.to_thread(
        subprocess.run,
        ["unshare", "-m" if os.geteuid() == 0 else "-Urm", "sh", "-c", script, "sh", tmp_path, *python],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr.startswith(("unshare: ", "mount: ")):
        pytest.skip(f"no file system of our own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
