"""The worklist on a real PostgreSQL: claims that race, searches, subscriptions, retention."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from dicomweb import ups_query
from dicomweb.errors import BadQuery, Forbidden, Gone, NotFound, Unavailable, WorkitemConflict, WorkitemRefused
from dicomweb.ups_events import ASSIGNED, FILTERED_WORKLIST, WORKLIST
from storage import worklist_sql
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.channels import Waiting
from storage.settings import Settings
from tests.files import new_uid
from tests.proxy import PostgresProxy
from tests.worklist import code, discontinued, performed, progress, to_state, workitem

OTHER = Access(7, "other", LOCAL.scopes)


async def find(archive: Archive, *parameters: tuple[str, str], access: Access = LOCAL) -> list[Any]:
    before = archive.db.statements
    found = await archive.worklist.search(access, ups_query.parse(parameters, 1000, 100))
    assert archive.db.statements == before + 1
    return [orjson.loads(row) for row in found.rows]


async def labels(archive: Archive, *parameters: tuple[str, str]) -> list[str]:
    return [row["00741204"]["Value"][0] for row in await find(archive, *parameters)]


async def add(archive: Archive, **replaced: Any) -> str:
    return (await archive.worklist.create(LOCAL, workitem(**replaced))).uid


async def waiting(archive: Archive, aet: str, count: int) -> list[Waiting]:
    """The first events of a channel, in the order in which they come."""
    async with asyncio.timeout(10), archive.channels.open(LOCAL, aet) as channel:
        events = channel.events()
        return [await anext(events) for _ in range(count)]


def states(events: list[Waiting]) -> list[str]:
    return [each.event.content["00741000"]["Value"][0] for each in events if each.event.kind == 1]


async def test_one_of_many_claims_wins(archive: Archive) -> None:
    for _ in range(5):
        uid = await add(archive)
        claims = [to_state("IN PROGRESS", new_uid()) for _ in range(8)]
        outcomes = await asyncio.gather(
            *(archive.worklist.change_state(LOCAL, uid, claim) for claim in claims), return_exceptions=True
        )
        won = [claim for claim, outcome in zip(claims, outcomes, strict=True) if outcome == ""]
        lost = [outcome for outcome in outcomes if outcome != ""]
        assert len(won) == 1
        assert len(lost) == 7
        assert all(isinstance(each, WorkitemConflict) and each.failure_reason == 0xC302 for each in lost)
        owner = won[0]["00081195"]["Value"][0]
        assert await archive.worklist.update(LOCAL, uid, progress(50), owner) == ""


async def test_concurrent_updates_lose_nothing(archive: Archive) -> None:
    uid = await add(archive)
    tags = [f"00091{n:03X}" for n in range(16)]
    private = [{tag: {"vr": "LO", "Value": [tag]}} for tag in tags]
    await asyncio.gather(*(archive.worklist.update(LOCAL, uid, each) for each in private))
    stored = orjson.loads(await archive.worklist.get(LOCAL, uid))
    assert set(tags) <= set(stored)


async def test_every_change_is_told_in_order(archive: Archive) -> None:
    uid = await add(archive)
    await archive.worklist.subscribe(LOCAL, uid, "WATCHER", deletion_lock=False)
    owner = new_uid()
    await archive.worklist.change_state(LOCAL, uid, to_state("IN PROGRESS", owner))
    await archive.worklist.update(LOCAL, uid, progress(10) | performed(), owner)
    await archive.worklist.request_cancel(LOCAL, uid, {"00741238": {"vr": "LT", "Value": ["late"]}})
    await archive.worklist.change_state(LOCAL, uid, to_state("COMPLETED", owner))
    events = await waiting(archive, "WATCHER", 5)
    assert [each.event.kind for each in events] == [1, 1, 3, 2, 1]
    assert states(events) == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert events[3].event.content == {
        "00741236": {"vr": "AE", "Value": ["LOCAL"]},
        "00741238": {"vr": "LT", "Value": ["late"]},
    }
    assert {each.uid for each in events} == {uid}
    # Nothing was settled: a connection that ends at once gets all of them again.
    assert await waiting(archive, "WATCHER", 5) == events


async def test_statements(archive: Archive) -> None:
    async def count(call: Any) -> int:
        before = archive.db.statements
        await call
        return archive.db.statements - before

    dataset, owner = workitem(), new_uid()
    worklist = archive.worklist
    assert await count(worklist.create(LOCAL, dataset, "1.2.3")) == 2
    assert await count(worklist.get(LOCAL, "1.2.3")) == 1
    assert await count(worklist.subscribe(LOCAL, "1.2.3", "A", deletion_lock=True)) == 1
    assert await count(worklist.change_state(LOCAL, "1.2.3", to_state("IN PROGRESS", owner))) == 2
    assert await count(worklist.update(LOCAL, "1.2.3", performed(), owner)) == 2
    assert await count(worklist.change_state(LOCAL, "1.2.3", to_state("COMPLETED", owner))) == 2
    assert await count(worklist.change_state(LOCAL, "1.2.3", to_state("COMPLETED", owner))) == 1
    assert await count(worklist.unsubscribe(LOCAL, "1.2.3", "A")) == 1


SEARCHES: list[tuple[list[tuple[str, str]], list[str]]] = [
    ([], ["b", "a", "c"]),
    ([("ProcedureStepState", "SCHEDULED")], ["b", "a"]),
    ([("ProcedureStepState", "IN PROGRESS")], ["c"]),
    ([("ScheduledProcedureStepStartDateTime", "20260114")], ["b", "a"]),
    ([("ScheduledProcedureStepStartDateTime", "202601141000-")], ["a", "c"]),
    ([("00404005", "-20260114235959")], ["b", "a"]),
    ([("ScheduledStationNameCodeSequence.CodeValue", "GPU-2")], ["a"]),
    ([("00404025.00080100", "GPU*")], ["b", "a"]),
    ([("ScheduledStationNameCodeSequence.CodeValue", "GPU-2"), ("00404025.CodingSchemeDesignator", "OTHER")], []),
    ([("ScheduledWorkitemCodeSequence.CodeValue", "LUNG-NODULES"), ("PatientID", "P-2")], ["a"]),
    ([("PatientName", "doe*")], ["b", "c"]),
    ([("PatientName", "doe^jane")], ["b", "c"]),
    ([("PatientID", "P-?")], ["b", "a", "c"]),
    ([("WorklistLabel", "CT")], ["c"]),
    ([("ReferencedRequestSequence.AccessionNumber", "ACC-1")], ["b"]),
    ([("ReferencedRequestSequence.AccessionNumber", "ACC-1"), ("ReferencedRequestSequence.00401001", "R-2")], []),
    ([("ScheduledProcedureStepPriority", "HIGH\\LOW")], ["a", "c"]),
    ([("InputReadinessState", "UNAVAILABLE")], ["c"]),
    ([("limit", "1"), ("offset", "1")], ["a"]),
    ([("TransactionUID", "1.2.999")], ["b", "a", "c"]),
]


@pytest.fixture
async def filled(archive: Archive) -> Archive:
    """Three steps: b at 9:00 for GPU-1, a at 10:30 for GPU-2, c on the next day and claimed."""
    requests = [
        {"00080050": {"vr": "SH", "Value": ["ACC-1"]}, "00401001": {"vr": "SH", "Value": ["R-1"]}},
        {"00080050": {"vr": "SH", "Value": ["ACC-2"]}, "00401001": {"vr": "SH", "Value": ["R-2"]}},
    ]
    await add(archive, t00741204="a", t00404025=[code("GPU-2")], t00100020="P-2", t00741200="HIGH", t00100010=None)
    await add(archive, t00741204="b", t00404025=[code("GPU-1")], t00404005="202601140900+0100", t0040A370=requests)
    uid = await add(
        archive, t00741204="c", t00404005="20260115", t00741200="LOW", t00404041="UNAVAILABLE", t00741202="CT"
    )
    await archive.worklist.change_state(LOCAL, uid, to_state("IN PROGRESS", "1.2.999"))
    return archive


async def test_search(filled: Archive) -> None:
    for parameters, expected in SEARCHES:
        assert await labels(filled, *parameters) == expected, parameters


async def test_the_work_of_a_station_is_found_by_an_index(filled: Archive) -> None:
    await filled.db.fetch_sql(
        "INSERT INTO workitem (tenant, uid, attributes) SELECT 1, '1.2.9.' || n, attributes"
        " FROM (SELECT attributes FROM workitem WHERE state = 'SCHEDULED' LIMIT 1) w, generate_series(1, 5000) n"
    )
    await filled.db.fetch_sql("ANALYZE workitem")
    keys = [("ProcedureStepState", "SCHEDULED"), ("ScheduledStationNameCodeSequence.CodeValue", "GPU-9")]
    sql, arguments = worklist_sql.search(ups_query.parse(keys, 100, 100), 1)
    plan = "\n".join(row[0] for row in await filled.db.fetch_sql(f"EXPLAIN {sql}", *arguments))
    assert "workitem_by_code" in plan
    assert "Seq Scan" not in plan


async def test_what_a_search_returns(filled: Archive) -> None:
    (row,) = await find(filled, ("ProcedureStepState", "IN PROGRESS"))
    assert "00081195" not in row
    assert row["00080016"]["Value"] == ["1.2.840.10008.5.1.4.34.6.1"]
    assert {"00404010", "00741216", "00400400"}.isdisjoint(row)
    (row,) = await find(filled, ("ProcedureStepState", "IN PROGRESS"), ("includefield", "00404010,00081195"))
    assert "00404010" in row
    assert "00081195" not in row
    (row,) = await find(filled, ("ProcedureStepState", "IN PROGRESS"), ("includefield", "all"))
    assert {"00741216", "00400400"} <= set(row)
    assert "00081195" not in row
    assert ups_query.parse([("TransactionUID", "1.2")], 10, 10).warnings


async def test_subscription_to_the_worklist(archive: Archive) -> None:
    before = await add(archive)
    await archive.worklist.subscribe(LOCAL, WORKLIST, "LOCKER", deletion_lock=True)
    await archive.worklist.subscribe(LOCAL, WORKLIST, "QUIET", deletion_lock=False)
    after = await add(archive, t00404025=[code("GPU-1")])
    # With a lock the state of all that exist is told, without one only what happens (PS3.4 CC.2.4.3).
    events = await waiting(archive, "LOCKER", 3)
    assert [(each.uid, each.event.kind) for each in events] == [(before, 1), (after, 1), (after, ASSIGNED)]
    assert [each.uid for each in await waiting(archive, "QUIET", 2)] == [after, after]
    await archive.worklist.suspend(LOCAL, WORKLIST, "QUIET")
    await add(archive)
    await archive.worklist.change_state(LOCAL, before, to_state("IN PROGRESS", new_uid()))
    assert [each.uid for each in await waiting(archive, "QUIET", 3)] == [after, after, before]
    await archive.worklist.unsubscribe(LOCAL, WORKLIST, "QUIET")
    with pytest.raises(NotFound):
        await archive.worklist.unsubscribe(LOCAL, WORKLIST, "QUIET")
    with pytest.raises(NotFound):
        await archive.worklist.suspend(LOCAL, WORKLIST, "QUIET")


async def test_filtered_subscription(archive: Archive) -> None:
    keys = [("ProcedureStepState", "SCHEDULED"), ("ScheduledStationNameCodeSequence.CodeValue", "GPU-*")]
    mine = await add(archive, t00404025=[code("GPU-1")])
    await add(archive, t00404025=[code("CPU-1")])
    await archive.worklist.subscribe(LOCAL, FILTERED_WORKLIST, "GPU", deletion_lock=True, keys=keys)
    await add(archive)
    new = await add(archive, t00404025=[code("GPU-2")])
    # It does not match any more, and stays subscribed: the filter decides when a subscription is made.
    await archive.worklist.change_state(LOCAL, new, to_state("IN PROGRESS", new_uid()))
    events = await waiting(archive, "GPU", 4)
    assert [(each.uid, each.event.kind) for each in events] == [(mine, 1), (new, 1), (new, ASSIGNED), (new, 1)]
    for wrong in ([], [("limit", "1")], [("Nonsense", "1")], [("PatientID", "*")]):
        with pytest.raises(BadQuery):
            await archive.worklist.subscribe(LOCAL, FILTERED_WORKLIST, "GPU", deletion_lock=False, keys=wrong)


async def test_no_step_slips_between_present_and_future(archive: Archive) -> None:
    async def create(n: int) -> str:
        await asyncio.sleep(0.001 * n)
        return await add(archive)

    for n in range(3):
        aet = f"AE{n}"
        made, _ = await asyncio.gather(
            asyncio.gather(*(create(n) for n in range(20))),
            archive.worklist.subscribe(LOCAL, WORKLIST, aet, deletion_lock=True),
        )
        await asyncio.gather(
            *(archive.worklist.change_state(LOCAL, uid, to_state("IN PROGRESS", new_uid())) for uid in made)
        )
        events = await waiting(archive, aet, 20 * n + 40)
        for uid in made:
            assert states([each for each in events if each.uid == uid]) == ["SCHEDULED", "IN PROGRESS"]


async def test_a_newer_connection_takes_the_channel(archive: Archive) -> None:
    uid = await add(archive)
    await archive.worklist.subscribe(LOCAL, uid, "TWICE", deletion_lock=False)
    async with asyncio.timeout(10), archive.channels.open(LOCAL, "TWICE") as old:
        events = old.events()
        assert (await anext(events)).uid == uid
        ended = asyncio.ensure_future(anext(events, None))
        async with archive.channels.open(LOCAL, "TWICE") as new:
            assert (await anext(new.events())).uid == uid
            assert await ended is None


async def test_sent_events_go_when_the_connection_stays(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.channels.SETTLE_SECONDS", 0.1)
    uid = await add(archive)
    await archive.worklist.subscribe(LOCAL, uid, "STAYS", deletion_lock=False)
    async with asyncio.timeout(10), archive.channels.open(LOCAL, "STAYS") as channel:
        events = channel.events()
        await anext(events)
        following = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.5)
        await archive.worklist.change_state(LOCAL, uid, to_state("IN PROGRESS", new_uid()))
        assert states([await following]) == ["IN PROGRESS"]
    assert states(await waiting(archive, "STAYS", 1)) == ["IN PROGRESS"]


async def test_cancel_needs_somebody_who_hears(archive: Archive) -> None:
    uid = await add(archive)
    await archive.worklist.change_state(LOCAL, uid, to_state("IN PROGRESS", "1.2.3"))
    with pytest.raises(WorkitemConflict, match="nobody") as refused:
        await archive.worklist.request_cancel(LOCAL, uid, {})
    assert refused.value.failure_reason == 0xC312
    await archive.worklist.subscribe(LOCAL, uid, "A", deletion_lock=False)
    assert await archive.worklist.request_cancel(LOCAL, uid, {}) == ""


async def test_a_channel_outlives_an_outage(
    settings: Callable[..., Settings], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.channels._RETRY_SECONDS", 0.1)
    with PostgresProxy(database_url) as proxy:
        behind = await open_archive(settings(database_url=proxy.url))
        archive = await open_archive(settings(database_url=database_url))
        uid = await add(archive)
        await archive.worklist.subscribe(LOCAL, uid, "PATIENT", deletion_lock=False)
        async with asyncio.timeout(20), behind.channels.open(LOCAL, "PATIENT") as channel:
            events = channel.events()
            await anext(events)
            following = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.1)
            proxy.refusing = True
            proxy.cut()
            await archive.worklist.change_state(LOCAL, uid, to_state("IN PROGRESS", new_uid()))
            await asyncio.sleep(0.6)
            assert not following.done()
            proxy.refusing = False
            assert states([await following]) == ["IN PROGRESS"]
        await archive.close()
        await behind.close()


async def test_too_many_subscriptions(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.worklist.MAX_GLOBAL", 2)
    monkeypatch.setattr("storage.channels.MAX_CHANNELS", 1)
    for aet in ("A", "B", "B"):
        await archive.worklist.subscribe(LOCAL, WORKLIST, aet, deletion_lock=False)
    with pytest.raises(Forbidden):
        await archive.worklist.subscribe(LOCAL, WORKLIST, "C", deletion_lock=False)
    async with archive.channels.open(LOCAL, "A"):
        with pytest.raises(Unavailable):
            async with archive.channels.open(LOCAL, "B"):
                pass


async def test_retention_respects_locks(settings: Callable[..., Settings], database_url: str) -> None:
    archive = await open_archive(settings(database_url=database_url, ups_retention_s=0, ups_events_max=2))
    try:
        locked, free, open_ = [await add(archive) for _ in range(3)]
        await archive.worklist.subscribe(LOCAL, locked, "KEEPER", deletion_lock=True)
        await archive.worklist.subscribe(LOCAL, free, "READER", deletion_lock=False)
        for uid in (locked, free):
            await archive.worklist.request_cancel(LOCAL, uid, {})
        assert await find(archive, ("ProcedureStepState", "CANCELED"))
        assert await archive.worklist.expire() == 1
        assert [row["00080018"]["Value"][0] for row in await find(archive)] == [locked, open_]
        with pytest.raises(Gone):
            await archive.worklist.get(LOCAL, free)
        with pytest.raises(Gone):
            await archive.worklist.update(LOCAL, free, progress(1))
        # Of three events the newest two are left, also of those about a step that is gone.
        assert states(await waiting(archive, "READER", 2)) == ["IN PROGRESS", "CANCELED"]
        await archive.worklist.unsubscribe(LOCAL, locked, "KEEPER")
        assert await archive.worklist.expire() == 1
    finally:
        await archive.close()


async def test_tenants_and_scopes(archive: Archive) -> None:
    await add(archive, t00080018=None)
    created = await archive.worklist.create(LOCAL, workitem(), "1.2.3.4")
    assert created.uid == "1.2.3.4"
    await archive.db.fetch_sql("INSERT INTO tenant VALUES (7, 'other')")
    assert await find(archive, access=OTHER) == []
    with pytest.raises(NotFound):
        await archive.worklist.get(OTHER, "1.2.3.4")
    assert (await archive.worklist.create(OTHER, workitem(), "1.2.3.4")).uid == "1.2.3.4"
    reader = Access(1, "reader", frozenset({"worklist.read"}))
    await archive.worklist.get(reader, "1.2.3.4")
    for call in (
        archive.worklist.create(reader, workitem()),
        archive.worklist.update(reader, "1.2.3.4", {}),
        archive.worklist.change_state(reader, "1.2.3.4", {}),
        archive.worklist.request_cancel(reader, "1.2.3.4", {}),
        archive.worklist.subscribe(reader, "1.2.3.4", "A", deletion_lock=True),
        archive.worklist.unsubscribe(reader, "1.2.3.4", "A"),
        archive.worklist.suspend(reader, WORKLIST, "A"),
        archive.worklist.search(Access(1, "nobody", frozenset()), ups_query.parse([], 1, 1)),
    ):
        with pytest.raises(Forbidden):
            await call


async def test_text_that_postgres_cannot_hold(archive: Archive) -> None:
    with pytest.raises(WorkitemRefused):
        await archive.worklist.create(LOCAL, workitem(t00741204=""))
    uid = await add(archive, t00741204="ÄÖ\u6f22 '; DROP TABLE workitem; --")
    assert "DROP" in (await archive.worklist.get(LOCAL, uid)).decode()


async def test_discontinued_by_the_performer(archive: Archive) -> None:
    uid = await add(archive)
    await archive.worklist.change_state(LOCAL, uid, to_state("IN PROGRESS", "1.2.3"))
    with pytest.raises(WorkitemConflict) as refused:
        await archive.worklist.change_state(LOCAL, uid, to_state("CANCELED", "1.2.3"))
    assert (refused.value.failure_reason, refused.value.attribute) == (0xC304, "0074100E")
    await archive.worklist.update(LOCAL, uid, discontinued(), "1.2.3")
    await archive.worklist.change_state(LOCAL, uid, to_state("CANCELED", "1.2.3"))
    (item,) = orjson.loads(await archive.worklist.get(LOCAL, uid))["00741002"]["Value"]
    assert item["00404052"]["Value"][0].endswith("+0000")
