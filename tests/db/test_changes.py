"""The change feed and what is attached to resources, on a real PostgreSQL: nothing missed, nothing left behind."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import asyncpg
import pytest

from dicomweb.errors import NotFound, ObjectMissing, RevisionConflict, TooLarge
from dicomweb.tags import Level
from dicomweb.uids import OrthancIds
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.changes import Change, forget, settle
from storage.fsck import Check, Finding
from storage.provenance import Provenance
from storage.resource import Resource
from storage.revisions import Condition
from storage.settings import Settings
from storage.spool import Spool
from storage.worker import sweep
from tests.files import ct, dataset, encoded, new_uid

NOW = timedelta(0)
ANY = Condition()


@pytest.fixture
async def archive(settings: Callable[..., Settings], database_url: str) -> AsyncIterator[Archive]:
    made = settings(database_url=database_url, tomb_grace_s=0, sweep_quarantine_s=0, log_exports=True)
    opened = await open_archive(made)
    yield opened
    await opened.close()


async def store(archive: Archive, **attributes: object) -> OrthancIds:
    spool = archive.new_spool()
    await spool.write(ct(**attributes))
    return (await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))).orthanc


async def attach(archive: Archive, resource: Resource, data: bytes, condition: Condition = ANY) -> str:
    spool = Spool(archive.objects.spool_dir, memory_limit=1000, max_size=1 << 20, raw=True)
    await spool.write(data)
    return await archive.attachments.put(LOCAL, resource, 1024, await spool.finish(), condition)


async def feed(archive: Archive, since: int = 0) -> list[Change]:
    return list((await archive.changes.page(LOCAL, since=since, limit=10_000)).entries)


async def findings(archive: Archive) -> list[Finding]:
    found: list[Finding] = []
    await Check(archive, found.append).run()
    return found


def kinds(changes: list[Change]) -> list[str]:
    return [change.kind for change in changes]


async def test_eight_writers_leave_no_gap_and_a_reader_misses_nothing(archive: Archive) -> None:
    """Readers ask with the last number they have seen, while transactions that began earlier commit later."""
    seen: dict[int, Change] = {}
    stored: set[bytes] = set()
    over = asyncio.Event()

    async def write() -> None:
        for _ in range(25):
            ids = await store(archive, PatientID=f"C-{secrets.token_hex(8)}")
            stored.add(bytes.fromhex(ids.instance.replace("-", "")))

    async def read() -> None:
        since = 0
        while True:
            last_round = over.is_set()
            page = await archive.changes.page(LOCAL, since=since, limit=37)
            for change in page.entries:
                assert change.seq == since + 1
                since = change.seq
                seen[change.seq] = change
            if last_round and page.done:
                return

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write() for _ in range(8)))
    over.set()
    await reading
    assert sorted(seen) == list(range(1, 801))
    assert {c.resource.id for c in seen.values() if c.kind == "NewInstance"} == stored
    assert len(stored) == 200


async def test_pages(archive: Archive) -> None:
    for _ in range(3):
        await store(archive, PatientID=f"C-{secrets.token_hex(8)}")
    page = await archive.changes.page(LOCAL, since=2, limit=3)
    assert ([c.seq for c in page.entries], page.done, page.last) == ([3, 4, 5], False, 12)
    page = await archive.changes.page(LOCAL, since=2, to=4)
    assert ([c.seq for c in page.entries], page.done) == ([3, 4], True)
    page = await archive.changes.page(LOCAL, to=9, limit=2)
    assert ([c.seq for c in page.entries], page.done) == ([8, 9], False)
    page = await archive.changes.page(LOCAL, kinds=["NewStudy", "NewSeries"], limit=4)
    assert set(kinds(list(page.entries))) == {"NewStudy", "NewSeries"}
    assert not page.done
    assert (await archive.changes.page(LOCAL, since=100)).last == 12
    assert [c.seq for c in (await archive.changes.newest(LOCAL)).entries] == [12]


async def test_entries_of_what_is_deleted_vanish_and_numbers_go_on(archive: Archive) -> None:
    kept, gone = await store(archive, PatientID="kept"), await store(archive, PatientID="gone")
    assert len(await feed(archive)) == 8
    left = await archive.lifecycle.remove(LOCAL, Resource.of(Level.SERIES, gone.series))
    assert left is None
    assert [c.seq for c in await feed(archive)] == [1, 2, 3, 4]
    again = await store(archive, PatientID="again")
    numbers = [c.seq for c in await feed(archive)]
    assert numbers[:4] == [1, 2, 3, 4]
    assert min(numbers[4:]) > 8
    await archive.changes.clear(LOCAL)
    assert await feed(archive) == []
    await archive.lifecycle.remove(LOCAL, Resource.of(Level.PATIENT, kept.patient))
    await archive.labels.put(LOCAL, Resource.of(Level.STUDY, again.study), "x")
    await archive.metadata.put(LOCAL, Resource.of(Level.STUDY, again.study), 1024, b"x", ANY)
    assert kinds(await feed(archive)) == ["UpdatedMetadata"]
    await archive.db.fetch_sql("UPDATE change SET at = at - interval '30 days'")
    await forget(archive.db)
    assert kinds(await feed(archive)) == ["UpdatedMetadata"]
    assert await archive.db.fetch_sql("SELECT kind FROM change") == [("UpdatedMetadata",)]


async def test_an_entry_that_is_deleted_while_it_is_numbered_takes_its_number_along(
    archive: Archive, database_url: str
) -> None:
    for _ in range(3):
        await store(archive)
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.execute(
                "DELETE FROM change WHERE id = (SELECT id FROM change WHERE seq IS NULL ORDER BY id OFFSET 5 LIMIT 1)"
            )
            numbering = asyncio.create_task(archive.db.fetch_value("number_changes", 100))
            await asyncio.sleep(0.3)
            assert not numbering.done()
        assert await numbering == 9
    finally:
        await other.close()
    await store(archive)
    numbers = [change.seq for change in await feed(archive)]
    assert numbers == [*range(1, 6), *range(7, 14)]


async def test_a_cleared_feed_stays_for_the_archives_own_readers(archive: Archive) -> None:
    await archive.db.execute("reader_begin", "transcode")
    await store(archive)
    await feed(archive)
    await archive.changes.clear(LOCAL)
    await forget(archive.db)
    assert len(await archive.db.fetch_sql("SELECT FROM change")) == 4
    await archive.db.fetch_sql("UPDATE reader SET seq = 4")
    await forget(archive.db)
    assert await archive.db.fetch_sql("SELECT FROM change") == []
    await store(archive, PatientID="after")
    assert [c.seq for c in await feed(archive)] == [5, 6, 7, 8]


async def test_resources_settle_once_from_below(archive: Archive) -> None:
    study, series = new_uid(), new_uid()
    ids = await store(archive, StudyInstanceUID=study, SeriesInstanceUID=series)
    await settle(archive.db, timedelta(hours=1))
    assert [c.kind for c in await feed(archive) if "Stable" in c.kind] == []
    assert not (await archive.resources.one(LOCAL, Resource.of(Level.PATIENT, ids.patient)))["IsStable"]
    await settle(archive.db, NOW)
    await settle(archive.db, NOW)
    assert kinds(await feed(archive, 4)) == ["StableSeries", "StableStudy", "StablePatient"]
    for level, identifier in ((Level.PATIENT, ids.patient), (Level.STUDY, ids.study), (Level.SERIES, ids.series)):
        assert (await archive.resources.one(LOCAL, Resource.of(level, identifier)))["IsStable"]
    await store(archive, StudyInstanceUID=study, SeriesInstanceUID=series)
    assert not (await archive.resources.one(LOCAL, Resource.of(Level.PATIENT, ids.patient)))["IsStable"]
    await settle(archive.db, NOW)
    assert kinds(await feed(archive, 7)) == ["NewInstance", "StableSeries", "StableStudy", "StablePatient"]
    same = dataset(StudyInstanceUID=study, SeriesInstanceUID=series)
    for _ in range(2):
        spool = archive.new_spool()
        await spool.write(encoded(same))
        await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
    await settle(archive.db, NOW)
    assert kinds(await feed(archive, 11)) == ["NewInstance", "StableSeries", "StableStudy", "StablePatient"]


async def test_a_patient_is_stable_with_its_last_study(archive: Archive) -> None:
    first, second = await store(archive, PatientID="two"), await store(archive, PatientID="two")
    assert first.patient == second.patient
    await archive.db.fetch_sql("UPDATE study SET changed_at = now() + interval '1 day' WHERE id = 2")
    await settle(archive.db, NOW)
    assert "StablePatient" not in kinds(await feed(archive))
    await archive.db.fetch_sql("UPDATE study SET changed_at = now()")
    await settle(archive.db, NOW)
    assert kinds(await feed(archive)).count("StablePatient") == 1


@pytest.mark.parametrize(
    ("numbers", "status"), [([1, 2], "Missing"), ([1, 2, 3], "Complete"), ([1, 2, 4], "Inconsistent")]
)
async def test_a_series_is_complete_with_what_it_announced(archive: Archive, numbers: list[int], status: str) -> None:
    study, series = new_uid(), new_uid()
    for number in numbers:
        ids = await store(
            archive, StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number, CardiacNumberOfImages=3
        )
    found = await archive.resources.one(LOCAL, Resource.of(Level.SERIES, ids.series))
    assert (found["ExpectedNumberOfInstances"], found["Status"]) == (3, status)
    assert kinds(await feed(archive)).count("CompletedSeries") == (status == "Complete")


async def test_what_is_attached_goes_with_its_resource(archive: Archive) -> None:
    study = new_uid()
    ids, _ = await store(archive, StudyInstanceUID=study), await store(archive, StudyInstanceUID=study)
    levels = {
        Level.PATIENT: ids.patient,
        Level.STUDY: ids.study,
        Level.SERIES: ids.series,
        Level.INSTANCE: ids.instance,
    }
    resources = [Resource.of(level, identifier) for level, identifier in levels.items()]
    for resource in resources:
        await archive.labels.put(LOCAL, resource, "urgent")
        await archive.metadata.put(LOCAL, resource, 1024, b"text", ANY)
        await attach(archive, resource, b"bytes of " + resource.level.encode())
    keys = {row["object_key"] for row in await archive.db.fetch_sql("SELECT object_key FROM attachment")}
    assert len(keys) == 4
    assert await findings(archive) == []
    left = await archive.lifecycle.remove(LOCAL, resources[2])
    assert left == resources[1]
    for table in ("label", "user_metadata", "attachment"):
        assert await archive.db.fetch_sql(f"SELECT level FROM {table} ORDER BY 1") == [("patient",), ("study",)]
    assert await archive.lifecycle.remove_all(LOCAL, [(None, resources[0].id), (None, bytes(20))]) == 1
    for table in ("label", "user_metadata", "attachment", "patient"):
        assert await archive.db.fetch_sql(f"SELECT FROM {table}") == []
    await sweep(archive)
    for key in keys:
        with pytest.raises(ObjectMissing):
            await archive.objects.size(key)
    assert await findings(archive) == []
    for resource in resources:
        with pytest.raises(NotFound):
            await archive.labels.of(LOCAL, resource)
        with pytest.raises(NotFound):
            await attach(archive, resource, b"late")
    await sweep(archive)
    assert [info async for info in archive.objects.list("") if info.size] == []


async def test_fsck_finds_a_lost_attachment(archive: Archive) -> None:
    ids = await store(archive)
    await attach(archive, Resource.of(Level.STUDY, ids.study), b"to be lost")
    (row,) = await archive.db.fetch_sql("SELECT object_key FROM attachment")
    await archive.objects.delete(row["object_key"])
    assert [(each.kind, each.key) for each in await findings(archive)] == [("missing object", row["object_key"])]


async def test_fsck_reads_attachments(archive: Archive) -> None:
    ids = await store(archive)
    resource = Resource.of(Level.STUDY, ids.study)
    await attach(archive, resource, b"as it came")
    found: list[Finding] = []
    report = await Check(archive, found.append).run(deep=True)
    assert (report.read, found) == (2, [])
    await archive.db.fetch_sql("UPDATE attachment SET md5 = '\\x00'")
    await Check(archive, found.append).run(deep=True)
    assert [(each.kind, each.uid) for each in found] == [("wrong digest", resource.id.hex())]


async def test_a_spool_names_the_setting_that_limits_it(archive: Archive) -> None:
    spool = Spool(archive.objects.spool_dir, memory_limit=1000, max_size=10, limit="max_body", raw=True)
    with pytest.raises(TooLarge, match=r"the file is larger than 10 bytes \(max_body\)"):
        await spool.write(b"eleven byte")
    instance = Spool(archive.objects.spool_dir, memory_limit=1000, max_size=10)
    with pytest.raises(TooLarge, match=r"the instance is larger than 10 bytes \(max_instance\)"):
        await instance.write(b"eleven byte")


async def test_revisions(archive: Archive) -> None:
    resource = Resource.of(Level.STUDY, (await store(archive)).study)
    required = Condition(None, required=True)
    first = await attach(archive, resource, b"one", required)
    with pytest.raises(RevisionConflict):
        await attach(archive, resource, b"two", required)
    with pytest.raises(RevisionConflict):
        await attach(archive, resource, b"two", Condition("0-00"))
    second = await attach(archive, resource, b"two", Condition(first, required=True))
    assert (first[:2], second[:2]) == ("0-", "1-")
    (found,) = await archive.attachments.of(LOCAL, resource, 1024)
    assert b"".join([chunk async for chunk in archive.attachments.read(found, 0, found.size)]) == b"two"
    with pytest.raises(RevisionConflict):
        await archive.attachments.delete(LOCAL, resource, 1024, Condition(first))
    await archive.attachments.delete(LOCAL, resource, 1024, Condition(second))
    tag = await archive.metadata.put(LOCAL, resource, 1025, "ä".encode(), required)
    (entry,) = await archive.metadata.of(LOCAL, resource)
    assert (entry.value, entry.tag) == ("ä", tag)
    with pytest.raises(RevisionConflict):
        await archive.metadata.delete(LOCAL, resource, 1025, required)
    await archive.metadata.delete(LOCAL, resource, 1025, Condition(tag, required=True))
    with pytest.raises(NotFound):
        await archive.metadata.delete(LOCAL, resource, 1025, ANY)
    await sweep(archive)
    assert await findings(archive) == []


async def test_of_writers_at_the_same_time_one_wins(archive: Archive) -> None:
    resource = Resource.of(Level.STUDY, (await store(archive)).study)
    first = await archive.metadata.put(LOCAL, resource, 1024, b"0", ANY)
    writers = [archive.metadata.put(LOCAL, resource, 1024, b"%d" % n, Condition(first)) for n in range(8)]
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, RevisionConflict) for outcome in outcomes) == 7


async def test_exports_are_numbered_without_gaps(archive: Archive) -> None:
    resource = Resource.of(Level.STUDY, (await store(archive)).study)
    await asyncio.gather(*(archive.changes.log_export(LOCAL, resource, "PACS", ("P-1", "1.2")) for _ in range(8)))
    found, done = await archive.changes.exports(LOCAL, 2, 3)
    assert ([each.seq for each in found], done) == ([3, 4, 5], False)
    assert (found[0].patient_id, found[0].study, found[0].modality) == ("P-1", "1.2", "PACS")
    await archive.changes.clear_exports(LOCAL)
    await archive.changes.log_export(LOCAL, resource, "PACS", ("P-1",))
    assert [each.seq for each in await archive.changes.last_export(LOCAL)] == [9]
