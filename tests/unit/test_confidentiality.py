"""The Basic Profile on attributes: what goes, what is replaced, what is refused."""

from io import BytesIO

import pydicom
import pytest
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicomweb.confidentiality import ACTIONS
from dicomweb.deidentify import Deidentified, Identifying, deidentify
from dicomweb.errors import BadDicom
from tests.files import JPEG_BASELINE, compressed, ct, dataset, encoded

KEY = bytes(range(32))
SECRET = "Zyxwvut"


def treated(file: bytes, key: bytes = KEY) -> bytes:
    result = deidentify(BytesIO(file), len(file), key)
    return result.head + file[result.start : result.end]


def read(file: bytes) -> Dataset:
    return pydicom.dcmread(BytesIO(file))


def test_identity_goes_and_pixels_stay() -> None:
    file = ct(
        PatientName=f"{SECRET}^A",
        PatientID=SECRET,
        InstitutionName=SECRET,
        ReferringPhysicianName=SECRET,
        StudyDescription=SECRET,
        DeviceSerialNumber=SECRET,
        PatientBirthDate="19700203",
    )
    result = read(treated(file))
    assert SECRET.encode() not in treated(file)
    assert result.PixelData == read(file).PixelData
    assert result.PatientName == ""
    assert result.PatientBirthDate == ""
    assert result.StudyDate == ""
    assert len(result.PatientID) == 16
    assert result.InstitutionName == "REMOVED"
    assert "DeviceSerialNumber" not in result or result.DeviceSerialNumber == "REMOVED"
    assert (result.Rows, result.Modality, result.KVP) == (4, "CT", 120)
    assert result.PatientIdentityRemoved == "YES"
    assert result.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID
    assert result.SOPInstanceUID != read(file).SOPInstanceUID


def test_the_same_stand_in_everywhere() -> None:
    study, referenced = generate_uid(), generate_uid()
    first, second = dataset(StudyInstanceUID=study), dataset(StudyInstanceUID=study, SOPInstanceUID=referenced)
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = first.SOPClassUID, referenced
    first.ReferencedImageSequence = [item]
    one, two = read(treated(encoded(first))), read(treated(encoded(second)))
    assert one.StudyInstanceUID == two.StudyInstanceUID != study
    assert one.PatientID == two.PatientID
    assert one.ReferencedImageSequence[0].ReferencedSOPInstanceUID == two.SOPInstanceUID
    assert one.SOPInstanceUID.startswith("2.25.")
    other = read(treated(encoded(first), b"another key"))
    assert other.StudyInstanceUID != one.StudyInstanceUID
    assert treated(encoded(first)) == treated(encoded(first))


def test_nested_private_unknown_and_what_follows_pixels() -> None:
    ds = dataset()
    item = Dataset()
    item.PatientName, item.CodeMeaning = SECRET, "kept"
    private = item.private_block(0x0011, "ACME", create=True)
    private.add_new(1, "LO", SECRET)
    ds.ProcedureCodeSequence = [item]
    ds.private_block(0x0011, "ACME", create=True).add_new(2, "UN", SECRET.encode())
    ds.add_new(0x00211234, "LO", SECRET)  # private, without its creator
    ds.add_new(0x00081235, "LO", SECRET)  # in no dictionary
    ds.add_new(0x60003000, "OW", SECRET.encode() + b"\0")
    ds.add_new(0x50003000, "OW", SECRET.encode() + b"\0")
    ds.add_new(0xFFFCFFFC, "OB", SECRET.encode() + b"\0")
    file = encoded(ds)
    file = SECRET.encode().ljust(128, b"\0") + file[128:]  # in the preamble, too
    found = treated(file)
    assert SECRET.encode() not in found
    assert read(found).ProcedureCodeSequence[0].CodeMeaning == "kept"


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"], ids=["implicit", "explicit", "big"]
)
def test_encodings(syntax: str) -> None:
    file = encoded(dataset(PatientName=SECRET), syntax)
    result = read(treated(file))
    assert result.file_meta.TransferSyntaxUID == syntax
    assert result.PixelData == read(file).PixelData
    assert SECRET.encode() not in treated(file)


def test_encapsulated() -> None:
    file = compressed([b"\xff\xd8one\xff\xd9\0", b"\xff\xd8two\xff\xd9\0"], JPEG_BASELINE, PatientName=SECRET)
    result = read(treated(file + b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0" + SECRET.encode() + b"\0"))
    assert result.PixelData == read(file).PixelData


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation"),
        ({"RecognizableVisualFeatures": "YES"}, "RecognizableVisualFeatures"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "SOP class"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, "SOP class"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "SOP class"),
    ],
)
def test_refused(attributes: dict[str, str], why: str) -> None:
    with pytest.raises(Identifying, match=why):
        treated(ct(**attributes))


def test_what_cannot_be_read() -> None:
    file = ct(PixelData=bytes(32))
    with pytest.raises(BadDicom):
        treated(file[:-10])
    with pytest.raises(BadDicom):
        treated(b"no DICOM" * 100)
    nested = b"".join(b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(3000))
    with pytest.raises(BadDicom):
        treated(ct(PixelData=None) + nested)


def test_result_type() -> None:
    file = ct(PixelData=None)
    assert deidentify(BytesIO(file), len(file), KEY) == Deidentified(
        treated(file), len(file), len(file), str(read(treated(file)).SOPInstanceUID)
    )


def test_table() -> None:
    """As many rows as table E.1-1 has, without the four that are ranges of tags; some of each action."""
    assert len(ACTIONS) == 617
    assert {ACTIONS[tag] for tag in (0x00100010, 0x00080020, 0x00080050)} == {"Z"}
    assert {ACTIONS[tag] for tag in (0x00104000, 0x00081030, 0x00100021 + 0x11)} == {"X"}
    assert {ACTIONS[tag] for tag in (0x0020000D, 0x00080018, 0x00081155)} == {"U"}
    assert {ACTIONS[tag] for tag in (0x00100020, 0x0040A123, 0x00080080)} == {"D"}
    assert {ACTIONS[tag] for tag in (0x00081140, 0x00082112)} == {"items"}
    assert all(dictionary_has_tag(tag) for tag in ACTIONS if tag >> 16 != 0x0000)
