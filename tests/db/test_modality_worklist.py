"""The modality worklist and performed steps on a real PostgreSQL: searches, plans, changes that race, retention."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from dicomweb import scheduled_steps
from dicomweb.errors import BadQuery, Forbidden, NotFound, WorkitemConflict, WorkitemRefused
from dicomweb.query import Query
from dicomweb.tags import Level
from storage import modality_worklist_sql
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.settings import Settings
from tests.files import new_uid
from tests.modality_worklist import dataset, finished, item, performed

OTHER = Access(7, "other", LOCAL.scopes)
STATUS = ("00400100", "00400020")


async def add(archive: Archive, **replaced: Any) -> str:
    return await archive.modality_worklist.create(LOCAL, item(**replaced))


async def stored(archive: Archive, item_id: str) -> Any:
    return orjson.loads((await archive.modality_worklist.get(LOCAL, item_id)).attributes)


async def status_of(archive: Archive, item_id: str) -> str:
    return (await stored(archive, item_id))["00400100"]["Value"][0]["00400020"]["Value"][0]


async def accessions(archive: Archive, access: Access = LOCAL, **keys: str) -> list[str]:
    names = [(name.replace("__", "."), value) for name, value in keys.items()]
    before = archive.db.statements
    found = await archive.modality_worklist.search(access, scheduled_steps.parse(names, 1000, 100), "http://a/s")
    assert archive.db.statements == before + 1
    return [orjson.loads(row)["00080050"]["Value"][0] for row in found.rows]


STEP = "ScheduledProcedureStepSequence__"


async def test_what_is_stored(archive: Archive) -> None:
    item_id = await add(archive, StudyInstanceUID=..., PatientID=" P-1 ")
    found = await stored(archive, item_id)
    assert list(found) == sorted(found)
    assert found["0020000D"]["Value"][0].startswith("2.25.")
    assert found["00100020"]["Value"] == ["P-1"]
    assert found["00080005"]["Value"] == ["ISO_IR 192"]
    assert await status_of(archive, item_id) == "SCHEDULED"
    with pytest.raises(NotFound):
        await archive.modality_worklist.get(OTHER, item_id)
    for unknown in ("9f1cbb72-4bd8-4b92-9b3a-55c9f4c9c0e1", "x", "", "\0"):
        with pytest.raises(NotFound):
            await archive.modality_worklist.get(LOCAL, unknown)


async def test_replace_keeps_study_and_status(archive: Archive) -> None:
    item_id = await add(archive)
    await archive.performed_steps.create(LOCAL, performed())
    await archive.modality_worklist.replace(LOCAL, item_id, item(StudyInstanceUID=..., PatientID="P-2"))
    found = await stored(archive, item_id)
    assert (found["0020000D"]["Value"], found["00100020"]["Value"]) == (["1.2.3.4"], ["P-2"])
    assert await status_of(archive, item_id) == "STARTED"
    await archive.modality_worklist.delete(LOCAL, item_id)
    for call in (
        archive.modality_worklist.delete(LOCAL, item_id),
        archive.modality_worklist.replace(LOCAL, item_id, item()),
    ):
        with pytest.raises(NotFound):
            await call


@pytest.mark.parametrize(
    ("replaced", "attribute"),
    [
        ({"step_Modality": ...}, "00080060"),
        ({"step_ScheduledProcedureStepStartDate": ...}, "00400002"),
        ({"step_ScheduledProcedureStepStartDate": "20260230"}, "00400002"),
        ({"step_ScheduledProcedureStepStartDate": "20260101-20260102"}, "00400002"),
        ({"step_ScheduledProcedureStepStartTime": "2500"}, "00400003"),
        ({"step_ScheduledStationAETitle": "SEVENTEEN_LETTERS"}, "00400001"),
        ({"step_ScheduledProcedureStepStatus": "DREAMING"}, "00400020"),
        ({"StudyInstanceUID": "one"}, "0020000D"),
        ({"PatientID": "x" * 65}, "00100020"),
        ({"PatientName": "ﷺ" * 1000}, "00100010"),
        ({"AccessionNumber": 5}, "00080050"),
    ],
)
async def test_what_no_item_is(archive: Archive, replaced: dict[str, Any], attribute: str) -> None:
    with pytest.raises(WorkitemRefused) as refused:
        await add(archive, **replaced)
    assert refused.value.attribute == attribute


async def test_a_step_is_one_item(archive: Archive) -> None:
    one = item()
    two = item() | {"00400100": {"vr": "SQ", "Value": 2 * one["00400100"]["Value"]}}
    none = {tag: element for tag, element in one.items() if tag != "00400100"}
    for wrong in (two, none):
        with pytest.raises(WorkitemRefused):
            await archive.modality_worklist.create(LOCAL, wrong)
    forced = await archive.modality_worklist.create(LOCAL, none, force=True)
    assert await status_of(archive, forced) == "SCHEDULED"


async def test_who_may(archive: Archive) -> None:
    reader = Access(LOCAL.tenant, "reader", frozenset({"worklist.read"}))
    assert await accessions(archive, reader) == []
    for call in (
        archive.modality_worklist.create(reader, item()),
        archive.performed_steps.create(reader, performed()),
        archive.modality_worklist.search(Access(1, "nobody", frozenset()), Query(Level.INSTANCE), ""),
    ):
        with pytest.raises(Forbidden):
            await call


async def test_matching(archive: Archive) -> None:
    await add(archive, AccessionNumber="A", PatientName="Müller^Jörg", step_ScheduledStationAETitle=["CT1", "CT2"])
    await add(archive, AccessionNumber="B", step_Modality="MR", step_ScheduledProcedureStepStartTime="08")
    await add(archive, AccessionNumber="C", step_ScheduledProcedureStepStartDate="20260115", PatientID="Q-1")
    await add(archive, AccessionNumber="D", step_ScheduledProcedureStepStartDate="20260116", PatientName="=山田^太郎")
    day, time = f"{STEP}ScheduledProcedureStepStartDate", f"{STEP}ScheduledProcedureStepStartTime"
    for keys, expected in (
        ({}, "BACD"),
        ({"PatientName": "MULLER^JORG"}, "A"),
        ({"PatientName": "müll*"}, "A"),
        ({"PatientName": "*山田*"}, "D"),
        ({"PatientID": "P-?"}, "BAD"),
        ({f"{STEP}Modality": "MR"}, "B"),
        ({f"{STEP}ScheduledStationAETitle": "CT2"}, "A"),
        ({f"{STEP}ScheduledStationAETitle": "CT*"}, "BACD"),
        ({f"{STEP}ScheduledPerformingPhysicianName": "HOUSE*"}, "BACD"),
        ({f"{STEP}ScheduledProtocolCodeSequence__CodeValue": "CT7", "AccessionNumber": "A"}, "A"),
        ({f"{STEP}ScheduledProtocolCodeSequence__CodeValue": "CT8"}, ""),
        ({day: "20260114"}, "BA"),
        ({day: "20260115-"}, "CD"),
        ({day: "-20260114"}, "BA"),
        ({time: "0800"}, "B"),
        ({time: "09-11"}, "ACD"),
        ({day: "20260114", time: "10-12"}, "A"),
        # From ten on the 14th to eleven on the 16th; to ten on the 16th.
        ({day: "20260114-20260116", time: "10-11"}, "ACD"),
        ({day: "20260114-20260116", time: "10-1029"}, "AC"),
        ({day: "20260114-20260116", time: "1030"}, "ACD"),
        ({"00400100__00080060": "CT", "limit": "2"}, "AC"),
        ({"limit": "2", "offset": "2"}, "CD"),
        ({"StudyInstanceUID": "1.2.3.4,1.2.3.5", "RequestedProcedureID": "RP1"}, "BACD"),
        ({"PatientSex": "M"}, ""),
    ):
        assert "".join(await accessions(archive, **keys)) == expected, keys
    assert await accessions(archive, OTHER) == []
    for wrong in ({"PatientIdd": "1"}, {day: "today"}, {"limit": "x"}):
        with pytest.raises(BadQuery):
            await accessions(archive, **wrong)


async def test_rows_of_a_search(archive: Archive) -> None:
    item_id = await add(archive, EthnicGroup="none", PatientComments="call")
    service = archive.modality_worklist
    found = await service.search(LOCAL, scheduled_steps.parse([("PatientComments", "c*")], 10, 10), "http://a/s")
    row = orjson.loads(found.rows[0])
    assert list(row) == sorted(row)
    assert row["00081190"] == {"vr": "UR", "Value": [f"http://a/s/{item_id}"]}
    assert "00104000" in row
    assert "00102160" not in row
    everything = await service.search(LOCAL, scheduled_steps.parse([("includefield", "all")], 10, 10), "http://a/s")
    assert "00102160" in orjson.loads(everything.rows[0])


# ------------------------------------------------------------------------------------------------ performed steps


async def test_the_worklist_follows(archive: Archive) -> None:
    mine = await add(archive)
    same_study = await add(archive, step_ScheduledProcedureStepID="SPS2")
    other_study = await add(archive, StudyInstanceUID="1.2.3.9")
    uid = await archive.performed_steps.create(LOCAL, performed())
    assert [await status_of(archive, each) for each in (mine, same_study, other_study)] == [
        "STARTED", "SCHEDULED", "SCHEDULED",
    ]  # fmt: skip
    await archive.performed_steps.update(LOCAL, uid, dataset(PerformedProcedureStepDescription="half"))
    assert await status_of(archive, mine) == "STARTED"
    await archive.performed_steps.update(LOCAL, uid, finished())
    assert await status_of(archive, mine) == "COMPLETED"
    assert len(await accessions(archive)) == 2
    assert len(await accessions(archive, **{f"{STEP}ScheduledProcedureStepStatus": "COMPLETED"})) == 1
    # Without a step ID the whole of what the accession number names is meant.
    again = await archive.performed_steps.create(LOCAL, performed(request_ScheduledProcedureStepID=None))
    assert [await status_of(archive, each) for each in (mine, same_study, other_study)] == [
        "STARTED", "STARTED", "SCHEDULED",
    ]  # fmt: skip
    await archive.performed_steps.update(LOCAL, again, finished("DISCONTINUED", PerformedSeriesSequence=...))
    assert await status_of(archive, same_study) == "DISCONTINUED"


async def test_state_machine(archive: Archive) -> None:
    service = archive.performed_steps
    uid = new_uid()
    assert await service.create(LOCAL, performed(PerformedLocation=..., PatientName=...), uid) == uid
    created = await service.get(LOCAL, uid)
    assert created["00400243"] == {"vr": "SH"}
    assert created["00100010"] == {"vr": "PN"}
    with pytest.raises(WorkitemConflict) as refused:
        await service.create(LOCAL, performed(), uid)
    assert refused.value.failure_reason == 0x0111
    for changes, reason in (
        (finished(PerformedProcedureStepEndTime=...), 0x0121),
        (finished(PerformedSeriesSequence=...), 0x0121),
        (finished("DONE"), 0x0106),
        (dataset(PatientID="P-2"), 0x0106),
        (dataset(PerformedProcedureStepEndDate="20261301"), 0x0106),
    ):
        with pytest.raises(WorkitemRefused) as refused_:
            await service.update(LOCAL, uid, changes)
        assert refused_.value.failure_reason == reason
    assert await service.get(LOCAL, uid) == created
    await service.update(LOCAL, uid, performed(PerformedLocation=..., PatientName=...) | finished())
    for changes in (finished(), finished("DISCONTINUED"), dataset(CommentsOnThePerformedProcedureStep="late")):
        with pytest.raises(WorkitemConflict) as refused:
            await service.update(LOCAL, uid, changes)
        assert refused.value.failure_reason == 0x0110
        assert "may no longer be updated" in refused.value.message
    with pytest.raises(NotFound) as unknown:
        await service.update(LOCAL, new_uid(), finished())
    assert unknown.value.failure_reason == 0x0112


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({"PerformedProcedureStepID": ...}, 0x0120),
        ({"PerformedStationAETitle": None}, 0x0121),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106),
        ({"ScheduledStepAttributesSequence": ...}, 0x0120),
        ({"request_StudyInstanceUID": ...}, 0x0120),
        ({"request_StudyInstanceUID": None}, 0x0121),
        ({"request_StudyInstanceUID": "x"}, 0x0106),
        ({"PerformedProcedureStepStartDate": "yesterday"}, 0x0106),
        ({"PatientID": "x" * 3000}, 0x0106),
        ({"ScheduledStepAttributesSequence": [{"StudyInstanceUID": "1.2"}] * 101}, 0x0106),
    ],
)
async def test_what_cannot_begin(archive: Archive, replaced: dict[str, Any], reason: int) -> None:
    with pytest.raises(WorkitemRefused) as refused:
        await archive.performed_steps.create(LOCAL, performed(**replaced))
    assert refused.value.failure_reason == reason


async def test_only_one_of_many_ends_wins(archive: Archive) -> None:
    uid = await archive.performed_steps.create(LOCAL, performed())
    ends = [finished(status) for status in ("COMPLETED", "DISCONTINUED") * 4]
    outcomes = await asyncio.gather(
        *(archive.performed_steps.update(LOCAL, uid, each) for each in ends), return_exceptions=True
    )
    assert sum(each is None for each in outcomes) == 1
    assert all(isinstance(each, WorkitemConflict) for each in outcomes if each is not None)


async def test_replacing_loses_no_status(archive: Archive) -> None:
    item_id = await add(archive)
    await asyncio.gather(
        archive.performed_steps.create(LOCAL, performed()),
        *(archive.modality_worklist.replace(LOCAL, item_id, item(PatientID=f"P-{n}")) for n in range(8)),
    )
    assert await status_of(archive, item_id) == "STARTED"


# ------------------------------------------------------------------------------------------------ upkeep, plans


async def test_retention(settings: Callable[..., Settings], database_url: str) -> None:
    archive = await open_archive(settings(database_url=database_url, mwl_retention_s=60, mpps_retention_s=3600))
    try:
        old = {"step_ScheduledProcedureStepStartDate": "20200101"}
        over = await add(archive, **old, StudyInstanceUID="1.2.1")
        uid = await archive.performed_steps.create(LOCAL, performed(request_StudyInstanceUID="1.2.1"))
        await archive.performed_steps.update(LOCAL, uid, finished())
        forgotten = await add(archive, **old, StudyInstanceUID="1.2.2")
        planned = await add(archive, step_ScheduledProcedureStepStartDate="29991231", StudyInstanceUID="1.2.3")
        assert await archive.modality_worklist.expire() == 0
        await archive.db.fetch_sql("UPDATE scheduled_step SET changed_at = now() - interval '2 minutes'")
        assert await archive.modality_worklist.expire() == 1
        with pytest.raises(NotFound):
            await archive.modality_worklist.get(LOCAL, over)
        await archive.db.fetch_sql("UPDATE scheduled_step SET changed_at = now() - interval '31 days'")
        assert await archive.modality_worklist.expire() == 1
        with pytest.raises(NotFound):
            await archive.modality_worklist.get(LOCAL, forgotten)
        await archive.modality_worklist.get(LOCAL, planned)
        assert await archive.performed_steps.expire() == 0
        await archive.db.fetch_sql("UPDATE performed_step SET changed_at = now() - interval '2 hours'")
        assert await archive.performed_steps.expire() == 1
    finally:
        await archive.close()


async def test_finished_items_may_stay_visible(settings: Callable[..., Settings], database_url: str) -> None:
    archive = await open_archive(settings(database_url=database_url, mwl_show_finished=True))
    try:
        await add(archive, step_ScheduledProcedureStepStatus="COMPLETED")
        assert await accessions(archive) == ["A1"]
    finally:
        await archive.close()


@pytest.mark.full
async def test_searches_use_an_index(archive: Archive) -> None:
    """Over 100,000 items of 300 days, 50 stations and 20,000 patients."""
    marked = item(PatientID="@P", AccessionNumber="@A", RequestedProcedureID="@R", StudyInstanceUID="1.2.99999999")
    template = orjson.dumps(scheduled_steps.item(marked).attributes).decode()
    for first in range(0, 100_000, 5000):  # a statement has 30 s, and the machine may be busy
        await archive.db.fetch_sql(
            """INSERT INTO scheduled_step (tenant, id, attributes, stations, name_fold)
            SELECT 1, gen_random_uuid(), replace(replace(replace(replace(replace($1::text,
                '20260114', to_char(date '2026-01-01' + n % 300, 'YYYYMMDD')), '@P', 'P' || n % 20000),
                '@A', 'A' || n), '@R', 'R' || n), '1.2.99999999', '1.2.' || n)::jsonb,
                ARRAY['CT' || n % 50], 'name' || n % 20000 || '^first'
            FROM generate_series($2::int + 1, $2::int + 5000) n""",
            template,
            first,
        )
    await archive.db.fetch_sql("ANALYZE scheduled_step")
    day = f"{STEP}ScheduledProcedureStepStartDate"
    searches: list[tuple[dict[str, str], str]] = [
        ({}, "scheduled_by_start"),
        ({day: "20260301"}, "scheduled_by_start"),
        ({day: "20260301-20260302", f"{STEP}Modality": "CT"}, "scheduled_by_start"),
        ({day: "20260301", f"{STEP}ScheduledStationAETitle": "CT7"}, "scheduled_by_(start|station)"),
        ({f"{STEP}ScheduledStationAETitle": "CT7"}, "scheduled_by_(start|station)"),
        ({"PatientID": "P77"}, "scheduled_by_patient"),
        ({"PatientName": "NAME77^*"}, "scheduled_by_name"),
        ({"PatientName": "Name77^First"}, "scheduled_by_name"),
        ({"AccessionNumber": "A77"}, "scheduled_by_accession"),
        ({"StudyInstanceUID": "1.2.77"}, "scheduled_by_study"),
        ({"RequestedProcedureID": "R77"}, "scheduled_by_procedure"),
    ]
    for keys, index in searches:
        query = scheduled_steps.parse([(name.replace("__", "."), value) for name, value in keys.items()], 1000, 100)
        sql, arguments = modality_worklist_sql.scheduled(query, LOCAL, finished=False)
        rows = await archive.db.fetch_sql(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}", *arguments)
        plan = "\n".join(row[0] for row in rows)
        print(keys, plan.rsplit("\n", 1)[-1])
        assert re.search(index, plan), f"{keys}\n{plan}"
        assert "Seq Scan" not in plan, f"{keys}\n{plan}"
