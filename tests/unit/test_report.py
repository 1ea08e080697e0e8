"""Structured reports as HTML."""

import re
from html.parser import HTMLParser

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

from dicomweb.rendered.report import MAX_DEPTH, report_html


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
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2", "1.2.3.4"
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
        "<b>Unmeasured</b>: (no value)", "<b>On</b>: 20260102", "<b>By</b>: Doe John", "instance 1.2.3.4",
        "point of 2 coordinates", "<h2>Conclusion</h2>", "<li>well</li>", "(newkind)", "<dd>COMPLETE</dd>",
    ):  # fmt: skip
        assert expected in html


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
