"""Objects that are missing, short or changed: what reads find is counted, logged, and noted until it is whole."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from dicomweb.errors import CorruptObject, NotFound, ObjectMissing
from dicomweb.tags import Level
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.fsck import Check, Finding
from storage.ingest import Stored
from storage.provenance import Provenance
from storage.resource import Resource
from storage.resources import View
from storage.retrieve import Instance
from storage.revisions import Condition
from storage.settings import Settings
from storage.spool import Spool
from storage.worker import sweep
from tests.files import ct, new_uid

REST = Provenance("rest")


@pytest.fixture
async def archive(settings: Callable[..., Settings], database_url: str) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(database_url=database_url, tomb_grace_s=0, metadata_inline_max=1024))
    yield opened
    await opened.close()


@pytest.fixture
async def either(
    settings: Callable[..., Settings], database_url: str, either_store: dict[str, object]
) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(database_url=database_url, tomb_grace_s=0, **either_store))
    yield opened
    await opened.close()


async def store(archive: Archive, data: bytes) -> Stored:
    return await archive.ingest.store(LOCAL, await archive.new_spool().collect(_once(data)), REST)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def instance_of(archive: Archive, stored: Stored) -> Instance:
    return await archive.retrieve.instance(LOCAL, stored.study, stored.series, stored.sop_instance)


async def read(archive: Archive, instance: Instance, by: str) -> None:
    """Read an instance in one of the ways in which front ends do."""
    retrieve = archive.retrieve
    match by:
        case "file":
            async with aclosing(retrieve.file(instance)) as chunks:
                async for _ in chunks:
                    pass
        case "files":
            async with aclosing(retrieve.files([instance])) as files:
                async for _ in files:
                    pass
        case "frames":
            await retrieve.read_all(await retrieve.frames(LOCAL, instance.study, instance.series, instance.sop, [1]))
        case "header":
            await archive.contents.header(LOCAL, instance)
        case "transcoded":
            async with aclosing(archive.transcode.file(LOCAL, instance, "1.2.840.10008.1.2.4.80")) as chunks:
                async for _ in chunks:
                    pass


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    lines = [record.getMessage() for record in caplog.records if record.name == "storage.damage"]
    return [json.loads(line) for line in lines]


async def findings(archive: Archive, *, deep: bool = False) -> list[tuple[str, str]]:
    found: list[Finding] = []
    await Check(archive, found.append).run(deep=deep)
    return [(each.kind, each.uid) for each in found]


async def cut(archive: Archive, key: str, data: bytes, kept: int) -> None:
    """Have the store hold only the first bytes of an object."""
    await archive.objects.delete(key)
    await archive.objects.put(key, [data[:kept]], kept)


@pytest.mark.parametrize("by", ["file", "files", "frames", "header", "transcoded"])
async def test_a_missing_object_is_made_known(archive: Archive, caplog: pytest.LogCaptureFixture, by: str) -> None:
    data = ct(PatientName="Canary^Damage")
    stored = await store(archive, data)
    instance = await instance_of(archive, stored)
    assert await archive.damage.count() == 0
    await archive.objects.delete(instance.key)
    for _ in range(3):
        with pytest.raises(ObjectMissing):
            await read(archive, instance, by)
    await archive.damage.settled()
    assert archive.damage.counts == {"object-missing": 3}
    assert archive.counters()["damaged_reads", "reason", "object-missing"] == 3
    assert await archive.damage.count() == 1
    (line,) = logged(caplog)
    assert line == {
        "event": "damaged-object",
        "reason": "object-missing",
        "instance": stored.sop_instance,
        "key": instance.key,
    }
    assert await findings(archive) == [("missing object", stored.sop_instance)]

    assert (await store(archive, data)).status == "identical"
    assert await archive.damage.count() == 0
    await read(archive, await instance_of(archive, stored), by)
    assert await findings(archive, deep=True) == []
    assert await archive.db.fetch_sql("SELECT FROM user_metadata") == []
    assert "Canary" not in caplog.text


async def test_either_store_says_what_is_short(either: Archive) -> None:
    archive, data = either, ct()
    stored = await store(archive, data)
    instance = await instance_of(archive, stored)
    await cut(archive, instance.key, data, 700)
    for by in ("file", "frames"):
        with pytest.raises(CorruptObject):
            await read(archive, instance, by)
    await archive.objects.delete(instance.key)
    with pytest.raises(ObjectMissing):
        await read(archive, instance, "file")
    await archive.damage.settled()
    assert archive.damage.counts == {"corrupt-object": 2, "object-missing": 1}
    assert await archive.damage.count() == 1
    # An operator brings the object back from a copy; whoever looks next, ends the note.
    await archive.objects.put(instance.key, [data], len(data))
    await archive.damage.recheck(archive.objects)
    assert await archive.damage.count() == 0


async def test_only_the_digest_is_wrong(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    """What no read can see fsck notes, and the same file heals it although the object is as long as it should be."""
    data = ct()
    stored = await store(archive, data)
    instance = await instance_of(archive, stored)
    path = archive.objects.local_path(instance.key)
    assert path is not None
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\xff\x00\xff")
    assert await findings(archive) == []
    assert await findings(archive, deep=True) == [("wrong digest", stored.sop_instance)]
    assert await archive.damage.count() == 1
    assert await findings(archive) == [("wrong digest", stored.sop_instance)]
    await archive.damage.recheck(archive.objects)
    assert await archive.damage.count() == 1
    assert len(logged(caplog)) == 1
    await asyncio.sleep(1.1)  # how long the number of notes is believed
    assert (await store(archive, data)).status == "identical"
    assert await findings(archive, deep=True) == []
    assert await archive.damage.count() == 0


async def test_lost_metadata_beside_the_object(archive: Archive) -> None:
    data = ct(ImageComments=os.urandom(4000).hex())
    stored = await store(archive, data)
    instance = await instance_of(archive, stored)
    await archive.objects.delete(instance.key + ".json")
    with pytest.raises(ObjectMissing):
        await archive.retrieve.metadata(LOCAL, stored.study, stored.series, gzip=False)
    with pytest.raises(ObjectMissing):
        await archive.tags.document(LOCAL, Resource.of(Level.INSTANCE, stored.orthanc.instance))
    await archive.damage.settled()
    assert (archive.damage.counts, await archive.damage.count()) == ({"object-missing": 2}, 1)
    assert (await store(archive, data)).status == "identical"
    assert await archive.damage.count() == 0
    await archive.retrieve.metadata(LOCAL, stored.study, stored.series, gzip=False)


async def test_what_was_deleted_meanwhile_is_not_damaged(archive: Archive) -> None:
    stored = await store(archive, ct())
    instance = await instance_of(archive, stored)
    await archive.lifecycle.delete(LOCAL, stored.study)
    await sweep(archive)
    with pytest.raises(ObjectMissing):
        await read(archive, instance, "file")
    await archive.damage.settled()
    assert (archive.damage.counts, await archive.damage.count()) == ({}, 0)


async def test_a_note_goes_with_its_instance_and_is_seen_by_no_client(archive: Archive) -> None:
    stored = await store(archive, ct())
    instance = await instance_of(archive, stored)
    resource = Resource.of(Level.INSTANCE, stored.orthanc.instance)
    await archive.metadata.put(LOCAL, resource, 1024, b"mine", Condition())
    await archive.objects.delete(instance.key)
    with pytest.raises(ObjectMissing):
        await read(archive, instance, "file")
    await archive.damage.settled()
    assert [(each.kind, each.value) for each in await archive.metadata.of(LOCAL, resource)] == [(1024, "mine")]
    assert "mine" in (await archive.resources.metadata(LOCAL, resource)).values()
    assert not any("object-missing" in each for each in (await archive.resources.metadata(LOCAL, resource)).values())
    described = await archive.resources.one(LOCAL, resource, View())
    assert "object-missing" not in json.dumps(described, default=str)
    await archive.lifecycle.delete(LOCAL, stored.study)
    assert await archive.damage.count() == 0
    assert await archive.db.fetch_sql("SELECT FROM user_metadata") == []


async def test_attachments(archive: Archive) -> None:
    stored = await store(archive, ct(StudyInstanceUID=new_uid()))
    resource = Resource.of(Level.STUDY, stored.orthanc.study)
    spool = Spool(archive.objects.spool_dir, memory_limit=1000, max_size=1 << 20, raw=True)
    await archive.attachments.put(LOCAL, resource, 1024, await spool.collect(_once(b"a report")), Condition())
    (attached,) = await archive.attachments.of(LOCAL, resource)
    await archive.objects.delete(attached.key)
    with pytest.raises(ObjectMissing):
        await archive.attachments.digest(attached)
    await archive.damage.settled()
    assert (archive.damage.counts, await archive.damage.count()) == ({"object-missing": 1}, 1)
    assert await findings(archive) == [("missing object", resource.id.hex())]
    await archive.objects.put(attached.key, [b"a report"], 8)
    assert await findings(archive) == []
    assert await archive.damage.count() == 0
    with pytest.raises(NotFound):
        await archive.attachments.of(LOCAL, Resource(Level.STUDY, bytes(20)))
