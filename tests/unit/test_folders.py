"""Names of folders and files in archives for download."""

import pytest

from dicomweb.folders import file_name, patient_folder, safe_name, series_folder, study_folder


def test_the_names_orthanc_gives() -> None:
    patient = {
        "00100020": {"vr": "LO", "Value": ["P-1"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "DOE^JANE"}]},
    }
    assert patient_folder(patient) == "P-1 - DOE JANE"
    study = {"00080050": {"vr": "SH", "Value": ["A77"]}, "00081030": {"vr": "LO", "Value": ["CT head"]}}
    assert study_folder(study) == "A77 - CT head"
    series = {
        "00200011": {"vr": "IS", "Value": [3]},
        "00080060": {"vr": "CS", "Value": ["MR"]},
        "0008103E": {"vr": "LO"},
    }
    assert series_folder(series) == "3 - MR"
    assert file_name("MR", 1) == "MR000001.dcm"


def test_names_of_nothing() -> None:
    assert patient_folder({}) == "Unknown Patient"
    assert study_folder({"00080050": {"vr": "SH"}, "00081030": {"vr": "LO", "Value": [None]}}) == "Unknown Study"
    assert series_folder({"0008103E": {"vr": "LO", "Value": ["../.."]}}) == "Unknown Series"
    assert file_name("", 12) == "IM000012.dcm"


def test_only_an_ideographic_name() -> None:
    assert patient_folder({"00100010": {"vr": "PN", "Value": [{"Ideographic": "山田^太郎"}]}}) == "山田 太郎"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "etc passwd"),
        ("C:\\Windows\\x", "C Windows x"),
        ("a\r\nSet-Cookie: b\0c", "a Set-Cookie b c"),
        ("CON", "_CON"),
        ("com1.txt", "_com1.txt"),
        ("  .. ", ""),
        ("x" * 500, "x" * 100),
        ("\u202egpj.exe", "gpj.exe"),
        ("Müller", "Müller"),
    ],
)
def test_hostile_names(text: str, name: str) -> None:
    assert safe_name(text) == name
    assert safe_name(safe_name(text)) == safe_name(text)
