"""`anor fsck`: finds what is missing, damaged or left over, and nothing else."""

import asyncio
import os
import secrets
from datetime import timedelta

from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.worker import sweep
from tests.faults.stores import assert_sound, compared, objects, store
from tests.files import ct, new_uid
from tests.support import anor


async def _keys(archive: Archive) -> dict[str, str]:
    rows = await archive.db.fetch_sql("SELECT sop_uid, object_key FROM instance")
    return {row["sop_uid"]: row["object_key"] for row in rows}


async def test_a_sound_archive_has_no_findings(archive):
    data = [ct(KVP=str(n)) for n in range(5)]
    for each in data:
        await store(archive, each)
    await archive.lifecycle.delete(LOCAL, (await archive.db.fetch_sql("SELECT study_uid FROM study"))[0][0])
    report = await assert_sound(archive)
    assert (report.instances, report.objects, report.waiting, report.read) == (4, 5, 1, 4)
    assert (report.bytes, report.object_bytes) == (sum(map(len, data[1:])), sum(map(len, data)))


async def test_everything_that_is_wrong_is_found(archive):
    for _ in range(6):
        await store(archive, ct(StudyInstanceUID=new_uid()))
    (missing, shorter, flipped, metadata, miscounted, sound) = (await _keys(archive)).items()
    archive.objects.local_path(missing[1]).unlink()
    os.truncate(archive.objects.local_path(shorter[1]), 300)
    path = archive.objects.local_path(flipped[1])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    await archive.db.fetch_sql("UPDATE instance SET metadata_crc = metadata_crc + 1 WHERE sop_uid = $1", metadata[0])
    await archive.db.fetch_sql(
        "UPDATE series SET instance_count = 9 FROM instance i WHERE i.series = series.id AND sop_uid = $1",
        miscounted[0],
    )
    stray = "1/20260101/" + secrets.token_hex(16)
    await archive.objects.put(stray, [b"nobody's"], 8)
    await archive.objects.put(sound[1] + ".json", [b"{}"], 2)

    _, shallow = await compared(archive, deep=False)
    expected = {
        ("missing object", missing[1]),
        ("wrong size", shorter[1]),
        ("unexplained object", stray),
        ("unexplained object", sound[1] + ".json"),
    }
    assert {(f.kind, f.key) for f in shallow if f.kind != "wrong counts"} == expected
    assert sorted(f.detail.split(":")[0] for f in shallow if f.kind == "wrong counts") == ["series", "study"]
    report, deep = await compared(archive)
    assert {(f.kind, f.key) for f in deep if f.kind != "wrong counts"} == expected | {
        ("wrong digest", flipped[1]),
        ("wrong metadata", metadata[1]),
    }
    assert report.findings["unexplained object"] == 2
    assert not report.sound


async def test_side_objects_belong_to_their_rows(settings, database_url):
    archive = await open_archive(settings(metadata_inline_max=1024))
    try:
        await store(archive, ct(ImageComments=secrets.token_hex(3000)))
        await assert_sound(archive)
        (key,) = (await _keys(archive)).values()
        await archive.objects.delete(key + ".json")
        _, found = await compared(archive)
        assert [(f.kind, f.key) for f in found] == [("missing object", key + ".json")]
    finally:
        await archive.close()


async def test_intents_and_tombs_explain_objects_until_they_are_swept(archive):
    abandoned = "1/20260101/" + secrets.token_hex(16)
    await archive.db.fetch("ingest_intent", 1, timedelta(seconds=-1), [abandoned], ["1.2"], [b""], [4])
    await archive.objects.put(abandoned, [b"left"], 4)
    await archive.objects.put(abandoned + ".json", [b"side"], 4)
    assert (await assert_sound(archive)).waiting == 1
    await sweep(archive)
    assert await objects(archive) == set()
    assert (await assert_sound(archive)).waiting == 0


async def test_a_check_beside_writers_and_deletions_is_quiet(archive):
    end = asyncio.get_running_loop().time() + 2.5
    stored = 0

    async def busy() -> None:
        nonlocal stored
        while asyncio.get_running_loop().time() < end:
            study = new_uid()
            for _ in range(3):
                await store(archive, ct(StudyInstanceUID=study))
                stored += 1
            await archive.lifecycle.delete(LOCAL, study)
            await sweep(archive)
            await store(archive, ct())

    tasks = [asyncio.create_task(busy()) for _ in range(4)]
    rounds = 0
    while asyncio.get_running_loop().time() < end:
        await assert_sound(archive)
        rounds += 1
    await asyncio.gather(*tasks)
    assert rounds >= 2
    assert stored > 10


async def test_the_command_says_what_it_found(archive):
    where = {"data": str(archive.settings.data), "database_url": archive.settings.database_url}
    for _ in range(2):
        await store(archive, ct())
    done = await asyncio.to_thread(anor, "fsck", "--deep", **where)
    assert (done.returncode, "nothing is wrong" in done.stdout) == (0, True), done.stdout + done.stderr
    uid, key = next(iter((await _keys(archive)).items()))
    archive.objects.local_path(key).unlink()
    done = await asyncio.to_thread(anor, "fsck", **where)
    assert done.returncode == 1
    assert f"missing object: {uid} {key}" in done.stdout
    done = await asyncio.to_thread(anor, "fsck", **where | {"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    assert done.returncode == 2
