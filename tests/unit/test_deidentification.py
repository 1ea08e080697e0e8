"""De-identification of whole instances: references, dates, private attributes, text, and every original byte."""

import re
import subprocess
import sys
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import pydicom.data
import pytest
from pydicom import Dataset
from pydicom.sr._concepts_dict import concepts

from dicomweb.deidentify import Option, Pseudonyms, deidentification
from dicomweb.deidentify.cleaning import cleaner
from dicomweb.deidentify.safe_private import SAFE
from dicomweb.edit import Edit
from dicomweb.edit.paths import parse_path
from dicomweb.edit.rules import KEEP, Private
from dicomweb.edit.subject import Subject
from dicomweb.errors import BadDicom, BadRequest
from tests.files import dataset
from tests.unit.edited import KEY, assembled, deidentified, edited, read, written
from tests.unit.encoded import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    dicom_file,
    element,
    item,
    mark,
    text,
)

IMAGE = "1.2.826.0.1.3680043.8.498.77"
STUDY, SERIES = "1.2.826.0.1.3680043.8.498.78", "1.2.826.0.1.3680043.8.498.79"
CT = "1.2.840.10008.5.1.4.1.1.2"


def made(**attributes):
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def reference():
    return made(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=IMAGE)


def series():
    return made(SeriesInstanceUID=SERIES, ReferencedSOPSequence=[reference()])


def code(value="121112", meaning="Source of Measurement"):
    return made(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)


def key_object():
    ds = dataset(PixelData=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.59", Modality="KO")
    study = made(StudyInstanceUID=STUDY, ReferencedSeriesSequence=[series()])
    ds.CurrentRequestedProcedureEvidenceSequence = [study]
    note = made(RelationshipType="CONTAINS", ValueType="TEXT", TextValue="Mrs. Doe, urgent")
    image = made(RelationshipType="CONTAINS", ValueType="IMAGE", ReferencedSOPSequence=[reference()])
    ds.ConceptNameCodeSequence, ds.ContentSequence = [code("113000", "Of Interest")], [note, image]
    return ds, [
        "CurrentRequestedProcedureEvidenceSequence/0/ReferencedSeriesSequence/0/ReferencedSOPSequence/0",
        "ContentSequence/1/ReferencedSOPSequence/0",
    ]


def structure_set():
    ds = dataset(PixelData=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", Modality="RTSTRUCT")
    contours = made(SeriesInstanceUID=SERIES, ContourImageSequence=[reference()])
    study = made(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID=STUDY)
    study.RTReferencedSeriesSequence = [contours]
    ds.ReferencedFrameOfReferenceSequence = [
        made(FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.80", RTReferencedStudySequence=[study])
    ]
    ds.ROIContourSequence = [
        made(ContourSequence=[made(ContourImageSequence=[reference()], ContourData=[1.0, 2.0, 3.0])])
    ]
    return ds, [
        "ReferencedFrameOfReferenceSequence/0/RTReferencedStudySequence/0/RTReferencedSeriesSequence/0/ContourImageSequence/0",
        "ROIContourSequence/0/ContourSequence/0/ContourImageSequence/0",
    ]


def segmentation():
    ds = dataset(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG")
    ds.ReferencedSeriesSequence = [made(SeriesInstanceUID=SERIES, ReferencedInstanceSequence=[reference()])]
    ds.PerFrameFunctionalGroupsSequence = [made(DerivationImageSequence=[made(SourceImageSequence=[reference()])])]
    return ds, [
        "ReferencedSeriesSequence/0/ReferencedInstanceSequence/0",
        "PerFrameFunctionalGroupsSequence/0/DerivationImageSequence/0/SourceImageSequence/0",
    ]


def presentation_state():
    ds = dataset(PixelData=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1", Modality="PR")
    ds.ReferencedSeriesSequence = [made(SeriesInstanceUID=SERIES, ReferencedImageSequence=[reference()])]
    drawn = made(GraphicDimensions=2, NumberOfGraphicPoints=2, GraphicData=[1.0, 2.0, 3.0, 4.0], GraphicType="POLYLINE")
    note = made(UnformattedTextValue="Doe^Jane left", BoundingBoxTopLeftHandCorner=[1.0, 2.0])
    ds.GraphicAnnotationSequence = [
        made(GraphicLayer="L1", ReferencedImageSequence=[reference()], GraphicObjectSequence=[drawn],
             TextObjectSequence=[note])
    ]  # fmt: skip
    return ds, [
        "ReferencedSeriesSequence/0/ReferencedImageSequence/0",
        "GraphicAnnotationSequence/0/ReferencedImageSequence/0",
    ]


def at(ds, path):
    for step in path.split("/"):
        ds = ds[int(step)] if step.isdigit() else ds[step].value
    return ds


@pytest.mark.parametrize("make", [key_object, structure_set, segmentation, presentation_state])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_references_go_where_the_instances_went(make, syntax):
    ds, paths = make()
    found = read(deidentified(written(ds, syntax)))
    for path in paths:
        assert at(found, path).ReferencedSOPInstanceUID == KEY.uid(IMAGE)
        assert at(found, path).ReferencedSOPClassUID == CT
    image = read(deidentified(written(dataset(SOPInstanceUID=IMAGE, StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES))))
    assert image.SOPInstanceUID == KEY.uid(IMAGE)
    assert (image.StudyInstanceUID, image.SeriesInstanceUID) == (KEY.uid(STUDY), KEY.uid(SERIES))
    out = deidentified(written(ds))
    for uid in (IMAGE, STUDY, SERIES, ds.SOPInstanceUID):
        assert uid.encode() not in out
    assert b"Doe" not in out


def test_a_content_tree_keeps_its_shape_and_nothing_else():
    ds, _ = key_object()
    found = read(deidentified(written(ds)))
    note, image = found.ContentSequence
    assert (note.ValueType, note.TextValue, image.ValueType) == ("TEXT", "Anonymized", "IMAGE")
    measured = made(NumericValue="47.11", MeasurementUnitsCodeSequence=[code("mm", "millimeter")])
    number = made(
        ValueType="NUM", ConceptNameCodeSequence=[code()], MeasuredValueSequence=[measured],
        ContentSequence=[
            made(ValueType="PNAME", PersonName="Doe^John"), made(ValueType="CODE", ConceptCodeSequence=[code()]),
        ],
    )  # fmt: skip
    ds.ContentSequence = [number]
    found = read(deidentified(written(ds))).ContentSequence[0]
    assert found.ConceptNameCodeSequence[0].CodeMeaning == "Source of Measurement"
    assert found.MeasuredValueSequence[0].NumericValue == 0
    assert found.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    name, coded = found.ContentSequence
    assert (name.PersonName, coded.ConceptCodeSequence[0].CodeValue) == ("Anonymized", "Anonymized")
    found = read(deidentified(written(ds), Option.CLEAN_STRUCTURED_CONTENT)).ContentSequence[0]
    assert found.MeasuredValueSequence[0].NumericValue == pytest.approx(47.11)
    name, coded = found.ContentSequence
    assert (name.PersonName, coded.ConceptCodeSequence[0].CodeValue) == ("Anonymized", "121112")


def test_graphics_become_dummies_of_the_same_shape():
    ds, _ = presentation_state()
    found = read(deidentified(written(ds))).GraphicAnnotationSequence[0]
    assert found.GraphicObjectSequence[0].GraphicData == [0, 0, 0, 0]
    assert found.GraphicObjectSequence[0].NumberOfGraphicPoints == 2
    assert found.TextObjectSequence[0].UnformattedTextValue == "Anonymized"
    found = read(deidentified(written(ds), Option.CLEAN_GRAPHICS)).GraphicAnnotationSequence[0]
    assert found.GraphicObjectSequence[0].GraphicData == [1, 2, 3, 4]
    assert found.TextObjectSequence[0].UnformattedTextValue == "left"


def test_dates_of_a_patient_move_together():
    first = dataset(StudyDate="20240131", AcquisitionDateTime="20240131101500.5+0100", SeriesDate="20240301")
    first.RadiopharmaceuticalInformationSequence = [made(RadiopharmaceuticalStartDateTime="20240130")]
    second = dataset(StudyDate="20250131", PatientBirthDate="19700203")
    found, later = (read(deidentified(written(ds), Option.RETAIN_MODIFIED_DATES)) for ds in (first, second))
    days = KEY.days("P-1\0")
    assert -3652 <= days <= -1
    moved = date(2024, 1, 31) + timedelta(days=days)
    assert found.StudyDate == f"{moved:%Y%m%d}"
    assert found.AcquisitionDateTime == f"{moved:%Y%m%d}101500.5+0100"
    started = found.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime
    assert started == f"{moved - timedelta(days=1):%Y%m%d}"
    assert later.StudyDate == f"{date(2025, 1, 31) + timedelta(days=days):%Y%m%d}"
    assert (found.StudyTime, later.PatientBirthDate) == ("101530", "")  # of birth no option keeps the date
    wrong = read(deidentified(written(dataset()).replace(b"20240131", b"2024 Doe"), Option.RETAIN_MODIFIED_DATES))
    assert wrong.StudyDate == ""


def test_pseudonyms_are_the_same_in_every_process():
    """Known answers: another process, another version, the same key."""
    assert KEY.uid("1.2.3") == "2.25.119781621644772073278589065171025576880"
    assert (KEY.patient_id("P"), KEY.days("P")) == ("668B01DD8ACBD1BA", -85)
    said = "from tests.unit.edited import KEY; print(KEY.uid('1.2.3'), KEY.patient_id('P'), KEY.days('P'))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [KEY.uid("1.2.3"), KEY.patient_id("P"), str(KEY.days("P"))]
    other = Pseudonyms(b"another key of sixteen bytes or more")
    assert other.uid("1.2.3") != KEY.uid("1.2.3")
    assert other.patient_id("P") != KEY.patient_id("P")
    assert len(KEY.uid("1.2.3")) <= 64
    assert b"key" not in repr(KEY).encode()
    with pytest.raises(BadRequest):
        Pseudonyms(b"short")


def test_names_given_or_derived():
    source = written(dataset())
    derived = read(deidentified(source))
    assert derived.PatientID == KEY.patient_id("P-1\0")
    assert derived.PatientName == f"Anonymized^{derived.PatientID}"
    given = read(deidentified(source, patient_id="S-1", patient_name="Subject^One"))
    assert (given.PatientID, given.PatientName) == ("S-1", "Subject^One")
    paths = {parse_path("StudyDescription"): KEEP, parse_path("PatientID"): KEEP}
    kept = read(deidentified(source, paths=paths))
    assert (kept.StudyDescription, kept.PatientID) == ("Thorax nativ", "P-1")


def test_safe_private_attributes():
    ds = dataset()
    for creator, groups in SAFE.items():
        for group, elements in groups.items():
            block = ds.private_block(group, creator, create=True)
            for number in {*elements, 0x55}:
                block.add_new(
                    number,
                    "UI" if number == 9 else "LO",
                    "1.2.3.4.5" if number == 9 else "secret" if number == 0x55 else "safe",
                )
    ds.private_block(0x0043, "SOMEBODY", create=True).add_new(0x27, "SH", "secret")
    source = written(ds)
    found = read(deidentified(source, Option.RETAIN_SAFE_PRIVATE))
    assert b"secret" not in deidentified(source, Option.RETAIN_SAFE_PRIVATE)
    assert b"SOMEBODY" not in deidentified(source, Option.RETAIN_SAFE_PRIVATE)
    for creator, groups in SAFE.items():
        for group, elements in groups.items():
            block = found.private_block(group, creator)
            for number in elements:
                assert block[number].value == (KEY.uid("1.2.3.4.5") if number == 9 else "safe")
    assert not [each for each in read(deidentified(source)) if each.tag.is_private]
    kept = read(edited(source, deidentification(KEY, private=Private.KEEP)))
    assert kept.private_block(0x0043, "SOMEBODY")[0x27].value == "secret"


def hidden(content):
    yield "UN", element(0x00081110, "UN", item(content))
    yield "UN, undefined", element(0x00081110, "UN", item(content) + mark(0xE0DD), length=UNDEFINED)
    implicit = element(0x00100010, "PN", b"ZZCANARY", syntax=IMPLICIT)
    yield "UN, implicit", element(0x00081110, "UN", item(implicit))
    yield "private UN", text(0x00110010, "LO", "ACME") + element(0x00111001, "UN", item(content))
    yield "unknown public", element(0x00100099, "LO", b"ZZCANARY")
    yield "overlay", element(0x60023000, "OW", b"ZZCANARY") + text(0x60024000, "LT", "ZZCANARY")
    yield "curve", element(0x50023000, "OW", b"ZZCANARY")
    yield "padding", element(0xFFFCFFFC, "OB", b"ZZCANARY")
    yield "no sequence", element(0x00081110, "UN", b"ZZCANARY")
    yield "text in a date", element(0x00080020, "DA", b"ZZCANARY")
    yield "wrong VR", element(0x00100010, "OB", b"ZZCANARY")
    yield "value of a UID", element(0x00081155, "UI", b"1.2\\ZZCANARY")


@pytest.mark.parametrize(
    "place", [pytest.param(each, id=name) for name, each in hidden(text(0x00100010, "PN", "ZZCANARY"))]
)
@pytest.mark.parametrize(
    "options", [(), tuple(each for each in Option if each is not Option.RETAIN_FULL_DATES)], ids=["basic", "all"]
)
def test_nothing_hides(place, options):
    if options and b"\x08\x00\x55\x11" in place:
        options = ()  # UIDs that are retained are retained
    tag = int.from_bytes(place[:2], "little") << 16 | int.from_bytes(place[2:4], "little")
    with suppress(BadDicom):
        assert b"ZZCANARY" not in deidentified(dicom_file({tag: place}), *options)


def test_preamble_and_file_meta_say_nothing():
    source = bytearray(written(dataset()))
    source[:8] = b"ZZCANARY"
    meta = text(0x00020016, "AE", "ZZCANARY")
    at_ = source.index(bytes.fromhex("02001200"))
    tail = source[at_:]
    end = at_ + tail.index(bytes.fromhex("08000500"))
    source[end:end] = meta
    out = deidentified(bytes(source))
    assert b"ZZCANARY" not in out
    assert out[:128] == bytes(128)


def test_burned_in_annotation_is_reported():
    for value, said in (("YES", True), ("NO", False)):
        source = written(dataset(BurnedInAnnotation=value))
        edit = Edit(source, deidentification(KEY))
        assembled(source, edit)
        assert edit.report.burned_in is said


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("CT chest abdomen pelvis - 55F Dr. Smith", "CT chest abdomen pelvis Dr"),
        ("MRI brain w/o contrast", "MRI brain contrast"),
        ("T2 FLAIR ax 3.5mm", "T2 FLAIR ax 3.5mm"),
        ("Doe hand left 12.03.1999", "left"),
        ("call 555 123 4567", ""),
        ("Lumbar spine L5", "Lumbar spine L5"),
        ("jane.doe@hospital.org", ""),
        ("Thorax nativ", "Thorax nativ"),
    ],
)
def test_of_a_text_only_safe_words_are_left(before, after):
    subject = Subject({0x00100010: "Doe^Jane", 0x00080090: "Hand^Peter"}, b"", ("latin-1",), None)
    assert cleaner(subject)(before) == after


def test_the_standards_own_meanings_stay():
    clean = cleaner(Subject({}, b"", ("latin-1",), None))
    meanings = [meaning for codes in concepts["DCM"].values() for meaning, _ in codes.values()][:500]
    assert sum(clean(meaning) == meaning for meaning in meanings) > 400


def test_dciodvfy_finds_no_new_error(tmp_path):
    for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm", "test-SR.dcm", "liver_1frame.dcm"):
        data = Path(pydicom.data.get_testdata_file(name)).read_bytes()
        said = []
        for path, each in ((tmp_path / "before.dcm", data), (tmp_path / "after.dcm", deidentified(data))):
            path.write_bytes(each)
            done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
            # UIDs, the text and the number of an item are not what is compared.
            lines = re.sub(r"[0-9.]{7,}|<[^>]*>", "", done.stderr).splitlines()
            said.append({line for line in lines if line.startswith("Error")})
        assert not said[1] - said[0], name
