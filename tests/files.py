"""Small, valid DICOM files for tests, made by pydicom."""

import random
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_STAND_IN = "1.2.840.10008.1.2.4.201"


def new_uid() -> str:
    """A UID that no other test uses."""
    return str(generate_uid())


def uid_like(uid: str) -> str:
    """A UID that no other test uses, as long as `uid`: one may take the other's place in a file."""
    return "2.25." + "".join(random.choices("123456789", k=len(uid) - 5))


def dataset(**attributes: Any) -> Dataset:
    """A CT image of 4 x 4 pixels; keywords replace or add attributes, None removes one."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = new_uid()
    ds.StudyDate, ds.StudyTime = "20240131", "101530"
    ds.AccessionNumber = "A-1"
    ds.Modality = "CT"
    ds.StudyDescription = "Thorax nativ"
    ds.SeriesDescription = "Axial"
    ds.ReferringPhysicianName = "Referrer^Ruth"
    ds.PatientName, ds.PatientID = "Müller^Änne", "P-1"
    ds.PatientBirthDate, ds.PatientSex = "19700203", "F"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = new_uid(), new_uid()
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "S1", 1, 1
    ds.KVP = "120"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = 4
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.arange(16, dtype="<u2").tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A Part 10 file. Pixel data must be in the byte order of the transfer syntax."""
    ds.file_meta = FileMetaDataset()
    # pydicom does not know the youngest transfer syntaxes: the file is written under another name of that length.
    known = UID(transfer_syntax).is_transfer_syntax
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax if known else _STAND_IN)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    if "PixelData" in ds:
        compressed = ds.file_meta.TransferSyntaxUID.is_compressed and not ds.file_meta.TransferSyntaxUID.is_deflated
        ds["PixelData"].VR = "OB" if compressed or ds.BitsAllocated == 8 else "OW"
    out = BytesIO()
    dcmwrite(
        out,
        ds,
        implicit_vr=transfer_syntax == ImplicitVRLittleEndian,
        little_endian=transfer_syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    data = out.getvalue()
    return data if known else data.replace(_STAND_IN.encode(), transfer_syntax.encode(), 1)


def ct(**attributes: Any) -> bytes:
    """The file of `dataset`, Explicit VR Little Endian."""
    return encoded(dataset(**attributes))


def compressed(
    frames: list[bytes], transfer_syntax: str = JPEG_BASELINE, *, offset_table: bool = True, **attributes: Any
) -> bytes:
    """A file whose frames are the given byte strings, encapsulated one fragment a frame."""
    ds = dataset(**{"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "NumberOfFrames": len(frames)} | attributes)
    ds.PixelData = encapsulate(frames, has_bot=offset_table)
    return encoded(ds, transfer_syntax)


def file_set(path: Path) -> FileSet:
    """What pydicom reads of a DICOMDIR; its folder for changes, which it makes at once, goes."""
    found = FileSet(path)
    found._stage["t"].cleanup()
    return found
