"""The store of finished thumbnails: bounded, shared, and never wrong."""

import os
import time
from pathlib import Path

from storage.thumbnails import ThumbnailStore

LIMIT = 1 << 20
BODY = bytes(range(256)) * 32  # 8 KiB


def files(directory: Path) -> list[Path]:
    return [path for path in directory.glob("*/*") if path.is_file()]


async def test_workers_share_what_they_made(tmp_path: Path) -> None:
    await ThumbnailStore(tmp_path, LIMIT).put(("a", 1), BODY)
    other = ThumbnailStore(tmp_path, LIMIT)
    assert await other.get(("a", 1)) == BODY
    assert await other.get(("a", 2)) is None
    files(tmp_path)[0].unlink()
    assert await other.get(("a", 1)) == BODY  # from memory


async def test_the_directory_is_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    store = ThumbnailStore(tmp_path, LIMIT)
    for number in range(300):
        await store.put(number, BODY)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= LIMIT * 17 / 16
    fresh = ThumbnailStore(tmp_path, LIMIT)
    assert await fresh.get(299) == BODY
    assert await fresh.get(0) is None


async def test_what_is_read_stays(tmp_path: Path) -> None:
    store = ThumbnailStore(tmp_path, LIMIT)
    await store.put("wanted", BODY)
    (wanted,) = files(tmp_path)
    long_ago = time.time() - 100_000
    os.utime(wanted, (long_ago, long_ago))
    await store.put("unwanted", BODY)
    (unwanted,) = set(files(tmp_path)) - {wanted}
    os.utime(unwanted, (long_ago + 5, long_ago + 5))
    assert await ThumbnailStore(tmp_path, LIMIT).get("wanted") == BODY
    ThumbnailStore(tmp_path, int(1.5 * len(BODY))).sweep()
    assert files(tmp_path) == [wanted]


async def test_a_damaged_file_is_no_thumbnail(tmp_path: Path) -> None:
    await ThumbnailStore(tmp_path, LIMIT).put("x", BODY)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:100], bytes(len(whole)), whole[:50] + b"!" + whole[51:]):
        path.write_bytes(damaged)
        assert await ThumbnailStore(tmp_path, LIMIT).get("x") is None
        assert not path.exists()


async def test_a_disk_that_takes_nothing_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    store = ThumbnailStore(blocked, LIMIT)
    await store.put("x", BODY)
    assert await store.get("x") == BODY
    assert await ThumbnailStore(blocked, LIMIT).get("x") is None


async def test_nothing_is_kept_on_disk_without_a_limit(tmp_path: Path) -> None:
    store = ThumbnailStore(tmp_path / "none", 0)
    await store.put("x", BODY)
    assert await store.get("x") == BODY
    assert not (tmp_path / "none").exists()
    big = ThumbnailStore(tmp_path, LIMIT)
    await big.put("big", bytes(LIMIT // 64 + 1))
    assert files(tmp_path) == []
