"""C-FIND without a network, on a real archive: matching, character sets, pages."""

import io
import unicodedata
from dataclasses import replace
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom.dimse_primitives import C_FIND

from dimse_bridge import find as module
from dimse_bridge.models import accepted
from storage.archive import Archive
from tests.dimse.in_memory import Exchange, exchange, stored
from tests.dimse.wire import EXPLICIT_LE, IMPLICIT_LE, STUDY_ROOT_FIND
from tests.files import ct, new_uid

EVERYTHING = accepted(STUDY_ROOT_FIND, bytes([1] * 7))
PATIENT_STUDY_ONLY = "1.2.840.10008.5.1.4.1.2.3.1"


def identifier(character_set: str | list[str] | None, level: str, syntax: str = EXPLICIT_LE, **keys: Any) -> bytes:
    ds = Dataset()
    if character_set is not None:
        ds.SpecificCharacterSet = character_set
    ds.QueryRetrieveLevel = level
    with pydicom.config.disable_value_validation():
        for name, value in keys.items():
            setattr(ds, name, value)
        out = io.BytesIO()
        pydicom.dcmwrite(out, ds, implicit_vr=syntax == IMPLICIT_LE, little_endian=True)
    return out.getvalue()


async def ask(
    archive: Archive,
    level: str = "STUDY",
    *,
    model: str = STUDY_ROOT_FIND,
    character_set: str | list[str] | None = "ISO_IR 192",
    extended: bytes = b"",
    syntax: str = EXPLICIT_LE,
    cancel_after: int | None = None,
    **keys: Any,
) -> Exchange:
    made = exchange(
        archive,
        C_FIND(),
        model,
        identifier(character_set, level, syntax, **keys),
        syntax=syntax,
        extended={model: extended},
    )
    made.cancel_after = cancel_after
    await module.find(made)
    return made


async def found(archive: Archive, **keys: Any) -> list[str]:
    answers = await ask(archive, **({"StudyInstanceUID": ""} | keys))
    return sorted(answer.StudyInstanceUID for answer in answers.data_sets())


NAMES = {
    "Latin-1": ("Müller^Jörg", "ISO_IR 100"),
    "Greek": ("Διονυσιος^Μαρία", "ISO_IR 126"),
    "Arabic": ("قباني^لنزار", "ISO_IR 127"),
    "Russian": ("Люкceмбypг", "ISO_IR 144"),
    "Hebrew": ("שרון^דבורה", "ISO_IR 138"),
    "Thai": ("นามสกุล^ชื่อ", "ISO_IR 166"),
    "Japanese": ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
    "katakana": ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
    "Korean": ("Hong^Gildong=洪^吉洞=홍^길동", ["", "ISO 2022 IR 149"]),
    "Chinese": ("Wang^XiaoDong=王^小东", "GB18030"),
}


@pytest.mark.parametrize("script", NAMES)
async def test_a_query_and_its_answer_in_the_character_set_of_the_peer(archive: Archive, script: str) -> None:
    name, character_set = NAMES[script]
    patient = f"CS-{new_uid()[-20:]}"
    await stored(archive, ct(PatientName=name, PatientID=patient))
    asked = await ask(
        archive, PatientName=name.split("=")[0] if script != "Japanese" else "*=山田^*", PatientID="CS-*",
        character_set=character_set,
    )  # fmt: skip
    assert asked.statuses[-1] == 0
    mine = [answer for answer in asked.data_sets() if answer.PatientID == patient]
    assert len(mine) == 1
    assert mine[0].SpecificCharacterSet == character_set
    assert str(mine[0].PatientName) == name


async def test_what_the_character_set_of_the_peer_cannot_hold_is_sent_in_utf_8(archive: Archive) -> None:
    await stored(archive, ct(PatientName="Yamada=山田", PatientID="CS8"), ct(PatientName="Ærø", PatientID="CS8"))
    for character_set, expected in (("ISO_IR 100", {"ISO_IR 192", "ISO_IR 100"}), (None, {"ISO_IR 192"})):
        asked = await ask(archive, PatientID="CS8", PatientName="", character_set=character_set)
        assert {str(answer.SpecificCharacterSet) for answer in asked.data_sets()} == expected
        assert sorted(str(answer.PatientName) for answer in asked.data_sets()) == ["Yamada=山田", "Ærø"]


async def test_a_query_without_character_set_is_answered_so_where_ascii_will_do(archive: Archive) -> None:
    await stored(archive, ct(PatientName="Plain^Name", PatientID="CS9", ReferringPhysicianName="X"))
    asked = await ask(archive, PatientID="CS9", PatientName="", character_set=None)
    assert "SpecificCharacterSet" not in asked.data_sets()[0]


async def test_a_setting_forces_the_character_set(archive: Archive) -> None:
    await stored(archive, ct(PatientName="Müller", PatientID="CS10"))
    forced = replace(archive, settings=replace(archive.settings, dimse_character_set="ISO_IR 192"))
    asked = await ask(forced, PatientID="CS10", PatientName="", character_set="ISO_IR 100")
    assert asked.data_sets()[0].SpecificCharacterSet == "ISO_IR 192"


@pytest.fixture(scope="module")
async def days(archive: Archive) -> dict[str, str]:
    """Studies by day and hour of one week, two without a name or a date."""
    uids = {}
    for day in range(1, 5):
        for hour in (8, 12, 20):
            uid = uids[f"{day}-{hour}"] = new_uid()
            when = {"StudyDate": f"2023070{day}", "StudyTime": f"{hour:02}0000"}
            await stored(archive, ct(PatientID="DAYS", StudyInstanceUID=uid, PatientName="Day^Of-The Week", **when))
    uids["nobody"], uids["never"] = new_uid(), new_uid()
    await stored(archive, ct(PatientID="DAYS", StudyInstanceUID=uids["nobody"], PatientName="", StudyDate="20200101"))
    await stored(archive, ct(PatientID="DAYS", StudyInstanceUID=uids["never"], StudyDate="", AccessionNumber="N"))
    return uids


async def days_of(archive: Archive, days: dict[str, str], **keys: Any) -> list[str]:
    uids = await found(archive, PatientID="DAYS", **keys)
    return sorted(name for name, uid in days.items() if uid in uids)


async def test_date_and_time_are_two_ranges_or_one(archive: Archive, days: dict[str, str]) -> None:
    keys = {"StudyDate": "20230701-20230703", "StudyTime": "1000-1800"}
    assert await days_of(archive, days, **keys) == ["1-12", "2-12", "3-12"]
    together = await days_of(archive, days, **keys, extended=EVERYTHING)
    assert together == ["1-12", "1-20", "2-12", "2-20", "2-8", "3-12", "3-8"]
    open_end = {"StudyDate": "20230704-", "StudyTime": "10-"}
    assert await days_of(archive, days, **open_end, extended=EVERYTHING) == ["4-12", "4-20"]
    open_start = {"StudyDate": "-20230701", "StudyTime": "-1200"}
    assert await days_of(archive, days, **open_start, extended=EVERYTHING) == ["1-12", "1-8", "nobody"]


async def test_empty_values_are_found_where_that_was_negotiated(archive: Archive, days: dict[str, str]) -> None:
    assert await days_of(archive, days, PatientName='""') == []
    assert await days_of(archive, days, PatientName='""', extended=EVERYTHING) == ["nobody"]
    assert await days_of(archive, days, StudyDate='""', extended=EVERYTHING) == ["never"]
    assert len(await days_of(archive, days, InstitutionName='""', extended=EVERYTHING)) == 14
    assert await days_of(archive, days, PatientSex='""', extended=EVERYTHING) == []


async def test_names_match_fuzzily_where_that_was_negotiated(archive: Archive, days: dict[str, str]) -> None:
    assert await days_of(archive, days, PatientName="week day", StudyDate="20230701") == []
    assert len(await days_of(archive, days, PatientName="week day", StudyDate="20230701", extended=EVERYTHING)) == 3


async def test_each_of_multiple_values_has_to_match_where_that_was_negotiated(archive: Archive) -> None:
    study, series = new_uid(), new_uid()
    await stored(
        archive,
        ct(StudyInstanceUID=study, PatientID="MULTI"),
        ct(StudyInstanceUID=study, PatientID="MULTI", SeriesInstanceUID=series, Modality="SR"),
        ct(PatientID="MULTI"),
    )
    keys = {"PatientID": "MULTI", "ModalitiesInStudy": ["CT", "SR"]}
    assert len(await found(archive, **keys)) == 2
    assert await found(archive, **keys, extended=EVERYTHING) == [study]


async def test_patient_study_only(archive: Archive) -> None:
    await stored(archive, ct(PatientID="PSO"))
    for level in ("PATIENT", "STUDY"):
        assert (await ask(archive, level, model=PATIENT_STUDY_ONLY, PatientID="PSO")).statuses == [0xFF00, 0]
    with pytest.raises(module.models.IdentityMismatch, match="no SERIES level"):
        await ask(archive, "SERIES", model=PATIENT_STUDY_ONLY, PatientID="PSO")


@pytest.mark.parametrize("level", ["PATIENT", "STUDY", "SERIES", "IMAGE"])
@pytest.mark.parametrize("given", [True, False])
async def test_every_match_once_whatever_the_page(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, level: str, given: bool
) -> None:
    """Pages end within equal numbers, and where numbers are missing."""
    monkeypatch.setattr(module, "_PAGE", 2)
    patient, study, series = new_uid()[-30:], new_uid(), new_uid()
    numbers = [1, 1, 2, None, None, 3, 1]
    for number in numbers:
        same = {"StudyInstanceUID": study} if level in ("SERIES", "IMAGE") else {}
        same |= {"SeriesInstanceUID": series} if level == "IMAGE" else {}
        person = f"{patient}-{new_uid()[-8:]}" if level == "PATIENT" else patient
        given_number = {"SeriesNumber": number} if level == "SERIES" else {"InstanceNumber": number}
        await stored(archive, ct(PatientID=person, **same, **given_number))
    key = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}.get(
        level, "SOPInstanceUID"
    )
    keys = {"PatientID": f"{patient}*"} | ({"StudyInstanceUID": study} if given and same else {})
    model = STUDY_ROOT_FIND.replace(".2.2.1", ".2.1.1")
    asked = await ask(archive, level, model=model, **({key: ""} | keys))
    assert asked.statuses == [0xFF00] * len(numbers) + [0]
    assert len({answer[key].value for answer in asked.data_sets()}) == len(numbers)


async def test_limit_and_cancel(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    await stored(archive, *(ct(PatientID="LIMITED") for _ in range(10)))
    few = replace(archive, settings=replace(archive.settings, qido_max_limit=7))
    asked = await ask(few, PatientID="LIMITED")
    assert asked.statuses == [0xFF00] * 7 + [0xA700]
    assert asked.responses[-1][2] == {"ErrorComment": "more than 7 matches"}
    before = archive.db.statements
    asked = await ask(archive, PatientID="LIMITED", cancel_after=4)
    assert asked.statuses == [0xFF00] * 4 + [0xFE00]
    assert archive.db.statements - before == 2


async def test_sequences_are_matched_narrowed_and_filled_up(archive: Archive) -> None:
    request, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-1", "99X", "Knöchel"
    request.RequestedProcedureID, request.ScheduledProtocolCodeSequence = "RP-9", Sequence([code])
    await stored(archive, ct(PatientID="SEQ", RequestAttributesSequence=Sequence([request])))
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.CodeMeaning = "T-1", ""
    outer.ScheduledProtocolCodeSequence, outer.ScheduledProcedureStepID = Sequence([inner]), ""
    for syntax in (EXPLICIT_LE, IMPLICIT_LE):
        sequence = Sequence([outer])
        asked = await ask(archive, "SERIES", syntax=syntax, PatientID="SEQ", RequestAttributesSequence=sequence)
        item = asked.data_sets()[0].RequestAttributesSequence[0]
        assert [e.keyword for e in item] == ["ScheduledProcedureStepID", "ScheduledProtocolCodeSequence"][::-1]
        assert [(e.keyword, e.value) for e in item.ScheduledProtocolCodeSequence[0]] == [
            ("CodeValue", "T-1"),
            ("CodeMeaning", "Knöchel"),
        ]


async def test_arabic_is_compared_as_it_is_written(archive: Archive) -> None:
    name = unicodedata.normalize("NFC", "قباني^لنزار")
    await stored(archive, ct(PatientName=name, PatientID="AR-1"))
    asked = await ask(archive, PatientName="قباني*", PatientID="AR-?", character_set="ISO_IR 127")
    assert [answer.PatientID for answer in asked.data_sets()] == ["AR-1"]
