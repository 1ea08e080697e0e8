"""Keys and values -> Match; levels; what QIDO-RS and C-FIND share."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.errors import BadQuery, BadRequest
from dicomweb.query import (
    MAX_FIELDS,
    MAX_KEYS,
    TIMEZONE_UNSUPPORTED,
    Key,
    Match,
    Options,
    Query,
    matches_of,
    parse_path,
)
from dicomweb.query_levels import assemble, level_of_key
from dicomweb.tags import Level


def key(name: str, *texts: str) -> Key:
    path = parse_path(name)
    assert path is not None
    return Key(path, name, texts)


def one(name: str, *texts: str, commas: bool = True) -> tuple[str, tuple[str, ...]]:
    (match,), offset = matches_of(key(name, *texts), Options(commas=commas))
    assert not offset
    assert match.path == parse_path(name)
    return match.kind, match.values


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("PatientID", ("00100020",)),
        ("00100020", ("00100020",)),
        ("0020000d", ("0020000D",)),
        ("RequestAttributesSequence.RequestedProcedureID", ("00400275", "00401001")),
        ("00400275.00401001", ("00400275", "00401001")),
        ("00400275.RequestedProcedureID", ("00400275", "00401001")),
        ("00091001", ("00091001",)),
        ("00091001.00100010", ("00091001", "00100010")),
        ("patientid", None),
        ("0010,0020", None),
        ("", None),
        ("PatientID.", None),
        ("PatientID.StudyID", None),
        (".".join(["00400275"] * 9), None),
        ("00100020 ", None),
    ],
)
def test_paths(name: str, path: tuple[str, ...] | None) -> None:
    assert parse_path(name) == path


@pytest.mark.parametrize(
    ("name", "texts", "kind", "values"),
    [
        ("PatientID", ["X1"], "exact", ("X1",)),
        ("PatientID", [" X1 \0"], "exact", ("X1",)),
        ("PatientID", ["a,b"], "exact", ("a,b",)),
        ("PatientID", [r"a\b"], "list", ("a", "b")),
        ("PatientID", ["a", "b", "a"], "list", ("a", "b")),
        ("PatientID", ["%_"], "exact", ("%_",)),
        ("PatientID", ["a**b?*"], "wildcard", ("a*b?*",)),
        ("PatientID", [""], "universal", ()),
        ("PatientID", ["**"], "universal", ()),
        ("PatientID", [], "universal", ()),
        ("PatientID", ["", "a"], "exact", ("a",)),
        ("PatientID", ["\\"], "universal", ()),
        ("PatientName", ["Doe^John^^^="], "exact", ("Doe^John",)),
        ("PatientName", ["*Müller*"], "wildcard", ("*Müller*",)),
        ("PatientName", [r"a\b"], "exact", (r"a\b",)),
        ("StudyInstanceUID", ["1.2,1.3\\1.4", "1.5"], "list", ("1.2", "1.3", "1.4", "1.5")),
        ("StudyInstanceUID", ["1.2\0"], "exact", ("1.2",)),
        ("StudyInstanceUID", ["1.2,,1.2"], "exact", ("1.2",)),
        ("StudyInstanceUID", ["*"], "universal", ()),
        ("Modality", ["CT,MR"], "list", ("CT", "MR")),
        ("Modality", ["C?"], "wildcard", ("C?",)),
        ("SeriesNumber", ["007"], "exact", ("7",)),
        ("SeriesNumber", [r"1\2"], "list", ("1", "2")),
        ("SliceThickness", ["-1.5e2"], "exact", ("-1.5e2",)),
        ("Rows", ["512"], "exact", ("512",)),
        ("PatientAge", ["045Y"], "exact", ("045Y",)),
        ("FrameIncrementPointer", ["(0018,1063)"], "exact", ("00181063",)),
        ("FrameIncrementPointer", ["FrameTime"], "exact", ("00181063",)),
        ("StudyDate", ["20240101"], "exact", ("20240101",)),
        ("StudyDate", ["20240101-20240101"], "exact", ("20240101",)),
        ("StudyDate", ["20240101-20240131"], "range", ("20240101", "20240131")),
        ("StudyDate", ["-20240131"], "range", ("", "20240131")),
        ("StudyDate", ["-"], "universal", ()),
        ("StudyDate", ["*"], "universal", ()),
        ("StudyTime", ["1030"], "range", ("1030", "103060.999999")),
        ("00091001", ["a*b"], "exact", ("a*b",)),
        ("00090010", ["ACME*"], "wildcard", ("ACME*",)),
        ("PatientComments", [" indented "], "exact", (" indented",)),
        ("RequestAttributesSequence", [""], "universal", ()),
        ("RequestAttributesSequence.RequestedProcedureID", ["P1"], "exact", ("P1",)),
        ("PixelData", [""], "universal", ()),
    ],
)
def test_values(name: str, texts: list[str], kind: str, values: tuple[str, ...]) -> None:
    assert one(name, *texts) == (kind, values)


def test_commas_belong_to_qido_only() -> None:
    assert one("Modality", r"CT\MR", commas=False) == ("list", ("CT", "MR"))
    assert one("Modality", "CT,MR", commas=False) == ("exact", ("CT,MR",))
    with pytest.raises(BadQuery):
        one("StudyInstanceUID", "1.2,1.3", commas=False)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("StudyInstanceUID", ["secret"]),
        ("StudyInstanceUID", ["1.2.*"]),
        ("StudyInstanceUID", ["1." + "2" * 63]),
        ("StudyInstanceUID", [",".join(["1.2"] * 1001)]),
        ("StudyDate", ["secret"]),
        ("StudyDate", ["2024*"]),
        ("StudyDate", ["20240101", "20240102"]),
        ("StudyDate", [r"20240101\20240102"]),
        ("SeriesNumber", ["secret"]),
        ("SeriesNumber", ["1*"]),
        ("SeriesNumber", ["1.5"]),
        ("SeriesNumber", ["²"]),
        ("SliceThickness", ["nan"]),
        ("SliceThickness", ["1" * 40]),
        ("PatientAge", ["45"]),
        ("FrameIncrementPointer", ["secret"]),
        ("PatientName", ["secret", "secret2"]),
        ("PatientID", ["secret\0x"]),
        ("PatientID", ["secret\ud800"]),
        ("PatientID", [r"secret*\b"]),
        ("PatientID", ["secret" * 1000]),
        ("PatientName", ["secret" * 1000]),
        ("RequestAttributesSequence", ["secret"]),
        ("PixelData", ["secret"]),
    ],
)
def test_bad_values_name_the_parameter_and_not_the_value(name: str, texts: list[str]) -> None:
    with pytest.raises(BadQuery) as caught:
        one(name, *texts)
    assert caught.value.attribute == name
    assert name in caught.value.message
    assert "secret" not in caught.value.message


def test_a_thousand_values_are_allowed() -> None:
    kind, values = one("StudyInstanceUID", ",".join(f"1.{n}" for n in range(1000)))
    assert kind == "list"
    assert len(values) == 1000


def test_multiple_value_matching_joins_by_and() -> None:
    every = Options(commas=True, every_value=True)
    matches, _ = matches_of(key("ModalitiesInStudy", r"CT\PT"), every)
    assert [match.values for match in matches] == [("CT",), ("PT",)]
    assert {match.kind for match in matches} == {"exact"}
    assert matches_of(key("StudyInstanceUID", r"1.2\1.3"), every)[0][0].kind == "list"
    with pytest.raises(BadQuery, match="wildcards"):
        matches_of(key("ModalitiesInStudy", r"C*\PT"), every)


def test_a_query_of_nothing() -> None:
    assert assemble(Query(Level.STUDY), []) == Query(Level.STUDY)
    assert hash(assemble(Query(Level.STUDY), [key("PatientID", "x")])) == hash(
        assemble(Query(Level.STUDY), [key("00100020", "x")])
    )


def test_universal_keys_become_fields() -> None:
    query = assemble(Query(Level.STUDY), [key("PatientID", ""), key("StudyDate", "-"), key("PatientName", "*")])
    assert query.matches == ()
    assert query.fields == (("00100020",), ("00080020",), ("00100010",))


def test_matched_attributes_are_returned() -> None:
    query = assemble(Query(Level.INSTANCE), [key("Modality", "PR")], fields=[("00080018",), ("00080060",)])
    assert query.matches == (Match(("00080060",), "CS", "exact", ("PR",)),)
    assert query.fields == (("00080060",), ("00080018",))


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [("Modality", "SM", "00080061"), ("SOPClassUID", "1.2", "00080062"), ("ModalitiesInStudy", "SM", "00080061")],
)
def test_studies_by_what_their_series_hold(name: str, value: str, path: str) -> None:
    query = assemble(Query(Level.STUDY), [key(name, value)])
    assert [match.path for match in query.matches] == [(path,)]
    assert query.fields == ((path,),)
    assert query.warnings == ()


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (Level.STUDY, "SeriesDescription"),
        (Level.STUDY, "InstanceNumber"),
        (Level.STUDY, "RequestAttributesSequence.RequestedProcedureID"),
        (Level.STUDY, "00091001"),
        (Level.SERIES, "SOPClassUID"),
        (Level.PATIENT, "Modality"),
        (Level.PATIENT, "StudyDate"),
        (Level.PATIENT, "SeriesInstanceUID"),
    ],
)
def test_keys_of_lower_levels_are_ignored_with_a_warning(level: Level, name: str) -> None:
    value = {"StudyDate": "20240101", "InstanceNumber": "1"}.get(name, "1.2")
    query = assemble(Query(level), [key(name, value)])
    assert query.matches == ()
    assert query.fields == ()
    assert query.warnings == (f"The match parameter {name} is not supported for this search. It has been ignored.",)
    assert assemble(Query(level), [key(name, "")]).warnings == ()
    with pytest.raises(BadQuery) as caught:
        assemble(Query(level), [key(name, value)], options=Options(strict=True))
    assert caught.value.attribute == name
    assert assemble(Query(level), [key(name, "")], options=Options(strict=True)).matches == ()


@pytest.mark.parametrize(
    ("level", "name"),
    [(Level.STUDY, "SeriesInstanceUID"), (Level.STUDY, "SOPInstanceUID"), (Level.SERIES, "SOPInstanceUID")],
)
def test_uids_of_lower_levels_are_matched_and_not_returned(level: Level, name: str) -> None:
    query = assemble(Query(level), [key(name, "1.2\\1.3")], options=Options(strict=True))
    assert [(match.path, match.kind, match.values) for match in query.matches] == [
        (parse_path(name), "list", ("1.2", "1.3"))
    ]
    assert (query.fields, query.warnings) == ((), ())


def test_a_bad_value_of_an_ignored_key_is_still_bad() -> None:
    with pytest.raises(BadQuery):
        assemble(Query(Level.STUDY), [key("InstanceNumber", "x")])


@pytest.mark.parametrize(
    "name", ["RetrieveURL", "InstanceAvailability", "NumberOfStudyRelatedInstances", "TransferSyntaxUID"]
)
def test_what_cannot_be_searched_is_ignored_with_a_warning(name: str) -> None:
    query = assemble(Query(Level.INSTANCE), [key(name, "1")])
    assert query.matches == ()
    assert query.fields == (parse_path(name),)
    assert len(query.warnings) == 1


def test_upper_levels_are_relational_matches() -> None:
    keys = [
        key("PatientID", "a"),
        key("StudyDate", "20240101"),
        key("Modality", "CT"),
        key("NumberOfStudyRelatedSeries", ""),
    ]
    query = assemble(Query(Level.INSTANCE), keys)
    assert [match.path[0] for match in query.matches] == ["00100020", "00080020", "00080060"]
    assert query.warnings == ()


def test_character_set_is_never_matched() -> None:
    assert assemble(Query(Level.STUDY), [key("SpecificCharacterSet", "ISO_IR 192")]) == Query(Level.STUDY)


def test_time_zones_are_reported() -> None:
    query = assemble(Query(Level.STUDY), [key("TimezoneOffsetFromUTC", "+0100")])
    assert (query.matches, query.warnings) == ((), (TIMEZONE_UNSUPPORTED,))
    query = assemble(Query(Level.INSTANCE), [key("AcquisitionDateTime", "20240101+0100")])
    assert query.matches[0].kind == "range"
    assert query.warnings == (TIMEZONE_UNSUPPORTED,)


def test_fields_of_lower_levels_are_not_returned() -> None:
    wanted = [("00080018",), ("00080060",), ("0008103E",), ("00100010",), ("00081190",), ("00400275", "00401001")]
    assert assemble(Query(Level.STUDY), [], fields=wanted).fields == (("00080061",), ("00100010",), ("00081190",))
    assert assemble(Query(Level.SERIES), [], fields=wanted).fields == tuple(wanted[1:])
    assert assemble(Query(Level.INSTANCE), [], fields=wanted).fields == tuple(wanted)


def test_limits() -> None:
    many = [key(f"0009{n:04X}", "x") for n in range(0x1000, 0x1000 + MAX_KEYS + 1)]
    assert len(assemble(Query(Level.INSTANCE), many[:-1]).matches) == MAX_KEYS
    with pytest.raises(BadQuery, match="match parameters"):
        assemble(Query(Level.INSTANCE), many)
    with pytest.raises(BadQuery, match="fields"):
        assemble(Query(Level.INSTANCE), [], fields=[(f"0009{n:04X}",) for n in range(0x1000, 0x1001 + MAX_FIELDS)])


def test_parents_are_checked() -> None:
    assert assemble(Query(Level.INSTANCE, study="1.2", series="1.3"), []).series == "1.3"
    with pytest.raises(BadRequest, match="StudyInstanceUID"):
        assemble(Query(Level.SERIES, study="../x"), [])
    with pytest.raises(BadRequest, match="SeriesInstanceUID"):
        assemble(Query(Level.SERIES, study="1.2", series=""), [])


def test_levels() -> None:
    assert level_of_key("00100010") is Level.PATIENT
    assert level_of_key("00080061") is Level.STUDY
    assert level_of_key("00201209") is Level.SERIES
    assert level_of_key("00080018") is Level.INSTANCE


_NAMES = [
    "PatientName",
    "PatientID",
    "StudyDate",
    "StudyTime",
    "AcquisitionDateTime",
    "Modality",
    "StudyInstanceUID",
    "Rows",
    "SliceThickness",
    "PatientAge",
    "00091001",
    "RequestAttributesSequence",
]


@settings(deadline=None)
@given(
    st.sampled_from(_NAMES),
    st.lists(st.text(alphabet="1.2-*?\\,^= A\0", max_size=12) | st.text(max_size=8), max_size=3),
)
def test_any_value_is_a_match_or_refused(name: str, texts: list[str]) -> None:
    try:
        query = assemble(Query(Level.INSTANCE), [key(name, *texts)], options=Options(commas=True))
    except BadQuery:
        return
    for match in query.matches:
        assert match.kind != "universal"
        assert len(match.values) == {"exact": 1, "wildcard": 1, "range": 2}.get(match.kind, len(match.values))
        assert match.kind != "list" or len(match.values) >= 2
        assert any(match.values)
        for value in match.values:
            value.encode()
            assert "\0" not in value
