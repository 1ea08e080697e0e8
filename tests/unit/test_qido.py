"""QIDO-RS parameters as clients send them."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.errors import BadQuery, BadRequest
from dicomweb.qido import parse, warning_header
from dicomweb.query import EMPTY_VALUE_UNSUPPORTED, FUZZY_UNSUPPORTED, Query
from dicomweb.tags import Level


def query(text: str, level: Level = Level.STUDY, study: str | None = None, series: str | None = None) -> Query:
    return parse(level, study, series, parse_qsl(text, keep_blank_values=True), max_limit=1000, default_limit=200)


def conditions(found: Query) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {".".join(match.path): (match.kind, match.values) for match in found.matches}


def test_ohif_worklist() -> None:
    found = query(
        "PatientName=*x*&00100020=*x*&AccessionNumber=*x*&StudyDescription=*x*&ModalitiesInStudy=CT&StudyDate=20200101-20201231"
        "&StudyInstanceUID=1.2%5C1.3&limit=101&offset=0&fuzzymatching=true&includefield=00081030,00080060,00080090,00100030"
    )
    assert conditions(found) == {
        "00100010": ("wildcard", ("*x*",)),
        "00100020": ("wildcard", ("*x*",)),
        "00080050": ("wildcard", ("*x*",)),
        "00081030": ("wildcard", ("*x*",)),
        "00080061": ("exact", ("CT",)),
        "00080020": ("range", ("20200101", "20201231")),
        "0020000D": ("list", ("1.2", "1.3")),
    }
    assert found.fuzzy
    assert (found.limit, found.offset, found.warnings) == (101, 0, ())
    assert {("00080090",), ("00100030",)} <= set(found.fields)


def test_ohif_series_list() -> None:
    found = query("includefield=0008103E,00080021&SeriesInstanceUID=1.5", Level.SERIES, study="1.2")
    assert (found.study, found.series) == ("1.2", None)
    assert conditions(found) == {"0020000E": ("exact", ("1.5",))}
    assert found.fields == (("0020000E",), ("0008103E",), ("00080021",))


def test_slim() -> None:
    assert conditions(query("ModalitiesInStudy=SM&PatientName=a*&fuzzymatching=true")).keys() == {
        "00080061",
        "00100010",
    }
    relational = query("Modality=SM&StudyInstanceUID=1.2", Level.SERIES)
    assert conditions(relational) == {"00080060": ("exact", ("SM",)), "0020000D": ("exact", ("1.2",))}
    below = query("Modality=PR", Level.INSTANCE, study="1.2")
    assert conditions(below) == {"00080060": ("exact", ("PR",))}
    assert query("Modality=SM").matches[0].path == ("00080061",)


def test_weasis() -> None:
    found = query("&includefield=PatientName,StudyDate,&limit=10&offset=0&=")
    assert found.fields == (("00100010",), ("00080020",))
    assert found.limit == 10
    empty = parse(Level.STUDY, None, None, [("", ""), ("includefield", "")], 1000, 200)
    assert empty == Query(Level.STUDY, limit=200)


def test_dicomweb_client() -> None:
    found = query("includefield=00080005&includefield=PatientName&includefield=all&fuzzymatching=false&limit=5")
    assert found.all_fields
    assert not found.fuzzy
    assert found.fields == (("00080005",), ("00100010",))


def test_wsidicom() -> None:
    found = query(
        "includefield=AvailableTransferSyntaxUID&SOPClassUID=1.2&SeriesInstanceUID=1.3,1.4",
        Level.INSTANCE,
        study="1.2",
        series="1.3",
    )
    assert conditions(found) == {"00080016": ("exact", ("1.2",)), "0020000E": ("list", ("1.3", "1.4"))}
    assert ("00083002",) in found.fields


def test_uid_lists_in_every_form() -> None:
    expected = {"0020000D": ("list", ("1.1", "1.2", "1.3"))}
    for text in (
        "StudyInstanceUID=1.1,1.2,1.3",
        "StudyInstanceUID=1.1%5C1.2%5C1.3",
        "StudyInstanceUID=1.1&StudyInstanceUID=1.2&0020000D=1.3",
        "StudyInstanceUID=1.1%2C1.2&0020000d=1.3,1.1",
    ):
        assert conditions(query(text)) == expected


def test_sequence_paths() -> None:
    found = query("RequestAttributesSequence.RequestedProcedureID=P*&00400275.ScheduledProcedureStepID=S", Level.SERIES)
    assert conditions(found) == {"00400275.00401001": ("wildcard", ("P*",)), "00400275.00400009": ("exact", ("S",))}
    included = query("includefield=RequestAttributesSequence.RequestedProcedureID,00400275", Level.SERIES)
    assert included.fields == (("00400275", "00401001"), ("00400275",))


def test_paging() -> None:
    assert (query("").limit, query("").offset) == (200, 0)
    assert query("limit=5000").limit == 1000
    assert query("limit=99999999999999999").limit == 1000
    assert query("limit=0").limit == 0
    assert query("limit=&offset=").limit == 200
    assert query("limit=5&limit=5&offset=1000000").offset == 1_000_000


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=1.5", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=1&limit=2", "limit"),
        ("offset=1000001", "offset"),
        ("offset=-1", "offset"),
        ("fuzzymatching=maybe", "fuzzymatching"),
        ("emptyvaluematching=1", "emptyvaluematching"),
        ("multiplevaluematching=yes", "multiplevaluematching"),
        ("PatentID=1", "PatentID"),
        ("orderby=PatientName", "orderby"),
        ("patientid=1", "patientid"),
        ("PatientID.StudyID=1", "PatientID.StudyID"),
        ("StudyDate=yesterday", "StudyDate"),
        ("0020000D=x", "0020000D"),
    ],
)
def test_bad_parameters_are_named(text: str, name: str) -> None:
    with pytest.raises(BadQuery) as caught:
        query(text)
    assert caught.value.attribute == name
    assert name in caught.value.message


@pytest.mark.parametrize("name", ["<script>", "a\r\nSet-Cookie: x", "x" * 1000, "é"])
def test_strange_names_are_not_repeated(name: str) -> None:
    with pytest.raises(BadQuery) as caught:
        parse(Level.STUDY, None, None, [(name, "1")], 10, 10)
    assert name not in caught.value.message
    (warning,) = parse(Level.STUDY, None, None, [("includefield", name.replace(",", ""))], 10, 10).warnings
    assert name not in warning
    assert warning.isascii()
    assert warning.isprintable()


def test_unknown_fields_are_ignored_with_a_warning() -> None:
    found = query("includefield=PatientName,FromTheFuture")
    assert found.fields == (("00100010",),)
    assert found.warnings == ("The includefield value FromTheFuture is not a known attribute. It has been ignored.",)
    assert len(query("includefield=" + ",".join(f"X{n}" for n in range(500))).warnings) <= 10


def test_parameters_that_are_not_the_search_s() -> None:
    assert query("accept=application/dicom%2Bjson&_=1699&charset=utf-8") == Query(Level.STUDY, limit=200)


def test_parameter_names_may_be_in_any_case() -> None:
    assert query("includeField=PatientName&Limit=3").limit == 3


def test_value_matching_options() -> None:
    assert query("emptyvaluematching=true").warnings == (EMPTY_VALUE_UNSUPPORTED,)
    assert query("emptyvaluematching=false").warnings == ()
    both = query("multiplevaluematching=true&ModalitiesInStudy=CT%5CPT")
    assert [match.values for match in both.matches] == [("CT",), ("PT",)]
    assert both.warnings == ()
    assert conditions(query("ModalitiesInStudy=CT%5CPT")) == {"00080061": ("list", ("CT", "PT"))}


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (Level.STUDY, "SeriesDescription=x"),
        (Level.STUDY, "BodyPartExamined=HEAD"),
        (Level.STUDY, "00091001=x"),
        (Level.STUDY, "NumberOfStudyRelatedInstances=7"),
        (Level.SERIES, "SOPClassUID=1.2"),
        (Level.INSTANCE, "InstanceAvailability=ONLINE"),
    ],
)
def test_what_cannot_be_matched_is_refused(level: Level, name: str) -> None:
    with pytest.raises(BadQuery) as caught:
        query(name, level)
    assert caught.value.attribute == name.partition("=")[0]
    assert query(name.partition("=")[0] + "=", level).matches == ()


def test_size_limits() -> None:
    long = "1." + "2" * 50
    assert len(query("StudyInstanceUID=" + ",".join(f"{long}.{n}" for n in range(1000))).matches[0].values) == 1000
    with pytest.raises(BadQuery, match="1000 values"):
        query("StudyInstanceUID=" + ",".join(f"1.{n}" for n in range(10_000)))


def test_parents_must_be_uids() -> None:
    with pytest.raises(BadRequest, match="StudyInstanceUID"):
        query("", Level.SERIES, study="1.2'; --")


def test_warning_header() -> None:
    assert warning_header("https://h/dicom-web", FUZZY_UNSUPPORTED) == (
        "299 https://h/dicom-web: The fuzzymatching parameter is not supported. "
        "Only literal matching has been performed."
    )


_PAIR = st.tuples(
    st.sampled_from(["PatientName", "limit", "offset", "includefield", "fuzzymatching", "StudyDate", "0020000D", ""])
    | st.text(max_size=6),
    st.text(max_size=12) | st.sampled_from(["true", "10", "all", "*", "20240101-", "1.2,1.3"]),
)


@settings(deadline=None)
@given(st.sampled_from(list(Level)), st.lists(_PAIR, max_size=6))
def test_any_parameters_are_a_query_or_refused(level: Level, pairs: list[tuple[str, str]]) -> None:
    try:
        found = parse(level, None, None, pairs, 100, 10)
    except BadQuery:
        return
    assert 0 <= found.limit <= 100
    assert hash(found) == hash(parse(level, None, None, pairs, 100, 10))
    assert all(warning.isascii() and warning.isprintable() for warning in found.warnings)
