"""The rules of Unified Procedure Steps, case by case from the tables of PS3.4 annex CC."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomweb import ups, ups_events, ups_model, ups_query, ups_states
from dicomweb.errors import ArchiveError, BadQuery, BadRequest, WorkitemConflict, WorkitemRefused
from dicomweb.ups_model import Change, Step
from tests.worklist import code, discontinued, performed, progress, to_state, workitem

NOW = "20260114120000.000000+0000"
OWNER, STRANGER = "1.2.3.1", "1.2.3.2"
SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED = "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"


def step(state: str, **replaced: Any) -> Step:
    """A step that got into `state` by its performer."""
    attributes = ups.create(workitem(**replaced), "1.2.3", NOW).step.attributes
    attributes["00741000"] = {"vr": "CS", "Value": [state]}
    return Step("1.2.3", attributes, None if state == SCHEDULED else OWNER)


def code_of(decide: Callable[..., Change], *args: Any) -> int | None:
    """The DIMSE status of a decision: 0, that of the warning, or that of the refusal."""
    try:
        change = decide(*args)
    except WorkitemRefused as error:
        return error.failure_reason
    warnings = {"": 0, ups_states.ALREADY_CANCELED: 0xB304, ups_states.ALREADY_COMPLETED: 0xB306}
    return warnings[change.warning]


# PS3.4 table CC.1.1-2: the request, with the correct Transaction UID or not, in each of the four states. The final
# state requirements are met.
TRANSITIONS: list[tuple[str, str | None, tuple[int, int, int, int]]] = [
    (IN_PROGRESS, OWNER, (0, 0xC302, 0xC300, 0xC300)),
    (IN_PROGRESS, STRANGER, (0, 0xC302, 0xC300, 0xC300)),
    (IN_PROGRESS, None, (0xC301, 0xC301, 0xC301, 0xC301)),
    (SCHEDULED, OWNER, (0xC303, 0xC303, 0xC303, 0xC303)),
    (COMPLETED, OWNER, (0xC310, 0, 0xB306, 0xC300)),
    (COMPLETED, None, (0xC301, 0xC301, 0xC301, 0xC301)),
    (COMPLETED, STRANGER, (0xC310, 0xC301, 0xC301, 0xC301)),
    (CANCELED, OWNER, (0xC310, 0, 0xC300, 0xB304)),
    (CANCELED, None, (0xC301, 0xC301, 0xC301, 0xC301)),
    (CANCELED, STRANGER, (0xC310, 0xC301, 0xC301, 0xC301)),
    ("NONSENSE", OWNER, (0xC303, 0xC303, 0xC303, 0xC303)),
    (IN_PROGRESS, "not a uid", (0xC301, 0xC301, 0xC301, 0xC301)),
]


@pytest.mark.parametrize(("wanted", "transaction", "expected"), TRANSITIONS, ids=str)
def test_transitions(wanted: str, transaction: str | None, expected: tuple[int, ...]) -> None:
    for state, status in zip((SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED), expected, strict=True):
        ready = step(state)
        ready.attributes.update(performed() | discontinued())
        found = code_of(ups_states.change_state, ready, to_state(wanted, transaction), NOW)
        assert found == status, (state, f"{found:04X}")


def test_a_claim_records_the_transaction() -> None:
    before = step(SCHEDULED)
    change = ups_states.change_state(before, to_state(IN_PROGRESS, OWNER), NOW)
    assert (change.step.state, change.step.transaction_uid, before.state) == (IN_PROGRESS, OWNER, SCHEDULED)
    assert change.step.attributes["00404010"]["Value"] == [NOW]
    assert "00081195" not in change.step.attributes
    assert [event.kind for event in change.events] == [ups_events.STATE_REPORT]
    assert ups_states.change_state(before, to_state("CANCELLED", OWNER) | to_state(IN_PROGRESS, OWNER), NOW)


# PS3.4 table CC.2.5-3, column "final state": P for COMPLETED, X for CANCELED.
@pytest.mark.parametrize(
    ("state", "given", "missing"),
    [
        (COMPLETED, {}, "00741216"),
        (COMPLETED, {"00741216": {"vr": "SQ"}}, "00741216"),
        (COMPLETED, performed(t00404028=None), "00404028"),
        (COMPLETED, performed(t00404028={"vr": "SQ"}), "00404028"),
        (COMPLETED, performed(t00404050=None), "00404050"),
        (COMPLETED, performed(t00404051={"vr": "DT", "Value": [""]}), "00404051"),
        (COMPLETED, performed(t00404019=None), "00404019"),
        (COMPLETED, performed(t00404033=None), "00404033"),
        (COMPLETED, performed(), None),
        (CANCELED, {}, "0074100E"),
        (CANCELED, progress(3), "0074100E"),
        (CANCELED, discontinued(), None),
    ],
    ids=str,
)
def test_final_state_requirements(state: str, given: Any, missing: str | None) -> None:
    claimed = step(IN_PROGRESS)
    claimed.attributes.update(given)
    if missing is None:
        assert ups_states.change_state(claimed, to_state(state, OWNER), NOW).step.state == state
        return
    with pytest.raises(WorkitemConflict) as refused:
        ups_states.change_state(claimed, to_state(state, OWNER), NOW)
    assert (refused.value.failure_reason, refused.value.attribute) == (0xC304, missing)


def test_cancellation_fills_in_the_time() -> None:
    claimed = step(IN_PROGRESS)
    claimed.attributes.update(discontinued())
    change = ups_states.change_state(claimed, to_state(CANCELED, OWNER), NOW)
    (item,) = change.step.attributes["00741002"]["Value"]
    assert item["00404052"]["Value"] == [NOW]
    assert change.events[0].content["0074100E"]["Value"] == [code("110514")]


@pytest.mark.parametrize(
    ("state", "status"), [(SCHEDULED, 0), (IN_PROGRESS, 0), (COMPLETED, 0xC311), (CANCELED, 0xB304)]
)
def test_cancel_requests(state: str, status: int) -> None:
    assert code_of(ups_states.request_cancel, step(state), {}, "ME", NOW) == status


def test_cancel_request_of_a_scheduled_step() -> None:
    reason = {"00741238": {"vr": "LT", "Value": ["twice"]}, "0074100A": {"vr": "UR", "Value": ["tel:1"]}}
    change = ups_states.request_cancel(step(SCHEDULED), reason, "ME", NOW)
    states = [event.content["00741000"]["Value"][0] for event in change.events]
    assert (states, change.step.state, change.told) == ([IN_PROGRESS, CANCELED], CANCELED, False)
    assert change.events[1].content["00741238"]["Value"] == ["twice"]
    (item,) = change.step.attributes["00741002"]["Value"]
    assert item["00741008"]["Value"] == [{"0074100A": {"vr": "UR", "Value": ["tel:1"]}}]
    # It was never claimed: whoever asks again is told that it is done.
    assert code_of(ups_states.change_state, change.step, to_state(CANCELED, STRANGER), NOW) == 0xB304


def test_cancel_request_of_a_claimed_step() -> None:
    request = {"00741238": {"vr": "LT", "Value": ["twice"]}, "0074100C": {"vr": "LO", "Value": ["Dr X"]}}
    before = step(IN_PROGRESS)
    change = ups_states.request_cancel(before, request, "a requester with a long name", NOW)
    assert change.told
    assert change.step is before
    assert [event.kind for event in change.events] == [ups_events.CANCEL_REQUESTED]
    content = change.events[0].content
    assert content["00741236"]["Value"] == ["a requester with"]
    assert content | request == content


@pytest.mark.parametrize(
    ("state", "transaction", "status"),
    [
        (SCHEDULED, None, 0),
        (SCHEDULED, OWNER, 0xC310),
        (IN_PROGRESS, OWNER, 0),
        (IN_PROGRESS, None, 0xC301),
        (IN_PROGRESS, STRANGER, 0xC301),
        (COMPLETED, OWNER, 0xC300),
        (CANCELED, OWNER, 0xC300),
    ],
)
def test_who_may_update(state: str, transaction: str | None, status: int) -> None:
    assert code_of(ups.update, step(state), progress(5), transaction, NOW) == status
    if transaction is not None:
        inside = progress(5) | {"00081195": {"vr": "UI", "Value": [transaction]}}
        assert code_of(ups.update, step(state), inside, None, NOW) == status
        if status == 0:
            assert code_of(ups.update, step(state), inside, STRANGER, NOW) == 0xC301


@pytest.mark.parametrize(
    "tag",
    [
        "00080016",
        "00080018",
        "00741000",
        "00100010",
        "00100020",
        "00100030",
        "00100040",
        "00380010",
        "00380014",
        "00081080",
        "00081084",
        "0040A370",
        "00741224",
    ],
)
def test_what_no_update_changes(tag: str) -> None:
    other = {"vr": ups_model.element_of(tag)["vr"], "Value": ["9"]}
    with pytest.raises(WorkitemRefused) as refused:
        ups.update(step(SCHEDULED), {tag: other}, None, NOW)
    assert refused.value.attribute == tag
    assert type(refused.value) is WorkitemRefused


def test_update_blanks_and_stamps() -> None:
    before = step(SCHEDULED)
    change = ups.update(before, {"00404021": {"vr": "SQ"}, "00404018": {"vr": "SQ", "Value": [code("X")]}}, None, NOW)
    assert change.step.attributes["00404018"]["Value"] == [code("X")]
    assert before.attributes["00404018"]["Value"] == [code("LUNG-NODULES")]
    for tag in ("00741200", "00741204", "00741202", "00404005", "00404041", "00404018"):
        with pytest.raises(WorkitemRefused) as refused:
            ups.update(before, {tag: ups_model.element_of(tag)}, None, NOW)
        assert refused.value.attribute == tag
    assert ups.update(before, before.attributes, None, NOW).step.attributes == before.attributes
    # The archive's own: neither the time of modification nor the character set is the client's.
    ignored = {"00404010": {"vr": "DT", "Value": ["1999"]}, "00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}}
    assert ups.update(before, ignored, None, NOW).step.attributes == before.attributes


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ({"00741204": {"vr": "LO", "Value": ["other"]}}, []),
        ({"00404041": {"vr": "CS", "Value": ["UNAVAILABLE"]}}, [1]),
        ({"00404041": {"vr": "CS", "Value": ["READY"]}}, []),
        ({"00404025": {"vr": "SQ", "Value": [code("GPU")]}}, [5]),
        ({"00404034": {"vr": "SQ", "Value": [{"00404009": {"vr": "SQ", "Value": [code("DOE")]}}]}}, [5]),
        (progress(7), [3]),
        (discontinued(), []),
        (progress(7) | {"00404041": {"vr": "CS", "Value": ["INCOMPLETE"]}}, [1, 3]),
    ],
    ids=str,
)
def test_events_of_updates(given: Any, kinds: list[int]) -> None:
    change = ups.update(step(IN_PROGRESS), given, OWNER, NOW)
    assert [event.kind for event in change.events] == kinds


def test_assignment_names_people() -> None:
    people = [
        {
            "00404009": {"vr": "SQ", "Value": [code("DOE")]},
            "00404036": {"vr": "LO", "Value": ["Radiology"]},
            "00404037": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        },
        {"00404009": {"vr": "SQ", "Value": [code("ROE")]}},
    ]
    change = ups.create(workitem(t00404034={"vr": "SQ", "Value": people}), "1.2.3", NOW)
    assert [event.kind for event in change.events] == [1, 5]
    assert change.events[1].content == {
        "00404009": {"vr": "SQ", "Value": [code("DOE"), code("ROE")]},
        "00404036": {"vr": "LO", "Value": ["Radiology"]},
    }


# PS3.4 table CC.2.5-3, column N-CREATE.
@pytest.mark.parametrize(
    ("replaced", "attribute"),
    [
        *[({f"t{tag}": None}, tag) for tag in ("00741000", "00741200", "00741204", "00404005", "00404041")],
        *[({f"t{tag}": " "}, tag) for tag in ("00741000", "00741200", "00741204", "00404005", "00404041")],
        ({"t00741000": "COMPLETED"}, "00741000"),
        ({"t00741200": "STAT"}, "00741200"),
        ({"t00404041": "ready"}, "00404041"),
        ({"t00404005": "20261301"}, "00404005"),
        ({"t00404005": "20260101-20260102"}, "00404005"),
        ({"t00404011": {"vr": "DT", "Value": ["soon"]}}, "00404011"),
        ({"t00081195": {"vr": "UI", "Value": ["1.2.3"]}}, "00081195"),
        ({"t00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]}}, "00080016"),
        ({"t00100020": "P" * 65}, "00100020"),
        ({"t00741202": "L" * 5000}, "00741202"),
        ({"t00741002": progress(1)["00741002"]}, "00741002"),
        ({"t00741216": performed()["00741216"]}, "00741216"),
    ],
    ids=str,
)
def test_creates_that_are_refused(replaced: Any, attribute: str) -> None:
    with pytest.raises(WorkitemRefused) as refused:
        ups.create(workitem(**replaced), "1.2.3", NOW)
    assert refused.value.attribute == attribute


def test_what_the_archive_fills_in() -> None:
    complete = ups.create(workitem(t00081195={"vr": "UI"}), "1.2.3", NOW)
    assert complete.warning == ""
    assert "00081195" not in complete.step.attributes
    assert complete.step.attributes["00404010"]["Value"] == [NOW]
    assert complete.step.attributes["00080018"]["Value"] == ["1.2.3"]
    without_label = ups.create(workitem(t00741202={"vr": "LO"}), "1.2.3", NOW)
    assert without_label.step.attributes["00741202"]["Value"] == ["DEFAULT"]
    assert without_label.warning == "The Workitem was created with modifications."
    for tag in ("00404021", "00100010", "0040A370", "00741210"):
        partial = ups.create(workitem(**{f"t{tag}": None}), "1.2.3", NOW)
        assert partial.warning
        assert partial.step.attributes[tag] == ups_model.element_of(tag)
    assert ups.create(workitem(t0020000D=None, t00404034=None), "1.2.3", NOW).warning == ""


def test_a_created_step_is_dicom() -> None:
    """pydicom reads what is stored, with the VRs of the dictionary."""
    attributes = ups.create(workitem(), "1.2.3", NOW).step.attributes
    dataset = Dataset.from_json(attributes)
    assert dataset.ProcedureStepState == "SCHEDULED"
    assert dataset.PatientName == "Doe^Jane"
    written = orjson.loads(dataset.to_json())
    assert {tag: {k: v for k, v in element.items() if v != []} for tag, element in written.items()} == attributes


def test_reports_are_dicom_json() -> None:
    change = ups_states.change_state(step(SCHEDULED), to_state(IN_PROGRESS, OWNER), NOW)
    assert orjson.loads(ups_events.report(70_000, "1.2.3", change.events[0])) == {
        "00000002": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.34.6.1"]},
        "00000110": {"vr": "US", "Value": [70_000 % 65_535 + 1]},
        "00001000": {"vr": "UI", "Value": ["1.2.3"]},
        "00001002": {"vr": "US", "Value": [1]},
        "00404041": {"vr": "CS", "Value": ["READY"]},
        "00741000": {"vr": "CS", "Value": ["IN PROGRESS"]},
    }
    for event, status in ((ups_events.going_down(), "GOING DOWN"), (ups_events.restarted(), "RESTARTED")):
        assert event.content["00741242"]["Value"] == [status]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[{},{}]",
        b"null",
        b'"x"',
        b'{"0008":{}}',
        b'{"00080005":7}',
        b'{"00080005":{"Value":["x"]}}',
        b'{"00080005":{"vr":"XX"}}',
        b'{"00080005":{"vr":"CS","Value":"x"}}',
        b'{"00080005":{"vr":"CS","Value":[{}]}}',
        b'{"00080005":{"vr":"CS","Value":[true]}}',
        b'{"00080005":{"vr":"CS","Value":["\\u0000"]}}',
        b'{"00080005":{"vr":"CS","What":1}}',
        b'{"00080005":{"vr":"CS","BulkDataURI":"\\u0000"}}',
        b'{"00100010":{"vr":"PN","Value":["Doe"]}}',
        b'{"00404025":{"vr":"SQ","Value":["x"]}}',
        b'{"00404025":{"vr":"LO","Value":["x"]}}',
        b'{"00404025":{"vr":"SQ","Value":[' * 40,
        b'{"00404025":{"vr":"SQ","Value":[' * 20 + b"]}}" * 20,
        b"\xff",
    ],
)
def test_bodies_that_are_no_dataset(body: bytes) -> None:
    with pytest.raises((BadRequest, WorkitemRefused)):
        ups_model.parse(body)


_NAMES = st.sampled_from(["vr", "Value", "00404025", "00100010", "00741000", "SQ", "x"])
_LEAVES = st.none() | st.booleans() | st.integers() | st.text()
_BODIES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(_NAMES, inner | st.sampled_from(["SQ", "CS"])),
)


@given(_BODIES)
def test_no_body_is_a_crash(value: Any) -> None:
    try:
        body = orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError):
        return
    with suppress(ArchiveError):
        ups.create(ups_model.parse(body), "1.2.3", NOW)


def test_tags_and_groups() -> None:
    parsed = ups_model.parse(
        b'[{"0040a370":{"vr":"SQ","Value":[]},"00000100":{"vr":"US","Value":[1]},"00020010":{"vr":"UI"},'
        b'"00001000":{"vr":"UI","Value":["1.2"]}}]'
    )
    assert parsed == {"0040A370": {"vr": "SQ"}, "00001000": {"vr": "UI", "Value": ["1.2"]}}
    assert ups.uid_of(parsed, None) == "1.2"
    assert ups.uid_of({}, None) is None
    for given_uid, dataset in (("1.3", parsed), ("x", {}), (None, {"00080018": {"vr": "UI", "Value": ["1..2"]}})):
        with pytest.raises(WorkitemRefused):
            ups.uid_of(dataset, given_uid)


def test_filters() -> None:
    keys = ups_query.filter_keys(
        [
            ("deletionlock", "true"),
            ("filter", "WorklistLabel=a,b,00404025.00080100=GPU-1"),
            ("ProcedureStepState", "SCHEDULED"),
        ]
    )
    assert keys == [("WorklistLabel", "a,b"), ("00404025.00080100", "GPU-1"), ("ProcedureStepState", "SCHEDULED")]
    paths = [match.path for match in ups_query.parse_filter(keys).matches]
    assert paths == [("00741202",), ("00404025", "00080100"), ("00741000",)]
    with pytest.raises(BadQuery):
        ups_query.filter_keys([("filter", "WorklistLabel")])
    for wrong in (
        [],
        [("limit", "3")],
        [("PatientID", "1"), ("includefield", "all")],
        [("TransactionUID", "1.2")],
        keys * 7,
    ):
        with pytest.raises(BadQuery):
            ups_query.parse_filter(wrong)


@pytest.mark.parametrize("aet", ["", "A" * 17, "A\\B", " A", "A ", "Ä", "A\n"])
def test_titles_that_are_none(aet: str) -> None:
    with pytest.raises(BadRequest):
        ups_model.checked_aet(aet)


def test_a_title() -> None:
    assert ups_model.checked_aet("AI SERVER-1") == "AI SERVER-1"
