"""The attributes of an instance whose pixels were transcoded (PS3.3 C.7.6.1.1.5, C.7.6.3, C.12.4; PS3.5 A.4)."""

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import dcmwrite, write_file_meta_info
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomweb.media import EXPLICIT_BE, IMPLICIT_LE
from dicomweb.meta import read_file_meta
from dicomweb.pixels.encode import DEFAULT_QUALITY, Quality
from dicomweb.pixels.image import ImagePixel
from dicomweb.pixels.syntaxes import SYNTAXES
from dicomweb.reencode import keep_unreadable, name_writer, swap_words

# Encapsulated pixel data begin with an item for the offset table, empty here: frames are sent as they are made.
ENCAPSULATED_HEAD: Final = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + struct.pack(
    "<HHI", 0xFFFE, 0xE000, 0
)
ENCAPSULATED_TAIL: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_EXTENDED_TABLES: Final = (0x7FE00001, 0x7FE00002, 0x7FE00003)


@dataclass(frozen=True, slots=True)
class Lossy:
    """What a lossy target adds. `ratio`: native to compressed size; `uid`: SOP Instance UID of the derived instance."""

    ratio: float
    uid: str


def derived_uid(sop: str, version: str, target: str, quality: Quality) -> str:
    """The SOP Instance UID of a lossy derivation: always the same for the same bytes, target and quality."""
    made_of = f"{sop}/{version}/{target}"
    if quality != DEFAULT_QUALITY:
        made_of += f"/{quality}"
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, made_of).int}"


def item_head(length: int) -> bytes:
    """The head of one fragment; `length` is even."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, length)


def read_head(meta: bytes, dataset: bytes, transfer_syntax: str) -> Dataset:
    """The elements before the pixel data, from the file meta information and the (inflated) bytes behind it."""
    implicit, little = transfer_syntax == IMPLICIT_LE, transfer_syntax != EXPLICIT_BE
    found = read_dataset(BytesIO(dataset), is_implicit_VR=implicit, is_little_endian=little)
    if implicit or not little:  # the head is written as explicit little endian
        keep_unreadable(found)
    if not little:
        swap_words(found)
    found.file_meta = FileMetaDataset(dcmread(BytesIO(meta), force=True).file_meta)
    return found


def transcoded_head(head: Dataset, target: str, form: ImagePixel, lossy: Lossy | None) -> bytes:
    """A Part 10 file up to its pixel data, for frames that have become `form`. `head` is changed."""
    head.PhotometricInterpretation = form.photometric
    if form.samples > 1:
        head.PlanarConfiguration = form.planar
    for tag in _EXTENDED_TABLES:
        if tag in head:
            del head[tag]
    if lossy is not None:
        _derive(head, SYNTAXES[target].method, lossy)
    # Written as what it is, without the name of an encoding that this library may not know.
    head.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = BytesIO()
    dcmwrite(out, head, implicit_vr=False, little_endian=True, enforce_file_format=True)
    data = out.getvalue()
    meta = read_file_meta(data).size
    return with_transfer_syntax(data[:meta], target) + data[meta:]


def with_transfer_syntax(meta: bytes, target: str) -> bytes:
    """The preamble and file meta information `meta`, naming another transfer syntax and us as who wrote the file."""
    found = FileMetaDataset(dcmread(BytesIO(meta), force=True).file_meta)
    found.TransferSyntaxUID = UID(target)
    name_writer(found)
    out = DicomBytesIO()
    write_file_meta_info(out, found)
    return meta[:132] + out.getvalue()


def _derive(head: Dataset, method: str, lossy: Lossy) -> None:
    """A lossy instance is another one, that names its source and says what was done (PS3.3 C.7.6.1.1.3, C.12.4.1)."""
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = head.SOPClassUID, head.SOPInstanceUID
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121320", "DCM"
    purpose.CodeMeaning = "Uncompressed predecessor"
    source.PurposeOfReferenceCodeSequence = DicomSequence([purpose])
    head.SourceImageSequence = DicomSequence([source])
    head.DerivationDescription = "Lossy compression"
    head.SOPInstanceUID = head.file_meta.MediaStorageSOPInstanceUID = UID(lossy.uid)
    kinds = _values(head.get("ImageType"))
    head.ImageType = ["DERIVED", *(kinds[1:] or ["PRIMARY"])]
    earlier = head.get("LossyImageCompression") == "01"
    head.LossyImageCompression = "01"
    ratios = _values(head.get("LossyImageCompressionRatio")) if earlier else []
    methods = _values(head.get("LossyImageCompressionMethod")) if earlier else []
    head.LossyImageCompressionRatio = [*ratios, f"{lossy.ratio:.4g}"]
    head.LossyImageCompressionMethod = [*methods, method]


def _values(value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [str(value)]
    return [str(each) for each in value]
