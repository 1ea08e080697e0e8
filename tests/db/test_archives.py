"""Archives from any byte on: what is read for them, and what becomes of them when resources change meanwhile."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import JPEG2000Lossless, generate_uid

from dicomweb.errors import TooLarge, Unavailable
from dicomweb.uids import orthanc_ids
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.archive_jobs import ARCHIVE, content, run
from storage.job_runner import JobRunner
from storage.jobs import STORAGE_FULL, Claimed, Done, Job, Progress
from storage.provenance import Provenance
from storage.settings import Settings
from storage.zipped import Folder, Measured, Packing
from tests.files import dataset, encoded

FILES = 5


async def _stored(archive: Archive) -> list[Folder]:
    return await archive.archives.folders(LOCAL, [await _study(archive)], "study")


async def _study(archive: Archive) -> str:
    study, series = generate_uid(), generate_uid()
    for number in range(FILES):
        ds = dataset(
            PatientID="A", StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number,
            Rows=256, Columns=512, PixelData=bytes([number]) * (512 * 512),
        )  # fmt: skip
        spool = archive.new_spool()
        await spool.write(encoded(ds))
        await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest", ""))
    return orthanc_ids("A", study, series, "").study


async def _read(archive: Archive, folders: list[Folder], measured: Measured, offset: int, length: int) -> bytes:
    chunks = archive.archives.plain(LOCAL, folders, measured, offset, length)
    return b"".join([chunk async for chunk in chunks])


async def test_checksums_outlive_a_download_that_breaks_off(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = await _stored(archive)
    measured = await archive.archives.measure(LOCAL, folders)
    whole = await _read(archive, folders, measured, 0, measured.size)
    assert len(whole) == measured.size
    assert await archive.db.fetch_sql("SELECT FROM file_crc") == []

    begun, received = archive.archives.plain(LOCAL, folders, measured, 0, measured.size), b""
    async for chunk in begun:
        received += chunk
        if len(received) > len(whole) * 3 // 4:
            break
    await begun.aclose()
    (count,) = (await archive.db.fetch_sql("SELECT count(*) FROM file_crc"))[0]
    assert count == 3

    read: list[str] = []
    files = archive.retrieve.files
    monkeypatch.setattr(
        archive.retrieve, "files", lambda instances: (read.extend(each.sop for each in instances), files(instances))[1]
    )
    rest = await _read(archive, folders, measured, len(received), measured.size - len(received))
    assert received + rest == whole
    assert len(read) == FILES - 3
    read.clear()
    await archive.db.fetch_sql("DELETE FROM file_crc")
    assert await _read(archive, folders, measured, measured.size - 30, 30) == whole[-30:]
    assert len(read) == FILES
    read.clear()
    assert await _read(archive, folders, measured, measured.size - 30, 30) == whole[-30:]
    assert read == []
    await archive.db.fetch_sql("UPDATE file_crc SET noted_at = now() - interval '1 year'")
    await archive.archives.expire()
    assert await archive.db.fetch_sql("SELECT FROM file_crc") == []


async def test_what_changes_meanwhile_is_never_mixed(archive: Archive) -> None:
    folders = await _stored(archive)
    measured = await archive.archives.measure(LOCAL, folders)
    await archive.lifecycle.delete(LOCAL, folders[0].study)
    with pytest.raises(Unavailable):
        await _read(archive, folders, measured, 0, measured.size)
    assert (await archive.archives.measure(LOCAL, folders)).instances == 0


@pytest.mark.parametrize("limit", ["MAX_INSTANCES", "MAX_SERIES"])
async def test_there_is_a_limit(archive: Archive, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    studies = [await _study(archive) for _ in range(2)]
    monkeypatch.setattr(f"storage.archives.{limit}", FILES if limit == "MAX_INSTANCES" else 1)
    assert len(await archive.archives.folders(LOCAL, studies[:1], "study")) == 1
    with pytest.raises(TooLarge):
        await archive.archives.folders(LOCAL, studies, "study")


async def _job(archive: Archive, packing: Packing, file: str = "") -> Job:
    """A job that writes an archive, to `file` where that is said, when it is over."""

    async def handler(job: Claimed, folder: Path, progress: Progress) -> Done:
        if file:
            (folder / "archive").symlink_to(file)
        return await run(archive, job, folder, progress)

    resources = [await _study(archive)]
    work = await content(archive, LOCAL, resources, "study", packing, "a.zip")
    name = await archive.jobs.create(LOCAL, ARCHIVE, work, items=resources)
    assert name is not None
    assert await JobRunner(archive, {ARCHIVE: handler}).step()
    return await archive.jobs.get(LOCAL, name)


async def test_a_job_that_finds_no_room_on_disk(archive: Archive) -> None:
    assert (await _job(archive, Packing())).state == "success"
    job = await _job(archive, Packing(), "/dev/full")
    assert (job.state, job.error_kind) == ("failure", STORAGE_FULL)


@pytest.mark.parametrize("packing", [Packing(medium=True), Packing(JPEG2000Lossless)])
async def test_a_job_whose_archive_becomes_too_large(
    settings: Callable[..., Settings], database_url: str, packing: Packing
) -> None:
    small = await open_archive(settings(database_url=database_url, job_file_bytes=1000))
    try:
        with pytest.raises(TooLarge):
            await content(small, LOCAL, [await _study(small)], "study", Packing(), "a.zip")
        job = await _job(small, packing)
        assert (job.state, job.error_kind, job.has_file) == ("failure", "too-large", False)
    finally:
        await small.close()


async def test_what_transcodes_ends_with_who_asked_for_it(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    ended: list[str] = []
    file = archive.transcode.file

    async def noted(*arguments: Any) -> AsyncIterator[bytes]:
        begun.append("")
        try:
            async for chunk in file(*arguments):
                yield chunk
                yield bytes(1 << 17)  # more than goes out at once
        finally:
            ended.append("")

    monkeypatch.setattr(archive.transcode, "file", noted)
    chunks = archive.archives.zip(LOCAL, await _stored(archive), Packing(JPEG2000Lossless))
    await anext(chunks)
    await chunks.aclose()
    assert 1 <= len(begun) == len(ended)  # with those that were made ahead
