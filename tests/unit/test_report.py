"""Structured reports as HTML."""

import re
from html.parser import HTMLParser

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage

from dicomweb.charset import DEFAULT
from dicomweb.rendered.report import MAX_DEPTH, long_texts, report_html, report_text, text_of


def code(meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", meaning
    return Sequence([item])


def content(kind: str, name: str = "", *children: Dataset, **attributes: object) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", kind
    if name:
        item.ConceptNameCodeSequence = code(name)
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    if children:
        item.ContentSequence = Sequence(children)
    return item


def page(*children: Dataset, annotation: tuple[str, ...] = ()) -> str:
    root = content("CONTAINER", "Chest report", *children)
    root.PatientName, root.PatientID, root.CompletionFlag = "Doe^Jane", "P-77", "COMPLETE"
    return report_html(root.to_json_dict(), annotation).decode()


def test_values_of_every_kind() -> None:
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "12.5", code("mm")
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.4"
    html = page(
        content("TEXT", "Finding", TextValue="clear\r\nlungs"),
        content("NUM", "Diameter", MeasuredValueSequence=Sequence([measured])),
        content("NUM", "Unmeasured"),
        content("CODE", "Side", ConceptCodeSequence=code("left")),
        content("DATE", "On", Date="20260102"),
        content("PNAME", "By", PersonName="Doe^John"),
        content("IMAGE", "Of", ReferencedSOPSequence=Sequence([reference])),
        content("SCOORD", "At", GraphicType="POINT", GraphicData=[1.0, 2.0]),
        content("CONTAINER", "Conclusion", content("TEXT", "", TextValue="well")),
        content("NEWKIND", "Other"),
    )
    for expected in (
        "<h1>Chest report</h1>", "<b>Finding</b>: clear<br>lungs", "<b>Diameter</b>: 12.5 mm", "<b>Side</b>: left",
        "<b>Unmeasured</b>: (no value)", "<b>On</b>: 2026-01-02", "<b>By</b>: Doe John", "CT Image 1.2.3.4",
        "point of 2 coordinates", "<h2>Conclusion</h2>", "<li>well</li>", "(newkind)", "<dd>COMPLETE</dd>",
    ):  # fmt: skip
        assert expected in html


def test_dates_and_times_can_be_read() -> None:
    for vr, value, expected in (
        ("DA", "20050530", "2005-05-30"),
        ("TM", "101530.25", "10:15:30"),
        ("TM", "10", "10"),
        ("DT", "200505301015+0100", "2005-05-30 10:15 +01:00"),
        ("DT", "200505", "2005-05"),
        ("DA", "yesterday", "yesterday"),
    ):
        html = report_html({"00080023": {"vr": vr, "Value": [value]}}).decode()
        assert f"<dd>{expected}</dd>" in html


def test_who_verified_it_and_when() -> None:
    observer = Dataset()
    observer.VerifyingObserverName, observer.VerifyingOrganization = "Doe^John", "St. Mary"
    observer.VerificationDateTime = "20260102101530"
    root = content("CONTAINER", "Report")
    root.VerificationFlag, root.VerifyingObserverSequence = "VERIFIED", Sequence([observer, Dataset()])
    html = report_html(root.to_json_dict()).decode()
    assert "<dt>Verified by</dt><dd>Doe John, St. Mary, 2026-01-02 10:15:30</dd>" in html
    assert html.count("Verified by") == 1


def test_texts_that_the_metadata_refer_to() -> None:
    item = {"0040A040": {"vr": "CS", "Value": ["TEXT"]}, "0040A160": {"vr": "UT", "BulkDataURI": "a"}}
    other = item | {"0040A160": {"vr": "UT", "BulkDataURI": "b"}, "00080005": {"vr": "CS", "Value": ["ISO_IR 144"]}}
    root = {"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}, "0040A730": {"vr": "SQ", "Value": [item, other]}}
    assert list(long_texts(root)) == [("a", ("latin-1",)), ("b", ("iso8859-5",))]
    texts = {"a": text_of("<Befund> ä\r\nb".encode("latin-1"), ("latin-1",), cut=False)}
    html = report_html(root, (), texts).decode()
    assert "<li>&lt;Befund&gt; ä<br>b</li>" in html
    assert "(a long text, which the metadata refer to)" in html
    assert text_of("aä".encode()[:2], ("utf-8",), cut=True).startswith("a …")
    assert list(long_texts({})) == []
    assert text_of(b"x \0", DEFAULT, cut=False) == "x"


def test_plain_text() -> None:
    root = content(
        "CONTAINER",
        "Chest report",
        content("TEXT", "Finding", TextValue="clear\r\nlungs"),
        content("CONTAINER", "Conclusion", content("TEXT", "", TextValue="<well>")),
    )
    root.PatientName, root.CompletionFlag = "Doe^Jane", "COMPLETE"
    assert report_text(root.to_json_dict()).decode() == (
        "Chest report\n============\nCompletion: COMPLETE\n\nFinding: clear\n  lungs\nConclusion\n  <well>\n"
    )
    assert b"Patient: Doe Jane\n" in report_text(root.to_json_dict(), ("patient",))
    for level in range(MAX_DEPTH + 40):
        root = content("CONTAINER", f"level {level}", root)
    assert b"nested deeper" in report_text(root.to_json_dict())


def test_the_patient_only_when_asked() -> None:
    assert "Doe" not in page()
    assert "P-77" not in page(annotation=("technique",))
    assert "Doe Jane" in page(annotation=("patient",))


class _Strict(HTMLParser):
    """Notes every element, and fails for one that is not closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += attrs
        if tag not in {"br", "meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</title></h1>&lt;"])
def test_nothing_of_a_value_becomes_markup(evil: str) -> None:
    root = content("CONTAINER", evil, content("TEXT", evil, TextValue=evil), content("CONTAINER", evil))
    dataset = root.to_json_dict()
    for tag in ("00081030", "00100010", "00080023", "0040A491"):
        dataset[tag] = {"vr": "LO", "Value": [evil]}
    parser = _Strict()
    parser.feed(report_html(dataset, ("patient",)).decode())
    assert parser.open == []
    assert parser.seen <= {
        "html",
        "head",
        "meta",
        "title",
        "body",
        "h1",
        "h2",
        "dl",
        "dt",
        "dd",
        "ul",
        "li",
        "b",
        "section",
    }
    assert parser.attributes == [("lang", "en"), ("charset", "utf-8")]


def test_depth_is_bounded() -> None:
    item = content("TEXT", "deepest", TextValue="x")
    for level in range(MAX_DEPTH + 40):
        item = content("CONTAINER", f"level {level}", item)
    html = page(item)
    assert "nested deeper" in html
    assert "deepest" not in html
    assert html.count("<section>") == MAX_DEPTH


def test_content_that_is_broken() -> None:
    empty = {
        "0040A730": {"vr": "SQ", "Value": [{}, {"0040A040": {"vr": "CS"}}, {"0040A040": {"vr": "CS", "Value": [None]}}]}
    }
    assert b"(no value)" in report_html(empty)
    assert b"Structured report" in report_html({})


def test_a_real_report_shows_all_its_texts() -> None:
    ds = dcmread(str(get_testdata_file("reportsi.dcm", download=False)), force=True)
    html = report_html(ds.to_json_dict()).decode()
    found = [str(e.value) for e in ds.iterall() if e.tag == 0x0040A160]
    assert found
    for text in found:
        first_words = re.split(r"[\r\n&<>'\"]", text.strip())[0]
        assert first_words in html
