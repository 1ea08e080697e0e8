import asyncio
import dataclasses
import subprocess

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from storage.access import LOCAL
from storage.modalities import Modality
from storage.settings import load_settings
from tests.dimse import wire
from tests.dimse.conftest import start_bridge
from tests.dimse.peers import encoded, find, instance, store
from tests.dimse.wire import EXPLICIT_LE, IMPLICIT_LE, PATIENT_ROOT_FIND, STUDY_ROOT_FIND, Wire
from tests.support import free_port

STUDIES = [generate_uid() for _ in range(3)]
SERIES = [generate_uid() for _ in range(4)]
REQUEST = Dataset()
REQUEST.ScheduledProcedureStepID = "STEP7"
REQUEST.RequestedProcedureID = "RP1"


@pytest.fixture(scope="module")
def filled(bridge):
    """Three studies of two patients; the first has two series, one of them with two instances."""
    roman = {"PatientID": "FIND-1", "PatientName": "Müller^Jörg", "PatientBirthDate": "19700131", "PatientSex": "M"}
    greek = {"PatientID": "FIND-2", "PatientName": "Διονυσιος^Μαρία=山田", "PatientBirthDate": "19801224"}
    one = {"StudyInstanceUID": STUDIES[0], "StudyDate": "20240110", "StudyTime": "081500", "AccessionNumber": "F-A1"}
    two = {"StudyInstanceUID": STUDIES[1], "StudyDate": "20240215", "StudyTime": "120000", "AccessionNumber": "F-A2"}
    three = {
        "StudyInstanceUID": STUDIES[2],
        "StudyDate": "20240320",
        "StudyTime": "235959.5",
        "AccessionNumber": "F-B1",
    }
    store(
        bridge.port,
        instance(**roman, **one, SeriesInstanceUID=SERIES[0], SeriesNumber=1, InstanceNumber=1),
        instance(**roman, **one, SeriesInstanceUID=SERIES[0], SeriesNumber=1, InstanceNumber=2),
        instance(
            **roman,
            **one,
            SeriesInstanceUID=SERIES[1],
            SeriesNumber=2,
            Modality="SR",
            SeriesDescription="Dose report",
            RequestAttributesSequence=Sequence([REQUEST]),
        ),
        instance(**roman, **two, SeriesInstanceUID=SERIES[2], Modality="MR", StudyDescription="Knie rechts"),
        instance(**greek, **three, SeriesInstanceUID=SERIES[3], StudyDescription="Thorax"),
    )
    return bridge


def studies(matches) -> list[str]:
    return sorted(m.StudyInstanceUID for m in matches)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"PatientID": "FIND-1"}, [0, 1]),
        ({"PatientID": "FIND-*"}, [0, 1, 2]),
        ({"PatientID": "FIND-?"}, [0, 1, 2]),
        ({"PatientID": "IND-1"}, []),
        ({"PatientID": "FIND_1"}, []),
        ({"PatientID": "FIND%"}, []),
        ({"PatientName": "müller^jörg", "PatientID": "FIND-*"}, [0, 1]),
        ({"PatientName": "MÜLLER*", "PatientID": "FIND-*"}, [0, 1]),
        ({"PatientName": "*μαρία*", "PatientID": "FIND-*"}, [2]),
        ({"StudyDate": "20240110", "PatientID": "FIND-*"}, [0]),
        ({"StudyDate": "20240111-20240331", "PatientID": "FIND-*"}, [1, 2]),
        ({"StudyDate": "-20240215", "PatientID": "FIND-*"}, [0, 1]),
        ({"StudyDate": "20240215-", "PatientID": "FIND-*"}, [1, 2]),
        ({"StudyTime": "08-12", "PatientID": "FIND-*"}, [0, 1]),
        ({"AccessionNumber": "F-A*"}, [0, 1]),
        ({"AccessionNumber": "F-A2"}, [1]),
        ({"StudyInstanceUID": STUDIES[1]}, [1]),
        ({"StudyInstanceUID": [STUDIES[0], STUDIES[2]]}, [0, 2]),
        ({"ModalitiesInStudy": "SR", "PatientID": "FIND-*"}, [0]),
        ({"StudyDescription": "*rechts", "PatientID": "FIND-*"}, [1]),
        ({"PatientBirthDate": "19801224", "PatientID": "FIND-*"}, [2]),
        ({"PatientID": "FIND-*", "StudyID": "", "PatientName": "*"}, [0, 1, 2]),
    ],
)
def test_study_level_matching(filled, keys, expected):
    status, matches, _ = find(filled.port, "STUDY", **({"StudyInstanceUID": ""} | keys))
    assert status == 0
    assert studies(matches) == sorted(STUDIES[i] for i in expected)


def test_an_answer_holds_what_was_asked_for(filled):
    status, matches, pending = find(
        filled.port,
        "STUDY",
        AccessionNumber="F-A1",
        PatientName="",
        StudyDate="",
        ModalitiesInStudy="",
        NumberOfStudyRelatedSeries="",
        NumberOfStudyRelatedInstances="",
        StudyDescription="",
        InstitutionName="",
        RetrieveAETitle="",
    )
    assert status == 0
    assert pending == [0xFF00]
    answer = matches[0]
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    assert answer.QueryRetrieveLevel == "STUDY"
    assert answer.RetrieveAETitle == "ANOR"
    assert answer.StudyInstanceUID == STUDIES[0]
    assert str(answer.PatientName) == "Müller^Jörg"
    assert answer.StudyDate == "20240110"
    assert sorted(answer.ModalitiesInStudy) == ["CT", "SR"]
    assert (answer.NumberOfStudyRelatedSeries, answer.NumberOfStudyRelatedInstances) == (2, 3)
    assert "StudyDescription" in answer
    assert not answer.StudyDescription
    assert "InstitutionName" in answer
    assert "PatientBirthDate" not in answer  # not asked for
    assert "RetrieveURL" not in answer


def test_names_in_other_scripts(filled):
    _, matches, _ = find(filled.port, "STUDY", StudyInstanceUID=STUDIES[2], PatientName="")
    assert matches[0].PatientName.alphabetic == "Διονυσιος^Μαρία"
    assert matches[0].PatientName.ideographic == "山田"


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE, "1.2.840.10008.1.2.2"])
def test_every_encoding_of_identifiers(filled, syntax):
    _, matches, _ = find(filled.port, "STUDY", syntaxes=[syntax], AccessionNumber="F-A*", StudyDate="20240101-20240131")
    assert studies(matches) == [STUDIES[0]]


def test_series_and_image_levels(filled):
    _, matches, _ = find(
        filled.port,
        "SERIES",
        StudyInstanceUID=STUDIES[0],
        SeriesInstanceUID="",
        Modality="",
        SeriesNumber="",
        PatientID="",
    )
    found = {m.SeriesInstanceUID: (m.Modality, m.SeriesNumber, m.StudyInstanceUID, m.PatientID) for m in matches}
    assert found == {SERIES[0]: ("CT", 1, STUDIES[0], "FIND-1"), SERIES[1]: ("SR", 2, STUDIES[0], "FIND-1")}
    _, matches, _ = find(
        filled.port, "SERIES", StudyInstanceUID=STUDIES[0], Modality="SR", NumberOfSeriesRelatedInstances=""
    )
    assert [(m.SeriesInstanceUID, m.NumberOfSeriesRelatedInstances) for m in matches] == [(SERIES[1], 1)]
    _, matches, _ = find(
        filled.port,
        "IMAGE",
        StudyInstanceUID=STUDIES[0],
        SeriesInstanceUID=SERIES[0],
        SOPInstanceUID="",
        SOPClassUID="",
        InstanceNumber="2",
    )
    assert [(m.InstanceNumber, m.SeriesInstanceUID, m.SOPClassUID) for m in matches] == [(2, SERIES[0], wire.CT)]


def test_relational_queries_name_the_parents(filled):
    _, matches, _ = find(filled.port, "SERIES", PatientID="FIND-1", Modality="MR", SeriesInstanceUID="")
    assert [(m.StudyInstanceUID, m.SeriesInstanceUID) for m in matches] == [(STUDIES[1], SERIES[2])]
    _, matches, _ = find(filled.port, "IMAGE", SeriesInstanceUID=SERIES[1], SOPInstanceUID="")
    assert [m.StudyInstanceUID for m in matches] == [STUDIES[0]]


def test_sequences_are_matched_and_narrowed(filled):
    item = Dataset()
    item.ScheduledProcedureStepID = "STEP7"
    _, matches, _ = find(filled.port, "SERIES", StudyInstanceUID=STUDIES[0], RequestAttributesSequence=Sequence([item]))
    assert [m.SeriesInstanceUID for m in matches] == [SERIES[1]]
    assert [e.keyword for e in matches[0].RequestAttributesSequence[0]] == ["ScheduledProcedureStepID"]
    item.ScheduledProcedureStepID = "STEP8"
    _, matches, _ = find(filled.port, "SERIES", StudyInstanceUID=STUDIES[0], RequestAttributesSequence=Sequence([item]))
    assert matches == []


def test_patient_root(filled):
    status, matches, _ = find(
        filled.port, "PATIENT", PATIENT_ROOT_FIND, PatientID="FIND-*", PatientName="", NumberOfPatientRelatedStudies=""
    )
    assert status == 0
    assert {m.PatientID: m.NumberOfPatientRelatedStudies for m in matches} == {"FIND-1": 2, "FIND-2": 1}
    _, matches, _ = find(filled.port, "STUDY", PATIENT_ROOT_FIND, PatientID="FIND-1", StudyInstanceUID="")
    assert studies(matches) == sorted(STUDIES[:2])


def test_a_key_that_cannot_be_matched_is_said_so(filled):
    status, matches, pending = find(filled.port, "STUDY", AccessionNumber="F-A1", NumberOfStudyRelatedSeries="99")
    assert status == 0
    assert studies(matches) == [STUDIES[0]]
    assert pending == [0xFF01]


@pytest.mark.parametrize(
    ("level", "model", "keys", "status"),
    [
        ("PATIENT", STUDY_ROOT_FIND, {}, 0xA900),
        ("NONE", STUDY_ROOT_FIND, {}, 0xA900),
        ("", STUDY_ROOT_FIND, {}, 0xA900),
        ("STUDY", STUDY_ROOT_FIND, {"StudyDate": "20241399"}, 0xC000),
        ("STUDY", STUDY_ROOT_FIND, {"StudyDate": "20240101-20230101"}, 0xC000),
        ("STUDY", STUDY_ROOT_FIND, {"StudyInstanceUID": "../../x"}, 0xC000),
    ],
)
def test_requests_that_make_no_sense(filled, level, model, keys, status):
    with pydicom.config.disable_value_validation():
        assert find(filled.port, level, model, **keys)[:2] == (status, [])


def test_more_matches_than_the_limit(bridge):
    store(bridge.port, *(instance(PatientID="LIMIT", StudyDate="20200101") for _ in range(53)))
    status, matches, _ = find(bridge.port, "STUDY", PatientID="LIMIT", StudyInstanceUID="")
    assert status == 0xA700
    assert len(matches) == 50


def test_cancel_ends_the_answers(bridge):
    identifier = encoded_identifier(QueryRetrieveLevel="STUDY", PatientID="LIMIT", StudyInstanceUID="")
    with Wire(bridge.port) as peer:
        assert peer.associate(STUDY_ROOT_FIND) == 2
        # In one write, so that the cancel is there before the search has ended.
        command = wire.pdu(4, wire.pdv(1, 3, wire.find_rq()))
        data = wire.pdu(4, wire.pdv(1, 2, identifier))
        peer.send(command + data + wire.pdu(4, wire.pdv(1, 3, wire.cancel_rq())))
        statuses = []
        for answer in peer.answers():
            statuses.append(int.from_bytes(answer[0x0900], "little"))
            if statuses[-1] != 0xFF00:
                break
        assert statuses[-1] == 0xFE00
        assert len(statuses) < 50


def encoded_identifier(**keys) -> bytes:
    identifier = Dataset()
    for name, value in keys.items():
        setattr(identifier, name, value)
    return encoded(identifier)


def test_identifiers_that_are_bombs(bridge):
    deep = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    for data in (deep, b"\x08\x00\x52\x00CS\xff\x7f", b"\xff" * 1000, b""):
        with Wire(bridge.port) as peer:
            assert peer.associate(STUDY_ROOT_FIND) == 2
            peer.message(1, wire.find_rq(), data)
            assert peer.status() in (0xC000, 0xA900)
            peer.message(1, wire.find_rq(), encoded_identifier(QueryRetrieveLevel="STUDY", PatientID="nobody"))
            assert peer.status() == 0


def test_findscu(filled, dcmtk, tmp_path):
    asked = (
        "QueryRetrieveLevel=STUDY",
        "PatientID=FIND-1",
        "StudyDate=20240101-20240131",
        "StudyInstanceUID",
        "PatientName",
    )
    keys = [text for key in (*asked, "PatientName") for text in ("-k", key)]
    done = subprocess.run(
        ["findscu", "-X", "-S", "-aec", "ANOR", "127.0.0.1", str(filled.port), "-od", str(tmp_path), *keys],
        env=dcmtk,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [pydicom.dcmread(path, force=True) for path in sorted(tmp_path.glob("rsp*.dcm"))]
    assert studies(answers) == [STUDIES[0]]
    assert str(answers[0].PatientName) == "Müller^Jörg"


async def test_who_is_not_declared_does_not_find(dimse_settings, archive, dcmtk, tmp_path):
    """What is open by default to those on other machines: the rest is for declared application entities."""
    default = load_settings({"data": tmp_path}, {}, None)[0].dimse_open
    settings = dataclasses.replace(dimse_settings, dimse_port=free_port(), dimse_open_local=default)
    where = ["-aet", "NEWCOMER", "-aec", "ANOR", "127.0.0.1", str(settings.dimse_port)]
    keys = ["-v", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=4MR1", "-k", "StudyInstanceUID"]

    def says(program, *more):
        done = subprocess.run([program, *where, *more], env=dcmtk, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    bridge = start_bridge(settings)
    try:
        says("echoscu")
        says("storescu", get_testdata_file("MR_small.dcm"))
        assert "Final Find Response (Unknown Status: 0x124)" in says("findscu", *keys)
        await archive.modalities.put(LOCAL, Modality("newcomer", "NEWCOMER", "", 0, allow=frozenset({"find"})))
        await asyncio.sleep(1.1)  # another process believes what it knew for a second
        assert "Pending" in says("findscu", *keys)
        await archive.modalities.delete(LOCAL, "newcomer")
    finally:
        assert bridge.stop() == 0
