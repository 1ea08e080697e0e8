"""The folder in which scanners leave slides: each is taken once, when all that belongs to it is there."""

import os
import time
from pathlib import Path

from storage.archive import Archive
from tests.wsi.scanners import mrxs, vms
from tests.wsi.vendor import tiled_tiff
from wsi.tasks import WatchedFolder


def age(folder: Path, seconds: float, pattern: str = "*") -> None:
    """As if the files had been written so long ago."""
    then = time.time() - seconds
    for path in folder.rglob(pattern):
        os.utime(path, (then, then))


async def names(archive: Archive) -> list[str]:
    rows = await archive.db.fetch_sql("SELECT content FROM job WHERE kind = 'dicomize'")
    return sorted(Path(str(row["content"]).split('"path":')[1].split('"')[1]).name for row in rows)


async def test_slides_of_several_files_are_taken_whole(archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "scanner"
    (folder / "vms").mkdir(parents=True)
    mrxs(folder / "a.mrxs")
    vms(folder / "vms" / "b.vms")
    tiled_tiff(folder / "c.tiff")
    age(folder, 60)
    # The file that stands for the slide is there first; its pixels are still being copied.
    age(folder, 1, "Data0000.dat")
    age(folder, 1, "part1.jpg")
    watched = WatchedFolder(archive, folder)
    assert await watched.step() == 1
    age(folder, 60, "Data0000.dat")
    age(folder, 60, "part1.jpg")
    assert await watched.step() == 2
    assert await names(archive) == ["a.mrxs", "b.vms", "c.tiff"]  # and no part of the VMS slide
    assert await WatchedFolder(archive, folder).step() == 0
    age(folder, 30, "Data0000.dat")  # scanned again
    assert await watched.step() == 1
