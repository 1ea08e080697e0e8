"""Rows and metadata made anew from the files: as they were, whatever happened to them, and nothing else changes."""

import asyncio
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicomweb.tags import Level
from storage import reconstruction
from storage.access import LOCAL
from storage.archive import Archive
from storage.fsck import Check
from storage.ingest import Stored
from storage.job_runner import JobRunner
from storage.jobs import Claimed, Job
from storage.provenance import Provenance
from storage.reconstruction import RECONSTRUCT, handlers, place_of, whole
from storage.resource import Resource
from storage.revisions import Condition
from storage.stored_syntax import StoredSyntax
from storage.tag_sets import Look
from storage.worker import number_changes, sweep
from tests.files import ct, dataset, encoded, new_uid
from tests.support import Opened

NATIVE, JPEG_LS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80"
_TABLES = {
    "patient": "id", "study": "id", "series": "id", "instance": "sop_uid", "label": "1", "user_metadata": "1",
    "change": "seq", "intent": "key",
}  # fmt: skip
# What may differ afterwards: versions, what the instances of a series are compared with, and how metadata, whose CRC-32
# is compared, are compressed.
_FREE = "'{version,shared_id,metadata}'::text[]"
NOISE = secrets.token_hex(4000)  # which no compression makes short


def _jpeg() -> bytes:
    ds = dcmread(str(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm")))
    ds.ImageComments = NOISE
    out = BytesIO()
    ds.save_as(out)
    return out.getvalue()


_DAMAGE = (
    "UPDATE patient SET attributes = '{}', name_fold = 'x', birth_date = ''",
    "UPDATE study SET attributes = '{}', summary = ARRAY['', '', '', ''], accession = 'lost', grams = '{}'",
    "UPDATE series SET attributes = '{}', modality = 'XX', summary = ARRAY['', '', '', ''], shared = ''",
    "UPDATE instance SET attributes = '{}', rows = NULL, columns = 7, frame_table = NULL, instance_number = 99",
    "UPDATE instance SET bulk_table = '', metadata_crc = 1, metadata_cuts = NULL, metadata_length = 7",
    "UPDATE instance SET metadata = '\\x00' WHERE metadata IS NOT NULL",
)


@pytest.fixture
def opened(opened: Opened) -> Opened:
    """Without graces."""
    return partial(opened, tomb_grace_s=0, sweep_quarantine_s=0)


async def store(archive: Archive, data: bytes) -> Stored:
    spool = archive.new_spool()
    await spool.write(data)
    return await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))


async def some(archive: Archive) -> list[Stored]:
    """Two studies of a patient, one of two series; a document of somebody else in it; a picture in JPEG."""
    study, series = new_uid(), new_uid()
    files = [
        *(
            ct(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n, ImageComments=NOISE)
            for n in (2, 1, 3)
        ),
        ct(
            StudyInstanceUID=study,
            SeriesInstanceUID=new_uid(),
            Modality="MR",
            PatientID="P-astray",
            ImageComments=NOISE,
        ),
        ct(StudyInstanceUID=new_uid(), StudyDescription="another", PatientName="Müller^Anna", ImageComments=NOISE),
        _jpeg(),
    ]
    return [await store(archive, each) for each in files]


async def snapshot(archive: Archive) -> dict[str, Any]:
    found = {}
    for table, key in _TABLES.items():
        rows = await archive.db.fetch_sql(f"SELECT (to_jsonb(t) - {_FREE})::text FROM {table} t ORDER BY {key}")
        found[table] = [orjson.loads(row[0]) for row in rows]
    return found


def same(after: dict[str, Any], before: dict[str, Any]) -> None:
    for table, rows in before.items():
        assert len(after[table]) == len(rows), table
        for row, was in zip(after[table], rows, strict=True):
            assert {name: (value, was[name]) for name, value in row.items() if value != was[name]} == {}, table


async def reconstruct(archive: Archive, resource: Resource | None, **more: Any) -> Job:
    content, studies = await (whole(archive, LOCAL) if resource is None else place_of(archive, LOCAL, resource))
    content |= {"only_this_level": False, "files": False, "permissive": False, "said": {}} | more
    name = await archive.jobs.create(LOCAL, RECONSTRUCT, content, items=studies)
    assert name is not None
    await JobRunner(archive, handlers(archive)).step()
    return await archive.jobs.get(LOCAL, name)


async def damage(archive: Archive) -> None:
    for statement in _DAMAGE:
        await archive.db.fetch_sql(statement)


@pytest.mark.parametrize("inline", [1 << 20, 1024], ids=["metadata in rows", "metadata beside objects"])
async def test_everything_is_as_it_was(opened: Opened, inline: int) -> None:
    async with opened(metadata_inline_max=inline) as archive:
        stored = await some(archive)
        study = Resource.of(Level.STUDY, stored[0].orthanc.study)
        await archive.labels.put(LOCAL, study, "mine")
        await archive.metadata.put(LOCAL, study, 1024, b"kept", Condition())
        before = await snapshot(archive)
        assert (await reconstruct(archive, None)).state == "success"
        same(await snapshot(archive), before)
        await damage(archive)
        job = await reconstruct(archive, None)
        assert (job.state, job.result) == ("success", {"said": {"StudiesCount": 3, "FailedStudiesCount": 0}})
        await sweep(archive)
        after = await snapshot(archive)
        if inline == 1024:  # copies of the objects, with the metadata that belong to them
            for rows in (before["instance"], after["instance"]):
                for row in rows:
                    del row["object_key"]
        same(after, before)
        assert (await Check(archive, lambda _: None).run(deep=True)).sound


async def test_one_level_alone(opened: Opened) -> None:
    async with opened() as archive:
        stored = await some(archive)
        before = await snapshot(archive)
        await damage(archive)
        for level, tables in ((Level.SERIES, ["series"]), (Level.PATIENT, ["study", "patient"])):
            for each in (stored[0], stored[3], stored[4], stored[5]):
                if level is Level.SERIES or each is not stored[3]:
                    await reconstruct(archive, Resource.of(level, getattr(each.orthanc, level)), only_this_level=True)
            after = await snapshot(archive)
            same({table: after[table] for table in tables}, {table: before[table] for table in tables})
            assert {row["instance_number"] for row in after["instance"]} == {99}
        await reconstruct(archive, Resource.of(Level.INSTANCE, stored[0].orthanc.instance), only_this_level=True)
        numbers = sorted(row["instance_number"] for row in (await snapshot(archive))["instance"])
        assert numbers == [2, *[99] * 5]
        assert (await reconstruct(archive, None)).state == "success"
        same(await snapshot(archive), before)


async def test_a_series_leaves_the_others_alone(opened: Opened) -> None:
    async with opened() as archive:
        stored = await some(archive)
        await damage(archive)
        await reconstruct(archive, Resource.of(Level.SERIES, stored[0].orthanc.series))
        rows = await archive.db.fetch_sql(
            "SELECT s.series_uid, s.modality, i.instance_number, i.flags & 1 AS astray "
            "FROM instance i JOIN series s ON s.id = i.series"
        )
        found = {(row["series_uid"], row["modality"], row["instance_number"] == 99, row["astray"]) for row in rows}
        assert (stored[0].series, "CT", False, 0) in found
        assert {each for each in found if each[0] != stored[0].series} == {
            (stored[3].series, "XX", True, 1), (stored[4].series, "XX", True, 0), (stored[5].series, "XX", True, 0),
        }  # fmt: skip


@pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.INSTANCE])
async def test_a_younger_study_does_not_say_who_the_patient_is(opened: Opened, level: Level) -> None:
    async with opened() as archive:
        oldest, younger = [
            await store(archive, ct(StudyInstanceUID=new_uid(), PatientID="P", PatientName=name))
            for name in ("Of^Oldest", "Of^Younger")
        ]
        before = await snapshot(archive)
        assert "Of^Oldest" in str(before["patient"][0]["attributes"])
        assert (await reconstruct(archive, Resource.of(level, getattr(younger.orthanc, level)))).state == "success"
        same(await snapshot(archive), before)
        await archive.db.fetch_sql("UPDATE patient SET attributes = '{}', name_fold = 'x', birth_date = ''")
        await reconstruct(archive, Resource.of(level, getattr(oldest.orthanc, level)))
        same(await snapshot(archive), before)


@pytest.mark.parametrize(("level", "name"), [(Level.STUDY, "StudyDescription"), (Level.SERIES, "SeriesDescription")])
async def test_a_file_that_is_replaced_after_it_was_read_says_nothing(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, level: Level, name: str
) -> None:
    async with opened(duplicates="replace") as archive:
        files = [dataset(PatientID="P", **{name: text}) for text in ("older", "newer")]
        for attribute in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(files[1], attribute, files[0][attribute].value)
        stored = await store(archive, encoded(files[0]))
        read, times = reconstruction._Study._read, []

        async def replaced_meanwhile(self: Any, instance: Any) -> Any:
            spooled = await read(self, instance)
            times.append(instance.key)
            if len(times) == 1:
                await store(archive, encoded(files[1]))
            return spooled

        monkeypatch.setattr(reconstruction._Study, "_read", replaced_meanwhile)
        resource = Resource.of(level, getattr(stored.orthanc, level))
        assert (await reconstruct(archive, resource, only_this_level=True)).state == "success"
        (row,) = (await snapshot(archive))[str(level)]
        assert ("newer" in str(row["attributes"]), len(set(times))) == (True, 2)


async def test_what_was_kept_of_an_instance_is_forgotten(opened: Opened) -> None:
    async with opened() as archive:
        right, other = [await store(archive, ct(PatientName=name)) for name in ("Right^Name", "Other^Name")]
        await archive.db.fetch_sql(
            "UPDATE instance i SET (metadata, metadata_crc, metadata_length) = "
            "(SELECT metadata, metadata_crc, metadata_length FROM instance WHERE sop_uid = $1) WHERE i.sop_uid = $2",
            other.sop_instance, right.sop_instance,
        )  # fmt: skip
        resource = Resource.of(Level.INSTANCE, right.orthanc.instance)

        async def said() -> list[bool]:
            instance = await archive.retrieve.instance(LOCAL, right.study, right.series, right.sop_instance)
            tags = await archive.tags.instance(LOCAL, resource, Look())
            return [b"Right^Name" in tags, "Right^Name" in str(await archive.pixels.dataset(LOCAL, instance))]

        assert (await said(), await said()) == ([False, False], [False, False])
        assert (await reconstruct(archive, resource)).state == "success"
        assert await said() == [True, True]


async def test_files_are_announced_to_the_rules(opened: Opened) -> None:
    async with opened() as archive:
        stored = await some(archive)
        await reconstruct(archive, Resource.of(Level.INSTANCE, stored[0].orthanc.instance), files=True)
        rows = await archive.db.fetch_sql("SELECT uid FROM change WHERE kind = 'UpdatedInstance'")
        assert [row["uid"] for row in rows] == [stored[0].sop_instance]


async def test_files_follow_rules_that_came_later(opened: Opened) -> None:
    async with opened() as archive:
        stored = await some(archive)
        await number_changes(archive)
    async with opened(transcode=f"CT={JPEG_LS}") as archive:
        reader = StoredSyntax(archive)
        await reader.step()  # which begins with what comes from now on
        study = Resource.of(Level.STUDY, stored[0].orthanc.study)
        for files, syntaxes in ((False, [NATIVE] * 4), (True, [NATIVE, *[JPEG_LS] * 3])):
            await reconstruct(archive, study, files=files)
            await number_changes(archive)
            await reader.step()
            _, found = await archive.retrieve.instances(LOCAL, stored[0].study)
            assert sorted(each.transfer_syntax for each in found) == syntaxes
        before = await snapshot(archive)
        await damage(archive)
        assert (await reconstruct(archive, None)).state == "success"
        same(await snapshot(archive), before)


async def test_a_damaged_file_changes_nothing(opened: Opened) -> None:
    async with opened() as archive:
        stored = await some(archive)
        rows = await archive.db.fetch_sql("SELECT object_key FROM instance WHERE sop_uid = $1", stored[4].sop_instance)
        path = archive.objects.local_path(rows[0]["object_key"])
        assert path is not None
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
        before = await snapshot(archive)
        job = await reconstruct(archive, None)
        assert (job.state, job.error_kind) == ("failure", "corrupt-object")
        job = await reconstruct(archive, None, permissive=True)
        assert (job.state, job.result) == ("success", {"said": {"StudiesCount": 3, "FailedStudiesCount": 1}})
        await archive.damage.settled()
        after = await snapshot(archive)
        (note,) = after.pop("user_metadata")
        assert (note["kind"], note["value"]) == (-1, f"corrupt-object {rows[0]['object_key']}")
        assert before.pop("user_metadata") == []
        same(after, before)


async def test_another_worker_goes_on(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that dies within the second study leaves it to the next, which does not begin with the first again."""
    async with opened() as archive:
        await some(archive)
        before = await snapshot(archive)
        await damage(archive)
        done: list[str] = []
        original = reconstruction._Study.run

        async def dies(self: Any) -> None:
            done.append(self._study)
            if len(done) == 2:
                raise asyncio.CancelledError
            await original(self)

        monkeypatch.setattr(reconstruction._Study, "run", dies)
        content, studies = await whole(archive, LOCAL)
        content |= {"only_this_level": False, "files": False, "permissive": False, "said": {}}
        name = await archive.jobs.create(LOCAL, RECONSTRUCT, content, items=studies)
        assert name is not None
        now = datetime.now(UTC)
        await archive.db.fetch_sql("UPDATE job SET state = 'running', heartbeat_at = now() - interval '1 hour'")
        job = Claimed(name, LOCAL.tenant, RECONSTRUCT, content, None, 0, 1, now)
        with suppress(asyncio.CancelledError):
            await reconstruction.run(archive, job, Path("/nowhere"), lambda _: None)
        assert len(done) == 2
        await JobRunner(archive, handlers(archive)).step()
        assert done == [studies[0], studies[1], studies[1], studies[2]]
        assert (await archive.jobs.get(LOCAL, name)).state == "success"
        same(await snapshot(archive), before)


async def test_instances_that_come_and_go_meanwhile(opened: Opened) -> None:
    async with opened(duplicates="replace") as archive:
        study, series = new_uid(), new_uid()
        files = [dataset(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n) for n in range(40)]
        stored = [await store(archive, encoded(each)) for each in files]

        async def traffic() -> None:
            for number, each in enumerate(files):
                if number % 2:
                    await archive.lifecycle.delete(LOCAL, study, series, stored[number].sop_instance)
                else:
                    each.KVP = "77"
                    await store(archive, encoded(each))

        resource = Resource.of(Level.STUDY, stored[0].orthanc.study)
        job, _ = await asyncio.gather(reconstruct(archive, resource), traffic())
        assert job.state == "success"
        await sweep(archive)
        assert (await Check(archive, lambda _: None).run(deep=True)).sound
        rows = await archive.db.fetch_sql(
            "SELECT members_of(s.shared) || i.attributes AS of FROM instance i JOIN series s ON s.id = i.series"
        )
        assert [orjson.loads(row["of"])["00180060"]["Value"] for row in rows] == [[77]] * 20
