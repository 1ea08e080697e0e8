"""Orthanc's requests to modify and to anonymize: what they mean, and what they are refused for."""

import pytest
from pydicom import Dataset

from dicomweb.deidentify import Option
from dicomweb.deidentify.request import OPTIONS, Anonymization, Modification
from dicomweb.errors import BadQuery, BadRequest
from dicomweb.tags import Level
from tests.files import dataset
from tests.unit.edited import KEY, edited, read, written

IDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def modified(ds, body, level, **rest):
    return read(edited(written(ds), Modification.parse(body, level).rules(KEY.uid, **rest)))


@pytest.mark.parametrize(
    ("level", "body", "new"),
    [
        (Level.PATIENT, {"Replace": {"PatientID": "new"}, "Force": True}, IDS),
        (Level.STUDY, {}, IDS),
        (Level.SERIES, {"Replace": {"Modality": "MR"}}, IDS[1:]),
        (Level.INSTANCE, {}, IDS[2:]),
        (Level.STUDY, {"Keep": ["SOPInstanceUID", "SeriesInstanceUID"], "Force": True}, IDS[:1]),
        (Level.INSTANCE, {"Keep": ["SOPInstanceUID"], "Force": True}, ()),
        # An instance is modified at the topmost level that it replaces.
        (Level.INSTANCE, {"Replace": {"SeriesInstanceUID": "1.2.3"}, "Force": True}, IDS[2:]),
        (Level.INSTANCE, {"Replace": {"PatientID": "new"}, "Force": True}, IDS),
    ],
)
def test_identifiers_from_the_level_down_are_new(level, body, new):
    ds = dataset()
    found = modified(ds, body, level)
    for keyword in IDS:
        replaced = body.get("Replace", {}).get(keyword)
        expected = KEY.uid(ds[keyword].value) if keyword in new else replaced or ds[keyword].value
        assert found[keyword].value == expected


def test_all_members_of_a_request():
    ds = dataset()
    ds.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "private")
    body = {
        "Replace": {"PatientName": "New^Name", "0008-1030": "A study", "0011,1001": "mine"}, "PrivateCreator": "ME",
        "Remove": ["SeriesDescription", "00080050"], "RemovePrivateTags": True, "KeepSource": False, "Unknown": 1,
        "Transcode": "1.2.840.10008.1.2.4.80", "LossyQuality": 90, "KeepLabels": True, "Permissive": True,
    }  # fmt: skip
    request = Modification.parse(body, Level.SERIES)
    assert (request.keep_source, request.keep_labels, request.permissive) == (False, True, True)
    assert (request.transcode, request.lossy_quality) == ("1.2.840.10008.1.2.4.80", 90)
    found = read(edited(written(ds), request.rules(KEY.uid)))
    assert (found.PatientName, found.StudyDescription) == ("New^Name", "A study")
    assert "SeriesDescription" not in found
    assert "AccessionNumber" not in found
    assert 0x00091001 not in found
    assert found.private_block(0x0011, "ME")[1].value.rstrip(b"\0") == b"mine"


def test_references_within_what_is_modified_follow():
    ds = dataset()
    inside, outside = Dataset(), Dataset()
    inside.ReferencedSOPInstanceUID, outside.ReferencedSOPInstanceUID = "1.2.3", "1.2.4"
    ds.SourceImageSequence = [inside, outside]
    found = modified(ds, {}, Level.STUDY, members={"1.2.3"})
    assert [each.ReferencedSOPInstanceUID for each in found.SourceImageSequence] == [KEY.uid("1.2.3"), "1.2.4"]
    found = modified(ds, {}, Level.STUDY)
    assert [each.ReferencedSOPInstanceUID for each in found.SourceImageSequence] == ["1.2.3", "1.2.4"]


@pytest.mark.parametrize(
    ("level", "body", "attribute"),
    [
        (Level.STUDY, {"Replace": {"StudyInstanceUID": "1.2"}}, "StudyInstanceUID"),
        (Level.STUDY, {"Replace": {"0010,0020": "x"}}, "PatientID"),
        (Level.STUDY, {"Keep": ["SOPInstanceUID"]}, "SOPInstanceUID"),
        (Level.STUDY, {"Remove": ["PatientID"]}, "PatientID"),
        (Level.STUDY, {"Remove": ["StudyInstanceUID"], "Force": True}, "StudyInstanceUID"),
        (Level.STUDY, {"Replace": {"SeriesInstanceUID": "1.2"}, "Force": True}, "SeriesInstanceUID"),
        (Level.SERIES, {"Replace": {"SOPInstanceUID": "1.2"}, "Force": True}, "SOPInstanceUID"),
        (Level.PATIENT, {"Replace": {"PatientName": "x"}}, "PatientID"),
        (Level.PATIENT, {"Replace": {"PatientID": "x", "StudyInstanceUID": "1.2"}, "Force": True}, "StudyInstanceUID"),
        (Level.STUDY, {"Replace": ["x"]}, "Replace"),
        (Level.STUDY, {"Remove": {"x": 1}}, "Remove"),
        (Level.STUDY, {"Remove": ["Nothing"]}, "Nothing"),
        (Level.STUDY, {"Replace": {"StudyInstanceUID": "x"}, "Force": True}, "StudyInstanceUID"),
        (Level.STUDY, {"Force": "yes"}, "Force"),
        (Level.STUDY, {"PrivateCreator": 1}, "PrivateCreator"),
        (Level.STUDY, {"Transcode": 1}, "Transcode"),
        (Level.STUDY, {"LossyQuality": 0}, "LossyQuality"),
        (Level.STUDY, {"Remove": [f"{0x00090000 + n:08X}" for n in range(0x1000, 0x1400)]}, None),
        (Level.STUDY, [], None),
    ],
)
def test_what_a_modification_is_refused_for(level, body, attribute):
    with pytest.raises(BadRequest) as refused:
        Modification.parse(body, level)
    assert refused.value.attribute == attribute


def test_an_anonymization_is_the_basic_profile_and_its_options():
    ds = dataset()
    ds.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "private")
    body = {
        "Replace": {"PatientName": "Hello"}, "Keep": ["StudyDescription", "SeriesInstanceUID"], "Remove": ["KVP"],
        "Force": True, "KeepPrivateTags": True, "Options": ["RetainLongitudinalFullDates"],
    }  # fmt: skip
    request = Anonymization.parse(body)
    assert request.options == {Option.RETAIN_FULL_DATES}
    found = read(edited(written(ds), request.rules(KEY, patient_id="P")))
    assert (found.PatientName, found.PatientID, found.StudyDescription) == ("Hello", "P", "Thorax nativ")
    assert found.SeriesInstanceUID == ds.SeriesInstanceUID
    assert found.StudyInstanceUID == KEY.uid(ds.StudyInstanceUID)
    assert (found.StudyDate, found.AccessionNumber, found.PatientIdentityRemoved) == ("20240131", "", "YES")
    assert "KVP" not in found
    assert 0x00091001 in found
    assert set(OPTIONS.values()) == set(Option)


@pytest.mark.parametrize("version", ["2008", "2017c", "2021b", "2023b", 3, None])
def test_an_older_table_is_refused(version):
    with pytest.raises(BadQuery, match="edition of January 2025"):
        Anonymization.parse({"DicomVersion": version})
    with pytest.raises(BadQuery, match="Options"):
        Anonymization.parse({"Options": ["Everything"]})
    with pytest.raises(BadRequest, match="Force"):
        Anonymization.parse({"Keep": ["PatientID"]})
    both = Anonymization.parse({"Options": ["RetainLongitudinalFullDates", "RetainLongitudinalModifiedDates"]})
    with pytest.raises(BadRequest, match="either"):
        both.rules(KEY)
