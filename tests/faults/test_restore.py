"""The restore drills of infra/docs/operations.md: an older dump with newer objects, and an index that is lost."""

import asyncio
import os
import shutil
from pathlib import Path

from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.embedded_cluster import find_programs
from storage.importer import run_import
from storage.migrate import migrate
from storage.worker import number_changes, sweep
from tests.faults.stores import assert_sound, compared, count, store
from tests.files import ct, new_uid

COLUMNS = "sop_uid, sop_class, transfer_syntax, object_size, file_sha256, attributes::text, metadata, frame_table, rows"


async def _run(program: str, *arguments: str) -> None:
    directory = os.environ.get("ANOR_POSTGRES_BIN")
    found = find_programs(None, Path(directory) if directory else None).directory / program
    process = await asyncio.create_subprocess_exec(found, *arguments, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def _instances(archive: Archive) -> list[tuple[object, ...]]:
    rows = await archive.db.fetch_sql(f"SELECT {COLUMNS} FROM instance ORDER BY sop_uid")
    return [tuple(row) for row in rows]


async def test_an_older_dump_with_newer_objects(settings, database_url, empty_database_url, tmp_path):
    """PITR: what was deleted since is there again, what was stored since is found and taken in again."""
    archive = await open_archive(settings(database_url=database_url))
    study, later = new_uid(), []
    try:
        for n in range(12):
            await store(archive, ct(StudyInstanceUID=study, InstanceNumber=n))
        await _run("pg_dump", "-Fc", "-f", str(tmp_path / "index.dump"), f"--dbname={database_url}")
        before = await _instances(archive)
        await archive.lifecycle.delete(LOCAL, study)
        later = [(await store(archive, ct(StudyInstanceUID=new_uid()))).sop_instance for _ in range(5)]
        await sweep(archive)  # the grace is longer than the dump is old: every object is still there
        shutil.copytree(archive.settings.data / "objects", tmp_path / "copy")
    finally:
        await archive.close()

    await _run("pg_restore", "--no-owner", f"--dbname={empty_database_url}", str(tmp_path / "index.dump"))
    restored = await open_archive(
        settings(database_url=empty_database_url, objects=str(tmp_path / "copy"), tomb_grace_s=0, sweep_quarantine_s=0)
    )
    try:
        assert await _instances(restored) == before
        _, found = await compared(restored)
        assert {finding.kind for finding in found} == {"unexplained object"}
        assert len(found) == len(later)
        report = await run_import(restored, [tmp_path / "copy"], jobs=4)
        assert (report.stored, report.identical, report.failed) == (5, 12, 0)
        uids = {row["sop_uid"] for row in await restored.db.fetch_sql("SELECT sop_uid FROM instance")}
        assert uids == {str(row[0]) for row in before} | set(later)
        # The copies that nothing explains now are given to the sweeper.
        _, found = await compared(restored)
        keys = [finding.key for finding in found if finding.kind == "unexplained object"]
        await restored.db.fetch_sql("INSERT INTO tomb (key, not_before) SELECT unnest($1::text[]), now()", keys)
        assert await sweep(restored) == len(later)
        await assert_sound(restored)
        await number_changes(restored)
        assert await count(restored, "change WHERE seq IS NULL") == 0
    finally:
        await restored.close()


async def test_a_lost_index_is_made_again_from_the_objects(settings, database_url, empty_database_url, tmp_path):
    archive = await open_archive(settings(database_url=database_url))
    try:
        for n in range(12):
            await store(archive, ct(InstanceNumber=n, StudyInstanceUID=new_uid()))
        before = await _instances(archive)
    finally:
        await archive.close()
    await migrate(empty_database_url)
    again = await open_archive(settings(database_url=empty_database_url, objects=str(tmp_path / "new")))
    try:
        report = await run_import(again, [archive.settings.data / "objects"], jobs=4)
        assert (report.stored, report.failed) == (12, 0)
        assert await _instances(again) == before
        await assert_sound(again)
    finally:
        await again.close()
