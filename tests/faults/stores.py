"""Shared by the fault tests: storing, listing and comparing on an open archive."""

from storage.access import LOCAL
from storage.archive import Archive
from storage.fsck import Check, Finding, Report
from storage.ingest import Stored
from storage.provenance import Provenance

REST = Provenance("rest")


async def store(archive: Archive, data: bytes) -> Stored:
    spool = archive.new_spool()
    for start in range(0, len(data), 1 << 20):
        await spool.write(data[start : start + (1 << 20)])
    return await archive.ingest.store(LOCAL, await spool.finish(), REST)


async def objects(archive: Archive) -> set[str]:
    """What was put; keys that were reserved have empty files."""
    return {info.key async for info in archive.objects.list("") if info.size}


async def compared(archive: Archive, *, deep: bool = True) -> tuple[Report, list[Finding]]:
    found: list[Finding] = []
    report = await Check(archive, found.append).run(deep=deep)
    return report, found


async def assert_sound(archive: Archive) -> Report:
    """No row without its object, no object without a reason, every count and digest right."""
    report, found = await compared(archive)
    assert found == []
    return report


async def count(archive: Archive, table: str) -> int:
    return int((await archive.db.fetch_sql(f"SELECT count(*) AS n FROM {table}"))[0]["n"])
