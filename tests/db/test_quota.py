"""Limits: the oldest patients make room, protected ones stay; or nothing more is taken."""

import asyncio

import pytest

from dicomweb.errors import Unavailable
from dicomweb.tags import Level
from storage.access import LOCAL
from storage.archive import Archive
from storage.provenance import Provenance
from storage.quota import recycle
from storage.resource import Resource
from tests.files import ct
from tests.support import Opened


async def store(archive: Archive, patient: str) -> Resource:
    spool = archive.new_spool()
    await spool.write(ct(PatientID=patient))
    stored = await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
    return Resource.of(Level.PATIENT, stored.orthanc.patient)


async def patients(archive: Archive) -> list[str]:
    rows = await archive.db.fetch_sql("SELECT patient_id FROM patient ORDER BY 1")
    return [row[0] for row in rows]


async def test_the_oldest_patients_go(opened: Opened) -> None:
    async with opened(maximum_patient_count=3) as archive:
        for name in "abcde":
            await store(archive, name)
        await store(archive, "a")  # changed again: not the oldest any more
        assert await recycle(archive.db, archive.settings) == 2
        assert await patients(archive) == ["a", "d", "e"]
        assert await recycle(archive.db, archive.settings) == 0


async def test_protected_patients_stay(opened: Opened) -> None:
    async with opened(maximum_patient_count=1) as archive:
        kept = await store(archive, "a")
        await archive.lifecycle.protect(LOCAL, kept.id, protected=True)
        for name in "bc":
            await store(archive, name)
        assert await recycle(archive.db, archive.settings) == 1
        assert await patients(archive) == ["a", "c"]  # the last one may be arriving
        assert await recycle(archive.db, archive.settings) == 0
        await archive.lifecycle.protect(LOCAL, kept.id, protected=False)
        assert await recycle(archive.db, archive.settings) == 1
        assert await patients(archive) == ["c"]


async def test_bytes(opened: Opened) -> None:
    size = len(ct(PatientID="a"))
    async with opened(maximum_storage_size=3 * size + size // 2) as archive:
        for name in "abcde":
            await store(archive, name)
        assert await recycle(archive.db, archive.settings) == 2
        assert await patients(archive) == ["c", "d", "e"]


async def test_two_workers_delete_no_more_than_one(opened: Opened) -> None:
    async with opened(maximum_patient_count=4) as archive:
        for name in "abcdefgh":
            await store(archive, name)
        gone = await asyncio.gather(*(recycle(archive.db, archive.settings) for _ in range(4)))
        assert sum(gone) == 4
        assert await patients(archive) == ["e", "f", "g", "h"]


async def test_reject(opened: Opened) -> None:
    size = len(ct(PatientID="a"))
    async with opened(maximum_storage_size=2 * size + size // 2, maximum_storage_mode="reject") as archive:
        await store(archive, "a")
        await store(archive, "b")
        with pytest.raises(Unavailable) as refused:
            await store(archive, "c")
        assert refused.value.reason == "full"
        assert await recycle(archive.db, archive.settings) == 0
        assert await patients(archive) == ["a", "b"]


async def test_reject_by_patients(opened: Opened) -> None:
    async with opened(maximum_patient_count=1, maximum_storage_mode="reject") as archive:
        await store(archive, "a")
        await store(archive, "a")
        with pytest.raises(Unavailable):
            await store(archive, "b")
        assert (await archive.statistics(LOCAL)).instances == 2
