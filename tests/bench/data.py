"""Synthetic data for the benchmark: CT slices, small instances with full headers, and two multi-frame objects.

Deterministic. pydicom encodes what a series has in common once; each instance is a join of those element bytes with
the few that differ, in tag order, so that 50,000 instances take seconds. Nothing in it comes from a real patient.
"""

import datetime as dt
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from . import manifest

_KIND = {
    "ct": 11,
    "small": 12,
    "multiframe": 13,
    "large": 14,
    "transcode": 15,
    "deleted": 16,
    "new_ct": 17,
    "new_small": 18,
}
_FAMILIES = ("ALMEIDA", "BERGSTROEM", "CHAUDHRY", "DIMITROV", "ESPOSITO", "FERNANDEZ", "GUNDERSEN", "HORVATH")
_GIVEN = ("ADA", "BORIS", "CLARA", "DAVID", "ELENA", "FELIX", "GRETA", "HUGO", "IRIS", "JONAS")
_FIRST_DAY = dt.date(2019, 3, 1)
_DAYS = 2200
_LONG_FORM = frozenset({"OB", "OW", "UN", "SQ", "UT"})

Pixels = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each kind is made. The defaults are what the published figures were measured with."""

    ct_studies: int = 20
    ct_series: int = 2
    ct_instances: int = 100
    small_studies: int = 500
    small_series: int = 2
    small_instances: int = 50
    jpeg_frames: int = 200
    rgb_frames: int = 60


def uid(kind: str, study: int, series: int = 0, instance: int = 0) -> str:
    """A UID below 2.25 whose digits say where it belongs."""
    return f"2.25.{_KIND[kind]}{study:06d}{series:04d}{instance:06d}"


def generate(root: Path, sizes: Sizes = Sizes(), seed: int = 20) -> manifest.Manifest:
    """Write all kinds below `root` (2.5 GB by default) and the manifest; existing files are written again."""
    rng = np.random.default_rng(seed)
    slices = _slices(sizes.ct_instances, 512, rng)
    tiny = rng.integers(0, 4096, (sizes.small_instances, 8, 8), dtype=np.uint16)
    _grid(root, "ct", (sizes.ct_studies, sizes.ct_series), slices)
    _grid(root, "small", (sizes.small_studies, sizes.small_series), tiny)
    _multiframe(root, _slices(max(sizes.jpeg_frames, sizes.rgb_frames), 512, rng), sizes)
    made = manifest.scan(root)
    made.save()
    return made


def to_delete(root: Path, studies: int, instances: int) -> tuple[manifest.Study, ...]:
    """Write studies of two series with so many tiny instances together; whatever was in `root` is removed."""
    shutil.rmtree(root, ignore_errors=True)
    _grid(root, "deleted", (studies, 2), np.zeros((instances // 2, 8, 8), dtype=np.uint16))
    return manifest.grouped(root, sorted(root.glob("**/*.dcm")))


def to_store(root: Path, ct: int, small: int, sizes: Sizes = Sizes()) -> manifest.Manifest:
    """Write studies that no archive has yet, `ct` and `small` instances at least; what was in `root` is removed."""
    shutil.rmtree(root, ignore_errors=True)
    rng = np.random.default_rng(21)
    found = []
    for kind, count, slices in (
        ("new_ct", ct, _slices(sizes.ct_instances, 512, rng)),
        ("new_small", small, rng.integers(0, 4096, (sizes.small_instances, 8, 8), dtype=np.uint16)),
    ):
        _grid(root, kind, (-(-count // (2 * len(slices))), 2), slices)
        found.append(manifest.grouped(root, sorted((root / kind).glob("**/*.dcm"))))
    return manifest.Manifest(root, *found, multiframe=())


def large(path: Path, megabytes: int, number: int) -> str:
    """Write one uncompressed RGB multi-frame file of at least `megabytes` MiB; returns its SOP Instance UID."""
    frame = np.random.default_rng(number).integers(0, 256, (1024, 1024, 3), dtype=np.uint8).tobytes()
    count = -(-megabytes * 2**20 // len(frame))
    head = _colour(_header("large", number, 0, MultiFrameTrueColorSecondaryCaptureImageStorage), count, 1024, "RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = _Parts(head, ExplicitVRLittleEndian, uid("large", number, 1, 1))
    with path.open("wb") as out:
        out.write(parts.file({0x7FE00010: struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, len(frame) * count)}))
        for _ in range(count):
            out.write(frame)
    return parts.sop_uid


class _Parts:
    """The encoded elements of a dataset by tag, to be joined with what differs."""

    def __init__(self, ds: Dataset, transfer_syntax: UID, sop_uid: str) -> None:
        self.sop_uid = sop_uid
        self._sop_class = UID(ds.SOPClassUID)
        self._transfer_syntax = transfer_syntax
        self._elements: dict[int, bytes] = {}
        for element in ds:
            one = Dataset()
            one.add(element)
            buffer = DicomBytesIO()
            buffer.is_little_endian, buffer.is_implicit_VR = True, False
            write_dataset(buffer, one, parent_encoding="utf_8")
            self._elements[int(element.tag)] = buffer.getvalue()

    def file(self, different: dict[int, bytes], sop_uid: str | None = None) -> bytes:
        """A whole Part 10 file: `different` maps tags to encoded elements, which replace or join the common ones."""
        sop_uid = sop_uid or self.sop_uid
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = self._sop_class
        meta.MediaStorageSOPInstanceUID = UID(sop_uid)
        meta.TransferSyntaxUID = self._transfer_syntax
        meta.ImplementationClassUID = UID("2.25.9876543210")
        buffer = DicomBytesIO()
        write_file_meta_info(buffer, meta)
        all_elements = self._elements | {0x00080018: _element(0x00080018, "UI", sop_uid.encode())} | different
        body = b"".join(encoded for _, encoded in sorted(all_elements.items()))
        return b"".join((bytes(128), b"DICM", buffer.getvalue(), body))


def _element(tag: int, vr: str, value: bytes) -> bytes:
    """One explicit VR little endian element (PS3.5 7.1.2); `value` is padded to even length."""
    if len(value) % 2:
        value += b"\0" if vr in {"UI", "OB"} else b" "
    form = "<HH2sHI" if vr in _LONG_FORM else "<HH2sH"
    head = (tag >> 16, tag & 0xFFFF, vr.encode(), *((0,) if vr in _LONG_FORM else ()), len(value))
    return struct.pack(form, *head) + value


def _grid(root: Path, kind: str, shape: tuple[int, int], slices: Pixels) -> None:
    """`shape` = (studies, series each); every series gets all slices, rolled so that no two series are alike."""
    for study in range(shape[0]):
        folder = root / kind / f"{study:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        for series in range(shape[1]):
            parts = _Parts(
                _ct(kind, study, series, slices.shape[1:]), ExplicitVRLittleEndian, uid(kind, study, series + 1)
            )
            for number, pixels in enumerate(slices, 1):
                rolled = np.roll(pixels, 7 * study + 3 * series, axis=1).tobytes()
                sop = uid(kind, study, series + 1, number)
                (folder / f"{series}-{number:04d}.dcm").write_bytes(parts.file(_slice(number, rolled), sop))


def _slice(number: int, pixels: bytes) -> dict[int, bytes]:
    z = -1.25 * number
    return {
        0x00200013: _element(0x00200013, "IS", b"%d" % number),
        0x00200032: _element(0x00200032, "DS", b"-182.5\\-330.25\\%.2f" % z),
        0x00201041: _element(0x00201041, "DS", b"%.2f" % z),
        0x7FE00010: _element(0x7FE00010, "OW", pixels),
    }


def _multiframe(root: Path, slices: Pixels, sizes: Sizes) -> None:
    folder = root / "multiframe"
    folder.mkdir(parents=True, exist_ok=True)
    grey = (np.clip(slices.astype(np.int32) - 800, 0, 1023) >> 2).astype(np.uint8)
    colours = [np.ascontiguousarray(np.stack([image, np.roll(image, 5, 0), image // 2], axis=-1)) for image in grey]
    encoded = [
        simplejpeg.encode_jpeg(image, quality=85, colorspace="RGB", colorsubsampling="422")
        for image in colours[: sizes.jpeg_frames]
    ]
    ds = _colour(_header("multiframe", 1, 0, UltrasoundMultiFrameImageStorage), len(encoded), 512, "YBR_FULL_422")
    ds.LossyImageCompression, ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = "01", "11", "ISO_10918_1"
    stream = encapsulate(encoded, has_bot=True)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + stream + bytes.fromhex("feffdde000000000")
    parts = _Parts(ds, JPEGBaseline8Bit, uid("multiframe", 1, 1, 1))
    (folder / "jpeg.dcm").write_bytes(parts.file({0x7FE00010: pixels}))
    raw = b"".join(image.tobytes() for image in colours[: sizes.rgb_frames])
    ds = _colour(
        _header("multiframe", 2, 0, MultiFrameTrueColorSecondaryCaptureImageStorage), sizes.rgb_frames, 512, "RGB"
    )
    parts = _Parts(ds, ExplicitVRLittleEndian, uid("multiframe", 2, 1, 1))
    (folder / "rgb.dcm").write_bytes(parts.file({0x7FE00010: _element(0x7FE00010, "OB", raw)}))


def _slices(count: int, size: int, rng: np.random.Generator) -> Pixels:
    """A phantom: an elliptic body with a spine, two lungs and a vessel that wander, and noise as a scanner's."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    out = np.empty((count, size, size), np.uint16)
    for z in range(count):
        phase = 2 * np.pi * z / count
        image = np.full((size, size), 20.0)
        for centre_x, centre_y, width, height, value in (
            (0.0, 0.0, 0.88, 0.64, 1050.0),
            (-0.4, -0.05, 0.26 + 0.03 * np.sin(phase), 0.36, 180.0),
            (0.4, -0.05, 0.26 + 0.03 * np.cos(phase), 0.36, 180.0),
            (0.0, 0.42, 0.11, 0.12, 1700.0),
            (0.1 * np.sin(phase), 0.1, 0.06, 0.06, 1330.0),
        ):
            image[((x - centre_x) / width) ** 2 + ((y - centre_y) / height) ** 2 < 1] = value
        noise = rng.standard_normal((size, size), dtype=np.float32)
        noise += np.roll(noise, 1, 0) + np.roll(noise, 1, 1)
        out[z] = np.clip(image + 18 * noise, 0, 4095)
    return out


def _ct(kind: str, study: int, series: int, shape: tuple[int, ...]) -> Dataset:
    """The header of a CT series: about 130 attributes, sequences and two private blocks among them."""
    ds = _header(kind, study, series, CTImageStorage)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns = shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    for keyword, value in _CT_VALUES.items():
        setattr(ds, keyword, value)
    ds.ProtocolName = f"Chest-{series + 1}"
    ds.FrameOfReferenceUID = uid(kind, study, 900)
    ds.IrradiationEventUID = uid(kind, study, 901 + series)
    ds.CTDIPhantomTypeCodeSequence = Sequence([_code("113691", "DCM", "IEC Body Dosimetry Phantom")])
    ds.ReferencedImageSequence = Sequence(_references(kind, study))
    return ds


_CT_VALUES: dict[str, object] = {
    "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    "PixelSpacing": ["0.712890625", "0.712890625"],
    "SliceThickness": "1.25",
    "KVP": "110",
    "DataCollectionDiameter": "500",
    "ReconstructionDiameter": "365",
    "DistanceSourceToDetector": "1040",
    "DistanceSourceToPatient": "570",
    "GantryDetectorTilt": "0",
    "TableHeight": "148.5",
    "RotationDirection": "CW",
    "ExposureTime": "600",
    "XRayTubeCurrent": "195",
    "Exposure": "117",
    "FilterType": "BODY",
    "GeneratorPower": "42",
    "FocalSpots": "0.9",
    "ConvolutionKernel": "STD",
    "PatientPosition": "HFS",
    "SingleCollimationWidth": 0.625,
    "TotalCollimationWidth": 40.0,
    "TableSpeed": 39.375,
    "TableFeedPerRotation": 23.6,
    "SpiralPitchFactor": 0.984,
    "CTDIvol": 6.4,
    "ExposureModulationType": "XYZ",
    "EstimatedDoseSaving": 12.5,
    "AcquisitionType": "SPIRAL",
    "ScanOptions": "HELICAL",
    "RevolutionTime": 0.6,
    "WindowCenter": ["50", "-550"],
    "WindowWidth": ["350", "1500"],
    "WindowCenterWidthExplanation": ["SOFT", "LUNG"],
    "RescaleIntercept": "-1024",
    "RescaleSlope": "1",
    "RescaleType": "HU",
    "SmallestImagePixelValue": 0,
    "LargestImagePixelValue": 4095,
    "PositionReferenceIndicator": "SN",
    "DateOfLastCalibration": "20190228",
    "TimeOfLastCalibration": "063000",
    "ImageComments": "phantom, not a person",
    "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00",
}


def _header(kind: str, study: int, series: int, sop_class: UID) -> Dataset:
    """Patient, study, series and equipment attributes as a modality sends them."""
    day = (_FIRST_DAY + dt.timedelta(days=study * 53 % _DAYS)).strftime("%Y%m%d")
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = sop_class, "CT" if sop_class == CTImageStorage else "OT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(kind, study), uid(kind, study, series + 1)
    ds.SOPInstanceUID = uid(kind, study, series + 1, 1)
    ds.PatientID, ds.PatientName = f"{kind[0].upper()}{study // 2:07d}", f"{_FAMILIES[study % 8]}^{_GIVEN[study % 10]}"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = f"19{45 + study % 50}0614", "FM"[study % 2], "049Y"
    for name in ("InstanceCreationDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, name, day)
    for name in ("InstanceCreationTime", "StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, name, f"0{8 + study % 2}{study % 60:02d}15.250000")
    ds.AcquisitionDateTime, ds.PerformedProcedureStepStartDate = f"{day}090000.000000", day
    ds.AccessionNumber, ds.StudyID = f"{kind[0].upper()}A{study:08d}", str(study)
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = series + 1, 1, 1
    ds.StudyDescription = ("Chest", "Abdomen with contrast", "Head", "Angiography")[study % 4]
    ds.SeriesDescription, ds.StationName = f"Recon {series + 1}", f"SCAN{study % 7}"
    for keyword, value in _COMMON_VALUES.items():
        setattr(ds, keyword, value)
    ds.ProcedureCodeSequence = Sequence([_code("30746-2", "LN", "CT Chest")])
    ds.AnatomicRegionSequence = Sequence([_code("51185008", "SCT", "Thorax")])
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID = f"OLD{study:06d}", "FORMER", "TEXT"
    ds.OtherPatientIDsSequence = Sequence([other])
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = f"R{study:06d}", f"S{study:06d}"
    request.RequestedProcedureDescription = request.ScheduledProcedureStepDescription = "CT of the chest"
    request.ScheduledProtocolCodeSequence = Sequence([_code("P1", "99BENCH", "Chest protocol")])
    ds.RequestAttributesSequence = Sequence([request])
    for group, name, size in ((0x0019, "BENCH ACQUISITION", 256), (0x0029, "BENCH HEADER", 1020)):
        block = ds.private_block(group, name, create=True)
        block.add_new(0x01, "LO", f"series {series}")
        block.add_new(0x02, "DS", ["0.5", "1.5", "2.5"])
        block.add_new(0x03, "FD", 0.125)
        block.add_new(0x04, "US", 7)
        block.add_new(0x10, "OB", bytes(index % 251 for index in range(size)))
    return ds


_COMMON_VALUES: dict[str, object] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "Manufacturer": "Phantom Works",
    "ManufacturerModelName": "Bench 40",
    "DeviceSerialNumber": "B-0040",
    "SoftwareVersions": ["4.1", "4.1.7"],
    "InstitutionName": "Bench Hospital",
    "InstitutionAddress": "12 Measure Lane, Bench",
    "InstitutionalDepartmentName": "Radiology",
    "IssuerOfPatientID": "BENCH",
    "PatientSize": "1.71",
    "PatientWeight": "72",
    "PatientComments": "synthetic",
    "ReferringPhysicianName": "HALE^ROBIN^^DR",
    "PhysiciansOfRecord": "REED^ALEX",
    "PerformingPhysicianName": "STONE^KIM",
    "OperatorsName": "WARD^LEE",
    "RequestingPhysician": "HALE^ROBIN",
    "RequestingService": "PULMONOLOGY",
    "RequestedProcedureDescription": "CT of the chest",
    "CurrentPatientLocation": "4-EAST",
    "BodyPartExamined": "CHEST",
    "PerformedProcedureStepStartTime": "085900",
    "PerformedProcedureStepID": "PPS1",
    "PerformedProcedureStepDescription": "CT of the chest",
    "TimezoneOffsetFromUTC": "+0000",
}


def _colour(ds: Dataset, frames: int, size: int, photometric: str) -> Dataset:
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, photometric, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.NumberOfFrames, ds.FrameIncrementPointer, ds.FrameTime = frames, 0x00181063, "40"
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def _references(kind: str, study: int) -> Iterator[Dataset]:
    for number in (1, 2):
        ds = Dataset()
        ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = CTImageStorage, uid(kind, study, 950, number)
        ds.PurposeOfReferenceCodeSequence = Sequence([_code("121311", "DCM", "Localizer")])
        yield ds
