"""The ingest protocol on a real PostgreSQL and a real directory: what is acknowledged is there, what is refused leaves
nothing.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from typing import Any

import asyncpg
import orjson
import pytest
from pydicom.filewriter import dcmwrite

from dicomweb.errors import BadDicom, Conflict, Forbidden, IdentityMismatch, ObjectMissing, TooLarge, Unavailable
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.ingest import Stored
from storage.provenance import Provenance
from storage.settings import Settings
from storage.worker import analyze_young, number_changes, sweep
from tests.files import ct, dataset, encoded, new_uid

REST = Provenance("rest")


async def store(archive: Archive, data: bytes, *, expect_study: str | None = None, access: Access = LOCAL) -> Stored:
    spool = archive.new_spool()
    for start in range(0, len(data), 700):
        await spool.write(data[start : start + 700])
    return await archive.ingest.store(access, await spool.finish(), REST, expect_study=expect_study)


async def rows(archive: Archive, sql: str, *args: object) -> list[asyncpg.Record]:
    return await archive.db.fetch_sql(sql, *args)


async def objects(archive: Archive) -> set[str]:
    """What was put; keys that were reserved have empty files."""
    return {info.key async for info in archive.objects.list("") if info.size}


async def test_a_stored_instance_has_its_object_its_row_and_its_parents(archive: Archive) -> None:
    data = ct()
    stored = await store(archive, data)
    assert stored.status == "stored"
    (row,) = await rows(archive, "SELECT * FROM instance")
    assert row["object_size"] == len(data)
    assert await archive.objects.get(row["object_key"]) == data
    (study,) = await rows(archive, "SELECT * FROM study")
    assert (study["series_count"], study["instance_count"], study["bytes"]) == (1, 1, len(data))
    assert (study["modalities"], study["name_fold"]) == (["CT"], "muller^anne")
    assert await rows(archive, "SELECT * FROM intent") == []
    assert orjson.loads(row["source"])["kind"] == "rest"


@pytest.mark.parametrize("aet", ['"received":"2001-01-01"', '","received":"2001-01-01","', "\\"])
async def test_no_sender_says_when_an_instance_came(archive: Archive, aet: str) -> None:
    """That is now, but for what comes from another archive; whatever a sender calls itself."""
    began = datetime.now(UTC)
    await came(archive, Provenance("dimse", "192.0.2.1", aet, aet))
    (row,) = await rows(archive, "SELECT received_at, source::json->>'aet' AS aet FROM instance")
    assert began <= row["received_at"] <= datetime.now(UTC)
    assert row["aet"] == aet


async def test_when_an_instance_came_to_another_archive(archive: Archive) -> None:
    earlier = datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=-5)))
    await came(archive, Provenance("dimse", "192.0.2.1", "CT1", principal="anna", received=earlier, source="old"))
    (row,) = await rows(archive, "SELECT received_at, source FROM instance")
    assert row["received_at"] == earlier
    assert orjson.loads(row["source"]) == {
        "kind": "dimse", "remote": "192.0.2.1", "aet": "CT1", "principal": "anna", "source": "old",
        "received": "2001-02-03T04:05:06-05:00",
    }  # fmt: skip


async def came(archive: Archive, source: Provenance) -> None:
    """Store an instance that came like this."""
    spool = archive.new_spool()
    await spool.write(ct())
    await archive.ingest.store(LOCAL, await spool.finish(), source)


async def test_the_same_file_again_is_a_success_that_stores_nothing(archive: Archive) -> None:
    data = ct()
    assert (await store(archive, data)).status == "stored"
    before = await objects(archive)
    assert (await store(archive, data)).status == "identical"
    assert await objects(archive) == before
    (study,) = await rows(archive, "SELECT instance_count FROM study")
    assert study["instance_count"] == 1


async def test_under_load_keys_are_announced_ahead_and_repeated_files_are_still_found(archive: Archive) -> None:
    files = [ct() for _ in range(12)]
    assert {(await store(archive, data)).status for data in files} == {"stored"}
    ahead = {row["key"] for row in await rows(archive, "SELECT key FROM intent")}
    assert ahead  # announced, not used yet
    # The first repeated file is put and found at its commit; the next ones are known before.
    puts = len(await objects(archive))
    assert {(await store(archive, data)).status for data in files} == {"identical"}
    assert len(await objects(archive)) == puts + 1
    assert len(await rows(archive, "SELECT FROM tomb")) == 1
    # Keys that nobody used go as every abandoned one does.
    await rows(archive, "UPDATE intent SET lease_until = now()")
    await sweep(archive)
    assert await rows(archive, "SELECT FROM intent WHERE claimed_at IS NULL") == []


async def test_a_lost_object_is_restored_although_its_file_was_not_asked_for_first(archive: Archive) -> None:
    files = [ct() for _ in range(12)]
    for data in files:
        await store(archive, data)
    (row,) = await rows(
        archive, "SELECT object_key FROM instance WHERE file_sha256 = $1", hashlib.sha256(files[0]).digest()
    )
    await archive.objects.delete(row["object_key"])
    assert (await store(archive, files[0])).status == "identical"
    (row,) = await rows(
        archive, "SELECT object_key FROM instance WHERE file_sha256 = $1", hashlib.sha256(files[0]).digest()
    )
    assert await archive.objects.get(row["object_key"]) == files[0]


async def test_the_same_dataset_under_other_file_meta_is_identical(archive: Archive) -> None:
    ds = dataset()
    first = encoded(ds)
    ds.file_meta.ImplementationVersionName = "OTHER"
    ds.file_meta.SourceApplicationEntityTitle = "MODALITY"
    out = BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    second = out.getvalue()
    assert first != second
    await store(archive, first)
    assert (await store(archive, second)).status == "identical"
    assert len(await rows(archive, "SELECT * FROM tomb")) == 1


async def test_other_bytes_under_the_same_uid_are_refused_and_the_first_stay(archive: Archive) -> None:
    ds = dataset()
    first = encoded(ds)
    ds.KVP = "80"
    await store(archive, first)
    with pytest.raises(Conflict) as caught:
        await store(archive, encoded(ds))
    assert caught.value.failure_reason == 0x0111
    (row,) = await rows(archive, "SELECT object_key FROM instance")
    assert await archive.objects.get(row["object_key"]) == first


@pytest.mark.parametrize(("policy", "status", "kept"), [("keep-first", "kept", 0), ("replace", "replaced", 1)])
async def test_duplicate_policies(
    settings: Callable[..., Settings], database_url: str, policy: str, status: str, kept: int
) -> None:
    archive = await open_archive(settings(database_url=database_url, duplicates=policy, tomb_grace_s=0))
    try:
        ds = dataset()
        files = [encoded(ds)]
        ds.KVP = "80"
        files.append(encoded(ds))
        await store(archive, files[0])
        version = (await rows(archive, "SELECT version FROM series"))[0]["version"]
        assert (await store(archive, files[1])).status == status
        (row,) = await rows(archive, "SELECT object_key, attributes FROM instance")
        assert await archive.objects.get(row["object_key"]) == files[kept]
        if policy == "replace":
            assert orjson.loads(row["attributes"])["00180060"]["Value"] == [80]
            assert (await rows(archive, "SELECT version FROM series"))[0]["version"] > version
        await sweep(archive)
        assert await objects(archive) == {row["object_key"]}
        (study,) = await rows(archive, "SELECT instance_count, bytes FROM study")
        assert (study["instance_count"], study["bytes"]) == (1, len(files[kept]))
    finally:
        await archive.close()


async def test_a_uid_that_is_stored_elsewhere_is_refused(archive: Archive) -> None:
    ds = dataset()
    await store(archive, encoded(ds))
    moved = dataset(SOPInstanceUID=ds.SOPInstanceUID, StudyInstanceUID=ds.StudyInstanceUID)
    with pytest.raises(IdentityMismatch):
        await store(archive, encoded(moved))
    same_series = dataset(SeriesInstanceUID=ds.SeriesInstanceUID)
    with pytest.raises(IdentityMismatch):
        await store(archive, encoded(same_series))
    (counts,) = await rows(archive, "SELECT count(*) AS n FROM instance")
    assert counts["n"] == 1


async def test_the_study_of_the_request_must_be_the_datasets(archive: Archive) -> None:
    with pytest.raises(IdentityMismatch) as caught:
        await store(archive, ct(), expect_study="1.2.3")
    assert caught.value.failure_reason == 0xA900
    assert await objects(archive) == set()


async def test_a_file_without_its_preamble_is_stored_with_one(archive: Archive) -> None:
    data = ct()
    assert (await store(archive, data[132:])).status == "stored"
    (row,) = await rows(archive, "SELECT object_key FROM instance")
    assert await archive.objects.get(row["object_key"]) == data
    assert (await store(archive, data)).status == "identical"


async def test_what_cannot_be_understood_leaves_nothing(archive: Archive) -> None:
    data = ct()
    for bad in (b"", b"no dicom" * 100, data[:-10], data[:300], data + b"x" * 300_000):
        with pytest.raises(BadDicom):
            await store(archive, bad)
    assert await objects(archive) == set()
    for table in ("instance", "series", "study", "patient", "intent", "tomb", "change"):
        assert await rows(archive, f"SELECT * FROM {table}") == []
    assert list(archive.objects.spool_dir.glob("spool-*")) == []


async def test_rights_are_checked_and_tenants_do_not_meet(archive: Archive) -> None:
    with pytest.raises(Forbidden):
        await store(archive, ct(), access=Access(1, "reader", frozenset({"dicom.read"})))
    await rows(archive, "INSERT INTO tenant VALUES (2, 'second')")
    ds = dataset()
    data = encoded(ds)
    other = Access(2, "other", LOCAL.scopes)
    assert (await store(archive, data)).status == "stored"
    assert (await store(archive, data, access=other)).status == "stored"
    assert len(await rows(archive, "SELECT * FROM study")) == 2
    await archive.lifecycle.delete(other, ds.StudyInstanceUID)
    assert (await archive.statistics(LOCAL)).instances == 1
    assert (await archive.statistics(other)).instances == 0


async def test_first_instances_in_parallel_make_one_parent_and_exact_counts(
    settings: Callable[..., Settings], database_url: str
) -> None:
    archives = [await open_archive(settings(database_url=database_url)) for _ in range(3)]
    try:
        study, series = new_uid(), [new_uid() for _ in range(4)]
        files = [
            ct(StudyInstanceUID=study, SeriesInstanceUID=series[n % 4], InstanceNumber=n, KVP=str(80 + n % 3))
            for n in range(64)
        ]
        outcomes = await asyncio.gather(*(store(archives[n % 3], data) for n, data in enumerate(files)))
        assert {o.status for o in outcomes} == {"stored"}
        first = archives[0]
        (row,) = await rows(first, "SELECT series_count, instance_count, bytes, patient FROM study")
        assert (row["series_count"], row["instance_count"], row["bytes"]) == (4, 64, sum(map(len, files)))
        (patient,) = await rows(first, "SELECT study_count FROM patient")
        assert patient["study_count"] == 1
        per_series = await rows(first, "SELECT instance_count FROM series")
        assert [r["instance_count"] for r in per_series] == [16] * 4
    finally:
        for archive in archives:
            await archive.close()


async def test_racing_writers_of_one_uid_have_one_winner(archive: Archive) -> None:
    ds = dataset()
    files = []
    for kvp in range(12):
        ds.KVP = str(kvp)
        files.append(encoded(ds))
    outcomes = await asyncio.gather(*(store(archive, f) for f in files), return_exceptions=True)
    winners = [o for o in outcomes if isinstance(o, Stored)]
    assert len(winners) == 1
    assert sum(isinstance(o, Conflict) for o in outcomes) == 11


async def test_shared_attributes_and_differences_give_back_every_attribute(archive: Archive) -> None:
    study, series = new_uid(), new_uid()
    for number, kvp in ((1, "120"), (2, "80"), (3, None)):
        await store(archive, ct(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number, KVP=kvp))
    found = await rows(
        archive,
        "SELECT CASE WHEN i.attributes ? '00180060' THEN i.attributes->'00180060'"
        " ELSE members_of(s.shared)->'00180060' END AS kvp"
        " FROM instance i JOIN series s ON s.id = i.series ORDER BY i.instance_number",
    )
    values = [orjson.loads(r["kvp"]) for r in found]
    assert values == [{"vr": "DS", "Value": [120.0]}, {"vr": "DS", "Value": [80.0]}, None]
    (size,) = await rows(archive, "SELECT max(length(attributes::text)) AS n FROM instance")
    assert size["n"] < 300


async def test_a_series_that_was_deleted_behind_the_cache_is_made_again(
    settings: Callable[..., Settings], database_url: str
) -> None:
    ours = await open_archive(settings(database_url=database_url))
    theirs = await open_archive(settings(database_url=database_url))
    try:
        study, series = new_uid(), new_uid()
        await store(ours, ct(StudyInstanceUID=study, SeriesInstanceUID=series))
        await theirs.lifecycle.delete(LOCAL, study)
        await store(theirs, ct(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=2, KVP="60"))
        assert (
            await store(ours, ct(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=3))
        ).status == "stored"
        (row,) = await rows(ours, "SELECT instance_count FROM series")
        assert row["instance_count"] == 2
    finally:
        await ours.close()
        await theirs.close()


async def test_delete_removes_rows_at_once_and_objects_after_the_grace(
    settings: Callable[..., Settings], database_url: str
) -> None:
    archive = await open_archive(settings(database_url=database_url, tomb_grace_s=0))
    try:
        study, series = new_uid(), [new_uid(), new_uid()]
        ids = [
            await store(archive, ct(StudyInstanceUID=study, SeriesInstanceUID=series[n % 2], InstanceNumber=n))
            for n in range(4)
        ]
        assert await archive.lifecycle.delete(LOCAL, study, series[0], ids[0].sop_instance) == 1
        assert await archive.lifecycle.delete(LOCAL, study, series[1]) == 2
        (row,) = await rows(archive, "SELECT series_count, instance_count FROM study")
        assert (row["series_count"], row["instance_count"]) == (1, 1)
        assert len(await objects(archive)) == 4
        assert await sweep(archive) == 3
        assert len(await objects(archive)) == 1
        again = await store(
            archive, ct(StudyInstanceUID=study, SeriesInstanceUID=series[1], SOPInstanceUID=ids[1].sop_instance)
        )
        assert again.status == "stored"
        assert await archive.lifecycle.delete(LOCAL, study) == 2
        await sweep(archive)
        assert await objects(archive) == set()
        for table in ("instance", "series", "study", "patient", "tomb"):
            assert await rows(archive, f"SELECT * FROM {table}") == []
    finally:
        await archive.close()


async def test_an_abandoned_intent_is_claimed_and_its_object_removed(
    settings: Callable[..., Settings], database_url: str
) -> None:
    archive = await open_archive(settings(database_url=database_url, sweep_quarantine_s=0, intent_lease_s=1))
    try:
        key = "1/20260101/" + "ab" * 16
        await archive.objects.put(key, [b"left behind"], 11)
        await archive.db.fetch("ingest_intent", 1, timedelta(seconds=-1), [key], ["1.2"], [b""], [11])
        await sweep(archive)
        with pytest.raises(ObjectMissing):
            await archive.objects.size(key)
        assert await rows(archive, "SELECT * FROM intent") == []
    finally:
        await archive.close()


async def test_a_commit_after_the_sweeper_claimed_the_intent_is_fenced(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = archive.objects.put

    async def slow_put(*args: Any, **named: bool) -> None:
        await put(*args, **named)
        await rows(archive, "UPDATE intent SET claimed_at = now()")

    monkeypatch.setattr(archive.objects, "put", slow_put)
    with pytest.raises(Unavailable):
        await store(archive, ct())
    assert await rows(archive, "SELECT * FROM instance") == []


async def test_a_lost_object_is_restored_by_the_same_file(archive: Archive) -> None:
    data = ct()
    await store(archive, data)
    (row,) = await rows(archive, "SELECT object_key FROM instance")
    await archive.objects.delete(row["object_key"])
    assert (await store(archive, data)).status == "identical"
    (after,) = await rows(archive, "SELECT object_key FROM instance")
    assert after["object_key"] != row["object_key"]
    assert await archive.objects.get(after["object_key"]) == data


async def test_metadata_that_are_too_large_for_a_row_become_an_object(
    settings: Callable[..., Settings], database_url: str
) -> None:
    archive = await open_archive(settings(database_url=database_url, metadata_inline_max=1024, tomb_grace_s=0))
    try:
        ds = dataset()
        ds.ImageComments = secrets.token_hex(3000)
        await store(archive, encoded(ds))
        (row,) = await rows(archive, "SELECT metadata, object_key FROM instance")
        assert row["metadata"] is None
        assert row["object_key"] + ".json" in await objects(archive)
        await archive.objects.delete(row["object_key"] + ".json")
        assert (await store(archive, encoded(ds))).status == "identical"
        found = await archive.retrieve.metadata(LOCAL, ds.StudyInstanceUID, gzip=False)
        assert found.body is not None
        assert orjson.loads(b"".join(found.body))[0]["00204000"]["Value"] == [ds.ImageComments]
        await archive.lifecycle.delete(LOCAL, ds.StudyInstanceUID)
        await sweep(archive)
        assert await objects(archive) == set()
    finally:
        await archive.close()


async def test_a_large_instance_goes_through_a_file(settings: Callable[..., Settings], database_url: str) -> None:
    archive = await open_archive(settings(database_url=database_url, spool_memory=65536))
    try:
        data = ct(Rows=512, Columns=512, PixelData=bytes(512 * 512 * 2))
        assert (await store(archive, data)).status == "stored"
        (row,) = await rows(archive, "SELECT object_key, file_sha256 FROM instance")
        assert await archive.objects.get(row["object_key"]) == data
        assert row["file_sha256"] == hashlib.sha256(data).digest()
        assert list(archive.objects.spool_dir.glob("spool-*")) == []
    finally:
        await archive.close()


async def test_an_instance_above_the_limit_is_refused_while_it_arrives(
    settings: Callable[..., Settings], database_url: str
) -> None:
    archive = await open_archive(settings(database_url=database_url, max_instance=100_000))
    try:
        spool = archive.new_spool()
        for _ in range(100):
            await spool.write(b"x" * 1000)
        with pytest.raises(TooLarge):
            await spool.write(b"x")
        spool.discard()
    finally:
        await archive.close()


async def test_the_change_feed_is_numbered_without_gaps_in_commit_order(archive: Archive) -> None:
    pool = await asyncpg.create_pool(archive.settings.database_url, min_size=2, max_size=2)
    try:
        slow = await pool.acquire()
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(
            "INSERT INTO change (tenant, kind, level, orthanc_id, uid) VALUES (1, 'NewStudy', 'study', '', 'slow')"
        )
        await store(archive, ct())
        assert await number_changes(archive) == 0  # an earlier transaction is still open
        await transaction.commit()
        await pool.release(slow)
        assert await number_changes(archive) == 5
        found = await rows(archive, "SELECT seq, uid FROM change ORDER BY seq")
        assert [r["seq"] for r in found] == [1, 2, 3, 4, 5]
        assert found[0]["uid"] == "slow"
    finally:
        await pool.close()


async def counted(archive: Archive) -> None:
    """Have each connection report what it did; one that is idle does so after ten seconds."""
    flush = "SELECT pg_stat_force_next_flush(), pg_sleep(0.02)"
    await asyncio.gather(*(archive.db.fetch_sql(flush) for _ in range(archive.settings.database_pool)))


async def test_tables_being_filled_are_analysed_each_time_they_double(archive: Archive) -> None:
    analysed = []
    for _ in range(50):
        await store(archive, ct())
        await counted(archive)
        analysed.append(await analyze_young(archive))
    assert analysed[0] == 0
    assert 4 <= sum(analysed) <= 16  # three tables (all of one patient), at 20 and 40 rows or a little later
    assert analysed[-5:] == [0] * 5


async def test_a_commit_reads_its_own_rows_only_however_young_the_tables_are(archive: Archive) -> None:
    """Without statistics the tenant alone looks like a unique key to the planner."""
    for _ in range(20):
        await store(archive, ct())
    await counted(archive)
    assert await analyze_young(archive) == 3  # all of one patient
    before = await _index_reads(archive)
    for _ in range(50):
        await store(archive, ct())
    assert (await _index_reads(archive) - before) / 50 < 60


async def _index_reads(archive: Archive) -> int:
    await counted(archive)
    (row,) = await archive.db.fetch_sql("SELECT sum(idx_tup_read)::bigint AS n FROM pg_stat_user_indexes")
    return int(row["n"])


async def test_another_patient_in_a_stored_study_is_stored_and_flagged(archive: Archive) -> None:
    study = new_uid()
    await store(archive, ct(StudyInstanceUID=study, PatientID="P-1"))
    await store(archive, ct(StudyInstanceUID=study, PatientID="P-2"))
    flags = {r["flags"] for r in await rows(archive, "SELECT flags FROM instance")}
    assert flags == {0, 1}
    assert len(await rows(archive, "SELECT * FROM patient")) == 1
