"""Archives from any byte on: what is read for them, and what becomes of them when resources change meanwhile."""

from collections.abc import AsyncIterator, Callable

import pytest
from pydicom.uid import generate_uid

from dicomweb.errors import Unavailable
from dicomweb.uids import orthanc_ids
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.ingest import Provenance
from storage.settings import Settings
from storage.zipped import Folder, Measured
from tests.files import dataset, encoded

FILES = 5


@pytest.fixture
async def archive(settings: Callable[..., Settings], database_url: str) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(database_url=database_url))
    yield opened
    await opened.close()


async def _stored(archive: Archive) -> list[Folder]:
    study, series = generate_uid(), generate_uid()
    for number in range(FILES):
        ds = dataset(
            PatientID="A", StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number,
            Rows=256, Columns=512, PixelData=bytes([number]) * (512 * 512),
        )  # fmt: skip
        spool = archive.new_spool()
        await spool.write(encoded(ds))
        await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest", ""))
    return await archive.archives.folders(LOCAL, [orthanc_ids("A", study, series, "").study], "study")


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
