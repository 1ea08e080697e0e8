"""UPS-RS against a running server with two workers: each transaction of PS3.18 chapter 11, and the event channel."""

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicomweb.native_xml import native_xml
from dicomweb.native_xml_reader import read_native_xml
from tests.files import new_uid
from tests.http.bodies import ROOT, problem
from tests.support import ROOT as TREE
from tests.support import RunningServer, running_server
from tests.websocket import PING, PONG, TEXT, Closed, Refused, connected
from tests.worklist import code, discontinued, performed, progress, to_state, workitem

WORKLIST, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
TYPE = {"Content-Type": "application/dicom+json"}


def create(web: httpx.Client, uid: str | None = None, **replaced: Any) -> httpx.Response:
    query = f"?{uid}" if uid else ""
    return web.post(f"{ROOT}/workitems{query}", json=workitem(**replaced), headers=TYPE)


def created(web: httpx.Client, **replaced: Any) -> str:
    uid = new_uid()
    assert create(web, uid, **replaced).status_code == 201
    return uid


def state(web: httpx.Client, uid: str, wanted: str, transaction: str | None) -> httpx.Response:
    return web.put(f"{ROOT}/workitems/{uid}/state", json=to_state(wanted, transaction), headers=TYPE)


def update(web: httpx.Client, uid: str, dataset: Any, transaction: str = "") -> httpx.Response:
    query = f"?{transaction}" if transaction else ""
    return web.post(f"{ROOT}/workitems/{uid}{query}", json=dataset, headers=TYPE)


def cancel(web: httpx.Client, uid: str, **keywords: Any) -> httpx.Response:
    return web.post(f"{ROOT}/workitems/{uid}/cancelrequest", **keywords)


def retrieved(web: httpx.Client, uid: str) -> Any:
    answer = web.get(f"{ROOT}/workitems/{uid}", headers={"Accept": "application/dicom+json"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    return answer.json()


def said(answer: httpx.Response) -> str:
    """The text of the Warning header behind code and service."""
    return re.sub(r"^299 http://\S+/dicom-web: ", "", answer.headers.get("warning", ""))


def subscribe(web: httpx.Client, resource: str, aet: str, query: str = "") -> str:
    answer = web.post(f"{ROOT}/workitems/{resource}/subscribers/{aet}{query}")
    assert (answer.status_code, answer.content) == (201, b"")
    return answer.headers["content-location"]


def new_aet() -> str:
    return f"T{new_uid()[-12:]}"


def test_life_of_a_workitem(web: httpx.Client, server: RunningServer) -> None:
    uid, transaction = new_uid(), new_uid()
    answer = create(web, uid)
    assert (answer.status_code, answer.content, said(answer)) == (201, b"", "")
    assert answer.headers["location"] == f"{server.dicomweb}/workitems/{uid}"
    stored = retrieved(web, uid)
    assert stored["00080018"]["Value"] == [uid]
    assert stored["00741000"]["Value"] == ["SCHEDULED"]
    assert {tag: stored[tag] for tag in workitem()} == workitem()

    assert state(web, uid, "IN PROGRESS", transaction).status_code == 200
    assert update(web, uid, progress(30), transaction).status_code == 200
    assert update(web, uid, performed(), transaction).status_code == 200
    done = state(web, uid, "COMPLETED", transaction)
    assert (done.status_code, done.content, said(done)) == (200, b"", "")
    again = state(web, uid, "COMPLETED", transaction)
    assert (again.status_code, said(again)) == (200, "The UPS is already in the requested state of COMPLETED.")
    stored = retrieved(web, uid)
    assert stored["00741000"]["Value"] == ["COMPLETED"]
    assert transaction not in str(stored)
    found = web.get(f"{ROOT}/workitems?SOPInstanceUID={uid}&includefield=all,TransactionUID").json()
    assert [each["00741000"]["Value"] for each in found] == [["COMPLETED"]]
    assert transaction not in str(found)


def test_the_documented_example(server: RunningServer, web: httpx.Client) -> None:
    text = (TREE / "infra/docs/worklist.md").read_text("utf-8")
    uid = new_uid()
    script = text.split("```")[1].replace("http://127.0.0.1:8042/dicom-web", server.dicomweb).replace("2.25.1001", uid)
    ran = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=60, check=True)
    assert re.findall(r"HTTP/1.1 (\d+) ", ran.stdout) == ["201", "200", "200", "200", "200"]
    assert retrieved(web, uid)["00741000"]["Value"] == ["COMPLETED"]


def test_minimal_create_is_completed_and_said(web: httpx.Client) -> None:
    required = {"00741000", "00741200", "00741204", "00404005", "00404041"}
    minimal = {tag: element for tag, element in workitem().items() if tag in required}
    for body in (minimal, [minimal]):
        answer = web.post(f"{ROOT}/workitems", json=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, said(answer)) == (201, "The Workitem was created with modifications.")
        stored = web.get(answer.headers["location"]).json()
        assert stored["00741202"]["Value"] == ["DEFAULT"]
        assert stored["00404021"] == {"vr": "SQ"}


def test_where_the_uid_comes_from(web: httpx.Client, server: RunningServer) -> None:
    uid = new_uid()
    for query, in_dataset in ((f"?workitem={uid}", None), ("", uid), (f"?{uid}", None), (f"?{uid}", uid)):
        answer = web.post(f"{ROOT}/workitems{query}", json=workitem(t00080018=in_dataset or []), headers=TYPE)
        first = query.startswith("?workitem")
        assert answer.status_code == (201 if first else 409)
        if not first:
            assert problem(answer) == "workitem-conflict"
    assert create(web, new_uid(), t00080018=new_uid()).status_code == 400
    assert create(web, "workitem=1..2").status_code == 400
    assert create(web, "wrong=1").status_code == 400


@pytest.mark.parametrize(
    ("replaced", "attribute"),
    [
        ({"t00741000": None}, "00741000"),
        ({"t00741000": "IN PROGRESS"}, "00741000"),
        ({"t00741200": None}, "00741200"),
        ({"t00741200": "SOON"}, "00741200"),
        ({"t00741204": ""}, "00741204"),
        ({"t00404005": None}, "00404005"),
        ({"t00404005": "tomorrow"}, "00404005"),
        ({"t00404041": {"vr": "CS"}}, "00404041"),
        ({"t00081195": "1.2.3"}, "00081195"),
        ({"t00741216": performed()["00741216"]}, "00741216"),
        ({"t00400400": "a\u0000b"}, "00400400"),
        ({"t00404025": {"vr": "LO", "Value": ["x"]}}, "00404025"),
    ],
    ids=str,
)
def test_refused_creates_name_the_attribute(web: httpx.Client, replaced: dict[str, Any], attribute: str) -> None:
    answer = create(web, new_uid(), **replaced)
    assert (answer.status_code, problem(answer), answer.json()["attribute"]) == (400, "workitem-refused", attribute)


def test_bodies_and_types(web: httpx.Client) -> None:
    path = f"{ROOT}/workitems?{new_uid()}"
    for kind in ("application/xml", "text/plain"):
        assert web.post(path, content=b"{}", headers={"Content-Type": kind}).status_code == 415
    assert web.post(path, content=b"{}").status_code == 415
    assert web.post(path, json=workitem(), headers=TYPE | {"Content-Encoding": "br"}).status_code == 415
    for body in (b"", b"[]", b"{", b"7", b"[{},{}]", b'{"x":1}', b"[" * 5000, b'{"00080005":{"vr":"CS","Value":7}}'):
        answer = web.post(path, content=body, headers=TYPE)
        assert answer.status_code == 400, body[:20]
    assert web.post(path, content=b" " * (5 << 20), headers=TYPE).status_code == 413
    assert web.get(f"{ROOT}/workitems", headers={"Accept": "text/xml"}).status_code == 406
    assert web.get(f"{ROOT}/workitems/1.2.3", headers={"Accept": "text/html"}).status_code == 406
    assert web.get(f"{ROOT}/workitems/abc").status_code == 400
    assert web.get(f"{ROOT}/workitems/1.2.3").status_code == 404


def test_updates_that_are_refused(web: httpx.Client) -> None:
    uid, transaction = created(web), new_uid()
    inconsistent = "The submitted request is inconsistent with the current state of the Workitem."

    def outcome(answer: httpx.Response) -> tuple[int, str]:
        return answer.status_code, said(answer)

    assert outcome(update(web, uid, progress(1), transaction)) == (
        409,
        "The target URI did not reference a claimed Workitem.",
    )
    assert update(web, uid, {"00741204": {"vr": "LO", "Value": ["renamed"]}}).status_code == 200
    for fixed in ("00100020", "00100010", "00741000", "0040A370"):
        changed = {fixed: workitem(t00100010=[{"Alphabetic": "Roe"}], t00100020="P-9", t0040A370=[code("X")])[fixed]}
        if fixed == "00741000":
            changed[fixed] = {"vr": "CS", "Value": ["COMPLETED"]}
        answer = update(web, uid, changed)
        assert (answer.status_code, answer.json()["attribute"]) == (400, fixed)
    assert update(web, uid, {"00741200": {"vr": "CS"}}).json()["attribute"] == "00741200"
    # What was retrieved may come back: nothing fixed is changed by it.
    assert update(web, uid, retrieved(web, uid)).status_code == 200
    assert state(web, uid, "IN PROGRESS", transaction).status_code == 200
    assert outcome(update(web, uid, progress(1))) == (400, inconsistent)
    assert outcome(update(web, uid, progress(1), new_uid())) == (400, inconsistent)
    in_dataset = progress(2) | {"00081195": {"vr": "UI", "Value": [transaction]}}
    assert web.put(f"{ROOT}/workitems/{uid}", json=[in_dataset], headers=TYPE).status_code == 200
    named = web.post(f"{ROOT}/workitems/{uid}?transaction-uid={transaction}", json=discontinued(), headers=TYPE)
    assert named.status_code == 200
    assert state(web, uid, "CANCELED", transaction).status_code == 200
    assert outcome(update(web, uid, progress(3), transaction)) == (400, inconsistent)
    assert update(web, "1.2.3", progress(3)).status_code == 404


def test_states_that_are_refused(web: httpx.Client) -> None:
    uid, transaction = created(web), new_uid()
    inconsistent = "The submitted request is inconsistent with the state of the UPS Instance."

    def outcome(wanted: str, given: str | None) -> tuple[int, str]:
        answer = state(web, uid, wanted, given)
        return answer.status_code, said(answer)

    assert outcome("IN PROGRESS", None) == (400, "The Transaction UID is missing.")
    assert outcome("COMPLETED", transaction) == (409, inconsistent)
    assert outcome("SCHEDULED", transaction) == (400, inconsistent)
    assert outcome("IN PROGRESS", transaction) == (200, "")
    assert outcome("IN PROGRESS", transaction) == (409, inconsistent)
    assert outcome("IN PROGRESS", new_uid()) == (409, inconsistent)
    assert outcome("COMPLETED", new_uid()) == (400, "The Transaction UID is incorrect.")
    assert outcome("COMPLETED", None) == (400, "The Transaction UID is missing.")
    missing = state(web, uid, "COMPLETED", transaction)
    assert (missing.status_code, missing.json()["attribute"]) == (409, "00741216")
    assert state(web, "1.2.3", "IN PROGRESS", transaction).status_code == 404


def test_racing_claims_over_http(server: RunningServer, web: httpx.Client) -> None:
    uid = created(web)

    async def race() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            claims = [
                client.put(f"{ROOT}/workitems/{uid}/state", json=to_state("IN PROGRESS", new_uid()), headers=TYPE)
                for _ in range(12)
            ]
            return sorted(answer.status_code for answer in await asyncio.gather(*claims))

    assert asyncio.run(race()) == [200] + [409] * 11


def test_cancel_requests(web: httpx.Client) -> None:
    scheduled, claimed, transaction = created(web), created(web), new_uid()
    reason = {"00741238": {"vr": "LT", "Value": ["Study repeated"]}}
    assert cancel(web, scheduled, json=reason, headers=TYPE).status_code == 202
    stored = retrieved(web, scheduled)
    assert stored["00741000"]["Value"] == ["CANCELED"]
    (item,) = stored["00741002"]["Value"]
    assert item["00741238"] == reason["00741238"]
    assert item["0074100E"]["Value"][0]["00080100"]["Value"] == ["110513"]
    again = cancel(web, scheduled)
    assert (again.status_code, said(again)) == (202, "The UPS is already in the requested state of CANCELED.")

    state(web, claimed, "IN PROGRESS", transaction)
    alone = cancel(web, claimed)
    assert (alone.status_code, said(alone)) == (409, "The performer cannot be contacted.")
    subscribe(web, claimed, new_aet())
    assert cancel(web, claimed).status_code == 202
    assert retrieved(web, claimed)["00741000"]["Value"] == ["IN PROGRESS"]
    update(web, claimed, performed(), transaction)
    assert state(web, claimed, "COMPLETED", transaction).status_code == 200
    late = cancel(web, claimed)
    assert (late.status_code, said(late)) == (409, "The UPS is already COMPLETED.")
    assert cancel(web, "1.2.3").status_code == 404


def test_search(web: httpx.Client, server: RunningServer) -> None:
    label = f"L{new_uid()[-10:]}"
    for hour in ("11", "09", "10"):
        created(web, t00741202=label, t00741204=hour, t00404005=f"20260601{hour}00", t00404025=[code(f"GPU-{hour}")])

    def found(query: str) -> list[str]:
        answer = web.get(f"{ROOT}/workitems?WorklistLabel={label}&{query}")
        assert answer.status_code == 200, answer.text
        return [row["00741204"]["Value"][0] for row in answer.json()]

    assert found("") == ["09", "10", "11"]
    assert found("ScheduledStationNameCodeSequence.CodeValue=GPU-10&ProcedureStepState=SCHEDULED") == ["10"]
    assert found("ScheduledProcedureStepStartDateTime=202606010930-202606011030") == ["10"]
    assert found("limit=1&offset=2") == ["11"]
    assert found("ProcedureStepState=COMPLETED") == []
    assert web.get(f"{ROOT}/workitems?WorklistLabel={label}&limit=0").json() == []
    answer = web.get(f"{ROOT}/workitems?WorklistLabel={label}&TransactionUID=1.2.3&fuzzymatching=true")
    assert len(answer.json()) == 3
    assert [text.partition(f"{server.dicomweb}: ")[2][:40] for text in answer.headers.get_list("warning")] == [
        "The match parameter TransactionUID is no",
        "The fuzzymatching parameter is not suppo",
    ]
    wrong = web.get(f"{ROOT}/workitems?WorklistLabl=1")
    assert (wrong.status_code, problem(wrong)) == (400, "bad-query")


def test_subscriptions(web: httpx.Client, server: RunningServer) -> None:
    uid, aet = created(web), new_aet()
    channel = subscribe(web, uid, aet, "?deletionlock=true")
    assert channel == f"ws{server.dicomweb.removeprefix('http')}/subscribers/{aet}"
    base = f"{ROOT}/workitems"
    assert web.post(f"{base}/{uid}/subscribers/{aet}/suspend").status_code == 404
    assert web.delete(f"{base}/{uid}/subscribers/{aet}").status_code == 200
    assert web.delete(f"{base}/{uid}/subscribers/{aet}").status_code == 404
    assert web.post(f"{base}/1.2.3/subscribers/{aet}").status_code == 404
    assert web.post(f"{base}/{uid}/subscribers/{'A' * 17}").status_code == 400
    assert web.post(f"{base}/{uid}/subscribers/{aet}?deletionlock=perhaps").status_code == 400
    assert web.post(f"{base}/{FILTERED}/subscribers/{aet}").status_code == 400
    assert web.post(f"{base}/{FILTERED}/subscribers/{aet}?filter=Nonsense=1").status_code == 400
    for resource, query in ((WORKLIST, ""), (FILTERED, "?filter=WorklistLabel=NONE,00404025.00080100=GPU-1")):
        subscribe(web, resource, aet, query)
        path = f"{base}/{resource}/subscribers/{aet}"
        assert [web.post(f"{path}/suspend").status_code for _ in range(2)] == [200, 404]
        subscribe(web, resource, aet, query)
        assert web.delete(path).status_code == 200


def test_events_of_a_life(web: httpx.Client) -> None:
    uid, aet, transaction = created(web), new_aet(), new_uid()
    channel = subscribe(web, uid, aet)

    async def listen() -> list[Any]:
        async with connected(channel) as socket:
            events = [await socket.event()]
            # The two workers take requests in turn: some of these are made by the one without the socket.
            for change in (
                lambda: state(web, uid, "IN PROGRESS", transaction),
                lambda: update(web, uid, progress(40), transaction),
                lambda: update(web, uid, {"00404041": {"vr": "CS", "Value": ["UNAVAILABLE"]}}, transaction),
                lambda: update(web, uid, {"00404025": {"vr": "SQ", "Value": [code("GPU-3")]}}, transaction),
                lambda: cancel(web, uid, json={"00741236": {"vr": "AE", "Value": ["CHIEF"]}}, headers=TYPE),
                lambda: update(web, uid, discontinued(), transaction),
                lambda: state(web, uid, "CANCELED", transaction),
            ):
                answer = await asyncio.to_thread(change)
                assert answer.status_code in {200, 202}, answer.text
            events += [await socket.event() for _ in range(7)]
            await socket.send(TEXT, b"ignored")
            await socket.send(PING, b"still there?")
            async with asyncio.timeout(5):
                assert await socket.frame() == (PONG, b"still there?")
            return events

    events = asyncio.run(listen())
    assert [event["00001002"]["Value"][0] for event in events] == [1, 1, 3, 1, 5, 2, 3, 1]
    assert {event["00001000"]["Value"][0] for event in events} == {uid}
    assert {event["00000002"]["Value"][0] for event in events} == {"1.2.840.10008.5.1.4.34.6.1"}
    numbers = [event["00000110"]["Value"][0] for event in events]
    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 65536 for number in numbers)
    assert events[0]["00741000"]["Value"] == ["SCHEDULED"]
    assert events[2]["00741002"] == progress(40)["00741002"]
    assert events[3]["00404041"]["Value"] == ["UNAVAILABLE"]
    assert events[4]["00404025"]["Value"] == [code("GPU-3")]
    assert events[5]["00741236"]["Value"] == ["CHIEF"]
    assert events[7]["00741000"]["Value"] == ["CANCELED"]
    assert events[7]["0074100E"]["Value"] == [code("110514")]
    assert transaction not in str(events)


def test_events_of_every_process(web: httpx.Client, server: RunningServer) -> None:
    """Sixteen connections reach both workers; the one without the socket makes events too."""
    uid, transaction = created(web), new_uid()
    channel = subscribe(web, uid, new_aet())
    state(web, uid, "IN PROGRESS", transaction)

    def report(n: int) -> None:
        url = f"{server.dicomweb}/workitems/{uid}?{transaction}"
        assert httpx.post(url, json=progress(n), headers=TYPE, timeout=30).status_code == 200

    async def listen() -> list[str]:
        async with connected(channel) as socket:
            assert [(await socket.event())["00001002"]["Value"] for _ in range(2)] == [[1], [1]]
            for n in range(16):
                await asyncio.to_thread(report, n)
            events = [await socket.event(5) for _ in range(16)]
            return [event["00741002"]["Value"][0]["00741004"]["Value"][0] for event in events]

    assert asyncio.run(listen()) == [str(n) for n in range(16)]


def test_events_wait_for_a_subscriber_who_is_away(web: httpx.Client) -> None:
    uid, aet, transaction = created(web), new_aet(), new_uid()
    channel = subscribe(web, uid, aet)
    state(web, uid, "IN PROGRESS", transaction)

    async def states() -> list[str]:
        async with connected(channel) as socket:
            return [(await socket.event())["00741000"]["Value"][0] for _ in range(2)]

    # The connection is cut at once, so that what it was sent comes again.
    assert asyncio.run(states()) == asyncio.run(states()) == ["SCHEDULED", "IN PROGRESS"]


def test_a_silent_client_keeps_nobody_waiting(web: httpx.Client) -> None:
    """One that does not read, one that is cut off, and one that gets its events at once."""
    uid, transaction = created(web), new_uid()
    channels = [subscribe(web, uid, new_aet()) for _ in range(3)]
    state(web, uid, "IN PROGRESS", transaction)
    big = {"00741002": {"vr": "SQ", "Value": [{"00741006": {"vr": "ST", "Value": ["x" * 900_000]}}]}}

    async def listen() -> None:
        async with connected(channels[0]), connected(channels[2]) as good:
            async with connected(channels[1]):
                pass
            assert [(await good.event())["00001002"]["Value"][0] for _ in range(2)] == [1, 1]
            for n in range(12):
                big["00741002"]["Value"][0]["00741004"] = {"vr": "DS", "Value": [str(n)]}
                assert (await asyncio.to_thread(update, web, uid, big, transaction)).status_code == 200
                event = await good.event(5)
                assert event["00741002"]["Value"][0]["00741004"]["Value"] == [str(n)]

    asyncio.run(listen())


def test_the_newest_connection_listens(web: httpx.Client) -> None:
    channel = subscribe(web, created(web), new_aet())

    async def listen() -> int | None:
        async with connected(channel) as old:
            await old.event()
            async with connected(channel) as new:
                await new.event()
                with pytest.raises(Closed) as closed:
                    await old.event()
                return closed.value.code

    assert asyncio.run(listen()) == 4000


def test_handshakes_that_are_refused(web: httpx.Client, server: RunningServer) -> None:
    base = f"ws{server.dicomweb.removeprefix('http')}"

    async def refused(url: str, **headers: str) -> int:
        with pytest.raises(Refused) as answer:
            async with connected(url, **headers):
                pass
        assert b"urn:anor:error:" in answer.value.body
        return answer.value.status

    async def all_of_them() -> list[int]:
        channel = f"{base}/subscribers/{new_aet()}"
        async with connected(channel, Origin=server.url):
            pass
        return [
            await refused(channel, Origin="https://evil.example.org"),
            await refused(channel, Origin="null"),
            await refused(f"{base}/subscribers/{'A' * 20}"),
            await refused(f"{base}/studies"),
            await refused(f"{base}/nowhere"),
        ]

    assert asyncio.run(all_of_them()) == [403, 403, 400, 400, 404]
    plain = web.get(f"{ROOT}/subscribers/ME")
    assert (plain.status_code, problem(plain), plain.headers["upgrade"]) == (426, "upgrade-required", "websocket")


def test_stop_and_restart_are_told(tmp_path: Path) -> None:
    async def listen(channel: str, uid: str) -> tuple[list[Any], int | None]:
        events: list[Any] = []
        async with connected(channel) as socket:
            events.append(await socket.event())
            # Longer than a connection may stay idle between requests.
            await asyncio.sleep(3)
            assert (await asyncio.to_thread(state, web, uid, "IN PROGRESS", new_uid())).status_code == 200
            events.append(await socket.event())
            stopping = asyncio.ensure_future(asyncio.to_thread(server.stop, 20))
            try:
                while True:
                    events.append(await socket.event(20))
            except Closed as closed:
                assert await stopping == 0
                return events, closed.code

    async def read(channel: str, count: int) -> list[Any]:
        async with connected(channel) as socket:
            return [await socket.event(20) for _ in range(count)]

    with running_server(tmp_path, header_timeout=1) as server, httpx.Client(base_url=server.url, timeout=30) as web:
        uid = created(web)
        (scheduled, claimed, going), code = asyncio.run(listen(subscribe(web, uid, "WATCHER"), uid))
        assert (going["00741242"]["Value"], code) == (["GOING DOWN"], 1001)
    with running_server(tmp_path) as server:
        channel = f"ws{server.dicomweb.removeprefix('http')}/subscribers/WATCHER"
        *again, restarted = asyncio.run(read(channel, 3))
        assert again == [scheduled, claimed]
        assert restarted["00741242"]["Value"] == ["RESTARTED"]
        assert restarted["00741244"]["Value"] == restarted["00741246"]["Value"] == ["WARM START"]


def test_a_life_in_xml(web: httpx.Client) -> None:
    """What JSON says, XML says too, in requests and answers."""
    xml = {"Content-Type": "application/dicom+xml", "Accept": "application/dicom+xml"}
    uid, transaction = new_uid(), new_uid()
    made = web.post(f"{ROOT}/workitems?{uid}", content=native_xml(workitem()), headers=xml)
    assert made.status_code == 201, made.text
    path = f"{ROOT}/workitems/{uid}"
    claim = {"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}, "00081195": {"vr": "UI", "Value": [transaction]}}
    assert web.put(f"{path}/state", content=native_xml(claim), headers=xml).status_code == 200
    answer = web.get(path, headers=xml)
    assert answer.headers["content-type"] == "application/dicom+xml"
    json = web.get(path).json()
    [elements] = json if isinstance(json, list) else [json]
    assert read_native_xml(answer.content) == elements
    assert elements["00741000"]["Value"] == ["IN PROGRESS"]
    found = web.get(f"{ROOT}/workitems?SOPInstanceUID={uid}", headers=xml)
    assert found.headers["content-type"].startswith('multipart/related; type="application/dicom+xml"')
    assert found.content.count(b"<NativeDicomModel") == 1
    for body in (b"", b"<a/>", b"{}", b"<!DOCTYPE a []><NativeDicomModel/>"):
        refused = web.post(f"{ROOT}/workitems?{new_uid()}", content=body, headers=xml)
        assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
