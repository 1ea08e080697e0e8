"""Edits of files as streams, compared with the same edits made with pydicom."""

import itertools
import subprocess
import sys
import tracemalloc
import warnings
from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from dicomweb.edit import Edit, Extent, Rules
from dicomweb.edit.parsing import parse_value
from dicomweb.edit.paths import parse_path
from dicomweb.edit.rules import MAP_UID, REMOVE, Action, Private, Rule
from dicomweb.errors import BadRequest
from dicomweb.meta import read_file_meta
from tests.files import dataset
from tests.unit.edited import edited, read, rules, written
from tests.unit.encoded import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    UNDEFINED,
    dicom_file,
    element,
    item,
    mark,
    sequence,
    text,
)

FOLDER = Path(pydicom.data.get_testdata_file("CT_small.dcm")).parent
# Broken on purpose, or no Part 10 files.
NOT_STORED = frozenset((
    "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "MR_truncated.dcm", "SC_rgb_jpeg.dcm",
    "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm", "no_meta.dcm", "rtplan_truncated.dcm", "rtstruct.dcm",
))  # fmt: skip
FILES = sorted(path for path in FOLDER.glob("*.dcm") if path.name not in NOT_STORED)


def json_of(ds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {tag: value for tag, value in ds.to_json_dict().items() if not tag.endswith("0000")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_without_rules_the_data_set_stays_byte_for_byte(path):
    data = path.read_bytes()
    meta = read_file_meta(data)
    out = edited(data, Rules({}))
    after = read_file_meta(out)
    assert after.transfer_syntax == meta.transfer_syntax
    assert not after.warnings
    if meta.deflated:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert dcmread(BytesIO(out)) == dcmread(path)
    else:
        assert out[after.size :] == data[meta.size :]


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "badVR.dcm"], ids=lambda path: path.name)
def test_what_pydicom_would_write(path):
    data = path.read_bytes()
    changes = {"PatientName": "Doe^Jane", "StudyDescription": "a study", "Manufacturer": "", "SeriesNumber": "7",
               "RescaleSlope": "1.5\\2", "PregnancyStatus": "3"}  # fmt: skip
    out = edited(data, rules(changes, remove=["PatientID", "ImageType", "ReferencedImageSequence"], clear=["Modality"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = dcmread(path), dcmread(BytesIO(out))
        for keyword in ("PatientID", "ImageType", "ReferencedImageSequence"):
            if keyword in expected:
                delattr(expected, keyword)
        if "Modality" in expected:
            expected.Modality = ""
        expected.PatientName, expected.StudyDescription, expected.Manufacturer = "Doe^Jane", "a study", ""
        expected.SeriesNumber, expected.RescaleSlope, expected.PregnancyStatus = 7, ["1.5", "2"], 3
    assert json_of(found) == json_of(expected)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_every_native_encoding(syntax):
    ds = dataset(
        ReferencedSeriesSequence=[Dataset(), Dataset()],
        GraphicData=[1.5, 2.5],
        PixelData=None,
        SmallestImagePixelValue=3,
    )
    for number, inner in enumerate(ds.ReferencedSeriesSequence):
        inner.SeriesInstanceUID = f"1.2.{number}"
        inner.ReferencedSOPSequence = [Dataset()]
        inner.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = f"1.3.{number}"
    ds["SmallestImagePixelValue"].VR = "US"
    asked = rules(
        {
            "ReferencedSeriesSequence[0].SeriesInstanceUID": "1.2.3.4.5",
            "ReferencedSeriesSequence[*].ReferencedSOPSequence[0].ReferencedSOPInstanceUID": "1.9",
            "ReferencedSeriesSequence[1].Modality": "MR",
            "SmallestImagePixelValue": "513", "Rows": "258", "GraphicData": "0.25\\-4",
            "RequestAttributesSequence": [{"RequestedProcedureID": "R", "ScheduledProtocolCodeSequence": [{}]}],
        },
        remove=["ReferencedSeriesSequence[1].SeriesInstanceUID"],
    )  # fmt: skip
    found = read(edited(written(ds, syntax), asked))
    first, second = found.ReferencedSeriesSequence
    assert (first.SeriesInstanceUID, "Modality" in first) == ("1.2.3.4.5", False)
    assert ("SeriesInstanceUID" in second, second.Modality) == (False, "MR")
    assert [each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for each in (first, second)] == ["1.9", "1.9"]
    assert (found.SmallestImagePixelValue, found.Rows, found.GraphicData) == (513, 258, [0.25, -4])
    assert found.RequestAttributesSequence[0].RequestedProcedureID == "R"
    assert len(found.RequestAttributesSequence[0].ScheduledProtocolCodeSequence) == 1
    assert found.PatientName == ds.PatientName


TAGS = (0x00081030, 0x0008103E, 0x00100010, 0x00104000, 0x00181030, 0x00204000)
SEQUENCES = (0x00081115, 0x00081199, 0x00400275, 0x0040A730)
LEAVES = st.dictionaries(st.sampled_from(TAGS), st.text("abc xyz", max_size=9), max_size=5)
TREES = st.recursive(
    st.tuples(LEAVES, st.just({})),
    lambda inner: st.tuples(
        LEAVES, st.dictionaries(st.sampled_from(SEQUENCES), st.lists(inner, max_size=3), max_size=2)
    ),
    max_leaves=12,
)
PATHS = st.tuples(
    st.builds(tuple, st.lists(st.tuples(st.sampled_from(SEQUENCES), st.sampled_from(["*", "0", "1"])), max_size=3)),
    st.sampled_from(TAGS),
)


def encoded(tree, draw):
    """The elements of a tree by tag, their lengths drawn."""
    leaves, inner = tree
    parts = {tag: text(tag, "LO", value) for tag, value in leaves.items()}
    for tag, items in inner.items():
        contents = [joined(encoded(each, draw)) for each in items]
        parts[tag] = sequence(tag, contents, undefined=draw(), undefined_items=draw())
    return parts


def joined(parts):
    return b"".join(parts[tag] for tag in sorted(parts))


def by_pydicom(ds, steps, tag, value):
    if not steps:
        if value is None:
            ds.pop(tag, None)
        else:
            ds.add_new(tag, "PN" if tag == 0x00100010 else "LO" if tag in TAGS[:3] or tag == TAGS[4] else "LT", value)
        return
    (name, index), *rest = steps
    for number, inner in enumerate(ds[name].value if name in ds else ()):
        if index in ("*", str(number)):
            by_pydicom(inner, rest, tag, value)


@settings(max_examples=100, deadline=None, phases=(Phase.explicit, Phase.generate, Phase.shrink))
@given(
    TREES,
    st.dictionaries(PATHS, st.one_of(st.none(), st.text("qrs", min_size=1, max_size=8)), max_size=4),
    st.lists(st.booleans(), min_size=1, max_size=9),
)
def test_any_tree_any_paths(tree, asked, lengths):
    """Lengths defined and undefined in every mixture; what pydicom makes of the same edits."""
    drawn = itertools.cycle(lengths)
    source = dicom_file(encoded(tree, lambda: next(drawn)))
    found = {}
    for (steps, tag), value in asked.items():
        path = parse_path(".".join([f"{name:08X}[{index}]" for name, index in steps] + [f"{tag:08X}"]))
        found[path] = REMOVE if value is None else Rule(Action.REPLACE, parse_value(tag, value))
    expected = read(source)
    # An index goes before the wildcard, the innermost first.
    for (steps, tag), value in sorted(
        asked.items(), key=lambda entry: [index != "*" for _, index in reversed(entry[0][0])]
    ):
        by_pydicom(expected, list(steps), tag, value)
    assert json_of(read(edited(source, Rules(found)))) == json_of(expected)


def test_an_index_goes_before_the_wildcard():
    inner = [Dataset(), Dataset()]
    ds = dataset(ReferencedSeriesSequence=inner)
    asked = {"ReferencedSeriesSequence[*].Modality": "MR", "ReferencedSeriesSequence[1].Modality": "CT"}
    found = read(edited(written(ds), rules(asked)))
    assert [each.Modality for each in found.ReferencedSeriesSequence] == ["MR", "CT"]


def test_private_attributes_and_file_meta():
    ds = dataset()
    ds.private_block(0x0009, "SOMEBODY", create=True).add_new(1, "LO", "kept")
    inner = Dataset()
    inner.private_block(0x0011, "SOMEBODY", create=True).add_new(1, "LO", "nested")
    ds.ReferencedSeriesSequence = [inner]
    ds.file_meta = None
    source = written(ds)
    assert 0x00091001 in read(edited(source, rules({"PatientID": "x"})))
    found = read(edited(source, Rules({}, private=Private.REMOVE)))
    assert 0x00091001 not in found
    assert 0x00090010 not in found
    assert len(found.ReferencedSeriesSequence[0]) == 0
    mapped = Rules({parse_path("SOPInstanceUID"): MAP_UID}, uid=lambda uid: "2.25." + uid[-5:])
    found = read(edited(source, mapped))
    assert found.SOPInstanceUID == found.file_meta.MediaStorageSOPInstanceUID == "2.25." + ds.SOPInstanceUID[-5:]
    assert found.file_meta.ImplementationVersionName.startswith("ANOR")


def test_new_text_in_the_character_set_of_the_file():
    latin = dataset(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Änne")
    found = read(edited(written(latin), rules({"StudyDescription": "Schädel"})))
    assert (found.SpecificCharacterSet, found.StudyDescription, found.PatientName) == (
        "ISO_IR 100", "Schädel", "Müller^Änne",
    )  # fmt: skip
    inner = Dataset()
    inner.SpecificCharacterSet, inner.PatientName = "ISO_IR 144", "Люкceмбypг"
    latin.ReferencedSeriesSequence = [inner]
    found = read(
        edited(written(latin), rules({"StudyDescription": "頭部", "ReferencedSeriesSequence[0].PatientID": "ж"}))
    )
    # No character of Latin-1: all text goes over to UTF-8, also that of items with a character set of their own.
    assert (found.SpecificCharacterSet, found.StudyDescription, found.PatientName) == (
        "ISO_IR 192", "頭部", "Müller^Änne",
    )  # fmt: skip
    assert "SpecificCharacterSet" not in found.ReferencedSeriesSequence[0]
    nested = edited(written(latin), rules({"StudyDescription": "頭部"}))
    assert "Люкceмбypг".encode() in nested
    plain = dataset(SpecificCharacterSet=None, PatientName="DOE^JOHN")
    found = read(edited(written(plain), rules({"PatientName": "Müller"})))
    assert (found.SpecificCharacterSet, found.PatientName) == ("ISO_IR 192", "Müller")
    for term, name in (("ISO_IR 192", "Müller^Änne"), ("ISO_IR 100", "Müller^Änne")):
        found = read(edited(written(latin), rules({"SpecificCharacterSet": term}, remove=["ReferencedSeriesSequence"])))
        assert (found.SpecificCharacterSet, found.PatientName) == (term, name)


def test_text_that_would_be_lost_is_refused():
    broken = dataset(SpecificCharacterSet="ISO_IR 192", PatientName="DOE")
    data = written(broken).replace(b"Thorax nativ", b"Thorax \xff\xfe\xfd..")
    with pytest.raises(BadRequest, match="StudyDescription: its text cannot be converted"):
        edited(data, rules({"SpecificCharacterSet": "ISO_IR 100"}))
    with pytest.raises(BadRequest, match="PatientName: its text cannot be converted"):
        edited(written(dataset()), rules({"SpecificCharacterSet": ""}))
    with pytest.raises(BadRequest, match="SpecificCharacterSet"):
        edited(written(dataset()), rules({"SpecificCharacterSet": "ISO 2022 IR 87"}))


def test_values_of_every_kind():
    model = {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]}
    code = {"00080100": {"vr": "SH", "Value": ["T-1"]}, "00080104": {"vr": "LO", "Value": ["x\\y"]}}
    asked = {
        "PatientName": model, "ProcedureCodeSequence": {"vr": "SQ", "Value": [code, {}]},
        "PatientWeight": 71.5, "ImageType": ["DERIVED", "SECONDARY"], "ICCProfile": "data:application/x;base64,AAEC",
        "FrameIncrementPointer": "00540080", "00091001": "raw", "DoubleFloatRealWorldValueFirstValueMapped": "1.5",
        "EncapsulatedDocument": {"vr": "OB", "InlineBinary": "AAECAw=="}, "ImageComments": "a\\b",
        "PatientComments": None,
    }  # fmt: skip
    found = read(edited(written(dataset()), rules(asked)))
    assert found.PatientName == "Yamada^Tarou=山田^太郎"
    assert [len(each) for each in found.ProcedureCodeSequence] == [2, 0]
    assert (found.PatientWeight, found.ImageType) == (71.5, ["DERIVED", "SECONDARY"])
    assert (found.ICCProfile, found.FrameIncrementPointer) == (b"\0\1\2\0", 0x00540080)
    assert (found.ImageComments, found.PatientComments) == ("a\\b", "")
    assert found.EncapsulatedDocument == b"\0\1\2\3"
    assert found[0x00091001].value == b"raw\0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Rows", "many"), ("Rows", "70000"), ("PatientName", {"x": 1}), ("PatientName", "a\0b"),
        ("StudyInstanceUID", "1..2"),
        ("ICCProfile", "text"), ("ICCProfile", "data:;base64,?"), ("ProcedureCodeSequence", "text"), ("Rows", True),
        ("PatientName", {"vr": "ZZ"}), ("PatientName", {"vr": "US", "Value": [1]}), ("PatientName", "x" * 70000),
        ("ProcedureCodeSequence", [{"CodeValue": "1", "00080100": "2"}]), ("ImageType", "ä"),
    ],
)  # fmt: skip
def test_values_that_none_can_be_are_refused(name, value):
    with pytest.raises(BadRequest) as refused:
        edited(written(dataset()), rules({name: value}))
    assert refused.value.attribute in (name, "CodeValue")


@pytest.mark.parametrize(
    "path",
    [
        "", "Nothing", "0010", "FFFE,E000", "0002,0010", "00100000", "A[0].B", "PatientName[0]", "a..b",
        "ReferencedSeriesSequence.Modality", "ReferencedSeriesSequence[-1].Modality", "[0].Modality",
    ],
)  # fmt: skip
def test_paths_that_are_none(path):
    with pytest.raises(BadRequest):
        parse_path(path)


def test_one_attribute_has_many_names():
    assert len({parse_path(name) for name in ("PatientName", "0010,0010", "0010-0010", "(0010,0010)", "00100010")}) == 1


# -- size


def test_pixel_data_is_handed_out_as_a_range():
    ds = dataset(Rows=600, Columns=600, PixelData=bytes(720000))
    source = written(ds)
    parts = list(Edit(source, rules({"PatientName": "x"}, remove=["PatientID"])))
    assert [type(part) for part in parts] == [bytes, Extent]
    assert parts[1].length >= 720000
    assert len(parts[0]) < 3000


SPARSE = """
import mmap, resource, sys
from dicomweb.edit import Edit, Extent
from tests.unit.edited import rules
from dicomweb.deidentify import *
asked = rules({"PatientName": "Nobody"}, remove=["StudyDescription"])
for each in (asked, deidentification(Pseudonyms(bytes(16)))):
    with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = sum(part.length if isinstance(part, Extent) else len(part) for part in Edit(source, each))
        print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("encapsulated", [False, True])
def test_three_gigabytes_within_64_mib(tmp_path, encapsulated):
    path = tmp_path / "large.dcm"
    head = written(dataset(PixelData=None), JPEG if encapsulated else EXPLICIT)
    with path.open("wb") as file:
        file.write(head)
        if encapsulated:
            file.write(element(0x7FE00010, "OB", b"", length=UNDEFINED) + mark(0xE000))
            for _ in range(300):
                file.write(mark(0xE000, 10 << 20))
                file.seek(10 << 20, 1)
            file.write(mark(0xE0DD))
        else:
            file.write(element(0x7FE00010, "OW", b"", length=3 << 30))
            file.truncate(file.tell() + (3 << 30))
    done = subprocess.run([sys.executable, "-c", SPARSE, path], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        size, grown = map(int, line.split())
        assert size > 3_000_000_000
        assert grown < 64 * 1024  # KiB


def test_ten_thousand_changes_wait_for_nobody():
    """Items of a sequence of defined length that all change: it ends by a delimiter then."""
    reference = text(0x00081155, "UI", "1.2.3.4")
    items = item(reference) * 10_000
    source = dicom_file({0x00081140: element(0x00081140, "SQ", items)})
    asked = Rules(
        {parse_path("ReferencedImageSequence[*].ReferencedSOPInstanceUID"): MAP_UID}, uid=lambda uid: uid + ".55"
    )
    tracemalloc.start()
    size = sum(len(part) for part in Edit(source, asked))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > len(source) + 10_000 * 2
    assert peak < 4 << 20
    found = read(edited(source, asked))
    assert len(found.ReferencedImageSequence) == 10_000
    assert {each.ReferencedSOPInstanceUID for each in found.ReferencedImageSequence} == {"1.2.3.4.55"}
    # A few changes leave it as it was written.
    short = dicom_file({0x00081140: element(0x00081140, "SQ", item(reference) * 3)})
    assert b"\x08\x00\x40\x11SQ\0\0" + (3 * 26).to_bytes(4, "little") in edited(short, asked)


# -- other readers


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_dcmtk_reads_it(tmp_path, syntax):
    ds = dataset(ReferencedSeriesSequence=[Dataset()])
    ds.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2"
    path = tmp_path / "out.dcm"
    asked = rules({"ReferencedSeriesSequence[0].SeriesInstanceUID": "1.2.3.4", "PatientName": "Jürgen^Žluťoučký"})
    path.write_bytes(edited(written(ds, syntax), asked))
    done = subprocess.run(["dcmdump", "+W", tmp_path, path], capture_output=True, text=True, check=True)
    assert "[1.2.3.4]" in done.stdout
    assert not done.stderr
