"""Modality worklist and MPPS without a network, on a real archive: keys, character sets, statuses, hostile input."""

import io
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pynetdicom.dimse_primitives import C_FIND, N_CREATE, N_GET, N_SET, DIMSEPrimitive

from dicomweb.errors import BadQuery
from dicomweb.ups_model import Dataset as Members
from dimse_bridge import performed_step, worklist
from dimse_bridge.contexts import MODALITY_WORKLIST
from dimse_bridge.performed_step import MPPS, MPPS_RETRIEVE
from storage.access import Access
from storage.archive import Archive, open_archive
from storage.settings import Settings
from tests.dimse.in_memory import Exchange, exchange
from tests.dimse.wire import EXPLICIT_LE, IMPLICIT_LE
from tests.files import new_uid
from tests.modality_worklist import dataset, finished, item, performed

BIG_ENDIAN = "1.2.840.10008.1.2.2"
MODALITY = Access(1, "dimse:CT1@127.0.0.1", frozenset())  # the acceptor has checked the permission


@pytest.fixture
async def archive(settings: Callable[..., Settings], database_url: str) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(database_url=database_url))
    yield opened
    await opened.close()


def encoded(data_set: Dataset | Members, syntax: str = EXPLICIT_LE) -> bytes:
    out = io.BytesIO()
    with pydicom.config.disable_value_validation():
        if not isinstance(data_set, Dataset):
            data_set = Dataset.from_json({"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}} | data_set)
        pydicom.dcmwrite(out, data_set, implicit_vr=syntax == IMPLICIT_LE, little_endian=syntax != BIG_ENDIAN)
    return out.getvalue()


async def served(
    archive: Archive, request: DIMSEPrimitive, sop_class: str, data: bytes, syntax: str = EXPLICIT_LE, **more: Any
) -> Exchange:
    made = exchange(archive, request, sop_class, data, syntax=syntax, access=MODALITY)
    for name, value in more.items():
        setattr(made, name, value)
    await (worklist.ENTRIES | performed_step.ENTRIES)[type(request), sop_class].service(made)
    return made


def query(character_set: str | None = "ISO_IR 192", step: dict[str, Any] | None = None, **keys: Any) -> Dataset:
    asked = Dataset()
    if character_set is not None:
        asked.SpecificCharacterSet = character_set
    inner = Dataset()
    with pydicom.config.disable_value_validation():
        for target, values in ((asked, keys), (inner, step or {})):
            for name, value in values.items():
                setattr(target, name, value)
    if step is not None:
        asked.ScheduledProcedureStepSequence = Sequence([inner])
    return asked


async def find(archive: Archive, asked: Dataset, syntax: str = EXPLICIT_LE, **more: Any) -> Exchange:
    return await served(archive, C_FIND(), MODALITY_WORKLIST, encoded(asked, syntax), syntax, **more)


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE, BIG_ENDIAN])
async def test_answers_hold_what_was_asked_for(archive: Archive, syntax: str) -> None:
    await archive.modality_worklist.create(LOCAL_WRITER, item())
    code = Dataset()
    code.CodeValue = ""
    step = {"Modality": "CT", "ScheduledProcedureStepStartDate": "20260101-20261231", "ScheduledStationName": ""}
    asked = query(PatientName="D*", PatientWeight=None, StudyInstanceUID="", MedicalAlerts="", step=step)
    asked.ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence = Sequence([code])
    made = await find(archive, asked, syntax)
    assert made.statuses == [0xFF00, 0]
    (answer,) = made.data_sets()
    assert [element.keyword for element in answer] == [
        "SpecificCharacterSet", "PatientName", "PatientWeight", "MedicalAlerts", "StudyInstanceUID",
        "ScheduledProcedureStepSequence",
    ]  # fmt: skip
    (found,) = answer.ScheduledProcedureStepSequence
    assert [element.keyword for element in found] == [
        "Modality", "ScheduledProcedureStepStartDate", "ScheduledProtocolCodeSequence", "ScheduledStationName",
    ]  # fmt: skip
    assert found.ScheduledProcedureStepStartDate == "20260114"
    assert [(e.keyword, e.value) for e in found.ScheduledProtocolCodeSequence[0]] == [("CodeValue", "CT7")]
    # A sequence without item, or with an empty one, asks for all of it.
    for whole in (Sequence([]), Sequence([Dataset()])):
        asked = query()
        asked.ScheduledProcedureStepSequence = whole
        (answer,) = (await find(archive, asked, syntax)).data_sets()
        assert answer.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID == "SPS1"


@pytest.mark.parametrize(
    ("character_set", "name", "said"),
    [
        ("ISO_IR 100", "Müller^Jörg", "ISO_IR 100"),
        (None, "Doe^Jane", None),
        (None, "Müller^Jörg", "ISO_IR 192"),
        ("ISO_IR 126", "Διονυσιος^Μαρία", "ISO_IR 126"),
        ("ISO_IR 127", "قباني^لنزار", "ISO_IR 127"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
        ("ISO_IR 100", "Yamada^Tarou=山田^太郎", "ISO_IR 192"),
    ],
)
async def test_character_sets(archive: Archive, character_set: Any, name: str, said: Any) -> None:
    await archive.modality_worklist.create(LOCAL_WRITER, item(PatientName=name))
    own = said == character_set
    made = await find(archive, query(character_set, PatientName=name if own else ""))
    (answer,) = made.data_sets()
    assert str(answer.PatientName) == name
    assert answer.get("SpecificCharacterSet") == said


async def test_limit_and_cancel(archive: Archive) -> None:
    for number in range(250):
        await archive.modality_worklist.create(LOCAL_WRITER, item(AccessionNumber=str(number)))
    few = replace(archive, settings=replace(archive.settings, qido_max_limit=120))
    made = await find(few, query(AccessionNumber=""))
    assert made.statuses == [0xFF00] * 120 + [0xA700]
    assert made.responses[-1][2] == {"ErrorComment": "more than 120 matches"}
    before = archive.db.statements
    made = await find(archive, query(AccessionNumber=""))
    assert len({answer.AccessionNumber for answer in made.data_sets()}) == 250
    assert archive.db.statements - before == 3
    made = await find(archive, query(AccessionNumber=""), cancel_after=4)
    assert made.statuses == [0xFF00] * 4 + [0xFE00]


async def test_queries_that_are_wrong(archive: Archive) -> None:
    await archive.modality_worklist.create(LOCAL_WRITER, item())
    for asked in (
        query(step={"ScheduledProcedureStepStartDate": "today"}),
        query(step={"ScheduledProcedureStepStartTime": "25"}),
        query(PatientName="x" * 5000),
    ):
        with pytest.raises(BadQuery):
            await find(archive, asked)
    two = query()
    two.ScheduledProcedureStepSequence = Sequence([Dataset(), Dataset()])
    with pytest.raises(BadQuery, match="more than one item"):
        await find(archive, two)
    # What nobody knows matches nothing; what cannot be matched is said.
    assert (await find(archive, query(StrainDescription="x"))).statuses == [0]
    assert (await find(archive, query(RetrieveURL="http://x"))).statuses == [0xFF01, 0]
    private = query()
    private.add_new(Tag(0x00091001), "LO", "")
    assert (await find(archive, private)).statuses == [0xFF00, 0]


@pytest.mark.parametrize("sop_class", [MODALITY_WORKLIST, MPPS])
async def test_hostile_data_sets(archive: Archive, sop_class: str) -> None:
    """Cut, lying about lengths, nested a thousand deep, a thousand elements, nothing."""
    good = encoded(performed())
    item_head = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    nested = (struct.pack("<HH2sHI", 0x0040, 0x0100, b"SQ", 0, 0xFFFFFFFF) + item_head) * 1000
    many = b"".join(struct.pack("<HH2sH", 0x0011, 0x1000 + n, b"LO", 0) for n in range(60_000))
    for data in (good[:-7], b"\xff" * 4096, nested, many, struct.pack("<HH2sHI", 8, 5, b"UT", 0, 0x7FFFFFFF), b"\0"):
        request: DIMSEPrimitive = C_FIND() if sop_class == MODALITY_WORKLIST else N_CREATE()
        if sop_class == MODALITY_WORKLIST:
            with pytest.raises(BadQuery):
                await served(archive, request, sop_class, data)
        else:
            made = await served(archive, request, sop_class, data)
            assert len(made.statuses) == 1
            assert made.statuses[0] in (0x0110, 0x0115, 0x0120, 0x0213)
            assert made.responses[0][2]["ErrorComment"]


# ----------------------------------------------------------------------------------------------------------- MPPS


async def begin(archive: Archive, uid: str | None = None, syntax: str = EXPLICIT_LE, **replaced: Any) -> Exchange:
    request = N_CREATE()
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = MPPS, uid
    return await served(archive, request, MPPS, encoded(performed(**replaced), syntax), syntax)


async def change(archive: Archive, uid: str, changes: Members) -> Exchange:
    request = N_SET()
    request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = MPPS, uid
    return await served(archive, request, MPPS, encoded(changes))


async def read(archive: Archive, uid: str, *tags: int) -> Exchange:
    request = N_GET()
    request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = MPPS_RETRIEVE, uid
    if tags:
        request.AttributeIdentifierList = list(tags)
    return await served(archive, request, MPPS_RETRIEVE, b"")


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE, BIG_ENDIAN])
async def test_life_of_a_step(archive: Archive, syntax: str) -> None:
    uid = new_uid()
    await archive.modality_worklist.create(LOCAL_WRITER, item())
    made = await begin(archive, uid, syntax, PatientName="Müller^Jörg=山田")
    assert made.responses == [(0, None, {"AffectedSOPInstanceUID": uid})]
    assert (await change(archive, uid, finished())).statuses == [0]
    made = await read(archive, uid)
    (found,) = made.data_sets()
    assert (made.statuses, found.PatientName) == ([0], "Müller^Jörg=山田")
    assert found.PerformedProcedureStepStatus == "COMPLETED"
    assert found.PerformedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.9"
    made = await read(archive, uid, 0x00100020, 0x00400252)
    assert [e.keyword for e in made.data_sets()[0]] == ["PatientID", "PerformedProcedureStepStatus"]
    assert (await read(archive, uid, 0x00100020, 0x00104000)).statuses == [0x0001]
    # The worklist shows it no more, unless its status is asked for.
    assert (await find(archive, query(PatientID="P-1"))).statuses == [0]
    step = {"ScheduledProcedureStepStatus": "COMPLETED"}
    assert (await find(archive, query(PatientID="P-1", step=step))).statuses == [0xFF00, 0]


async def test_refusals(archive: Archive) -> None:
    uid = new_uid()
    made = await begin(archive, uid, PerformedProcedureStepStatus="COMPLETED")
    assert made.statuses == [0x0106]
    assert [(e.keyword, e.value) for e in made.data_sets()[0]] == [("PerformedProcedureStepStatus", "COMPLETED")]
    for replaced, code in (
        ({"PerformedStationAETitle": ...}, 0x0120),
        ({"PerformedStationAETitle": None}, 0x0121),
        ({"PerformedProcedureStepStartDate": "noon"}, 0x0106),
    ):
        made = await begin(archive, uid, **replaced)
        assert made.statuses == [code]
        assert next(iter(replaced)) in made.responses[0][2]["ErrorComment"]
    assert (await change(archive, uid, finished())).statuses == [0x0112]
    assert (await read(archive, uid)).statuses == [0x0112]
    assert (await begin(archive, uid)).statuses == [0]
    assert (await begin(archive, uid)).statuses == [0x0111]
    assert (await change(archive, uid, dataset(PatientID="P-2"))).statuses == [0x0106]
    assert (await change(archive, uid, finished(PerformedProcedureStepEndDate=...))).statuses == [0x0121]
    assert (await change(archive, uid, finished("DISCONTINUED"))).statuses == [0]
    made = await change(archive, uid, finished())
    assert made.responses == [
        (
            0x0110,
            None,
            {"ErrorComment": "Performed Procedure Step Object may no longer be updated", "ErrorID": 0xA710},
        )
    ]
    assert (await begin(archive, None)).responses[0][2]["AffectedSOPInstanceUID"].startswith("2.25.")


LOCAL_WRITER = Access(1, "information system", frozenset({"worklist.write"}))
